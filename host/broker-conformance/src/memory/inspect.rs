//! The model as the suite sees it beyond the traits: it checks the model's own properties with this.

use umbel_model::{JobId, JobState, TaskName, TenantId};

use super::MemoryBroker;
use umbel_broker::JobLimits;

/// A job that runs and had limits of its own when it was submitted.
#[derive(Debug)]
pub struct Limited {
    pub tenant: TenantId,
    pub id: JobId,
    pub task: TaskName,
    pub limits: JobLimits,
}

impl MemoryBroker {
    /// Where a job stands, a node too.
    pub fn state_of(&self, tenant: &TenantId, id: JobId) -> Option<JobState> {
        self.state().jobs.get(&(tenant.clone(), id)).map(|job| job.record.state)
    }

    /// As a broker that was closed and opened again: what ran counts as lost, and nothing is blocked.
    pub fn reopen(&self) {
        self.state().reopen();
    }

    /// The jobs that run and count for limits of their own.
    pub fn limited(&self) -> Vec<Limited> {
        let state = self.state();
        let running = state.jobs.iter().filter(|(_, job)| job.record.state == JobState::Running);
        let limited = running.filter_map(|(key, job)| {
            let limits = job.options().limits?;
            Some(Limited { tenant: key.0.clone(), id: key.1, task: job.record.task.clone(), limits })
        });
        limited.collect()
    }

    /// Everything that is stored of jobs. Empty when all jobs are gone.
    pub fn leftovers(&self) -> Vec<String> {
        let state = self.state();
        let mut left = Vec::new();
        let mut note = |what: &str, count: usize| {
            if count > 0 {
                left.push(format!("{count} {what}"));
            }
        };
        note("jobs", state.jobs.len());
        note("joins", state.joins.len());
        note("workflows", state.workflows.len());
        note("work items", state.work_items.len() + state.queued_items.len());
        note("controls", usize::from(!state.scheduler.controls.is_empty()));
        note("counts of limits", usize::from(!state.scheduler.is_idle()));
        note("rates", state.rates.len());
        note("unique keys", state.unique.len());
        note("dead jobs", state.dead.len());
        note("idempotency keys", state.idempotency.len());
        note("key-value entries", state.kv.len());
        note("blobs", state.blobs.len());
        note("schedules", state.schedules.len());
        for counts in (0..state.scheduler.queue_count()).map(|id| state.scheduler.counts(id)) {
            note("jobs counted in a queue", (counts.ready + counts.running + counts.delayed + counts.dead) as usize);
            note("open queues", usize::from(counts.finish.is_some()));
        }
        left
    }
}
