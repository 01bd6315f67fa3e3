//! From which address a client comes, where servers in front say so in `X-Forwarded-For`.
//!
//! ```text
//!   client ──▶ CDN ──▶ nginx ──▶ us       X-Forwarded-For: (what the client claims), client, CDN
//! ```
//!
//! Each server appends the address that it was reached from. So the list is read from its end, for as long as the
//! server that wrote an entry is trusted: the first one of a stranger is the client, and what stands before it is that
//! stranger's claim.
//!
//! In: networks that are trusted, the header's lines. Out: an address, or none. Never: an address on a stranger's word.

use crate::base::network::Network;
use std::net::IpAddr;

/// The servers in front that are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(pub Vec<Network>);

impl TrustedProxies {
    /// True for the address of one of them.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.holds(address))
    }

    /// The client's address after the lines that one of them has sent: the last that is not one of theirs; where all
    /// are, the first. `None` where an entry that counts is no address.
    pub fn client<'b>(&self, lines: impl Iterator<Item = &'b [u8]>) -> Option<IpAddr> {
        let mut client = None;
        for entry in lines.flat_map(|line| line.split(|&byte| byte == b',')) {
            client = match address(entry.trim_ascii()) {
                Some(address) if self.holds(address) => client.or(Some(address)),
                other => other,
            };
        }
        client
    }
}

/// An entry, perhaps with a port.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(list: &[&str]) -> TrustedProxies {
        TrustedProxies(list.iter().map(|text| Network::parse(text).expect(text)).collect())
    }

    #[test]
    fn networks_hold_their_addresses() {
        let trusted = trusted(&["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::1"]);
        for (address, holds) in [
            ("10.255.1.2", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:10.0.0.1", true),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("::1", true),
            ("::2", false),
        ] {
            assert_eq!(trusted.holds(address.parse().unwrap()), holds, "{address}");
        }
        assert!(self::trusted(&["0.0.0.0/0"]).holds([1, 2, 3, 4].into()));
        assert!(!self::trusted(&["0.0.0.0/0"]).holds("2001:db8::1".parse().unwrap()));
        assert!(self::trusted(&["::/0"]).holds("2001:db8::1".parse().unwrap()));
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0", "host", "10.0.0.0/8/8", "/8"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_last_stranger_is_the_client() {
        let trusted = trusted(&["10.0.0.0/8"]);
        for (lines, client) in [
            (&["192.0.2.1"][..], Some("192.0.2.1")),
            (&["203.0.113.9, 192.0.2.1"], Some("192.0.2.1")),
            (&["203.0.113.9, 192.0.2.1,10.0.0.2 , 10.0.0.3"], Some("192.0.2.1")),
            (&["203.0.113.9", "192.0.2.1"], Some("192.0.2.1")),
            (&["10.0.0.9, 10.0.0.2"], Some("10.0.0.9")),
            (&["192.0.2.1:4711, 10.0.0.2:80"], Some("192.0.2.1")),
            (&["[2001:db8::1]:443"], Some("2001:db8::1")),
            (&["[2001:db8::1]"], Some("2001:db8::1")),
            (&["unknown, 192.0.2.1"], Some("192.0.2.1")),
            (&["192.0.2.1, unknown"], None),
            (&["203.0.113.9, unknown, 10.0.0.2"], Some("10.0.0.2")),
            (&[""], None),
            (&[], None),
        ] {
            let expected = client.map(|text| text.parse().unwrap());
            assert_eq!(trusted.client(lines.iter().map(|line| line.as_bytes())), expected, "{lines:?}");
        }
    }
}
