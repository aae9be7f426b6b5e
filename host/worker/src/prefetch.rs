//! How many deliveries to claim ahead of the free slots: plain arithmetic, no clock, no IO.
//!
//! Invariant: work is claimed ahead only while attempts are short, so that a job never waits behind a long one on
//! this worker while another worker is free.
//!
//! Example: two guest threads and attempts of 1 ms. 20 ms of work on two threads are 40 deliveries, so up to 40 are held
//! beyond the free slots.

/// Work claimed ahead, microseconds of it per guest thread: covers a round trip to the broker and a gathering.
const PREFETCH_US: u64 = 20_000;
/// Deliveries claimed ahead at most, however short they are.
pub(crate) const MAX_PREFETCH: u32 = 512;
/// Deliveries claimed ahead at most for each one that finished since the last claim.
const GROWTH: u64 = 4;
/// Weight of the newest attempt in the mean: 1/16.
const WEIGHT: u64 = 16;
/// The mean that is assumed after the local queue stalled: too long to claim ahead.
const LONG_US: u64 = 1_000_000;

/// Recent mean duration of attempts, and how many deliveries that allows to claim ahead.
#[derive(Debug)]
pub(crate) struct Prefetch {
    /// None before an attempt ended.
    mean_us: Option<u64>,
    max_ahead: u32,
    /// As many as the attempts that finished allow, while claims bring all that they ask for.
    earned: u64,
    /// Deliveries to hold beyond the free slots, as of the last `update`.
    pub(crate) count: u32,
}

impl Prefetch {
    /// `max_ahead` is cut to `MAX_PREFETCH`.
    pub(crate) fn new(max_ahead: u32) -> Self {
        Self { mean_us: None, max_ahead: max_ahead.min(MAX_PREFETCH), earned: 0, count: 0 }
    }

    /// Learns from an attempt: how long it was on its slot, microseconds.
    pub(crate) fn learn(&mut self, took_us: u64) {
        let took_us = took_us.min(60_000_000);
        self.mean_us = Some(self.mean_us.map_or(took_us, |mean| (mean * (WEIGHT - 1) + took_us) / WEIGHT));
    }

    /// No slot took from the local queue: nothing is claimed ahead until short attempts end again.
    pub(crate) fn stalled(&mut self) {
        self.mean_us = self.mean_us.map(|_| LONG_US);
    }

    /// A claim brought fewer deliveries than it asked for: from now on it must be earned anew to claim ahead.
    pub(crate) fn found_the_end(&mut self) {
        self.earned = 0;
    }

    /// Decides anew how many. `finished` attempts whose settles are not answered: a worker that was idle claims no more
    /// than its slots and leaves the rest to others; a busy one reaches its full number in a few claims.
    pub(crate) fn update(&mut self, guest_threads: u32, finished: usize) -> u32 {
        let short_us = self.mean_us.filter(|mean| *mean < PREFETCH_US);
        let jobs = short_us.map_or(0, |mean| PREFETCH_US * u64::from(guest_threads) / mean.max(1));
        self.earned = self.earned.max(GROWTH.saturating_mul(finished as u64));
        self.count = u32::try_from(jobs.min(self.earned)).unwrap_or(u32::MAX).min(self.max_ahead);
        self.count
    }

    /// Settles that are worth a round trip. None if so little is claimed ahead that they should not wait for others.
    pub(crate) fn batch(&self) -> Option<usize> {
        (self.count >= 32).then_some((self.count as usize / 8).max(16))
    }

    /// Settles that are worth a round trip beside another one.
    pub(crate) fn second_batch(&self) -> Option<usize> {
        (self.count >= 128).then_some(self.count as usize / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_claimed_ahead_before_an_attempt_was_seen_and_for_long_ones() {
        let mut prefetch = Prefetch::new(512);
        assert_eq!(prefetch.update(2, 1_000), 0);
        (0..100).for_each(|_| prefetch.learn(30_000));
        assert_eq!(prefetch.update(2, 1_000), 0);
    }

    #[test]
    fn short_attempts_fill_about_twenty_milliseconds_a_thread() {
        let mut prefetch = Prefetch::new(512);
        (0..200).for_each(|_| prefetch.learn(1_000));
        assert_eq!(prefetch.update(2, 1_000), 40);
        (0..200).for_each(|_| prefetch.learn(0));
        assert_eq!(prefetch.update(2, 1_000), 512);
        prefetch.stalled();
        assert_eq!(prefetch.update(2, 1_000), 0);
    }

    #[test]
    fn a_full_number_is_kept_while_claims_are_full_and_earned_anew_after_one_that_was_not() {
        let mut prefetch = Prefetch::new(512);
        (0..200).for_each(|_| prefetch.learn(20));
        assert_eq!([128, 1, 0].map(|finished| prefetch.update(2, finished)), [512, 512, 512]);
        prefetch.found_the_end();
        assert_eq!([1, 2, 1].map(|finished| prefetch.update(2, finished)), [4, 8, 8]);
    }

    #[test]
    fn settles_wait_for_others_only_where_much_is_claimed_ahead() {
        let batches = |count| {
            let prefetch = Prefetch { count, ..Prefetch::new(512) };
            (prefetch.batch(), prefetch.second_batch())
        };
        assert_eq!(batches(31), (None, None));
        assert_eq!(batches(100), (Some(16), None));
        assert_eq!(batches(512), (Some(64), Some(128)));
    }

    #[test]
    fn an_idle_worker_claims_nothing_ahead_and_grows_with_what_it_finishes() {
        let mut prefetch = Prefetch::new(512);
        (0..200).for_each(|_| prefetch.learn(20));
        assert_eq!([0, 4, 16, 64, 256].map(|finished| prefetch.update(2, finished)), [0, 16, 64, 256, 512]);
    }

    #[test]
    fn one_long_attempt_among_short_ones_stops_claiming_ahead() {
        let mut prefetch = Prefetch::new(512);
        (0..200).for_each(|_| prefetch.learn(20));
        prefetch.learn(10_000_000);
        assert_eq!(prefetch.update(2, 1_000), 0);
    }
}
