//! `umbel worker`: its flags, and the verbs for workers that are alive.

use clap::{Args, Subcommand, ValueEnum};
use umbel_client::Shutdown;

use super::{BoundFlags, BrokerFlags, PageFlags, RunFlags, size};

const SIGNALS: &str = "\
SIGTERM or SIGINT: nothing more is claimed, what runs may end within --shutdown-timeout and is handed back then, at no
cost to the jobs. A second one, or SIGQUIT: what runs is handed back now. A third: the process ends at once, and each
held job costs a delivery. Exit codes: 0 ended as asked, 1 failure, 75 it wants to be started again (--max-jobs or
--max-memory was reached, with --no-respawn), 130 ended by the third signal.";

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
    /// Workers that are alive
    #[command(visible_alias = "ls")]
    List,
    /// One worker
    Show { id: String },
    /// The jobs that a worker runs
    Jobs {
        id: String,
        #[command(flatten)]
        page: PageFlags,
    },
    /// Claim nothing more until it is resumed; what runs goes on
    Drain { id: String },
    /// Claim again
    Resume { id: String },
    /// End a worker
    Shutdown {
        id: String,
        #[arg(long, value_enum, default_value = "warm")]
        mode: ShutdownChoice,
    },
    /// Run so many jobs at once
    Slots {
        id: String,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
        n: u32,
    },
    /// Run as many jobs at once as there is work for, within bounds
    Autoscale {
        id: String,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
        min: u32,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
        max: u32,
    },
    /// Serve other queues: +NAME one more, -NAME one less, NAME… exactly these
    Queues {
        id: String,
        #[arg(required_unless_present = "all", allow_hyphen_values = true, value_name = "CHANGE")]
        changes: Vec<String>,
        /// Serve all queues
        #[arg(long, conflicts_with = "changes")]
        all: bool,
    },
}

/// How a worker ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ShutdownChoice {
    /// When what runs has ended, however long that takes
    Warm,
    /// After its own --shutdown-timeout at the latest; what runs then is handed back
    Soft,
    /// Now; what runs is handed back
    Cold,
}

impl From<ShutdownChoice> for Shutdown {
    fn from(choice: ShutdownChoice) -> Self {
        match choice {
            ShutdownChoice::Warm => Self::Warm,
            ShutdownChoice::Soft => Self::Soft,
            ShutdownChoice::Cold => Self::Cold,
        }
    }
}

#[derive(Debug, Args)]
pub struct WorkerOptions {
    /// Jobs at once; with --autoscale, at the beginning
    #[arg(short, long, env = "UMBEL_CONCURRENCY", value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    pub concurrency: Option<u32>,
    /// As many jobs at once as there is work for, within these
    #[arg(long, env = "UMBEL_AUTOSCALE", value_parser = scale, value_name = "MIN,MAX")]
    pub autoscale: Option<Scale>,
    /// After so many jobs start anew, as the same process with fresh memory
    #[arg(long, env = "UMBEL_MAX_JOBS", value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub max_jobs: Option<u64>,
    /// With more resident memory than this start anew; --autoscale stops growing before
    #[arg(long, env = "UMBEL_MAX_MEMORY", value_parser = size, value_name = "SIZE")]
    pub max_memory: Option<u64>,
    /// Do not start anew but end with exit code 75, for a supervisor that does
    #[arg(long, env = "UMBEL_NO_RESPAWN")]
    pub no_respawn: bool,
    #[command(flatten)]
    pub broker: BrokerFlags,
    #[command(flatten)]
    pub run: RunFlags,
    #[command(flatten)]
    pub bounds: BoundFlags,
}

/// Least and most slots.
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
