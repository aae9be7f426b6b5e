//! The owner of an attempt, as the guest's calls reach it while the attempt runs.

use std::time::Duration;

use umbel_model::{Progress, named_enum};

named_enum! {
    /// How grave a log line is, as in `wasi:logging`.
    pub enum LogLevel {
        Trace = "trace",
        Debug = "debug",
        Info = "info",
        Warn = "warn",
        Error = "error",
        Critical = "critical",
    }
}

/// One line of a job's log: bounded, and free of terminal escapes and control characters but line feeds and tabs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub level: LogLevel,
    /// The part of the program that logs; `stdout`, `stderr`, or `umbel` for the host itself. At most 128 bytes.
    pub context: String,
    pub message: String,
    /// Since the start of the attempt.
    pub elapsed: Duration,
}

/// Why the host refused a call of a guest. The guest gets it as a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// A short stable name of the limit or the mistake.
    pub kind: String,
    /// For people.
    pub message: String,
}

impl Refused {
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into() }
    }

    fn unavailable() -> Self {
        Self::new("canvas_unavailable", "this job runs where there are no workflows")
    }
}

/// Receives the log lines, progress and workflow calls of an attempt, on the guest's thread: must be quick and must not
/// block.
pub trait Host: Send + Sync {
    /// Within the limits of [`crate::LogLimits`].
    fn log(&self, line: LogLine);
    /// Not more often than `progress_interval_ms`; the last one is always passed on.
    fn progress(&self, progress: Progress);
    /// True asks the guest to clean up and return, as [`crate::StopHandle::ask`] does.
    fn should_stop(&self) -> bool {
        false
    }

    /// Submit this workflow, a canvas in its JSON form, when the attempt has ended well; answers its id. Texts of
    /// guests: of bounded length, and anything may be in them.
    fn submit(&self, _canvas: &str) -> Result<String, Refused> {
        Err(Refused::unavailable())
    }

    /// Replace the job by this canvas when the attempt has ended well. Not called again once it was `Ok`.
    fn replace(&self, _canvas: &str) -> Result<(), Refused> {
        Err(Refused::unavailable())
    }

    /// Add these members, a JSON list of steps, to the job's group when the attempt has ended well. Called only for a
    /// job that is in one.
    fn add_to_group(&self, _members: &str) -> Result<(), Refused> {
        Err(Refused::unavailable())
    }
}

/// Ignores every call, and refuses workflow calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl Host for Discard {
    fn log(&self, _: LogLine) {}
    fn progress(&self, _: Progress) {}
}
