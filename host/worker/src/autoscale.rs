//! How many slots a worker that scales by itself has: plain arithmetic, no clock, no IO.
//!
//! Invariant: never outside of the range that was set.

/// Ticks with idle slots before some of them go.
const QUIET_TICKS: u32 = 30;

/// What a worker looks like at a tick.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) slots: u32,
    /// Deliveries on a slot or waiting for one.
    pub(crate) open: u32,
    /// There is work that nobody claimed.
    pub(crate) more: bool,
    /// There is memory for more attempts.
    pub(crate) room: bool,
}

/// Asked once a tick, which is a second.
#[derive(Debug)]
pub(crate) struct Scale {
    pub(crate) least: u32,
    pub(crate) most: u32,
    /// Slots that were busy at once, at most, in the ticks since the number changed last.
    peak: u32,
    quiet: u32,
}

impl Scale {
    pub(crate) fn new(least: u32, most: u32) -> Self {
        Self { least, most: most.max(least), peak: 0, quiet: 0 }
    }

    /// Whether the number of slots ever changes by itself.
    pub(crate) fn is_fixed(&self) -> bool {
        self.least == self.most
    }

    /// How many slots there should be now.
    pub(crate) fn tick(&mut self, load: Load) -> u32 {
        if load.more && load.room && load.open >= load.slots && load.slots < self.most {
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

    fn load(slots: u32, open: u32, more: bool) -> Load {
        Load { slots, open, more, room: true }
    }

    #[test]
    fn slots_are_added_while_all_are_busy_and_work_waits() {
        let mut scale = Scale::new(2, 10);
        assert_eq!([2, 3, 4, 6, 9, 10].map(|slots| scale.tick(load(slots, slots, true))), [3, 4, 6, 9, 10, 10]);
        assert_eq!(scale.tick(load(4, 3, true)), 4);
        assert_eq!(scale.tick(load(4, 4, false)), 4);
    }

    #[test]
    fn without_memory_no_slot_is_added() {
        let mut scale = Scale::new(1, 10);
        assert_eq!(scale.tick(Load { room: false, ..load(4, 4, true) }), 4);
    }

    #[test]
    fn slots_that_were_idle_for_half_a_minute_go_and_busy_ones_stay() {
        let mut scale = Scale::new(2, 10);
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
        assert_eq!(Scale::new(4, 8).tick(load(1, 0, false)), 4);
        assert_eq!(Scale::new(4, 8).tick(load(20, 20, true)), 8);
        assert!(Scale::new(4, 4).is_fixed());
    }
}
