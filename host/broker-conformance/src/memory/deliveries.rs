//! Deliveries in the model: claim, renew, settle, and what follows an outcome.

use umbel_model::{JobState, Progress, Resolution, Token};

use super::{records::Key, state::State};
use umbel_broker::{
    rules::{
        lease,
        settle::{self, Next},
        storage, usage,
    },
    *,
};

impl State {
    pub(super) fn claim(&mut self, claim: &Claim) -> Vec<Delivery> {
        self.advance();
        self.hand_out(claim)
    }

    /// Ends deliveries, does what follows from that, and hands out more.
    pub(super) fn settle(&mut self, settles: &[Settle], then: Option<&Claim>) -> (Vec<Settled>, Vec<Delivery>) {
        let settled = settles.iter().map(|settle| self.settle_one(settle)).collect();
        self.advance();
        (settled, then.map(|claim| self.hand_out(claim)).unwrap_or_default())
    }

    pub(super) fn deliver(&mut self, key: &Key, claim: &Claim, index: usize) -> Delivery {
        let (now, node) = (self.now, self.delivered(key));
        let job = self.job_mut(key);
        let token = Token::new(format!("{}-{index}", claim.token_seed)).expect("a token and a number are a token");
        job.token = Some(token.clone());
        job.look_at = None;
        job.lease_until = now + claim.lease_ms;
        let record = &mut job.record;
        record.state = JobState::Running;
        record.deliveries += 1;
        record.fence = lease::next_fence(now, record.fence);
        record.started_at = Some(now);
        record.worker = Some(claim.worker.clone());
        let delivery = Delivery {
            tenant: key.0.clone(),
            id: key.1,
            queue: record.queue.clone(),
            token,
            fence: record.fence,
            spec: record.spec.clone(),
            retries: record.retries,
            delivery: record.deliveries,
            node,
        };
        self.record_event(key);
        delivery
    }

    pub(super) fn renew(&mut self, lease_ms: u64, renewals: &[Renewal]) -> Vec<LeaseState> {
        renewals.iter().map(|renewal| self.renew_one(lease_ms, renewal)).collect()
    }

    fn renew_one(&mut self, lease_ms: u64, renewal: &Renewal) -> LeaseState {
        let job = self.jobs.get_mut(&(renewal.tenant.clone(), renewal.id));
        let Some(job) = job.filter(|job| job.held_by(&renewal.token)) else { return LeaseState::Lost };
        job.lease_until = self.now + lease_ms;
        let state = lease::state(job.record.cancel_requested, job.record.let_end);
        self.hear(&(renewal.tenant.clone(), renewal.id), renewal.progress.as_ref(), &renewal.logs);
        state
    }

    /// Keeps what a worker says: the newest progress, and the log lines that there is room for.
    fn hear(&mut self, key: &Key, progress: Option<&Progress>, lines: &[LogLine]) {
        let lines = self.lines_that_fit(&key.0, &self.jobs[key], lines).to_vec();
        let job = self.job_mut(key);
        job.logs.extend(lines);
        if progress.is_some() {
            job.record.progress = progress.cloned();
        }
    }

    fn settle_one(&mut self, asked: &Settle) -> Settled {
        let key = (asked.tenant.clone(), asked.id);
        let Some(job) = self.jobs.get(&key) else { return Settled::Lost };
        if !job.held_by(&asked.token) {
            let repeated = job.token.as_ref() == Some(&asked.token)
                && (settle::could_have_followed(&asked.resolution, job.record.state, job.record.child)
                    || storage::was_refused(&asked.resolution, job.record.state, job.record.failure.as_ref()));
            return if repeated { Settled::AlreadyDone } else { Settled::Lost };
        }
        let used = || self.stored_bytes(&key.0).jobs;
        let refused = storage::refused_result(self.limits_of(&key.0).jobs, used, &asked.resolution);
        let refused = refused.map(|failure| Settle { resolution: Resolution::Fail { failure }, ..asked.clone() });
        let asked = refused.as_ref().unwrap_or(asked);
        if settle::may_grow(&asked.resolution, job.record.cancel_requested) {
            if let Some(refusal) = self.refuses_blobs(asked) {
                return refusal;
            }
            if !self.has_room(&key, asked) {
                return Settled::NoCapacity;
            }
            self.store_blobs(asked);
            if let Some(blobs) = &asked.blobs {
                self.refer(&key, &blobs.refers);
            }
            if let Some(growth) = &asked.growth {
                self.grow(&key, growth);
            }
        }
        self.hear(&key, asked.progress.as_ref(), &asked.logs);
        let job = self.job_mut(&key);
        if let Some(record) = &asked.record {
            let next = settle::next(&asked.resolution, job.record.cancel_requested);
            job.remember(record.clone());
            self.add_usage(&key, &usage::of_attempt(record, next));
        }
        self.leave(&key);
        self.resolve(&key, &asked.resolution);
        Settled::Recorded
    }

    fn resolve(&mut self, key: &Key, resolution: &Resolution) {
        let now = self.now;
        let job = self.job_mut(key);
        let next = settle::next(resolution, job.record.cancel_requested);
        if let Some(failure) = settle::failure(resolution, next) {
            job.record.failure = Some(failure.clone());
        }
        if let Resolution::Succeed { result } = resolution {
            job.record.result.clone_from(result);
            job.record.failure = None;
        }
        match next {
            Next::End(state) => self.finish(key, state),
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
