//! The passage of time: promote, reap, prune.

use umbel_broker::{
    Promoted, Reaped,
    rules::{
        lease::{self, Lost},
        usage,
    },
};
use umbel_model::{JobState, TenantId, UnixMs};

use crate::writer::{
    jobs::head::{self, Head},
    step::{FollowUp, Step},
};
use crate::{
    error::Fault,
    rows::{ENDED, RUNS, WAITS, changed},
};

/// Idempotency keys that one prune deletes at most.
const IDEMPOTENCY_SWEEP: u32 = 5_000;

/// Rates that one prune forgets at most.
const RATE_SWEEP: u32 = 5_000;

/// Sums of usage that one prune deletes at most.
const USAGE_SWEEP: u32 = 2_000;

const SWEEP_USAGE: &str = "DELETE FROM usage WHERE (tenant, hour, task) IN
    (SELECT tenant, hour, task FROM usage INDEXED BY usage_hour WHERE hour < ? LIMIT ?)";
const SWEEP_IDEMPOTENCY: &str = "DELETE FROM idempotency WHERE (tenant, key) IN
    (SELECT tenant, key FROM idempotency INDEXED BY idempotency_expiry WHERE expires_at <= ? LIMIT ?)";

impl Step<'_> {
    pub(crate) fn promote(&mut self, max: u32) -> Result<Promoted, Fault> {
        // Read at once, with one more for `next_due`: what is queued here may have to be looked at again later.
        let waiting = head::by_time(self.conn, self.scheduler, WAITS, UnixMs::MAX, max.saturating_add(1))?;
        let (opened, opens) = self.scheduler.open_rates(max);
        let deadline = self.pass_deadlines(max)?;
        let mut promoted = Promoted { opened, ..Promoted::default() };
        for mut head in waiting {
            if head.at.is_none_or(|at| at > self.now) || promoted.moved + promoted.expired == max {
                promoted.next_due = head.at;
                break;
            }
            self.leave(&mut head)?;
            if head.expired(self.now) {
                self.finish(&mut head, JobState::Expired)?;
                promoted.expired += 1;
            } else {
                self.enqueue(&mut head)?;
                promoted.moved += 1;
            }
            self.save(&mut head)?;
        }
        self.advance()?;
        // In a file without room it is looked at as often as time passes, not at once.
        let goes_on =
            self.follow_up == FollowUp::All && !self.workflows.work_items.is_empty() && !self.is_nearly_full()?;
        let left = goes_on.then_some(self.now);
        promoted.next_due = [promoted.next_due, opens, deadline, left].into_iter().flatten().min();
        Ok(promoted)
    }

    pub(crate) fn reap(&mut self, max: u32) -> Result<Reaped, Fault> {
        let mut reaped = Reaped::default();
        let max = if self.reaping.may_reap(self.now) { max } else { 0 };
        for mut head in head::by_time(self.conn, self.scheduler, RUNS, self.now, max)? {
            self.leave(&mut head)?;
            head.token = None;
            let worker = head.worker.clone().ok_or_else(|| Fault::stored("running job", "it has no worker"))?;
            head.remember(self.conn, &lease::lost_record(self.now, head.retries, head.deliveries, worker))?;
            self.add_usage(&head, &usage::of_lost())?;
            let on_lost = head.broker_options(self.conn)?.map(|options| options.on_lost);
            let (cancelled, on_lost) = (head.cancel_requested, on_lost.unwrap_or_default());
            match lease::lost(cancelled, on_lost, head.deliveries, head.max_deliveries, &mut reaped) {
                Lost::Revoke => self.finish(&mut head, JobState::Revoked)?,
                Lost::Fail { failure, dead } => {
                    head.put_failure(self.conn, &failure)?;
                    self.end(&mut head, JobState::Failed, dead)?;
                }
                Lost::Requeue { at_its_place: true } => self.enqueue_at_its_place(&mut head)?,
                Lost::Requeue { at_its_place: false } => self.enqueue(&mut head)?,
            }
            self.save(&mut head)?;
        }
        self.advance()?;
        Ok(reaped)
    }

    /// How many jobs, nodes and workflows were deleted, and whether more keys may be over.
    pub(crate) fn prune(&mut self, max: u32) -> Result<(u32, bool), Fault> {
        let keys = changed(self.conn, SWEEP_IDEMPOTENCY, &[&self.now, &IDEMPOTENCY_SWEEP])?;
        let idempotency = keys == u64::from(IDEMPOTENCY_SWEEP);
        let sweeps = [
            idempotency,
            self.sweep_unique()?,
            self.sweep_rates(RATE_SWEEP)?,
            self.sweep_entries()?,
            self.sweep_usage()?,
        ];
        self.sweep_events()?;
        self.scheduler.forget_queues();
        let mut jobs = head::by_time(self.conn, self.scheduler, ENDED, self.now, max)?.into_iter().peekable();
        let mut count = 0;
        for over in self.workflows_over(max)? {
            let is_before =
                |head: &Head, tenant: &TenantId| (head.at, tenant, head.id) <= (Some(over.at), &over.tenant, over.id);
            while count < max
                && let Some(mut head) = jobs.next_if(|head| is_before(head, self.scheduler.tenant(head.queue_id)))
            {
                self.delete_job(&mut head)?;
                count += 1;
            }
            if count < max {
                count += self.prune_workflow(&over, max - count)?;
            }
        }
        for mut head in jobs.take((max - count) as usize) {
            self.delete_job(&mut head)?;
            count += 1;
        }
        Ok((count, sweeps.contains(&true)))
    }

    /// Deletes sums of usage that are kept no longer; whether there may be more.
    fn sweep_usage(&mut self) -> Result<bool, Fault> {
        let first_kept = usage::first_kept(self.now, self.limits.usage_retention_ms);
        Ok(changed(self.conn, SWEEP_USAGE, &[&first_kept, &USAGE_SWEEP])? == u64::from(USAGE_SWEEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeping_keys_costs_what_it_deletes() {
        for sql in [SWEEP_IDEMPOTENCY, SWEEP_USAGE] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
