//! Renewals: leases, progress and log lines of all held deliveries in one request, independent of everything else.

use std::time::{Duration, Instant};

use umbel_broker::{Error as BrokerError, LeaseState};

use super::Conductor;
use crate::held::Renewing;

/// What runs is asked for this often, however long its lease is: a job is cancelled within a second even when the hint
/// is lost. All held deliveries go together, so it is one round trip.
const EVERY: Duration = Duration::from_millis(800);
/// Those claimed or renewed since are left out: most short jobs end before they are ever renewed.
const FRESH: Duration = Duration::from_millis(100);

pub(super) type Renewal =
    std::pin::Pin<Box<dyn Future<Output = (Renewing, Result<Vec<LeaseState>, BrokerError>)> + Send>>;

impl Conductor {
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
        self.bells.answer();
        // On a flush only those go along whose time has come anyway.
        let renewing = self.book.renewing(now, if due { FRESH } else { lease / 6 }, all)?;
        let (broker, lease_ms) = (self.broker.clone(), self.config.lease_ms);
        Some(Box::pin(async move {
            let answer = tokio::time::timeout(lease / 3, broker.renew(lease_ms, &renewing.renewals)).await;
            (renewing, answer.unwrap_or_else(|_| Err(BrokerError::Unavailable("no answer in time".into()))))
        }))
    }

    pub(super) fn renewal_done(&mut self, renewing: Renewing, answer: Result<Vec<LeaseState>, BrokerError>) {
        match answer {
            Ok(states) => {
                self.book.renewed(&renewing, &states);
                self.renewals_fail = false;
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
