//! Connections to the target before they carry anything: which address to connect to next, who waits for a lookup of
//! them, which idle connection to use again, and whether a failed request may be sent once more.
//!
//! In: events of connections, by their keys. Out: decisions. Never: a socket, a connection itself.
//!
//! ```text
//!   start ──▶ Race: attempt ──failed──▶ the next address's ──▶ … ──failed──▶ none is left
//!                      └──ready──▶ (the race is over)
//! ```

pub mod pool;
pub mod resend;

use super::UpKey;
use crate::base::slab::{Key, Slab};
use pool::Pool;
use std::net::SocketAddr;

/// Key of the attempts of one exchange to connect.
pub type RaceKey = Key<Race>;

/// The attempts of one exchange to connect, of which there is always at least one.
pub struct Race {
    attempts: Vec<UpKey>,
    /// The next one last.
    untried: Vec<SocketAddr>,
}

/// What follows of an attempt that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// The next address is to be tried: [`Dialer::attempt`].
    TryNext,
    /// That was the last one, and the race is over.
    GiveUp,
}

/// The target's addresses, and the connections that are not in use.
pub struct Dialer {
    /// The target's addresses, once known.
    addresses: Vec<SocketAddr>,
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

    /// An exchange needs a new connection, which is to be this one: its race, and where to connect to. `None` where it
    /// waits for [`Dialer::resolved`].
    pub fn start(&mut self, up: UpKey) -> Option<(RaceKey, SocketAddr)> {
        let mut untried: Vec<SocketAddr> = self.addresses.iter().rev().copied().collect();
        let Some(address) = untried.pop() else {
            self.resolving.push(up);
            return None;
        };
        Some((self.races.insert(Race { attempts: vec![up], untried }), address))
    }

    /// A lookup has ended. What was known before stays good where it gave nothing. The connections that waited for it,
    /// which are to be started, or to fail for the reason given.
    pub fn resolved(&mut self, addresses: Result<Vec<SocketAddr>, String>) -> (Vec<UpKey>, Option<String>) {
        let failure = match addresses {
            Ok(addresses) if !addresses.is_empty() => {
                self.addresses = addresses;
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

    /// The next address of a race is tried with this connection.
    pub fn attempt(&mut self, race: RaceKey, up: UpKey) -> Option<SocketAddr> {
        let race = self.races.get_mut(race)?;
        let address = race.untried.pop()?;
        race.attempts.push(up);
        Some(address)
    }

    /// An attempt has failed.
    pub fn failed(&mut self, key: RaceKey, up: UpKey) -> AfterFailure {
        let Some(race) = self.races.get_mut(key) else { return AfterFailure::GiveUp };
        race.attempts.retain(|&attempt| attempt != up);
        if race.untried.is_empty() {
            self.races.remove(key);
            return AfterFailure::GiveUp;
        }
        AfterFailure::TryNext
    }

    /// The race's exchange has a connection, or needs none any more. The attempts that were still under way.
    pub fn end(&mut self, race: RaceKey) -> Vec<UpKey> {
        self.races.remove(race).map(|race| race.attempts).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
