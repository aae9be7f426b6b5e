//! The context of native tests: says what the test told it, records what the task did, and never waits.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;

use super::{Context, Fire};
use crate::{
    canvas::Place,
    raw::{Attempt, Failure, Level},
};

/// One line that a task logged.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    pub level: Level,
    pub message: String,
}

/// One progress report of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressReport {
    pub done: u64,
    pub total: u64,
    pub message: String,
}

/// A state of a task's own.
#[derive(Debug, Clone, PartialEq)]
pub struct CustomState {
    pub name: String,
    /// Null when nothing more was said.
    pub meta: Value,
}

pub(crate) struct Fake {
    attempt: Attempt,
    remaining: Duration,
    /// Counted from the start, as `remaining` is.
    soft_limit: Option<Duration>,
    stop: bool,
    unix_time: Duration,
    place: Option<Place>,
    fire: Option<Fire>,
    /// The kind and the message with which every canvas is refused.
    refusal: Option<(String, String)>,
    /// Workflows that were submitted before: the next ids follow.
    workflows_before: usize,
    recorded: Mutex<Recorded>,
}

#[derive(Default)]
struct Recorded {
    logs: Vec<LogLine>,
    progress: Vec<ProgressReport>,
    states: Vec<CustomState>,
    slept: Duration,
    submitted: Vec<Value>,
    replacement: Option<Value>,
    added: Vec<Value>,
}

impl Fake {
    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        // A test that panicked while recording still left whole lines.
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    pub(super) fn remaining_ms(&self) -> u64 {
        let left = self.remaining.saturating_sub(self.recorded().slept);
        u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn should_stop(&self) -> bool {
        let soft_is_over = self.soft_limit.is_some_and(|limit| self.recorded().slept >= limit);
        self.stop || soft_is_over || self.remaining_ms() == 0
    }

    pub(super) fn progress(&self, done: u64, total: u64, message: &str) {
        self.recorded().progress.push(ProgressReport { done, total, message: message.to_owned() });
    }

    pub(super) fn set_state(&self, name: &str, meta: Option<&str>) {
        // It was written by `serde_json` just now.
        let meta = meta.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        self.recorded().states.push(CustomState { name: name.to_owned(), meta });
    }

    pub(super) fn unix_time(&self) -> Duration {
        self.unix_time + self.recorded().slept
    }

    pub(super) fn sleep(&self, duration: Duration) {
        let mut recorded = self.recorded();
        recorded.slept = recorded.slept.saturating_add(duration);
    }

    pub(super) fn fire(&self) -> Option<Fire> {
        self.fire.clone()
    }

    pub(super) fn place(&self) -> Option<Place> {
        self.place.clone()
    }

    pub(super) fn submit(&self, canvas: &str) -> Result<String, Failure> {
        let canvas = self.taken(canvas)?;
        let submitted = &mut self.recorded().submitted;
        submitted.push(canvas);
        Ok(format!("workflow-{}", self.workflows_before + submitted.len()))
    }

    pub(super) fn replace(&self, canvas: &str) -> Result<(), Failure> {
        let canvas = self.taken(canvas)?;
        let replacement = &mut self.recorded().replacement;
        if replacement.is_some() {
            return Err(refused("already_replaced", "a job can be replaced only once"));
        }
        *replacement = Some(canvas);
        Ok(())
    }

    pub(super) fn add_to_group(&self, members: &str) -> Result<(), Failure> {
        let members = self.taken(members)?;
        if !self.place.as_ref().is_some_and(|place| place.in_group) {
            return Err(refused("not_in_group", "this job is not in a group to which members could be added"));
        }
        if let Value::Array(members) = members {
            self.recorded().added.extend(members);
        }
        Ok(())
    }

    fn taken(&self, canvas: &str) -> Result<Value, Failure> {
        match &self.refusal {
            Some((kind, message)) => Err(refused(kind, message)),
            None => serde_json::from_str(canvas).map_err(|error| refused("invalid_canvas", &error.to_string())),
        }
    }

    pub(super) fn log(&self, level: Level, message: &str) {
        self.recorded().logs.push(LogLine { level, message: message.to_owned() });
    }
}

fn refused(kind: &str, message: &str) -> Failure {
    Failure { kind: kind.to_owned(), message: message.to_owned(), details: None }
}

/// For native tests only; these do not exist in a guest.
impl Context {
    /// A first attempt of a job called `job`, with 300 s left, at a fixed time of day.
    pub fn fake() -> Self {
        let attempt = Attempt {
            job_id: "job".to_owned(),
            task: "task".to_owned(),
            queue: "default".to_owned(),
            attempt: 1,
            max_retries: Some(3),
            delivery: 1,
            fence: 1,
            traceparent: None,
        };
        let backend = Fake {
            attempt,
            remaining: Duration::from_secs(300),
            soft_limit: None,
            stop: false,
            // 2026-01-01T00:00:00Z
            unix_time: Duration::from_secs(1_767_225_600),
            place: None,
            fire: None,
            refusal: None,
            workflows_before: 0,
            recorded: Mutex::default(),
        };
        Self { backend }
    }

    /// Sets any of what [`Context::job_id`] and its neighbours say.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Attempt)) -> Self {
        change(&mut self.backend.attempt);
        self
    }

    /// Sets the job's id.
    #[must_use]
    pub fn with_job_id(self, id: impl Into<String>) -> Self {
        self.with(|attempt| attempt.job_id = id.into())
    }

    /// Sets the attempt's number, 1 for the first.
    #[must_use]
    pub fn with_attempt(self, number: u32) -> Self {
        self.with(|attempt| attempt.attempt = number)
    }

    /// Sets the time left at the start; sleeping uses it up.
    #[must_use]
    pub fn with_remaining(mut self, remaining: Duration) -> Self {
        self.backend.remaining = remaining;
        self
    }

    /// Sets the soft time limit, counted from the start: sleeping that long makes [`Context::should_stop`] true.
    #[must_use]
    pub fn with_soft_limit(mut self, limit: Duration) -> Self {
        self.backend.soft_limit = Some(limit);
        self
    }

    /// Sets the time of day at the start, since 1970; sleeping moves it on.
    #[must_use]
    pub fn with_unix_time(mut self, since_1970: Duration) -> Self {
        self.backend.unix_time = since_1970;
        self
    }

    /// Makes [`Context::should_stop`] true, as after the soft time limit or a cancellation.
    #[must_use]
    pub fn with_stop(mut self) -> Self {
        self.backend.stop = true;
        self
    }

    /// Puts the job into a workflow.
    #[must_use]
    pub fn with_place(mut self, workflow_id: impl Into<String>, node: u32, in_group: bool) -> Self {
        self.backend.place = Some(Place { workflow_id: workflow_id.into(), node, in_group });
        self
    }

    /// Says that a schedule started the job: for which time, and when, milliseconds since 1970.
    #[must_use]
    pub fn with_fire(mut self, schedule: impl Into<String>, nominal_ms: u64, fired_ms: u64) -> Self {
        self.backend.fire = Some(Fire { schedule: schedule.into(), nominal_ms, fired_ms });
        self
    }

    /// Refuses every canvas, as a host does when a limit is reached.
    #[must_use]
    pub fn with_refusal(mut self, kind: impl Into<String>, message: impl Into<String>) -> Self {
        self.backend.refusal = Some((kind.into(), message.into()));
        self
    }

    #[cfg(feature = "testing")]
    pub(crate) fn with_workflows_before(mut self, count: usize) -> Self {
        self.backend.workflows_before = count;
        self
    }

    /// The workflows that the task submitted so far, in their JSON form.
    pub fn submitted(&self) -> Vec<Value> {
        self.backend.recorded().submitted.clone()
    }

    /// The canvas that the task is replaced by, in its JSON form.
    pub fn replacement(&self) -> Option<Value> {
        self.backend.recorded().replacement.clone()
    }

    /// The members that the task added to its group so far, in their JSON form.
    pub fn added_to_group(&self) -> Vec<Value> {
        self.backend.recorded().added.clone()
    }

    /// The lines that the task logged through its context so far.
    pub fn logs(&self) -> Vec<LogLine> {
        self.backend.recorded().logs.clone()
    }

    /// The progress that the task reported so far.
    pub fn progress_reports(&self) -> Vec<ProgressReport> {
        self.backend.recorded().progress.clone()
    }

    /// The states of its own that the task set so far.
    pub fn states(&self) -> Vec<CustomState> {
        self.backend.recorded().states.clone()
    }

    /// How long the task asked to sleep so far. No time passed.
    pub fn slept(&self) -> Duration {
        self.backend.recorded().slept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fake_context_records_and_never_waits() {
        let ctx = Context::fake().with_job_id("j1").with_attempt(2).with_remaining(Duration::from_secs(10));
        ctx.warn("careful");
        ctx.progress(1, 2, format!("{}%", 50));
        ctx.sleep(Duration::from_secs(3_600));
        assert_eq!((ctx.job_id(), ctx.attempt(), ctx.fence()), ("j1", 2, 1));
        assert_eq!(ctx.logs(), [LogLine { level: Level::Warn, message: "careful".into() }]);
        assert_eq!(ctx.progress_reports(), [ProgressReport { done: 1, total: 2, message: "50%".into() }]);
        assert_eq!(ctx.slept(), Duration::from_secs(3_600));
        assert_eq!(ctx.remaining(), Duration::ZERO);
        assert!(ctx.should_stop());
    }
    #[test]
    fn a_fake_context_says_which_schedule_started_the_job() {
        assert_eq!(Context::fake().fire(), None);
        let fire = Context::fake().with_fire("nightly", 1_800_000_000_000, 1_800_000_000_250).fire().unwrap();
        assert_eq!(
            (&*fire.schedule, fire.nominal_ms, fire.fired_ms),
            ("nightly", 1_800_000_000_000, 1_800_000_000_250)
        );
    }

    #[test]
    fn a_fake_context_records_states_and_keeps_the_soft_limit() {
        let ctx = Context::fake().with_soft_limit(Duration::from_secs(5)).with_unix_time(Duration::from_secs(100));
        ctx.set_state("charging", serde_json::json!({"card": "visa"}));
        ctx.set_state("waiting", ());
        // A map whose keys are no texts.
        ctx.set_state("odd", std::collections::BTreeMap::from([(None::<u8>, 1)]));
        let states: Vec<_> = ctx.states().into_iter().map(|state| (state.name, state.meta.to_string())).collect();
        let expected = [("charging", r#"{"card":"visa"}"#), ("waiting", "null"), ("odd", "null")];
        assert_eq!(states, expected.map(|(name, meta)| (name.to_owned(), meta.to_owned())));
        assert_eq!(ctx.logs().len(), 1);
        assert!(!ctx.should_stop());
        ctx.sleep(Duration::from_secs(5));
        assert!(ctx.should_stop());
        assert_eq!(ctx.unix_time(), Duration::from_secs(105));
    }
}
