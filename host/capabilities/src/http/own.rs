//! The addresses of the service itself, which no guest may reach whatever it was granted.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Where this service listens and what it is built on: the API, the broker.
#[derive(Debug, Clone, Default)]
pub struct OwnAddresses {
    addresses: Vec<SocketAddr>,
}

impl OwnAddresses {
    /// `0.0.0.0` and `::` stand for all addresses of this machine.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { addresses: addresses.into_iter().map(canonical).collect() }
    }

    pub fn contain(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        // To send to `0.0.0.0` is to send to this machine.
        let is_local = || ip.is_unspecified() || ip.is_loopback() || is_of_this_machine(ip);
        self.addresses
            .iter()
            .any(|own| own.port() == address.port() && (own.ip() == ip || own.ip().is_unspecified() && is_local()))
    }
}

/// Only the addresses of this machine can be bound.
fn is_of_this_machine(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_address_is_meant_with_its_port_in_every_spelling() {
        let own = OwnAddresses::new(["127.0.0.1:7717".parse().unwrap(), "0.0.0.0:80".parse().unwrap()]);
        for (address, is_own) in [
            ("127.0.0.1:7717", true),
            ("[::ffff:127.0.0.1]:7717", true),
            ("127.0.0.1:7718", false),
            ("127.0.0.2:7717", false),
            ("127.0.0.2:80", true),
            ("[::1]:80", true),
            ("0.0.0.0:80", true),
            ("192.0.2.1:80", false),
        ] {
            assert_eq!(own.contain(address.parse().unwrap()), is_own, "{address}");
        }
    }
}
