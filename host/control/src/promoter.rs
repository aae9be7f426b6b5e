//! Queues jobs whose time has come and ends those that expired.

use std::{
    sync::Mutex,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use umbel_broker::Broker;
use umbel_model::UnixMs;

use crate::service::{Service, Step};

pub(crate) struct Promoter {
    pub(crate) every: Duration,
    pub(crate) batch: u32,
    /// When a rate opened something last.
    pub(crate) opened: Mutex<Option<Instant>>,
}

/// How often is looked while rates are at work: what they opened is parked anew by a claim at any time.
const OF_RATES: Duration = Duration::from_millis(10);
/// So long after the last one. Longer than most jobs take to free a slot for the next.
const RATES_LAST: Duration = Duration::from_secs(1);

/// The shortest pause: `next_due` is by the broker's clock, and where that one is behind ours it must not be a spin.
const SHORTEST: Duration = Duration::from_millis(5);

/// By this machine's clock.
pub(crate) fn now_ms() -> UnixMs {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as UnixMs)
}

impl Promoter {
    /// Until the next one is due, but never longer than the period: a clock that differs costs at most that.
    fn pause(&self, next_due: Option<UnixMs>, now: UnixMs) -> Duration {
        let most = if self.rates_are_at_work() { OF_RATES.min(self.every) } else { self.every };
        let until = next_due.map_or(most, |due| Duration::from_millis(due.saturating_sub(now)));
        until.clamp(SHORTEST.min(self.every), most)
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn rates_are_at_work(&self) -> bool {
        self.opened().is_some_and(|last| last.elapsed() < RATES_LAST)
    }
}

impl Service for Promoter {
    fn name(&self) -> &'static str {
        "promoter"
    }

    fn step<'a>(&'a self, broker: &'a dyn Broker) -> Step<'a> {
        Box::pin(async move {
            let promoted = broker.promote(self.batch).await?;
            if promoted.opened > 0 {
                *self.opened() = Some(Instant::now());
            }
            let full = (promoted.moved + promoted.expired).max(promoted.opened) >= self.batch;
            Ok(if full { Duration::ZERO } else { self.pause(promoted.next_due, now_ms()) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_lasts_until_the_next_is_due_within_the_period() {
        let promoter = Promoter { every: Duration::from_millis(200), batch: 1, opened: Mutex::new(None) };
        let pause = |due| promoter.pause(due, 1_000).as_millis();
        assert_eq!(pause(None), 200);
        assert_eq!(pause(Some(1_050)), 50);
        assert_eq!(pause(Some(9_999)), 200);
        // Overdue by this clock, not by the broker's.
        assert_eq!(pause(Some(900)), 5);
        // What a rate opened is parked anew at any time.
        *promoter.opened() = Some(Instant::now());
        assert_eq!([pause(None), pause(Some(1_050)), pause(Some(9_999))], [10, 10, 10]);
    }
}
