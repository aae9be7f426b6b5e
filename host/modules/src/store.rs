//! Uploaded modules, each under the SHA-256 of its bytes.
//!
//! `sha256/<first two digits>/<64 digits>` holds a blob; `uploads/<random>` one that is being written; `aside/` what is taken
//! away (see `aside.rs`). `values/` holds the
//! large values of jobs (see `values.rs`), `blobs/` the blobs of tenants (see `blobs.rs`).

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use object_store::{
    MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, local::LocalFileSystem, path::Path as Location,
};
use sha2::{Digest as _, Sha256};
use umbel_model::Digest;

use crate::Error;

/// The largest module that is accepted unless the operator says otherwise, bytes. A Python component has 18 MiB.
pub const DEFAULT_MAX_MODULE_BYTES: u64 = 64 << 20;
/// An upload whose file did not change for this time is dead.
const STALE_UPLOAD: Duration = Duration::from_secs(3_600);
/// Bytes that an upload holds in memory before they are written.
const PART_BYTES: usize = 1 << 20;

/// A blob that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBlob {
    pub digest: Digest,
    pub size_bytes: u64,
}

/// Content-addressed blobs in an object store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ModuleStore {
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// For error messages.
    pub(crate) shown: Arc<Path>,
}

impl ModuleStore {
    /// Opens a local folder, which is created if it is missing, and deletes the files of crashed uploads.
    pub async fn local(folder: impl Into<PathBuf>) -> Result<Self, Error> {
        let folder = folder.into();
        let failed = |e: std::io::Error| Error::io(&folder, &e);
        tokio::fs::create_dir_all(&folder).await.map_err(failed)?;
        let objects =
            LocalFileSystem::new_with_prefix(&folder).map_err(|e| Error::store(&folder, &e))?.with_fsync(true);
        // The folder of a job is deleted with its last value.
        let objects = objects.with_automatic_cleanup(true);
        delete_older(&folder.join("uploads"), STALE_UPLOAD).await;
        let store = Self { objects: Arc::new(objects), shown: folder.into() };
        if let Err(error) = store.recover_blobs().await {
            tracing::warn!(%error, "what a process that died left of blobs is not cleared up");
        }
        Ok(store)
    }

    /// Stores the bytes of `upload`, at most `max_bytes`, under their digest. Storing the same bytes twice stores them once,
    /// and repairs a damaged blob.
    pub async fn put<E: std::fmt::Display>(
        &self,
        upload: impl Stream<Item = Result<Bytes, E>>,
        max_bytes: u64,
    ) -> Result<StoredBlob, Error> {
        self.put_under(upload, max_bytes, location).await
    }

    /// Stores an upload at the location for its digest, whole or not at all.
    pub(crate) async fn put_under<E: std::fmt::Display>(
        &self,
        upload: impl Stream<Item = Result<Bytes, E>>,
        max_bytes: u64,
        location: impl FnOnce(&Digest) -> Location,
    ) -> Result<StoredBlob, Error> {
        let temporary = Location::from(format!("uploads/{}", random_name(&self.shown)?));
        let mut parts = self.objects.put_multipart(&temporary).await.map_err(|e| self.failed(&e))?;
        let stored = match self.write(&mut *parts, upload, max_bytes).await {
            Ok(stored) => stored,
            Err(error) => {
                if let Err(left) = parts.abort().await {
                    tracing::warn!(error = %left, "an upload that failed left a temporary file");
                }
                return Err(error);
            }
        };
        if let Err(error) = self.objects.rename(&temporary, &location(&stored.digest)).await {
            let _ = self.objects.delete(&temporary).await;
            return Err(self.failed(&error));
        }
        Ok(stored)
    }

    /// Writes and hashes the upload under its temporary name.
    async fn write<E: std::fmt::Display>(
        &self,
        parts: &mut dyn MultipartUpload,
        upload: impl Stream<Item = Result<Bytes, E>>,
        max_bytes: u64,
    ) -> Result<StoredBlob, Error> {
        let mut upload = std::pin::pin!(upload);
        let (mut sha, mut size_bytes) = (Sha256::new(), 0_u64);
        let mut buffer = Vec::with_capacity(PART_BYTES);
        while let Some(piece) = upload.next().await {
            let piece = piece.map_err(|e| Error::Upload(e.to_string()))?;
            size_bytes += piece.len() as u64;
            if size_bytes > max_bytes {
                return Err(Error::TooLarge { max_bytes });
            }
            sha.update(&piece);
            buffer.extend_from_slice(&piece);
            if buffer.len() >= PART_BYTES {
                let part = PutPayload::from(std::mem::replace(&mut buffer, Vec::with_capacity(PART_BYTES)));
                parts.put_part(part).await.map_err(|e| self.failed(&e))?;
            }
        }
        if !buffer.is_empty() {
            parts.put_part(PutPayload::from(buffer)).await.map_err(|e| self.failed(&e))?;
        }
        parts.complete().await.map_err(|e| self.failed(&e))?;
        Ok(StoredBlob { digest: Digest::from_bytes(sha.finalize().into()), size_bytes })
    }

    /// Stores bytes that are in memory already.
    pub async fn put_bytes(&self, bytes: Bytes, max_bytes: u64) -> Result<StoredBlob, Error> {
        self.put(in_memory(bytes), max_bytes).await
    }

    /// The bytes of `digest`, checked. Damaged bytes are an error and never returned.
    pub async fn get(&self, digest: &Digest) -> Result<Bytes, Error> {
        let found = self.found(self.objects.get(&location(digest)).await)?.ok_or(Error::Missing(*digest))?;
        let bytes = found.bytes().await.map_err(|e| self.failed(&e))?;
        if Digest::of(&bytes) != *digest {
            tracing::error!(%digest, folder = %self.shown.display(), "a stored module is damaged");
            return Err(Error::Corrupted(*digest));
        }
        Ok(bytes)
    }

    /// Whether there is a blob of that name. Its bytes are not read.
    pub async fn exists(&self, digest: &Digest) -> Result<bool, Error> {
        Ok(self.found(self.objects.head(&location(digest)).await)?.is_some())
    }

    /// Deletes a blob; a missing one is no error.
    pub async fn delete(&self, digest: &Digest) -> Result<(), Error> {
        self.found(self.objects.delete(&location(digest)).await).map(drop)
    }

    pub(crate) fn failed(&self, error: &object_store::Error) -> Error {
        Error::store(&self.shown, error)
    }

    /// The answer about an object; none if it is missing.
    pub(crate) fn found<T>(&self, answer: object_store::Result<T>) -> Result<Option<T>, Error> {
        match answer {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }
}

/// A name that nothing else has.
pub(crate) fn random_name(folder: &Path) -> Result<String, Error> {
    let mut random = [0; 16];
    let failed =
        |e: getrandom::Error| Error::Unavailable { path: folder.display().to_string(), problem: e.to_string() };
    getrandom::fill(&mut random).map_err(failed)?;
    Ok(hex::encode(random))
}

/// An upload of bytes that are in memory.
pub(crate) fn in_memory(bytes: Bytes) -> impl Stream<Item = Result<Bytes, Infallible>> {
    futures::stream::iter([Ok(bytes)])
}

/// Deletes uploads that are too old to be still written. Younger ones may be those of another process.
pub(crate) async fn delete_older(uploads: &Path, stale: Duration) {
    let Ok(mut entries) = tokio::fs::read_dir(uploads).await else { return };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let modified = entry.metadata().await.and_then(|meta| meta.modified());
        if modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > stale))
            && let Err(error) = tokio::fs::remove_file(entry.path()).await
        {
            tracing::warn!(%error, "the file of a crashed upload cannot be deleted");
        }
    }
}

pub(crate) fn location(digest: &Digest) -> Location {
    let hex = digest.hex();
    Location::from(format!("sha256/{}/{hex}", &hex[..2]))
}
