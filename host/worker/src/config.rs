//! What an operator can set about a worker.

use umbel_broker::DEFAULT_LEASE_MS;
use umbel_model::{QueueName, WorkerId};

/// A day: no shutdown waits longer, and no sum with a clock overflows.
const MAX_GRACE_MS: u64 = 86_400_000;

/// Which queues a worker serves.
#[derive(Debug, Clone)]
pub enum Queues {
    /// These, the first one first: a job of a later queue is taken only when the earlier ones are empty.
    Named(Vec<QueueName>),
    /// Every queue of every tenant, in turn. New ones are found by hints, or by looking every few seconds.
    All,
}

/// Settings of one worker.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    pub id: WorkerId,
    pub queues: Queues,
    /// Attempts at once, 1–10,000. The sandbox should have at least as many slots.
    pub concurrency: u32,
    /// Threads that run guests. More than the cores gain nothing: guests share a thread by yielding.
    pub guest_threads: u32,
    /// Lease of a delivery, milliseconds, at least 1,000. Renewed at a third of it.
    pub lease_ms: u64,
    /// How long a drain lets running attempts go on, milliseconds, at most a day.
    pub grace_ms: u64,
    /// Deliveries claimed ahead at most, while attempts are short. 0: none ever.
    pub max_ahead: u32,
    /// Longest time without a look for work, milliseconds: what a lost hint costs.
    pub poll_ms: u64,
    /// How long finished attempts are gathered before they are settled, milliseconds, and only while there is
    /// plenty of claimed work to go on with.
    pub gather_ms: u64,
}

impl WorkerConfig {
    /// Defaults for a worker of this name: four attempts a core at once, all queues.
    pub fn new(id: WorkerId) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        Self {
            id,
            queues: Queues::All,
            concurrency: (4 * cores).max(8),
            guest_threads: cores,
            lease_ms: DEFAULT_LEASE_MS,
            grace_ms: 30_000,
            max_ahead: crate::pace::MAX_AHEAD,
            poll_ms: 1_000,
            gather_ms: 4,
        }
    }

    pub(crate) fn check(&self) -> Result<(), crate::Error> {
        let bad = |what: &str| Err(crate::Error::Config(what.to_owned()));
        match () {
            () if !(1..=10_000).contains(&self.concurrency) => bad("concurrency must be 1 to 10000"),
            () if !(1..=1_024).contains(&self.guest_threads) => bad("guest threads must be 1 to 1024"),
            () if !(1_000..=3_600_000).contains(&self.lease_ms) => bad("the lease must be 1 s to 1 h"),
            () if self.grace_ms > MAX_GRACE_MS => bad("the grace time must be at most 24 h"),
            () if matches!(&self.queues, Queues::Named(names) if names.is_empty()) => bad("name at least one queue"),
            () if self.poll_ms == 0 => bad("the poll interval must be at least 1 ms"),
            () => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_time_of_more_than_a_day_is_refused() {
        let mut config = WorkerConfig::new(WorkerId::new("w").unwrap());
        config.grace_ms = MAX_GRACE_MS;
        config.check().unwrap();
        config.grace_ms = u64::MAX;
        assert!(config.check().unwrap_err().to_string().contains("24 h"));
    }
}
