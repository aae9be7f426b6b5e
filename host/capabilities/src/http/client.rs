//! The HTTP client of a process: settings, names, certificates, connections that wait, and what tenants use.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{runtime::Handle, time::Instant};

use crate::{
    grants::Effective,
    http::{
        addresses,
        config::HttpConfig,
        connect::{self, Open},
        error::HttpError,
        own::OwnAddresses,
        pool::{Key, Pool},
        resolve::Resolver,
        target::Target,
        tls::Tls,
        traffic::Tenants,
    },
};
use umbel_model::permission::Host;

/// Made once for a process. It sends nothing by itself: requests are made by attempts, each with its grants.
pub struct HttpClient {
    pub(crate) config: HttpConfig,
    own: OwnAddresses,
    resolver: Resolver,
    tls: Tls,
    pub(crate) pool: Arc<Pool>,
    pub(crate) tenants: Tenants,
    /// Runs connections and the policy: never the threads of guests.
    pub(crate) runtime: Handle,
}

/// A pooled connection that is not ready for the next request after this is given up.
const READY_WAIT: Duration = Duration::from_millis(20);

impl HttpClient {
    /// Needs a runtime with time and IO. Reads no file and opens no connection.
    pub fn new(config: HttpConfig, own: OwnAddresses, runtime: Handle) -> Arc<Self> {
        let resolver = Resolver::new(config.dns_servers.clone(), Duration::from_millis(config.time.resolve_ms));
        Arc::new(Self {
            resolver,
            tls: Tls::new(config.ca_file.clone()),
            pool: Pool::new(config.pool, runtime.clone()),
            tenants: Tenants::new(config.tenant),
            own,
            runtime,
            config,
        })
    }

    /// A connection that waits, or a new one. In both cases its address passes what is allowed now.
    pub(crate) async fn connection(
        &self,
        key: &Key,
        target: &Target,
        allowed: &Effective,
        limit: Option<Duration>,
    ) -> Result<(Open, WasPooled), HttpError> {
        while let Some(mut open) = self.pool.take(key, |peer| self.check(target, peer, allowed).is_ok()) {
            if tokio::time::timeout(READY_WAIT, open.connection.is_ready()).await == Ok(true) {
                return Ok((open, WasPooled(true)));
            }
        }
        let most = Duration::from_millis(self.config.time.connect_ms);
        let limit = limit.unwrap_or(most).min(most);
        let until = Instant::now() + limit;
        let connecting = self.connect(target, allowed, until);
        let connected = tokio::time::timeout_at(until, connecting).await;
        Ok((connected.map_err(|_| HttpError::ConnectTimeout(limit))??, WasPooled(false)))
    }

    /// Looks up the name once, checks every address, and connects to one that was checked.
    async fn connect(&self, target: &Target, allowed: &Effective, until: Instant) -> Result<Open, HttpError> {
        let addresses = match &target.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => self.resolver.addresses(name).await?,
        };
        for address in &addresses {
            self.check(target, SocketAddr::new(*address, target.port), allowed)?;
        }
        connect::connect(target, &addresses, &self.tls, &self.config.attempt, until, &self.runtime).await
    }

    /// Whether a request may go to an address.
    pub(crate) fn check(&self, target: &Target, address: SocketAddr, allowed: &Effective) -> Result<(), HttpError> {
        let host = || target.host.to_string();
        addresses::check(address.ip(), allowed.networks())
            .map_err(|refused| HttpError::AddressRefused { host: host(), refused })?;
        if self.own.contain(address) {
            return Err(HttpError::OwnAddress { host: host() });
        }
        Ok(())
    }
}

/// Whether a connection was used before.
pub(crate) struct WasPooled(pub(crate) bool);

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").finish_non_exhaustive()
    }
}
