//! The secrets of native tests: in memory, those of one thread, and so of one test. The fake of HTTP puts the values in, as a host
//! does; hosts of secrets are not looked at.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
};

use crate::raw::umbel::secret::store::Error;

type Answer<T> = Result<T, Error>;

#[derive(Default)]
struct State {
    values: BTreeMap<String, Vec<u8>>,
    failures: VecDeque<super::Error>,
    /// Names that may be used, if only some may: whether they may be revealed, too.
    allowed: Option<BTreeMap<String, bool>>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

fn with<T>(act: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(act)
}

/// The secrets of this thread: of this test, and of the tasks that it calls.
pub fn fake() -> FakeSecrets {
    FakeSecrets(())
}

/// Says which secrets there are.
#[derive(Debug)]
pub struct FakeSecrets(());

impl FakeSecrets {
    /// Sets a secret.
    pub fn set(&self, name: &str, value: impl Into<Vec<u8>>) -> &Self {
        with(|state| state.values.insert(name.to_owned(), value.into()));
        self
    }

    /// The next call of a task fails. Failures wait in their order.
    pub fn fail_next(&self, error: super::Error) -> &Self {
        with(|state| state.failures.push_back(error));
        self
    }

    /// From now on only what these permissions allow, such as `secret api_key` or `secret key reveal`, may be used.
    ///
    /// # Panics
    /// When one of them is no permission for a secret.
    pub fn allow_only(&self, permissions: &[&str]) -> &Self {
        let read = |text: &&str| match text.split(' ').collect::<Vec<_>>()[..] {
            ["secret", name] => (name.to_owned(), false),
            ["secret", name, "reveal"] => (name.to_owned(), true),
            _ => panic!("{text:?}: write `secret NAME` or `secret NAME reveal`"),
        };
        let allowed = permissions.iter().map(read).collect();
        with(|state| state.allowed = Some(allowed));
        self
    }
}

fn text_of(name: &str) -> String {
    // As long as a real one, and the same each time.
    format!("umbel_secret_{:x<32}", format!("fake{}x", name.bytes().map(|b| format!("{b:02x}")).collect::<String>()))
}

fn begin(name: &str, reveal: bool) -> Answer<Vec<u8>> {
    with(|state| {
        if let Some(error) = state.failures.pop_front() {
            return Err(raw(error));
        }
        let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(inner) {
            return Err(Error::Invalid(format!("{name:?} is not the name of a secret")));
        }
        let may = |allowed: &BTreeMap<String, bool>| {
            [name, "*"].iter().any(|name| allowed.get(*name).is_some_and(|may_reveal| *may_reveal || !reveal))
        };
        if state.allowed.as_ref().is_some_and(|allowed| !may(allowed)) {
            let missing = if reveal { format!("secret {name} reveal") } else { format!("secret {name}") };
            return Err(Error::Denied(format!("the module is not allowed `{missing}`")));
        }
        let help = format!("there is no secret `{name}`: set it with `umbel::secret::fake().set({name:?}, …)`");
        state.values.get(name).cloned().ok_or(Error::NotFound(help))
    })
}

fn raw(error: super::Error) -> Error {
    use super::Error as E;
    match error {
        E::Denied(text) => Error::Denied(text),
        E::Invalid(text) => Error::Invalid(text),
        E::NotFound(text) => Error::NotFound(text),
        E::Limit(text) => Error::Limit(text),
        E::Unavailable(text) => Error::Unavailable(text),
    }
}

/// A text of a request with the values put in.
pub(crate) fn put_in(text: &str) -> String {
    with(|state| {
        let values = state.values.iter();
        values
            .fold(text.to_owned(), |text, (name, value)| text.replace(&text_of(name), &String::from_utf8_lossy(value)))
    })
}

// ---- the functions of the contract

pub(super) fn placeholder(name: &str) -> Answer<String> {
    begin(name, false).map(|_| text_of(name))
}

pub(super) fn reveal(name: &str) -> Answer<Vec<u8>> {
    begin(name, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        http::{self, Fake},
        secret,
    };

    #[test]
    fn a_recorded_request_has_the_values_and_what_is_not_allowed_is_denied() {
        fake().set("key", "the value").allow_only(&["secret key"]);
        let key = secret::placeholder("key").unwrap();
        let http = Fake::start();
        http.answer("GET", "https://a.test/", http::Answer::new(200));
        http::get("https://a.test/").bearer(&key).header("x-key", &key).basic("me", &key).send().unwrap();
        let sent = &http.requests()[0];
        assert_eq!((sent.header("authorization"), sent.header("x-key")), (Some("Bearer the value"), Some("the value")));
        for refused in [secret::reveal("key").map(drop), secret::placeholder("other").map(drop)] {
            assert!(matches!(refused, Err(secret::Error::Denied(_))), "{refused:?}");
        }
    }
}
