//! The outcome of an attempt, and what follows for its job.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Policy, UnixMs, WorkerId, WorkflowId};

/// Longest kind that is kept, bytes.
pub const MAX_KIND_BYTES: usize = 128;
/// The kind of the trap of a guest that panicked. Releases before this one call it `trap:unreachable`.
pub const PANIC: &str = "panic";
/// Longest message that is kept, bytes.
pub const MAX_MESSAGE_BYTES: usize = 8 << 10;
/// Largest details that are kept, bytes; larger ones are dropped and the message says so.
pub const MAX_DETAILS_BYTES: usize = 16 << 10;

/// Why an attempt or a job failed.
///
/// `kind` is `error`-like and chosen by the guest for its own errors (the type's name), or one of the host's:
/// `out_of_fuel`, `deadline`, `memory`, `stack`, `trap:<kind>`, `bad_output`, `host_limit:<which>`, `rejected`,
/// `max_deliveries`, `module_missing`, `corrupted_blob`, `module_refused`, `bad_spec`, `host_panic`, `invalid_arguments`,
/// `upstream_failed`, `worker_lost`, `superseded`, `value_lost`,
/// `value_unavailable`, `lifetime`, `storage_quota`, `revoked`, `expired`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    pub kind: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<RawValue>>,
    /// The guest's frames when it trapped, innermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<Frame>,
}

/// One frame of a guest's backtrace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    pub function: String,
}

impl PartialEq for Failure {
    fn eq(&self, other: &Self) -> bool {
        let details = |f: &Self| f.details.as_ref().map(|d| d.get().to_owned());
        self.kind == other.kind
            && self.message == other.message
            && self.frames == other.frames
            && details(self) == details(other)
    }
}

impl Failure {
    /// A failure with bounded texts.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: truncated(kind.into(), MAX_KIND_BYTES),
            message: truncated(message.into(), MAX_MESSAGE_BYTES),
            details: None,
            frames: Vec::new(),
        }
    }

    /// Keeps `details` if it is JSON and small enough; otherwise says in the message that it was dropped.
    #[must_use]
    pub fn with_details(mut self, details: Option<String>) -> Self {
        let Some(text) = details else { return self };
        let kept = (text.len() <= MAX_DETAILS_BYTES).then(|| RawValue::from_string(text).ok()).flatten();
        if kept.is_none() {
            self.message.push_str(" (details dropped: not JSON or too large)");
        }
        self.details = kept;
        self
    }
}

/// `text` cut at a character boundary to at most `max` bytes.
pub fn truncated(mut text: String, max: usize) -> String {
    text.truncate(text.floor_char_boundary(max));
    text
}

/// How one attempt ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The result, JSON text.
    Value(Box<RawValue>),
    /// May be retried; the guest may say when.
    Error { failure: Failure, retry_after_ms: Option<u64> },
    /// Never retried.
    Fatal(Failure),
    /// Run again later, at no cost.
    Snooze { delay_ms: u64 },
    /// Refused: to the dead set with the reason.
    Reject { reason: String },
    /// Done, result not wanted.
    Ignore,
    /// The sandbox stopped it; the kind says why.
    Trap(Failure),
    /// It was cancelled and stopped.
    Revoked,
    /// The worker gave it back unrun or stopped it for its own shutdown: costs the job nothing.
    Released,
}

impl Outcome {
    /// The same outcome with its failure changed, if it has one.
    #[must_use]
    pub fn map_failure(self, change: impl FnOnce(Failure) -> Failure) -> Self {
        match self {
            Self::Error { failure, retry_after_ms } => Self::Error { failure: change(failure), retry_after_ms },
            Self::Fatal(failure) => Self::Fatal(change(failure)),
            Self::Trap(failure) => Self::Trap(change(failure)),
            other => other,
        }
    }
}

/// The resources that an attempt used. What is zero is left out of JSON, but for the first three.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub fuel: u64,
    /// Peak of the linear memories together, bytes.
    pub memory_bytes: u64,
    /// From instantiation to drop, microseconds.
    pub duration_us: u64,
    /// The time of a thread that it took, microseconds: without the time in which it waited, or others had its core. Never more
    /// than the duration.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cpu_us: u64,
    /// Memory × time, KiB·milliseconds, rounded up: the peak as long as it lasted, so at most too much. Of a map the sum over
    /// its calls.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory_kib_ms: u64,
    /// HTTP requests that were sent, or tried to be.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub http_requests: u64,
    /// Bytes of heads and bodies of requests.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub http_bytes_out: u64,
    /// Bytes of heads and bodies of answers.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub http_bytes_in: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kv_operations: u64,
    /// Bytes of blobs that were handed to the guest.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub blob_bytes_read: u64,
    /// Bytes that the guest wrote into blobs.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub blob_bytes_written: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Usage {
    /// Memory × time of so many bytes for so long.
    pub fn memory_kib_ms_of(memory_bytes: u64, duration_us: u64) -> u64 {
        let product = u128::from(memory_bytes) * u128::from(duration_us);
        u64::try_from(product.div_ceil(1_024 * 1_000)).unwrap_or(u64::MAX)
    }
}

/// One line of a job's history: an attempt that was settled, or a delivery that was lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// 1 for the first run.
    pub attempt: u32,
    pub delivery: u32,
    pub worker: WorkerId,
    /// When it was settled, by the worker's clock: for people only.
    pub ended_at: UnixMs,
    /// `succeeded`, `ignored`, `error`, `fatal`, `snoozed`, `rejected`, `trap`, `revoked`.
    pub outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    #[serde(flatten)]
    pub usage: Usage,
}

/// The change of a job that a settle asks the broker for.
#[derive(Debug, Clone)]
pub enum Resolution {
    /// Terminal `succeeded`; none when the result is not kept.
    Succeed { result: Option<Box<RawValue>> },
    /// Terminal `failed`, and into the dead set.
    Fail { failure: Failure },
    /// `retrying`: due after the delay, one retry used.
    Retry { delay_ms: u64, failure: Failure },
    /// `scheduled`: due after the delay, no retry used.
    Snooze { delay_ms: u64 },
    /// Terminal `revoked`.
    Revoke,
    /// Back to `queued`, where it was in its queue; the delivery is not counted.
    Release,
    /// `waiting` for the end of this workflow, whose result becomes the job's.
    Replace { workflow: WorkflowId },
}

/// The resolution of an outcome under a policy. `retries` were used before this attempt; `random` is uniform.
pub fn decide(outcome: Outcome, policy: &Policy, retries: u32, random: u64) -> Resolution {
    let error = |failure: Failure, retry_after_ms: Option<u64>, is_trap| {
        let used_up = !policy.retries_unlimited && retries >= policy.max_retries;
        if used_up || !policy.retries(&failure.kind, is_trap) {
            return Resolution::Fail { failure };
        }
        let delay_ms = retry_after_ms.unwrap_or_else(|| policy.retry_backoff.delay_ms(retries, random));
        let least_ms = if policy.retries_unlimited { MIN_UNCOUNTED_DELAY_MS } else { 0 };
        Resolution::Retry { delay_ms: delay_ms.clamp(least_ms, MAX_DELAY_MS), failure }
    };
    match outcome {
        Outcome::Value(result) => Resolution::Succeed { result: Some(result) },
        Outcome::Ignore => Resolution::Succeed { result: None },
        Outcome::Error { failure, retry_after_ms } => error(failure, retry_after_ms, false),
        // A trap in the same code with the same arguments mostly recurs: `retry_on` must name it.
        Outcome::Trap(failure) => error(failure, None, true),
        Outcome::Fatal(failure) => Resolution::Fail { failure },
        Outcome::Snooze { delay_ms } => {
            Resolution::Snooze { delay_ms: delay_ms.clamp(MIN_UNCOUNTED_DELAY_MS, MAX_DELAY_MS) }
        }
        Outcome::Reject { reason } => Resolution::Fail { failure: Failure::new("rejected", reason) },
        Outcome::Revoked => Resolution::Revoke,
        Outcome::Released => Resolution::Release,
    }
}

impl Resolution {
    /// The same; but a job that would run again later than `max_ms` after its submission, which was `age_ms` ago, fails.
    #[must_use]
    pub fn within_lifetime(self, age_ms: u64, max_ms: u64) -> Self {
        let (delay_ms, why) = match &self {
            Self::Retry { delay_ms, failure } => (delay_ms, format!("failed with the kind `{}`", failure.kind)),
            Self::Snooze { delay_ms } => (delay_ms, "asked to run again later".to_owned()),
            _ => return self,
        };
        if age_ms.saturating_add(*delay_ms) <= max_ms {
            return self;
        }
        let message = format!(
            "a job may run again until {max_ms} ms after its submission (`--max-lifetime`), and its last attempt {why}"
        );
        Self::Fail { failure: Failure::new("lifetime", message) }
    }
}

/// The longest delay, milliseconds, a year: nobody means a longer one, and no sum with a clock overflows.
pub const MAX_DELAY_MS: u64 = 365 * 86_400_000;
/// The least delay before an attempt that uses up nothing, a snooze or one of unlimited retries, milliseconds: otherwise one job
/// would keep a worker busy for ever.
pub const MIN_UNCOUNTED_DELAY_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> Outcome {
        Outcome::Error { failure: Failure::new("Timeout", "slow"), retry_after_ms: None }
    }

    #[test]
    fn max_retries_counts_retries_and_not_attempts() {
        let policy = Policy { max_retries: 2, ..Policy::default() };
        assert!(matches!(decide(error(), &policy, 1, 0), Resolution::Retry { .. }));
        assert!(matches!(decide(error(), &policy, 2, 0), Resolution::Fail { .. }));
    }

    #[test]
    fn unlimited_retries_never_fail_on_an_error() {
        let policy = Policy { retries_unlimited: true, ..Policy::default() };
        assert!(matches!(decide(error(), &policy, u32::MAX, 0), Resolution::Retry { .. }));
    }

    #[test]
    fn a_guest_chooses_its_own_delay_within_a_year() {
        let later = |ms| Outcome::Error { failure: Failure::new("e", ""), retry_after_ms: Some(ms) };
        let delay = |ms| match decide(later(ms), &Policy::default(), 0, 0) {
            Resolution::Retry { delay_ms, .. } => delay_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!(delay(5), 5);
        assert_eq!(delay(u64::MAX), MAX_DELAY_MS);
    }

    #[test]
    fn what_uses_up_no_retry_waits_for_a_second_at_least() {
        let unlimited = Policy { retries_unlimited: true, ..Policy::default() };
        let at_once = || Outcome::Error { failure: Failure::new("e", ""), retry_after_ms: Some(0) };
        let delay = |outcome, policy: &Policy| match decide(outcome, policy, 0, 0) {
            Resolution::Retry { delay_ms, .. } | Resolution::Snooze { delay_ms } => delay_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!(delay(at_once(), &unlimited), MIN_UNCOUNTED_DELAY_MS);
        assert_eq!(delay(at_once(), &Policy::default()), 0);
        for policy in [&unlimited, &Policy::default()] {
            assert_eq!(delay(Outcome::Snooze { delay_ms: 0 }, policy), MIN_UNCOUNTED_DELAY_MS);
            assert_eq!(delay(Outcome::Snooze { delay_ms: 5_000 }, policy), 5_000);
        }
    }

    #[test]
    fn a_job_that_would_run_again_after_its_lifetime_fails() {
        let retry = || Resolution::Retry { delay_ms: 10, failure: Failure::new("Timeout", "a secret") };
        assert!(matches!(retry().within_lifetime(90, 100), Resolution::Retry { delay_ms: 10, .. }));
        assert!(matches!(Resolution::Release.within_lifetime(u64::MAX, 100), Resolution::Release));
        for late in [retry(), Resolution::Snooze { delay_ms: 10 }] {
            let Resolution::Fail { failure } = late.within_lifetime(91, 100) else { panic!("it would run again") };
            assert_eq!(failure.kind, "lifetime");
            assert!(failure.message.contains("--max-lifetime") && !failure.message.contains("secret"));
        }
    }

    #[test]
    fn traps_and_fatal_errors_are_never_retried() {
        for outcome in [Outcome::Fatal(Failure::new("Void", "")), Outcome::Trap(Failure::new("out_of_fuel", ""))] {
            assert!(matches!(decide(outcome, &Policy::default(), 0, 0), Resolution::Fail { .. }));
        }
    }

    #[test]
    fn a_trap_that_the_policy_names_is_retried() {
        let policy = Policy { retry_on: vec!["deadline".into()], ..Policy::default() };
        let trap = |kind: &str| decide(Outcome::Trap(Failure::new(kind, "")), &policy, 0, 0);
        assert!(matches!(trap("deadline"), Resolution::Retry { .. }));
        assert!(matches!(trap("memory"), Resolution::Fail { .. }));
    }

    #[test]
    fn what_an_attempt_did_not_use_is_not_in_its_json() {
        let plain = Usage { fuel: 1, memory_bytes: 0, duration_us: 3, ..Usage::default() };
        let text = serde_json::to_string(&plain).unwrap();
        assert_eq!(text, r#"{"fuel":1,"memory_bytes":0,"duration_us":3}"#);
        assert_eq!(serde_json::from_str::<Usage>(&text).unwrap(), plain);
        let used = Usage { cpu_us: 2, http_requests: 4, ..plain };
        assert_eq!(serde_json::from_str::<Usage>(&serde_json::to_string(&used).unwrap()).unwrap(), used);
    }

    #[test]
    fn memory_by_time_is_rounded_up_and_never_overflows() {
        assert_eq!(Usage::memory_kib_ms_of(65_536, 1_000), 64);
        assert_eq!(Usage::memory_kib_ms_of(65_536, 1), 1);
        assert_eq!(Usage::memory_kib_ms_of(0, 1), 0);
        assert_eq!(Usage::memory_kib_ms_of(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        assert_eq!(truncated("aé".into(), 2), "a");
        assert!(Failure::new("k", "é".repeat(10_000)).message.len() <= MAX_MESSAGE_BYTES);
    }
}
