//! Blobs as an attempt reaches them: for one tenant, whatever store is behind.

use std::{fmt, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;
use umbel_model::Digest;

/// The blobs of one tenant, and those that the attempt itself wrote. The sandbox calls it when the attempt's grants allow what is
/// asked.
///
/// A call waits without holding a thread of guests.
#[async_trait]
pub trait BlobAccess: Send + Sync + fmt::Debug {
    /// The size of a blob, bytes.
    async fn open(&self, digest: Digest) -> Result<u64, BlobError>;

    /// Bytes of a blob that was opened: a range inside its size.
    async fn read(&self, digest: Digest, range: Range<u64>) -> Result<Bytes, BlobError>;

    /// Begins a blob.
    async fn create(&self, content_type: Option<String>) -> Result<Box<dyn BlobWriter>, BlobError>;
}

/// A blob that is being written. Dropped, it leaves nothing. After an error it can only be dropped.
#[async_trait]
pub trait BlobWriter: Send + fmt::Debug {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError>;

    /// The attempt can open it from now on. For others it comes to exist when the attempt succeeds.
    async fn finish(self: Box<Self>) -> Result<Digest, BlobError>;
}

/// Why the store did not do what was asked. The texts are for the people who read the job's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    #[error("{0}")]
    Invalid(String),
    #[error("the tenant has no such blob")]
    NotFound,
    #[error("the blob was deleted while it was read")]
    Deleted,
    #[error("a blob has at most {0} bytes")]
    TooLarge(u64),
    /// The tenant has as much as it may: says of what.
    #[error("{0}")]
    Quota(String),
    #[error("{0}")]
    Unavailable(String),
}

impl BlobError {
    /// What is said when nothing more is known, without what the store said: that is not for guests.
    pub fn unreachable() -> Self {
        Self::Unavailable("the store of blobs cannot be reached now".into())
    }
}

/// There is no store where this attempt runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBlobs;

impl NoBlobs {
    fn refuse<T>() -> Result<T, BlobError> {
        Err(BlobError::Unavailable("there is no store of blobs where this task runs".into()))
    }
}

#[async_trait]
impl BlobAccess for NoBlobs {
    async fn open(&self, _: Digest) -> Result<u64, BlobError> {
        Self::refuse()
    }

    async fn read(&self, _: Digest, _: Range<u64>) -> Result<Bytes, BlobError> {
        Self::refuse()
    }

    async fn create(&self, _: Option<String>) -> Result<Box<dyn BlobWriter>, BlobError> {
        Self::refuse()
    }
}
