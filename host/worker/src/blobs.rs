//! Blobs of a tenant as its guests reach them: records in the broker, bytes in the module store, both on the threads for waiting.
//!
//! What an attempt writes is complete under a name of the attempt's own before its outcome is known. Only when it succeeded the
//! bytes get their name, before the settle, which makes the records; after that whatever is missing gets its name again
//! (`umbel_modules` says why). The attempt's own copies go with this struct.
//!
//! However a delivery ended, the records alone decide what becomes of the bytes ([`AttemptBlobs::concluded`]): an answer to a
//! settle does not say whether its blobs were taken, and many ends have no answer.

use std::{
    error::Error,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use umbel_broker::{Broker, NewBlob, SettledBlobs, StorageLimits};
use umbel_capabilities::{BlobAccess, BlobError, BlobWriter};
use umbel_model::{Digest, TenantId};
use umbel_modules::{BlobUpload, Error as StoreError, ModuleStore, WrittenBlob};

/// The blobs that one attempt reaches, and those that it wrote.
#[derive(Clone)]
pub struct AttemptBlobs {
    broker: Arc<dyn Broker>,
    store: ModuleStore,
    tenant: TenantId,
    /// Of one blob.
    max_bytes: u64,
    /// Where broker and store are waited for: never on the guests' threads.
    background: Handle,
    written: Arc<Mutex<Vec<Arc<Written>>>>,
}

/// A blob that the attempt finished.
#[derive(Debug)]
struct Written {
    blob: WrittenBlob,
    content_type: Option<String>,
}

impl fmt::Debug for AttemptBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptBlobs").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

impl AttemptBlobs {
    pub fn new(
        broker: Arc<dyn Broker>,
        store: ModuleStore,
        tenant: TenantId,
        max_bytes: u64,
        background: Handle,
    ) -> Self {
        Self { broker, store, tenant, max_bytes, background, written: Arc::default() }
    }

    /// The blobs that the attempt finished, each once.
    fn written(&self) -> Vec<Arc<Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn own(&self, digest: Digest) -> Option<Arc<Written>> {
        self.written().into_iter().find(|written| written.blob.digest == digest)
    }

    fn bytes_written(&self) -> u64 {
        self.written().iter().map(|written| written.blob.size_bytes).sum()
    }

    /// Whether it wrote none.
    pub(crate) fn is_empty(&self) -> bool {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Gives the bytes that were written their names. The settle with [`AttemptBlobs::settled`] follows.
    pub(crate) async fn publish(&self) -> Result<(), StoreError> {
        for written in self.written() {
            written.blob.publish(&self.tenant).await?;
        }
        Ok(())
    }

    /// What the settle of a success says of blobs; `refers` are those of its result. None: nothing.
    pub(crate) fn settled(&self, refers: Vec<Digest>) -> Option<Box<SettledBlobs>> {
        let new = |written: &Arc<Written>| NewBlob {
            digest: written.blob.digest,
            bytes: written.blob.size_bytes,
            content_type: written.content_type.clone(),
        };
        let settled = SettledBlobs { written: self.written().iter().map(new).collect(), refers };
        (settled != SettledBlobs::default()).then(|| Box::new(settled))
    }

    /// The delivery is over, in whatever way: no settle of it comes any more. Looks for each blob that was written whether it has
    /// a record, puts its bytes back if it has, and takes its name away if it has none.
    pub(crate) fn concluded(self: Arc<Self>) {
        let background = self.background.clone();
        background.spawn(async move {
            for written in self.written() {
                let digest = written.blob.digest;
                // Bytes that are left have no record, or an unknown one, and are swept when they are old.
                if let Err(error) = self.conclude(&written.blob).await {
                    tracing::warn!(tenant = %self.tenant, %digest, %error, "the bytes of a blob are left, or may be missing");
                }
            }
        });
    }

    async fn conclude(&self, blob: &WrittenBlob) -> Result<(), Box<dyn Error + Send + Sync>> {
        match self.has_record(blob.digest).await {
            // A deletion that had begun before may have taken them.
            Ok(true) => Ok(blob.publish_again(&self.tenant).await?),
            Ok(false) => {
                let has_record = self.has_record(blob.digest);
                Ok(self.store.delete_blob_unless(&self.tenant, &blob.digest, has_record).await??)
            }
            // It may have one: bytes without a record are swept, a record without bytes is a loss.
            Err(error) => {
                blob.publish_again(&self.tenant).await?;
                Err(error.into())
            }
        }
    }

    async fn has_record(&self, digest: Digest) -> Result<bool, umbel_broker::Error> {
        Ok(self.broker.blob(&self.tenant, digest).await?.is_some())
    }

    /// Does something that waits for other machines, away from the guests' threads.
    async fn away<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, BlobError>> + Send + 'static,
    ) -> Result<T, BlobError> {
        away(&self.background, work).await
    }

    fn unreachable(&self, error: &dyn fmt::Display) -> BlobError {
        tracing::warn!(tenant = %self.tenant, %error, "a call about a blob failed");
        BlobError::unreachable()
    }

    /// The bytes that the tenant may still store; none: any number.
    async fn free_bytes(&self) -> Result<Option<u64>, umbel_broker::Error> {
        let limits = self.broker.storage_limits(&self.tenant).await?;
        let StorageLimits { blobs: max, .. } = limits.or(self.broker.default_storage_limits());
        if max == 0 {
            return Ok(None);
        }
        Ok(Some(max.saturating_sub(self.broker.stored_bytes(&self.tenant).await?.blobs)))
    }

    async fn begun(self, content_type: Option<String>) -> Result<Box<dyn BlobWriter>, BlobError> {
        // A tenant without room writes nothing that would be refused in the end.
        let free = self.free_bytes().await.map_err(|error| self.unreachable(&error))?;
        let left = free.map(|free| free.saturating_sub(self.bytes_written()));
        if left == Some(0) {
            return Err(no_room());
        }
        let max_bytes = self.max_bytes.min(left.unwrap_or(u64::MAX));
        let upload = self.store.blob_upload(max_bytes).await.map_err(|error| self.stored(&error, max_bytes))?;
        Ok(Box::new(Writer { blobs: self, upload: Some(upload), max_bytes, content_type }))
    }

    /// What a failure of the store means; `max_bytes` is what the upload might have.
    fn stored(&self, error: &StoreError, max_bytes: u64) -> BlobError {
        match error {
            StoreError::BlobTooLarge { .. } if max_bytes < self.max_bytes => no_room(),
            StoreError::BlobTooLarge { max_bytes } => BlobError::TooLarge(*max_bytes),
            StoreError::DiskFull { .. } => {
                tracing::error!(tenant = %self.tenant, %error, "a blob cannot be written");
                BlobError::Quota("the store of this service is full: nothing was written".into())
            }
            _ => self.unreachable(error),
        }
    }
}

fn no_room() -> BlobError {
    BlobError::Quota("the tenant has as many bytes of blobs as it may: delete some".into())
}

async fn away<T: Send + 'static>(
    background: &Handle,
    work: impl Future<Output = Result<T, BlobError>> + Send + 'static,
) -> Result<T, BlobError> {
    let done = AbortOnDropHandle::new(background.spawn(work)).await;
    done.unwrap_or_else(|_| Err(BlobError::unreachable()))
}

#[async_trait]
impl BlobAccess for AttemptBlobs {
    async fn open(&self, digest: Digest) -> Result<u64, BlobError> {
        if let Some(own) = self.own(digest) {
            return Ok(own.blob.size_bytes);
        }
        let blobs = self.clone();
        self.away(async move {
            let record = blobs.broker.blob(&blobs.tenant, digest).await;
            let record = record.map_err(|error| blobs.unreachable(&error))?;
            record.map(|record| record.bytes).ok_or(BlobError::NotFound)
        })
        .await
    }

    async fn read(&self, digest: Digest, range: Range<u64>) -> Result<Bytes, BlobError> {
        let (blobs, own) = (self.clone(), self.own(digest));
        self.away(async move {
            let read = match own {
                Some(own) => own.blob.range(range).await,
                None => blobs.store.blob_range(&blobs.tenant, &digest, range).await,
            };
            read.map_err(|error| match error {
                StoreError::BlobMissing(_) => BlobError::Deleted,
                error => blobs.unreachable(&error),
            })
        })
        .await
    }

    async fn create(&self, content_type: Option<String>) -> Result<Box<dyn BlobWriter>, BlobError> {
        self.away(self.clone().begun(content_type)).await
    }
}

/// A blob that is being written.
#[derive(Debug)]
struct Writer {
    blobs: AttemptBlobs,
    /// None during a call, and after one that failed.
    upload: Option<BlobUpload>,
    max_bytes: u64,
    content_type: Option<String>,
}

#[async_trait]
impl BlobWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        let (blobs, max_bytes) = (self.blobs.clone(), self.max_bytes);
        let mut upload = self.upload.take().ok_or_else(BlobError::unreachable)?;
        let background = blobs.background.clone();
        let written = away(&background, async move {
            upload.write(&bytes).await.map_err(|error| blobs.stored(&error, max_bytes))?;
            Ok(upload)
        });
        self.upload = Some(written.await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Digest, BlobError> {
        let Self { blobs, upload, max_bytes, content_type } = *self;
        let upload = upload.ok_or_else(BlobError::unreachable)?;
        away(&blobs.background.clone(), async move {
            let blob = upload.finish().await.map_err(|error| blobs.stored(&error, max_bytes))?;
            let digest = blob.digest;
            let mut all = blobs.written.lock().unwrap_or_else(PoisonError::into_inner);
            if !all.iter().any(|written| written.blob.digest == digest) {
                all.push(Arc::new(Written { blob, content_type }));
            }
            Ok(digest)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use umbel_broker::{Blobs as _, Clock, Limits, PutBlob};
    use umbel_broker_conformance::MemoryBroker;

    use super::*;
    use crate::active_delivery::ActiveDelivery;

    const TEXT: &[u8] = b"some text";

    struct World {
        broker: Arc<MemoryBroker>,
        store: ModuleStore,
        folder: tempfile::TempDir,
    }

    impl World {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = ModuleStore::local(folder.path()).await.unwrap();
            Self { broker: Arc::new(MemoryBroker::new(Clock::Server, Limits::default())), store, folder }
        }

        /// A delivery of which the guest wrote a blob that was published.
        async fn published(&self) -> (Arc<ActiveDelivery>, TenantId) {
            let active = ActiveDelivery::for_test(1, "{}");
            let tenant = active.delivery.tenant.clone();
            let (broker, store) = (self.broker.clone(), self.store.clone());
            let blobs = Arc::new(AttemptBlobs::new(broker, store, tenant.clone(), 1_000, Handle::current()));
            let mut writer = blobs.create(None).await.unwrap();
            writer.write(Bytes::from_static(TEXT)).await.unwrap();
            writer.finish().await.unwrap();
            active.keep_blobs(blobs.clone());
            blobs.publish().await.unwrap();
            (active, tenant)
        }

        async fn record(&self, tenant: &TenantId) {
            let blob = NewBlob { digest: Digest::of(TEXT), bytes: TEXT.len() as u64, content_type: None };
            self.broker.put_blob(&PutBlob { tenant: tenant.clone(), blob }).await.unwrap();
        }

        /// Whether there are bytes, once the delivery is concluded: its own copy goes last.
        async fn has_bytes(&self, tenant: &TenantId) -> bool {
            let copies = self.folder.path().join("blob-uploads");
            let gone = async {
                while std::fs::read_dir(&copies).map_or(0, |files| files.count()) > 0 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), gone).await.expect("a copy is left");
            self.store.blob_size(tenant, &Digest::of(TEXT)).await.unwrap().is_some()
        }
    }

    #[tokio::test]
    async fn a_delivery_that_ends_without_records_leaves_no_bytes() {
        let world = World::new().await;
        let (active, tenant) = world.published().await;
        active.settle_sent();
        active.settle_answered();
        drop(active);
        assert!(!world.has_bytes(&tenant).await);
    }

    #[tokio::test]
    async fn bytes_that_have_a_record_stay_and_come_back_when_a_deletion_took_them() {
        let world = World::new().await;
        let (active, tenant) = world.published().await;
        world.record(&tenant).await;
        world.store.delete_blob(&tenant, &Digest::of(TEXT)).await.unwrap();
        drop(active);
        assert!(world.has_bytes(&tenant).await);
    }

    #[tokio::test]
    async fn bytes_stay_while_a_settle_that_was_sent_is_not_answered() {
        let world = World::new().await;
        let (active, tenant) = world.published().await;
        active.settle_sent();
        drop(active);
        assert!(world.has_bytes(&tenant).await);
    }
}
