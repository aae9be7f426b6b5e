//! Which addresses requests may be sent to: those of the public internet, and what an operator opened.
//!
//! Pure. An IPv6 address that carries an IPv4 address is judged by both: whoever sends to it may reach the one within.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use umbel_model::permission::Network;

/// A range that is not public, as it is told to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// What it is for: `private`, `loopback`.
    pub kind: &'static str,
    /// ADDRESS/BITS; also the permission that opens all of it.
    pub network: &'static str,
}

/// Why requests may not be sent to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("that address is {} ({})", .0.kind, .0.network)]
    NotPublic(Range),
    /// Nobody can open these: what answers there hands out the credentials of the host.
    #[error("that address is the metadata service of a cloud, which no permission opens")]
    Metadata,
}

type V4 = (Ipv4Addr, u32, &'static str, &'static str);
type V6 = (Ipv6Addr, u32, &'static str, &'static str);

macro_rules! v4 {
    ($a:literal, $b:literal, $c:literal, $d:literal / $bits:literal, $kind:literal) => {
        (Ipv4Addr::new($a, $b, $c, $d), $bits, $kind, concat!($a, ".", $b, ".", $c, ".", $d, "/", $bits))
    };
}

/// The special-purpose registries of IANA (RFC 6890 and what followed it), without what is public within them.
const NOT_PUBLIC_V4: &[V4] = &[
    v4!(0, 0, 0, 0 / 8, "unspecified"),
    v4!(10, 0, 0, 0 / 8, "private"),
    v4!(100, 64, 0, 0 / 10, "shared by a carrier (CGNAT)"),
    v4!(127, 0, 0, 0 / 8, "loopback"),
    v4!(169, 254, 0, 0 / 16, "link-local"),
    v4!(172, 16, 0, 0 / 12, "private"),
    v4!(192, 0, 0, 0 / 24, "reserved for protocols"),
    v4!(192, 0, 2, 0 / 24, "for documentation"),
    v4!(192, 88, 99, 0 / 24, "a relay of 6to4"),
    v4!(192, 168, 0, 0 / 16, "private"),
    v4!(198, 18, 0, 0 / 15, "for benchmarking"),
    v4!(198, 51, 100, 0 / 24, "for documentation"),
    v4!(203, 0, 113, 0 / 24, "for documentation"),
    v4!(224, 0, 0, 0 / 4, "multicast"),
    v4!(255, 255, 255, 255 / 32, "broadcast"),
    v4!(240, 0, 0, 0 / 4, "reserved"),
];

const fn v6(a: u16, b: u16, c: u16, d: u16, bits: u32, kind: &'static str, network: &'static str) -> V6 {
    (Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), bits, kind, network)
}

/// The first one that contains an address names it. What carries an IPv4 address was looked at before.
const NOT_PUBLIC_V6: &[V6] = &[
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified", "::/128"),
    (Ipv6Addr::LOCALHOST, 128, "loopback", "::1/128"),
    v6(0x64, 0xff9b, 1, 0, 48, "of a local NAT64", "64:ff9b:1::/48"),
    v6(0x100, 0, 0, 0, 64, "discarded", "100::/64"),
    v6(0xfc00, 0, 0, 0, 7, "private (ULA)", "fc00::/7"),
    v6(0xfe80, 0, 0, 0, 10, "link-local", "fe80::/10"),
    v6(0xfec0, 0, 0, 0, 10, "site-local", "fec0::/10"),
    v6(0xff00, 0, 0, 0, 8, "multicast", "ff00::/8"),
    v6(0x2001, 2, 0, 0, 48, "for benchmarking", "2001:2::/48"),
    v6(0x2001, 0, 0, 0, 23, "reserved for protocols", "2001::/23"),
    v6(0x2001, 0xdb8, 0, 0, 32, "for documentation", "2001:db8::/32"),
    v6(0x3fff, 0, 0, 0, 20, "for documentation", "3fff::/20"),
    // Public addresses are in 2000::/3: the rest is all other.
    v6(0, 0, 0, 0, 3, "reserved", "::/3"),
    v6(0x4000, 0, 0, 0, 2, "reserved", "4000::/2"),
    v6(0x8000, 0, 0, 0, 1, "reserved", "8000::/1"),
];

/// Where clouds hand out credentials: in link-local and private ranges that an operator may open for other reasons, and
/// in public ones.
const METADATA_V4: &[Ipv4Addr] = &[
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];
const METADATA_V6: &[Ipv6Addr] =
    &[Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// Whether a request may be sent to `address`, which `opened` may allow although it is not public.
pub fn check<'n>(address: IpAddr, mut opened: impl Iterator<Item = &'n Network>) -> Result<(), Refused> {
    match address.to_canonical() {
        IpAddr::V4(v4) => check_v4(v4),
        IpAddr::V6(v6) => check_v6(v6),
    }
    .or_else(|refused| match refused {
        Refused::NotPublic(_) if opened.any(|network| network.contains(address)) => Ok(()),
        _ => Err(refused),
    })
}

fn check_v4(address: Ipv4Addr) -> Result<(), Refused> {
    if METADATA_V4.contains(&address) {
        return Err(Refused::Metadata);
    }
    let bits = u32::from(address);
    let found = NOT_PUBLIC_V4.iter().find(|(first, length, ..)| (bits ^ u32::from(*first)) >> (32 - length) == 0);
    found.map_or(Ok(()), |(.., kind, network)| Err(Refused::NotPublic(Range { kind, network })))
}

fn check_v6(address: Ipv6Addr) -> Result<(), Refused> {
    if METADATA_V6.contains(&address) {
        return Err(Refused::Metadata);
    }
    carried(address).into_iter().try_for_each(check_v4)?;
    // Translators on the way make public addresses of these two.
    if matches!(address.segments(), [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x2002, ..]) {
        return Ok(());
    }
    let bits = u128::from(address);
    let found = NOT_PUBLIC_V6.iter().find(|(first, length, ..)| (bits ^ u128::from(*first)) >> (128 - length) == 0);
    found.map_or(Ok(()), |(.., kind, network)| Err(Refused::NotPublic(Range { kind, network })))
}

/// The IPv4 addresses that an IPv6 address carries, if it is of a kind that does.
fn carried(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        // `::` and `::1`, which have names of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Vec::new(),
        // IPv4-compatible, IPv4-mapped, IPv4-translated and NAT64.
        [0, 0, 0, 0, 0, 0, a, b]
        | [0, 0, 0, 0, 0, 0xffff, a, b]
        | [0, 0, 0, 0, 0xffff, 0, a, b]
        | [0x64, 0xff9b, 0, 0, 0, 0, a, b] => vec![v4(a, b)],
        // 6to4.
        [0x2002, a, b, ..] => vec![v4(a, b)],
        // Teredo: its server, and its client with all bits turned.
        [0x2001, 0, a, b, _, _, c, d] => vec![v4(a, b), v4(!c, !d)],
        // ISATAP, below any prefix.
        [.., 0 | 0x200, 0x5efe, a, b] => vec![v4(a, b)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(address: &str, opened: &[&str]) -> Result<(), Refused> {
        let opened: Vec<Network> = opened.iter().map(|text| text.parse().unwrap()).collect();
        check(address.parse().unwrap(), opened.iter())
    }

    #[test]
    fn public_addresses_may_be_reached() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450:4001::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert_eq!(checked(address, &[]), Ok(()), "{address}");
        }
    }

    #[test]
    fn what_is_not_public_is_refused_with_its_range() {
        for (address, network) in [
            ("0.0.0.0", "0.0.0.0/8"),
            ("0.1.2.3", "0.0.0.0/8"),
            ("10.0.0.1", "10.0.0.0/8"),
            ("100.64.0.1", "100.64.0.0/10"),
            ("100.127.255.255", "100.64.0.0/10"),
            ("127.0.0.1", "127.0.0.0/8"),
            ("127.255.255.254", "127.0.0.0/8"),
            ("169.254.0.1", "169.254.0.0/16"),
            ("172.16.0.1", "172.16.0.0/12"),
            ("172.31.255.255", "172.16.0.0/12"),
            ("192.0.0.1", "192.0.0.0/24"),
            ("192.0.2.1", "192.0.2.0/24"),
            ("192.88.99.1", "192.88.99.0/24"),
            ("192.168.1.1", "192.168.0.0/16"),
            ("198.18.0.1", "198.18.0.0/15"),
            ("198.19.255.255", "198.18.0.0/15"),
            ("198.51.100.1", "198.51.100.0/24"),
            ("203.0.113.1", "203.0.113.0/24"),
            ("224.0.0.1", "224.0.0.0/4"),
            ("239.255.255.255", "224.0.0.0/4"),
            ("240.0.0.1", "240.0.0.0/4"),
            ("255.255.255.255", "255.255.255.255/32"),
            ("::", "::/128"),
            ("::1", "::1/128"),
            ("fc00::1", "fc00::/7"),
            ("fdff::1", "fc00::/7"),
            ("fe80::1", "fe80::/10"),
            ("febf::1", "fe80::/10"),
            ("fec0::1", "fec0::/10"),
            ("ff02::1", "ff00::/8"),
            ("100::1", "100::/64"),
            ("2001:db8::1", "2001:db8::/32"),
            ("3fff::1", "3fff::/20"),
            ("2001:2::1", "2001:2::/48"),
            ("2001:20::1", "2001::/23"),
            ("64:ff9b:1::808:808", "64:ff9b:1::/48"),
            ("5f00::1", "4000::/2"),
            ("4000::1", "4000::/2"),
            ("9000::1", "8000::/1"),
            ("1::1", "::/3"),
            ("::8.8.8.8", "::/3"),
            ("2001:0:808:808::f7f7:f7f7", "2001::/23"),
        ] {
            let refused = checked(address, &[]);
            let Err(Refused::NotPublic(range)) = refused else { panic!("{address} {refused:?}") };
            assert_eq!(range.network, network, "{address}");
        }
    }

    #[test]
    fn the_address_within_an_ipv6_address_counts() {
        for address in [
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::10.0.0.1",
            "::127.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::a9fe:1",
            "2002:a00:1::1",
            "2002:7f00:1::",
            "2002:c0a8:101::8.8.8.8",
            // Teredo: a private server, and a private client (turned).
            "2001:0:a00:1::f7f7:f7f7",
            "2001:0:808:808::f5ff:fffe",
            "2606:4700::5efe:10.0.0.1",
            "2606:4700::200:5efe:192.168.0.1",
        ] {
            assert!(matches!(checked(address, &[]), Err(Refused::NotPublic(_))), "{address}");
        }
        assert_eq!(checked("2606:4700::5efe:8.8.8.8", &[]), Ok(()));
        assert!(checked("fe80::5efe:8.8.8.8", &[]).is_err());
    }

    #[test]
    fn an_operator_opens_exactly_a_range() {
        assert_eq!(checked("10.1.2.3", &["10.1.0.0/16"]), Ok(()));
        assert!(checked("10.2.0.1", &["10.1.0.0/16"]).is_err());
        assert_eq!(checked("::ffff:10.1.2.3", &["10.1.0.0/16"]), Ok(()));
        // Another way to the same address is another range.
        assert!(checked("2002:a01:203::1", &["10.1.0.0/16"]).is_err());
        assert_eq!(checked("2002:a01:203::1", &["2002:a01::/32"]), Ok(()));
        assert_eq!(checked("fd00::1", &["10.0.0.0/8", "fd00::/8"]), Ok(()));
    }

    #[test]
    fn nobody_opens_metadata_services() {
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::",
            "168.63.129.16",
            "100.100.100.200",
            "fd00:ec2::254",
        ] {
            assert_eq!(checked(address, &["0.0.0.0/0", "::/0"]), Err(Refused::Metadata), "{address}");
        }
    }

    #[test]
    fn every_range_of_the_table_is_a_network_that_opens_it() {
        let v4 = NOT_PUBLIC_V4.iter().map(|(first, _, _, network)| (IpAddr::V4(*first), *network));
        let v6 = NOT_PUBLIC_V6.iter().map(|(first, _, _, network)| (IpAddr::V6(*first), *network));
        for (first, network) in v4.chain(v6) {
            let parsed: Network = network.parse().unwrap_or_else(|e| panic!("{e}"));
            assert!(parsed.contains(first), "{network}");
        }
    }
}
