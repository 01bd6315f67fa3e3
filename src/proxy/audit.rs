//! What holds between any two turns, whatever the peers do: counts for tests, which look for leaks, lost wake-ups and
//! bytes without bounds. Reads everything, changes nothing.

use super::exchange::Exchange;
use super::upstream::{Link, Upstream};
use super::{Conn, ExchangeKey, Proxy};
use crate::limit::budget::Spent;

/// The most bytes that wait in one place of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// For a client.
    pub to_client: usize,
    /// Of a client, for their turn.
    pub from_client: usize,
    /// Of a body that streams, for the target.
    pub to_target: usize,
    /// Of the target: a head that is not whole, or what comes of a tunnel while it must wait.
    pub from_target: usize,
}

impl Proxy {
    /// How much waits, at most, anywhere. For tests of bounds.
    pub fn most_waiting(&self) -> Waiting {
        let downs = || self.downs.keys().filter_map(|key| self.downs.get(key));
        let ups = || self.ups.keys().filter_map(|key| self.ups.get(key));
        let exchanges = || self.exchanges.keys().filter_map(|key| self.exchanges.get(key));
        Waiting {
            to_client: downs().map(|down| down.out.len()).max().unwrap_or(0),
            from_client: downs().map(|down| down.input.len()).max().unwrap_or(0),
            to_target: exchanges().map(|exchange| exchange.request.outgoing.stream.len()).max().unwrap_or(0),
            from_target: ups().map(|up| up.input.len()).max().unwrap_or(0),
        }
    }

    /// The connections that have bytes which may leave now. After a turn these are those whose socket takes no more.
    /// For tests of lost wake-ups.
    pub fn unsent(&self) -> Vec<Conn> {
        let is_unsent = |up: &Upstream| {
            let exchange = up.exchange.and_then(|exchange| self.exchanges.get(exchange));
            let sends = |exchange: &Exchange| up.link == Link::Ready && !exchange.request.outgoing.next().is_empty();
            up.broken.is_none() && (!up.cipher.is_empty() || exchange.is_some_and(sends))
        };
        let downs = self.downs.keys().filter(|&key| self.downs.get(key).is_some_and(|down| down.sendable() > 0));
        let ups = self.ups.keys().filter(|&key| self.ups.get(key).is_some_and(is_unsent));
        downs.map(Conn::Down).chain(ups.map(Conn::Up)).collect()
    }

    /// Places that the exchanges hold, which are all that are reserved. For tests of leaks.
    pub fn places_held(&self) -> u64 {
        self.exchanges.keys().filter_map(|key| self.exchanges.get(key)).map(|exchange| exchange.places).sum()
    }

    /// How many slots of each kind are in use: clients, upstreams, exchanges. For tests of leaks.
    pub fn slots(&self) -> (usize, usize, usize) {
        (self.downs.len(), self.ups.len(), self.exchanges.len())
    }

    /// Bytes that held request bodies occupy. For tests of bounds and leaks.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered.bytes()
    }

    /// Requests in flight that have taken of their users' limits, by the limiter and by the exchanges. For tests of
    /// leaks.
    pub fn grants(&self) -> (u64, u64) {
        let exchanges = self.exchanges.keys().filter_map(|key| self.exchanges.get(key));
        let held = exchanges.filter(|exchange| exchange.reservation.is_tracked()).count();
        (self.limiter.outstanding().0, held as u64)
    }

    /// What a user has spent, where the limiter knows it. For tests of budgets.
    pub fn spent(&self, user: &str) -> Option<Spent> {
        self.limiter.spent(user)
    }

    /// Places in the ledger's queue: those that are reserved for records still to come, and those of records that are
    /// not committed. For tests of leaks.
    pub fn places(&self) -> (u64, u64) {
        (self.places_reserved, self.settled_seq - self.committed_seq)
    }

    /// How many exchanges hold bytes back, or have stopped reading, although nothing that would let them go on is under
    /// way, or for longer than a reply may wait; or are read on for reports that will not come. For tests of lost
    /// wake-ups.
    pub fn forgotten(&self) -> usize {
        let is_forgotten = |&key: &ExchangeKey| {
            let Some(exchange) = self.exchanges.get(key) else { return false };
            let commits = self.uncommitted.iter().any(|&(seq, waiting)| waiting == key && seq > self.committed_seq);
            let queues = self.places_left() == 0 && self.placeless.contains(&key);
            let holding = self.downs.get(exchange.down).filter(|down| down.held_back > 0);
            let is_untimed =
                self.settings.timeouts.ledger_wait > 0 && holding.is_some_and(|down| down.timing.is_none());
            let waits = exchange.awaits_commit() || exchange.tunnel.as_ref().is_some_and(|tunnel| tunnel.is_paused());
            let is_over = exchange.abandoned && exchange.tunnel.as_ref().is_some_and(|tunnel| !tunnel.is_responding());
            is_over || is_untimed || (holding.is_some() || waits) && !commits && !queues
        };
        self.exchanges.keys().filter(is_forgotten).count() + usize::from(self.buffered.is_stuck())
    }

    /// True where no record waits, or only until the next deadline. For tests of lost wake-ups, after a turn.
    pub fn records_are_timed(&self) -> bool {
        let is_timed = |due| self.next_deadline().is_some_and(|next| next <= due);
        self.records.is_empty() || self.group.due().is_some_and(is_timed)
    }
}
