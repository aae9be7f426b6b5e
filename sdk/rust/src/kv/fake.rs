//! The store of native tests: in memory, one for each thread, with the rules of the real one and a clock that stands still until
//! it is moved.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;

use super::Entry;
use crate::raw::umbel::kv::store::{self, Error, Expect, Page};

/// What the real store allows unless its operator says otherwise.
const MAX_VALUE_BYTES: usize = 64 << 10;
const MAX_KEY_BYTES: usize = 512;
const MAX_KEYS: usize = 32;
const MAX_TTL_MS: u64 = 10 * 365 * 86_400_000;
/// 2026-01-01T00:00:00Z, as of `Context::fake`.
const START_MS: u64 = 1_767_225_600_000;

type Answer<T> = Result<T, Error>;

struct State {
    entries: BTreeMap<(String, String), store::Entry>,
    version: u64,
    now_ms: u64,
    calls: usize,
    /// Buckets that may be used, if only some may: whether they may be written, too.
    allowed: Option<BTreeMap<String, bool>>,
    failures: VecDeque<Error>,
}

thread_local! {
    static STATE: RefCell<State> = const {
        RefCell::new(State {
            entries: BTreeMap::new(),
            version: 0,
            now_ms: START_MS,
            calls: 0,
            allowed: None,
            failures: VecDeque::new(),
        })
    };
}

/// The store of this thread: of this test, and of the tasks that it calls.
pub fn fake() -> FakeStore {
    FakeStore(())
}

/// Says what the store has, and what it answers.
#[derive(Debug)]
pub struct FakeStore(());

fn with<T>(act: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(act)
}

impl FakeStore {
    /// The entry of a key.
    pub fn entry(&self, bucket: &str, key: &str) -> Option<Entry> {
        with(|state| state.alive(bucket, key).cloned()).map(Entry::from)
    }

    /// A value as JSON; none when there is no entry, or when its value is not JSON.
    pub fn json(&self, bucket: &str, key: &str) -> Option<Value> {
        self.entry(bucket, key).and_then(|entry| entry.json().ok())
    }

    /// A value as text; none when there is no entry, or when its value is no text.
    pub fn text(&self, bucket: &str, key: &str) -> Option<String> {
        self.entry(bucket, key).and_then(|entry| entry.text().ok())
    }

    /// The keys of a bucket, in order.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        with(|state| {
            let mine = state.entries.keys().filter(|(of, key)| of == bucket && state.alive(bucket, key).is_some());
            mine.map(|(_, key)| key.clone()).collect()
        })
    }

    /// Puts a value in, as JSON, for ever.
    ///
    /// # Panics
    /// When it cannot be written as JSON.
    pub fn put(&self, bucket: &str, key: &str, value: impl Serialize) {
        let value = serde_json::to_vec(&value).expect("a value that can be written as JSON");
        with(|state| state.store(bucket, key, value, None));
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        with(|state| state.now_ms = state.now_ms.saturating_add(ms));
    }

    /// The next call of a task fails: as [`Error::Unavailable`](super::Error::Unavailable), say. Failures wait in their order.
    pub fn fail_next(&self, error: super::Error) {
        with(|state| state.failures.push_back(raw(error)));
    }

    /// From now on only what these permissions allow, such as `kv cursors` or `kv cursors read`, may be used.
    ///
    /// # Panics
    /// When one of them is no permission for a bucket.
    pub fn allow_only(&self, permissions: &[&str]) {
        let read = |text: &&str| match text.split(' ').collect::<Vec<_>>()[..] {
            ["kv", bucket] => (bucket.to_owned(), true),
            ["kv", bucket, "read"] => (bucket.to_owned(), false),
            _ => panic!("{text:?}: write `kv BUCKET` or `kv BUCKET read`"),
        };
        let allowed = permissions.iter().map(read).collect();
        with(|state| state.allowed = Some(allowed));
    }

    /// How many calls tasks made.
    pub fn calls(&self) -> usize {
        with(|state| state.calls)
    }
}

fn raw(error: super::Error) -> Error {
    use super::Error as E;
    match error {
        E::Denied(text) => Error::Denied(text),
        E::Invalid(text) | E::Unreadable(text) => Error::Invalid(text),
        E::Conflict(version) => Error::Conflict(version),
        E::TooLarge(max) => Error::TooLarge(max),
        E::NotANumber => Error::NotANumber,
        E::Overflow => Error::Overflow,
        E::Quota(text) => Error::Quota(text),
        E::Stale => Error::Stale,
        E::Limit(text) => Error::Limit(text),
        E::Unavailable(text) => Error::Unavailable(text),
    }
}

impl State {
    /// Counts a call of a task, and answers why it is refused, if it is.
    fn begin(&mut self, bucket: &str, writes: bool) -> Answer<()> {
        self.calls += 1;
        if let Some(error) = self.failures.pop_front() {
            return Err(error);
        }
        let inner = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let is_name = bucket.len() <= 64 && bucket.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !is_name || !bucket.chars().all(inner) {
            return Err(Error::Invalid(format!("{bucket:?} is not the name of a bucket")));
        }
        let Some(allowed) = &self.allowed else { return Ok(()) };
        if [bucket, "*"].iter().any(|name| allowed.get(*name).is_some_and(|may_write| *may_write || !writes)) {
            return Ok(());
        }
        let missing = if writes { format!("kv {bucket}") } else { format!("kv {bucket} read") };
        Err(Error::Denied(format!("the module is not allowed `{missing}`")))
    }

    fn alive(&self, bucket: &str, key: &str) -> Option<&store::Entry> {
        let found = self.entries.get(&(bucket.to_owned(), key.to_owned()));
        found.filter(|entry| entry.expires_at.is_none_or(|at| at > self.now_ms))
    }

    fn expiry(&self, ttl_ms: Option<u64>) -> Option<u64> {
        ttl_ms.map(|ttl| self.now_ms.saturating_add(ttl.clamp(1, MAX_TTL_MS)))
    }

    /// The version of the entry, if it is expected.
    fn expected(&self, bucket: &str, key: &str, expect: Expect) -> Answer<u64> {
        let version = self.alive(bucket, key).map_or(0, |entry| entry.version);
        let is_expected = match expect {
            Expect::Any => true,
            Expect::Absent => version == 0,
            Expect::Version(expected) => version == expected,
        };
        if is_expected { Ok(version) } else { Err(Error::Conflict(version)) }
    }

    fn store(&mut self, bucket: &str, key: &str, value: Vec<u8>, expires_at: Option<u64>) -> u64 {
        self.version += 1;
        let entry = store::Entry { value, version: self.version, expires_at };
        self.entries.insert((bucket.to_owned(), key.to_owned()), entry);
        self.version
    }
}

fn checked_key(key: &str) -> Answer<()> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES || key.chars().any(char::is_control) {
        return Err(Error::Invalid(format!("a key has 1-{MAX_KEY_BYTES} bytes without control characters")));
    }
    Ok(())
}

// ---- the functions of the contract

pub(super) fn get(bucket: &str, keys: &[String]) -> Answer<Vec<Option<store::Entry>>> {
    with(|state| {
        state.begin(bucket, false)?;
        if keys.len() > MAX_KEYS {
            return Err(Error::Invalid(format!("one call reads at most {MAX_KEYS} keys")));
        }
        keys.iter().map(|key| checked_key(key).map(|()| state.alive(bucket, key).cloned())).collect()
    })
}

pub(super) fn set(bucket: &str, key: &str, value: &[u8], ttl_ms: Option<u64>, expect: Expect) -> Answer<u64> {
    with(|state| {
        state.begin(bucket, true)?;
        checked_key(key)?;
        state.expected(bucket, key, expect)?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(Error::TooLarge(MAX_VALUE_BYTES as u64));
        }
        let expires_at = state.expiry(ttl_ms);
        Ok(state.store(bucket, key, value.to_vec(), expires_at))
    })
}

pub(super) fn increment(bucket: &str, key: &str, delta: i64, initial: i64, ttl_ms: Option<u64>) -> Answer<i64> {
    with(|state| {
        state.begin(bucket, true)?;
        checked_key(key)?;
        let (from, expires_at) = match state.alive(bucket, key) {
            None => (initial, state.expiry(ttl_ms)),
            Some(entry) => (number(&entry.value)?, entry.expires_at),
        };
        let sum = from.checked_add(delta).ok_or(Error::Overflow)?;
        state.store(bucket, key, sum.to_string().into_bytes(), expires_at);
        Ok(sum)
    })
}

fn number(value: &[u8]) -> Answer<i64> {
    let text = std::str::from_utf8(value).map_err(|_| Error::NotANumber)?;
    text.parse::<i64>().ok().filter(|number| number.to_string() == text).ok_or(Error::NotANumber)
}

pub(super) fn delete(bucket: &str, key: &str, expect: Expect) -> Answer<bool> {
    with(|state| {
        state.begin(bucket, true)?;
        checked_key(key)?;
        let was_there = state.expected(bucket, key, expect)? > 0;
        if was_there {
            state.entries.remove(&(bucket.to_owned(), key.to_owned()));
        }
        Ok(was_there)
    })
}

pub(super) fn list(bucket: &str, prefix: &str, cursor: Option<&str>, max: u32) -> Answer<Page> {
    with(|state| {
        state.begin(bucket, false)?;
        let mine = state.entries.iter().filter(|((of, key), _)| {
            of == bucket && key.starts_with(prefix) && cursor.is_none_or(|cursor| key.as_str() > cursor)
        });
        let alive = mine.filter(|(_, entry)| entry.expires_at.is_none_or(|at| at > state.now_ms));
        let entries: Vec<_> =
            alive.take(max.max(1) as usize).map(|((_, key), entry)| (key.clone(), entry.clone())).collect();
        let is_full = entries.len() == max.max(1) as usize;
        let next = entries.last().filter(|_| is_full).map(|(key, _)| key.clone());
        Ok(Page { entries, next })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{self, bucket};

    #[test]
    fn a_test_says_what_fails_and_what_is_allowed() {
        let store = fake();
        store.put("cursors", "a", 7);
        assert_eq!(bucket("cursors").get::<u32>("a"), Ok(Some(7)));
        store.fail_next(kv::Error::Unavailable("down".into()));
        assert_eq!(bucket("cursors").get::<u32>("a"), Err(kv::Error::Unavailable("down".into())));
        store.allow_only(&["kv cursors read", "kv counters"]);
        assert_eq!(bucket("cursors").get::<u32>("a"), Ok(Some(7)));
        assert_eq!(bucket("counters").increment("n", 1), Ok(1));
        for (refused, missing) in [
            (bucket("cursors").set("a", &1).map(drop), "kv cursors"),
            (bucket("other").get_text("a").map(drop), "kv other read"),
        ] {
            let Err(kv::Error::Denied(text)) = refused else { panic!("{refused:?}") };
            assert!(text.contains(&format!("`{missing}`")), "{text}");
        }
        assert_eq!(store.keys("counters"), ["n"]);
    }

    #[test]
    fn what_no_store_takes_is_refused() {
        for name in ["", "a b", "_a", &"x".repeat(65)] {
            assert!(matches!(bucket(name).get_text("a"), Err(kv::Error::Invalid(_))), "{name:?}");
        }
        for key in ["", "a\n", &"x".repeat(513)] {
            assert!(matches!(bucket("b").set_text(key, ""), Err(kv::Error::Invalid(_))), "{key:?}");
        }
        let large = "x".repeat(MAX_VALUE_BYTES + 1);
        assert_eq!(bucket("b").set_text("a", &large), Err(kv::Error::TooLarge(65_536)));
        bucket("b").set_text("n", &i64::MAX.to_string()).unwrap();
        assert_eq!(bucket("b").increment("n", 1), Err(kv::Error::Overflow));
    }
}
