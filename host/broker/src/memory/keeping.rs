//! Unique keys and the dead set of the model, and jobs that are deleted before their time.

use umbel_model::{Failure, JobId, JobState, TenantId, UnixMs};

use super::state::{Job, Key, State};
use crate::{scheduler::Limit, *};

impl State {
    // ---- unique keys

    /// The job that keeps a submission away.
    pub(super) fn first_of_its_like(&self, now: UnixMs, new: &NewJob) -> Option<JobId> {
        let unique = new.broker_options.as_ref()?.unique.as_ref().filter(|unique| unique.wins == Wins::First)?;
        let (holder, until, _) = self.unique.get(&(new.tenant.clone(), unique.key.clone()))?;
        (*until == 0 || *until > now).then_some(*holder)
    }

    /// Gives a new job its unique key, and ends the one whose place it takes; when it starts, and the place in the line.
    pub(super) fn take_place(&mut self, now: UnixMs, new: &NewJob) -> (Start, Option<u64>) {
        let Some(unique) = new.broker_options.as_ref().and_then(|broker_options| broker_options.unique.as_ref()) else {
            return (new.start, None);
        };
        let mut place = None;
        let name = (new.tenant.clone(), unique.key.clone());
        let mut since = now;
        if unique.wins == Wins::Latest
            && let Some((holder, _, first)) = self.unique.get(&name).copied()
        {
            let old = (new.tenant.clone(), holder);
            let state = self.jobs.get(&old).map(|job| job.record.state);
            if matches!(state, Some(JobState::Scheduled | JobState::Queued | JobState::Retrying)) {
                since = first;
                let (job, score) = (&self.jobs[&old].record, self.jobs[&old].score);
                // Always at the end of a long line, the latest of many would never run.
                let alike = job.queue == new.queue && job.priority == new.priority;
                place = (alike && job.state == JobState::Queued).then_some(score);
                self.job_mut(&old).record.failure = Some(Failure::new(SUPERSEDED, superseded_message(new.id)));
                self.leave(&old);
                self.finish(now, &old, JobState::Revoked);
            }
        }
        let until = if unique.for_ms > 0 { now + unique.for_ms } else { 0 };
        self.unique.insert(name, (new.id, until, since));
        let start = match new.start {
            Start::After(ms) if unique.wins == Wins::Latest && unique.max_wait_ms > 0 => {
                Start::At((now + ms).min(since + unique.max_wait_ms))
            }
            start => start,
        };
        (start, place)
    }

    /// A job ended: it holds its key no more, or until the time that is answered.
    pub(super) fn release_key(&mut self, key: &Key) -> Option<UnixMs> {
        let until = self.held_until(key)?;
        if until == 0 {
            self.drop_key(key);
        }
        Some(until)
    }

    /// Until when a job holds its key, if it does; 0: until it ends.
    fn held_until(&self, key: &Key) -> Option<UnixMs> {
        let unique = self.jobs[key].broker_options.as_ref()?.unique.as_ref()?;
        let (holder, until, _) = self.unique.get(&(key.0.clone(), unique.key.clone()))?;
        (*holder == key.1).then_some(*until)
    }

    fn drop_key(&mut self, key: &Key) {
        self.unique.retain(|name, (holder, ..)| name.0 != key.0 || *holder != key.1);
    }

    // ---- the dead set

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

impl State {
    /// What should not be: counts that disagree with the jobs.
    pub(super) fn audit(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut wrong = |check: &str, example: String| {
            found.push(Finding { check: check.to_owned(), count: 1, example, fixed: 0 });
        };
        for id in 0..self.scheduler.len() {
            let (tenant, queue) = (self.scheduler.tenant(id), self.scheduler.queue(id));
            let mine = |state: JobState| {
                let of_queue = |(key, job): &(&Key, &Job)| key.0 == *tenant && job.record.queue == *queue;
                self.jobs.iter().filter(of_queue).filter(|(_, job)| job.record.state == state).count() as u64
            };
            let (counts, name) = (self.scheduler.counts(id), || format!("{queue} of {tenant}"));
            if counts.ready != mine(JobState::Queued) {
                wrong("queued jobs of a line", name());
            }
            if counts.running != mine(JobState::Running) {
                wrong("running jobs of a line", name());
            }
            if counts.delayed != mine(JobState::Scheduled) + mine(JobState::Retrying) {
                wrong("delayed jobs of a line", name());
            }
        }
        for (tenant, key) in self.unique.iter().filter(|(_, (_, until, _))| *until == 0).map(|(name, _)| name) {
            let holder = (tenant.clone(), self.unique[&(tenant.clone(), key.clone())].0);
            if self.jobs.get(&holder).is_none_or(|job| job.record.state.is_terminal()) {
                wrong("unique key of a job that ended", key.clone());
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
