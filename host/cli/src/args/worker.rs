//! `umbel worker`: its flags, and the verbs for workers that are alive.

use clap::{Args, Subcommand, builder::TypedValueParser};
use umbel_client::Shutdown;

use super::{BackgroundFlags, BoundFlags, BrokerFlags, PageFlags, RunFlags, choice, size, word};

const SIGNALS: &str = "\
After SIGTERM or SIGINT the worker claims no more jobs. Running jobs may end within --shutdown-timeout; then they are
handed back, and lose neither a retry nor a delivery. A second signal, or SIGQUIT, hands them back at once. A third one
ends the process at once, and each of its jobs loses a delivery. Exit codes: 0 ended as ordered, 1 failure, 75 start it
again (--max-jobs or --max-memory was reached, with --no-respawn), 130 ended by the third signal.";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = SIGNALS)]
pub struct WorkerCommand {
    #[command(subcommand)]
    pub verb: Option<WorkerVerb>,
    #[command(flatten)]
    pub options: WorkerOptions,
}

#[derive(Debug, Subcommand)]
pub enum WorkerVerb {
    /// List running workers
    #[command(visible_alias = "ls")]
    List,
    /// Show a worker
    Show { id: String },
    /// List the jobs that a worker runs
    Jobs {
        id: String,
        #[command(flatten)]
        page: PageFlags,
    },
    /// Stop claiming until it is resumed; running jobs continue
    Drain { id: String },
    /// Claim again
    Resume { id: String },
    /// End a worker
    Shutdown {
        id: String,
        #[arg(long, value_parser = shutdown(), default_value = "warm")]
        mode: Shutdown,
    },
    /// Set the number of jobs at once
    Slots {
        id: String,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
        n: u32,
    },
    /// Let the number of jobs at once follow the work, within bounds
    Autoscale {
        id: String,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
        min: u32,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
        max: u32,
    },
    /// Change its queues: +NAME adds one, -NAME removes one, NAME… sets exactly these
    Queues {
        id: String,
        #[arg(required_unless_present = "all", allow_hyphen_values = true, value_name = "CHANGE")]
        changes: Vec<String>,
        /// Serve all queues
        #[arg(long, conflicts_with = "changes")]
        all: bool,
    },
}

#[derive(Debug, Args)]
pub struct WorkerOptions {
    /// Jobs at once; with --autoscale at the start
    #[arg(short, long, env = "UMBEL_CONCURRENCY", value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    pub concurrency: Option<u32>,
    /// Let the number of jobs at once follow the work, between these bounds
    #[arg(long, env = "UMBEL_AUTOSCALE", value_parser = scale, value_name = "MIN,MAX")]
    pub autoscale: Option<Scale>,
    /// Restart after this number of jobs: the process id stays, the memory is freed
    #[arg(long, env = "UMBEL_MAX_JOBS", value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub max_jobs: Option<u64>,
    /// Restart above this resident memory; --autoscale stops growing before
    #[arg(long, env = "UMBEL_MAX_MEMORY", value_parser = size, value_name = "SIZE")]
    pub max_memory: Option<u64>,
    /// End with exit code 75 instead of restarting, for a supervisor that restarts it
    #[arg(long, env = "UMBEL_NO_RESPAWN")]
    pub no_respawn: bool,
    #[command(flatten)]
    pub broker: BrokerFlags,
    #[command(flatten)]
    pub run: RunFlags,
    #[command(flatten)]
    pub bounds: BoundFlags,
    #[command(flatten)]
    pub background: BackgroundFlags,
}

/// How a worker ends.
fn shutdown() -> impl TypedValueParser<Value = Shutdown> {
    choice([
        word("warm", "After all running jobs have ended, without a time limit"),
        word("soft", "After its own --shutdown-timeout at the latest; then running jobs are handed back"),
        word("cold", "At once; running jobs are handed back"),
    ])
}

/// Lowest and highest number of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    pub min: u32,
    pub max: u32,
}

fn scale(text: &str) -> Result<Scale, String> {
    let read = || {
        let (min, max) = text.split_once(',')?;
        let scale = Scale { min: min.trim().parse().ok()?, max: max.trim().parse().ok()? };
        (1 <= scale.min && scale.min <= scale.max && scale.max <= 10_000).then_some(scale)
    };
    read().ok_or_else(|| format!("{text:?} is not MIN,MAX: write two numbers from 1 to 10000, such as 2,32"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn worker(args: &[&str]) -> Result<WorkerCommand, clap::Error> {
        let cli = Cli::try_parse_from([&["umbel", "worker"], args].concat())?;
        let Command::Worker(command) = cli.command else { panic!() };
        Ok(command)
    }

    #[test]
    fn worker_runs_and_worker_list_lists() {
        assert!(matches!(worker(&["list"]).unwrap().verb, Some(WorkerVerb::List)));
        let run = worker(&["--broker", "redis://h", "-Q", "a,b", "--concurrency", "3"]).unwrap();
        assert!(run.verb.is_none());
        assert_eq!((run.options.run.queues.queues.len(), run.options.concurrency), (2, Some(3)));
    }

    #[test]
    fn a_worker_takes_weights_or_a_strict_order_a_scale_and_its_ends() {
        let all = ["--queue-weights", "a=3,b=1", "--exclude", "c", "--autoscale", "1,8", "--max-memory", "512MiB"];
        let options = worker(&all).unwrap().options;
        let queues = &options.run.queues;
        assert_eq!((queues.queue_weights[0].weight, queues.exclude.len()), (3, 1));
        assert_eq!((options.autoscale, options.max_memory), (Some(Scale { min: 1, max: 8 }), Some(512 << 20)));
        let patience = |args: &[&str]| worker(args).unwrap().options.run.shutdown_timeout.0;
        assert_eq!(patience(&[]), Some(30_000));
        assert_eq!(patience(&["--shutdown-timeout", "none"]), None);
        assert_eq!(patience(&["--grace", "1s"]), Some(1_000));
        assert!(worker(&["-Q", "a", "--strict"]).is_ok());
        for bad in [&["--strict"][..], &["-Q", "a", "--strict", "--queue-weights", "a=2"], &["--autoscale", "3,2"]] {
            assert!(worker(bad).is_err(), "{bad:?}");
        }
        assert!(worker(&["--queue-weights", "a=0"]).unwrap_err().to_string().contains("critical=3"));
    }

    #[test]
    fn queues_are_added_and_taken_away_by_sign() {
        let changes = |args: &[&str]| match worker(&[&["queues", "w"], args].concat()).unwrap().verb {
            Some(WorkerVerb::Queues { changes, .. }) => changes,
            _ => panic!(),
        };
        assert_eq!(changes(&["+a", "-b"]), ["+a", "-b"]);
        assert_eq!(changes(&["-high", "c"]), ["-high", "c"]);
        assert!(worker(&["queues", "w"]).is_err() && worker(&["queues", "w", "--all"]).is_ok());
    }
}
