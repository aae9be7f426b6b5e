//! The audit of the model.

use umbel_model::JobState;

use super::{
    records::{Job, Key},
    state::State,
};
use umbel_broker::{scheduler::Limit, *};

impl State {
    /// Finds counts that disagree with the jobs.
    pub(super) fn audit(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut wrong = |check: &str, example: String| {
            found.push(Finding { check: check.to_owned(), count: 1, example, fixed: 0 });
        };
        for id in 0..self.scheduler.queue_count() {
            let (tenant, queue) = (self.scheduler.tenant(id), self.scheduler.queue(id));
            let of_queue = |(key, job): &(&Key, &Job)| key.0 == *tenant && job.record.queue == *queue;
            let counts = self.scheduler.counts(id);
            for (check, counted, states) in [
                ("queued jobs of a line", counts.ready, &[JobState::Queued][..]),
                ("running jobs of a line", counts.running, &[JobState::Running]),
                ("delayed jobs of a line", counts.delayed, &[JobState::Scheduled, JobState::Retrying]),
            ] {
                let mine = self.jobs.iter().filter(of_queue).filter(|(_, job)| states.contains(&job.record.state));
                if counted != mine.count() as u64 {
                    wrong(check, format!("{queue} of {tenant}"));
                }
            }
        }
        for (tenant, key) in self.unique.iter().filter(|(_, holder)| holder.until == 0).map(|(name, _)| name) {
            let holder = (tenant.clone(), self.unique[&(tenant.clone(), key.clone())].id);
            if self.jobs.get(&holder).is_none_or(|job| job.record.state.is_terminal()) {
                wrong("unique key of a job that ended", key.clone());
            }
        }
        for ((tenant, digest), blob) in &self.blobs {
            let mine = self.jobs.iter().filter(|(key, job)| key.0 == *tenant && job.blobs.contains(digest));
            let counted = mine.count() as u64;
            if blob.references != counted || blob.unused_since.is_some() != (counted == 0) {
                wrong("references of a blob", format!("{digest} of {tenant}"));
            }
        }
        for ((tenant, limit), count) in self.scheduler.running() {
            let counted = self.jobs.iter().filter(|(key, job)| {
                let of = job.sub_queue.as_ref().filter(|_| key.0 == *tenant && job.record.state == JobState::Running);
                of.is_some_and(|of| match limit {
                    Limit::Key(task, key) => *task == of.task && *key == of.key,
                    limit => *limit == Limit::Task(of.task.clone()),
                })
            });
            if counted.count() as u64 != count {
                wrong("jobs that count as running for a limit", format!("{limit:?}"));
            }
        }
        found
    }
}
