//! Blobs: files of a tenant, each under the SHA-256 of its bytes. A broker keeps their records and counts who refers to them; the
//! bytes lie in the module store.
//!
//! # Records and bytes
//!
//! Bytes and records are stored one after the other, and a process may die in between. `umbel_modules` says how its bytes are moved;
//! the order is:
//!
//! - **Put**: publish the bytes, then `put_blob`, then publish the bytes again if a deletion that had begun before took them. After
//!   `StorageFull` and `TooMany` take the bytes away as a deletion does. It may be repeated.
//! - **Attempt**: publish the bytes of each blob before the settle, and name it in `Settle::blobs`. The records are made in the step
//!   that records the success, so that a blob exists only if its attempt succeeded. Then as for a put.
//! - **Read**: look at the record, then read the bytes. Those of a blob that is deleted meanwhile are missing.
//! - **Delete**, and retention: the record goes in one step, which looks that nothing refers to the blob. Then the bytes are taken
//!   aside, and deleted if there is still no record.
//! - Bytes without a record, which a process that died left, are deleted when they are too old to be those of an upload or an attempt
//!   that goes on.
//!
//! # References
//!
//! A job refers to the blobs that its arguments name (`NewJob::blobs`, `NewWork::Job`) and to those that its result names
//! (`SettledBlobs::refers`). The step that stores the job, or the result, looks that they exist, and counts the job once for each of
//! them, however often it names it. A node of a workflow does so when it is stored: also while the workflow is staged. The step that
//! deletes the job ends its references: a node's with its workflow. A blob to which nothing refers has `unused_since`, from its put or
//! from the end of its last reference on; putting it again sets that anew.
//!
//! Processes of older releases know nothing of blobs. What they delete leaves references behind, which keeps a blob too long; an audit
//! finds them. But what they submit, or settle, is stored without its references, and then the blobs that it names may be deleted while
//! it needs them. So blobs are safe only when all processes are of this release.

use std::fmt;

use async_trait::async_trait;
use umbel_model::{Digest, TenantId, UnixMs};

use crate::Result;

/// Different blobs to which the arguments of one job may refer, and as many again to which its result may.
pub const MAX_BLOB_REFERENCES: usize = 32;
/// Blobs that one attempt may write.
pub const MAX_BLOBS_WRITTEN: usize = 64;
/// The longest media type of a blob, bytes.
pub const MAX_CONTENT_TYPE_BYTES: usize = 128;
/// Records that one call of `collect_blobs` deletes at most, and that one page of `blobs` has.
pub const BLOB_STEP: u32 = 1_000;

/// Keeps the records of blobs. See the top of the file for the order of steps.
#[async_trait]
pub trait Blobs: Send + Sync + fmt::Debug + 'static {
    /// Makes the record of a blob whose bytes are stored.
    async fn put_blob(&self, put: &PutBlob) -> Result<BlobPut>;

    /// One blob; none when the tenant has no such blob.
    async fn blob(&self, tenant: &TenantId, digest: Digest) -> Result<Option<BlobRecord>>;

    /// Blobs in the order of their digests, after `after`, at most `max` and at most [`BLOB_STEP`].
    async fn blobs(&self, tenant: &TenantId, after: Option<&Digest>, max: u32) -> Result<BlobPage>;

    /// Deletes the record of a blob to which nothing refers.
    async fn delete_blob(&self, tenant: &TenantId, digest: Digest) -> Result<BlobDeleted>;

    /// Deletes the records of blobs to which nothing has referred for `retention_ms`, those first that are unused longest; at most
    /// `max` and at most [`BLOB_STEP`]. Their bytes are to be deleted next.
    async fn collect_blobs(&self, retention_ms: u64, max: u32) -> Result<Vec<BlobGone>>;
}

/// A blob whose bytes are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBlob {
    pub digest: Digest,
    pub bytes: u64,
    /// Its media type, at most [`MAX_CONTENT_TYPE_BYTES`]. That of the first put stays.
    pub content_type: Option<String>,
}

/// A put of one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutBlob {
    pub tenant: TenantId,
    pub blob: NewBlob,
}

/// The answer to a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobPut {
    Stored,
    /// It was there. It counts as used now if nothing refers to it.
    Present,
    /// The tenant has stored as many bytes of blobs as it may.
    StorageFull,
    /// The tenant has so many blobs, which is as many as it may.
    TooMany(u64),
}

/// A blob as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRecord {
    pub digest: Digest,
    pub bytes: u64,
    pub content_type: Option<String>,
    pub created_at: UnixMs,
    /// Jobs that refer to it.
    pub references: u64,
    /// Since when none does, if none does.
    pub unused_since: Option<UnixMs>,
}

/// A page of blobs by digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlobPage {
    pub blobs: Vec<BlobRecord>,
    /// The digest after which the next page begins; none at the end.
    pub next: Option<Digest>,
}

impl BlobPage {
    /// The page that `blobs` are, where at most `max` were looked for.
    pub fn new(blobs: Vec<BlobRecord>, max: u32) -> Self {
        let is_full = blobs.len() as u64 >= u64::from(max);
        let next = blobs.last().filter(|_| is_full).map(|last| last.digest);
        Self { blobs, next }
    }
}

/// The answer to a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobDeleted {
    /// Its bytes are to be deleted next.
    Deleted,
    /// So many jobs refer to it.
    InUse(u64),
    NotFound,
}

/// A blob whose record was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobGone {
    pub tenant: TenantId,
    pub digest: Digest,
}

/// The blobs of an attempt. Taken with `Succeed` and `Replace`, dropped with any other resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettledBlobs {
    /// Those that it wrote, at most [`MAX_BLOBS_WRITTEN`], each once.
    pub written: Vec<NewBlob>,
    /// Those to which its result refers, at most [`MAX_BLOB_REFERENCES`], each once.
    pub refers: Vec<Digest>,
}
