//! Leases: renewal, cancellation of a running job, and jobs whose lease is over.

use umbel_model::{AttemptRecord, Failure, OnWorkerLost, UnixMs, Usage, WorkerId};

use crate::{LeaseState, Reaped, WORKER_LOST, WORKER_LOST_MESSAGE};

/// The fence of a new delivery: microseconds, and always more than the last one.
pub fn next_fence(now: UnixMs, last: u64) -> u64 {
    now.saturating_mul(1_000).max(last + 1)
}

/// The answer to a renewal.
pub fn state(cancel_requested: bool, let_end: bool) -> LeaseState {
    if cancel_requested && !let_end { LeaseState::Cancel } else { LeaseState::Held }
}

/// Whether a running job that is cancelled is left to end: once it is to be stopped, it is.
pub fn is_let_end(terminate: bool, cancel_requested: bool, let_end: bool) -> bool {
    !terminate && (let_end || !cancel_requested)
}

/// The next step of a job whose worker was lost.
#[derive(Debug, Clone, PartialEq)]
pub enum Lost {
    Revoke,
    Fail {
        failure: Failure,
        dead: bool,
    },
    /// Once, to its place. Lost again, it goes to the end: it must not meet the same others in front of the queue for ever.
    Requeue {
        at_its_place: bool,
    },
}

/// Decides about a lost delivery, and counts it.
pub fn lost(
    cancel_requested: bool,
    on_lost: OnWorkerLost,
    deliveries: u32,
    max_deliveries: u32,
    reaped: &mut Reaped,
) -> Lost {
    let fail = |kind: &str, message: String, dead| Lost::Fail { failure: Failure::new(kind, message), dead };
    let (count, lost) = match on_lost {
        _ if cancel_requested => (&mut reaped.revoked, Lost::Revoke),
        OnWorkerLost::Dead => (&mut reaped.buried, fail(WORKER_LOST, WORKER_LOST_MESSAGE.to_owned(), true)),
        OnWorkerLost::Fail => (&mut reaped.failed, fail(WORKER_LOST, WORKER_LOST_MESSAGE.to_owned(), false)),
        OnWorkerLost::Requeue if deliveries >= max_deliveries => {
            (&mut reaped.buried, fail("max_deliveries", max_deliveries_message(deliveries), true))
        }
        OnWorkerLost::Requeue => (&mut reaped.requeued, Lost::Requeue { at_its_place: deliveries < 2 }),
    };
    *count += 1;
    lost
}

/// The entry of a lost delivery in the history.
pub fn lost_record(now: UnixMs, retries: u32, delivery: u32, worker: WorkerId) -> AttemptRecord {
    let (attempt, outcome) = (retries + 1, "lost".into());
    AttemptRecord { attempt, delivery, worker, ended_at: now, outcome, failure: None, usage: Usage::default() }
}

/// The failure's message of a job that was delivered too often.
pub fn max_deliveries_message(deliveries: u32) -> String {
    format!("its worker was lost in each of {deliveries} deliveries")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_job_is_requeued_once_at_its_place_and_buried_in_the_end() {
        let mut reaped = Reaped { requeued: 0, buried: 0, failed: 0, revoked: 0 };
        let mut after = |deliveries| lost(false, OnWorkerLost::Requeue, deliveries, 3, &mut reaped);
        assert_eq!(after(1), Lost::Requeue { at_its_place: true });
        assert_eq!(after(2), Lost::Requeue { at_its_place: false });
        assert!(matches!(after(3), Lost::Fail { dead: true, .. }));
        assert_eq!(lost(true, OnWorkerLost::Fail, 1, 3, &mut reaped), Lost::Revoke);
        assert_eq!(reaped, Reaped { requeued: 2, buried: 1, failed: 0, revoked: 1 });
    }

    #[test]
    fn a_job_that_is_to_be_stopped_is_not_let_end_any_more() {
        assert!(is_let_end(false, false, false));
        assert!(is_let_end(false, true, true));
        assert!(!is_let_end(false, true, false));
        assert!(!is_let_end(true, true, true));
    }
}
