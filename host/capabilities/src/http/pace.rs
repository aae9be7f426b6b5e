//! Whether a server sends fast enough. Only the time that the guest waits counts: a guest may read as slowly as it likes.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

#[derive(Debug)]
pub(crate) struct Pace {
    /// The longest pause.
    between: Duration,
    window: Duration,
    /// Bytes that must come within each window of waiting.
    least: u64,
    received: u64,
    /// Time waited in this window, without the wait that goes on.
    waited: Duration,
    waits: Option<Wait>,
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    since: Instant,
    /// When this window began within this wait.
    window_since: Instant,
}

impl Pace {
    /// `least_rate` in bytes per second.
    pub(crate) fn new(between: Duration, window: Duration, least_rate: u64) -> Self {
        let least = least_rate.saturating_mul(window.as_secs());
        Self { between, window, least, received: 0, waited: Duration::ZERO, waits: None, timer: None }
    }

    /// Something came; false if it is too little.
    pub(crate) fn received(&mut self, bytes: usize) -> bool {
        self.received += bytes as u64;
        if let Some(wait) = self.waits.take() {
            self.waited += wait.window_since.elapsed();
        }
        self.waited < self.window || self.next_window()
    }

    /// Nothing is there; ready when the server was too slow.
    pub(crate) fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            let wait = *self.waits.get_or_insert(Wait { since: now, window_since: now });
            let pause_ends = wait.since + self.between;
            let window_ends = wait.window_since + self.window.saturating_sub(self.waited);
            let until = pause_ends.min(window_ends);
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            if timer.deadline() != until {
                timer.as_mut().reset(until);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if until == pause_ends || !self.next_window() {
                return Poll::Ready(());
            }
            self.waits = Some(Wait { window_since: until, ..wait });
        }
    }

    fn next_window(&mut self) -> bool {
        self.waited = Duration::ZERO;
        std::mem::take(&mut self.received) >= self.least
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_pause_that_is_too_long_ends_it() {
        let mut pace = Pace::new(20 * MS, 10_000 * MS, 0);
        let began = Instant::now();
        assert!(pace.received(1));
        poll_fn(|cx| pace.poll_too_slow(cx)).await;
        assert!(began.elapsed() >= 20 * MS);
    }

    #[tokio::test]
    async fn a_trickle_ends_it_at_the_end_of_its_window() {
        let mut pace = Pace::new(60_000 * MS, 1_000 * MS, 100);
        for _ in 0..2 {
            let waits = poll_fn(|cx| Poll::Ready(pace.poll_too_slow(cx))).await;
            assert!(waits.is_pending());
            let wait = pace.waits.as_mut().unwrap();
            // As if it had waited for 600 ms.
            wait.window_since = wait.window_since.checked_sub(600 * MS).unwrap();
            let is_first = pace.waited.is_zero();
            assert_eq!(pace.received(1), is_first);
        }
    }

    #[tokio::test]
    async fn enough_in_each_window_goes_on() {
        let mut pace = Pace::new(60_000 * MS, 10 * MS, 100);
        pace.least = 100;
        pace.received(100);
        let slow = tokio::time::timeout(MS, poll_fn(|cx| pace.poll_too_slow(cx))).await;
        assert!(slow.is_err());
        pace.received(100);
        poll_fn(|cx| pace.poll_too_slow(cx)).await;
    }
}
