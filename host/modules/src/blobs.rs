//! Blobs: files of a tenant, each under the SHA-256 of its bytes. The broker has a record of each, with its references.
//!
//! `blobs/<tenant>/<64 digits>` holds one; the path contains the tenant of the reader, so no digest, whoever wrote it, leads to
//! another tenant's bytes. `blob-uploads/<random>` holds one that is being written, or that is complete and waits for its record.
//! `blobs-aside/<tenant>/<64 digits>/<random>` holds bytes that are about to be deleted.
//!
//! How bytes and records stay together, though a process may die between any two steps:
//! - Whoever makes a blob publishes its bytes, has the record made, and then publishes again what is missing
//!   ([`WrittenBlob::publish`], [`WrittenBlob::publish_again`]); only then it drops its own copy.
//! - Whoever deletes one has the record deleted, or finds none, takes the bytes aside, and looks again for a record before they are deleted
//!   ([`ModuleStore::delete_blob_unless`]).
//! - So bytes with a record are deleted only by a deletion that began before the record was made, and then its maker puts them
//!   back. Bytes without a record are deleted when they are old.

use std::{
    ops::Range,
    path::Path,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{MultipartUpload, ObjectMeta, ObjectStoreExt as _, PutPayload, path::Path as Location};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use umbel_model::{Digest, TenantId};

use crate::{Error, ModuleStore, store::random_name};

/// Bytes of a piece of a blob that is read in pieces.
pub const BLOB_PIECE_BYTES: usize = 256 << 10;
/// Bytes that an upload holds in memory before they are written.
pub const BLOB_PART_BYTES: usize = 256 << 10;

const ROOT: &str = "blobs";
const ASIDE: &str = "blobs-aside";
const UPLOADS: &str = "blob-uploads";
/// What was written so long ago, and has no name yet, belongs to a process that died: no attempt runs for so long.
const STALE_UPLOAD: Duration = Duration::from_secs(25 * 3_600);

/// An entry in the listing of all blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobEntry {
    pub tenant: TenantId,
    pub digest: Digest,
    /// Since it was written, by the store's clock and this machine's.
    pub age: Duration,
    pub bytes: u64,
}

/// A blob that is being written. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct BlobUpload {
    store: ModuleStore,
    temporary: Location,
    parts: Box<dyn MultipartUpload>,
    sha: Sha256,
    size_bytes: u64,
    max_bytes: u64,
    buffer: Vec<u8>,
}

impl BlobUpload {
    /// Bytes so far.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Adds bytes. After an error the upload can only be dropped.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.size_bytes += bytes.len() as u64;
        if self.size_bytes > self.max_bytes {
            return Err(Error::BlobTooLarge { max_bytes: self.max_bytes });
        }
        self.sha.update(bytes);
        while !bytes.is_empty() {
            let room = BLOB_PART_BYTES - self.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == BLOB_PART_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let part = PutPayload::from(std::mem::take(&mut self.buffer));
        self.parts.put_part(part).await.map_err(|e| self.store.failed(&e))
    }

    /// Completes the bytes, which have no name yet: call it within a tokio runtime. It goes on when nobody waits for it any more,
    /// as a file that is completed behind everybody's back would have no owner that deletes it.
    pub async fn finish(self) -> Result<WrittenBlob, Error> {
        let path = self.store.shown.display().to_string();
        // An answer that nobody takes is dropped, and its copy with it.
        let finishing = tokio::spawn(self.complete());
        finishing.await.unwrap_or_else(|error| Err(Error::Unavailable { path, problem: error.to_string() }))
    }

    async fn complete(mut self) -> Result<WrittenBlob, Error> {
        if !self.buffer.is_empty() {
            self.flush().await?;
        }
        let Self { store, temporary, mut parts, sha, size_bytes, .. } = self;
        let (digest, background) = (Digest::from_bytes(sha.finalize().into()), Handle::current());
        // Made before the file is complete: it deletes also what a failure leaves.
        let written = WrittenBlob { digest, size_bytes, store, temporary, background };
        parts.complete().await.map_err(|e| written.store.failed(&e))?;
        Ok(written)
    }
}

/// A complete blob that its writer holds. Dropped, the writer's copy is deleted; what was published stays.
#[derive(Debug)]
pub struct WrittenBlob {
    pub digest: Digest,
    pub size_bytes: u64,
    store: ModuleStore,
    temporary: Location,
    /// Where the copy is deleted.
    background: Handle,
}

impl WrittenBlob {
    /// Makes the bytes readable by tenant and digest. The record follows.
    pub async fn publish(&self, tenant: &TenantId) -> Result<(), Error> {
        let to = location(tenant, &self.digest);
        self.store.objects.copy(&self.temporary, &to).await.map_err(|e| self.store.failed(&e))
    }

    /// The record was made: publishes the bytes again if a deletion that had begun before took them.
    pub async fn publish_again(&self, tenant: &TenantId) -> Result<(), Error> {
        match self.store.blob_size(tenant, &self.digest).await? {
            Some(_) => Ok(()),
            None => self.publish(tenant).await,
        }
    }

    /// Bytes of the writer's copy.
    pub async fn range(&self, range: Range<u64>) -> Result<Bytes, Error> {
        self.store.range_at(&self.temporary, self.digest, range).await
    }
}

impl Drop for WrittenBlob {
    fn drop(&mut self) {
        let (store, temporary) = (self.store.clone(), self.temporary.clone());
        self.background.spawn(async move {
            if let Err(error) = store.found(store.objects.delete(&temporary).await) {
                tracing::warn!(%error, "the copy of a blob cannot be deleted");
            }
        });
    }
}

impl ModuleStore {
    /// Begins a blob of at most `max_bytes`.
    pub async fn blob_upload(&self, max_bytes: u64) -> Result<BlobUpload, Error> {
        let temporary = Location::from(format!("{UPLOADS}/{}", random_name(&self.shown)?));
        let parts = self.objects.put_multipart(&temporary).await.map_err(|e| self.failed(&e))?;
        let store = self.clone();
        Ok(BlobUpload { store, temporary, parts, sha: Sha256::new(), size_bytes: 0, max_bytes, buffer: Vec::new() })
    }

    /// The size of a blob of this tenant; none if there is none.
    pub async fn blob_size(&self, tenant: &TenantId, digest: &Digest) -> Result<Option<u64>, Error> {
        Ok(self.found(self.objects.head(&location(tenant, digest)).await)?.map(|meta| meta.size))
    }

    /// Bytes of a blob of this tenant, as many as are asked for. A missing one, also one that was deleted meanwhile, is
    /// [`Error::BlobMissing`]; a range beyond its end an error.
    pub async fn blob_range(&self, tenant: &TenantId, digest: &Digest, range: Range<u64>) -> Result<Bytes, Error> {
        self.range_at(&location(tenant, digest), *digest, range).await
    }

    async fn range_at(&self, location: &Location, digest: Digest, range: Range<u64>) -> Result<Bytes, Error> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.found(self.objects.get_range(location, range).await)?.ok_or(Error::BlobMissing(digest))
    }

    /// Bytes of a blob of this tenant in pieces of `BLOB_PIECE_BYTES`, so that a slow reader holds one of them. One that is deleted
    /// while it is read ends with an error.
    pub fn blob_pieces(
        &self,
        tenant: &TenantId,
        digest: &Digest,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, Error>> {
        let digest = *digest;
        let piece = move |(store, location, left): (Self, Location, Range<u64>)| async move {
            if left.is_empty() {
                return Ok(None);
            }
            let to = left.end.min(left.start + BLOB_PIECE_BYTES as u64);
            let piece = store.range_at(&location, digest, left.start..to).await?;
            Ok(Some((piece, (store, location, to..left.end))))
        };
        stream::try_unfold((self.clone(), location(tenant, &digest), range), piece).boxed()
    }

    /// Deletes the bytes of a blob, whatever its record says; missing ones are no error.
    pub async fn delete_blob(&self, tenant: &TenantId, digest: &Digest) -> Result<(), Error> {
        self.found(self.objects.delete(&location(tenant, digest)).await).map(drop)
    }

    /// Deletes the bytes of a blob that had no record a moment ago, unless `has_record` says that it has one by now. If that fails,
    /// the bytes are put back. Nobody reads them meanwhile: look for a record first.
    pub async fn delete_blob_unless<E>(
        &self,
        tenant: &TenantId,
        digest: &Digest,
        has_record: impl Future<Output = Result<bool, E>>,
    ) -> Result<Result<(), E>, Error> {
        let aside = Location::from(format!("{ASIDE}/{tenant}/{}/{}", digest.hex(), random_name(&self.shown)?));
        let taken = self.objects.rename(&location(tenant, digest), &aside).await;
        if self.found(taken)?.is_none() {
            return Ok(Ok(()));
        }
        match has_record.await {
            Ok(false) => self.found(self.objects.delete(&aside).await).map(|_| Ok(())),
            answer => {
                self.put_blob_back(&aside, &location(tenant, digest)).await?;
                Ok(answer.map(drop))
            }
        }
    }

    async fn put_blob_back(&self, aside: &Location, to: &Location) -> Result<(), Error> {
        match self.objects.rename_if_not_exists(aside, to).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            // Somebody published the same bytes meanwhile.
            Err(object_store::Error::AlreadyExists { .. }) => self.found(self.objects.delete(aside).await).map(drop),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Clears up after processes that died: bytes that were taken aside and neither deleted nor put back are put back, and
    /// uploads that are too old to be still written are deleted. Others may do the same at the same time.
    pub async fn recover_blobs(&self) -> Result<(), Error> {
        delete_stale(&self.shown.join(UPLOADS)).await;
        let mut aside = self.objects.list(Some(&Location::from(ASIDE)));
        while let Some(meta) = aside.try_next().await.map_err(|e| self.failed(&e))? {
            if let Some(BlobEntry { tenant, digest, .. }) = entry(&meta) {
                self.put_blob_back(&meta.location, &location(&tenant, &digest)).await?;
            }
        }
        Ok(())
    }

    /// Whether the tenant has bytes of any blob.
    pub async fn has_blobs(&self, tenant: &TenantId) -> Result<bool, Error> {
        let folder = Location::from(format!("{ROOT}/{tenant}"));
        let first = self.objects.list(Some(&folder)).try_next().await.map_err(|e| self.failed(&e))?;
        Ok(first.is_some())
    }

    /// The bytes of every blob of every tenant, in no order. Other files are skipped.
    pub fn blobs(&self) -> BoxStream<'static, Result<BlobEntry, Error>> {
        let store = self.clone();
        let found = self.objects.list(Some(&Location::from(ROOT)));
        found.map_err(move |e| store.failed(&e)).try_filter_map(|meta| async move { Ok(entry(&meta)) }).boxed()
    }
}

fn location(tenant: &TenantId, digest: &Digest) -> Location {
    Location::from(format!("{ROOT}/{tenant}/{}", digest.hex()))
}

/// The entry for a path below `blobs` or `blobs-aside`.
fn entry(meta: &ObjectMeta) -> Option<BlobEntry> {
    let mut parts = meta.location.as_ref().split('/').skip(1);
    let (tenant, hex) = (parts.next()?.parse().ok()?, parts.next()?);
    let digest = format!("sha256:{hex}").parse().ok()?;
    let age = SystemTime::now().duration_since(meta.last_modified.into()).unwrap_or_default();
    Some(BlobEntry { tenant, digest, age, bytes: meta.size })
}

async fn delete_stale(uploads: &Path) {
    crate::store::delete_older(uploads, STALE_UPLOAD).await;
}
