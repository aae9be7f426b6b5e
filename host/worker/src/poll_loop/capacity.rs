//! How many slots a worker has, and whether its process has memory for them.

use std::time::{Duration, Instant};

use crate::{
    WorkerConfig,
    autoscale::{Autoscaler, Load},
    slots::SlotPool,
};

/// Between two looks at the load and the memory.
const TICK: Duration = Duration::from_secs(1);

/// The slots, and the range in which their number may change.
pub(super) struct Capacity {
    pool: SlotPool,
    /// Attempts at once.
    pub(super) slots: u32,
    pub(super) scaler: Autoscaler,
    next_tick: Instant,
    /// See [`WorkerConfig::max_memory_bytes`].
    max_memory_bytes: u64,
    memory_bytes: fn() -> u64,
}

/// The result of a look at the load and the memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tick {
    Unchanged,
    /// There should be so many slots.
    Resize(u32),
    /// The process holds more memory than it may: so many bytes.
    OverMemory(u64),
}

impl Capacity {
    /// Without slots: `resize` makes them.
    pub(super) fn new(config: &WorkerConfig, pool: SlotPool, now: Instant) -> Self {
        let (least, most, _) = config.slots();
        if most > pool.most {
            tracing::warn!(worker = %config.id, most, slots = pool.most, "the sandbox has fewer slots than the worker may use");
        }
        let scaler = Autoscaler::new(least.min(pool.most), most.min(pool.most));
        let (max_memory_bytes, memory_bytes) = (config.max_memory_bytes, config.memory_bytes);
        Self { pool, slots: 0, scaler, next_tick: now, max_memory_bytes, memory_bytes }
    }

    /// From now on there are so many slots, or as many as the sandbox has; answers how many.
    pub(super) fn resize(&mut self, slots: u32) -> u32 {
        self.slots = self.pool.resize(slots);
        self.slots
    }

    /// Sets the range, as far as the sandbox has slots; answers how many slots there should be.
    pub(super) fn set_range(&mut self, least: u32, most: u32) -> u32 {
        let least = least.clamp(1, self.pool.most);
        let most = most.clamp(least, self.pool.most);
        self.scaler = Autoscaler::new(least, most);
        self.slots.clamp(least, most)
    }

    /// When to look at the load and the memory; never if nothing depends on them.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        (!self.scaler.is_fixed() || self.max_memory_bytes > 0).then_some(self.next_tick)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_wake().is_some_and(|at| at <= now)
    }

    /// Looks at the load and the memory if that is due. `open` deliveries are in the local queue or on a slot;
    /// `work_waits` if there may be jobs that nobody claimed.
    pub(super) fn tick(&mut self, now: Instant, open: u32, work_waits: bool) -> Tick {
        if !self.is_due(now) {
            return Tick::Unchanged;
        }
        self.next_tick = now + TICK;
        let max = self.max_memory_bytes;
        let rss = if max > 0 { (self.memory_bytes)() } else { 0 };
        if max > 0 && rss > max {
            return Tick::OverMemory(rss);
        }
        let has_memory = max == 0 || rss < max / 5 * 4;
        let slots = self.scaler.tick(Load { slots: self.slots, open, work_waits, has_memory });
        if slots == self.slots { Tick::Unchanged } else { Tick::Resize(slots) }
    }
}
