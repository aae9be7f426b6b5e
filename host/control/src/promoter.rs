//! Queues jobs whose time has come and ends those that expired.

use std::{
    sync::Mutex,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use umbel_broker::Broker;
use umbel_model::UnixMs;

use crate::{ControlConfig, Error, service::Service};

pub(crate) struct Promoter {
    pub(crate) config: ControlConfig,
    /// When a rate last allowed blocked jobs to start.
    pub(crate) opened: Mutex<Option<Instant>>,
}

/// The longest pause while rates are at work: a claim may block jobs at a rate at any time.
const RATE_PAUSE: Duration = Duration::from_millis(5);
/// Rates count as at work for this time after they last allowed a job to start. Longer than most jobs take.
const RATES_ACTIVE: Duration = Duration::from_secs(1);

/// The shortest pause: `next_due` is by the broker's clock, and a broker whose clock is behind must not be polled without end.
const MIN_PAUSE: Duration = Duration::from_millis(5);

/// By this machine's clock.
pub(crate) fn now_ms() -> UnixMs {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as UnixMs)
}

impl Promoter {
    /// Until the next one is due, but never longer than the period: a clock that differs costs at most that.
    fn pause(&self, next_due: Option<UnixMs>, now: UnixMs) -> Duration {
        let every = self.config.promote_every;
        let most = if self.rates_are_at_work() { RATE_PAUSE.min(every) } else { every };
        let until = next_due.map_or(most, |due| Duration::from_millis(due.saturating_sub(now)));
        until.clamp(MIN_PAUSE.min(every), most)
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn rates_are_at_work(&self) -> bool {
        self.opened().is_some_and(|last| last.elapsed() < RATES_ACTIVE)
    }
}

impl Service for Promoter {
    const NAME: &'static str = "promoter";

    async fn step(&self, broker: &dyn Broker) -> Result<Duration, Error> {
        let promoted = broker.promote(self.config.batch).await?;
        if promoted.opened > 0 {
            *self.opened() = Some(Instant::now());
        }
        let full = (promoted.moved + promoted.expired).max(promoted.opened) >= self.config.batch;
        Ok(if full { Duration::ZERO } else { self.pause(promoted.next_due, now_ms()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_lasts_until_the_next_is_due_within_the_period() {
        let promoter = Promoter { config: ControlConfig::default(), opened: Mutex::new(None) };
        let pause = |due| promoter.pause(due, 1_000).as_millis();
        assert_eq!(pause(None), 200);
        assert_eq!(pause(Some(1_050)), 50);
        assert_eq!(pause(Some(9_999)), 200);
        // Overdue by this machine's clock, but not by the broker's.
        assert_eq!(pause(Some(900)), 5);
        // A claim may block jobs at a rate at any time.
        *promoter.opened() = Some(Instant::now());
        assert_eq!([pause(None), pause(Some(1_050)), pause(Some(9_999))], [5, 5, 5]);
    }
}
