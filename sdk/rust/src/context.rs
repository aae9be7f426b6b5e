//! The context of a running attempt: its facts, and its requests to the host.
//!
//! Invariants: creating a context costs no host call, so a task that does not use it pays nothing; natively it is a
//! fake that records, and never sleeps.

#[cfg(not(target_arch = "wasm32"))]
mod fake;
#[cfg(target_arch = "wasm32")]
mod host;

use std::{fmt, time::Duration};

/// A time at which a schedule fired.
pub use crate::raw::umbel::task::schedule::Fire;
#[cfg(not(target_arch = "wasm32"))]
pub use fake::{CustomState, LogLine, ProgressReport};

#[cfg(not(target_arch = "wasm32"))]
use fake::Fake as Backend;
#[cfg(target_arch = "wasm32")]
use host::Host as Backend;

use serde::Serialize;

use crate::{
    Ignore, Refused, TaskResult,
    canvas::{Canvas, Place, members_json},
    raw::{Attempt, Level},
};

/// The attempt that is running. Take it as the first parameter: `fn task(ctx: &Context, …)`.
///
/// In native tests make one with `Context::fake()`.
pub struct Context {
    pub(crate) backend: Backend,
}

impl Context {
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn host() -> Self {
        Self { backend: Backend::default() }
    }

    fn attempt_info(&self) -> &Attempt {
        self.backend.attempt()
    }

    /// The job's id.
    pub fn job_id(&self) -> &str {
        &self.attempt_info().job_id
    }

    /// The task's name.
    pub fn task(&self) -> &str {
        &self.attempt_info().task
    }

    /// The queue that the job came from.
    pub fn queue(&self) -> &str {
        &self.attempt_info().queue
    }

    /// 1 for the first run; each retry adds one.
    pub fn attempt(&self) -> u32 {
        self.attempt_info().attempt
    }

    /// Retries that the policy allows after the first attempt; none means for ever.
    pub fn max_retries(&self) -> Option<u32> {
        self.attempt_info().max_retries
    }

    /// 1 unless a worker was lost during this attempt: more means that the code may have run in part before.
    pub fn delivery(&self) -> u32 {
        self.attempt_info().delivery
    }

    /// Rises with every delivery of the job. Hand it to outside systems so that they can refuse a stale writer.
    pub fn fence(&self) -> u64 {
        self.attempt_info().fence
    }

    /// The W3C trace context that the job was submitted with, if any.
    pub fn traceparent(&self) -> Option<&str> {
        self.attempt_info().traceparent.as_deref()
    }

    /// Time until the hard limit stops the attempt; zero when it has passed. Whole milliseconds.
    pub fn remaining(&self) -> Duration {
        Duration::from_millis(self.backend.remaining_ms())
    }

    /// True once the soft time limit has passed or the job was cancelled: clean up and return.
    pub fn should_stop(&self) -> bool {
        self.backend.should_stop()
    }

    /// Says how far the job is. A `total` of 0 means unknown. Cheap, but each call goes to the host, which keeps the
    /// last one: report steps, not bytes.
    pub fn progress(&self, done: u64, total: u64, message: impl AsRef<str>) {
        self.backend.progress(done, total, message.as_ref());
    }

    /// Says what the task is doing, in a word of its own: `ctx.set_state("charging", json!({"card": "visa"}))`. Shown with
    /// the job while it runs, until it is said anew. The name has at most 64 bytes; `meta`, anything that can be written as
    /// at most 16 KiB of JSON, `()` for nothing. What is larger is dropped, and the job's log says so.
    pub fn set_state(&self, name: impl AsRef<str>, meta: impl Serialize) {
        let meta = match serde_json::to_string(&meta) {
            Ok(meta) => Some(meta).filter(|json| json != "null"),
            Err(_) => {
                self.warn("the meta of a custom state was dropped: it cannot be written as JSON");
                None
            }
        };
        self.backend.set_state(name.as_ref(), meta.as_deref());
    }

    /// The time of day, since 1970. `SystemTime` and `Instant` do not work in a sandbox without a clock of its own.
    pub fn unix_time(&self) -> Duration {
        self.backend.unix_time()
    }

    /// Waits. The sandbox keeps its slot, so for long waits return [`Snooze`](crate::Snooze) instead. The host ends
    /// the wait at the hard time limit or when the job is cancelled.
    pub fn sleep(&self, duration: Duration) {
        self.backend.sleep(duration);
    }

    /// The time of a schedule for which this job was started; none if no schedule started it. Work with its `nominal_ms`, and a run
    /// that comes late, or again, does the same.
    pub fn fire(&self) -> Option<Fire> {
        self.backend.fire()
    }

    /// Where this job is in its workflow; none if it was submitted on its own.
    pub fn place(&self) -> Option<Place> {
        self.backend.place()
    }

    /// Submits a workflow when this attempt has ended well, and not otherwise. Answers its id.
    pub fn submit(&self, canvas: impl Into<Canvas>) -> Result<String, Refused> {
        Ok(self.backend.submit(&canvas.into().json()?)?)
    }

    /// Ends the task, which is replaced by `canvas`: `return ctx.replace(…)`. The job waits for it, and what it gives is
    /// the job's result, in the job's place in its workflow. At most once; never `Ok`.
    pub fn replace<T>(&self, canvas: impl Into<Canvas>) -> TaskResult<T> {
        self.backend.replace(&canvas.into().json()?).map_err(Refused::from)?;
        Err(Ignore.into())
    }

    /// Adds members to the group that this job is in, behind those that it has, when this attempt has ended well.
    pub fn add_to_group<S: Into<Canvas>>(&self, members: impl IntoIterator<Item = S>) -> Result<(), Refused> {
        let members: Vec<Canvas> = members.into_iter().map(Into::into).collect();
        Ok(self.backend.add_to_group(&members_json(&members)?)?)
    }

    /// Writes to the job's log.
    pub fn log(&self, level: Level, message: impl AsRef<str>) {
        self.backend.log(level, message.as_ref());
    }

    /// Writes to the job's log.
    pub fn trace(&self, message: impl AsRef<str>) {
        self.log(Level::Trace, message);
    }

    /// Writes to the job's log.
    pub fn debug(&self, message: impl AsRef<str>) {
        self.log(Level::Debug, message);
    }

    /// Writes to the job's log.
    pub fn info(&self, message: impl AsRef<str>) {
        self.log(Level::Info, message);
    }

    /// Writes to the job's log.
    pub fn warn(&self, message: impl AsRef<str>) {
        self.log(Level::Warn, message);
    }

    /// Writes to the job's log.
    pub fn error(&self, message: impl AsRef<str>) {
        self.log(Level::Error, message);
    }

    /// Writes to the job's log.
    pub fn critical(&self, message: impl AsRef<str>) {
        self.log(Level::Critical, message);
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}
