//! Lets the owner of an attempt end it from outside.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
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

/// Stops one attempt, whether the guest computes or waits in a host call. Clones are the same handle.
#[derive(Debug, Clone, Default)]
pub struct StopHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    is_asked: AtomicBool,
    stop: OnceLock<Stop>,
    notify: Notify,
}

impl StopHandle {
    pub fn new() -> Self {
        Self::default()
    }

    /// Turns the guest's `should-stop` true; it may go on.
    pub fn ask(&self) {
        self.shared.is_asked.store(true, Ordering::Release);
    }

    /// Ends the attempt within about two epoch ticks. The first reason stays.
    pub fn stop(&self, stop: Stop) {
        let _ = self.shared.stop.set(stop);
        self.shared.notify.notify_waiters();
    }

    /// True once `ask` or `stop` was called.
    pub fn is_asked(&self) -> bool {
        self.shared.is_asked.load(Ordering::Acquire) || self.stopped().is_some()
    }

    /// The reason, once `stop` was called.
    pub fn stopped(&self) -> Option<Stop> {
        self.shared.stop.get().copied()
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
