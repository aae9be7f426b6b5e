//! The context of native tests: says what the test told it, records what the task did, and never waits.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::Context;
use crate::raw::{Attempt, Level};

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

pub(crate) struct Fake {
    attempt: Attempt,
    remaining: Duration,
    stop: bool,
    unix_time: Duration,
    recorded: Mutex<Recorded>,
}

#[derive(Default)]
struct Recorded {
    logs: Vec<LogLine>,
    progress: Vec<ProgressReport>,
    slept: Duration,
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
        self.stop || self.remaining_ms() == 0
    }

    pub(super) fn progress(&self, done: u64, total: u64, message: &str) {
        self.recorded().progress.push(ProgressReport { done, total, message: message.to_owned() });
    }

    pub(super) fn unix_time(&self) -> Duration {
        self.unix_time + self.recorded().slept
    }

    pub(super) fn sleep(&self, duration: Duration) {
        let mut recorded = self.recorded();
        recorded.slept = recorded.slept.saturating_add(duration);
    }

    pub(super) fn log(&self, level: Level, message: &str) {
        self.recorded().logs.push(LogLine { level, message: message.to_owned() });
    }
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
            stop: false,
            // 2026-01-01T00:00:00Z
            unix_time: Duration::from_secs(1_767_225_600),
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

    /// Makes [`Context::should_stop`] true, as after the soft time limit or a cancellation.
    #[must_use]
    pub fn with_stop(mut self) -> Self {
        self.backend.stop = true;
        self
    }

    /// What the task logged through its context so far.
    pub fn logs(&self) -> Vec<LogLine> {
        self.backend.recorded().logs.clone()
    }

    /// The progress that the task reported so far.
    pub fn progress_reports(&self) -> Vec<ProgressReport> {
        self.backend.recorded().progress.clone()
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
}
