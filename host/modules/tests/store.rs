//! The module store on a real folder.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use bytes::Bytes;
use futures::stream;
use umbel_model::Digest;
use umbel_modules::{Error, ModuleStore};

const MAX: u64 = 10 << 20;

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path.display().to_string()) }
    }
    found
}

fn pieces(pieces: &[&'static [u8]]) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> + use<> {
    stream::iter(pieces.iter().map(|p| Ok(Bytes::from_static(p))).collect::<Vec<_>>())
}

#[tokio::test]
async fn bytes_that_were_taken_away_are_put_back_or_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let digest = store.put_bytes(Bytes::from_static(b"module"), 100).await.unwrap().digest;
    store.take_aside(&digest).await.unwrap();
    assert!(!store.exists(&digest).await.unwrap());
    store.take_aside(&digest).await.unwrap();
    let aside = store.aside(&digest).await.unwrap();
    assert_eq!(aside.len(), 1);
    store.put_back(&digest, &aside).await.unwrap();
    assert_eq!(store.get(&digest).await.unwrap(), "module");
    assert!(store.aside(&digest).await.unwrap().is_empty());
    // A push stored them again meanwhile.
    store.take_aside(&digest).await.unwrap();
    store.put_bytes(Bytes::from_static(b"module"), 100).await.unwrap();
    let aside = store.aside(&digest).await.unwrap();
    store.put_back(&digest, &aside).await.unwrap();
    assert!(store.exists(&digest).await.unwrap() && store.aside(&digest).await.unwrap().is_empty());
    store.take_aside(&digest).await.unwrap();
    store.delete_aside(&store.aside(&digest).await.unwrap()).await.unwrap();
    assert!(!store.exists(&digest).await.unwrap() && store.aside(&digest).await.unwrap().is_empty());
}

#[tokio::test]
async fn bytes_come_back_under_their_digest() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let stored = store.put(pieces(&[b"hel", b"", b"lo"]), MAX).await.unwrap();
    assert_eq!((stored.digest, stored.size_bytes), (Digest::of(b"hello"), 5));
    assert_eq!(store.get(&stored.digest).await.unwrap(), "hello");
    assert!(store.exists(&stored.digest).await.unwrap());
    // A second store on the same folder, as after a restart.
    let again = ModuleStore::local(folder.path()).await.unwrap();
    assert_eq!(again.get(&stored.digest).await.unwrap(), "hello");
}

#[tokio::test]
async fn the_same_bytes_twice_are_one_module() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let first = store.put(pieces(&[b"hello"]), MAX).await.unwrap();
    let second = store.put(pieces(&[b"h", b"ello"]), MAX).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(files(folder.path()).len(), 1);
}

#[tokio::test]
async fn a_large_module_is_streamed_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let whole: Vec<u8> = (0..5_000_001_u32).map(|n| (n % 251) as u8).collect();
    let parts: Vec<_> = whole.chunks(70_001).map(|c| Ok::<_, std::io::Error>(Bytes::copy_from_slice(c))).collect();
    let stored = store.put(stream::iter(parts), MAX).await.unwrap();
    assert_eq!(stored.digest, Digest::of(&whole));
    assert_eq!(store.get(&stored.digest).await.unwrap(), whole);
}

#[tokio::test]
async fn an_upload_over_the_limit_or_cut_off_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let error = store.put(pieces(&[b"hello", b"world"]), 9).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { max_bytes: 9 }), "{error}");
    let cut = stream::iter([Ok(Bytes::from_static(b"hel")), Err(std::io::Error::other("reset"))]);
    assert_eq!(store.put(cut, MAX).await.unwrap_err().code(), "upload_incomplete");
    assert_eq!(files(folder.path()), Vec::<String>::new());
    assert!(!store.exists(&Digest::of(b"hel")).await.unwrap());
}

#[tokio::test]
async fn an_upload_that_is_dropped_is_never_visible() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let some = stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![1; 2 << 20]))]);
    let put = store.put(futures::StreamExt::chain(some, stream::pending()), MAX);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(100), put).await.is_err());
    assert!(!folder.path().join("sha256").exists());
}

#[tokio::test]
async fn what_crashed_uploads_left_goes_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let uploads = folder.path().join("uploads");
    fs::create_dir(&uploads).unwrap();
    let (old, new) = (uploads.join("old#1"), uploads.join("new#1"));
    fs::write(&new, "another process writes this").unwrap();
    let file = fs::File::create(&old).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(7_200)).unwrap();
    ModuleStore::local(folder.path()).await.unwrap();
    assert!(!old.exists() && new.exists());
}

#[tokio::test]
async fn a_corrupted_blob_is_named_never_returned_and_repaired_by_a_new_upload() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let stored = store.put(pieces(&[b"hello"]), MAX).await.unwrap();
    let path = files(folder.path()).remove(0);
    for damaged in [&b"hellO"[..], b"hell", b"", b"hello again"] {
        fs::write(&path, damaged).unwrap();
        let error = store.get(&stored.digest).await.unwrap_err();
        assert_eq!(error.code(), "corrupted_blob");
        assert!(error.to_string().contains(&stored.digest.to_string()));
    }
    store.put(pieces(&[b"hello"]), MAX).await.unwrap();
    assert_eq!(store.get(&stored.digest).await.unwrap(), "hello");
}

#[tokio::test]
async fn what_is_not_there_is_missing_and_can_be_deleted_twice() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let digest = store.put(pieces(&[b"hello"]), MAX).await.unwrap().digest;
    store.delete(&digest).await.unwrap();
    store.delete(&digest).await.unwrap();
    assert!(!store.exists(&digest).await.unwrap());
    assert_eq!(store.get(&digest).await.unwrap_err().code(), "module_missing");
}

/// A runtime whose threads may not write where `root` may, so that permissions count even for root.
fn unprivileged() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        // SAFETY: changes the file system identity of this thread only.
        .on_thread_start(|| unsafe {
            libc::setfsuid(65_534);
        })
        .build()
        .unwrap()
}

#[test]
fn a_read_only_folder_is_a_clear_error_and_what_is_stored_stays_readable() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let stored = tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(async { ModuleStore::local(&path).await.unwrap().put(pieces(&[b"hello"]), MAX).await.unwrap() });
    fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).unwrap();
    let runtime = unprivileged();
    let task = runtime.spawn(async move {
        let store = ModuleStore::local(&path).await.unwrap();
        assert_eq!(store.get(&stored.digest).await.unwrap(), "hello");
        let error = store.put(pieces(&[b"more"]), MAX).await.unwrap_err();
        assert_eq!(error.code(), "storage_read_only", "{error}");
        assert!(error.to_string().contains("permission denied"), "{error}");
    });
    runtime.block_on(task).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn a_file_where_the_folder_should_be_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "x").unwrap();
    let error = ModuleStore::local(&path).await.unwrap_err();
    assert_eq!(error.code(), "storage_unavailable");
    assert!(error.to_string().contains("file"), "{error}");
}
