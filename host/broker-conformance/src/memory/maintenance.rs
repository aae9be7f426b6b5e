//! The passage of time in the model: what is due, leases that are over, and what is deleted.

use umbel_model::{JobState, TenantId, UnixMs, WorkflowId, canvas::node_job};

use super::{records::Key, state::State};
use umbel_broker::{
    rules::{
        kv,
        lease::{self, Lost},
        usage,
    },
    *,
};

impl State {
    pub(super) fn promote(&mut self, max: u32) -> Promoted {
        let now = self.now;
        let mut waiting: Vec<(UnixMs, Key)> =
            self.jobs.iter().filter_map(|(key, job)| Some((job.look_at?, key.clone()))).collect();
        waiting.sort();
        let (opened, opens) = self.scheduler.open_rates(max);
        let deadline = self.pass_deadlines(max);
        let mut promoted = Promoted { opened, ..Promoted::default() };
        for (at, key) in waiting {
            if at > now || promoted.moved + promoted.expired == max {
                promoted.next_due = Some(at);
                break;
            }
            self.leave(&key);
            if self.jobs[&key].record.expires_at.is_some_and(|expires| expires <= now) {
                self.finish(&key, JobState::Expired);
                promoted.expired += 1;
            } else {
                self.enqueue(&key, None);
                promoted.moved += 1;
            }
        }
        self.advance();
        let left = (!self.work_items.is_empty()).then_some(now);
        promoted.next_due = [promoted.next_due, opens, deadline, left].into_iter().flatten().min();
        promoted
    }

    pub(super) fn reap(&mut self, max: u32) -> Reaped {
        let now = self.now;
        let may_reap = self.reaping.may_reap(now);
        let running = self.jobs.iter().filter(|(_, job)| may_reap && job.record.state == JobState::Running);
        let mut lost: Vec<(UnixMs, Key)> = running.map(|(key, job)| (job.lease_until, key.clone())).collect();
        lost.retain(|(until, _)| *until <= now);
        lost.sort();
        lost.truncate(max as usize);
        let mut reaped = Reaped::default();
        for (_, key) in lost {
            self.leave(&key);
            let job = self.job_mut(&key);
            job.token = None;
            let worker = job.record.worker.clone().expect("a running job has a worker");
            let (retries, deliveries) = (job.record.retries, job.record.deliveries);
            job.remember(lease::lost_record(now, retries, deliveries, worker));
            self.add_usage(&key, &usage::of_lost());
            let job = self.job_mut(&key);
            let (cancelled, max) = (job.record.cancel_requested, job.new.max_deliveries);
            match lease::lost(cancelled, job.options().on_lost, deliveries, max, &mut reaped) {
                Lost::Revoke => self.finish(&key, JobState::Revoked),
                Lost::Fail { failure, dead } => {
                    job.record.failure = Some(failure);
                    self.end(&key, JobState::Failed, dead);
                }
                Lost::Requeue { at_its_place } => {
                    let score = at_its_place.then_some(job.score);
                    self.enqueue(&key, score);
                }
            }
        }
        self.advance();
        reaped
    }

    pub(super) fn prune(&mut self, max: u32) -> u32 {
        let now = self.now;
        self.idempotency.retain(|_, (_, _, expires)| *expires > now);
        self.unique.retain(|_, holder| holder.holds(now));
        self.rates.retain(|_, used| used.until_us > now * 1_000);
        self.kv.retain(|_, entry| !kv::is_over(entry.expires_at, now));
        let first_kept = usage::first_kept(now, self.limits.usage_retention_ms);
        self.usage.retain(|(_, hour, _), _| *hour >= first_kept);
        self.scheduler.forget_queues();
        let jobs = self.jobs.iter().filter_map(|(key, job)| Some((job.delete_at?, key.clone())));
        let workflows = self.workflows.iter().filter_map(|(key, w)| Some((w.delete_at?, key.clone())));
        let mut due: Vec<(UnixMs, Key)> = jobs.chain(workflows).collect();
        due.retain(|(at, _)| *at <= now);
        due.sort();
        let mut count = 0;
        for (_, key) in &due {
            if count == max {
                break;
            }
            if self.workflows.contains_key(key) {
                count += self.prune_workflow(key, max - count);
            } else {
                self.delete_job(key);
                count += 1;
            }
        }
        count
    }

    pub(super) fn forget_workflow(&mut self, tenant: &TenantId, id: WorkflowId) -> WorkflowForgot {
        let (key, now) = ((tenant.clone(), id), self.now);
        let Some(found) = self.workflows.get_mut(&key).filter(|workflow| !workflow.is_hidden()) else {
            return WorkflowForgot::NotFound;
        };
        if found.head.parent.is_some() {
            return WorkflowForgot::Replaces;
        }
        if found.finished.is_none() {
            return WorkflowForgot::NotEnded;
        }
        found.delete_at = Some(now);
        self.prune_workflow(&key, ADVANCE);
        WorkflowForgot::Forgotten
    }

    /// Deletes at most `max` of a workflow's nodes and then itself; how many.
    fn prune_workflow(&mut self, key: &Key, max: u32) -> u32 {
        let mut count = 0;
        while count < max {
            count += 1;
            let Some(workflow) = self.workflows.get_mut(key) else { break };
            let number = workflow.pruned.unwrap_or(0);
            if number >= workflow.head.nodes {
                self.workflows.remove(key);
                break;
            }
            workflow.pruned = Some(number + 1);
            let node = (key.0.clone(), node_job(key.1, number));
            self.joins.remove(&node);
            // An error callback of a staged node that was cancelled may be queued.
            if self.jobs.contains_key(&node) {
                self.leave(&node);
                self.delete_job(&node);
            }
        }
        count
    }
}
