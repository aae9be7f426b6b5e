//! Whom a client trusts, and how it proves who it is.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use crate::{Error, pem, provider};

/// The authorities whose certificates are accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those of the operating system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
    #[default]
    System,
    /// Those in a PEM file, and no others.
    File(PathBuf),
}

/// A client's certificate and its key, PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Trust {
    /// Reads the authorities; those of the system once in a process, because that takes milliseconds.
    fn roots(&self) -> Result<Arc<RootCertStore>, Error> {
        static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
        match self {
            Self::File(file) => {
                let mut roots = RootCertStore::empty();
                for certificate in pem::certificates(file)? {
                    let why = "a certificate in it cannot be understood".into();
                    roots.add(certificate).map_err(|_| Error::Damaged { file: file.clone(), why })?;
                }
                Ok(roots.into())
            }
            Self::System => {
                if let Some(roots) = SYSTEM.get() {
                    return Ok(roots.clone());
                }
                let roots = system()?;
                Ok(SYSTEM.get_or_init(|| roots).clone())
            }
        }
    }
}

/// One file among many that cannot be read takes nothing from the others.
fn system() -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(Error::NoSystemRoots) } else { Ok(roots.into()) }
}

fn builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    builder.expect("ring has what both versions of TLS need")
}

/// How a client connects: whom it trusts, and its own certificate if the server wants one. Reads files.
///
/// # Errors
/// A file cannot be read or used, or the system has no list of authorities.
pub fn client_config(trust: &Trust, identity: Option<&Identity>) -> Result<ClientConfig, Error> {
    let builder = builder().with_root_certificates(trust.roots()?);
    let Some(Identity { certificate, key }) = identity else { return Ok(builder.with_no_client_auth()) };
    let (chain, secret) = (pem::certificates(certificate)?, pem::key(key)?);
    builder.with_client_auth_cert(chain, secret).map_err(|error| unusable(certificate.clone(), key.clone(), &error))
}

/// For plain connections of a library that wants a configuration all the same: reads nothing and trusts nobody.
pub fn trusts_nobody() -> ClientConfig {
    builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}

/// What to say of a certificate and a key that the library refused.
pub(crate) fn unusable(certificate: PathBuf, key: PathBuf, error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InconsistentKeys(_) => Error::KeyMismatch { certificate, key },
        rustls::Error::InvalidCertificate(_) => {
            Error::Damaged { file: certificate, why: "its first certificate cannot be understood".into() }
        }
        // The key's kind, or its encoding.
        other => Error::Unusable { certificate, why: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Authority, self_signed};

    #[test]
    fn a_clients_key_that_belongs_to_another_certificate_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let authority = Authority::new("a", 10).unwrap();
        let trust = Trust::File(write("ca.pem", authority.certificate()));
        let (one, other) = (authority.client("one", -1..5).unwrap(), self_signed(&["x"], -1..5).unwrap());
        let certificate = write("one.pem", &one.certificate);
        let fits = Identity { certificate: certificate.clone(), key: write("one.key", &one.key) };
        client_config(&trust, Some(&fits)).unwrap();
        let strange = Identity { certificate, key: write("other.key", &other.key) };
        let why = client_config(&trust, Some(&strange)).unwrap_err().to_string();
        assert!(why.contains("other.key does not belong to the certificate in") && !why.contains(&other.key), "{why}");
    }
}
