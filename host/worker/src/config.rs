//! Settings of a worker.

use std::sync::{Arc, atomic::AtomicBool};

use umbel_broker::DEFAULT_LEASE_MS;
use umbel_model::{QueueName, WorkerId, settings};

use crate::operating_system::unique_worker_id;

/// A day: no shutdown waits longer, and no sum with a clock overflows.
const MAX_GRACE_MS: u64 = 86_400_000;
/// Attempts of one worker at once.
const MAX_SLOTS: u32 = 10_000;
/// Queues that a worker may serve by name: each costs every claim a read.
const MAX_NAMED: usize = 1_000;

/// Which queues a worker serves.
#[derive(Debug, Clone)]
pub enum Queues {
    /// These, the first one first: a job of a later queue is taken only when the earlier ones are empty.
    Named(Vec<QueueName>),
    /// These, in turns: each is the first queue of a claim as often as its weight says, 1–1,000. A claim asks the others
    /// after it, so that no slot waits while any queue has work.
    Weighted(Vec<(QueueName, u32)>),
    /// Every queue of every tenant, in turn.
    All,
}

settings! {
    /// Settings of one worker: by default four attempts a core at once, all queues, and a name that no other has.
    #[derive(Debug, Clone)]
    pub struct WorkerConfig {
        pub id: WorkerId = unique_worker_id(),
        pub queues: Queues = Queues::All,
        /// Queues that are never served, whatever `queues` and orders say.
        pub exclude: Vec<QueueName> = Vec::new(),
        /// Attempts at once, 1–10,000. The sandbox should have at least as many slots.
        pub concurrency: u32 = (4 * cores()).max(8),
        /// The least and the most attempts at once: more when all slots are busy and work waits, fewer when some were idle
        /// for half a minute. None: always `concurrency`; otherwise that is where it begins.
        pub autoscale: Option<(u32, u32)> = None,
        /// Jobs after which the worker drains and ends, so that its process can be replaced. 0: never. It claims nothing more
        /// and waits for running jobs, which end within their time limits. It hands none back: an early acknowledged job would
        /// fail by that, and a job that is longer than the time between two replacements would never end.
        pub max_jobs: u64 = 0,
        /// Resident memory of the process, bytes, above which it does the same. 0: never. Above four fifths of it no slot is added.
        pub max_memory_bytes: u64 = 0,
        /// Reads that memory, bytes. A test may replace it.
        pub memory_bytes: fn() -> u64 = crate::operating_system::rss_bytes,
        /// Reads how much memory all running attempts may be granted together, bytes: an attempt that would go over it waits.
        /// By default three quarters of what the machine or the cgroup has. A test may replace it.
        pub guest_memory_bytes: fn() -> u64 = crate::operating_system::guest_memory_bytes,
        /// All running attempts are granted no more than this together, bytes, whatever the machine has; but one attempt of the largest
        /// memory limit is always granted. 0: what the machine has.
        pub max_guest_memory_bytes: u64 = 0,
        /// Whether several tenants may submit jobs, which the owner of the worker keeps up to date: then it has a reserve before
        /// it saw a second one.
        pub several_tenants: Arc<AtomicBool> = Arc::default(),
        /// Threads that run guests, and as many more for tenants whose guests hold threads. More threads than cores gain nothing:
        /// guests share a thread by yielding.
        pub guest_threads: u32 = cores(),
        /// Lease of a delivery, milliseconds, at least 1,000. Renewed at a third of it, and about once a second to hear of
        /// cancelled jobs.
        pub lease_ms: u64 = DEFAULT_LEASE_MS,
        /// How long a drain lets running attempts go on, milliseconds, at most a day.
        pub grace_ms: u64 = 30_000,
        /// Deliveries claimed ahead at most, while attempts are short. 0: none ever.
        pub max_ahead: u32 = crate::prefetch::MAX_PREFETCH,
        /// Longest time without a claim while slots are free, milliseconds: the delay that a lost hint costs.
        pub poll_ms: u64 = 1_000,
        /// How long finished attempts are gathered before they are settled, milliseconds, and only while there is
        /// plenty of claimed work to go on with.
        pub gather_ms: u64 = 4,
    }
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

impl WorkerConfig {
    /// The least and the most slots, and how many there are at first.
    pub(crate) fn slots(&self) -> (u32, u32, u32) {
        let (least, most) = self.autoscale.unwrap_or((self.concurrency, self.concurrency));
        (least, most, self.concurrency.clamp(least, most))
    }

    /// The queues that were named; none when all are served.
    fn named(&self) -> Option<Vec<&QueueName>> {
        match &self.queues {
            Queues::Named(names) => Some(names.iter().collect()),
            Queues::Weighted(queues) => Some(queues.iter().map(|(name, _)| name).collect()),
            Queues::All => None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), crate::Error> {
        let bad = |what: &str| Err(crate::Error::Config(what.to_owned()));
        match () {
            () if !(1..=MAX_SLOTS).contains(&self.concurrency) => bad("concurrency must be 1 to 10000"),
            () if !(1..=1_024).contains(&self.guest_threads) => bad("guest threads must be 1 to 1024"),
            () if !(1_000..=3_600_000).contains(&self.lease_ms) => bad("the lease must be 1 s to 1 h"),
            () if self.grace_ms > MAX_GRACE_MS => bad("the grace time must be at most 24 h"),
            () if self.autoscale.is_some_and(|(least, most)| !(1..=most.min(MAX_SLOTS)).contains(&least)) => {
                bad("autoscale must be from 1 to 10000 slots, the least first")
            }
            () if matches!(&self.queues, Queues::Weighted(queues) if queues.iter().any(|(_, w)| !(1..=1_000).contains(w))) => {
                bad("weights of queues must be 1 to 1000")
            }
            () if self.named().is_some_and(|named| named.len() > MAX_NAMED) || self.exclude.len() > MAX_NAMED => {
                bad("name at most 1000 queues")
            }
            () if self.named().is_some_and(|named| named.iter().all(|name| self.exclude.contains(name))) => {
                bad("name at least one queue that is not excluded")
            }
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
        let mut config = WorkerConfig { grace_ms: MAX_GRACE_MS, ..WorkerConfig::default() };
        config.check().unwrap();
        config.grace_ms = u64::MAX;
        assert!(config.check().unwrap_err().to_string().contains("24 h"));
    }

    #[test]
    fn ranges_weights_and_exclusions_that_make_no_sense_are_refused() {
        let name = |text: &str| QueueName::new(text).unwrap();
        let refused = |change: &dyn Fn(&mut WorkerConfig)| {
            let mut config = WorkerConfig::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(refused(&|config| config.autoscale = Some((4, 2))).contains("autoscale"));
        assert!(refused(&|config| config.autoscale = Some((0, 2))).contains("autoscale"));
        assert!(refused(&|config| config.queues = Queues::Weighted(vec![(name("a"), 0)])).contains("weights"));
        let excluded =
            refused(&|config| (config.queues, config.exclude) = (Queues::Named(vec![name("a")]), vec![name("a")]));
        assert!(excluded.contains("excluded"));
    }
}
