//! Key-value entries that the service keeps for a tenant: cursors, counters, small caches.
//!
//! ```
//! use std::time::Duration;
//! use umbel::{kv, prelude::*};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Cursor {
//!     page: u32,
//! }
//!
//! /// Imports the next page.
//! #[task]
//! fn import(source: String) -> TaskResult<u32> {
//!     let cursors = kv::bucket("cursors");
//!     let page = cursors.get::<Cursor>(&source)?.map_or(0, |cursor| cursor.page);
//!     // … fetch and store the page …
//!     cursors.set(&source, &Cursor { page: page + 1 })?;
//!     kv::bucket("counters").increment("pages", 1)?;
//!     kv::bucket("recent").ttl(Duration::from_secs(60)).set_text(&source, "imported")?;
//!     Ok(page)
//! }
//!
//! # fn main() {
//! // Natively there is a store in memory, one for each thread, and so for each test.
//! assert_eq!(import("shop".into()).unwrap(), 0);
//! assert_eq!(import("shop".into()).unwrap(), 1);
//! let store = kv::fake();
//! assert_eq!(store.json("cursors", "shop"), Some(serde_json::json!({"page": 2})));
//! assert_eq!(store.text("counters", "pages").as_deref(), Some("2"));
//! store.advance(Duration::from_secs(60));
//! assert_eq!(store.text("recent", "shop"), None);
//! # }
//! # umbel::module![import];
//! ```
//!
//! A task needs the permission `kv BUCKET`, or `kv BUCKET read`, for each bucket that it uses. Keys have 1 to 512 bytes without
//! control characters; values have at most 64 KiB, unless the operator says otherwise.
//!
//! A write of an attempt that has lost its delivery to another one is refused ([`Error::Stale`]). A job may be run again after its
//! attempt wrote and before it ended, so write what may be written twice, or compare versions ([`Bucket::update`]).

mod error;
#[cfg(not(target_arch = "wasm32"))]
mod fake;
mod list;

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

pub use error::Error;
#[cfg(not(target_arch = "wasm32"))]
pub use fake::{FakeStore, fake};
pub use list::List;

#[cfg(target_arch = "wasm32")]
use crate::raw::umbel::kv::store as backend;
use crate::raw::umbel::kv::store::{self, Expect};
#[cfg(not(target_arch = "wasm32"))]
use fake as backend;

/// How often [`Bucket::update`] tries.
pub const MAX_UPDATES: u32 = 20;
/// Keys that one call of [`Bucket::get_many`] hands to the host; more are several calls.
const KEYS_A_CALL: usize = 32;

/// The result of what is done with entries. By `?` in a task, an error that may be over later is retried, and one that will stay is
/// fatal: see [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A bucket by its name. It costs no call to the host, and need not be made.
pub fn bucket(name: impl Into<String>) -> Bucket {
    Bucket { name: name.into(), ttl_ms: None, expect: Expect::Any }
}

/// A bucket, and what holds for the writes through it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    name: String,
    ttl_ms: Option<u64>,
    expect: Expect,
}

/// What is stored under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub value: Vec<u8>,
    /// Rises with each change, also when an entry is deleted and made again.
    pub version: u64,
    /// When it expires, since 1970 by the service's clock.
    pub expires_at: Option<Duration>,
}

impl Entry {
    /// The value, read as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.value).map_err(|error| Error::Unreadable(error.to_string()))
    }

    /// The value as text.
    pub fn text(&self) -> Result<String> {
        String::from_utf8(self.value.clone()).map_err(|error| Error::Unreadable(error.to_string()))
    }
}

impl From<store::Entry> for Entry {
    fn from(entry: store::Entry) -> Self {
        let store::Entry { value, version, expires_at } = entry;
        Self { value, version, expires_at: expires_at.map(Duration::from_millis) }
    }
}

impl Bucket {
    /// What is written through this lives so long: whole milliseconds, at least one, at most ten years. A number that
    /// [`Bucket::increment`] finds keeps its time.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl_ms = Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
        self
    }

    /// Writes through this only make entries that are not there; otherwise they are an [`Error::Conflict`].
    #[must_use]
    pub fn if_absent(mut self) -> Self {
        self.expect = Expect::Absent;
        self
    }

    /// Writes through this only change an entry that has this version; otherwise they are an [`Error::Conflict`].
    #[must_use]
    pub fn if_version(mut self, version: u64) -> Self {
        self.expect = Expect::Version(version);
        self
    }

    /// The entry of a key, with its version.
    pub fn entry(&self, key: &str) -> Result<Option<Entry>> {
        Ok(self.get_many(&[key])?.pop().flatten())
    }

    /// The entries of some keys, in their order.
    pub fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Entry>>> {
        let mut entries = Vec::with_capacity(keys.len());
        for some in keys.chunks(KEYS_A_CALL) {
            let some: Vec<String> = some.iter().map(|key| (*key).to_owned()).collect();
            entries.extend(backend::get(&self.name, &some)?.into_iter().map(|entry| entry.map(Entry::from)));
        }
        Ok(entries)
    }

    /// A value, read as JSON.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.entry(key)?.map(|entry| entry.json()).transpose()
    }

    /// A value as text.
    pub fn get_text(&self, key: &str) -> Result<Option<String>> {
        self.entry(key)?.map(|entry| entry.text()).transpose()
    }

    /// A value as it is.
    pub fn get_bytes(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.entry(key)?.map(|entry| entry.value))
    }

    /// Stores a value as JSON, and returns its version.
    pub fn set(&self, key: &str, value: &(impl Serialize + ?Sized)) -> Result<u64> {
        let json =
            serde_json::to_vec(value).map_err(|error| Error::Invalid(format!("the value is no JSON: {error}")))?;
        self.set_bytes(key, &json)
    }

    /// Stores a text, and returns its version.
    pub fn set_text(&self, key: &str, value: &str) -> Result<u64> {
        self.set_bytes(key, value.as_bytes())
    }

    /// Stores a value as it is, and returns its version.
    pub fn set_bytes(&self, key: &str, value: &[u8]) -> Result<u64> {
        Ok(backend::set(&self.name, key, value, self.ttl_ms, self.expect)?)
    }

    /// Adds to a number and returns the sum. A number that is not there is 0.
    pub fn increment(&self, key: &str, by: i64) -> Result<i64> {
        self.increment_from(key, 0, by)
    }

    /// Adds to a number, or to `initial` if it is not there, and returns the sum.
    pub fn increment_from(&self, key: &str, initial: i64, by: i64) -> Result<i64> {
        Ok(backend::increment(&self.name, key, by, initial, self.ttl_ms)?)
    }

    /// Deletes an entry; whether there was one.
    pub fn delete(&self, key: &str) -> Result<bool> {
        Ok(backend::delete(&self.name, key, self.expect)?)
    }

    /// Changes a value that others may change, too: `change` makes the new one of the old one, and is called again when somebody
    /// came in between. None deletes the entry. Returns what is stored then.
    ///
    /// # Errors
    /// [`Error::Conflict`] when others were faster [`MAX_UPDATES`] times.
    pub fn update<T: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        mut change: impl FnMut(Option<T>) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut last = Error::Conflict(0);
        for _ in 0..MAX_UPDATES {
            let found = self.entry(key)?;
            let guarded = match &found {
                Some(entry) => self.clone().if_version(entry.version),
                None => self.clone().if_absent(),
            };
            let new = change(found.as_ref().map(Entry::json).transpose()?);
            let written = match &new {
                Some(value) => guarded.set(key, value).map(drop),
                None if found.is_none() => Ok(()),
                None => guarded.delete(key).map(drop),
            };
            match written {
                Ok(()) => return Ok(new),
                Err(conflict @ Error::Conflict(_)) => last = conflict,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The entries whose keys begin with `prefix`, in the order of the bytes of their keys, read in pages as they are needed.
    pub fn list(&self, prefix: impl Into<String>) -> List {
        List::new(self.name.clone(), prefix.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_made_again_when_somebody_came_in_between() {
        let bucket = bucket("b");
        bucket.set("n", &1).unwrap();
        let mut calls = 0;
        let now = bucket.update("n", |old: Option<i32>| {
            calls += 1;
            if calls < 3 {
                // Another task.
                super::bucket("b").set("n", &(10 * calls)).unwrap();
            }
            old.map(|n| n + 1)
        });
        assert_eq!((now, calls), (Ok(Some(21)), 3));
        assert_eq!(bucket.update("n", |_: Option<i32>| None), Ok(None));
        assert_eq!(bucket.update("n", |old: Option<i32>| old), Ok(None));
        let never = bucket.update("n", |_: Option<i32>| {
            super::bucket("b").increment("n", 1).unwrap();
            Some(5)
        });
        assert!(matches!(never, Err(Error::Conflict(_))), "{never:?}");
    }

    #[test]
    fn entries_are_read_as_they_were_written_and_expire() {
        let bucket = bucket("b");
        bucket.set_bytes("bytes", &[0, 255]).unwrap();
        bucket.set_text("text", "é").unwrap();
        let version = bucket.clone().if_absent().set("json", &vec![1, 2]).unwrap();
        assert_eq!(bucket.clone().if_absent().set("json", &1), Err(Error::Conflict(version)));
        assert_eq!(bucket.get_bytes("bytes"), Ok(Some(vec![0, 255])));
        assert_eq!(bucket.get_text("text"), Ok(Some("é".into())));
        assert_eq!(bucket.get::<Vec<u8>>("json"), Ok(Some(vec![1, 2])));
        assert!(matches!(bucket.get::<u8>("text"), Err(Error::Unreadable(_))));
        assert!(matches!(bucket.get_text("bytes"), Err(Error::Unreadable(_))));
        bucket.clone().ttl(Duration::from_secs(1)).set("short", &1).unwrap();
        assert!(bucket.entry("short").unwrap().unwrap().expires_at.is_some());
        fake().advance(Duration::from_secs(1));
        assert_eq!(bucket.entry("short"), Ok(None));
        let keys: Vec<String> = bucket.list("").map(|entry| entry.unwrap().0).collect();
        assert_eq!(keys, ["bytes", "json", "text"]);
        assert_eq!(bucket.increment_from("n", 40, 2), Ok(42));
        assert_eq!(bucket.increment("text", 1), Err(Error::NotANumber));
    }

    #[test]
    fn many_keys_and_long_lists_are_several_calls() {
        let bucket = bucket("b");
        for n in 0..70 {
            bucket.set(&format!("k{n:02}"), &n).unwrap();
        }
        let names: Vec<String> = (0..70).map(|n| format!("k{n:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let before = fake().calls();
        assert_eq!(bucket.get_many(&names).unwrap().iter().flatten().count(), 70);
        assert_eq!(fake().calls() - before, 3);
        assert_eq!(bucket.list("k0").count(), 10);
        assert_eq!(bucket.list("").map(|entry| entry.unwrap().1.json::<u32>().unwrap()).sum::<u32>(), 69 * 35);
    }
}
