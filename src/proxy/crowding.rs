//! Where there are as many connections as there may be: the idlest makes room, and one address does not take all.
//!
//! | connection | goes for another one |
//! |---|---|
//! | between two requests, nothing in flight | at once, the one that has been so for the longest |
//! | told that it is refused, and not closed by its client | after half a second |
//! | without a whole head | after a second |
//! | any other | never: the next client waits, see [`super::client_limit`] |
//!
//! In: the connections' deadlines. Out: which one goes. Never: one with a request in flight.

use super::timing::Class;
use super::{Conn, DownKey};
use crate::base::clock::{MILLISECOND, SECOND};
use crate::base::deadlines::Deadlines;

/// The classes of connections that make room, in order, and how long they are left alone at least, nanoseconds.
const IDLE: [(Class, u64); 3] = [(Class::Idle, 0), (Class::Linger, 500 * MILLISECOND), (Class::Header, SECOND)];

/// Time between two lines of the log about it.
const TOLD_EVERY: u64 = 60 * SECOND;

/// The connection that goes first for another one, and from when on, monotonic nanoseconds.
pub fn idlest(deadlines: &Deadlines<Conn>) -> Option<(DownKey, u64)> {
    let first = |&(class, time): &(Class, u64)| match deadlines.first(class as u8)? {
        (Conn::Down(key), since) => Some((key, if time == 0 { 0 } else { since.saturating_add(time) })),
        (Conn::Up(_), _) => None,
    };
    IDLE.iter().filter_map(first).min_by_key(|(_, from)| *from)
}

/// When the log was told of a crowd.
#[derive(Default)]
pub struct CrowdTold(Option<u64>);

impl CrowdTold {
    /// True where it is to be told now, monotonic nanoseconds.
    pub fn is_due(&mut self, now: u64) -> bool {
        let is_due = self.0.is_none_or(|at| now.saturating_sub(at) >= TOLD_EVERY);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests;
