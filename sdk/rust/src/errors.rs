//! How a task ends when it does not return a value.
//!
//! Invariant: every ordinary error converts by `?` into one that may be retried; only what says so by its type is
//! final. `TaskError` is therefore no `std::error::Error` itself, as in `anyhow`.

use std::{
    error::Error,
    fmt::{self, Write as _},
    io,
    time::Duration,
};

use serde::Serialize;

use crate::raw::{Failure, Outcome, Retryable};

/// The result of a task that can fail in more than one way.
pub type TaskResult<T> = Result<T, TaskError>;

/// The end of an attempt without a value: made by `?` from any error (retryable), or from [`Fatal`], [`Retry`],
/// [`RetryAfter`], [`Snooze`], [`Reject`] or [`Ignore`].
#[derive(Debug, Clone, PartialEq)]
pub struct TaskError(Box<Outcome>);

impl TaskError {
    /// Of a call to the host that failed: retried if that may be over later, and fatal otherwise.
    pub(crate) fn of_call(kind: &str, text: String, is_temporary: bool) -> Self {
        if is_temporary { Retry::new(text).kind(kind).into() } else { Fatal::new(text).kind(kind).into() }
    }

    /// The failure as the host reads it.
    pub fn outcome(&self) -> &Outcome {
        &self.0
    }

    /// The failure as the host reads it.
    pub fn into_outcome(self) -> Outcome {
        *self.0
    }

    /// True if the job is tried again while its policy has retries left.
    pub fn is_retryable(&self) -> bool {
        matches!(*self.0, Outcome::Error(_))
    }

    /// True if the job fails at once.
    pub fn is_fatal(&self) -> bool {
        matches!(*self.0, Outcome::Fatal(_) | Outcome::Reject(_))
    }

    /// The failure's short name, when it has one.
    pub fn kind(&self) -> Option<&str> {
        self.failure().map(|failure| failure.kind.as_str())
    }

    /// The failure's text, or the reason of a rejection; empty otherwise.
    pub fn message(&self) -> &str {
        match &*self.0 {
            Outcome::Reject(reason) => reason,
            _ => self.failure().map_or("", |failure| failure.message.as_str()),
        }
    }

    fn failure(&self) -> Option<&Failure> {
        match &*self.0 {
            Outcome::Error(error) => Some(&error.failure),
            Outcome::Fatal(failure) => Some(failure),
            Outcome::Snooze(_) | Outcome::Reject(_) | Outcome::Ignore => None,
        }
    }
}

/// Anything that is an error, or a text: retryable, with the name of the type, and of the variant of an enum, as its kind. An
/// I/O error that says that the platform does not support what was tried is final, with the kind `unsupported`: it would
/// be the same each time.
impl<E: Into<Box<dyn Error>>> From<E> for TaskError {
    fn from(error: E) -> Self {
        let type_name = std::any::type_name::<E>();
        let error: Box<dyn Error> = error.into();
        if let Some(Meant { kind, is_temporary, .. }) = meant(&*error) {
            let text = with_causes(&*error);
            return if *is_temporary {
                Retry::new(text).kind(*kind).into()
            } else {
                Fatal::new(text).kind(*kind).into()
            };
        }
        match is_unsupported(&*error) {
            true => Fatal { failure: unsupported(&*error) }.into(),
            false => Retry { failure: failure_of(type_name, &*error, Retry::UNNAMED) }.into(),
        }
    }
}

/// An error of the SDK inside one of the standard library, with what it means for a task. Those of the SDK are no
/// `std::error::Error` themselves: by `?` they would become any error, which is retried.
#[derive(Debug)]
pub(crate) struct Meant {
    pub(crate) kind: &'static str,
    /// Whether the same may succeed later.
    pub(crate) is_temporary: bool,
    pub(crate) text: String,
    pub(crate) error: Box<dyn std::any::Any + Send + Sync>,
}

impl fmt::Display for Meant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Meant {}

/// The one that an error is, or that is a cause of it.
fn meant<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Meant> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inside = inside.and_then(|inside| inside.downcast_ref::<Meant>());
        if let Some(found) = inside.or_else(|| error.downcast_ref()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Whether the error, or a cause of it, is one of the standard library for what the sandbox does not have.
fn is_unsupported(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::Unsupported) {
            return true;
        }
        next = error.source();
    }
    false
}

fn unsupported(error: &dyn Error) -> Failure {
    let advice = "the sandbox has no sockets, files or processes; send requests with umbel::http";
    Failure { kind: "unsupported".to_owned(), message: format!("{}: {advice}", with_causes(error)), details: None }
}

fn failure_of(type_name: &str, error: &dyn Error, unnamed: &str) -> Failure {
    let kind = kind_of(type_name, error).unwrap_or_else(|| unnamed.to_owned());
    Failure { kind, message: with_causes(error), details: None }
}

macro_rules! from_errors {
    ($($name:ident: $unnamed:literal;)*) => {$(
        /// With the text of the error and its causes; the kind is the name of its type, and of an enum also the variant:
        /// `PayError::Declined`.
        impl<E: Into<Box<dyn Error>>> From<E> for $name {
            fn from(error: E) -> Self {
                let type_name = std::any::type_name::<E>();
                let error: Box<dyn Error> = error.into();
                Self { failure: failure_of(type_name, &*error, Self::UNNAMED) }
            }
        }

        impl $name {
            /// The kind of a failure whose error has no name.
            const UNNAMED: &'static str = $unnamed;
        }
    )*};
}

from_errors! {
    Fatal: "fatal";
    Retry: "error";
}

/// `PayError::Declined` of a `shop::PayError<u8>` that is `Declined { .. }`; none where the type says nothing.
fn kind_of(full: &str, error: &dyn Error) -> Option<String> {
    let path = full.split('<').next().unwrap_or(full);
    let name = path.rsplit("::").next().unwrap_or(path);
    if full.contains("dyn ") || !name.starts_with(|c: char| c.is_uppercase()) || name == "String" {
        return None;
    }
    // How the errors of the standard library are made inside is no name to rely on.
    let is_foreign = ["std::", "core::", "alloc::"].iter().any(|library| path.starts_with(library));
    match variant_of(error).filter(|variant| variant != name && !is_foreign) {
        Some(variant) => Some(format!("{name}::{variant}")),
        None => Some(name.to_owned()).filter(|name| name != "Error"),
    }
}

/// The variant that a derived `Debug` begins with; of a structure, its name.
fn variant_of(error: &dyn Error) -> Option<String> {
    let mut begun = Beginning(String::new());
    // It fails when it has enough.
    let _ = write!(begun, "{error:?}");
    let text = begun.0;
    let (name, rest) = text.split_at(text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len()));
    let is_derived = rest.is_empty() || rest.starts_with('(') || rest.starts_with(" {");
    (is_derived && name.len() < Beginning::BYTES && name.starts_with(|c: char| c.is_uppercase()))
        .then(|| name.to_owned())
}

/// The beginning of a text that may be long.
struct Beginning(String);

impl Beginning {
    const BYTES: usize = 64;
}

impl fmt::Write for Beginning {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend(text.chars().take(Self::BYTES));
        if self.0.len() < Self::BYTES { Ok(()) } else { Err(fmt::Error) }
    }
}

/// The error's text and those of its causes that it does not already contain.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

macro_rules! failure_setters {
    () => {
        /// A short stable name for programs, such as `CardDeclined`; at most 128 bytes are kept.
        #[must_use]
        pub fn kind(mut self, kind: impl Into<String>) -> Self {
            self.failure.kind = kind.into();
            self
        }

        /// Anything else that a caller may want to read; at most 16 KiB of JSON are kept.
        #[must_use]
        pub fn details(mut self, details: impl Serialize) -> Self {
            match serde_json::to_string(&details) {
                Ok(json) => self.failure.details = Some(json),
                Err(_) => self.failure.message.push_str(" (details dropped: they cannot be written as JSON)"),
            }
            self
        }
    };
}

fn failure(kind: &str, message: String) -> Failure {
    Failure { kind: kind.to_owned(), message, details: None }
}

/// The job fails at once and is not retried. Its kind is `fatal` unless set.
#[derive(Debug, Clone, PartialEq)]
pub struct Fatal {
    failure: Failure,
}

impl Fatal {
    /// A failure with a text for people; at most 8 KiB are kept.
    pub fn new(message: impl Into<String>) -> Self {
        Self { failure: failure("fatal", message.into()) }
    }

    failure_setters!();
}

/// The attempt failed and may be retried after the policy's backoff, as any other error by `?`. Its kind is `error`
/// unless set.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    failure: Failure,
}

impl Retry {
    /// A failure with a text for people; at most 8 KiB are kept.
    pub fn new(message: impl Into<String>) -> Self {
        Self { failure: failure("error", message.into()) }
    }

    failure_setters!();
}

/// The attempt failed; retry after exactly this long instead of the policy's backoff, as a server's `Retry-After`
/// asks. It uses up a retry. Its kind is `retry_after` unless set.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryAfter {
    delay: Duration,
    failure: Failure,
}

impl RetryAfter {
    /// A delay, whole milliseconds, at most a year; and a text for people.
    pub fn new(delay: Duration, message: impl Into<String>) -> Self {
        Self { delay, failure: failure("retry_after", message.into()) }
    }

    failure_setters!();
}

/// Not yet: run the task again after this long. Costs no retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snooze {
    delay: Duration,
}

impl Snooze {
    /// A delay, whole milliseconds, at least a second and at most a year: others are cut to these.
    pub fn new(delay: Duration) -> Self {
        Self { delay }
    }
}

/// The job cannot be handled by this task: it fails at once and goes to the dead set with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    reason: String,
}

impl Reject {
    /// The reason, for people; at most 8 KiB are kept.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// The job is done, and its result is not wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ignore;

/// Why the host, or this crate, did not take a canvas. By `?` it is a final failure of that kind, because the same would
/// be refused again; only [`Refused::is_temporary`] ones may be retried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// A short stable name, such as `host_limit:canvas_bytes` or `not_in_group`.
    pub kind: String,
    /// For people.
    pub message: String,
}

impl Refused {
    pub(crate) fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into() }
    }
}

impl Refused {
    /// Too many at this time, and not too many for ever.
    pub fn is_temporary(&self) -> bool {
        self.kind == "host_limit:canvas_rate"
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { kind: failure.kind, message: failure.message }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

macro_rules! converts {
    ($($from:ident: $outcome:expr;)*) => {$(
        impl From<$from> for TaskError {
            fn from(value: $from) -> Self {
                let outcome: fn($from) -> Outcome = $outcome;
                Self(Box::new(outcome(value)))
            }
        }
    )*};
}

converts! {
    Fatal: |fatal| Outcome::Fatal(fatal.failure);
    Retry: |retry| Outcome::Error(Retryable { failure: retry.failure, retry_after_ms: None });
    RetryAfter: |retry| Outcome::Error(Retryable { failure: retry.failure, retry_after_ms: Some(millis(retry.delay)) });
    Snooze: |snooze| Outcome::Snooze(millis(snooze.delay));
    Reject: |reject| Outcome::Reject(reject.reason);
    Ignore: |_| Outcome::Ignore;
    Refused: |refused| match (refused.is_temporary(), failure(&refused.kind, refused.message)) {
        (true, failure) => Outcome::Error(Retryable { failure, retry_after_ms: None }),
        (false, failure) => Outcome::Fatal(failure),
    };
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// For `assert_eq!` messages and logs: the kind and the text.
impl fmt::Display for TaskErrorText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.outcome() {
            Outcome::Error(_) | Outcome::Fatal(_) => {
                write!(f, "{}: {}", self.0.kind().unwrap_or("error"), self.0.message())
            }
            Outcome::Snooze(ms) => write!(f, "snoozed for {ms} ms"),
            Outcome::Reject(reason) => write!(f, "rejected: {reason}"),
            Outcome::Ignore => f.write_str("ignored"),
        }
    }
}

/// Shows a [`TaskError`] (which is not `Display`, so that `?` can make it from everything that is).
pub struct TaskErrorText<'a>(&'a TaskError);

impl TaskError {
    /// The kind and the text, for people.
    pub fn display(&self) -> TaskErrorText<'_> {
        TaskErrorText(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> TaskResult<u32> {
        Ok(text.parse::<u32>()?)
    }

    #[test]
    fn any_error_by_question_mark_is_retryable_and_named_after_its_type() {
        let error = parse("x").unwrap_err();
        assert!(error.is_retryable() && !error.is_fatal());
        assert_eq!(error.kind(), Some("ParseIntError"));
        assert_eq!(error.message(), "invalid digit found in string");
    }

    #[test]
    fn texts_and_boxed_errors_convert_too() {
        assert_eq!(TaskError::from("no").kind(), Some("error"));
        assert_eq!(TaskError::from(String::from("no")).message(), "no");
        let boxed: Box<dyn Error> = "boxed".into();
        assert_eq!(TaskError::from(boxed).display().to_string(), "error: boxed");
    }

    #[test]
    fn what_the_sandbox_does_not_have_is_final_also_as_a_cause() {
        #[derive(Debug)]
        struct Wrapped(io::Error);
        impl fmt::Display for Wrapped {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("cannot connect")
            }
        }
        impl Error for Wrapped {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let of = |kind: io::ErrorKind| TaskError::from(Wrapped(io::Error::new(kind, "there is none")));
        let error = of(io::ErrorKind::Unsupported);
        assert!(error.is_fatal() && error.kind() == Some("unsupported"));
        assert!(
            error.message().starts_with("cannot connect: there is none: the sandbox has no sockets"),
            "{}",
            error.message()
        );
        assert!(error.message().contains("umbel::http"));
        assert!(of(io::ErrorKind::TimedOut).is_retryable());
    }

    #[derive(Debug)]
    enum PayError {
        Declined { code: u8 },
        Bank(std::num::ParseIntError),
        Closed,
    }

    impl fmt::Display for PayError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Self::Declined { code } => write!(f, "declined: {code}"),
                Self::Bank(error) => write!(f, "the bank said {error}"),
                Self::Closed => f.write_str("closed"),
            }
        }
    }

    impl Error for PayError {}

    #[test]
    fn each_variant_of_an_error_is_a_kind_of_its_own() {
        let kind = |error: PayError| TaskError::from(error).kind().unwrap().to_owned();
        assert_eq!(kind(PayError::Declined { code: 5 }), "PayError::Declined");
        assert_eq!(kind(PayError::Bank("x".parse::<u8>().unwrap_err())), "PayError::Bank");
        assert_eq!(kind(PayError::Closed), "PayError::Closed");
        let of_the_system = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(TaskError::from(of_the_system).kind(), Some("error"));
    }

    #[test]
    fn an_error_with_a_type_becomes_final_and_keeps_its_kind() {
        let closed = || -> Result<(), PayError> { Err(PayError::Closed) };
        let fails = || -> TaskResult<()> { Ok(closed().map_err(Fatal::from)?) };
        let error = fails().unwrap_err();
        assert!(error.is_fatal());
        assert_eq!((error.kind(), error.message()), (Some("PayError::Closed"), "closed"));
        assert_eq!(TaskError::from(Fatal::from("no")).kind(), Some("fatal"));
    }

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug)]
        struct Outer(std::num::ParseIntError);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no order id")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let error = TaskError::from(Outer("".parse::<u8>().unwrap_err()));
        assert_eq!(error.message(), "no order id: cannot parse integer from empty string");
    }

    #[test]
    fn each_ending_becomes_its_outcome() {
        let fatal = TaskError::from(Fatal::new("void").kind("Void").details([1, 2]));
        let expected = Failure { kind: "Void".into(), message: "void".into(), details: Some("[1,2]".into()) };
        assert_eq!(fatal.into_outcome(), Outcome::Fatal(expected));
        let after = TaskError::from(RetryAfter::new(Duration::from_secs(2), "slow down"));
        assert!(matches!(after.outcome(), Outcome::Error(r) if r.retry_after_ms == Some(2_000)));
        assert!(TaskError::from(Retry::new("again")).is_retryable());
        assert_eq!(TaskError::from(Snooze::new(Duration::MAX)).into_outcome(), Outcome::Snooze(u64::MAX));
        assert_eq!(TaskError::from(Reject::new("bad")).message(), "bad");
        assert_eq!(TaskError::from(Ignore).into_outcome(), Outcome::Ignore);
    }
}
