//! Leases: renewal, cancellation of a running job, and jobs whose lease is over.

use umbel_model::{AttemptRecord, Failure, OnWorkerLost, UnixMs, Usage, WorkerId};

use crate::{DEFAULT_LEASE_MS, LeaseState, Reaped, WORKER_LOST, WORKER_LOST_MESSAGE};

/// Reaping happens every second, and within two by another process when its own dies. More time than this between two of
/// them, milliseconds, means that the store was away, or its clock was set: leases ended that nobody could renew.
pub const OUTAGE_MS: u64 = 3_000;
/// Nothing is reaped for so long after an outage, milliseconds: workers renew within it what they hold.
pub const GRACE_MS: u64 = DEFAULT_LEASE_MS;

/// When leases may be taken back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reaping {
    /// Of the last reaping, if there was one.
    last: Option<UnixMs>,
    /// Nothing is taken back before.
    from: UnixMs,
}

impl Reaping {
    /// Notes a reaping; whether it may take leases back.
    pub fn may_reap(&mut self, now: UnixMs) -> bool {
        let last = self.last.replace(now).unwrap_or(now);
        let grace_end = now.saturating_add(GRACE_MS);
        if now.saturating_sub(last) > OUTAGE_MS {
            self.from = grace_end;
        }
        // The clock may have been set back.
        self.from = self.from.min(grace_end);
        now >= self.from
    }
}

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
    fn after_an_outage_nothing_is_reaped_for_one_lease_also_when_the_clock_is_set() {
        let mut reaping = Reaping::default();
        let start = 1_000_000;
        assert!(reaping.may_reap(start) && reaping.may_reap(start + OUTAGE_MS));
        let back = start + 2 * OUTAGE_MS + 1;
        assert!(!reaping.may_reap(back));
        // A second outage within the grace begins it anew.
        let again = back + GRACE_MS - 1;
        assert!(!reaping.may_reap(again));
        let mut now = again;
        while now < again + GRACE_MS - OUTAGE_MS {
            now += OUTAGE_MS;
            assert_eq!(reaping.may_reap(now), now >= again + GRACE_MS, "{now}");
        }
        assert!(reaping.may_reap(again + GRACE_MS));
        assert!(!reaping.may_reap(again + 100_000));
        // Set back: nobody waits for the old time to come again.
        assert!(!reaping.may_reap(start));
        assert!((1..=GRACE_MS / OUTAGE_MS).any(|n| reaping.may_reap(start + n * OUTAGE_MS)));
    }

    #[test]
    fn a_job_that_is_to_be_stopped_is_not_let_end_any_more() {
        assert!(is_let_end(false, false, false));
        assert!(is_let_end(false, true, true));
        assert!(!is_let_end(false, true, false));
        assert!(!is_let_end(true, true, true));
    }
}
