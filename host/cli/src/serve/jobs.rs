//! Starts the part of a process that runs jobs.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use umbel_broker::Broker;
use umbel_model::QueueName;
use umbel_worker::{Queues, Runtime, Worker, WorkerConfig, WorkerHandle};

use crate::args::{QueueFlags, RunFlags};
use crate::{Failure, Result};

/// Between two looks whether there are several tenants.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How this process's worker works: as many jobs at once as these, or else as the worker decides by the cores.
pub fn config(flags: &RunFlags, concurrency: Option<u32>) -> WorkerConfig {
    let default = WorkerConfig::default();
    WorkerConfig {
        concurrency: concurrency.unwrap_or(default.concurrency),
        grace_ms: flags.shutdown_timeout.0.unwrap_or(default.grace_ms),
        lease_ms: flags.lease,
        guest_threads: flags.guest_threads.unwrap_or(default.guest_threads),
        max_guest_memory_bytes: flags.guest_memory.unwrap_or(0),
        queues: served(&flags.queues),
        exclude: flags.queues.exclude.clone(),
        ..default
    }
}

/// Starts a worker of this process.
pub fn start(broker: Arc<dyn Broker>, runtime: Runtime, config: WorkerConfig) -> Result<WorkerHandle> {
    let shown = shown(&config.queues);
    let (concurrency, guest_threads, lease_ms) = (config.concurrency, config.guest_threads, config.lease_ms);
    let several_tenants = Arc::downgrade(&config.several_tenants);
    let handle = Worker::start(broker.clone(), runtime, config).map_err(|e| Failure::usage(e.to_string()))?;
    tracing::info!(worker = %handle.id(), concurrency, guest_threads, lease_ms, queues = shown, "worker started");
    tokio::spawn(follow_tenants(broker, several_tenants));
    Ok(handle)
}

/// Tells a worker whether there are several tenants, until it is gone.
async fn follow_tenants(broker: Arc<dyn Broker>, several_tenants: Weak<AtomicBool>) {
    loop {
        let several = umbel_api::has_several_tenants(&*broker).await;
        let Some(told) = several_tenants.upgrade() else { return };
        // A broker that is away is reported elsewhere.
        if let Ok(several) = several {
            told.store(several, Ordering::Relaxed);
        }
        drop(told);
        tokio::time::sleep(LOOK_EVERY).await;
    }
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
    let names: Vec<String> = match queues {
        Queues::All => return "all".to_owned(),
        Queues::Named(names) => names.iter().map(ToString::to_string).collect(),
        Queues::Weighted(queues) => queues.iter().map(|(name, weight)| format!("{name}={weight}")).collect(),
    };
    names.join(",")
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
