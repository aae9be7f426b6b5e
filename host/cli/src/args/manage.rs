//! `umbel task`, `queue`, `tenant`, `routes` and `dead`: their verbs and flags.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use umbel_client::{ControlPatch, RouteKind};
use umbel_model::{Digest, JobId, QueueName, TaskName};

use super::{OrNone, PageFlags, number, rate};

#[derive(Debug, Subcommand)]
pub enum TaskVerb {
    /// Tasks of this tenant
    #[command(visible_alias = "ls")]
    List(PageFlags),
    /// One task: parameters, policy and where each value comes from, limits, deploys
    Show { name: TaskName },
    /// Point a task at a module that was uploaded
    Deploy { name: TaskName, digest: Digest },
    /// Point a task at the module before
    Rollback { name: TaskName },
    /// Override the task's policy on the server; `null` takes an override back
    #[command(visible_alias = "policy")]
    Set {
        name: TaskName,
        /// Fields of the policy, such as max_retries=5 queue=slow fuel=null
        #[arg(required = true, value_name = "FIELD=VALUE")]
        fields: Vec<String>,
    },
    /// Hand out no more jobs of a task, also of those that are queued; running ones go on
    Pause { name: TaskName },
    /// Hand out a task's jobs again
    Resume { name: TaskName },
    /// Limit all jobs of a task across all workers, also those that are queued
    Limit {
        name: TaskName,
        #[command(flatten)]
        limits: LimitFlags,
    },
}

/// What limits a queue, a task or a tenant at run time. What is not given stays.
#[derive(Debug, Args)]
pub struct LimitFlags {
    /// So many jobs started in a period, such as 100/m; or none
    #[arg(long, value_parser = rate, value_name = "RATE")]
    pub rate: Option<OrNone<String>>,
    /// So many of them may start at once before the rate holds; or none
    #[arg(long, value_parser = number, value_name = "N")]
    pub burst: Option<OrNone<u32>>,
    /// So many jobs at once; or none
    #[arg(long, value_parser = number, value_name = "N")]
    pub concurrency: Option<OrNone<u32>>,
    /// Take all these limits away
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
    /// Queues, how many jobs are where, and their limits
    #[command(visible_alias = "ls")]
    List,
    /// Hand out no more jobs of a queue; running ones go on
    Pause { name: QueueName },
    /// Hand out a queue's jobs again
    Resume { name: QueueName },
    /// Limit a queue's jobs across all workers
    Set {
        name: QueueName,
        #[command(flatten)]
        limits: LimitFlags,
        /// Run its jobs on one worker at a time; =false: on any
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
        exclusive: Option<bool>,
    },
    /// Cancel everything that waits in a queue
    Purge {
        name: QueueName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Delete an empty queue; one that nobody uses goes by itself after a day
    #[command(visible_alias = "rm")]
    Delete { name: QueueName },
}

#[derive(Debug, Subcommand)]
pub enum TenantVerb {
    /// What holds for all jobs of this tenant
    Show,
    /// Hand out no more jobs; running ones go on
    Pause,
    /// Hand out jobs again
    Resume,
    /// Limit all jobs across all workers
    Limit(LimitFlags),
}

#[derive(Debug, Subcommand)]
pub enum RoutesVerb {
    /// The routes, in the order in which they are tried
    #[command(visible_alias = "ls")]
    List,
    /// Replace all routes by those of a file: {"routes": [{"match": "orders.*", "kind": "glob", "queue": "orders"}]}
    Set {
        /// The file; `-` reads stdin
        file: PathBuf,
    },
    /// Add a route behind the others
    Add {
        /// A task, a pattern with `*`, or a regular expression that begins with ^
        #[arg(value_name = "MATCH")]
        pattern: String,
        queue: QueueName,
        /// What MATCH is, where that cannot be seen from it
        #[arg(long, value_enum)]
        kind: Option<RouteChoice>,
        /// Before the others instead
        #[arg(long)]
        first: bool,
    },
    /// Take the routes with this MATCH away
    Remove {
        #[arg(value_name = "MATCH")]
        pattern: String,
    },
}

/// How a route names tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RouteChoice {
    Name,
    Glob,
    Regex,
}

impl RouteChoice {
    /// What a pattern looks like.
    pub fn of(pattern: &str) -> Self {
        match pattern {
            _ if pattern.starts_with('^') => Self::Regex,
            _ if pattern.contains('*') => Self::Glob,
            _ => Self::Name,
        }
    }
}

impl From<RouteChoice> for RouteKind {
    fn from(choice: RouteChoice) -> Self {
        match choice {
            RouteChoice::Name => Self::Name,
            RouteChoice::Glob => Self::Glob,
            RouteChoice::Regex => Self::Regex,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum DeadVerb {
    /// The dead set, newest first
    #[command(visible_alias = "ls")]
    List(PageFlags),
    /// Run dead jobs again, as new jobs
    Redrive(RedriveOptions),
}

#[derive(Debug, Args)]
pub struct RedriveOptions {
    #[arg(required_unless_present = "all")]
    pub ids: Vec<JobId>,
    /// All of them
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
    /// With the module that the task points at now, not the one that the job had
    #[arg(long)]
    pub current: bool,
    /// Fields of the policy to lay over the job's own, as JSON, such as '{"max_retries": 9}'
    #[arg(long, value_name = "JSON")]
    pub policy: Option<String>,
    /// Do not ask
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
            let Command::Tenant(TenantVerb::Limit(limits)) = parse(&[&["tenant", "limit"], args].concat())? else {
                panic!()
            };
            Ok::<_, clap::Error>(limits.patch())
        };
        let set = limits(&["--rate", "100/m", "--burst", "5"]).unwrap();
        assert_eq!(set, ControlPatch::default().rate("100/m").burst(5));
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
        let kinds = ["orders", "orders.*", "^orders"].map(RouteChoice::of);
        assert_eq!(kinds, [RouteChoice::Name, RouteChoice::Glob, RouteChoice::Regex]);
    }
}
