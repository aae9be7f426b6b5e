//! TLS, as the server, the clients and the broker on Redis use it: whom to trust, the certificate of a server and its replacement
//! while it serves, and what to say of a certificate that is refused.
//!
//! Invariants: one provider of cryptography, `ring`, which needs no default of the process; TLS 1.2 and 1.3 only; there is no
//! switch that turns the verification off; a key is in no message. This crate must not know HTTP, Redis or the command line.

#[cfg(any(test, feature = "authority"))]
pub mod authority;
mod pem;
mod refusal;
mod server;
mod trust;

use std::{path::PathBuf, sync::Arc};

use rustls::crypto::{CryptoProvider, ring};

pub use refusal::Refusal;
pub use server::ServerCertificate;
pub use trust::{Identity, Trust, client_config, trusts_nobody};

/// Bytes of a file of certificates or keys; the lists of whole systems have 250 KiB.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Why a file of certificates or keys cannot be used: which, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{} cannot be read: {why}", file.display())]
    Unreadable { file: PathBuf, why: String },
    #[error("{} has more than {} MiB; give a file with certificates only", file.display(), MAX_FILE_BYTES >> 20)]
    TooLarge { file: PathBuf },
    #[error("{} is damaged: {why}; write it anew as PEM", file.display())]
    Damaged { file: PathBuf, why: String },
    #[error("{} has no certificate; write it as PEM, which begins with -----BEGIN CERTIFICATE-----", file.display())]
    NoCertificate { file: PathBuf },
    #[error("{} has no private key; write it as PEM without a passphrase (-----BEGIN PRIVATE KEY-----)", file.display())]
    NoKey { file: PathBuf },
    #[error(
        "the key in {} does not belong to the certificate in {}, which must be the first one of its file; give the two that were \
         made together",
        key.display(), certificate.display()
    )]
    KeyMismatch { certificate: PathBuf, key: PathBuf },
    #[error("the certificate in {} and its key cannot be used: {why}", certificate.display())]
    Unusable { certificate: PathBuf, why: String },
    #[error(
        "this machine has no list of trusted authorities; install the package ca-certificates, or give the file of one"
    )]
    NoSystemRoots,
    #[cfg(any(test, feature = "authority"))]
    #[error("a certificate cannot be made: {0}")]
    NotIssued(String),
}

/// The one provider of cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Makes it the default of this process, for libraries that ask for one.
pub fn install_provider() {
    // Refused when there is one, which is the same.
    let _ = ring::default_provider().install_default();
}
