//! Failures of the broker: whether one request may be their cause, and the pauses between tries. Plain arithmetic, no clock.

use std::time::{Duration, Instant};

use umbel_broker::Error as BrokerError;

/// Whether a failure may be the fault of one thing in the request, and not of the broker as a whole.
pub(crate) fn is_fault_of_request(error: &BrokerError) -> bool {
    !(error.is_transient() || matches!(error, BrokerError::Refused(_)))
}

/// A pause that doubles with each failure in a row, from 100 ms to 2 s; half of it is random.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// Notes a failure. True for the first one in a row; `random` is uniform.
    pub(crate) fn failed(&mut self, now: Instant, random: u64) -> bool {
        let full = (100_u64 << self.failures.min(5)).min(2_000);
        self.until = Some(now + Duration::from_millis(full / 2 + random % (full / 2 + 1)));
        self.failures = self.failures.saturating_add(1);
        self.failures == 1
    }

    /// Notes a success. True if it ends a row of failures.
    pub(crate) fn succeeded(&mut self) -> bool {
        self.until = None;
        std::mem::take(&mut self.failures) > 0
    }

    /// The end of the pause, while it lasts.
    pub(crate) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_refuses_everybody_is_no_reason_to_give_up_an_outcome() {
        let text = || "as the test wants".to_owned();
        for error in [BrokerError::Unavailable(text()), BrokerError::Full(text()), BrokerError::Refused(text())] {
            assert!(!is_fault_of_request(&error), "{error}");
        }
        for error in [BrokerError::Corrupt(text()), BrokerError::Failed(text())] {
            assert!(is_fault_of_request(&error), "{error}");
        }
    }

    #[test]
    fn retries_back_off_to_two_seconds_and_forget_on_success() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for failure in 0..8 {
            assert_eq!(backoff.failed(now, u64::MAX), failure == 0);
            let pause = backoff.until(now).unwrap() - now;
            assert!((50..=2_000).contains(&pause.as_millis()), "{pause:?}");
        }
        assert!(backoff.succeeded() && backoff.until(now).is_none() && !backoff.succeeded());
        assert!(backoff.failed(now, 0) && backoff.until(now + Duration::from_millis(50)).is_none());
    }
}
