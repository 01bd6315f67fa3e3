//! Connections to the target before they carry anything: which address to connect to next, who waits for a lookup of
//! them, which idle connection to use again, and whether a failed request may be sent once more.
//!
//! In: events of connections, by their keys, and their instant. Out: decisions. Never: a socket, a connection itself.
//!
//! An exchange's attempts to connect are a race (RFC 8305 section 5): where an address does not answer for
//! [`ATTEMPT_DELAY`], the next one is tried beside it, and the first to connect wins. An address that failed, or did
//! not answer while another one did, is tried last from then on, so that only the first exchange waits for it.
//!
//! ```text
//!   start ──▶ attempt ──fails──▶ the next address's attempt ──▶ …    none is left: the exchange has failed
//!                │ is silent for ATTEMPT_DELAY
//!                ├──▶ beside it, the next address's attempt
//!                └──connects──▶ the others are given up ──ready──▶ (the race is over)
//! ```

pub mod pool;
pub mod resend;

use super::UpKey;
use super::timing::Class;
use crate::base::clock::{MILLISECOND, SECOND};
use crate::base::slab::{Key, Slab};
use pool::Pool;
use std::net::SocketAddr;

/// The "Connection Attempt Delay" of RFC 8305 section 8, nanoseconds.
pub const ATTEMPT_DELAY: u64 = 250 * MILLISECOND;
/// Attempts of one race at a time: where no address answers at all, all clients together must not use the descriptors
/// up.
const ATTEMPTS_MAX: usize = 3;
/// How long an address that failed is tried last, nanoseconds. What it costs one exchange to find out that it still
/// fails is [`ATTEMPT_DELAY`].
const AVOIDED_FOR: u64 = 600 * SECOND;

/// Key of the attempts of one exchange to connect.
pub type RaceKey = Key<Race>;

/// The attempts of one exchange to connect, of which there is always at least one.
pub struct Race {
    /// In the order in which they began.
    attempts: Vec<Attempt>,
    /// The next one last.
    untried: Vec<SocketAddr>,
}

struct Attempt {
    up: UpKey,
    address: SocketAddr,
    /// Monotonic nanoseconds.
    began: u64,
    class: Class,
}

/// What follows of an attempt that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// The next address is to be tried: [`Dialer::attempt`].
    TryNext(RaceKey),
    /// Others are under way, this one among them.
    Others(UpKey),
    /// That was the last one, and the race is over.
    GiveUp,
}

/// An attempt that is given up for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loser {
    pub up: UpKey,
    /// Its address, where it is news that this one does not answer.
    pub silent: Option<SocketAddr>,
}

struct Address {
    address: SocketAddr,
    /// When it failed the last time, and has not been reached since; monotonic nanoseconds.
    failed_at: Option<u64>,
}

impl Address {
    fn is_avoided(&self, now: u64) -> bool {
        self.failed_at.is_some_and(|at| now < at + AVOIDED_FOR)
    }
}

/// The target's addresses, and the connections that are not in use. Instants are monotonic nanoseconds.
pub struct Dialer {
    /// The target's addresses, once known, in the resolver's order: the families in turn.
    addresses: Vec<Address>,
    /// Connections that wait for `addresses`.
    resolving: Vec<UpKey>,
    races: Slab<Race>,
    pub pool: Pool,
}

impl Dialer {
    /// A dialer that knows no address yet, and keeps so many idle connections.
    pub fn new(idle_max: usize) -> Self {
        Self { addresses: Vec::new(), resolving: Vec::new(), races: Slab::default(), pool: Pool::new(idle_max) }
    }

    /// True where an address of the target is known.
    pub fn is_resolved(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// A lookup has ended. What was known before stays good where it gave nothing. The connections that waited for it,
    /// which are to be started, or to fail for the reason given.
    pub fn resolved(&mut self, addresses: Result<Vec<SocketAddr>, String>) -> (Vec<UpKey>, Option<String>) {
        let failure = match addresses {
            Ok(addresses) if !addresses.is_empty() => {
                let known = std::mem::take(&mut self.addresses);
                let failed_at = |address| known.iter().find(|known| known.address == address)?.failed_at;
                self.addresses =
                    addresses.into_iter().map(|address| Address { address, failed_at: failed_at(address) }).collect();
                None
            }
            Ok(_) => Some("it has no address".to_owned()),
            Err(error) => Some(error),
        };
        (std::mem::take(&mut self.resolving), failure.filter(|_| !self.is_resolved()))
    }

    /// This connection waits for a lookup no longer.
    pub fn cancel_lookup(&mut self, up: UpKey) {
        self.resolving.retain(|&resolving| resolving != up);
    }

    /// An exchange needs a new connection, which is to be this one: its race, and where to connect to. `None` where it
    /// waits for [`Dialer::resolved`].
    pub fn start(&mut self, now: u64, up: UpKey) -> Option<(RaceKey, SocketAddr)> {
        if !self.is_resolved() {
            self.resolving.push(up);
            return None;
        }
        let mut order: Vec<&Address> = self.addresses.iter().collect();
        order.sort_by_key(|address| address.failed_at.filter(|_| address.is_avoided(now)));
        let untried = order.iter().rev().map(|address| address.address).collect();
        let race = self.races.insert(Race { attempts: Vec::new(), untried });
        Some((race, self.attempt(now, race, up)?))
    }

    /// The next address of a race is tried with this connection.
    pub fn attempt(&mut self, now: u64, race: RaceKey, up: UpKey) -> Option<SocketAddr> {
        let race = self.races.get_mut(race)?;
        let address = race.untried.pop()?;
        let may_race = !race.untried.is_empty() && race.attempts.len() + 1 < ATTEMPTS_MAX;
        let class = if may_race { Class::ConnectDelay } else { Class::Connect };
        race.attempts.push(Attempt { up, address, began: now, class });
        Some(address)
    }

    /// The deadline of an attempt that is connecting. Of a race, only one at a time has [`Class::ConnectDelay`], after
    /// which the next address is tried beside it.
    pub fn class(&self, race: RaceKey, up: UpKey) -> Option<Class> {
        self.races.get(race)?.attempts.iter().find(|attempt| attempt.up == up).map(|attempt| attempt.class)
    }

    /// An attempt has had its [`Class::ConnectDelay`] to itself: [`Dialer::attempt`] is to follow.
    pub fn delay_over(&mut self, race: RaceKey, up: UpKey) {
        let race = self.races.get_mut(race);
        if let Some(attempt) = race.and_then(|race| race.attempts.iter_mut().find(|attempt| attempt.up == up)) {
            attempt.class = Class::ConnectRest;
        }
    }

    /// An attempt has connected, and wins. The others are given up: that is no failure of theirs, and their addresses
    /// are tried again where the winner comes to nothing after all. But whoever was silent until now is avoided.
    pub fn connected(&mut self, now: u64, race: RaceKey, up: UpKey) -> Vec<Loser> {
        let Some(race) = self.races.get_mut(race) else { return Vec::new() };
        let losers: Vec<Attempt> = race.attempts.extract_if(.., |attempt| attempt.up != up).collect();
        race.attempts.iter_mut().for_each(|winner| winner.class = Class::Connect);
        race.untried.splice(0..0, losers.iter().map(|loser| loser.address));
        let given_up = losers.into_iter().map(|loser| {
            let had_time = now >= loser.began + ATTEMPT_DELAY;
            let is_news = had_time && self.mark_failed(now, loser.address);
            Loser { up: loser.up, silent: is_news.then_some(loser.address) }
        });
        given_up.collect()
    }

    /// An attempt has failed, to connect or to shake hands.
    pub fn failed(&mut self, now: u64, key: RaceKey, up: UpKey) -> AfterFailure {
        let Some(race) = self.races.get_mut(key) else { return AfterFailure::GiveUp };
        let failed = race.attempts.extract_if(.., |attempt| attempt.up == up).next();
        let newest = race.attempts.last().map(|attempt| attempt.up);
        let is_delaying = race.attempts.iter().any(|attempt| attempt.class == Class::ConnectDelay);
        let after = match newest {
            _ if !race.untried.is_empty() && !is_delaying => AfterFailure::TryNext(key),
            Some(newest) => AfterFailure::Others(newest),
            None => AfterFailure::GiveUp,
        };
        if after == AfterFailure::GiveUp {
            self.races.remove(key);
        }
        if let Some(failed) = failed {
            self.mark_failed(now, failed.address);
        }
        after
    }

    /// The race's winner can be used: nothing is to be said against its address.
    pub fn ready(&mut self, race: RaceKey) {
        let winner = self.races.remove(race).and_then(|mut race| race.attempts.pop());
        let of_winner = |known: &&mut Address| winner.as_ref().is_some_and(|winner| winner.address == known.address);
        if let Some(known) = self.addresses.iter_mut().find(of_winner) {
            known.failed_at = None;
        }
    }

    /// The race's exchange needs no connection any more. The attempts that were still under way.
    pub fn cancel(&mut self, race: RaceKey) -> Vec<UpKey> {
        let attempts = self.races.remove(race).map(|race| race.attempts).unwrap_or_default();
        attempts.into_iter().map(|attempt| attempt.up).collect()
    }

    /// All attempts that are under way. For tests of leaks.
    pub fn attempts(&self) -> usize {
        self.races.keys().filter_map(|race| self.races.get(race)).map(|race| race.attempts.len()).sum()
    }

    /// An address is tried last for a while; true where it was not avoided already.
    fn mark_failed(&mut self, now: u64, address: SocketAddr) -> bool {
        let known = self.addresses.iter_mut().find(|known| known.address == address);
        known.is_some_and(|known| {
            let is_news = !known.is_avoided(now);
            known.failed_at = Some(now);
            is_news
        })
    }
}

#[cfg(test)]
mod tests;
