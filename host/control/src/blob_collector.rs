//! Takes away blobs that nothing has used for long, and bytes of blobs that have no record.
//!
//! The record of a blob goes first, in one step of the broker that looks that nothing refers to it; then its bytes, which are taken
//! aside and looked at again: whoever puts the same blob meanwhile has it in the end (see `umbel_broker::Blobs`). A process that dies in
//! between leaves bytes without a record. Those are swept when they are too old to be those of an upload or an attempt that goes on.

use std::time::Duration;

use futures::TryStreamExt as _;
use umbel_broker::Broker;
use umbel_model::{Digest, TenantId};
use umbel_modules::ModuleStore;

use crate::{ControlConfig, Error, large_value_owner::owns, service::Service};

/// Records that one step of the broker deletes.
const BATCH: u32 = 100;

/// Deletes blobs that were unused for `blob_retention`.
pub(crate) struct BlobCollector {
    pub(crate) config: ControlConfig,
    pub(crate) store: ModuleStore,
}

impl Service for BlobCollector {
    const NAME: &'static str = "blob collector";
    const MAY_BE_BROKEN_OFF: bool = true;

    async fn step(&self, broker: &dyn Broker) -> Result<Duration, Error> {
        // Bytes in a folder of another broker's are not those of this one's records.
        if !owns(broker, &self.store).await? {
            return Ok(self.config.collect_every);
        }
        let retention_ms = u64::try_from(self.config.blob_retention.as_millis()).unwrap_or(u64::MAX);
        loop {
            let gone = broker.collect_blobs(retention_ms, BATCH).await?;
            for blob in &gone {
                delete_bytes(broker, &self.store, &blob.tenant, blob.digest).await?;
                tracing::info!(tenant = %blob.tenant, digest = %blob.digest, "blob taken away: nothing has used it for long");
            }
            if gone.len() < BATCH as usize {
                return Ok(self.config.collect_every);
            }
        }
    }
}

/// Deletes bytes that are older than `blob_grace` and have no record.
pub(crate) struct BlobSweeper {
    pub(crate) config: ControlConfig,
    pub(crate) store: ModuleStore,
}

impl Service for BlobSweeper {
    const NAME: &'static str = "blob sweeper";
    /// The folder with the bytes may be this process' own.
    const IS_LEASED: bool = false;
    const MAY_BE_BROKEN_OFF: bool = true;

    async fn step(&self, broker: &dyn Broker) -> Result<Duration, Error> {
        // The sweeper of large values says whose folder it is.
        if owns(broker, &self.store).await? {
            self.store.recover_blobs().await?;
            let (mut blobs, mut deleted) = (self.store.blobs(), 0_u64);
            while let Some(entry) = blobs.try_next().await? {
                if entry.age >= self.config.blob_grace && broker.blob(&entry.tenant, entry.digest).await?.is_none() {
                    delete_bytes(broker, &self.store, &entry.tenant, entry.digest).await?;
                    deleted += 1;
                }
            }
            if deleted > 0 {
                tracing::info!(deleted, "bytes of blobs that have no record were deleted");
            }
        }
        Ok(self.config.sweep_every)
    }
}

/// Deletes the bytes of a blob that had no record, unless it has one by now.
async fn delete_bytes(
    broker: &dyn Broker,
    store: &ModuleStore,
    tenant: &TenantId,
    digest: Digest,
) -> Result<(), Error> {
    let has_record = async { Ok::<_, Error>(broker.blob(tenant, digest).await?.is_some()) };
    store.delete_blob_unless(tenant, &digest, has_record).await?
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::atomic::Ordering, time::SystemTime};

    use umbel_broker::{BlobPut, Blobs as _, Clock, Jobs as _, Limits, NewBlob, NewJob, PutBlob, Start, Submitted};
    use umbel_broker_conformance::MemoryBroker;
    use umbel_model::{JobId, QueueName, TaskName};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const WEEK_MS: u64 = 7 * 86_400_000;

    fn tenant() -> TenantId {
        TenantId::new("a").unwrap()
    }

    /// Publishes bytes, as a put or an attempt does before their record is made.
    async fn publish(store: &ModuleStore, text: &str) -> NewBlob {
        let mut upload = store.blob_upload(1_000).await.unwrap();
        upload.write(text.as_bytes()).await.unwrap();
        let written = upload.finish().await.unwrap();
        written.publish(&tenant()).await.unwrap();
        NewBlob { digest: written.digest, bytes: written.size_bytes, content_type: None }
    }

    async fn put(broker: &MemoryBroker, store: &ModuleStore, text: &str) -> Digest {
        let blob = publish(store, text).await;
        let put = PutBlob { tenant: tenant(), blob };
        assert_eq!(broker.put_blob(&put).await.unwrap(), BlobPut::Stored);
        put.blob.digest
    }

    async fn has_bytes(store: &ModuleStore, digest: Digest) -> bool {
        store.blob_size(&tenant(), &digest).await.unwrap().is_some()
    }

    fn job(n: u128, blob: Digest) -> NewJob {
        NewJob {
            id: JobId::from_parts(1, n),
            tenant: tenant(),
            task: TaskName::new("t").unwrap(),
            queue: QueueName::default(),
            priority: 5,
            spec: "{}".into(),
            labels: Vec::new(),
            start: Start::Now,
            expires_ms: 0,
            expires_at: None,
            max_deliveries: 1,
            result_ttl_ms: 1_000,
            dead_ttl_ms: 0,
            broker_options: None,
            idempotency: None,
            redrive_of: None,
            blobs: vec![blob],
        }
    }

    #[tokio::test]
    async fn a_blob_is_taken_away_a_week_after_its_last_use_and_one_that_is_used_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = ModuleStore::local(folder.path()).await.unwrap();
        let (clock, now) = Clock::manual(1_000_000);
        let broker = MemoryBroker::new(clock, Limits::default());
        let (unused, used) = (put(&broker, &store, "unused").await, put(&broker, &store, "used").await);
        assert_eq!(broker.submit(&[job(1, used)]).await.unwrap(), [Submitted::Created]);
        let collector = BlobCollector { config: ControlConfig::default(), store: store.clone() };
        now.fetch_add(WEEK_MS - 1, Ordering::SeqCst);
        collector.step(&broker).await.unwrap();
        assert!(has_bytes(&store, unused).await);
        now.fetch_add(1, Ordering::SeqCst);
        collector.step(&broker).await.unwrap();
        assert_eq!((has_bytes(&store, unused).await, has_bytes(&store, used).await), (false, true));
        assert_eq!(broker.blob(&tenant(), unused).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_put_between_the_deletion_of_the_record_and_of_the_bytes_is_there_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let store = ModuleStore::local(folder.path()).await.unwrap();
        let broker = MemoryBroker::default();
        let digest = put(&broker, &store, "x").await;
        broker.delete_blob(&tenant(), digest).await.unwrap();
        put(&broker, &store, "x").await;
        delete_bytes(&broker, &store, &tenant(), digest).await.unwrap();
        assert!(has_bytes(&store, digest).await);
    }

    fn age(folder: &Path, digest: Digest, age: Duration) {
        let path = folder.join(format!("blobs/a/{}", digest.hex()));
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    #[tokio::test]
    async fn old_bytes_without_a_record_are_swept_and_young_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = ModuleStore::local(folder.path()).await.unwrap();
        let broker = MemoryBroker::default();
        let recorded = put(&broker, &store, "recorded").await;
        let (old, young) = (publish(&store, "old").await.digest, publish(&store, "young").await.digest);
        for (digest, hours) in [(recorded, 48), (old, 25), (young, 23)] {
            age(folder.path(), digest, hours * HOUR);
        }
        let sweeper = BlobSweeper { config: ControlConfig::default(), store: store.clone() };
        sweeper.step(&broker).await.unwrap();
        assert!(has_bytes(&store, recorded).await && !has_bytes(&store, old).await);
        assert!(has_bytes(&store, young).await, "it may be that of an attempt that goes on");
        // Another broker's folder is left alone.
        let other = MemoryBroker::default();
        sweeper.step(&other).await.unwrap();
        assert!(has_bytes(&store, recorded).await);
    }
}
