//! Secrets: keys and passwords that the service keeps, and that a task uses without having them.
//!
//! ```
//! use umbel::{http, prelude::*, secret};
//!
//! /// Charges a customer.
//! #[task(permissions = ["http POST https://api.example.com/", "secret api_key"])]
//! fn charge(customer: String) -> TaskResult<u16> {
//!     let key = secret::placeholder("api_key")?;
//!     let answer = http::post("https://api.example.com/charges").bearer(&key).body(customer).send()?.success()?;
//!     Ok(answer.status())
//! }
//! umbel::module![charge];
//!
//! # fn main() {
//! // Natively a test sets the secrets, and the fake of HTTP records what a server would get.
//! secret::fake().set("api_key", "correct horse");
//! let http = http::Fake::start();
//! http.answer("POST", "https://api.example.com/charges", http::Answer::new(201));
//! assert_eq!(charge("anna".into()).unwrap(), 201);
//! assert_eq!(http.requests()[0].header("authorization"), Some("Bearer correct horse"));
//! # }
//! ```
//!
//! A [`Placeholder`] is a random text that is good in this attempt only. The host puts the value in its place in headers of requests
//! to the hosts that the secret was set for, also within [`Request::basic`](crate::http::Request::basic); a request that has it
//! anywhere else, as in its URL, is refused. Code that must have the value itself, as to sign with it, asks for it by [`reveal`].

#[cfg(not(target_arch = "wasm32"))]
mod fake;

use std::fmt;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use fake::put_in;
#[cfg(not(target_arch = "wasm32"))]
pub use fake::{FakeSecrets, fake};

#[cfg(not(target_arch = "wasm32"))]
use fake as backend;

#[cfg(target_arch = "wasm32")]
use crate::raw::umbel::secret::store as backend;
use crate::{TaskError, raw::umbel::secret::store};

/// The result of asking for a secret. By `?` in a task, what may be over later is retried, and what will stay is fatal.
pub type Result<T> = std::result::Result<T, Error>;

/// What stands for a secret in the requests of this attempt. It is no secret, and worth nothing in another attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placeholder(String);

/// The placeholder of a secret. Needs the permission `secret NAME`.
pub fn placeholder(name: &str) -> Result<Placeholder> {
    Ok(Placeholder(backend::placeholder(name)?))
}

/// The value of a secret. Needs the permission `secret NAME reveal`, and a secret that was set with `--reveal`. What leaves the
/// attempt is searched for it and shows `[secret NAME]` in its place; what was made of it is not found.
pub fn reveal(name: &str) -> Result<Revealed> {
    Ok(Revealed(backend::reveal(name)?))
}

impl Placeholder {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// As it stands in a header.
impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Placeholder {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<Placeholder> for String {
    fn from(placeholder: Placeholder) -> Self {
        placeholder.0
    }
}

impl From<&Placeholder> for String {
    fn from(placeholder: &Placeholder) -> Self {
        placeholder.0.clone()
    }
}

/// A value that was revealed. It is not shown by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Revealed(Vec<u8>);

impl Revealed {
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// None: it is not UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Revealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revealed(…)")
    }
}

/// Why there is no placeholder or value. Its kind begins with `secret:`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A permission is missing, or the secret was set without what is asked for: says which. Fatal.
    Denied(String),
    /// The name is not valid. Fatal.
    Invalid(String),
    /// The tenant has no such secret. Fatal.
    NotFound(String),
    /// The attempt has asked as often as it may. Fatal.
    Limit(String),
    /// It cannot be looked up or opened now. Retried.
    Unavailable(String),
}

impl Error {
    /// Whether the same may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// A short stable name, such as `secret:denied`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Denied(_) => "secret:denied",
            Self::Invalid(_) => "secret:invalid",
            Self::NotFound(_) => "secret:not_found",
            Self::Limit(_) => "secret:limit",
            Self::Unavailable(_) => "secret:unavailable",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(text) | Self::Invalid(text) | Self::NotFound(text) => f.write_str(text),
            Self::Limit(text) | Self::Unavailable(text) => f.write_str(text),
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Denied(text) => Self::Denied(text),
            store::Error::Invalid(text) => Self::Invalid(text),
            store::Error::NotFound(text) => Self::NotFound(text),
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
    fn a_secret_that_is_not_set_fails_for_good_and_one_that_cannot_be_read_is_tried_again() {
        let missing = TaskError::from(placeholder("nothing").unwrap_err());
        assert!(!missing.is_retryable());
        assert_eq!(missing.kind(), Some("secret:not_found"));
        fake().set("key", "the value");
        fake().fail_next(Error::Unavailable("later".into()));
        assert!(TaskError::from(reveal("key").unwrap_err()).is_retryable());
        let revealed = reveal("key").unwrap();
        assert_eq!((revealed.text(), format!("{revealed:?}")), (Some("the value"), "Revealed(…)".to_owned()));
        assert!(matches!(placeholder("a b"), Err(Error::Invalid(_))));
    }
}
