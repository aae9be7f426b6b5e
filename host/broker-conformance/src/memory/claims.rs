//! Handing out in the model, and what it tells the scheduler of its jobs.

use std::{collections::BTreeMap, convert::Infallible};

use umbel_model::{JobId, JobState, TaskName, TenantId, UnixMs, rate::Used};

use super::{
    records::{Job, Key},
    state::State,
};
use umbel_broker::{
    scheduler::{ClaimRound, LimitName, Store, SubQueueName},
    *,
};

/// The model's jobs and rates as the scheduler sees them.
struct Looked<'a> {
    now: UnixMs,
    jobs: &'a mut BTreeMap<Key, Job>,
    rates: &'a mut BTreeMap<LimitName, Used>,
    /// The job that was looked at.
    key: Option<Key>,
}

impl Looked<'_> {
    fn job(&mut self) -> &mut Job {
        let job = self.key.as_ref().and_then(|key| self.jobs.get_mut(key));
        job.expect("a job is looked at before it is asked about")
    }
}

impl Store<JobId> for Looked<'_> {
    type Error = Infallible;

    fn look(&mut self, tenant: &TenantId, job: JobId) -> Result<Option<bool>, Infallible> {
        self.key = Some((tenant.clone(), job));
        let now = self.now;
        Ok(Some(self.job().record.expires_at.is_some_and(|at| at <= now)))
    }

    fn task(&mut self) -> Result<TaskName, Infallible> {
        Ok(self.job().record.task.clone())
    }

    fn limits(&mut self) -> Result<JobLimits, Infallible> {
        Ok(self.job().options().limits.unwrap_or_default())
    }

    fn moved(&mut self) -> Result<(), Infallible> {
        let job = self.job();
        job.sub_queue = Some(SubQueueName { task: job.record.task.clone(), key: String::new() });
        Ok(())
    }

    fn used(&mut self, name: &LimitName) -> Result<Option<Used>, Infallible> {
        Ok(self.rates.get(name).copied())
    }

    fn set_used(&mut self, name: &LimitName, used: Used) -> Result<(), Infallible> {
        self.rates.insert(name.clone(), used);
        Ok(())
    }
}

impl State {
    pub(super) fn hand_out(&mut self, claim: &Claim) -> Vec<Delivery> {
        let (mut round, mut deliveries) = (ClaimRound::new(claim), Vec::new());
        loop {
            let mut store = Looked { now: self.now, jobs: &mut self.jobs, rates: &mut self.rates, key: None };
            let Ok(Some(expired)) = round.take(&mut self.scheduler, &mut store) else { break };
            let key = store.key.expect("the job that was taken was looked at");
            if expired {
                self.finish(&key, JobState::Expired);
            } else {
                deliveries.push(self.deliver(&key, claim, deliveries.len()));
            }
        }
        // One that expired may have been the last of its workflow.
        self.finish_workflows();
        self.put_off();
        deliveries
    }

    /// As a broker that was opened again: nothing is blocked, the sub-queues of a tenant queue are level, and what ran
    /// counts as lost.
    pub(super) fn reopen(&mut self) {
        self.scheduler = std::mem::take(&mut self.scheduler).reopened();
        for (key, job) in &mut self.jobs {
            job.lease_until = 0;
            let queued = match job.record.state {
                JobState::Queued => Some((job.score, key.1)),
                JobState::Running => None,
                _ => continue,
            };
            let id = self.scheduler.queue_id(&key.0, &job.record.queue);
            self.scheduler.restore(id, job.sub_queue.as_ref(), queued);
        }
        self.scheduler.open_all();
        self.reaping = rules::lease::Reaping::default();
    }
}
