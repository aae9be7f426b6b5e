//! A job as a test sees it, and what is kept of each of its attempts.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use umbel_model::{Failure, JobState, Policy};

use super::call::{Arguments, Call};
use crate::{CustomState, LogLine, ProgressReport};

/// Kind of the failure of a job that a step before it stopped.
pub(super) const UPSTREAM_FAILED: &str = "upstream_failed";

/// One attempt that has ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Attempt {
    /// 1 for the first; each retry adds one, a snooze none.
    pub number: u32,
    /// How long the job waited for it: since its submission, or since the attempt before.
    pub delay: Duration,
    /// When it started, since the app was made.
    pub started: Duration,
    /// How long it took: what the task slept.
    pub duration: Duration,
    /// `succeeded`, `ignored`, `error`, `fatal`, `snoozed`, `rejected` or `trap`.
    pub outcome: &'static str,
    /// Why it did not succeed.
    pub failure: Option<Failure>,
    /// Fuel that it was allowed to use.
    pub fuel: u64,
    pub logs: Vec<LogLine>,
    pub progress: Vec<ProgressReport>,
    /// States of the task's own.
    pub states: Vec<CustomState>,
    /// Workflows that it submitted, in their JSON form. They run if it ended well.
    pub submitted: Vec<Value>,
    /// The canvas that replaces the job.
    pub replacement: Option<Value>,
    /// Members that it added to its group.
    pub added_to_group: Vec<Value>,
}

impl Attempt {
    /// The failure's kind; empty for an attempt without one.
    pub fn kind(&self) -> &str {
        self.failure.as_ref().map_or("", |failure| &failure.kind)
    }
}

/// A submitted job. It stays up to date while its app runs.
#[derive(Clone)]
pub struct Job(pub(super) Arc<Mutex<Record>>);

/// All that is known of a job.
pub(super) struct Record {
    pub(super) number: usize,
    pub(super) task: String,
    pub(super) policy: Policy,
    /// None while a workflow's node waits for its input.
    pub(super) arguments: Option<Arguments>,
    pub(super) state: JobState,
    pub(super) retries: u32,
    pub(super) fence: u64,
    /// Of a job that waits for its time, milliseconds since 1970.
    pub(super) due_at: u64,
    pub(super) expires_at: Option<u64>,
    /// Since when it waits.
    pub(super) waits_since: u64,
    pub(super) result: Option<String>,
    pub(super) failure: Option<Failure>,
    pub(super) attempts: Vec<Attempt>,
    /// The workflow and its node, by their numbers in the app.
    pub(super) node: Option<(usize, u32)>,
}

impl Record {
    /// A job that waits for nothing but its time.
    pub(super) fn new(number: usize, call: Call, now: u64) -> Self {
        let mut record = Self::waiting(number, &call, now);
        record.start(call, now);
        record
    }

    /// A job that waits for its input.
    pub(super) fn waiting(number: usize, call: &Call, now: u64) -> Self {
        Self {
            number,
            task: call.task.clone(),
            policy: call.policy.clone(),
            arguments: None,
            state: JobState::Waiting,
            retries: 0,
            fence: 0,
            due_at: now,
            expires_at: None,
            waits_since: now,
            result: None,
            failure: None,
            attempts: Vec::new(),
            node: None,
        }
    }

    /// Its input is there.
    pub(super) fn start(&mut self, call: Call, now: u64) {
        let relative = (call.policy.expires_ms > 0).then(|| now.saturating_add(call.policy.expires_ms));
        self.expires_at = [relative, call.expires_at].into_iter().flatten().min();
        self.arguments = Some(call.arguments);
        self.due_at = call.start.at(now);
        self.waits_since = now;
        self.state = if self.due_at > now { JobState::Scheduled } else { JobState::Queued };
    }

    /// When something happens to it by itself.
    pub(super) fn look_at(&self) -> Option<u64> {
        let waits = matches!(self.state, JobState::Scheduled | JobState::Queued | JobState::Retrying);
        waits.then(|| self.expires_at.map_or(self.due_at, |expires| expires.min(self.due_at)))
    }
}

impl Job {
    pub(super) fn lock(&self) -> MutexGuard<'_, Record> {
        // Records are written whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id that `ctx.job_id()` returns.
    pub fn id(&self) -> String {
        id_of(self.lock().number)
    }

    /// Its task's name.
    pub fn task(&self) -> String {
        self.lock().task.clone()
    }

    pub fn state(&self) -> JobState {
        self.lock().state
    }

    /// The result of a succeeded job; none if it is not kept for readers (`ignore_result`).
    pub fn result(&self) -> Option<Value> {
        let record = self.lock();
        // The steps of a workflow behind the job are handed it all the same.
        let kept = record.result.as_deref().filter(|_| !record.policy.ignore_result);
        kept.and_then(|json| serde_json::from_str(json).ok())
    }

    /// Why a failed job failed, or a retrying one failed last.
    pub fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// The failure's kind; empty for a job without one.
    pub fn kind(&self) -> String {
        self.failure().map_or_else(String::new, |failure| failure.kind)
    }

    /// The attempts that have ended, in their order.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.lock().attempts.clone()
    }

    /// How long it waited before each attempt but the first.
    pub fn delays(&self) -> Vec<Duration> {
        self.lock().attempts.iter().skip(1).map(|attempt| attempt.delay).collect()
    }

    /// The policy that was decided at its submission: *call > server > code > defaults*.
    pub fn policy(&self) -> Policy {
        self.lock().policy.clone()
    }

    /// True if it failed and is kept in the dead set.
    pub fn is_dead(&self) -> bool {
        let record = self.lock();
        let policy = &record.policy;
        // Of a workflow's step that did not run, the one that failed tells.
        let stopped = record.node.is_some() && record.failure.as_ref().is_some_and(|f| f.kind == UPSTREAM_FAILED);
        let told = !policy.ignore_result || policy.store_errors_even_if_ignored;
        record.state == JobState::Failed && policy.dead_ttl_ms > 0 && told && !stopped
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.lock();
        f.debug_struct("Job")
            .field("id", &id_of(record.number))
            .field("task", &record.task)
            .field("state", &record.state)
            .field("failure", &record.failure)
            .field("attempts", &record.attempts.len())
            .finish_non_exhaustive()
    }
}

pub(super) fn id_of(number: usize) -> String {
    format!("job-{}", number + 1)
}
