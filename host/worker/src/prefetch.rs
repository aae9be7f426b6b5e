//! How much to claim ahead and how long to gather settles: plain arithmetic, no clock, no IO.
//!
//! Invariant: work is claimed ahead only while attempts are short, so that a job never waits behind a long one on
//! this worker while another worker is free.

/// Work claimed ahead, microseconds of it per guest thread: covers a round trip to the broker and a gathering.
const AHEAD_US: u64 = 20_000;
/// Deliveries claimed ahead at most, however short they are.
pub(crate) const MAX_PREFETCH: u32 = 512;
/// Deliveries claimed ahead at most for each one that finished since the last claim.
const GROWTH: u64 = 4;
/// Weight of the newest attempt in the mean: 1/16.
const WEIGHT: u64 = 16;
/// What is assumed before anything ran, and after the buffer stood still: too long to claim ahead.
const LONG_US: u64 = 1_000_000;

/// Recent mean duration of attempts.
#[derive(Debug)]
pub(crate) struct Prefetch {
    mean_us: u64,
    max_ahead: u32,
    known: bool,
}

impl Prefetch {
    /// `max_ahead` is cut to `MAX_PREFETCH`.
    pub(crate) fn new(max_ahead: u32) -> Self {
        Self { mean_us: LONG_US, max_ahead: max_ahead.min(MAX_PREFETCH), known: false }
    }

    /// Learns from an attempt that took so long on its slot, microseconds.
    pub(crate) fn learn(&mut self, took_us: u64) {
        let took_us = took_us.min(60_000_000);
        if self.known {
            self.mean_us = (self.mean_us * (WEIGHT - 1) + took_us) / WEIGHT;
        } else {
            (self.known, self.mean_us) = (true, took_us);
        }
    }

    /// What was claimed ahead did not move: nothing more ahead until shorter attempts are seen again.
    pub(crate) fn stalled(&mut self) {
        self.mean_us = LONG_US;
    }

    /// Deliveries to hold beyond the free slots. `finished` since the last claim: a worker that was idle takes no more
    /// than its slots and leaves the rest to others; a busy one reaches its fill in a few claims.
    pub(crate) fn ahead(&self, guest_threads: u32, finished: usize) -> u32 {
        if self.mean_us >= AHEAD_US {
            return 0;
        }
        let jobs = AHEAD_US * u64::from(guest_threads) / self.mean_us.max(1);
        let jobs = jobs.min(GROWTH.saturating_mul(finished as u64));
        u32::try_from(jobs).unwrap_or(u32::MAX).min(self.max_ahead)
    }
}

/// Delays between tries while the broker cannot be reached, milliseconds: doubling, 100 ms to 2 s, a part at random.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    failures: u32,
}

impl Retries {
    /// The next delay; `random` is uniform.
    pub(crate) fn next_ms(&mut self, random: u64) -> u64 {
        let full = 100_u64 << self.failures.min(5);
        self.failures = self.failures.saturating_add(1);
        let full = full.min(2_000);
        full / 2 + random % (full / 2 + 1)
    }

    /// True when there were failures since the last success.
    pub(crate) fn succeeded(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }

    /// True for the first failure in a row.
    pub(crate) fn is_first(&self) -> bool {
        self.failures == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_claimed_ahead_before_an_attempt_was_seen_and_for_long_ones() {
        let mut pace = Prefetch::new(512);
        assert_eq!(pace.ahead(2, 1_000), 0);
        (0..100).for_each(|_| pace.learn(30_000));
        assert_eq!(pace.ahead(2, 1_000), 0);
    }

    #[test]
    fn short_attempts_fill_about_twenty_milliseconds_a_thread() {
        let mut pace = Prefetch::new(512);
        (0..200).for_each(|_| pace.learn(1_000));
        assert_eq!(pace.ahead(2, 1_000), 40);
        (0..200).for_each(|_| pace.learn(0));
        assert_eq!(pace.ahead(2, 1_000), 512);
        pace.stalled();
        assert_eq!(pace.ahead(2, 1_000), 0);
    }

    #[test]
    fn an_idle_worker_claims_nothing_ahead_and_grows_with_what_it_finishes() {
        let mut pace = Prefetch::new(512);
        (0..200).for_each(|_| pace.learn(20));
        assert_eq!([0, 4, 16, 64, 256].map(|finished| pace.ahead(2, finished)), [0, 16, 64, 256, 512]);
    }

    #[test]
    fn one_long_attempt_among_short_ones_stops_claiming_ahead() {
        let mut pace = Prefetch::new(512);
        (0..200).for_each(|_| pace.learn(20));
        pace.learn(10_000_000);
        assert_eq!(pace.ahead(2, 1_000), 0);
    }

    #[test]
    fn retries_back_off_to_two_seconds_and_forget_on_success() {
        let mut retries = Retries::default();
        let delays: Vec<u64> = (0..8).map(|_| retries.next_ms(u64::MAX)).collect();
        assert!(delays.iter().all(|ms| (50..=2_000).contains(ms)), "{delays:?}");
        assert!(retries.succeeded() && retries.is_first() && !retries.succeeded());
    }
}
