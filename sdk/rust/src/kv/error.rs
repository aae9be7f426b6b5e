//! What can go wrong with entries, and what that means for a task.

use std::fmt;

use crate::{TaskError, raw::umbel::kv::store};

/// Why the host did not do what was asked. By `?` in a task: what may be over later is retried, what will stay is fatal. Its kind
/// begins with `kv:`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A permission is missing: says which, and who has to give it. Fatal.
    Denied(String),
    /// The name of a bucket or a key, or another argument, is not valid. Fatal.
    Invalid(String),
    /// The version found instead of the expected one; 0: there is no entry. Retried.
    Conflict(u64),
    /// A value has at most so many bytes. Fatal.
    TooLarge(u64),
    /// What is stored is no decimal number of 64 bits. Fatal.
    NotANumber,
    /// The sum does not fit into 64 bits. Fatal.
    Overflow,
    /// The tenant has as much as it may. Retried: entries may expire, or be deleted.
    Quota(String),
    /// This attempt has lost its delivery, and another one may run. Retried, but nobody waits for this outcome.
    Stale,
    /// The attempt has made as many calls as it may. Fatal.
    Limit(String),
    /// The store cannot be reached. A write may have been done or not. Retried.
    Unavailable(String),
    /// The value is not what the task wants to read. Fatal.
    Unreadable(String),
}

impl Error {
    /// Whether the same may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Conflict(_) | Self::Quota(_) | Self::Stale | Self::Unavailable(_))
    }

    /// A short stable name, such as `kv:denied`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Denied(_) => "kv:denied",
            Self::Invalid(_) => "kv:invalid",
            Self::Conflict(_) => "kv:conflict",
            Self::TooLarge(_) => "kv:too_large",
            Self::NotANumber => "kv:not_a_number",
            Self::Overflow => "kv:overflow",
            Self::Quota(_) => "kv:quota",
            Self::Stale => "kv:stale",
            Self::Limit(_) => "kv:limit",
            Self::Unavailable(_) => "kv:unavailable",
            Self::Unreadable(_) => "kv:unreadable",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(text) | Self::Invalid(text) | Self::Quota(text) | Self::Limit(text) => f.write_str(text),
            Self::Unavailable(text) => f.write_str(text),
            Self::Conflict(0) => f.write_str("there is no such entry, and one was expected"),
            Self::Conflict(version) => write!(f, "the entry has version {version}, which is not the expected one"),
            Self::TooLarge(max) => write!(f, "a value has at most {max} bytes"),
            Self::NotANumber => f.write_str("what is stored is no decimal number of 64 bits"),
            Self::Overflow => f.write_str("the sum does not fit into 64 bits"),
            Self::Stale => f.write_str("this attempt has lost its delivery: another one may run"),
            Self::Unreadable(problem) => write!(f, "the value cannot be read: {problem}"),
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Denied(text) => Self::Denied(text),
            store::Error::Invalid(text) => Self::Invalid(text),
            store::Error::Conflict(version) => Self::Conflict(version),
            store::Error::TooLarge(max) => Self::TooLarge(max),
            store::Error::NotANumber => Self::NotANumber,
            store::Error::Overflow => Self::Overflow,
            store::Error::Quota(text) => Self::Quota(text),
            store::Error::Stale => Self::Stale,
            store::Error::Limit(text) => Self::Limit(text),
            store::Error::Unavailable(text) => Self::Unavailable(text),
        }
    }
}

impl From<Error> for TaskError {
    fn from(error: Error) -> Self {
        Self::of_call(error.kind(), error.to_string(), error.is_temporary())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_over_later_is_retried_and_what_stays_is_fatal() {
        let of = |error: Error| TaskError::from(error);
        let unavailable = of(Error::Unavailable("later".into()));
        assert!(unavailable.is_retryable());
        assert_eq!((unavailable.kind(), unavailable.message()), (Some("kv:unavailable"), "later"));
        for retried in [Error::Stale, Error::Conflict(3), Error::Quota(String::new())] {
            assert!(of(retried.clone()).is_retryable(), "{retried:?}");
        }
        for fatal in [Error::Denied(String::new()), Error::TooLarge(1), Error::Limit(String::new()), Error::Overflow] {
            assert!(of(fatal.clone()).is_fatal(), "{fatal:?}");
        }
    }
}
