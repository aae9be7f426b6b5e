//! The HTTP client of a process, which sends the requests of guests.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::runtime::Handle;
use umbel_capabilities::http::{HttpClient, HttpConfig, OwnAddresses, check_ca_file};

use super::broker::BrokerUrl;
use crate::{
    Failure, Result,
    args::{Egress, HttpFlags},
};

/// The port of a Redis whose address names none.
const REDIS_PORT: u16 = 6_379;
/// A name of this service that cannot be looked up holds up the start for so long.
const LOOK_UP: Duration = Duration::from_secs(5);

/// The client of a process that listens on `listen` and uses `broker`: guests never reach either of them.
pub async fn client(flags: &HttpFlags, listen: Option<SocketAddr>, broker: &BrokerUrl) -> Result<Arc<HttpClient>> {
    check_authorities(flags.http_ca_file.as_deref())?;
    let report_only = flags.egress == Egress::Report;
    if report_only {
        tracing::warn!(
            "--egress report: HTTP requests that no permission allows are logged and sent; only for one trusted tenant"
        );
    }
    let mut own: Vec<SocketAddr> = listen.into_iter().collect();
    if let BrokerUrl::Redis(url) = broker
        && let Some((host, port)) = host_and_port(url)
    {
        own.extend(addresses(&host, port).await);
    }
    for given in &flags.http_refuse {
        let parsed = given.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let Some((host, port)) = parsed else {
            let message = format!("--http-refuse: {given:?} is no address with a port");
            return Err(Failure::usage(message).help("write HOST:PORT, such as 10.0.0.5:443 or api.example.com:443"));
        };
        own.extend(addresses(host, port).await);
    }
    let config = HttpConfig { ca_file: flags.http_ca_file.clone(), report_only, ..HttpConfig::default() };
    Ok(HttpClient::new(config, OwnAddresses::new(own), Handle::current()))
}

/// Refuses a file of authorities that cannot be used, before anything is started.
pub fn check_authorities(file: Option<&Path>) -> Result {
    let Some(file) = file else { return Ok(()) };
    check_ca_file(file).map_err(|error| {
        let help = "--http-ca-file names a file with certificates of authorities in PEM";
        Failure::new("ca_file", error.to_string()).help(help)
    })
}

async fn addresses(host: &str, port: u16) -> Vec<SocketAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(_)) | Err(_) => {
            tracing::warn!(
                host,
                port,
                "the addresses of this service cannot be looked up, so tasks may be able to reach them"
            );
            Vec::new()
        }
    }
}

/// Of a Redis URL that leads over the network.
fn host_and_port(url: &str) -> Option<(String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    if !matches!(scheme, "redis" | "rediss") {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let after_address = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[after_address..].find(':') {
        Some(at) => {
            let (host, port) = authority.split_at(after_address + at);
            Some((host.to_owned(), port[1..].parse().ok()?))
        }
        None => Some((authority.to_owned(), REDIS_PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_address_is_read_out_of_its_url() {
        for (url, read) in [
            ("redis://h", Some(("h", 6_379))),
            ("redis://h:1/2", Some(("h", 1))),
            ("rediss://user:p@ss@[::1]:7/0?x", Some(("[::1]", 7))),
            ("redis://[::1]", Some(("[::1]", 6_379))),
            ("unix:///run/redis", None),
        ] {
            let read = read.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(host_and_port(url), read, "{url}");
        }
    }

    #[tokio::test]
    async fn own_addresses_are_looked_up() {
        assert_eq!(addresses("[::1]", 5).await, ["[::1]:5".parse().unwrap()]);
        assert_eq!(addresses("127.0.0.1", 5).await, ["127.0.0.1:5".parse().unwrap()]);
    }
}
