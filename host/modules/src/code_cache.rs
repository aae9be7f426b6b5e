//! Compiled code by (digest, engine fingerprint), signed by the host's key. Native code can do anything in the process that
//! loads it, so this cache returns no code without a valid MAC.
//!
//! A file: `MAGIC`, 32 bytes of MAC, the code. The MAC covers the magic, the fingerprint, the digest and the code. A file
//! beside it names the tenant whose module it was first; it decides only who gives way in a full cache.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use sha2::{Digest as _, Sha256};
use umbel_model::{Digest, TenantId};

use crate::{Error, HostKey, gives_way};

/// All compiled code of a host together, unless the operator says otherwise, bytes.
pub const DEFAULT_MAX_CODE_BYTES: u64 = 2 << 30;

const MAGIC: &[u8; 16] = b"umbel-code-v001\n";
const MAC_BYTES: usize = 32;
const HEAD_BYTES: usize = MAGIC.len() + MAC_BYTES;
const SUFFIX: &str = "code";
/// Of the file with the tenant's name.
const TENANT_SUFFIX: &str = "tenant";

/// A folder of signed native code, bounded in size. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CodeCache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    key: HostKey,
    max_bytes: u64,
}

impl CodeCache {
    /// Opens `folder`, which is created if it is missing. When the files together are larger than `max_bytes`, the least
    /// recently used of the tenant that has the most are deleted.
    pub fn open(folder: impl Into<PathBuf>, key: HostKey, max_bytes: u64) -> Result<Self, Error> {
        let folder = folder.into();
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, &e))?;
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&folder, private).map_err(|e| Error::io(&folder, &e))?;
        Ok(Self { inner: Arc::new(Inner { folder, key, max_bytes }) })
    }

    /// The code of a module for an engine, if its MAC is right. A file with a wrong MAC is deleted and a warning logged; the
    /// caller compiles again.
    pub async fn get(&self, digest: &Digest, fingerprint: &str) -> Option<Vec<u8>> {
        let (inner, digest, fingerprint) = (self.inner.clone(), *digest, fingerprint.to_owned());
        tokio::task::spawn_blocking(move || inner.get(&digest, &fingerprint)).await.ok().flatten()
    }

    /// Keeps code that came from this host's own compiler, for a module of `tenant`.
    pub async fn put(&self, tenant: &TenantId, digest: &Digest, fingerprint: &str, code: Vec<u8>) -> Result<(), Error> {
        let (inner, tenant, digest, fingerprint) =
            (self.inner.clone(), tenant.clone(), *digest, fingerprint.to_owned());
        let lost = |problem: String| Error::Unavailable { path: self.inner.folder.display().to_string(), problem };
        let put = tokio::task::spawn_blocking(move || inner.put(&tenant, &digest, &fingerprint, &code));
        put.await.map_err(|e| lost(e.to_string()))?
    }
}

impl Inner {
    fn path(&self, digest: &Digest, fingerprint: &str) -> PathBuf {
        let engine = hex::encode(&Sha256::digest(fingerprint.as_bytes())[..8]);
        self.folder.join(format!("{}-{engine}.{SUFFIX}", digest.hex()))
    }

    fn get(&self, digest: &Digest, fingerprint: &str) -> Option<Vec<u8>> {
        let path = self.path(digest, fingerprint);
        let mut file = fs::File::open(&path).ok()?;
        match self.read(&mut file, digest, fingerprint) {
            Ok(code) => {
                // The time of last use, for the eviction; a file system that refuses this only makes it less exact.
                let _ = file.set_modified(SystemTime::now());
                Some(code)
            }
            Err(problem) => {
                tracing::warn!(%digest, problem, "compiled code is not what this host wrote: it is deleted and made anew");
                if let Err(error) = fs::remove_file(&path) {
                    tracing::warn!(%digest, %error, "compiled code that cannot be trusted cannot be deleted either");
                }
                None
            }
        }
    }

    /// Reads the file once and checks the bytes that it returns: a later change on the disk does not matter.
    fn read(&self, file: &mut fs::File, digest: &Digest, fingerprint: &str) -> Result<Vec<u8>, String> {
        let mut head = [0; HEAD_BYTES];
        file.read_exact(&mut head).map_err(|e| e.to_string())?;
        let (magic, mac) = head.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err("it is not a file of this cache".into());
        }
        let size = file.metadata().map_err(|e| e.to_string())?.len();
        if size > self.max_bytes.saturating_add(HEAD_BYTES as u64) {
            return Err("it is larger than the whole cache may be".into());
        }
        let mut code = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.read_to_end(&mut code).map_err(|e| e.to_string())?;
        let digest = digest.to_string();
        let signed = self.key.verifies(&[MAGIC, fingerprint.as_bytes(), digest.as_bytes(), &code], mac);
        signed.then_some(code).ok_or_else(|| "its MAC is wrong".into())
    }

    fn put(&self, tenant: &TenantId, digest: &Digest, fingerprint: &str, code: &[u8]) -> Result<(), Error> {
        if code.len() as u64 + HEAD_BYTES as u64 > self.max_bytes {
            return Err(Error::TooLarge { max_bytes: self.max_bytes });
        }
        let path = self.path(digest, fingerprint);
        let name = digest.to_string();
        let mac = self.key.sign(&[MAGIC, fingerprint.as_bytes(), name.as_bytes(), code]);
        // First, so that no file of code is there without an owner.
        let owner = path.with_extension(TENANT_SUFFIX);
        if !owner.exists() {
            fs::write(&owner, tenant.as_str()).map_err(|e| Error::io(&self.folder, &e))?;
        }
        self.write(&path, &mac, code).map_err(|e| Error::io(&self.folder, &e))?;
        if let Err(error) = self.evict(&path) {
            tracing::warn!(%error, "old compiled code cannot be deleted");
        }
        Ok(())
    }

    /// Under a temporary name, synced, read-only, renamed.
    fn write(&self, path: &Path, mac: &[u8], code: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix("new-").tempfile_in(&self.folder)?;
        file.write_all(MAGIC)?;
        file.write_all(mac)?;
        file.write_all(code)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o400))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        fs::File::open(&self.folder)?.sync_all()
    }

    /// Deletes files until the rest fits, but never `kept`; and what crashed writers left.
    fn evict(&self, kept: &Path) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Ok(meta) = entry.metadata() else { continue };
            let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let path = entry.path();
            if path.extension().is_none_or(|e| e != SUFFIX) {
                let crashed = used.elapsed().is_ok_and(|age| age.as_secs() > 3_600);
                let owns = path.extension().is_some_and(|e| e == TENANT_SUFFIX) && path.with_extension(SUFFIX).exists();
                if crashed && !owns {
                    let _ = fs::remove_file(&path);
                }
                continue;
            }
            if path != kept {
                files.push((used, meta.len(), path));
            }
        }
        let max_bytes = self.max_bytes.saturating_sub(fs::metadata(kept)?.len());
        if files.iter().map(|(_, size, _)| size).sum::<u64>() <= max_bytes {
            return Ok(());
        }
        files.sort();
        let owner = |path: &Path| fs::read_to_string(path.with_extension(TENANT_SUFFIX)).unwrap_or_default();
        let owners: Vec<String> = files.iter().map(|(_, _, path)| owner(path)).collect();
        let held: Vec<_> = files.iter().zip(&owners).map(|((_, size, _), owner)| (owner.as_str(), *size)).collect();
        for at in gives_way(&held, max_bytes) {
            let (_, _, path) = &files[at];
            fs::remove_file(path)?;
            let _ = fs::remove_file(path.with_extension(TENANT_SUFFIX));
        }
        Ok(())
    }
}
