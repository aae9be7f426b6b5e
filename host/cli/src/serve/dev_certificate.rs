//! The certificate of `umbel dev --tls`: for this machine, from an authority that is made with it and whose key is thrown away.
//!
//! Both are made anew, together, before they expire. Client verbs find the authority by the profile.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use umbel_tls::{ServerCertificate, authority::Authority};

use super::web;
use crate::{Failure, Result};

/// Names by which a client of this machine may call the server.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// How long a certificate is good, days; its authority a little longer.
const DAYS: i64 = 397;
/// It is made anew when it is good for less than this.
const LEAST: Duration = Duration::from_secs(30 * 86_400);
const LOOK_EVERY: Duration = Duration::from_secs(3_600);

/// The files in the data folder, and the certificate as it is served.
#[derive(Debug)]
pub struct DevCertificate {
    folder: PathBuf,
    served: Arc<ServerCertificate>,
}

impl DevCertificate {
    /// Reads the certificate of this data folder, or makes one.
    pub fn open(data: &Path) -> Result<Self> {
        let folder = data.join("tls");
        let [_, certificate, key] = files(&folder);
        let load = || web::certificate(&certificate, &key);
        let served = match load().ok().filter(|known| files(&folder)[0].exists() && !ends_soon(known)) {
            Some(known) => known,
            None => {
                make(&folder)?;
                load()?
            }
        };
        tokio::spawn(renew(folder.clone(), Arc::downgrade(&served)));
        Ok(Self { folder, served })
    }

    /// What the server answers with.
    pub fn served(&self) -> Arc<ServerCertificate> {
        self.served.clone()
    }

    /// The certificate of the authority, a PEM file for clients.
    pub fn authority(&self) -> PathBuf {
        let [authority, ..] = files(&self.folder);
        authority
    }
}

/// The authority's certificate, the server's, and its key.
fn files(folder: &Path) -> [PathBuf; 3] {
    ["ca.pem", "cert.pem", "key.pem"].map(|name| folder.join(name))
}

fn ends_soon(certificate: &ServerCertificate) -> bool {
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + LEAST;
    certificate.ends().is_none_or(|ends| u64::try_from(ends).unwrap_or(0) < soon.as_secs())
}

/// Makes new files before the certificate ends, until nobody serves it any more. The server notices them by itself.
async fn renew(folder: PathBuf, served: Weak<ServerCertificate>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(served) = served.upgrade() else { return };
        if ends_soon(&served)
            && let Err(failure) = make(&folder)
        {
            tracing::error!(error = failure.message, "the certificate ends soon, and no new one can be made");
        }
    }
}

fn make(folder: &Path) -> Result {
    let not_issued = |error: umbel_tls::Error| Failure::new("certificate", error.to_string());
    // People tell one from another in a browser's list by the day.
    let name = format!("umbel dev {}", Timestamp::now().strftime("%Y-%m-%d"));
    let authority = Authority::new(&name, DAYS + 3).map_err(not_issued)?;
    let issued = authority.server(&NAMES, -1..DAYS).map_err(not_issued)?;
    let write = || -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let texts = [authority.certificate(), &issued.certificate, &issued.key];
        files(folder).iter().zip(texts).try_for_each(|(file, text)| replace(file, text))
    };
    write().map_err(|error| Failure::new("data_folder", format!("{} cannot be written: {error}", folder.display())))
}

/// Writes a file for its owner only, never half.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let temporary = file.with_extension("new");
    // One left by a crash may have other permissions.
    let _ = fs::remove_file(&temporary);
    let mut new = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    new.write_all(text.as_bytes())?;
    fs::rename(&temporary, file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_certificate_is_kept_until_it_ends_soon_or_a_part_of_it_is_gone() {
        let data = tempfile::tempdir().unwrap();
        let open = || {
            let opened = DevCertificate::open(data.path()).unwrap();
            assert!(!ends_soon(&opened.served()));
            fs::read_to_string(opened.authority()).unwrap()
        };
        let first = open();
        assert_eq!(open(), first);
        let [authority, certificate, key] = files(&data.path().join("tls"));
        for file in [&authority, &certificate, &key] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::remove_file(&authority).unwrap();
        let second = open();
        assert_ne!(second, first);
        let old = Authority::new("old", 20).unwrap().server(&NAMES, -1..20).unwrap();
        fs::write(&certificate, &old.certificate).unwrap();
        fs::write(&key, &old.key).unwrap();
        assert_ne!(open(), second, "it would end within a month");
    }
}
