//! Starts the part of a process that runs jobs.

use std::sync::Arc;

use umbel_broker::Broker;
use umbel_model::QueueName;
use umbel_worker::{Queues, Runtime, Worker, WorkerConfig, WorkerHandle};

use crate::{
    args::{QueueFlags, RunFlags, Scale},
    failure::Failure,
};

/// How much a worker does at once, and after what it wants a new process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Size {
    pub concurrency: u32,
    pub autoscale: Option<Scale>,
    /// Jobs; 0: none.
    pub max_jobs: u64,
    /// Resident memory, bytes; 0: none.
    pub max_memory_bytes: u64,
}

impl Size {
    /// Always so many jobs at once.
    pub fn fixed(concurrency: u32) -> Self {
        Self { concurrency, ..Self::default() }
    }

    /// Jobs at once at most.
    pub fn most(&self) -> u32 {
        self.autoscale.map_or(self.concurrency, |scale| scale.max)
    }
}

/// Jobs at once if nobody says: more than cores, because many jobs wait more than they compute.
pub fn default_concurrency() -> u32 {
    u32::try_from(crate::serve::cores() * 4).unwrap_or(8).max(8)
}

/// Starts a worker of this process.
pub fn start(broker: Arc<dyn Broker>, runtime: Runtime, flags: &RunFlags, size: Size) -> Result<WorkerHandle, Failure> {
    let mut config = WorkerConfig::new(Worker::unique_id());
    config.concurrency = size.concurrency;
    config.autoscale = size.autoscale.map(|scale| (scale.min, scale.max));
    config.max_jobs = size.max_jobs;
    config.max_memory_bytes = size.max_memory_bytes;
    config.grace_ms = flags.shutdown_timeout.0.unwrap_or(config.grace_ms);
    config.lease_ms = flags.lease;
    if let Some(threads) = flags.guest_threads {
        config.guest_threads = threads;
    }
    config.queues = served(&flags.queues);
    config.exclude = flags.queues.exclude.clone();
    let shown = shown(&config.queues);
    let (concurrency, guest_threads, lease_ms) = (config.concurrency, config.guest_threads, config.lease_ms);
    let handle = Worker::start(broker, runtime, config).map_err(|e| Failure::usage(e.to_string()))?;
    tracing::info!(worker = %handle.id(), concurrency, guest_threads, lease_ms, queues = shown, "worker started");
    Ok(handle)
}

/// The queues that the flags choose. A queue that only has a weight is served too.
fn served(flags: &QueueFlags) -> Queues {
    if flags.queue_weights.is_empty() {
        return if flags.queues.is_empty() { Queues::All } else { Queues::Named(flags.queues.clone()) };
    }
    let mut weighted: Vec<(QueueName, u32)> = flags.queues.iter().map(|queue| (queue.clone(), 1)).collect();
    for given in &flags.queue_weights {
        match weighted.iter_mut().find(|(queue, _)| *queue == given.queue) {
            Some((_, weight)) => *weight = given.weight,
            None => weighted.push((given.queue.clone(), given.weight)),
        }
    }
    Queues::Weighted(weighted)
}

fn shown(queues: &Queues) -> String {
    match queues {
        Queues::All => "all".to_owned(),
        Queues::Named(names) => names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(","),
        Queues::Weighted(queues) => {
            queues.iter().map(|(name, weight)| format!("{name}={weight}")).collect::<Vec<_>>().join(",")
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn queues_are_served_in_order_or_by_weight() {
        let of = |args: &[&str]| {
            let cli = Cli::try_parse_from([&["umbel", "worker"], args].concat()).unwrap();
            let Command::Worker(command) = cli.command else { panic!() };
            shown(&served(&command.options.run.queues))
        };
        assert_eq!(of(&[]), "all");
        assert_eq!(of(&["-Q", "b,a"]), "b,a");
        assert_eq!(of(&["-Q", "b,a", "--queue-weights", "a=3,c=2"]), "b=1,a=3,c=2");
    }
}
