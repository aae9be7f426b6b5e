//! The certificate of a server, and its replacement while it serves.
//!
//! Invariants: a pair that cannot be used never takes the place of one that can; a connection keeps the pair that it began with,
//! so nothing is cut off; after a replacement no session is resumed, so that every new connection sees the new certificate.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
    time::{Duration, SystemTime},
};

use rustls::ServerConfig;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{Error, pem, provider, trust::unusable};

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two warnings that a certificate has expired, or soon will have.
const WARN_EVERY: Duration = Duration::from_secs(86_400);
/// How long before its end it is warned of.
const SOON_SECONDS: i64 = 14 * 86_400;

/// A certificate and its key in two files, as they were when they last could be used.
pub struct ServerCertificate {
    certificate: PathBuf,
    key: PathBuf,
    /// Protocols above TLS, the preferred one first.
    protocols: Vec<Vec<u8>>,
    current: RwLock<Loaded>,
    seen: Mutex<Seen>,
}

#[derive(Clone)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// Seconds since 1970; none if the certificate does not say.
    ends: Option<i64>,
}

/// What tells that a file was changed: its time, length and identity.
type Stamp = [Option<(SystemTime, u64, u64, u64)>; 2];

/// What the last looks at the files saw.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// As it was loaded, or tried.
    tried: Stamp,
    last: Stamp,
}

impl Seen {
    /// Whether to load the files: they are not what was tried, and have not changed since the look before. The two files of a
    /// pair are written one after the other.
    fn is_time(&mut self, now: Stamp) -> bool {
        let is_still = std::mem::replace(&mut self.last, now) == now;
        let is_time = is_still && self.tried != now;
        if is_time {
            self.tried = now;
        }
        is_time
    }
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerCertificate").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl ServerCertificate {
    /// Loads a certificate with the chain behind it, and its key. `protocols` are offered by ALPN, such as `http/1.1`.
    ///
    /// # Errors
    /// A file cannot be read, or both do not belong together.
    pub fn load(certificate: &Path, key: &Path, protocols: &[&str]) -> Result<Arc<Self>, Error> {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        // Before they are read: what is written meanwhile is seen as a change.
        let stamp = [certificate, key].map(stamp);
        let loaded = loaded(certificate, key, &protocols)?;
        let seen = Mutex::new(Seen { tried: stamp, last: stamp });
        let (certificate, key, current) = (certificate.to_owned(), key.to_owned(), RwLock::new(loaded));
        Ok(Arc::new(Self { certificate, key, protocols, current, seen }))
    }

    /// What a new connection is answered with.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current().config
    }

    fn current(&self) -> Loaded {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When it ends, seconds since 1970; none if it does not say.
    pub fn ends(&self) -> Option<i64> {
        self.current().ends
    }

    /// Looks at the files once a second and loads what was changed, until nobody uses this any more.
    pub async fn follow(this: Weak<Self>) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut warned: Option<Instant> = None;
        loop {
            ticks.tick().await;
            let Some(this) = this.upgrade() else { return };
            // Files may be on a slow network.
            let looked = tokio::task::spawn_blocking(move || {
                let replaced = this.look();
                (replaced, this.ends())
            });
            let Ok((replaced, ends)) = looked.await else { return };
            if warned.is_none_or(|at| replaced || at.elapsed() >= WARN_EVERY) {
                warned = Some(Instant::now());
                warn_of_end(ends);
            }
        }
    }

    /// Loads the files if they were changed; whether they took the place of those before.
    fn look(&self) -> bool {
        let now = [&self.certificate, &self.key].map(|file| stamp(file));
        if !self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_time(now) {
            return false;
        }
        match loaded(&self.certificate, &self.key, &self.protocols) {
            Ok(loaded) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
                tracing::info!(certificate = %self.certificate.display(), "the certificate was replaced");
                true
            }
            Err(error) => {
                tracing::error!(%error, "the new certificate is not used, and the one before stays; correct the files");
                false
            }
        }
    }
}

fn stamp(file: &Path) -> Option<(SystemTime, u64, u64, u64)> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino(), metadata.dev()))
}

fn loaded(certificate: &Path, key: &Path, protocols: &[Vec<u8>]) -> Result<Loaded, Error> {
    let (chain, secret) = (pem::certificates(certificate)?, pem::key(key)?);
    let ends = chain.first().and_then(|first| {
        let (_, read) = x509_parser::parse_x509_certificate(first).ok()?;
        Some(read.validity().not_after.timestamp())
    });
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.expect("ring has what both versions of TLS need");
    let config = builder.with_no_client_auth().with_single_cert(chain, secret);
    let mut config = config.map_err(|error| unusable(certificate.to_owned(), key.to_owned(), &error))?;
    config.alpn_protocols = protocols.to_vec();
    Ok(Loaded { config: Arc::new(config), ends })
}

fn warn_of_end(ends: Option<i64>) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let Some(left) = ends.map(|ends| ends.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX))) else { return };
    if left <= 0 {
        tracing::error!("the certificate has expired: clients refuse it; renew it, a new one is used within seconds");
    } else if left < SOON_SECONDS {
        tracing::warn!(
            days = left / 86_400,
            "the certificate expires soon; renew it, a new one is used within seconds"
        );
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::{
        Refusal, Trust,
        authority::{Authority, Issued, self_signed},
        client_config,
    };

    struct Files {
        folder: tempfile::TempDir,
        authority: Authority,
    }

    impl Files {
        fn new() -> Self {
            let this = Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new("tests", 400).unwrap() };
            fs::write(this.path("ca.pem"), this.authority.certificate()).unwrap();
            this
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, issued: &Issued) {
            fs::write(self.path("cert.pem"), &issued.certificate).unwrap();
            fs::write(self.path("key.pem"), &issued.key).unwrap();
        }

        fn load(&self) -> Result<Arc<ServerCertificate>, Error> {
            ServerCertificate::load(&self.path("cert.pem"), &self.path("key.pem"), &["http/1.1"])
        }

        /// What a client sees who trusts the authority: the certificate, or why it refuses it.
        async fn met(&self, server: &ServerCertificate) -> Result<Vec<u8>, Refusal> {
            let (near, far) = tokio::io::duplex(64 << 10);
            let acceptor = TlsAcceptor::from(server.config());
            let serving = tokio::spawn(async move { acceptor.accept(far).await.is_ok() });
            let config = client_config(&Trust::File(self.path("ca.pem")), None).unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let met = TlsConnector::from(Arc::new(config)).connect(name, near).await;
            let met = met.map_err(|error| Refusal::of(&error).expect("TLS refused it"))?;
            assert!(serving.await.unwrap());
            Ok(met.get_ref().1.peer_certificates().unwrap()[0].to_vec())
        }
    }

    #[tokio::test]
    async fn a_pair_that_fits_takes_the_place_of_the_one_before_and_another_does_not() {
        let files = Files::new();
        files.write(&files.authority.server(&["localhost"], -1..90).unwrap());
        let server = files.load().unwrap();
        let first = files.met(&server).await.unwrap();
        assert!(!server.look(), "nothing was changed");
        // The key is not there yet.
        let second = files.authority.server(&["localhost"], -1..91).unwrap();
        fs::write(files.path("cert.pem"), &second.certificate).unwrap();
        assert!(!server.look() && !server.look() && !server.look());
        assert_eq!(files.met(&server).await.unwrap(), first);
        fs::write(files.path("key.pem"), &second.key).unwrap();
        assert!(!server.look() && server.look() && !server.look());
        assert_ne!(files.met(&server).await.unwrap(), first);
        fs::remove_file(files.path("key.pem")).unwrap();
        assert!(!server.look() && !server.look());
        files.met(&server).await.unwrap();
        let days = (server.ends().unwrap() - jiff::Timestamp::now().as_second()) / 86_400;
        assert!((90..=91).contains(&days), "{days}");
    }

    #[tokio::test]
    async fn a_client_says_what_is_wrong_with_a_certificate() {
        let files = Files::new();
        let stranger = Authority::new("a stranger", 400).unwrap();
        let cases = [
            (files.authority.server(&["localhost"], -20..-2), "its certificate expired on 20"),
            (files.authority.server(&["localhost"], 2..20), "is not valid before 20"),
            (files.authority.server(&["elsewhere.example"], -1..20), "is for elsewhere.example, not for localhost"),
            (
                files.authority.server(&["10.1.2.3", "a.example"], -1..20),
                "is for 10.1.2.3, a.example, not for localhost",
            ),
            (stranger.server(&["localhost"], -1..20), "issued by nobody who is trusted here"),
            (self_signed(&["localhost"], -1..20), "may be self-signed"),
            (files.authority.client("localhost", -1..20), "not"),
        ];
        for (issued, expected) in cases {
            files.write(&issued.unwrap());
            let refusal = files.met(&files.load().unwrap()).await.unwrap_err();
            assert!(refusal.to_string().contains(expected), "{refusal} {expected}");
            assert!(refusal.is_final() && !refusal.help("--ca-file").is_empty());
        }
    }

    #[tokio::test]
    async fn a_self_signed_certificate_that_is_trusted_is_accepted() {
        let files = Files::new();
        let own = self_signed(&["localhost"], -1..20).unwrap();
        files.write(&own);
        fs::write(files.path("ca.pem"), &own.certificate).unwrap();
        files.met(&files.load().unwrap()).await.unwrap();
    }

    #[test]
    fn a_key_that_does_not_fit_is_refused_at_the_start() {
        let files = Files::new();
        files.write(&files.authority.server(&["localhost"], -1..90).unwrap());
        fs::write(files.path("key.pem"), &self_signed(&["x"], -1..9).unwrap().key).unwrap();
        let error = files.load().unwrap_err();
        assert!(matches!(error, Error::KeyMismatch { .. }), "{error}");
    }

    #[test]
    fn files_are_loaded_when_they_have_come_to_rest() {
        let at = |n: u64| [Some((SystemTime::UNIX_EPOCH, n, 0, 0)), None];
        let mut seen = Seen { tried: at(0), last: at(0) };
        let looks: Vec<bool> = [0, 1, 2, 2, 2, 0, 0].map(|n| seen.is_time(at(n))).into();
        assert_eq!(looks, [false, false, false, true, false, false, true]);
    }
}
