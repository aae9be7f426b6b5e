//! The cache of compiled code against tampering.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use umbel_model::{Digest, TenantId};
use umbel_modules::{CodeCache, HostKey};

const ENGINE: &str = "wasmtime48-abc";

fn open(folder: &Path, max_bytes: u64) -> CodeCache {
    let key = HostKey::load_or_create(folder.join("host.key")).unwrap();
    CodeCache::open(folder.join("code"), key, max_bytes).unwrap()
}

/// Those with code.
fn files(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder.join("code")).unwrap().map(|e| e.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|e| e == "code")).collect()
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn writable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn code_comes_back_after_a_restart_only_for_its_module_and_engine() {
    let folder = tempfile::tempdir().unwrap();
    let digest = Digest::of(b"module");
    open(folder.path(), 1 << 20).put(&tenant("a"), &digest, ENGINE, b"code".to_vec()).await.unwrap();
    let cache = open(folder.path(), 1 << 20);
    assert_eq!(cache.get(&digest, ENGINE).await.unwrap(), b"code");
    assert_eq!(cache.get(&digest, "wasmtime49-abc").await, None);
    assert_eq!(cache.get(&Digest::of(b"other"), ENGINE).await, None);
    let mode = fs::metadata(&files(folder.path())[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o400);
}

#[tokio::test]
async fn a_tampered_or_truncated_file_is_deleted_and_never_returned() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 1 << 20);
    let digest = Digest::of(b"module");
    cache.put(&tenant("a"), &digest, ENGINE, b"native code".to_vec()).await.unwrap();
    let path = files(folder.path()).remove(0);
    let good = fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let mut longer = good.clone();
    longer.push(0);
    let tampered = [
        flipped(0),
        flipped(20),
        flipped(good.len() - 1),
        good[..good.len() - 1].to_vec(),
        good[..10].to_vec(),
        vec![],
        longer,
    ];
    for bytes in tampered {
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        assert_eq!(cache.get(&digest, ENGINE).await, None);
        assert!(!path.exists());
    }
    cache.put(&tenant("a"), &digest, ENGINE, b"native code".to_vec()).await.unwrap();
    assert_eq!(cache.get(&digest, ENGINE).await.unwrap(), b"native code");
}

#[tokio::test]
async fn code_of_one_module_put_under_the_name_of_another_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 1 << 20);
    let (mine, other) = (Digest::of(b"mine"), Digest::of(b"other"));
    cache.put(&tenant("a"), &mine, ENGINE, b"mine".to_vec()).await.unwrap();
    let stolen = fs::read(&files(folder.path())[0]).unwrap();
    cache.put(&tenant("a"), &other, ENGINE, b"other".to_vec()).await.unwrap();
    let path = files(folder.path()).into_iter().find(|p| p.display().to_string().contains(&other.hex())).unwrap();
    writable(&path);
    fs::write(&path, stolen).unwrap();
    assert_eq!(cache.get(&other, ENGINE).await, None);
    assert_eq!(cache.get(&mine, ENGINE).await.unwrap(), b"mine");
}

#[tokio::test]
async fn code_signed_by_another_host_is_refused() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let digest = Digest::of(b"module");
    open(there.path(), 1 << 20).put(&tenant("a"), &digest, ENGINE, b"evil".to_vec()).await.unwrap();
    let cache = open(here.path(), 1 << 20);
    let path = files(there.path()).remove(0);
    fs::copy(&path, here.path().join("code").join(path.file_name().unwrap())).unwrap();
    assert_eq!(cache.get(&digest, ENGINE).await, None);
}

#[tokio::test]
async fn the_code_used_longest_ago_goes_when_the_cache_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 3_500);
    let digests: Vec<Digest> = (0..4_u8).map(|n| Digest::of(&[n])).collect();
    for digest in &digests[..3] {
        cache.put(&tenant("a"), digest, ENGINE, vec![0; 1_000]).await.unwrap();
    }
    // All of them old, the second oldest of all; then the first is used.
    for (n, digest) in digests[..3].iter().enumerate() {
        let path = files(folder.path()).into_iter().find(|p| p.display().to_string().contains(&digest.hex())).unwrap();
        let age = Duration::from_secs(if n == 1 { 9_000 } else { 5_000 });
        fs::File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }
    assert!(cache.get(&digests[0], ENGINE).await.is_some());
    cache.put(&tenant("a"), &digests[3], ENGINE, vec![0; 1_000]).await.unwrap();
    assert!(cache.get(&digests[1], ENGINE).await.is_none());
    for n in [0, 2, 3] {
        assert!(cache.get(&digests[n], ENGINE).await.is_some(), "{n}");
    }
    assert_eq!(
        cache.put(&tenant("a"), &digests[1], ENGINE, vec![0; 10_000]).await.unwrap_err().code(),
        "module_too_large"
    );
}

#[tokio::test]
async fn a_tenant_that_fills_the_cache_drops_only_what_is_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 3_500);
    let quiet = Digest::of(b"quiet");
    cache.put(&tenant("quiet"), &quiet, ENGINE, vec![0; 1_000]).await.unwrap();
    fs::File::open(&files(folder.path())[0])
        .unwrap()
        .set_modified(SystemTime::now() - Duration::from_secs(9_000))
        .unwrap();
    for n in 0..10_u8 {
        cache.put(&tenant("loud"), &Digest::of(&[n]), ENGINE, vec![0; 1_000]).await.unwrap();
    }
    assert!(cache.get(&quiet, ENGINE).await.is_some());
    assert_eq!(files(folder.path()).len(), 3);
    assert_eq!(fs::read_dir(folder.path().join("code")).unwrap().count(), 6, "names of owners go with their code");
}

#[test]
fn a_read_only_cache_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let key = HostKey::load_or_create(folder.path().join("host.key")).unwrap();
    let cache = CodeCache::open(folder.path().join("code"), key, 1 << 20).unwrap();
    fs::set_permissions(folder.path().join("code"), fs::Permissions::from_mode(0o555)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        // SAFETY: changes the file system identity of this thread only; root would write anywhere.
        .on_thread_start(|| unsafe {
            libc::setfsuid(65_534);
        })
        .build()
        .unwrap();
    let task = runtime.spawn(async move { cache.put(&tenant("a"), &Digest::of(b"x"), ENGINE, b"code".to_vec()).await });
    let error = runtime.block_on(task).unwrap().unwrap_err();
    assert_eq!(error.code(), "storage_read_only", "{error}");
    fs::set_permissions(folder.path().join("code"), fs::Permissions::from_mode(0o755)).unwrap();
}
