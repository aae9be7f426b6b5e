//! Starts the part of a process that answers HTTP.

use std::{net::SocketAddr, path::Path, sync::Arc};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use umbel_api::{Api, ApiConfig};
use umbel_broker::Broker;
use umbel_compose::TaskSource;
use umbel_modules::ModuleStore;
use umbel_tls::ServerCertificate;
use umbel_worker::Runtime;

use crate::{Exit, Failure, Result};

/// The API while it runs.
pub struct Web {
    pub address: SocketAddr,
    is_encrypted: bool,
    stop: CancellationToken,
    /// None once it was seen to end.
    task: Option<JoinHandle<()>>,
}

/// Takes the address. Done first, so that a taken port is known before anything else starts.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let failure = Failure::new("listen", format!("{address} cannot be listened on: {error}"));
        if error.kind() != std::io::ErrorKind::AddrInUse {
            return failure;
        }
        let help = "another process has the port: choose one with --port or --listen, 0 picks a free one";
        failure.exit(Exit::Conflict).help(help)
    })
}

/// The certificate in these files.
pub fn certificate(certificate: &Path, key: &Path) -> Result<Arc<ServerCertificate>> {
    // What the server below this speaks.
    let loaded = ServerCertificate::load(certificate, key, &["http/1.1"]);
    loaded.map_err(|error| Failure::new("certificate", error.to_string()).help("correct --tls-cert and --tls-key"))
}

/// Starts answering; with a certificate by https only. Answers also who knows the tasks.
pub fn start(
    listener: TcpListener,
    certificate: Option<Arc<ServerCertificate>>,
    broker: Arc<dyn Broker>,
    store: ModuleStore,
    runtime: Runtime,
    config: ApiConfig,
) -> Result<(Web, Arc<dyn TaskSource>)> {
    let address = listener.local_addr().map_err(|e| Failure::new("listen", e.to_string()))?;
    let api = Arc::new(Api::new(config, broker, store, Arc::new(runtime)));
    let tasks = umbel_api::task_source(&api);
    let router = umbel_api::router(api);
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let is_encrypted = certificate.is_some();
    if let Some(certificate) = &certificate {
        tokio::spawn(ServerCertificate::follow(Arc::downgrade(certificate)));
    }
    let task = tokio::spawn(async move {
        if let Err(error) = umbel_api::serve(listener, certificate, router, stopped).await {
            tracing::error!(%error, "the API ended");
        }
    });
    Ok((Web { address, is_encrypted, stop, task: Some(task) }, tasks))
}

impl Web {
    /// The address for clients on this machine.
    pub fn url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        format!("{}://{address}", if self.is_encrypted { "https" } else { "http" })
    }

    /// Waits until it has ended, also by a panic. Safe to drop at any await and to call again.
    pub async fn ended(&mut self) {
        if let Some(task) = &mut self.task {
            let _ = task.await;
            self.task = None;
        }
    }

    /// Stops listening, and lets the requests under way end for a moment.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let in_time = tokio::time::timeout(std::time::Duration::from_secs(5), self.ended()).await;
        if let (Err(_), Some(task)) = (in_time, self.task) {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::{signals::Signals, watch};

    #[tokio::test]
    async fn a_service_whose_api_ended_by_itself_ends_with_an_error() {
        let task = tokio::spawn(async { panic!("as the test wants") });
        let (address, stop) = (([127, 0, 0, 1], 1).into(), CancellationToken::new());
        let mut web = Web { address, is_encrypted: false, stop, task: Some(task) };
        let mut signals = Signals::listen().unwrap();
        let told = watch::until_told(&mut signals, None, Some(&mut web)).await;
        assert_eq!(told.unwrap_err().code, "api_ended");
        web.stop().await;
    }
}
