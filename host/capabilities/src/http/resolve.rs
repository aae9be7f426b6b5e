//! Looks up the addresses of names, by the system's configuration: its hosts file, then its DNS servers.
//!
//! The answer is a list that the caller checks and connects to; nobody asks again in between.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ServerOrderingStrategy,
    },
    net::runtime::TokioRuntimeProvider,
};
use tokio::sync::OnceCell;

use crate::http::error::HttpError;

/// A name with more addresses than this is refused, because each of them is checked.
const MAX_ADDRESSES: usize = 64;
/// Answers that are kept.
const CACHED_ANSWERS: u64 = 1_024;
/// How long an answer is kept, whatever it says.
const MAX_TTL: Duration = Duration::from_secs(60);

pub(crate) struct Resolver {
    /// Empty: the system's.
    servers: Vec<SocketAddr>,
    limit: Duration,
    /// Made at the first look-up: most processes run no guest that needs it.
    inner: OnceCell<TokioResolver>,
}

impl Resolver {
    pub(crate) fn new(servers: Vec<SocketAddr>, limit: Duration) -> Self {
        Self { servers, limit, inner: OnceCell::new() }
    }

    /// All addresses of a name, at least one, IPv4 first.
    pub(crate) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, HttpError> {
        match tokio::time::timeout(self.limit, self.look_up(name)).await {
            Ok(found) => found,
            Err(_) => Err(HttpError::ResolveTimeout(self.limit)),
        }
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, HttpError> {
        let resolver = self.inner.get_or_try_init(|| async { self.build() }).await?;
        // The dot keeps the system's search list out: a name means the same on every machine.
        let found = resolver.lookup_ip(format!("{name}.")).await.map_err(|error| {
            if error.is_nx_domain() || error.is_no_records_found() {
                HttpError::NoSuchName
            } else {
                HttpError::Resolve(HttpError::text(error))
            }
        })?;
        let mut addresses: Vec<IpAddr> = found.iter().take(MAX_ADDRESSES + 1).collect();
        match addresses.len() {
            0 => Err(HttpError::NoSuchName),
            1..=MAX_ADDRESSES => {
                addresses.sort_by_key(IpAddr::is_ipv6);
                Ok(addresses)
            }
            _ => Err(HttpError::Resolve(format!("it has more than {MAX_ADDRESSES} addresses"))),
        }
    }

    fn build(&self) -> Result<TokioResolver, HttpError> {
        let unusable = |error| HttpError::Resolve(HttpError::text(format!("the system's DNS servers: {error}")));
        let provider = TokioRuntimeProvider::default();
        let mut builder = if self.servers.is_empty() {
            TokioResolver::builder(provider).map_err(unusable)?
        } else {
            let servers = self.servers.iter().map(|server| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                NameServerConfig::new(server.ip(), true, connections.to_vec())
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            TokioResolver::builder_with_config(config, provider)
        };
        let options = builder.options_mut();
        options.use_hosts_file = ResolveHosts::Always;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        options.cache_size = CACHED_ANSWERS;
        options.positive_max_ttl = Some(MAX_TTL);
        options.negative_max_ttl = Some(MAX_TTL);
        options.timeout = options.timeout.min(self.limit / 2);
        options.try_tcp_on_error = true;
        builder.build().map_err(unusable)
    }
}
