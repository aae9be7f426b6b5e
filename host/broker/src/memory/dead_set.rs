//! The dead set of the model, and jobs that are deleted before their time.

use umbel_model::{JobId, TenantId, UnixMs};

use super::{records::Key, state::State};
use crate::*;

impl State {
    /// Into the dead set; the oldest leaves it when there are too many.
    pub(super) fn bury(&mut self, key: &Key) {
        self.dead.insert(key.clone());
        self.count_dead(key, 1);
        let mine = self.dead.iter().filter(|(tenant, _)| *tenant == key.0);
        if mine.clone().count() as u64 > self.limits.max_dead {
            let oldest = mine.min().cloned().expect("it was just put there");
            self.leave_dead(&oldest);
            // Whoever holds a unique key still answers for it.
            let held = self.held_until(&oldest).unwrap_or(0);
            let job = self.job_mut(&oldest);
            let kept = job.record.finished_at.unwrap_or(0) + job.result_ttl_ms;
            job.delete_at = job.delete_at.map(|_| held.max(kept));
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

    pub(super) fn forget(&mut self, now: UnixMs, tenant: &TenantId, id: JobId) -> Forgot {
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
        self.leave_dead(&key);
        // Nobody could look at what a duplicate is answered with.
        self.drop_key(&key);
        if let Some(child) = self.jobs.remove(&key).and_then(|job| job.record.child) {
            self.orphan(now, tenant, child);
        }
        Forgot::Forgotten
    }
}
