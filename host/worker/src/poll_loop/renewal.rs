//! Renewals: leases, progress and log lines of all held deliveries in one request, independent of everything else.

use std::time::{Duration, Instant};

use umbel_broker::{Broker, Error as BrokerError, LeaseState, Renewal as Lease};

use super::{PollLoop, round_trip::is_of_what_was_asked};
use crate::leases::Renewing;

/// What runs is asked for this often, however long its lease is: a job is cancelled within a second even when the hint
/// is lost. All held deliveries go together, so it is one round trip.
const EVERY: Duration = Duration::from_millis(800);
/// Those claimed or renewed since are left out: most short jobs end before they are ever renewed.
const FRESH: Duration = Duration::from_millis(100);

pub(super) type Renewal =
    std::pin::Pin<Box<dyn Future<Output = (Renewing, Result<Vec<Option<LeaseState>>, BrokerError>)> + Send>>;

impl PollLoop {
    pub(super) fn start_renewal(&mut self, now: Instant) -> Option<Renewal> {
        let due = self.next_renewal <= now;
        let flush = self.flush_at.is_some_and(|at| at <= now);
        if !(due || flush || self.renew_all_now) {
            return None;
        }
        let lease = Duration::from_millis(self.config.lease_ms);
        let all = std::mem::take(&mut self.renew_all_now);
        if due {
            self.next_renewal = now + EVERY.min(lease / 3);
        }
        self.flush_at = None;
        self.wakers.answer();
        // On a flush only those go along whose time has come anyway.
        let renewing = self.book.renewing(now, if due { FRESH } else { lease / 6 }, all)?;
        let (broker, lease_ms) = (self.broker.clone(), self.config.lease_ms);
        Some(Box::pin(async move {
            let answer = tokio::time::timeout(lease / 3, renewed(&*broker, lease_ms, &renewing.renewals)).await;
            (renewing, answer.unwrap_or_else(|_| Err(BrokerError::Unavailable("no answer in time".into()))))
        }))
    }

    pub(super) fn renewal_done(&mut self, renewing: Renewing, answer: Result<Vec<Option<LeaseState>>, BrokerError>) {
        match answer {
            Ok(states) => {
                let failed = states.iter().position(Option::is_none).map(|at| renewing.renewals[at].id);
                if let (Some(job), false) = (failed, self.renewals_fail) {
                    tracing::error!(worker = %self.config.id, %job, "the lease of a job cannot be renewed; others can");
                }
                self.renewals_fail = failed.is_some();
                self.book.renewed(renewing, &states);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.renewals_fail, true) {
                    tracing::warn!(worker = %self.config.id, %error, "leases could not be renewed; trying again");
                }
                let pause = Duration::from_millis((self.config.lease_ms / 15).clamp(50, 1_000));
                self.next_renewal = Instant::now() + pause;
                self.book.not_renewed(renewing);
            }
        }
        self.outbox.told();
    }
}

/// Renews all at once. If the broker fails by the fault of one of them, by halves until it is known which, so that no job
/// loses its lease by the damage of another; those have no answer.
async fn renewed(
    broker: &dyn Broker,
    lease_ms: u64,
    renewals: &[Lease],
) -> Result<Vec<Option<LeaseState>>, BrokerError> {
    let mut states = Vec::with_capacity(renewals.len());
    let mut parts = vec![renewals];
    while let Some(part) = parts.pop() {
        match broker.renew(lease_ms, part).await {
            Ok(answers) => states.extend(answers.into_iter().map(Some)),
            Err(error) if !is_of_what_was_asked(&error) => return Err(error),
            // None but this one is left, and no other was renewed: it is not the fault of one.
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
