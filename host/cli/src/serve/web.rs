//! Starts the part of a process that answers HTTP.

use std::{net::SocketAddr, sync::Arc};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use umbel_api::{Api, ApiConfig};
use umbel_broker::Broker;
use umbel_modules::ModuleStore;
use umbel_worker::Runtime;

use crate::failure::{Exit, Failure};

/// The API while it runs.
pub struct Web {
    pub address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Takes the address. Done first, so that a taken port is known before anything else starts.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let failure = Failure::new("listen", format!("{address} cannot be listened on: {error}"));
        match error.kind() {
            std::io::ErrorKind::AddrInUse => failure
                .exit(Exit::Conflict)
                .help("another process has the port: choose one with --port or --listen, 0 picks a free one"),
            _ => failure,
        }
    })
}

/// Starts answering.
pub fn start(
    listener: TcpListener,
    broker: Arc<dyn Broker>,
    store: ModuleStore,
    runtime: Runtime,
) -> Result<Web, Failure> {
    let address = listener.local_addr().map_err(|e| Failure::new("listen", e.to_string()))?;
    let api = Api::new(ApiConfig::default(), broker, store, Arc::new(runtime));
    let router = umbel_api::router(api);
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let task = tokio::spawn(async move {
        if let Err(error) = umbel_api::serve(listener, router, stopped).await {
            tracing::error!(%error, "the API ended");
        }
    });
    Ok(Web { address, stop, task })
}

impl Web {
    /// The address for clients on this machine.
    pub fn url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        format!("http://{address}")
    }

    /// Stops listening, and lets the requests under way end for a moment.
    pub async fn stop(self) {
        self.stop.cancel();
        let abort = self.task.abort_handle();
        if tokio::time::timeout(std::time::Duration::from_secs(5), self.task).await.is_err() {
            abort.abort();
        }
    }
}
