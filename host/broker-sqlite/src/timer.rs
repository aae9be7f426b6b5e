//! The broker's clock: this machine's, but while the process lives it never goes back and never stands still. After the
//! machine's clock was set back it goes on by itself until that one has caught up: leases must end and delays must pass.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use umbel_broker::Clock;
use umbel_model::UnixMs;

#[derive(Debug)]
pub(crate) struct Timer {
    clock: Clock,
    last: Mutex<Moment>,
}

/// The time that was told last, and when that was by a clock that nobody sets.
#[derive(Debug, Clone, Copy)]
struct Moment {
    told: UnixMs,
    at: Instant,
}

impl Moment {
    /// The next time to tell.
    fn advance(&mut self, system: UnixMs, at: Instant) -> UnixMs {
        let passed = at.saturating_duration_since(self.at).as_millis() as u64;
        let by_itself = self.told.saturating_add(passed);
        if system > by_itself {
            *self = Self { told: system, at };
        } else if passed > 0 {
            // By whole milliseconds: the rest counts the next time.
            *self = Self { told: by_itself, at: self.at + Duration::from_millis(passed) };
        }
        self.told
    }
}

impl Timer {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, last: Mutex::new(Moment { told: 0, at: Instant::now() }) }
    }

    /// Milliseconds since the epoch.
    pub(crate) fn now(&self) -> UnixMs {
        self.clock.fixed_now().unwrap_or_else(|| {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let system = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as UnixMs);
            last.advance(system, Instant::now())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_after_the_clock_was_set_back() {
        let start = Instant::now();
        let mut last = Moment { told: 0, at: start };
        let at = |us| start + Duration::from_micros(us);
        assert_eq!(last.advance(1_000_000, at(0)), 1_000_000);
        // Set back by 900 s. However often it is asked, no part of a millisecond gets lost.
        for us in (700..=70_000).step_by(700) {
            assert_eq!(last.advance(100_000 + us / 1_000, at(us)), 1_000_000 + us / 1_000);
        }
        // A jump ahead is followed; then nothing goes back.
        assert_eq!(last.advance(2_000_000, at(71_000)), 2_000_000);
        assert_eq!(last.advance(2_000_000, at(71_999)), 2_000_000);
        assert_eq!(last.advance(1, at(72_000)), 2_000_001);
    }
}
