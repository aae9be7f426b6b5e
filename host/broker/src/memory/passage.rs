//! The passage of time in the model: what is due, leases that are over, and what is deleted.

use umbel_model::{AttemptRecord, Failure, JobState, UnixMs};

use super::state::{Key, State};
use crate::*;

impl State {
    pub(super) fn promote(&mut self, now: UnixMs, max: u32) -> Promoted {
        let mut waiting: Vec<(UnixMs, Key)> =
            self.jobs.iter().filter_map(|(key, job)| Some((job.look_at?, key.clone()))).collect();
        waiting.sort();
        let (opened, opens) = self.scheduler.open_rates(now, max);
        let deadline = self.pass_deadlines(now, max);
        let mut promoted = Promoted { opened, ..Promoted::default() };
        for (at, key) in waiting {
            if at > now || promoted.moved + promoted.expired == max {
                promoted.next_due = Some(at);
                break;
            }
            self.leave(&key);
            if self.jobs[&key].record.expires_at.is_some_and(|expires| expires <= now) {
                self.finish(now, &key, JobState::Expired);
                promoted.expired += 1;
            } else {
                self.enqueue(&key, None);
                promoted.moved += 1;
            }
        }
        self.advance(now);
        let left = (!self.todo.is_empty()).then_some(now);
        promoted.next_due = [promoted.next_due, opens, deadline, left].into_iter().flatten().min();
        promoted
    }

    pub(super) fn reap(&mut self, now: UnixMs, max: u32) -> Reaped {
        let running = self.jobs.iter().filter(|(_, job)| job.record.state == JobState::Running);
        let mut lost: Vec<(UnixMs, Key)> = running.map(|(key, job)| (job.lease_until, key.clone())).collect();
        lost.retain(|(until, _)| *until <= now);
        lost.sort();
        lost.truncate(max as usize);
        let mut reaped = Reaped { requeued: 0, buried: 0, failed: 0, revoked: 0 };
        for (_, key) in lost {
            self.leave(&key);
            let job = self.job_mut(&key);
            job.token = None;
            job.remember(AttemptRecord {
                attempt: job.record.retries + 1,
                delivery: job.record.deliveries,
                worker: job.record.worker.clone().expect("a running job has a worker"),
                ended_at: now,
                outcome: "lost".into(),
                failure: None,
                usage: umbel_model::Usage::default(),
            });
            if job.record.cancel_requested {
                self.finish(now, &key, JobState::Revoked);
                reaped.revoked += 1;
            } else if let Some(dead) = job.lost_for_good() {
                job.record.failure = Some(Failure::new(WORKER_LOST, WORKER_LOST_MESSAGE));
                self.end(now, &key, JobState::Failed, dead);
                *(if dead { &mut reaped.buried } else { &mut reaped.failed }) += 1;
            } else if job.record.deliveries >= job.max_deliveries {
                let message = max_deliveries_message(job.record.deliveries);
                job.record.failure = Some(Failure::new("max_deliveries", message));
                self.finish(now, &key, JobState::Failed);
                reaped.buried += 1;
            } else {
                // Lost again, it goes to the end: it must not meet the same others in front of the line for ever.
                let score = (job.record.deliveries < 2).then_some(job.score);
                self.enqueue(&key, score);
                reaped.requeued += 1;
            }
        }
        self.advance(now);
        reaped
    }

    pub(super) fn prune(&mut self, now: UnixMs, max: u32) -> u32 {
        self.idempotency.retain(|_, (_, _, expires)| *expires > now);
        self.unique.retain(|_, (_, until, _)| *until == 0 || *until > now);
        self.rates.retain(|_, used| used.until_us > now * 1_000);
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
                count += self.prune_workflow(now, key, max - count);
                continue;
            }
            self.leave_dead(key);
            if let Some(child) = self.jobs.remove(key).and_then(|job| job.record.child) {
                self.orphan(now, &key.0, child);
            }
            count += 1;
        }
        count
    }
}

/// Why the reaper buried a job.
pub fn max_deliveries_message(deliveries: u32) -> String {
    format!("its worker was lost in each of {deliveries} deliveries")
}
