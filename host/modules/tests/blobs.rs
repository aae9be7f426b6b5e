//! Blobs of tenants on a real folder.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};

use futures::{FutureExt as _, TryStreamExt as _};
use umbel_model::{Digest, TenantId};
use umbel_modules::{BLOB_PIECE_BYTES, Error, ModuleStore, WrittenBlob};

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

async fn written(store: &ModuleStore, bytes: &[u8]) -> WrittenBlob {
    let mut upload = store.blob_upload(bytes.len() as u64).await.unwrap();
    for piece in bytes.chunks(100_000) {
        upload.write(piece).await.unwrap();
    }
    upload.finish().await.unwrap()
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, |files| files.count())
}

/// Copies are deleted behind the caller's back.
async fn until_gone(folder: &Path) {
    let gone = async {
        while files(folder) > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("a copy is left");
}

#[tokio::test]
async fn a_blob_comes_back_in_ranges_to_its_own_tenant_and_to_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let bytes = pattern(3 * BLOB_PIECE_BYTES + 17);
    let blob = written(&store, &bytes).await;
    assert_eq!((blob.digest, blob.size_bytes), (Digest::of(&bytes), bytes.len() as u64));
    let (a, b, digest) = (tenant("a"), tenant("b"), blob.digest);
    assert_eq!(store.blob_size(&a, &digest).await.unwrap(), None);
    assert_eq!(blob.range(5..9).await.unwrap(), bytes[5..9]);
    blob.publish(&a).await.unwrap();
    drop(blob);
    until_gone(&folder.path().join("blob-uploads")).await;
    assert_eq!(store.blob_size(&a, &digest).await.unwrap(), Some(bytes.len() as u64));
    let pieces: Vec<_> = store.blob_pieces(&a, &digest, 1..bytes.len() as u64).try_collect().await.unwrap();
    assert_eq!(pieces.len(), 4);
    assert_eq!(pieces.concat(), bytes[1..]);
    assert_eq!(store.blob_range(&a, &digest, 250_000..300_000).await.unwrap(), bytes[250_000..300_000]);
    assert_eq!(store.blob_range(&a, &digest, 7..7).await.unwrap().len(), 0);
    assert!(matches!(store.blob_range(&b, &digest, 0..1).await, Err(Error::BlobMissing(_))));
    let all: Vec<_> = store.blobs().try_collect().await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((&all[0].tenant, all[0].digest, all[0].bytes), (&a, digest, bytes.len() as u64));
    assert!(store.has_blobs(&a).await.unwrap() && !store.has_blobs(&b).await.unwrap());
}

#[tokio::test]
async fn an_upload_that_is_too_large_or_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let mut upload = store.blob_upload(1_000_000).await.unwrap();
    upload.write(&pattern(600_000)).await.unwrap();
    let refused = upload.write(&pattern(600_000)).await;
    assert!(matches!(refused, Err(Error::BlobTooLarge { max_bytes: 1_000_000 })));
    drop(upload);
    drop(written(&store, b"nobody wants it").await);
    until_gone(&folder.path().join("blob-uploads")).await;
    assert!(!folder.path().join("blobs").exists());
}

#[tokio::test]
async fn a_finish_that_is_broken_off_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let mut upload = store.blob_upload(1_000_000).await.unwrap();
    upload.write(&pattern(600_000)).await.unwrap();
    assert!(upload.finish().now_or_never().is_none(), "polled once and dropped");
    // Its file is under one name or the other until it is deleted.
    let uploads = folder.path().join("blob-uploads");
    assert_eq!(files(&uploads), 1);
    until_gone(&uploads).await;
}

#[tokio::test]
async fn a_deletion_does_not_take_bytes_that_have_a_record_by_then() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let (a, blob) = (tenant("a"), written(&store, b"some").await);
    blob.publish(&a).await.unwrap();
    let has_record = async { Ok::<_, ()>(true) };
    store.delete_blob_unless(&a, &blob.digest, has_record).await.unwrap().unwrap();
    assert_eq!(store.blob_range(&a, &blob.digest, 0..4).await.unwrap(), &b"some"[..]);
    let failed = store.delete_blob_unless(&a, &blob.digest, async { Err("no broker") }).await.unwrap();
    assert_eq!(failed, Err("no broker"));
    assert_eq!(store.blob_size(&a, &blob.digest).await.unwrap(), Some(4));
    // The deletion saw no record, and its maker comes behind it.
    let has_none = async { Ok::<_, ()>(false) };
    store.delete_blob_unless(&a, &blob.digest, has_none).await.unwrap().unwrap();
    assert!(matches!(store.blob_range(&a, &blob.digest, 0..4).await, Err(Error::BlobMissing(_))));
    blob.publish_again(&a).await.unwrap();
    assert_eq!(store.blob_size(&a, &blob.digest).await.unwrap(), Some(4));
    store.delete_blob(&a, &blob.digest).await.unwrap();
    store.delete_blob(&a, &blob.digest).await.unwrap();
    let nothing = async { panic!("nothing is there that a record could be for") };
    store.delete_blob_unless::<()>(&a, &blob.digest, nothing).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_process_left_that_died_is_cleared_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let (a, blob) = (tenant("a"), written(&store, b"some").await);
    blob.publish(&a).await.unwrap();
    // It died while the bytes were aside.
    let asked = tokio::sync::Notify::new();
    let never = async {
        asked.notify_one();
        std::future::pending::<Result<bool, ()>>().await
    };
    tokio::select! {
        _ = store.delete_blob_unless(&a, &blob.digest, never) => panic!("it never got an answer"),
        () = asked.notified() => {}
    }
    assert_eq!(store.blob_size(&a, &blob.digest).await.unwrap(), None);
    let uploads = folder.path().join("blob-uploads");
    let old = fs::File::create(uploads.join("old")).unwrap();
    old.set_modified(std::time::SystemTime::now() - Duration::from_secs(26 * 3_600)).unwrap();
    store.recover_blobs().await.unwrap();
    assert_eq!(store.blob_size(&a, &blob.digest).await.unwrap(), Some(4));
    // The one that is held.
    assert_eq!(files(&uploads), 1);
}
