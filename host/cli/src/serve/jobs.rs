//! Starts the part of a process that runs jobs.

use std::sync::Arc;

use umbel_broker::Broker;
use umbel_worker::{Queues, Runtime, Worker, WorkerConfig, WorkerHandle};

use crate::{args::RunFlags, failure::Failure};

/// Jobs at once if nobody says: more than cores, because many jobs wait more than they compute.
pub fn default_concurrency() -> u32 {
    u32::try_from(crate::serve::cores() * 4).unwrap_or(8).max(8)
}

/// Starts a worker of this process.
pub fn start(
    broker: Arc<dyn Broker>,
    runtime: Runtime,
    flags: &RunFlags,
    concurrency: u32,
) -> Result<WorkerHandle, Failure> {
    let mut config = WorkerConfig::new(Worker::unique_id());
    config.concurrency = concurrency;
    config.grace_ms = flags.grace;
    config.lease_ms = flags.lease;
    if let Some(threads) = flags.guest_threads {
        config.guest_threads = threads;
    }
    if !flags.queues.is_empty() {
        config.queues = Queues::Named(flags.queues.clone());
    }
    let (guest_threads, lease_ms) = (config.guest_threads, config.lease_ms);
    let queues = flags.queues.iter().map(|q| q.as_str()).collect::<Vec<_>>().join(",");
    let handle = Worker::start(broker, runtime, config).map_err(|e| Failure::usage(e.to_string()))?;
    let queues = if queues.is_empty() { "all" } else { &queues };
    tracing::info!(worker = %handle.id(), concurrency, guest_threads, lease_ms, queues, "worker started");
    Ok(handle)
}
