//! The memory that the attempts of a worker may be granted together, so that busy slots take no more than the machine has.
//!
//! An attempt takes what its policy allows it, and what the host keeps for it, from the budget before its guest runs, and
//! gives it back at its end. While too little is left, attempts wait in the order of their arrival.
//!
//! Invariant: an attempt of the largest memory limit always fits into the budget, so none waits for ever.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reads how much memory the guests of this process may have now, bytes.
pub(crate) type Look = Box<dyn Fn() -> u64 + Send + Sync>;

/// The host keeps about so much for an attempt: its log, its workflows, its result and its instance, bytes.
const HOST_BYTES: u64 = 8 << 20;
/// The unit of the budget, bytes.
const UNIT: u64 = 1 << 20;
/// Between two looks at the machine, and between two log lines about attempts that wait.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOG_EVERY: Duration = Duration::from_secs(60);

/// See the top of the file.
pub(crate) struct MemoryBudget {
    free: Arc<Semaphore>,
    look: Look,
    /// The least budget.
    largest: u32,
    looked: Mutex<Looked>,
}

struct Looked {
    /// The budget, whether it is free or taken.
    units: u32,
    next: Instant,
    next_log: Instant,
}

/// Memory of an attempt, given back when it is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "held until it is dropped")]
pub(crate) struct Granted(OwnedSemaphorePermit);

fn units(bytes: u64) -> u32 {
    // Far below the most that a semaphore holds.
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(1 << 28)
}

fn units_of_attempt(memory_bytes: u64) -> u32 {
    units(memory_bytes.saturating_add(HOST_BYTES))
}

impl MemoryBudget {
    /// A budget for attempts whose largest memory limit is `largest_bytes`.
    pub(crate) fn new(look: Look, largest_bytes: u64, now: Instant) -> Self {
        let largest = units_of_attempt(largest_bytes);
        let units = units(look()).max(largest);
        let looked = Looked { units, next: now + LOOK_EVERY, next_log: now };
        Self { free: Arc::new(Semaphore::new(units as usize)), look, largest, looked: Mutex::new(looked) }
    }

    /// Attempts of this memory limit that the budget has room for at once.
    pub(crate) fn attempts(&self, memory_bytes: u64) -> u32 {
        self.looked().units / units_of_attempt(memory_bytes)
    }

    /// Waits until there is memory for an attempt of this limit. Safe to drop at any await.
    pub(crate) async fn take(&self, memory_bytes: u64) -> Granted {
        let now = Instant::now();
        self.follow_machine(now);
        let units = units_of_attempt(memory_bytes).min(self.largest);
        let granted = match self.free.clone().try_acquire_many_owned(units) {
            Ok(granted) => Ok(granted),
            Err(_) => {
                self.log(now);
                self.free.clone().acquire_many_owned(units).await
            }
        };
        Granted(granted.expect("the semaphore is never closed"))
    }

    /// No panic can leave it half changed.
    fn looked(&self) -> std::sync::MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the machine, if that is due. A budget that shrinks takes what is free now, and the rest at the next looks.
    fn follow_machine(&self, now: Instant) {
        let mut looked = self.looked();
        if looked.next > now {
            return;
        }
        looked.next = now + LOOK_EVERY;
        let wanted = units((self.look)()).max(self.largest);
        if wanted > looked.units {
            self.free.add_permits((wanted - looked.units) as usize);
            looked.units = wanted;
        } else {
            looked.units -= self.free.forget_permits((looked.units - wanted) as usize) as u32;
        }
    }

    fn log(&self, now: Instant) {
        let mut looked = self.looked();
        if looked.next_log > now {
            return;
        }
        looked.next_log = now + LOG_EVERY;
        let budget_mib = (u64::from(looked.units) * UNIT) >> 20;
        tracing::warn!(
            budget_mib,
            "attempts wait for memory: those that run may take all that this machine can give; lower --concurrency or the \
             memory limits of tasks, or give the machine or its cgroup more memory"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::FutureExt as _;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn budget(mib: u64) -> (MemoryBudget, Arc<AtomicU64>) {
        let machine = Arc::new(AtomicU64::new(mib * MIB));
        let look = machine.clone();
        (MemoryBudget::new(Box::new(move || look.load(Ordering::SeqCst)), 256 * MIB, Instant::now()), machine)
    }

    #[test]
    fn attempts_wait_while_those_that_run_may_take_all_memory() {
        let (budget, _) = budget(3 * 264);
        assert_eq!(budget.attempts(256 * MIB), 3);
        let mut running: Vec<_> = (0..3).map(|_| budget.take(256 * MIB).now_or_never().unwrap()).collect();
        assert!(budget.take(64 * MIB).now_or_never().is_none());
        running.pop();
        let _small = budget.take(64 * MIB).now_or_never().unwrap();
        assert!(budget.take(256 * MIB).now_or_never().is_none());
    }

    #[test]
    fn the_largest_attempt_always_fits() {
        let (budget, _) = budget(1);
        let running = budget.take(256 * MIB).now_or_never().unwrap();
        assert!(budget.take(1).now_or_never().is_none());
        drop(running);
        assert!(budget.take(u64::MAX).now_or_never().is_some());
    }

    #[test]
    fn a_budget_follows_the_machine() {
        let (budget, machine) = budget(264);
        let _running = budget.take(256 * MIB).now_or_never().unwrap();
        machine.store(2 * 264 * MIB, Ordering::SeqCst);
        budget.follow_machine(Instant::now() + LOOK_EVERY);
        let second = budget.take(256 * MIB).now_or_never().unwrap();
        machine.store(264 * MIB, Ordering::SeqCst);
        drop(second);
        budget.follow_machine(Instant::now() + 2 * LOOK_EVERY);
        assert!(budget.take(256 * MIB).now_or_never().is_none());
    }
}
