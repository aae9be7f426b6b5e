//! Key-value entries as an attempt reaches them: for one tenant and one delivery, whatever store is behind.

use std::fmt;

use async_trait::async_trait;
use umbel_model::{BucketName, KvKey, UnixMs};

/// The entries of one tenant. The sandbox calls it when the attempt's grants allow what is asked.
///
/// A call waits without holding a thread of guests.
#[async_trait]
pub trait KeyValue: Send + Sync + fmt::Debug {
    /// The entries of a few keys, in their order.
    async fn get(&self, bucket: BucketName, keys: Vec<KvKey>) -> Result<Vec<Option<Entry>>, KvError>;

    /// Stores a value for `ttl_ms` (0: for ever) and answers its version.
    async fn set(&self, at: At, value: Vec<u8>, ttl_ms: u64) -> Result<u64, KvError>;

    /// Adds to a number, or to `initial` where there is none, and answers the sum.
    async fn add(&self, at: At, delta: i64, initial: i64, ttl_ms: u64) -> Result<i64, KvError>;

    /// Whether there was an entry.
    async fn delete(&self, at: At) -> Result<bool, KvError>;

    /// Entries whose keys begin with `prefix`, behind `after`.
    async fn list(
        &self,
        bucket: BucketName,
        prefix: String,
        after: Option<KvKey>,
        max: u32,
    ) -> Result<EntryPage, KvError>;
}

/// What is stored under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub version: u64,
    /// None: never.
    pub expires_at: Option<UnixMs>,
    pub value: Vec<u8>,
}

/// A page of entries by key, and the key after which the next one begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryPage {
    pub entries: Vec<(KvKey, Entry)>,
    pub next: Option<KvKey>,
}

/// The entry that a write is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    pub bucket: BucketName,
    pub key: KvKey,
    pub expect: Expected,
}

/// What a write expects to find.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Expected {
    #[default]
    Any,
    Absent,
    Version(u64),
}

/// Why the store did not do what was asked. The texts are for the people who read the job's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// The version found instead of the expected one; 0: there is no entry.
    #[error("the entry has version {0}, which is not the expected one")]
    Conflict(u64),
    #[error("a value has at most {0} bytes")]
    TooLarge(u64),
    #[error("what is stored is no decimal number of 64 bits")]
    NotANumber,
    #[error("the sum does not fit into 64 bits")]
    Overflow,
    /// The tenant has as much as it may: says of what.
    #[error("{0}")]
    Quota(String),
    #[error("this attempt has lost its delivery: another one may run")]
    Stale,
    /// Whether a write was done is not known.
    #[error("{0}")]
    Unavailable(String),
}

impl KvError {
    /// What is said when nothing more is known, without what the store said: that is not for guests.
    pub fn unreachable() -> Self {
        Self::Unavailable("the store cannot be reached now; a write may have been done or not".into())
    }
}

/// There is no store where this attempt runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoKeyValue;

impl NoKeyValue {
    fn refuse<T>() -> Result<T, KvError> {
        Err(KvError::Unavailable("there is no key-value store where this task runs".into()))
    }
}

#[async_trait]
impl KeyValue for NoKeyValue {
    async fn get(&self, _: BucketName, _: Vec<KvKey>) -> Result<Vec<Option<Entry>>, KvError> {
        Self::refuse()
    }

    async fn set(&self, _: At, _: Vec<u8>, _: u64) -> Result<u64, KvError> {
        Self::refuse()
    }

    async fn add(&self, _: At, _: i64, _: i64, _: u64) -> Result<i64, KvError> {
        Self::refuse()
    }

    async fn delete(&self, _: At) -> Result<bool, KvError> {
        Self::refuse()
    }

    async fn list(&self, _: BucketName, _: String, _: Option<KvKey>, _: u32) -> Result<EntryPage, KvError> {
        Self::refuse()
    }
}
