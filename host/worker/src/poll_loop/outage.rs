//! Whether leases that could not be renewed are still held: as long as the store serves nobody, nobody can take them back.
//!
//! Example: the store stalls for 20 s, and leases last 15 s. After half of that the store is asked on a connection of its own
//! and does not answer: guests go on. It is asked again until it answers, and takes back nothing for one lease from then on
//! (see `umbel_broker::rules::lease`). A worker that is cut off while the store serves others is told so by nobody, and stops its guests.
//!
//! Plain decisions; the poll loop has the clock.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use umbel_broker::{Broker, rules::lease::GRACE_MS};

/// The longest time that the store is given for an answer.
const LONGEST_ASK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    /// It served nobody; that counts until then.
    Away(Instant),
    /// It was away without a pause and serves again: until then nothing is taken back.
    Back(Instant),
}

/// See the top of the file.
pub(super) struct Outage {
    /// How long an answer may take.
    ask: Duration,
    /// Leases are renewed each third of their time: one that has less left than this was to be renewed, and was not.
    overdue: Duration,
    /// How long leases are kept after it came back.
    grace: Duration,
    known: Known,
    asked: Option<Instant>,
}

/// Whether the store serves nobody.
pub(super) type Asking = BoxFuture<'static, bool>;

impl Outage {
    pub(super) fn new(lease: Duration) -> Self {
        let ask = (lease / 5).min(LONGEST_ASK);
        let grace = lease.min(Duration::from_millis(GRACE_MS)) / 2;
        Self { ask, overdue: lease / 2, grace, known: Known::Nothing, asked: None }
    }

    /// Asks the store when a lease that ends at `soonest` was not renewed in time: early enough that a machine with much to
    /// do hears several answers before guests are stopped.
    pub(super) fn ask(&mut self, now: Instant, soonest: Option<Instant>, broker: &Arc<dyn Broker>) -> Option<Asking> {
        if !self.is_to_ask(now, soonest) {
            return None;
        }
        self.asked = Some(now);
        let (broker, limit) = (broker.clone(), self.ask);
        Some(Box::pin(async move { broker.is_away(limit).await }))
    }

    fn is_to_ask(&mut self, now: Instant, soonest: Option<Instant>) -> bool {
        if soonest.is_none_or(|soonest| soonest > now + self.overdue) {
            // All were renewed.
            (self.known, self.asked) = (Known::Nothing, None);
            return false;
        }
        self.asked.is_none_or(|asked| asked + self.ask <= now)
    }

    /// Takes the answer.
    pub(super) fn answered(&mut self, now: Instant, is_away: bool) {
        self.known = match self.known {
            _ if is_away => Known::Away(now + 4 * self.ask),
            Known::Away(_) if self.keeps(now) => Known::Back(now + self.grace),
            known => known,
        };
    }

    /// Whether leases are held whose time is over.
    pub(super) fn keeps(&self, now: Instant) -> bool {
        matches!(self.known, Known::Away(until) | Known::Back(until) if until > now)
    }

    /// Whether the store was seen to serve nobody, and not to serve again.
    pub(super) fn is_away(&self) -> bool {
        matches!(self.known, Known::Away(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_kept_while_the_store_is_away_and_for_a_while_after_and_not_without_knowing_it() {
        let (lease, start) = (Duration::from_secs(10), Instant::now());
        let (mut outage, second) = (Outage::new(lease), Duration::from_secs(1));
        let soonest = Some(start + lease);
        assert!(!outage.is_to_ask(start, soonest) && !outage.is_to_ask(start, None));
        let asked = start + lease / 2;
        assert!(outage.is_to_ask(asked, soonest) && !outage.keeps(asked));
        outage.asked = Some(asked);
        assert!(!outage.is_to_ask(asked, soonest));
        // It serves others: nothing is known of what they did.
        outage.answered(asked + second, false);
        assert!(!outage.keeps(asked + second));
        let mut now = asked;
        for _ in 0..100 {
            now += second;
            assert!(outage.is_to_ask(now, soonest));
            outage.answered(now, true);
            assert!(outage.keeps(now + second) && outage.is_away());
        }
        now += second;
        outage.answered(now, false);
        assert!(outage.keeps(now + 4 * second) && !outage.is_away());
        // That is not prolonged by one that answers and renews nothing.
        outage.answered(now + 4 * second, false);
        assert!(!outage.keeps(now + 5 * second));
        // All were renewed: the next outage begins from nothing.
        outage.answered(now, true);
        assert!(!outage.is_to_ask(now, Some(now + lease)) && !outage.keeps(now));
    }
}
