//! `umbel job`: its verbs and flags.

use clap::{Args, Subcommand};
use umbel_model::{JobId, JobState, QueueName, TaskName, WorkflowId};

use super::{PageFlags, duration, moment, time};

#[derive(Debug, Subcommand)]
pub enum JobVerb {
    /// Submit a job and print its id; with --wait its result
    Submit(Box<SubmitOptions>),
    /// List jobs, newest first
    #[command(visible_alias = "ls")]
    List(Box<ListOptions>),
    /// Show a job
    Show {
        id: JobId,
        /// Wait for the end, at most this long
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "1h", value_parser = duration, value_name = "DURATION")]
        wait: Option<u64>,
    },
    /// Print the result of a job, as JSON, of any size
    Result { id: JobId },
    /// Print the log of a job
    Logs {
        id: JobId,
        /// Continue until the job has ended
        #[arg(short, long)]
        follow: bool,
    },
    /// Follow the changes of a job until it has ended
    Events { id: JobId },
    /// Cancel a job in any unfinished state
    Cancel {
        id: JobId,
        /// Let a running attempt end; it is not retried
        #[arg(long)]
        let_end: bool,
    },
    /// Run a waiting job now, or a failed job again as a new job with the module of the failed one
    Retry {
        id: JobId,
        /// Of a failed job: use the module that its task points at now
        #[arg(long)]
        current: bool,
    },
    /// Delete jobs that have ended, with their results and logs
    Forget {
        #[arg(required = true)]
        ids: Vec<JobId>,
    },
}

#[derive(Debug, Args)]
pub struct ListOptions {
    /// Only jobs in these states
    #[arg(long, value_delimiter = ',', value_name = "STATES")]
    pub state: Vec<JobState>,
    #[arg(long)]
    pub task: Option<TaskName>,
    #[arg(long)]
    pub queue: Option<QueueName>,
    /// Only jobs of this workflow
    #[arg(long, value_name = "ID")]
    pub workflow: Option<WorkflowId>,
    /// Only jobs whose last delivery went to this worker
    #[arg(long, value_name = "ID")]
    pub worker: Option<String>,
    /// Only jobs with this tag
    #[arg(long)]
    pub tag: Option<String>,
    /// Only jobs with this header stamp
    #[arg(long, value_name = "NAME=VALUE")]
    pub header: Option<String>,
    /// Only jobs submitted after this time, RFC 3339, or so long ago, such as 1h
    #[arg(long, value_parser = time, value_name = "TIME")]
    pub created_after: Option<String>,
    /// Only jobs submitted before this time, RFC 3339, or so long ago, such as 1h
    #[arg(long, value_parser = time, value_name = "TIME")]
    pub created_before: Option<String>,
    #[command(flatten)]
    pub page: PageFlags,
}

const AFTER_SUBMIT: &str = "\
A STEP is a task and its arguments, such as `add 2 3` or `notify channel=ops`. Set fields of the policy without a flag of
their own with --option: unique_by='[\"kwargs.id\"]', retry_on='[\"Timeout\"]', key_concurrency=1. `umbel task show` names
all of them.";

#[derive(Debug, Args)]
#[command(after_help = AFTER_SUBMIT)]
pub struct SubmitOptions {
    pub task: TaskName,
    /// Arguments: each is JSON if it can be read as JSON, and text otherwise; `@FILE` is what is in a file, `-` stdin, and `@@x` the
    /// text `@x`
    #[arg(allow_negative_numbers = true)]
    pub args: Vec<String>,
    /// Argument by name; its value is written as those above
    #[arg(long, value_name = "NAME=VALUE")]
    pub kwarg: Vec<String>,
    /// Start after this time
    #[arg(long, value_parser = duration, value_name = "DURATION", conflicts_with = "eta")]
    pub countdown: Option<u64>,
    /// Start at this time, RFC 3339
    #[arg(long, value_name = "TIME")]
    pub eta: Option<String>,
    #[arg(long)]
    pub queue: Option<QueueName>,
    /// 0 to 9, 9 first
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=9))]
    pub priority: Option<u8>,
    #[arg(long)]
    pub max_retries: Option<u32>,
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub time_limit: Option<u64>,
    /// Expire if it has not started after this time from its submission, or by this date
    #[arg(long, value_parser = expiry, value_name = "DURATION|TIME")]
    pub expires: Option<Expiry>,
    /// Any other field of the policy; may be repeated
    #[arg(long, value_name = "FIELD=VALUE")]
    pub option: Vec<String>,
    /// A tag to find it by; may be repeated
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// A header stamp; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub header: Vec<String>,
    /// Step that runs with the result when the job has succeeded; may be repeated
    #[arg(long, value_name = "STEP")]
    pub on_success: Vec<String>,
    /// Step that runs with the error when the job has failed; may be repeated
    #[arg(long, value_name = "STEP")]
    pub on_failure: Vec<String>,
    /// Idempotency key: a second submission with it returns the first job
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Wait for the end, at most this long, and print the result
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "1h", value_parser = duration, value_name = "DURATION")]
    pub wait: Option<u64>,
}

/// When a job that has not started expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expiry {
    /// Milliseconds after its submission.
    After(u64),
    /// RFC 3339.
    At(String),
}

fn expiry(text: &str) -> Result<Expiry, String> {
    let hint = |_| format!("{text:?} is neither a duration such as 10m nor a time such as 2026-01-31T12:00:00Z");
    duration(text).map(Expiry::After).or_else(|_| moment(text).map(Expiry::At)).map_err(hint)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn submit(args: &[&str]) -> Result<SubmitOptions, clap::Error> {
        let cli = Cli::try_parse_from([&["umbel", "job", "submit", "add", "2", "-3"], args].concat())?;
        let Command::Job(JobVerb::Submit(options)) = cli.command else { panic!() };
        assert_eq!(options.args, ["2", "-3"]);
        Ok(*options)
    }

    #[test]
    fn wait_takes_a_duration_or_none() {
        let wait = |args: &[&str]| submit(args).unwrap().wait;
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&["--wait=30s"]), Some(30_000));
        assert_eq!(wait(&["--wait"]), Some(3_600_000));
    }

    #[test]
    fn a_job_expires_after_a_while_or_at_a_time() {
        let expires = |text: &str| submit(&["--expires", text]).map(|options| options.expires.unwrap());
        assert_eq!(expires("10m").unwrap(), Expiry::After(600_000));
        assert_eq!(expires("2026-01-31T12:00:00Z").unwrap(), Expiry::At("2026-01-31T12:00:00Z".into()));
        assert!(expires("soon").unwrap_err().to_string().contains("neither a duration"));
    }
}
