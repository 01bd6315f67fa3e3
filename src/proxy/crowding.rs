//! Where there are as many connections as there may be: the idlest makes room, and one address does not take all.
//!
//! | connection | goes for another one |
//! |---|---|
//! | between two requests, nothing in flight | at once, the one that has been so for the longest |
//! | told that it is refused, and not closed by its client | after half a second |
//! | without a whole head | after a second |
//! | any other | never: the next client waits, see [`super::client_limit`] |
//!
//! And where an address guesses keys, the refusals wait: a deadline each, while nothing else does.
//!
//! In: a client that has come, a refusal. Out: connections that are closed. Never: the end of a request.

use super::addresses::{Room, network};
use super::downstream::Phase;
use super::key_guesses::presents_key;
use super::refusal::Refusal;
use super::timing::Class;
use super::{Conn, DownKey, Proxy, log_notes};
use crate::base::clock::{MILLISECOND, Now, SECOND};
use crate::http::head::RequestHead;
use crate::http::reply::Fault;
use std::net::IpAddr;

/// The classes of connections that make room, in order, and how long they are left alone at least, nanoseconds.
const IDLE: [(Class, u64); 3] = [(Class::Idle, 0), (Class::Linger, 500 * MILLISECOND), (Class::Header, SECOND)];

/// Time between two lines of the log about it.
const TOLD_EVERY: u64 = 60 * SECOND;

impl Proxy {
    /// True where there are as many clients as there may be.
    pub fn is_full(&self) -> bool {
        self.client_limit.is_full(self.downs.len())
    }

    /// A client is at the door: where there is no place, the idlest connection makes room. True where one did.
    pub fn make_room(&mut self, now: Now) -> bool {
        let idlest = self.idlest().filter(|(_, from)| *from <= now.mono && self.is_full());
        let Some((key, _)) = idlest else { return false };
        self.metrics.connection_evicted();
        self.tell_of_crowd(now, "all connections are taken: idle ones are closed for new ones");
        self.drop_down(now, key);
        true
    }

    /// The connection that goes first for another one, and from when on, monotonic nanoseconds.
    pub(super) fn idlest(&self) -> Option<(DownKey, u64)> {
        let first = |&(class, time): &(Class, u64)| match self.deadlines.first(class as u8)? {
            (Conn::Down(key), since) => Some((key, if time == 0 { 0 } else { since.saturating_add(time) })),
            (Conn::Up(_), _) => None,
        };
        IDLE.iter().filter_map(first).min_by_key(|(_, from)| *from)
    }

    /// Where a client comes from. False where its address has so many connections that this one is closed unheard.
    pub fn comes_from(&mut self, now: Now, key: DownKey, address: IpAddr) -> bool {
        let Some(down) = self.downs.get_mut(key) else { return true };
        let address = network(address);
        down.address = Some(address);
        let room = self.addresses.came(address);
        down.surplus |= room != Room::Enough;
        if room == Room::NotEvenForThat {
            self.metrics.refused(Fault::Overloaded.code());
        }
        if room != Room::Enough {
            self.tell_of_crowd(now, "an address has all the connections that it may have");
        }
        room != Room::NotEvenForThat
    }

    fn tell_of_crowd(&mut self, now: Now, what: &'static str) {
        if self.crowd_told_at.is_none_or(|at| now.mono.saturating_sub(at) >= TOLD_EVERY) {
            self.crowd_told_at = Some(now.mono);
            log_notes::crowd(&mut self.notes, what, self.downs.len());
        }
    }
}

impl Proxy {
    /// True where a request is refused for a wrong key, as too many were lately from its client's address.
    pub(super) fn is_guessed(&mut self, now: Now, key: DownKey, head: &RequestHead<'_, '_>, fault: Fault) -> bool {
        let is_wrong = matches!(fault, Fault::InvalidClientKey | Fault::Unauthorized) && presents_key(&head.headers);
        let address = self.downs.get(key).and_then(|down| down.address).filter(|_| is_wrong);
        address.is_some_and(|address| self.key_guesses.wrong(address, now.mono))
    }

    /// Has a refusal wait, after which the connection closes.
    pub(super) fn refuse_later(&mut self, now: Now, key: DownKey, refusal: &Refusal, to_head: bool) {
        let Some(down) = self.downs.linked_mut(key) else { return };
        down.phase = Phase::Delayed { refusal: Box::new(refusal.clone()), to_head };
        self.retime_down(now, key, false);
    }

    /// A refusal has waited.
    pub(super) fn refuse_after_delay(&mut self, now: Now, key: DownKey) {
        let Some(down) = self.downs.linked_mut(key) else { return };
        let Phase::Delayed { refusal, to_head } = std::mem::take(&mut down.phase) else { return };
        self.write_error(now, key, &refusal, to_head, true);
        self.close_when_sent(now, key);
    }
}

#[cfg(test)]
mod tests;
