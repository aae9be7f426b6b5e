//! `umbel task`, `queue`, `tenant`, `routes` and `dead`: their verbs and flags.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use umbel_client::{ControlPatch, RouteKind};
use umbel_model::{DigestPrefix, JobId, QueueName, TaskName, TenantId};

use super::{OrNone, PageFlags, choice, number, rate, size};

#[derive(Debug, Subcommand)]
pub enum TaskVerb {
    /// List the tasks of this tenant
    #[command(visible_alias = "ls")]
    List(PageFlags),
    /// Show a task: parameters, policy with the layer of each value, limits, deploys
    Show { name: TaskName },
    /// Point a task at an uploaded module
    Deploy {
        name: TaskName,
        /// Digest of the module, or the first 8 or more of its hex digits
        digest: DigestPrefix,
    },
    /// Point this one task at its module before the last deploy; `umbel module rollback` moves all tasks of a module
    Rollback { name: TaskName },
    /// Delete a task: its jobs run to their end, new ones are refused
    #[command(visible_alias = "rm")]
    Delete { name: TaskName },
    /// Override fields of the task's policy on the server; `null` removes an override
    #[command(visible_alias = "policy")]
    Set {
        name: TaskName,
        /// Fields of the policy, such as max_retries=5 queue=slow fuel=null
        #[arg(required = true, value_name = "FIELD=VALUE")]
        fields: Vec<String>,
    },
    /// Pause a task: its queued jobs wait, running jobs continue
    Pause { name: TaskName },
    /// Resume a task
    Resume { name: TaskName },
    /// Limit the jobs of a task on all workers together, including queued jobs
    Limit {
        name: TaskName,
        #[command(flatten)]
        limits: LimitFlags,
    },
}

/// Limits of a queue, a task or a tenant at run time. A limit that is not given stays as it is.
#[derive(Debug, Args)]
pub struct LimitFlags {
    /// Rate of starts, such as 100/m; or none
    #[arg(long, visible_alias = "rate-limit", value_parser = rate, value_name = "RATE")]
    pub rate: Option<OrNone<String>>,
    /// Starts at once after a pause, at that rate; or none
    #[arg(long, visible_alias = "rate-burst", value_parser = number, value_name = "N")]
    pub burst: Option<OrNone<u32>>,
    /// Jobs that run at once; or none
    #[arg(long, value_parser = number, value_name = "N")]
    pub concurrency: Option<OrNone<u32>>,
    /// Remove all these limits
    #[arg(long, conflicts_with_all = ["rate", "burst", "concurrency"])]
    pub none: bool,
}

impl LimitFlags {
    pub fn patch(&self) -> ControlPatch {
        if self.none {
            return ControlPatch::default().unlimited();
        }
        ControlPatch {
            rate_limit: self.rate.clone().map(|rate| rate.0),
            rate_burst: self.burst.as_ref().map(|burst| burst.0),
            concurrency: self.concurrency.as_ref().map(|jobs| jobs.0),
            ..ControlPatch::default()
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum QueueVerb {
    /// List queues with their numbers of jobs and their limits
    #[command(visible_alias = "ls")]
    List,
    /// Pause a queue: running jobs continue
    Pause { name: QueueName },
    /// Resume a queue
    Resume { name: QueueName },
    /// Limit the jobs of a queue on all workers together
    Set {
        name: QueueName,
        #[command(flatten)]
        limits: LimitFlags,
        /// Run its jobs on one worker at a time; =false: on any workers
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
        exclusive: Option<bool>,
    },
    /// Cancel all waiting jobs of a queue
    Purge {
        name: QueueName,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Delete an empty queue; one that nobody uses goes by itself after a day
    #[command(visible_alias = "rm")]
    Delete { name: QueueName },
}

/// Whose control: of this tenant, or as an operator of any tenant.
#[derive(Debug, Args)]
pub struct TenantScope {
    /// As an operator: the operator's control of this tenant, which it cannot lift
    #[arg(long, global = true, value_name = "NAME")]
    pub tenant: Option<TenantId>,
    /// As an operator: only of this queue of the tenant
    #[arg(long, global = true, requires = "tenant", value_name = "NAME")]
    pub queue: Option<QueueName>,
    /// As an operator: only of this task of the tenant
    #[arg(long, global = true, requires = "tenant", conflicts_with = "queue", value_name = "NAME")]
    pub task: Option<TaskName>,
}

#[derive(Debug, Args)]
pub struct TenantCommand {
    #[command(subcommand)]
    pub verb: TenantVerb,
    #[command(flatten)]
    pub scope: TenantScope,
}

#[derive(Debug, Subcommand)]
pub enum TenantVerb {
    /// Show the controls of this tenant
    Show,
    /// Pause all jobs: running jobs continue
    Pause,
    /// Resume all jobs
    Resume,
    /// Limit all jobs on all workers together
    Limit(LimitFlags),
    /// Show what the tenant's modules may reach at most, and change it; as an operator with --tenant, its bounds
    Grants {
        #[command(subcommand)]
        verb: Option<GrantsVerb>,
    },
    /// Show the bytes that the tenant has stored and may store; as an operator with --tenant, change how many it may
    Storage(StorageFlags),
}

#[derive(Debug, Subcommand)]
pub enum GrantsVerb {
    /// Replace the list: modules reach nothing beyond it; needs a token with the right to grant
    Set {
        /// Such as 'http https://api.example.com/' 'kv *' 'secret api_key'
        #[arg(required_unless_present = "nothing", value_name = "PERMISSION")]
        permissions: Vec<String>,
        /// An empty list: modules reach nothing
        #[arg(long, conflicts_with = "permissions")]
        nothing: bool,
    },
    /// Remove the list: modules reach what they are approved for, within the operator's bounds
    Clear,
}

/// Changes of what a tenant may store.
#[derive(Debug, Args)]
pub struct StorageFlags {
    /// Bytes of jobs and workflows, such as 2GiB; or default, for what the server lets each tenant
    #[arg(long, value_parser = size_or_default, value_name = "SIZE")]
    pub max_job_bytes: Option<OrNone<u64>>,
    /// Bytes of modules and documents; or default
    #[arg(long, value_parser = size_or_default, value_name = "SIZE")]
    pub max_document_bytes: Option<OrNone<u64>>,
    /// Bytes of key-value entries; or default
    #[arg(long, value_parser = size_or_default, value_name = "SIZE")]
    pub max_kv_bytes: Option<OrNone<u64>>,
    /// Bytes of blobs; or default
    #[arg(long, value_parser = size_or_default, value_name = "SIZE")]
    pub max_blob_bytes: Option<OrNone<u64>>,
}

fn size_or_default(text: &str) -> Result<OrNone<u64>, String> {
    if text == "default" { Ok(OrNone(None)) } else { size(text).map(|bytes| OrNone(Some(bytes))) }
}

#[derive(Debug, Subcommand)]
pub enum RoutesVerb {
    /// List the routes in the order in which they are tried
    #[command(visible_alias = "ls")]
    List,
    /// Replace all routes by those of a file: {"routes": [{"match": "orders.*", "kind": "glob", "queue": "orders"}]}
    Set {
        /// The file; `-` reads stdin
        file: PathBuf,
    },
    /// Add a route after the others
    Add {
        /// A task, a pattern with `*`, or a regular expression that begins with ^
        #[arg(value_name = "MATCH")]
        pattern: String,
        queue: QueueName,
        /// Kind of MATCH, if its text does not show it
        #[arg(long, value_parser = choice::<RouteKind>(["name", "glob", "regex"]))]
        kind: Option<RouteKind>,
        /// Add it before the others
        #[arg(long)]
        first: bool,
    },
    /// Remove the routes with this MATCH
    Remove {
        #[arg(value_name = "MATCH")]
        pattern: String,
    },
}

/// Kind of a pattern by its text.
pub fn route_kind(pattern: &str) -> RouteKind {
    match pattern {
        _ if pattern.starts_with('^') => RouteKind::Regex,
        _ if pattern.contains('*') => RouteKind::Glob,
        _ => RouteKind::Name,
    }
}

#[derive(Debug, Subcommand)]
pub enum DeadVerb {
    /// List the dead set, newest first
    #[command(visible_alias = "ls")]
    List(PageFlags),
    /// Run dead jobs again, as new jobs
    Redrive(RedriveOptions),
}

#[derive(Debug, Args)]
pub struct RedriveOptions {
    #[arg(required_unless_present = "all")]
    pub ids: Vec<JobId>,
    /// All jobs of the dead set
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
    /// Use the module that the task points at now instead of the job's own
    #[arg(long)]
    pub current: bool,
    /// Fields that replace those of the job's policy, as JSON, such as '{"max_retries": 9}'
    #[arg(long, value_name = "JSON")]
    pub policy: Option<String>,
    /// Do not ask for confirmation
    #[arg(long)]
    pub yes: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(args: &[&str]) -> Result<Command, clap::Error> {
        Ok(Cli::try_parse_from([&["umbel"], args].concat())?.command)
    }

    #[test]
    fn limits_are_set_one_by_one_or_taken_away_together() {
        let limits = |args: &[&str]| {
            let Command::Tenant(TenantCommand { verb: TenantVerb::Limit(limits), .. }) =
                parse(&[&["tenant", "limit"], args].concat())?
            else {
                panic!()
            };
            Ok::<_, clap::Error>(limits.patch())
        };
        let set = limits(&["--rate", "100/m", "--burst", "5"]).unwrap();
        assert_eq!(set, ControlPatch::default().rate("100/m").burst(5));
        // As the API calls them.
        assert!(limits(&["--rate-limit", "100/m", "--rate-burst", "5"]).is_ok());
        let cleared = limits(&["--rate", "none", "--concurrency", "4"]).unwrap();
        assert_eq!((cleared.rate_limit, cleared.concurrency), (Some(None), Some(Some(4))));
        assert_eq!(limits(&["--none"]).unwrap(), ControlPatch::default().unlimited());
        assert!(limits(&["--none", "--burst", "1"]).is_err());
        assert!(limits(&["--rate", "5/d"]).unwrap_err().to_string().contains("/s, /m or /h"));
    }

    #[test]
    fn a_queue_is_exclusive_or_not_or_left_as_it_is() {
        let exclusive = |args: &[&str]| match parse(&[&["queue", "set", "q"], args].concat()).unwrap() {
            Command::Queue(QueueVerb::Set { exclusive, .. }) => exclusive,
            _ => panic!(),
        };
        assert_eq!(exclusive(&["--exclusive"]), Some(true));
        assert_eq!(exclusive(&["--exclusive=false"]), Some(false));
        assert_eq!(exclusive(&["--rate", "1/s"]), None);
    }

    #[test]
    fn a_route_is_what_its_pattern_looks_like() {
        let kinds = ["orders", "orders.*", "^orders"].map(route_kind);
        assert_eq!(kinds, [RouteKind::Name, RouteKind::Glob, RouteKind::Regex]);
    }
}
