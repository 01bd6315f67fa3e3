//! How many connections each address has: one address cannot take all places.
//!
//! In: addresses of clients that come and go. Out: whether there are more of one than there may be. Never: more entries
//! than connections.

use crate::base::table::Table;
use std::net::{IpAddr, Ipv6Addr};

/// Connections beyond an address's maximum that are told so; any more of them are closed at once.
const TOLD_MAX: usize = 16;

/// What of an address is one client's to choose from: all of it, or the first half of IPv6's, as a host has at least
/// that much to itself (RFC 6177).
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Connections by network.
pub struct Addresses {
    /// Most connections of one; 0 is no bound.
    max: usize,
    connections: Table<IpAddr, usize>,
}

/// What becomes of one connection more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Enough,
    /// It is told that there is none.
    None,
    /// Nor is there for telling it.
    NotEvenForThat,
}

impl Addresses {
    /// At most so many of one; 0 is no bound.
    pub fn new(max: usize) -> Self {
        Self { max, connections: Table::default() }
    }

    /// One more connection of a network.
    pub fn came(&mut self, network: IpAddr) -> Room {
        let connections = self.connections.get(&network).copied().unwrap_or(0) + 1;
        self.connections.insert(network, connections);
        match connections.saturating_sub(self.max) {
            _ if self.max == 0 => Room::Enough,
            0 => Room::Enough,
            1..=TOLD_MAX => Room::None,
            _ => Room::NotEvenForThat,
        }
    }

    /// One connection of a network less.
    pub fn went(&mut self, network: IpAddr) {
        match self.connections.get_mut(&network) {
            Some(connections) if *connections > 1 => *connections -= 1,
            _ => _ = self.connections.remove(&network),
        }
    }

    /// True where a network has more connections than it may have.
    pub fn is_exceeded(&self, network: IpAddr) -> bool {
        self.max > 0 && self.connections.get(&network).is_some_and(|&connections| connections > self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> IpAddr {
        network(address.parse().expect("an address"))
    }

    #[test]
    fn an_address_has_so_many_places_and_others_have_theirs() {
        let mut addresses = Addresses::new(2);
        assert_eq!([(); 2].map(|()| addresses.came(of("10.0.0.1"))), [Room::Enough; 2]);
        assert!(!addresses.is_exceeded(of("10.0.0.1")));
        assert_eq!([(); TOLD_MAX].map(|()| addresses.came(of("::ffff:10.0.0.1"))), [Room::None; TOLD_MAX]);
        assert_eq!(addresses.came(of("10.0.0.1")), Room::NotEvenForThat);
        assert!(addresses.is_exceeded(of("10.0.0.1")));
        assert_eq!(addresses.came(of("10.0.0.2")), Room::Enough);
        (0..TOLD_MAX + 3).for_each(|_| addresses.went(of("10.0.0.1")));
        addresses.went(of("10.0.0.2"));
        assert_eq!(addresses.connections.len(), 0, "nothing is kept of who is gone");
    }

    #[test]
    fn a_host_with_many_addresses_is_one() {
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        let mut unbounded = Addresses::new(0);
        assert!((0..100).all(|_| unbounded.came(of("::1")) == Room::Enough) && !unbounded.is_exceeded(of("::1")));
    }
}
