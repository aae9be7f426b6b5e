//! The host's secret: 32 random bytes in a file that only its user reads. It vouches for compiled code, so nothing
//! that a guest can reach ever sees it, and it is never logged.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::Error;

const KEY_BYTES: usize = 32;

/// Signs and verifies on behalf of this host.
#[derive(Clone)]
pub struct HostKey {
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostKey(secret)")
    }
}

impl HostKey {
    /// Reads the key at `path`, or makes one there. Two processes that start at once get the same key.
    pub fn load_or_create(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        match read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return Self::usable(path, other),
        }
        create(path).map_err(|e| Error::io(path, &e))?;
        Self::usable(path, read(path))
    }

    fn usable(path: &Path, key: io::Result<Vec<u8>>) -> Result<Self, Error> {
        let unusable = |problem: String| Error::HostKey { path: path.display().to_string(), problem };
        let key = key.map_err(|e| unusable(e.to_string()))?;
        if key.len() != KEY_BYTES {
            let problem = format!("it has {} bytes instead of {KEY_BYTES}; delete it to make a new one", key.len());
            return Err(unusable(problem));
        }
        let mac = Hmac::new_from_slice(&key).map_err(|e| unusable(e.to_string()))?;
        Ok(Self { mac })
    }

    /// A MAC over the parts, each with its length, so that no two lists of parts look the same.
    pub(crate) fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.over(parts).finalize().into_bytes().into()
    }

    /// Compares in constant time.
    pub(crate) fn verifies(&self, parts: &[&[u8]], mac: &[u8]) -> bool {
        self.over(parts).verify_slice(mac).is_ok()
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        let problem = format!("others may read or write it (mode {:o}); run chmod 600 on it", mode & 0o777);
        return Err(io::Error::other(problem));
    }
    let mut key = Vec::with_capacity(KEY_BYTES);
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut key)?;
    Ok(key)
}

/// Writes a key beside `path` and links it there, which only the first of several can.
fn create(path: &Path) -> io::Result<()> {
    let random = |into: &mut [u8]| getrandom::fill(into).map_err(|e| io::Error::other(e.to_string()));
    let (mut key, mut suffix) = ([0; KEY_BYTES], [0; 8]);
    random(&mut key)?;
    random(&mut suffix)?;
    let temporary = path.with_extension(format!("new-{}", hex::encode(suffix)));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&key)?;
        file.sync_all()?;
        match fs::hard_link(&temporary, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    })();
    let removed = fs::remove_file(&temporary);
    written?;
    removed?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => fs::File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_for_its_user() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.key");
        let mac = HostKey::load_or_create(&path).unwrap().sign(&[b"x"]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = HostKey::load_or_create(&path).unwrap();
        assert!(again.verifies(&[b"x"], &mac));
        assert!(!again.verifies(&[b"y"], &mac) && !again.verifies(&[b"x"], &mac[..31]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(format!("{again:?}"), "HostKey(secret)");
    }

    #[test]
    fn processes_that_race_get_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.key");
        let macs: Vec<_> = std::thread::scope(|scope| {
            let spawn = |_| scope.spawn(|| HostKey::load_or_create(&path).unwrap().sign(&[b"x"]));
            let threads: Vec<_> = (0..8).map(spawn).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(macs.iter().all(|mac| *mac == macs[0]));
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_cut_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.key");
        HostKey::load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = HostKey::load_or_create(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"short").unwrap();
        assert_eq!(HostKey::load_or_create(&path).unwrap_err().code(), "host_key");
    }

    #[test]
    fn parts_cannot_be_shifted_into_one_another() {
        let folder = tempfile::tempdir().unwrap();
        let key = HostKey::load_or_create(folder.path().join("k")).unwrap();
        assert_ne!(key.sign(&[b"ab", b"c"]), key.sign(&[b"a", b"bc"]));
    }
}
