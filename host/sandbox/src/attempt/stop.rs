//! Lets the owner of an attempt end it from outside.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use tokio::sync::Notify;
use umbel_model::Outcome;

/// Why an attempt is stopped, and so its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It was cancelled: `Outcome::Revoked`.
    Cancel,
    /// Its worker gives it back: `Outcome::Released`.
    Release,
}

impl Stop {
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Cancel => Outcome::Revoked,
            Self::Release => Outcome::Released,
        }
    }
}

const RUNNING: u8 = 0;
const ASKED: u8 = 1;
const CANCEL: u8 = 2;
const RELEASE: u8 = 3;

/// Stops one attempt, whether the guest computes or waits in a host call. Clones are the same handle.
#[derive(Debug, Clone, Default)]
pub struct StopHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    notify: Notify,
}

impl StopHandle {
    pub fn new() -> Self {
        Self::default()
    }

    /// Turns the guest's `should-stop` true; it may go on.
    pub fn ask(&self) {
        let _ = self.shared.state.compare_exchange(RUNNING, ASKED, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Ends the attempt within about two epoch ticks. The first reason stays.
    pub fn stop(&self, stop: Stop) {
        let new = if stop == Stop::Cancel { CANCEL } else { RELEASE };
        let update = |old| (old < CANCEL).then_some(new);
        let _ = self.shared.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, update);
        self.shared.notify.notify_waiters();
    }

    /// True once `ask` or `stop` was called.
    pub fn is_asked(&self) -> bool {
        self.shared.state.load(Ordering::Acquire) != RUNNING
    }

    /// The reason, once `stop` was called.
    pub fn stopped(&self) -> Option<Stop> {
        match self.shared.state.load(Ordering::Acquire) {
            CANCEL => Some(Stop::Cancel),
            RELEASE => Some(Stop::Release),
            _ => None,
        }
    }

    /// Waits for `stop`. Safe to drop at any await.
    pub async fn wait(&self) -> Stop {
        loop {
            let notified = self.shared.notify.notified();
            tokio::pin!(notified);
            // Registered before the look, so that a stop between the two is not missed.
            notified.as_mut().enable();
            if let Some(stop) = self.stopped() {
                return stop;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_to_stop_stays() {
        let handle = StopHandle::new();
        assert!(!handle.is_asked());
        handle.ask();
        assert!(handle.is_asked() && handle.stopped().is_none());
        handle.stop(Stop::Release);
        handle.stop(Stop::Cancel);
        handle.ask();
        assert_eq!(handle.stopped(), Some(Stop::Release));
    }
}
