//! Blobs as attempts of a worker reach them: their own before others, within limits, and nothing left of what was not recorded.

use bytes::Bytes;
use umbel_broker::{BlobPut, Blobs as _, Controls as _, NewBlob, PutBlob, StorageLimits};
use umbel_capabilities::{BlobAccess as _, BlobError};
use umbel_model::Digest;
use umbel_worker::AttemptBlobs;

use crate::support::{PATIENCE, World, tenant};

impl World {
    fn blobs(&self, max_bytes: u64) -> AttemptBlobs {
        let (broker, store) = (self.broker.clone(), self.store.clone());
        AttemptBlobs::new(broker, store, tenant(), max_bytes, tokio::runtime::Handle::current())
    }

    /// A blob that was put from outside.
    async fn put(&self, bytes: &[u8]) -> Digest {
        let mut upload = self.store.blob_upload(1 << 20).await.unwrap();
        upload.write(bytes).await.unwrap();
        let written = upload.finish().await.unwrap();
        written.publish(&tenant()).await.unwrap();
        let blob = NewBlob { digest: written.digest, bytes: bytes.len() as u64, content_type: None };
        let put = PutBlob { tenant: tenant(), blob };
        assert_eq!(self.broker.put_blob(&put).await.unwrap(), BlobPut::Stored);
        written.digest
    }

    fn copies(&self) -> usize {
        std::fs::read_dir(self.modules().join("blob-uploads")).map_or(0, |files| files.count())
    }
}

async fn write(blobs: &AttemptBlobs, pieces: &[&[u8]]) -> Result<Digest, BlobError> {
    let mut writer = blobs.create(Some("text/plain".into())).await?;
    for piece in pieces {
        writer.write(Bytes::copy_from_slice(piece)).await?;
    }
    writer.finish().await
}

async fn no_copies(world: &World) {
    let gone = async {
        while world.copies() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("a copy is left");
}

#[tokio::test]
async fn an_attempt_reads_what_it_wrote_and_others_do_not() {
    let world = World::new().await;
    let mine = world.blobs(1 << 20);
    let digest = write(&mine, &[b"some ", b"text"]).await.unwrap();
    assert_eq!(digest, Digest::of(b"some text"));
    assert_eq!(mine.open(digest).await, Ok(9));
    assert_eq!(mine.read(digest, 5..9).await.unwrap(), &b"text"[..]);
    assert_eq!(world.blobs(1 << 20).open(digest).await, Err(BlobError::NotFound));
    assert_eq!(write(&mine, &[b"some text"]).await, Ok(digest), "twice is once");
    // The attempt failed: nothing of it is left.
    drop(mine);
    no_copies(&world).await;
    assert!(!world.modules().join("blobs").exists());
}

#[tokio::test]
async fn what_is_put_from_outside_is_read_and_one_that_is_deleted_meanwhile_is_named() {
    let world = World::new().await;
    let digest = world.put(b"from outside").await;
    let blobs = world.blobs(1 << 20);
    assert_eq!(blobs.open(digest).await, Ok(12));
    assert_eq!(blobs.read(digest, 5..12).await.unwrap(), &b"outside"[..]);
    world.broker.delete_blob(&tenant(), digest).await.unwrap();
    world.store.delete_blob(&tenant(), &digest).await.unwrap();
    assert_eq!(blobs.read(digest, 0..1).await, Err(BlobError::Deleted));
    assert_eq!(blobs.open(digest).await, Err(BlobError::NotFound));
}

#[tokio::test]
async fn a_blob_is_limited_by_its_size_and_by_what_the_tenant_has_left() {
    let world = World::new().await;
    let blobs = world.blobs(1_000);
    assert_eq!(write(&blobs, &[&[0; 600], &[0; 401]]).await, Err(BlobError::TooLarge(1_000)));
    let limits = StorageLimits { blobs: 900, ..StorageLimits::default() };
    world.broker.set_storage_limits(&tenant(), limits).await.unwrap();
    assert!(matches!(write(&blobs, &[&[0; 901]]).await, Err(BlobError::Quota(_))));
    write(&blobs, &[&[0; 900]]).await.unwrap();
    assert!(matches!(write(&blobs, &[b"x"]).await, Err(BlobError::Quota(_))), "its own count too");
    drop(blobs);
    no_copies(&world).await;
}
