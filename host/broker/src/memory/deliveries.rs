//! Deliveries in the model: claim, renew, settle, and what follows an outcome.

use umbel_model::{JobState, Resolution, Token, UnixMs};

use super::{records::Key, state::State};
use crate::{
    rules::{
        lease,
        settle::{self, Next},
    },
    *,
};

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
        record.fence = lease::next_fence(now, record.fence);
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
        self.record_event(key);
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
                lease::state(job.record.cancel_requested, job.record.let_end)
            }
            _ => LeaseState::Lost,
        }
    }

    fn settle(&mut self, now: UnixMs, asked: &Settle) -> Settled {
        let key = (asked.tenant.clone(), asked.id);
        let max_lines = self.limits.max_log_lines;
        let Some(job) = self.jobs.get(&key) else { return Settled::Lost };
        if !job.held_by(&asked.token) {
            let repeated = job.token.as_ref() == Some(&asked.token)
                && settle::could_have_followed(&asked.resolution, job.record.state, job.record.child);
            return if repeated { Settled::AlreadyDone } else { Settled::Lost };
        }
        if settle::may_grow(&asked.resolution, job.record.cancel_requested) {
            if !self.has_room(&key, asked) {
                return Settled::NoCapacity;
            }
            if let Some(growth) = &asked.growth {
                self.grow(now, &key, growth);
            }
        }
        let job = self.job_mut(&key);
        if asked.progress.is_some() {
            job.record.progress.clone_from(&asked.progress);
        }
        job.append_logs(max_lines, &asked.logs);
        if let Some(record) = &asked.record {
            job.remember(record.clone());
        }
        self.leave(&key);
        self.resolve(now, &key, &asked.resolution);
        Settled::Recorded
    }

    fn resolve(&mut self, now: UnixMs, key: &Key, resolution: &Resolution) {
        let job = self.job_mut(key);
        let next = settle::next(resolution, job.record.cancel_requested);
        match resolution {
            Resolution::Succeed { result } => {
                job.record.result.clone_from(result);
                job.record.failure = None;
            }
            Resolution::Fail { failure } => job.record.failure = Some(failure.clone()),
            Resolution::Retry { failure, .. } if next != Next::End(JobState::Revoked) => {
                job.record.failure = Some(failure.clone());
            }
            _ => {}
        }
        match next {
            Next::End(state) => self.finish(now, key, state),
            Next::Delay(state, delay_ms) => {
                job.record.retries += u32::from(state == JobState::Retrying);
                job.record.deliveries = 0;
                self.delay(key, state, now + delay_ms);
            }
            Next::Release => {
                job.record.deliveries -= 1;
                let score = job.score;
                self.enqueue(key, Some(score));
            }
            Next::Wait(workflow) => {
                job.record.child = Some(workflow);
                self.set_state(key, JobState::Waiting);
            }
        }
    }
}
