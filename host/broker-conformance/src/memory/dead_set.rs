//! The dead set of the model, and jobs that are deleted before their time.

use umbel_model::{JobId, TenantId};

use super::{records::Key, state::State};
use umbel_broker::{rules::dead_set, *};

impl State {
    /// Into the dead set; the oldest leaves it when there are too many.
    pub(super) fn bury(&mut self, key: &Key) {
        self.dead.insert(key.clone());
        self.count_dead(key, 1);
        let mine = self.dead.iter().filter(|(tenant, _)| *tenant == key.0);
        if mine.clone().count() as u64 > self.limits.max_dead {
            let oldest = mine.min().cloned().expect("it was just put there");
            self.leave_dead(&oldest);
            let held = self.held_until(&oldest).unwrap_or(0);
            let job = self.job_mut(&oldest);
            let without = dead_set::delete_at_without(job.record.finished_at, job.new.result_ttl_ms, held);
            job.delete_at = job.delete_at.map(|_| without);
        }
    }

    pub(super) fn leave_dead(&mut self, key: &Key) {
        if self.dead.remove(key) {
            self.count_dead(key, -1);
        }
    }

    fn count_dead(&mut self, key: &Key, more: i64) {
        let id = self.queue_of(key);
        self.scheduler.change(id, |counts| counts.dead = counts.dead.saturating_add_signed(more));
    }

    // ---- deletion

    /// Deletes a job. Its child is deleted next, or when it is over: the job may have been cancelled before.
    pub(super) fn delete_job(&mut self, key: &Key) {
        self.leave_dead(key);
        let now = self.now;
        let job = self.jobs.remove(key);
        self.release_blobs(&key.0, &job.as_ref().map(|job| job.blobs.clone()).unwrap_or_default());
        let child = job.and_then(|job| job.record.child);
        if let Some(workflow) = child.and_then(|child| self.workflows.get_mut(&(key.0.clone(), child))) {
            workflow.orphaned = true;
            workflow.delete_at = workflow.finished.map(|_| now);
        }
    }

    pub(super) fn forget(&mut self, tenant: &TenantId, id: JobId) -> Forgot {
        let key = (tenant.clone(), id);
        if self.is_hidden(&key) {
            return Forgot::NotFound;
        }
        let Some(job) = self.jobs.get(&key) else { return Forgot::NotFound };
        if job.place.is_some() {
            return Forgot::Node;
        }
        if !job.record.state.is_terminal() {
            return Forgot::NotEnded(job.record.state);
        }
        // Nobody could look at what a duplicate is answered with.
        self.drop_key(&key);
        self.delete_job(&key);
        Forgot::Forgotten
    }
}
