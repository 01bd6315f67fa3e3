//! Networks of IP addresses, as they are written in settings (CIDR, RFC 4632 §3.1).

use super::digits::whole_number;
use std::net::{IpAddr, Ipv6Addr};

/// A network: its first address, and how many bits of it count, of the 128 of version 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    bits: u128,
    prefix: u32,
}

/// Bits before the address of version 4 in one of version 6.
const MAPPED_BITS: u32 = 96;

impl Network {
    /// `192.0.2.7`, `10.0.0.0/8`, `2001:db8::/32`; `None` for anything else. Bits beyond the prefix do not count.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(whole_number(prefix.as_bytes())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let before = if address.is_ipv4() { MAPPED_BITS } else { 0 };
        let prefix = match prefix {
            Some(bits) => u32::try_from(bits).ok().filter(|&bits| bits <= 128 - before)? + before,
            None => 128,
        };
        Some(Self { bits: bits(address) & mask(prefix), prefix })
    }

    /// True for an address in it; one of version 4 is the same in either form.
    pub fn holds(self, address: IpAddr) -> bool {
        bits(address) & mask(self.prefix) == self.bits
    }

    /// True for one of version 4.
    pub fn is_ipv4(self) -> bool {
        self.prefix >= MAPPED_BITS && Ipv6Addr::from_bits(self.bits).to_ipv4_mapped().is_some()
    }
}

fn mask(prefix: u32) -> u128 {
    u128::MAX.checked_shl(128 - prefix).unwrap_or(0)
}

/// An address as one of version 6.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => Ipv6Addr::to_bits(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_of_one_version() {
        let is_ipv4 = |text: &str| Network::parse(text).unwrap().is_ipv4();
        assert!(is_ipv4("10.0.0.0/8") && is_ipv4("0.0.0.0/0") && is_ipv4("::ffff:10.0.0.1"));
        assert!(!is_ipv4("::/0") && !is_ipv4("2001:db8::/32") && !is_ipv4("::1"));
    }
}
