//! TLS towards servers: rustls with the system's authorities, or with those of a file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, sync::OnceCell};
use tokio_rustls::{TlsConnector, client::TlsStream};
use umbel_model::permission::Host;

use crate::http::error::HttpError;

pub(crate) struct Tls {
    ca_file: Option<PathBuf>,
    /// Made at the first request: reading the system's authorities takes milliseconds.
    connector: OnceCell<TlsConnector>,
}

impl Tls {
    pub(crate) fn new(ca_file: Option<PathBuf>) -> Self {
        Self { ca_file, connector: OnceCell::new() }
    }

    /// The handshake; the server must prove the name or the address of the URL.
    pub(crate) async fn handshake(&self, host: &Host, stream: TcpStream) -> Result<TlsStream<TcpStream>, HttpError> {
        let connector = self.connector.get_or_try_init(|| connector(self.ca_file.clone())).await?;
        let name = match host {
            Host::Address(address) => ServerName::IpAddress(address.to_canonical().into()),
            Host::Name(name) => {
                let name = ServerName::try_from(name.clone());
                name.map_err(|_| HttpError::InvalidUrl("its host is no name that a certificate can have".into()))?
            }
        };
        connector.connect(name, stream).await.map_err(|error| failed(&error))
    }
}

async fn connector(ca_file: Option<PathBuf>) -> Result<TlsConnector, HttpError> {
    let roots = tokio::task::spawn_blocking(move || match ca_file {
        Some(file) => of_file(&file),
        None => Ok(of_system()),
    });
    let roots = roots.await.map_err(|_| HttpError::Stopping)??;
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| HttpError::Tls(HttpError::text(e)))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The authorities of a PEM file: all of them must be usable, and there must be one.
fn of_file(file: &Path) -> Result<RootCertStore, HttpError> {
    let problem = |what: String| HttpError::Authorities(format!("{}: {what}", file.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| problem(e.to_string()))? {
        let certificate = certificate.map_err(|e| problem(e.to_string()))?;
        roots.add(certificate).map_err(|e| problem(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(problem("it has no certificate in PEM".to_owned()));
    }
    Ok(roots)
}

/// Checks that a file of authorities can be used, so that a mistake is told at the start and not at the first request.
pub fn check_ca_file(file: &Path) -> Result<(), HttpError> {
    of_file(file).map(|_| ())
}

fn of_system() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!(
            errors = ?found.errors, "the system has no certificates of authorities, so HTTPS requests of guests fail; \
             install ca-certificates or give --http-ca-file"
        );
    }
    roots
}

/// What the handshake failed with, in words.
fn failed(error: &std::io::Error) -> HttpError {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return HttpError::Tls(HttpError::text(error));
    };
    match error {
        rustls::Error::InvalidCertificate(error) => HttpError::Certificate(match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "it is not valid yet".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "it is for another name".to_owned()
            }
            // A wrong signature: by another authority of the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "no known authority has signed it".to_owned()
            }
            other => HttpError::text(other),
        }),
        other => HttpError::Tls(HttpError::text(other)),
    }
}
