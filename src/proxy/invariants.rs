//! What holds between any two turns, whatever the peers do: counts for tests, which look for leaks, lost wake-ups and
//! bytes without bounds. Reads everything, changes nothing.

use super::downstream::Phase;
use super::exchange::{Exchange, Stage};
use super::upstream::{Link, Upstream};
use super::{Conn, ExchangeKey, Proxy, UpKey};
use crate::limit::budget::Spent;
use crate::limit::levels::LimitLevel;

/// A look at all of a proxy.
pub struct Audit<'p>(pub(super) &'p Proxy);

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

impl Audit<'_> {
    /// How much waits, at most, anywhere. For tests of bounds.
    pub fn waiting_max(&self) -> Waiting {
        let downs = || self.0.downs.keys().filter_map(|key| self.0.downs.get(key));
        let ups = || self.0.ups.keys().filter_map(|key| self.0.ups.get(key));
        let exchanges = || self.0.exchanges.keys().filter_map(|key| self.0.exchanges.get(key));
        Waiting {
            to_client: downs().map(|down| down.waiting()).max().unwrap_or(0),
            from_client: downs().map(|down| down.input.len()).max().unwrap_or(0),
            to_target: exchanges().map(|exchange| exchange.request.outgoing.stream.len()).max().unwrap_or(0),
            from_target: ups().map(|up| up.input.len()).max().unwrap_or(0),
        }
    }

    /// The connections that have bytes which may leave now. After a turn these are those whose socket takes no more.
    /// For tests of lost wake-ups.
    pub fn unsent(&self) -> Vec<Conn> {
        let is_unsent = |up: &Upstream| {
            let exchange = up.exchange.and_then(|exchange| self.0.exchanges.get(exchange));
            let sends = |exchange: &Exchange| up.link == Link::Ready && !exchange.request.outgoing.next().is_empty();
            up.broken.is_none() && (!up.cipher.is_empty() || exchange.is_some_and(sends))
        };
        let downs = self.0.downs.keys().filter(|&key| self.0.downs.get(key).is_some_and(|down| down.unsent() > 0));
        let ups = self.0.ups.keys().filter(|&key| self.0.ups.get(key).is_some_and(is_unsent));
        downs.map(Conn::Down).chain(ups.map(Conn::Up)).collect()
    }

    /// Permits that the exchanges hold, which are all that are reserved. For tests of leaks.
    pub fn permits_held(&self) -> u64 {
        self.0.exchanges.keys().filter_map(|key| self.0.exchanges.get(key)).map(|exchange| exchange.permits).sum()
    }

    /// How many slots of each kind are in use: clients, upstreams, exchanges. For tests of leaks.
    pub fn slots(&self) -> (usize, usize, usize) {
        (self.0.downs.len(), self.0.ups.len(), self.0.exchanges.len())
    }

    /// Connections to the target that nobody would miss, and exchanges that miss theirs: a connection is that of its
    /// exchange, one of the attempts to get it one, or in the pool; a request under way has one. For tests of leaks.
    pub fn stray_connections(&self) -> usize {
        let race_of = |key| self.0.ups.get(key).and_then(|up| up.link.race());
        let is_stray = |&key: &UpKey| {
            let Some(up) = self.0.ups.get(key) else { return true };
            let Some(exchange) = up.exchange else { return !self.0.dialer.pool.contains(key) };
            let current = self.0.exchanges.get(exchange).and_then(|exchange| exchange.up);
            let races_with_it = up.link.race().is_some() && up.link.race() == current.and_then(race_of);
            current != Some(key) && !races_with_it
        };
        let is_bereft = |exchange: &&Exchange| {
            exchange.stage == Stage::Forwarding && exchange.up.is_none_or(|up| self.0.ups.get(up).is_none())
        };
        let is_attempt = |&key: &UpKey| race_of(key).is_some_and(|race| self.0.dialer.class(race, key).is_some());
        let forgotten = self.0.dialer.attempts().abs_diff(self.0.ups.keys().filter(is_attempt).count());
        let bereft = self.0.exchanges.keys().filter_map(|key| self.0.exchanges.get(key)).filter(is_bereft);
        self.0.ups.keys().filter(is_stray).count() + bereft.count() + forgotten
    }

    /// Bytes that held request bodies occupy. For tests of bounds and leaks.
    pub fn held_bytes(&self) -> usize {
        self.0.held_bodies.bytes()
    }

    /// Those of them that a thread reads for nobody any more: a stop does not wait for it.
    pub fn unclaimed_bytes(&self) -> usize {
        self.0.bodies_away.unclaimed(|exchange| self.0.exchanges.get(exchange).is_some())
    }

    /// What requests in flight have taken of limits, once for each level, by the limiter and by the exchanges. For
    /// tests of leaks.
    pub fn reservations(&self) -> (u64, u64) {
        let exchanges = self.0.exchanges.keys().filter_map(|key| self.0.exchanges.get(key));
        (self.0.limiter.in_flight(), exchanges.map(|exchange| exchange.reservation.levels()).sum())
    }

    /// What a user has spent, where the limiter knows it. For tests of budgets.
    pub fn spent(&self, user: &str) -> Option<Spent> {
        self.0.limiter.spent(LimitLevel::User, user)
    }

    /// Permits: those that are reserved for records still to come, and those of records that are not committed. For
    /// tests of leaks.
    pub fn permits(&self) -> (u64, u64) {
        (self.0.permits.reserved(), self.0.permits.under_way())
    }

    /// How many exchanges hold bytes back, or have stopped reading, although nothing that would let them go on is under
    /// way, or for longer than a reply may wait; or are read on for reports that will not come; or have a whole body
    /// that nobody reads. For tests of lost wake-ups.
    pub fn forgotten(&self) -> usize {
        let is_forgotten = |&key: &ExchangeKey| {
            let Some(exchange) = self.0.exchanges.get(key) else { return false };
            let commits = self.0.permits.is_awaiting(key);
            let queues = self.0.permits.is_starved(key);
            let holding = self.0.downs.get(exchange.down).filter(|down| down.held_back > 0);
            let is_untimed =
                self.0.settings.timeouts.ledger_wait > 0 && holding.is_some_and(|down| down.timing.is_none());
            let waits =
                exchange.awaited_seq().is_some() || exchange.tunnel.as_ref().is_some_and(|tunnel| tunnel.is_paused());
            let tunnel = exchange.tunnel.as_ref();
            let is_over = tunnel.is_some_and(|tunnel| {
                let is_read_on = tunnel.is_responding() || tunnel.is_leaving();
                tunnel.may_leave() || tunnel.must_be_cut() || exchange.abandoned && !is_read_on
            });
            is_over || is_untimed || (holding.is_some() || waits) && !commits && !queues
        };
        let is_unread = |&key: &ExchangeKey| {
            let Some(exchange) = self.0.exchanges.get(key) else { return false };
            let sends = self.0.downs.get(exchange.down).is_some_and(|down| matches!(down.phase, Phase::Body { .. }));
            let waits = self.0.bodies_away.has(key) || self.0.parked.has(key);
            exchange.stage == Stage::Receiving && !sends && !waits
        };
        let forgotten = |key: &ExchangeKey| is_forgotten(key) || is_unread(key);
        self.0.exchanges.keys().filter(forgotten).count() + usize::from(self.0.held_bodies.is_stuck())
    }

    /// True where no record waits, or only until the next deadline. For tests of lost wake-ups, after a turn.
    pub fn records_are_timed(&self) -> bool {
        let is_timed = |due| self.0.next_deadline().is_some_and(|next| next <= due);
        self.0.permits.all_taken() || self.0.permits.due().is_some_and(is_timed)
    }
}
