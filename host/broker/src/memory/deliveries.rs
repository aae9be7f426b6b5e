//! Deliveries in the model: claim, renew, settle, and what follows an outcome.

use umbel_model::{JobRecord, JobState, Resolution, Token, UnixMs};

use super::state::{Key, State};
use crate::*;

impl State {
    pub(super) fn claim(&mut self, now: UnixMs, claim: &Claim) -> Vec<Delivery> {
        self.advance(now);
        self.hand_out(now, claim)
    }

    /// Ends deliveries, does what follows from that, and hands out more.
    pub(super) fn settle_all(
        &mut self,
        now: UnixMs,
        settles: &[Settle],
        then: Option<&Claim>,
    ) -> (Vec<Settled>, Vec<Delivery>) {
        let settled = settles.iter().map(|settle| self.settle(now, settle)).collect();
        self.advance(now);
        (settled, then.map(|claim| self.hand_out(now, claim)).unwrap_or_default())
    }

    pub(super) fn deliver(&mut self, now: UnixMs, key: &Key, claim: &Claim, index: usize) -> Delivery {
        let job = self.job_mut(key);
        let record = &mut job.record;
        record.state = JobState::Running;
        record.deliveries += 1;
        record.fence = (now * 1_000).max(record.fence + 1);
        record.started_at = Some(now);
        record.worker = Some(claim.worker.clone());
        job.look_at = None;
        job.lease_until = now + claim.lease_ms;
        let token = Token::new(format!("{}-{index}", claim.token_seed)).expect("a token and a number are a token");
        job.token = Some(token.clone());
        let delivery = Delivery {
            tenant: key.0.clone(),
            id: key.1,
            queue: record.queue.clone(),
            token,
            fence: record.fence,
            spec: record.spec.clone(),
            retries: record.retries,
            delivery: record.deliveries,
            node: None,
        };
        let delivery = Delivery { node: self.delivered(key), ..delivery };
        self.tell_state(key);
        delivery
    }

    pub(super) fn renew(&mut self, now: UnixMs, lease_ms: u64, renewal: &Renewal) -> LeaseState {
        let max_lines = self.limits.max_log_lines;
        match self.jobs.get_mut(&(renewal.tenant.clone(), renewal.id)) {
            Some(job) if job.held_by(&renewal.token) => {
                job.lease_until = now + lease_ms;
                if renewal.progress.is_some() {
                    job.record.progress.clone_from(&renewal.progress);
                }
                job.append_logs(max_lines, &renewal.logs);
                if job.record.cancel_requested && !job.record.let_end { LeaseState::Cancel } else { LeaseState::Held }
            }
            _ => LeaseState::Lost,
        }
    }

    fn settle(&mut self, now: UnixMs, settle: &Settle) -> Settled {
        let key = (settle.tenant.clone(), settle.id);
        let max_lines = self.limits.max_log_lines;
        let Some(job) = self.jobs.get(&key) else { return Settled::Lost };
        if !job.held_by(&settle.token) {
            let repeated =
                job.token.as_ref() == Some(&settle.token) && could_have_followed(&settle.resolution, &job.record);
            return if repeated { Settled::AlreadyDone } else { Settled::Lost };
        }
        // What was cancelled does not come back, and adds nothing as it goes.
        let grows = match settle.resolution {
            Resolution::Succeed { .. } => true,
            Resolution::Replace { .. } => !job.record.cancel_requested,
            _ => false,
        };
        if grows {
            if !self.has_room(&key, settle) {
                return Settled::NoCapacity;
            }
            if let Some(growth) = &settle.growth {
                self.grow(now, &key, growth);
            }
        }
        let job = self.job_mut(&key);
        if settle.progress.is_some() {
            job.record.progress.clone_from(&settle.progress);
        }
        job.append_logs(max_lines, &settle.logs);
        if let Some(record) = &settle.record {
            job.remember(record.clone());
        }
        self.leave(&key);
        self.resolve(now, &key, &settle.resolution);
        Settled::Recorded
    }

    fn resolve(&mut self, now: UnixMs, key: &Key, resolution: &Resolution) {
        let job = self.job_mut(key);
        // What was cancelled does not come back.
        let cancelled = job.record.cancel_requested;
        match resolution {
            Resolution::Succeed { result } => {
                job.record.result.clone_from(result);
                job.record.failure = None;
                self.finish(now, key, JobState::Succeeded);
            }
            Resolution::Fail { failure } => {
                job.record.failure = Some(failure.clone());
                self.finish(now, key, JobState::Failed);
            }
            Resolution::Revoke => self.finish(now, key, JobState::Revoked),
            _ if cancelled => self.finish(now, key, JobState::Revoked),
            Resolution::Retry { delay_ms, failure } => {
                job.record.failure = Some(failure.clone());
                job.record.retries += 1;
                job.record.deliveries = 0;
                self.delay(key, JobState::Retrying, now + delay_ms);
            }
            Resolution::Snooze { delay_ms } => {
                job.record.deliveries = 0;
                self.delay(key, JobState::Scheduled, now + delay_ms);
            }
            Resolution::Release => {
                job.record.deliveries -= 1;
                let score = job.score;
                self.enqueue(key, Some(score));
            }
            Resolution::Replace { workflow } => {
                job.record.child = Some(*workflow);
                self.set_state(key, JobState::Waiting);
            }
        }
    }
}

/// Whether a job that is in `state` now can be there because of this resolution.
fn could_have_followed(resolution: &Resolution, record: &JobRecord) -> bool {
    let state = record.state;
    match resolution {
        Resolution::Replace { workflow } => record.child == Some(*workflow) || state == JobState::Revoked,
        Resolution::Succeed { .. } => state == JobState::Succeeded,
        Resolution::Fail { .. } => state == JobState::Failed,
        Resolution::Revoke => state == JobState::Revoked,
        Resolution::Retry { .. } | Resolution::Snooze { .. } | Resolution::Release => {
            !matches!(state, JobState::Running | JobState::Succeeded | JobState::Failed | JobState::Waiting)
        }
    }
}
