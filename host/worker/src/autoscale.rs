//! How many slots a worker has that scales by itself: plain arithmetic, no clock, no IO.
//!
//! Invariant: the number is never outside of the range that was set.

/// Ticks with idle slots before some of them go.
const QUIET_TICKS: u32 = 30;

/// The load of a worker at a tick.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) slots: u32,
    /// Deliveries in the local queue or on a slot.
    pub(crate) open: u32,
    /// There may be jobs that nobody claimed.
    pub(crate) work_waits: bool,
    /// There is memory for more attempts.
    pub(crate) has_memory: bool,
}

/// Decides once a tick, which is a second.
#[derive(Debug)]
pub(crate) struct Autoscaler {
    pub(crate) least: u32,
    pub(crate) most: u32,
    /// The most slots that were busy at once in the ticks since the number changed last.
    peak: u32,
    quiet: u32,
}

impl Autoscaler {
    pub(crate) fn new(least: u32, most: u32) -> Self {
        Self { least, most: most.max(least), peak: 0, quiet: 0 }
    }

    /// Whether the number of slots ever changes by itself.
    pub(crate) fn is_fixed(&self) -> bool {
        self.least == self.most
    }

    /// How many slots there should be now.
    pub(crate) fn tick(&mut self, load: Load) -> u32 {
        if load.work_waits && load.has_memory && load.open >= load.slots && load.slots < self.most {
            (self.peak, self.quiet) = (0, 0);
            return load.slots.saturating_add((load.slots / 2).max(1)).clamp(self.least, self.most);
        }
        self.peak = self.peak.max(load.open.min(load.slots));
        self.quiet += 1;
        if self.quiet < QUIET_TICKS {
            return load.slots.clamp(self.least, self.most);
        }
        self.quiet = 0;
        std::mem::take(&mut self.peak).min(load.slots).clamp(self.least, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(slots: u32, open: u32, work_waits: bool) -> Load {
        Load { slots, open, work_waits, has_memory: true }
    }

    #[test]
    fn slots_are_added_while_all_are_busy_and_work_waits() {
        let mut scale = Autoscaler::new(2, 10);
        assert_eq!([2, 3, 4, 6, 9, 10].map(|slots| scale.tick(load(slots, slots, true))), [3, 4, 6, 9, 10, 10]);
        assert_eq!(scale.tick(load(4, 3, true)), 4);
        assert_eq!(scale.tick(load(4, 4, false)), 4);
    }

    #[test]
    fn without_memory_no_slot_is_added() {
        let mut scale = Autoscaler::new(1, 10);
        assert_eq!(scale.tick(Load { has_memory: false, ..load(4, 4, true) }), 4);
    }

    #[test]
    fn slots_that_were_idle_for_half_a_minute_go_and_busy_ones_stay() {
        let mut scale = Autoscaler::new(2, 10);
        let mut slots = 10;
        for _ in 0..QUIET_TICKS - 1 {
            slots = scale.tick(load(slots, 1, false));
            assert_eq!(slots, 10);
        }
        assert_eq!(scale.tick(load(slots, 5, false)), 5);
        for _ in 0..QUIET_TICKS {
            slots = scale.tick(load(5, 0, false));
        }
        assert_eq!(slots, 2);
    }

    #[test]
    fn a_number_outside_of_a_new_range_is_brought_into_it_at_once() {
        assert_eq!(Autoscaler::new(4, 8).tick(load(1, 0, false)), 4);
        assert_eq!(Autoscaler::new(4, 8).tick(load(20, 20, true)), 8);
        assert!(Autoscaler::new(4, 4).is_fixed());
    }
}
