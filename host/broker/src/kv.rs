//! Key-value entries: bytes that the tasks and the people of a tenant keep under keys, in buckets.
//!
//! Every write is one step that decides by `rules::kv`. A write of a guest names its delivery, and the step compares its token:
//! an attempt that lost its lease cannot write over what its successor wrote.

use std::fmt;

use async_trait::async_trait;
use umbel_model::{BucketName, JobId, KvKey, TenantId, Token, UnixMs};

use crate::{Expect, Result};

/// Keys of one call of `kv_get`.
pub const MAX_KV_KEYS: usize = 32;
/// The longest time to live of an entry, milliseconds: ten years. A longer one is this one.
pub const MAX_KV_TTL_MS: u64 = 10 * 365 * 86_400_000;
/// Entries that one call of `kv_delete_bucket` deletes at most: some milliseconds of a store's time.
pub const KV_STEP: u32 = 200;

/// Keeps key-value entries. An entry that has expired is not there, for reads and for writes; `Maintenance::prune` deletes it
/// later, and until then it counts in `StoredBytes::kv`.
#[async_trait]
pub trait KeyValues: Send + Sync + fmt::Debug + 'static {
    /// The entries of at most [`MAX_KV_KEYS`] keys, in the order of the keys.
    async fn kv_get(&self, tenant: &TenantId, bucket: &BucketName, keys: &[KvKey]) -> Result<Vec<Option<KvEntry>>>;

    /// Changes one entry, if it is as expected. After `Error::Unavailable` nobody knows whether it was changed: look at its
    /// version before it is changed again.
    async fn kv_write(&self, write: &KvWrite) -> Result<KvWritten>;

    /// Entries of a bucket by key, in the order of their bytes. A page ends at `PAGE_BYTES` of keys and values and at `PAGE_SCAN`
    /// entries, expired ones included, whatever the query wants.
    async fn kv_list(&self, query: &KvQuery) -> Result<KvPage>;

    /// The buckets that have entries, by name: at most `Limits::max_buckets`.
    async fn kv_buckets(&self, tenant: &TenantId) -> Result<Vec<KvBucket>>;

    /// Deletes the first `max` entries of a bucket, at most [`KV_STEP`].
    async fn kv_delete_bucket(&self, tenant: &TenantId, bucket: &BucketName, max: u32) -> Result<KvBucketDeleted>;
}

/// What is stored under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvEntry {
    /// A number of the tenant that rises with each change, also when an entry is deleted and made again.
    pub version: u64,
    /// None: never.
    pub expires_at: Option<UnixMs>,
    pub value: Vec<u8>,
}

/// A change of one entry.
#[derive(Debug, Clone)]
pub struct KvWrite {
    pub tenant: TenantId,
    pub bucket: BucketName,
    pub key: KvKey,
    pub expect: Expect,
    pub change: KvChange,
    /// The delivery whose guest writes; none: people do.
    pub delivery: Option<KvDelivery>,
}

/// What is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvChange {
    /// Stores a value. `ttl_ms` 0: for ever.
    Set {
        value: Vec<u8>,
        ttl_ms: u64,
    },
    /// Adds to a number, which is stored as decimal text. Where there is none it adds to `initial`, and the sum lives for `ttl_ms`;
    /// 0: for ever. A number that is there keeps its time.
    Add {
        delta: i64,
        initial: i64,
        ttl_ms: u64,
    },
    Delete,
}

/// A delivery and the token that its worker holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvDelivery {
    pub job: JobId,
    pub token: Token,
}

/// The answer to a write. All but the first three changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvWritten {
    /// The version that is stored now.
    Stored(u64),
    /// A number was changed: its version, and what it is now.
    Counted(u64, i64),
    /// Whether there was an entry.
    Deleted(bool),
    /// The version found instead of the expected one; 0: there is no entry.
    Conflict(u64),
    /// The delivery is not the current one of a running job: somebody else may run it.
    Stale,
    /// The value is longer than so many bytes.
    TooLarge(u64),
    /// What is stored is no decimal number of 64 bits.
    NotANumber,
    /// The sum is larger or smaller than a number of 64 bits.
    Overflow,
    /// It would be one more bucket than so many.
    TooManyBuckets(u64),
    /// The tenant has stored as many bytes of entries as it may.
    StorageFull,
}

/// Which entries to list.
#[derive(Debug, Clone)]
pub struct KvQuery {
    pub tenant: TenantId,
    pub bucket: BucketName,
    /// Only keys that begin with it.
    pub prefix: String,
    /// Only keys behind it.
    pub after: Option<KvKey>,
    /// At least 1.
    pub max: u32,
}

/// A page of entries by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KvPage {
    pub entries: Vec<(KvKey, KvEntry)>,
    /// The key after which the next page begins; none at the end. An empty page may have one.
    pub next: Option<KvKey>,
}

/// A bucket with entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvBucket {
    pub name: BucketName,
    /// Those included that have expired and are not deleted yet.
    pub entries: u64,
}

/// What came of a step of deleting a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvBucketDeleted {
    pub deleted: u32,
    /// Whether entries are left.
    pub has_more: bool,
}
