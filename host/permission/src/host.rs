//! Hosts of URLs: a name in one spelling, or an address.
//!
//! Resolvers read more spellings of addresses than people do (`127.1`, `0x7f000001`, `2130706433`). A host is an address in
//! its usual spelling or a name that no resolver can take for one; everything else is refused.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// A host: lower case, without the dot at the end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    Name(String),
    Address(IpAddr),
}

/// Why a text is no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the host {shown:?} {problem}")]
pub struct InvalidHost {
    /// The first 128 characters of what was given.
    pub shown: String,
    pub problem: &'static str,
}

/// RFC 1035: a name and a label of it, bytes.
const MAX_HOST_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

impl Host {
    /// Reads the host of a URL; an IPv6 address in brackets.
    pub fn parse(text: &str) -> Result<Self, InvalidHost> {
        read(text).map_err(|problem| InvalidHost { shown: text.chars().take(128).collect(), problem })
    }
}

fn read(text: &str) -> Result<Host, &'static str> {
    if let Some(rest) = text.strip_prefix('[') {
        let inner = rest.strip_suffix(']').ok_or("has no `]`")?;
        let address: Ipv6Addr = inner.parse().map_err(|_| "is not an IPv6 address")?;
        return Ok(Host::Address(IpAddr::V6(address)));
    }
    if !text.is_ascii() {
        return Err("is not ASCII: write an international name in its `xn--` form");
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if let Ok(address) = name.parse() {
        return Ok(Host::Address(IpAddr::V4(address)));
    }
    if name.is_empty() || name.len() > MAX_HOST_BYTES {
        return Err("must have 1 to 253 characters");
    }
    if !name.split('.').all(is_label) {
        return Err("is not a name: use letters, digits, `-` and `_`, in parts of 1 to 63 with dots between");
    }
    if name.rsplit('.').next().is_some_and(looks_numeric) {
        return Err("looks like an address: write it as four numbers with dots, or as IPv6 in brackets");
    }
    Ok(Host::Name(name))
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_BYTES).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether resolvers may read a name with this last label as an address: digits, or hexadecimal ones.
fn looks_numeric(label: &str) -> bool {
    let is_hex = label.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    is_hex || label.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (given, read) in [
            ("API.Example.COM.", "api.example.com"),
            ("localhost", "localhost"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("[::FFFF:7f00:1]", "[::ffff:127.0.0.1]"),
            ("1e100.net", "1e100.net"),
            ("0x7f.example", "0x7f.example"),
        ] {
            assert_eq!(Host::parse(given).unwrap().to_string(), read);
        }
    }

    #[test]
    fn a_host_that_a_resolver_may_read_as_another_is_refused() {
        for given in [
            "",
            ".",
            "a..b",
            "a.-b",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "017700000001",
            "127.0.0.0x1",
            "127.0.0.01",
            "256.0.0.1",
            "1.2.3.4.5",
            "[::1",
            "[::1%25eth0]",
            "[fe80::1%eth0]",
            "[127.0.0.1]",
            "a b",
            "user@host",
            "a/b",
            "a\\b",
            "bücher.example",
            "a%2eb",
            "a,b",
            "0x",
            "a.0x",
        ] {
            assert!(Host::parse(given).is_err(), "{given:?} {:?}", Host::parse(given));
        }
        assert!(Host::parse(&"a".repeat(64)).is_err());
        assert!(Host::parse(&vec!["a"; 200].join(".")).is_err());
    }
}
