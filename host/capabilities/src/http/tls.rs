//! TLS towards servers: the system's authorities, or those of a file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, sync::OnceCell};
use tokio_rustls::{TlsConnector, client::TlsStream};
use umbel_model::permission::Host;
use umbel_tls::{Refusal, Trust, client_config};

use crate::http::error::HttpError;

pub(crate) struct Tls {
    trust: Trust,
    /// Made at the first request: reading the system's authorities takes milliseconds.
    connector: OnceCell<TlsConnector>,
}

impl Tls {
    pub(crate) fn new(ca_file: Option<PathBuf>) -> Self {
        Self { trust: ca_file.map_or(Trust::System, Trust::File), connector: OnceCell::new() }
    }

    /// The handshake; the server must prove the name or the address of the URL.
    pub(crate) async fn handshake(&self, host: &Host, stream: TcpStream) -> Result<TlsStream<TcpStream>, HttpError> {
        let connector = self.connector.get_or_try_init(|| connector(self.trust.clone())).await?;
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

async fn connector(trust: Trust) -> Result<TlsConnector, HttpError> {
    let config = tokio::task::spawn_blocking(move || client_config(&trust, None));
    let mut config = config.await.map_err(|_| HttpError::Stopping)?.map_err(authorities)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn authorities(error: umbel_tls::Error) -> HttpError {
    HttpError::Authorities(error.to_string())
}

/// Checks that a file of authorities can be used, so that a mistake is told at the start and not at the first request.
pub fn check_ca_file(file: &Path) -> Result<(), HttpError> {
    client_config(&Trust::File(file.to_owned()), None).map(drop).map_err(authorities)
}

/// What the handshake failed with, in words.
fn failed(error: &std::io::Error) -> HttpError {
    match Refusal::of(error) {
        None => HttpError::Tls(HttpError::text(error)),
        Some(refusal @ Refusal::UnknownIssuer) => HttpError::Certificate(format!(
            "{refusal}; an operator names authorities of their own by --http-ca-file of the worker, `umbel dev` or `umbel run`"
        )),
        Some(
            refusal @ (Refusal::Expired { .. }
            | Refusal::NotYetValid { .. }
            | Refusal::WrongName { .. }
            | Refusal::NotAServers
            | Refusal::Certificate(_)),
        ) => HttpError::Certificate(HttpError::text(refusal)),
        Some(other) => HttpError::Tls(HttpError::text(other)),
    }
}
