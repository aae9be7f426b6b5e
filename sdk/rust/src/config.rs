//! Configuration values that people set for a tenant or a task: addresses, switches, sizes. They are no secrets.
//!
//! ```
//! use umbel::{config, prelude::*};
//!
//! /// Where the import reads from.
//! #[task]
//! fn source() -> TaskResult<String> {
//!     let url: String = config::require("api_url")?;
//!     let page_size: u32 = config::get("page_size")?.unwrap_or(100);
//!     Ok(format!("{url}?limit={page_size}"))
//! }
//!
//! # fn main() {
//! // Natively each test sets its own.
//! config::fake().set("api_url", "https://api.example.com/items");
//! assert_eq!(source().unwrap(), "https://api.example.com/items?limit=100");
//! # }
//! # umbel::module![source];
//! ```
//!
//! `umbel config set api_url=https://… --task source` sets one. The values of a task go before those of all tasks of the tenant, and
//! an attempt sees the same values to its end. No permission is needed.

use std::{collections::BTreeMap, fmt, str::FromStr};

use crate::{Fatal, Retry, TaskError};

#[cfg(not(target_arch = "wasm32"))]
use fake as backend;
#[cfg(not(target_arch = "wasm32"))]
pub use fake::{FakeConfig, fake};

/// Why there is no value to work with. By `?` in a task: what people must set is fatal, and what may be over later is retried.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Nobody set it. Fatal.
    Missing(String),
    /// It is not what the task wants to read: its name, and why. Fatal.
    Invalid(String, String),
    /// The values cannot be read now. Retried.
    Unavailable(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "the value {name} is not set: umbel config set {name}=…"),
            Self::Invalid(name, problem) => write!(f, "the value {name} cannot be used: {problem}"),
            Self::Unavailable(text) => f.write_str(text),
        }
    }
}

impl From<Error> for TaskError {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Missing(_) => Fatal::new(text).kind("config:missing").into(),
            Error::Invalid(..) => Fatal::new(text).kind("config:invalid").into(),
            Error::Unavailable(_) => Retry::new(text).kind("config:unavailable").into(),
        }
    }
}

/// A value as a text, a number, a switch (`true` or `false`) or anything else that can be read from a text; none where nobody set it.
pub fn get<T: FromStr<Err: fmt::Display>>(name: &str) -> Result<Option<T>, Error> {
    let Some(text) = backend::get(name).map_err(Error::Unavailable)? else { return Ok(None) };
    text.parse().map(Some).map_err(|problem: T::Err| Error::Invalid(name.to_owned(), problem.to_string()))
}

/// The same of one that must be set.
pub fn require<T: FromStr<Err: fmt::Display>>(name: &str) -> Result<T, Error> {
    get(name)?.ok_or_else(|| Error::Missing(name.to_owned()))
}

/// All values that the task sees.
pub fn all() -> Result<BTreeMap<String, String>, Error> {
    Ok(backend::all().map_err(Error::Unavailable)?.into_iter().collect())
}

#[cfg(target_arch = "wasm32")]
mod backend {
    use crate::raw::wasi::config::store::{self, Error};

    fn text(error: Error) -> String {
        match error {
            Error::Upstream(text) | Error::Io(text) => text,
        }
    }

    pub(super) fn get(name: &str) -> Result<Option<String>, String> {
        store::get(name).map_err(text)
    }

    pub(super) fn all() -> Result<Vec<(String, String)>, String> {
        store::get_all().map_err(text)
    }
}

/// The values of native tests: each thread, and so each test, has its own.
#[cfg(not(target_arch = "wasm32"))]
mod fake {
    use std::{cell::RefCell, collections::BTreeMap};

    #[derive(Default)]
    struct State {
        values: BTreeMap<String, String>,
        failure: Option<String>,
    }

    thread_local! {
        static STATE: RefCell<State> = RefCell::default();
    }

    /// The values of this thread: of this test, and of the tasks that it calls.
    pub fn fake() -> FakeConfig {
        FakeConfig(())
    }

    /// Says which values there are.
    #[derive(Debug)]
    pub struct FakeConfig(());

    impl FakeConfig {
        pub fn set(&self, name: &str, value: impl ToString) {
            STATE.with_borrow_mut(|state| state.values.insert(name.to_owned(), value.to_string()));
        }

        pub fn unset(&self, name: &str) {
            STATE.with_borrow_mut(|state| state.values.remove(name));
        }

        /// The next call of a task fails as [`Error::Unavailable`](super::Error::Unavailable).
        pub fn fail_next(&self, text: &str) {
            STATE.with_borrow_mut(|state| state.failure = Some(text.to_owned()));
        }
    }

    fn read<T>(read: impl FnOnce(&BTreeMap<String, String>) -> T) -> Result<T, String> {
        STATE.with_borrow_mut(|state| match state.failure.take() {
            Some(text) => Err(text),
            None => Ok(read(&state.values)),
        })
    }

    pub(super) fn get(name: &str) -> Result<Option<String>, String> {
        read(|values| values.get(name).cloned())
    }

    pub(super) fn all() -> Result<Vec<(String, String)>, String> {
        read(|values| values.clone().into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_what_the_task_wants_or_refused_with_the_line_to_type() {
        fake().set("size", 7);
        fake().set("on", "true");
        assert_eq!((get("size"), get("on"), get::<u8>("other")), (Ok(Some(7_u8)), Ok(Some(true)), Ok(None)));
        let missing = TaskError::from(require::<u8>("other").unwrap_err());
        assert!(missing.is_fatal() && missing.message().contains("umbel config set other="), "{missing:?}");
        let invalid = TaskError::from(get::<u8>("on").unwrap_err());
        assert_eq!((invalid.is_fatal(), invalid.kind()), (true, Some("config:invalid")));
        fake().fail_next("later");
        assert!(TaskError::from(get::<u8>("size").unwrap_err()).is_retryable());
        fake().unset("on");
        assert_eq!(all().unwrap().into_iter().collect::<Vec<_>>(), [("size".to_owned(), "7".to_owned())]);
    }
}
