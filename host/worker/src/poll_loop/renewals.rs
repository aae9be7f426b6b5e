//! When leases are renewed: all of them in one request, with the progress and log lines of their guests. Renewals depend
//! on nothing else that the worker does.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use umbel_broker::{Broker, Error as BrokerError, LeaseState, Renewal as Lease};

use crate::{
    active_delivery::Wakers,
    broker_failures::is_fault_of_request,
    leases::{LeaseTable, PendingRenewal},
};

/// The longest time between two renewals, however long the lease is: so a job is cancelled within a second even when the
/// hint is lost.
const EVERY: Duration = Duration::from_millis(800);
/// Leases that were claimed or renewed so recently are not renewed: most short jobs end before their first renewal.
const YOUNG: Duration = Duration::from_millis(100);
/// Reports wait at most this long for a renewal.
const FLUSH: Duration = Duration::from_millis(250);

/// One answer per lease; None for a lease that alone makes the broker fail.
type Answer = Result<Vec<Option<LeaseState>>, BrokerError>;
/// A renewal that was sent, and its answer.
pub(super) type Sent = (PendingRenewal, Answer);

/// When the next renewal is sent.
#[derive(Debug)]
pub(super) struct Renewals {
    lease: Duration,
    wakers: Arc<Wakers>,
    next: Instant,
    /// A job here may be cancelled: renew every lease at once.
    pub(super) all_now: bool,
    /// When the reports of guests are sent.
    flush_at: Option<Instant>,
    /// The last renewal failed, for at least one lease.
    fails: bool,
}

impl Renewals {
    pub(super) fn new(lease: Duration, wakers: Arc<Wakers>, now: Instant) -> Self {
        Self { lease, wakers, next: now, all_now: false, flush_at: None, fails: false }
    }

    /// A guest reported something.
    pub(super) fn flush_soon(&mut self, now: Instant) {
        self.flush_at = self.flush_at.or(Some(now + FLUSH));
    }

    pub(super) fn next_wake(&self, leases: &LeaseTable) -> Option<Instant> {
        let next = (!leases.is_empty()).then_some(self.next);
        next.into_iter().chain(self.flush_at).min()
    }

    /// The renewal that is due now, if any lease needs one.
    pub(super) fn start(&mut self, now: Instant, leases: &mut LeaseTable) -> Option<PendingRenewal> {
        let is_due = self.next <= now;
        if !(is_due || self.all_now || self.flush_at.is_some_and(|at| at <= now)) {
            return None;
        }
        if is_due {
            self.next = now + EVERY.min(self.lease / 3);
        }
        self.flush_at = None;
        self.wakers.rearm();
        let all = std::mem::take(&mut self.all_now);
        // A flush takes along only the leases that would be renewed soon anyway.
        leases.renewal(now, if is_due { YOUNG } else { self.lease / 6 }, all)
    }

    /// Takes the answer to a renewal.
    pub(super) fn done(&mut self, now: Instant, leases: &mut LeaseTable, (pending, answer): Sent) {
        let states = match answer {
            Ok(states) => {
                let failed = states.iter().position(Option::is_none).map(|at| pending.renewals[at].id);
                if let (Some(job), false) = (failed, self.fails) {
                    tracing::error!(%job, "the lease of a job cannot be renewed; others can");
                }
                self.fails = failed.is_some();
                states
            }
            Err(error) => {
                if !std::mem::replace(&mut self.fails, true) {
                    tracing::warn!(%error, "leases could not be renewed; trying again");
                }
                self.next = now + (self.lease / 15).clamp(Duration::from_millis(50), Duration::from_secs(1));
                vec![None; pending.renewals.len()]
            }
        };
        leases.renewed(pending, &states);
    }
}

/// Sends a renewal. A broker that does not answer within a third of the lease counts as not reachable.
pub(super) async fn send(broker: Arc<dyn Broker>, lease_ms: u64, pending: PendingRenewal) -> Sent {
    let limit = Duration::from_millis(lease_ms) / 3;
    let answer = tokio::time::timeout(limit, renew(&*broker, lease_ms, &pending.renewals)).await;
    (pending, answer.unwrap_or_else(|_| Err(BrokerError::Unavailable("no answer in time".into()))))
}

/// Renews all leases at once. If the broker fails because of one of them, they are halved until it is known which: the
/// damage of one job must not cost another its lease.
async fn renew(broker: &dyn Broker, lease_ms: u64, renewals: &[Lease]) -> Answer {
    let mut states = Vec::with_capacity(renewals.len());
    let mut parts = vec![renewals];
    while let Some(part) = parts.pop() {
        match broker.renew(lease_ms, part).await {
            Ok(answers) => states.extend(answers.into_iter().map(Some)),
            Err(error) if !is_fault_of_request(&error) => return Err(error),
            // This is the last one, and no other could be renewed: the fault is not that of one lease.
            Err(error) if part.len() == 1 && parts.is_empty() && states.iter().all(Option::is_none) => {
                return Err(error);
            }
            Err(_) if part.len() == 1 => states.push(None),
            Err(_) => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
        }
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::active_delivery::ActiveDelivery;

    #[test]
    fn a_young_lease_is_renewed_only_by_a_cancel_and_an_old_one_at_its_time() {
        let (start, lease) = (Instant::now(), Duration::from_secs(3));
        let mut leases = LeaseTable::new(lease);
        let mut renewals = Renewals::new(lease, Arc::default(), start);
        assert!(renewals.next_wake(&leases).is_none());
        leases.add(ActiveDelivery::for_test(1, "{}"), start);
        assert!(renewals.start(start, &mut leases).is_none());
        renewals.all_now = true;
        let pending = renewals.start(start, &mut leases).unwrap();
        renewals.done(start, &mut leases, (pending, Ok(vec![Some(LeaseState::Held)])));
        assert_eq!(renewals.next_wake(&leases), Some(start + EVERY));
        let pending = renewals.start(start + EVERY, &mut leases).unwrap();
        // After a failure the next one comes soon.
        renewals.done(start + EVERY, &mut leases, (pending, Err(BrokerError::Unavailable("a test".into()))));
        assert_eq!(renewals.next_wake(&leases), Some(start + EVERY + lease / 15));
    }

    #[test]
    fn reports_are_sent_soon_and_together() {
        let start = Instant::now();
        let mut renewals = Renewals::new(Duration::from_secs(30), Arc::default(), start);
        let leases = LeaseTable::new(Duration::from_secs(30));
        renewals.flush_soon(start);
        renewals.flush_soon(start + FLUSH / 2);
        assert_eq!(renewals.next_wake(&leases), Some(start + FLUSH));
    }
}
