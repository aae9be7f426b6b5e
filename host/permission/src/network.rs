//! A range of addresses, `ADDRESS/BITS`.

use std::{fmt, net::IpAddr, str::FromStr};

/// The addresses that share the first bits of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    /// Its first address.
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// An IPv4-mapped IPv6 address is asked as the IPv4 address that it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        first_of(address.to_canonical(), self.bits).is_some_and(|first| first == self.address)
    }

    pub fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.contains(other.address)
    }
}

/// The first address of a network of so many bits around `address`; none if it has fewer bits.
fn first_of(address: IpAddr, bits: u8) -> Option<IpAddr> {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits)?).unwrap_or(0);
            Some(IpAddr::V4((u32::from(v4) & mask).into()))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.checked_sub(bits)?).unwrap_or(0);
            Some(IpAddr::V6((u128::from(v6) & mask).into()))
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = || format!("{text:?} is not a network: write ADDRESS/BITS, such as 10.0.0.0/8 or fd00::/8");
        let (address, bits) = text.split_once('/').ok_or_else(hint)?;
        let address: IpAddr = address.parse().map_err(|_| hint())?;
        let bits: u8 = bits.parse().map_err(|_| hint())?;
        if address.to_canonical() != address {
            return Err(format!("{text:?} is a network of IPv4: write it as one"));
        }
        match first_of(address, bits) {
            None => Err(hint()),
            Some(first) if first != address => Err(format!("{text:?} begins within a network; that is {first}/{bits}")),
            Some(_) => Ok(Self { address, bits }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_with_its_first_bits() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "::1", "1.2.3.4"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{network} {outside}");
            assert_eq!(parsed.to_string(), network);
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0", "x/8", "10.1.0.0/8", "::/129", "::ffff:10.0.0.0/104"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
