//! Unique keys of the model.

use umbel_model::{Failure, JobId, JobState, UnixMs};

use super::{
    records::{Job, Key},
    state::State,
};
use umbel_broker::{
    rules::uniqueness::{self, Holder, unique_of},
    *,
};

impl State {
    /// The job that keeps a submission away.
    pub(super) fn find_duplicate(&self, new: &NewJob) -> Option<JobId> {
        let unique = unique_of(new).filter(|unique| unique.wins == Wins::First)?;
        let holder = self.unique.get(&(new.tenant.clone(), unique.key.clone()))?;
        holder.holds(self.now).then_some(holder.id)
    }

    /// Gives a new job its unique key, and ends the one that it supersedes; when it starts, and the place in the queue.
    pub(super) fn supersede(&mut self, new: &NewJob) -> (Start, Option<u64>) {
        let Some(unique) = unique_of(new) else { return (new.start, None) };
        let (now, mut since, mut place) = (self.now, self.now, None);
        let name = (new.tenant.clone(), unique.key.clone());
        if unique.wins == Wins::Latest
            && let Some(holder) = self.unique.get(&name).copied()
        {
            let old = (new.tenant.clone(), holder.id);
            let state = self.jobs.get(&old).map(|job| job.record.state);
            if state.is_some_and(uniqueness::can_be_superseded) {
                since = holder.since;
                let Job { record, score, .. } = &self.jobs[&old];
                place = uniqueness::place_taken(new, &record.queue, record.priority, record.state, *score);
                self.job_mut(&old).record.failure = Some(Failure::new(SUPERSEDED, superseded_message(new.id)));
                self.leave(&old);
                self.finish(&old, JobState::Revoked);
            } else if let Some(job) = self.jobs.get_mut(&old)
                && uniqueness::is_let_end(job.record.state, job.record.cancel_requested)
            {
                (job.record.cancel_requested, job.record.let_end) = (true, true);
                job.record.failure = Some(Failure::new(SUPERSEDED, superseded_message(new.id)));
            }
        }
        self.unique.insert(name, Holder::new(new.id, unique, now, since));
        (uniqueness::start_of(new.start, unique, now, since), place)
    }

    /// A job ended: it holds its key no more, or until the time that is answered.
    pub(super) fn release_key(&mut self, key: &Key) -> UnixMs {
        let until = self.held_until(key);
        if until == Some(0) {
            self.drop_key(key);
        }
        until.unwrap_or(0)
    }

    /// Until when a job holds its key, if it does; 0: until it ends.
    pub(super) fn held_until(&self, key: &Key) -> Option<UnixMs> {
        let unique = unique_of(&self.jobs[key].new)?;
        let holder = self.unique.get(&(key.0.clone(), unique.key.clone()))?;
        (holder.id == key.1).then_some(holder.until)
    }

    pub(super) fn drop_key(&mut self, key: &Key) {
        self.unique.retain(|name, holder| name.0 != key.0 || holder.id != key.1);
    }
}
