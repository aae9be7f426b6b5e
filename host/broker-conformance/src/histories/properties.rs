//! What must hold of every history, whatever the model says: the model itself is held to it.
//!
//! No accepted job is lost: it ends, and is deleted only after that. None ends twice. Caps and rates are kept.

use umbel_model::TaskName;

use std::collections::BTreeSet;

use super::{
    perform::{Doing, Done},
    requests::{TASKS, rate_of},
    *,
};
use crate::memory::Limited;

type Key = (TenantId, JobId);

#[derive(Debug, Default)]
pub(super) struct Properties {
    /// Jobs that were accepted and not deleted since.
    accepted: BTreeSet<Key>,
    /// Those of them that had ended before the step under way.
    ended: BTreeSet<Key>,
    /// Jobs that a settle ended.
    outcomes: BTreeSet<Key>,
    /// Tasks whose limits an operator changed.
    controlled: BTreeSet<(TenantId, TaskName)>,
    /// When jobs of a task that say its rate started.
    starts: BTreeMap<(TenantId, TaskName), Vec<UnixMs>>,
    went_back: bool,
}

impl Properties {
    pub(super) fn passed(&mut self, ms: i64) {
        // What was used of a rate may be forgotten when it was over, and is not over any more.
        self.went_back |= ms < 0;
    }

    pub(super) fn before(&mut self, model: &MemoryBroker, doing: &Doing) {
        self.ended.clear();
        if matches!(doing, Doing::Prune(_) | Doing::Forget(..)) {
            let ended = |key: &&Key| model.state_of(&key.0, key.1).is_some_and(JobState::is_terminal);
            self.ended = self.accepted.iter().filter(ended).cloned().collect();
        }
    }

    pub(super) fn after(
        &mut self,
        model: &MemoryBroker,
        now: UnixMs,
        doing: &Doing,
        done: &Done,
    ) -> Result<(), String> {
        match doing {
            Doing::Submit(jobs, _) => {
                for (job, answer) in jobs.iter().cycle().zip(&done.submitted) {
                    if *answer == Submitted::Created {
                        let key = (job.tenant.clone(), job.id);
                        self.outcomes.remove(&key);
                        self.accepted.insert(key);
                    }
                }
            }
            Doing::ChangeSchedules(steps, _) => {
                for (step, answer) in steps.iter().cycle().zip(&done.stepped) {
                    if let (ScheduleStepped::Done { .. }, Some(NewRun::Job(job))) = (answer, &step.start) {
                        self.started(model, (job.tenant.clone(), job.id));
                    }
                }
            }
            Doing::Settle(settles, ..) => self.settled(settles, &done.settled)?,
            Doing::Control(tenant, Scope::Task(task), _) => {
                self.controlled.insert((tenant.clone(), task.clone()));
            }
            Doing::Prune(_) | Doing::Forget(..) => self.deleted(model)?,
            _ => {}
        }
        self.handed_out(model, now, &done.handed)
    }

    /// A schedule started a job, or found it started.
    fn started(&mut self, model: &MemoryBroker, key: Key) {
        if !model.state_of(&key.0, key.1).is_some_and(JobState::is_terminal) {
            self.outcomes.remove(&key);
        }
        self.accepted.insert(key);
    }

    /// A settle is recorded once, and a job ends once.
    fn settled(&mut self, settles: &[Settle], answers: &[Settled]) -> Result<(), String> {
        for (settle, answer) in settles.iter().cycle().zip(answers) {
            let ends =
                matches!(settle.resolution, Resolution::Succeed { .. } | Resolution::Fail { .. } | Resolution::Revoke);
            let key = (settle.tenant.clone(), settle.id);
            if ends && *answer == Settled::Recorded && !self.outcomes.insert(key) {
                return Err(format!("job {} has a second outcome", settle.id));
            }
        }
        let recorded = answers.iter().filter(|answer| **answer == Settled::Recorded).count();
        if recorded > 1 { Err("one settle was recorded twice".into()) } else { Ok(()) }
    }

    /// What was deleted had ended.
    fn deleted(&mut self, model: &MemoryBroker) -> Result<(), String> {
        let gone: Vec<Key> =
            self.accepted.iter().filter(|key| model.state_of(&key.0, key.1).is_none()).cloned().collect();
        for key in gone {
            if !self.ended.contains(&key) {
                return Err(format!("job {} was deleted before it ended", key.1));
            }
            self.accepted.remove(&key);
        }
        Ok(())
    }

    /// Each job that was handed out had place within the caps that it names, and within its rate.
    fn handed_out(&mut self, model: &MemoryBroker, now: UnixMs, handed: &[Delivery]) -> Result<(), String> {
        if handed.is_empty() {
            return Ok(());
        }
        let mut running = model.limited();
        let new =
            |job: &Limited| handed.iter().position(|delivery| (&delivery.tenant, delivery.id) == (&job.tenant, job.id));
        running.sort_by_key(new);
        for (at, job) in running.iter().enumerate() {
            let task = (job.tenant.clone(), job.task.clone());
            if new(job).is_none() || self.controlled.contains(&task) {
                continue;
            }
            // With it, and without those that were handed out after it.
            let alike = || running[..=at].iter().filter(|other| (&other.tenant, &other.task) == (&task.0, &task.1));
            let of_key = alike().filter(|other| other.limits.key == job.limits.key).count();
            let caps = [
                ("task", job.limits.concurrency, alike().count()),
                ("key", if job.limits.key.is_some() { job.limits.key_concurrency } else { 0 }, of_key),
            ];
            for (what, cap, count) in caps {
                if cap > 0 && count > cap as usize {
                    return Err(format!("{count} jobs of a {what} run where job {} allows {cap}", job.id));
                }
            }
            if let Some(rate) = job.limits.rate {
                debug_assert!((0..TASKS.len()).any(|n| rate == rate_of(n)));
                let starts = self.starts.entry(task).or_default();
                starts.push(now);
                let within = starts.iter().filter(|at| **at + rate.period_ms > now).count();
                if !self.went_back && within > (rate.count + rate.burst) as usize {
                    return Err(format!("{within} jobs of task {} started in {} ms", job.task, rate.period_ms));
                }
            }
        }
        Ok(())
    }

    /// Nothing that was accepted is lost: it is there, and has ended.
    pub(super) async fn all_ended(&self, model: &MemoryBroker, broker: &dyn Broker) -> Result<(), String> {
        for (tenant, id) in &self.accepted {
            let state = model.state_of(tenant, *id);
            let real = broker.job(tenant, *id).await.unwrap().map(|record| record.state);
            if state != real || !state.is_some_and(JobState::is_terminal) {
                return Err(format!("job {id} of {tenant} is lost: {state:?}, {real:?}"));
            }
        }
        Ok(())
    }
}
