//! What can go wrong with blobs, and what that means for a task.

use std::{fmt, io};

use crate::{TaskError, errors::Meant, raw::umbel::blob::store};

/// Why the host did not do what was asked. By `?` in a task: what may be over later is retried, what will stay is fatal. Its kind
/// begins with `blob:`. The same holds for the [`io::Error`] of a reader or writer, which has one of these inside.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A permission is missing: says which, and who has to give it. Fatal.
    Denied(String),
    /// A digest or another argument is not valid. Fatal.
    Invalid(String),
    /// There is no such blob. Fatal.
    NotFound,
    /// It was deleted while it was read. Fatal.
    Deleted,
    /// A blob has at most so many bytes, or the blob has more than the task wants to read. Fatal.
    TooLarge(u64),
    /// The tenant has as many bytes of blobs as it may. Retried: blobs may be deleted.
    Quota(String),
    /// The attempt has opened, written or kept as much as it may. Fatal.
    Limit(String),
    /// The store cannot be reached. Retried.
    Unavailable(String),
    /// The bytes are not what the task wants to read. Fatal.
    Unreadable(String),
}

impl Error {
    /// Whether the same may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Quota(_) | Self::Unavailable(_))
    }

    /// A short stable name, such as `blob:denied`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Denied(_) => "blob:denied",
            Self::Invalid(_) => "blob:invalid",
            Self::NotFound => "blob:not_found",
            Self::Deleted => "blob:deleted",
            Self::TooLarge(_) => "blob:too_large",
            Self::Quota(_) => "blob:quota",
            Self::Limit(_) => "blob:limit",
            Self::Unavailable(_) => "blob:unavailable",
            Self::Unreadable(_) => "blob:unreadable",
        }
    }

    /// The one inside an error of a reader or writer.
    pub fn of_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref::<Meant>()?.error.downcast_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(text) | Self::Invalid(text) | Self::Quota(text) | Self::Limit(text) => f.write_str(text),
            Self::Unavailable(text) => f.write_str(text),
            Self::NotFound => f.write_str("there is no such blob"),
            Self::Deleted => f.write_str("the blob was deleted while it was read"),
            Self::TooLarge(max) => write!(f, "a blob of at most {max} bytes is taken here"),
            Self::Unreadable(problem) => write!(f, "the blob cannot be read: {problem}"),
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Denied(_) => io::ErrorKind::PermissionDenied,
            Error::NotFound | Error::Deleted => io::ErrorKind::NotFound,
            Error::Invalid(_) => io::ErrorKind::InvalidInput,
            Error::Unreadable(_) => io::ErrorKind::InvalidData,
            Error::TooLarge(_) | Error::Quota(_) | Error::Limit(_) | Error::Unavailable(_) => io::ErrorKind::Other,
        };
        let (is_temporary, text) = (error.is_temporary(), error.to_string());
        Self::new(kind, Meant { kind: error.kind(), is_temporary, text, error: Box::new(error) })
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Denied(text) => Self::Denied(text),
            store::Error::Invalid(text) => Self::Invalid(text),
            store::Error::NotFound => Self::NotFound,
            store::Error::Deleted => Self::Deleted,
            store::Error::TooLarge(max) => Self::TooLarge(max),
            store::Error::Quota(text) => Self::Quota(text),
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
        assert_eq!((unavailable.kind(), unavailable.message()), (Some("blob:unavailable"), "later"));
        for fatal in [Error::Denied(String::new()), Error::NotFound, Error::Deleted, Error::Limit(String::new())] {
            assert!(of(fatal.clone()).is_fatal(), "{fatal:?}");
        }
    }

    #[test]
    fn the_error_of_a_reader_keeps_its_meaning() {
        let error = io::Error::from(Error::Deleted);
        assert_eq!((error.kind(), Error::of_io(&error)), (io::ErrorKind::NotFound, Some(&Error::Deleted)));
        let error = TaskError::from(error);
        assert_eq!((error.kind(), error.is_fatal()), (Some("blob:deleted"), true));
        assert!(TaskError::from(io::Error::from(Error::Quota("full".into()))).is_retryable());
        #[derive(Debug)]
        struct Above(io::Error);
        impl fmt::Display for Above {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("line 7")
            }
        }
        impl std::error::Error for Above {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let error = TaskError::from(Above(Error::Denied("`blob read`".into()).into()));
        assert_eq!((error.kind(), error.is_fatal()), (Some("blob:denied"), true));
        assert_eq!(error.message(), "line 7: `blob read`");
    }
}
