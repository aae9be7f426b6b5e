//! `umbel bulk`: its verbs and flags.

use clap::{Args, Subcommand};
use umbel_client::BulkFilter;
use umbel_model::{JobId, JobState, QueueName, TaskName, WorkflowId};

use super::{duration, time};

#[derive(Debug, Subcommand)]
pub enum BulkVerb {
    /// Cancel jobs in any unfinished state
    Cancel {
        #[command(flatten)]
        flags: Box<BulkFlags>,
        /// Let running attempts end; they are not retried
        #[arg(long)]
        let_end: bool,
    },
    /// Run dead jobs again, as new jobs
    Redrive {
        #[command(flatten)]
        flags: Box<BulkFlags>,
        /// Use the modules that the tasks point at now instead of the jobs' own
        #[arg(long)]
        current: bool,
        /// Fields that replace those of each job's policy, as JSON
        #[arg(long, value_name = "JSON")]
        policy: Option<String>,
    },
    /// Delete jobs that have ended, with their results and logs
    Forget {
        #[command(flatten)]
        flags: Box<BulkFlags>,
    },
    /// Queue scheduled and retrying jobs now
    RunNow {
        #[command(flatten)]
        flags: Box<BulkFlags>,
    },
    /// List the last actions, newest first
    #[command(visible_alias = "ls")]
    List,
    /// Show the progress of an action
    Show {
        id: JobId,
        /// Wait for the end, at most this long
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "1h", value_parser = duration, value_name = "DURATION")]
        wait: Option<u64>,
    },
    /// Stop an action, without undoing anything
    Abort { id: JobId },
}

#[derive(Debug, Args)]
pub struct BulkFlags {
    #[command(flatten)]
    pub selection: Selection,
    /// Only count the jobs that match
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask for confirmation of --all
    #[arg(long)]
    pub yes: bool,
    /// Wait for the end, at most this long, and show the progress
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "1h", value_parser = duration, value_name = "DURATION")]
    pub wait: Option<u64>,
}

/// The jobs that match every flag.
#[derive(Debug, Clone, Default, Args)]
#[group(required = true, multiple = true)]
#[command(next_help_heading = "Which jobs")]
pub struct Selection {
    #[arg(long)]
    pub task: Option<TaskName>,
    #[arg(long)]
    pub queue: Option<QueueName>,
    /// Only jobs in these states
    #[arg(long, value_delimiter = ',', value_name = "STATES")]
    pub state: Vec<JobState>,
    #[arg(long)]
    pub tag: Option<String>,
    /// Only jobs with this header stamp
    #[arg(long, value_name = "NAME=VALUE")]
    pub header: Option<String>,
    /// Only jobs of this workflow
    #[arg(long, value_name = "ID")]
    pub workflow: Option<WorkflowId>,
    /// Only jobs whose last delivery went to this worker
    #[arg(long, value_name = "ID")]
    pub worker: Option<String>,
    /// Only jobs in the dead set
    #[arg(long)]
    pub dead: bool,
    /// Only jobs submitted after this time, RFC 3339
    #[arg(long, value_parser = time, value_name = "TIME")]
    pub created_after: Option<String>,
    /// Only jobs submitted before this time, RFC 3339
    #[arg(long, value_parser = time, value_name = "TIME")]
    pub created_before: Option<String>,
    /// Only these jobs, at most 1,000
    #[arg(long, num_args = 1.., value_name = "ID")]
    pub ids: Vec<JobId>,
    /// All jobs that the action is possible for
    #[arg(long, exclusive = false, conflicts_with_all = ["task", "queue", "state", "tag", "header", "workflow", "worker",
        "dead", "created_after", "created_before", "ids"])]
    pub all: bool,
}

impl Selection {
    /// As it is sent, with the header as `name:value`.
    pub fn filter(&self, header: Option<String>) -> BulkFilter {
        BulkFilter {
            task: self.task.as_ref().map(ToString::to_string),
            queue: self.queue.as_ref().map(ToString::to_string),
            state: self.state.clone(),
            tag: self.tag.clone(),
            header,
            workflow_id: self.workflow,
            dead: self.dead.then_some(true),
            worker: self.worker.clone(),
            created_after: self.created_after.clone(),
            created_before: self.created_before.clone(),
            ids: self.ids.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn cancel(args: &[&str]) -> Result<BulkFlags, clap::Error> {
        let cli = Cli::try_parse_from([&["umbel", "bulk", "cancel"], args].concat())?;
        let Command::Bulk(BulkVerb::Cancel { flags, .. }) = cli.command else { panic!() };
        Ok(*flags)
    }

    #[test]
    fn an_action_wants_a_selection_and_all_must_be_said() {
        let flags = cancel(&["--task", "t", "--state", "queued,retrying", "--dry-run", "--wait=5s"]).unwrap();
        let filter = flags.selection.filter(Some("k:v".into()));
        assert_eq!((filter.state.len(), filter.header.as_deref(), flags.wait), (2, Some("k:v"), Some(5_000)));
        assert!(cancel(&[]).is_err() && cancel(&["--dry-run"]).is_err());
        assert!(cancel(&["--all"]).unwrap().selection.all);
        assert!(cancel(&["--all", "--task", "t"]).is_err());
    }
}
