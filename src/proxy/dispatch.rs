//! Bringing an exchange and a connection together: from the pool, or a new one; the next address where one does not
//! answer; once more where a kept connection turns out to be dead; and the error where nothing helps.

use super::exchange::{Progress, Stage};
use super::retry::Attempt;
use super::upstream::{Failure, Link, Upstream};
use super::{Action, Conn, ExchangeKey, Proxy, UpKey, notes};
use crate::base::clock::Now;
use crate::base::log::Level;
use crate::usage::record::Outcome;
use std::net::SocketAddr;

impl Proxy {
    /// The request can go out, once the journal has it where one is kept: one that cannot be journaled is not sent.
    pub(super) fn dispatch(&mut self, now: Now, key: ExchangeKey) {
        if !self.settings.journaled {
            return self.forward(now, key);
        }
        let Some(exchange) = self.exchanges.linked_mut(key) else { return };
        exchange.permits -= 1;
        let (seq, down) = (self.permits.open_entry(&mut exchange.draft), exchange.down);
        exchange.stage = Stage::Journaling { seq };
        self.permits.await_commit(seq, key);
        self.retime_down(now, down, false);
    }

    /// Takes a connection for the request. From here on the exchange will have a record.
    pub(super) fn forward(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.stage = Stage::Forwarding;
        while let Some(up_key) = self.pool.take() {
            let Some(up) = self.ups.get_mut(up_key) else { continue };
            up.exchange = Some(key);
            up.link = Link::Looking;
            up.reused = true;
            (up.begun, up.written) = (false, false);
            exchange.up = Some(up_key);
            self.actions.push_back(Action::Look(up_key));
            return self.retime_up(now, up_key, true);
        }
        self.open(now, key);
    }

    /// Opens a connection for an exchange.
    fn open(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let up = self.ups.insert(Upstream::new(key));
        exchange.up = Some(up);
        self.retime_up(now, up, false);
        if self.addresses.is_empty() {
            self.resolving.push(up);
            self.actions.push_back(Action::Resolve);
        } else {
            self.start_connecting(now, up);
        }
    }

    /// The target's addresses are known, or are not to be had. What was known before stays good in the latter case.
    pub fn resolved(&mut self, now: Now, addresses: Result<Vec<SocketAddr>, String>) {
        let failure = match addresses {
            Ok(addresses) if !addresses.is_empty() => {
                self.addresses = addresses;
                None
            }
            Ok(_) => Some("it has no address".to_owned()),
            Err(error) => Some(error),
        };
        for up in std::mem::take(&mut self.resolving) {
            match &failure {
                Some(why) if self.addresses.is_empty() => self.fail_up(now, up, Failure::Resolve(why.clone())),
                _ => self.start_connecting(now, up),
            }
        }
    }

    fn start_connecting(&mut self, now: Now, key: UpKey) {
        let Some(up) = self.ups.get_mut(key) else { return };
        up.addresses = self.addresses.iter().rev().copied().collect();
        self.try_next_address(now, key);
    }

    fn try_next_address(&mut self, now: Now, key: UpKey) {
        let Some(up) = self.ups.get_mut(key) else { return };
        let Some(address) = up.addresses.pop() else { return };
        up.link = Link::Connecting;
        up.timing = None; // each address has the whole time
        self.actions.push_back(Action::Connect { up: key, address });
        notes::connecting(&mut self.notes, address);
        self.retime_up(now, key, false);
    }

    /// A connection is of no more use. Its exchange goes on elsewhere where it may, or ends here.
    pub(super) fn fail_up(&mut self, now: Now, key: UpKey, failure: Failure) {
        let Some(up) = self.ups.get_mut(key) else { return };
        let Some(exchange) = up.exchange.take() else {
            self.pool.remove(key);
            return self.close_up(key);
        };
        let (link, reused, written, begun) = (up.link, up.reused, up.written, up.begun);
        let head_begun = !up.input.is_empty();
        let untried = std::mem::take(&mut up.addresses);
        let is_connecting = matches!(link, Link::Connecting | Link::Handshaking);
        self.metrics.upstream_error(failure.label());
        self.close_up(key);
        if is_connecting && !untried.is_empty() {
            notes::failure(&mut self.notes, Level::Warn, &failure, link, "its next address is tried");
            return self.retry_at(now, exchange, untried);
        }
        let Some(found) = self.exchanges.get_mut(exchange) else { return };
        found.up = None;
        found.request.reached |= written;
        let attempt = Attempt {
            reused,
            written,
            idempotent: found.request.idempotent,
            answered: found.response.progress != Progress::Awaited || found.response.interim > 0 || head_begun,
            replayable: found.request.outgoing.is_replayable(),
            retried: found.request.retried,
        };
        let lost = match failure {
            Failure::Closed | Failure::Broken(_) => true,
            // What a kept connection said before our request cannot be an answer to it: a 408 on its way to the pool.
            Failure::Protocol(_) | Failure::Tls(_) => !begun,
            Failure::Resolve(_) | Failure::Timeout => false,
        };
        if found.abandoned {
            return self.end_abandoned(now, exchange);
        }
        if lost && attempt.verdict().is_ok() {
            found.request.retried = true;
            found.request.outgoing.rewind();
            notes::failure(&mut self.notes, Level::Debug, &failure, link, "the request is sent once more");
            return self.open(now, exchange);
        }
        if is_connecting {
            self.actions.push_back(Action::Resolve); // perhaps the target has moved
        }
        notes::failure(&mut self.notes, Level::Warn, &failure, link, "the request has failed");
        self.fail_exchange(now, exchange, &failure, link);
    }

    /// Goes on with the addresses that were not tried yet.
    fn retry_at(&mut self, now: Now, exchange: ExchangeKey, untried: Vec<SocketAddr>) {
        let Some(found) = self.exchanges.get_mut(exchange) else { return };
        let up = self.ups.insert(Upstream { addresses: untried, ..Upstream::new(exchange) });
        found.up = Some(up);
        self.try_next_address(now, up);
    }

    /// The exchange cannot be completed: an error, where the client can still be told; else its stream is cut.
    fn fail_exchange(&mut self, now: Now, key: ExchangeKey, failure: &Failure, link: Link) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        if exchange.response.progress == Progress::Awaited {
            let fault = failure.fault(link);
            self.write_exchange_error(now, key, fault, &failure.message(link));
            self.settle(now, key, Outcome::UpstreamError);
            self.hold_or_release(now, key);
        } else {
            self.cut(now, key);
        }
    }

    /// The exchange's response is complete: the connection is free for the next, or closed.
    pub(super) fn free_up(&mut self, now: Now, key: UpKey, reusable: bool) {
        let Some(up) = self.ups.get_mut(key) else { return };
        up.exchange = None;
        if reusable && !self.draining && up.link == Link::Ready && up.input.is_empty() && self.pool.put(key) {
            self.retime_up(now, key, false);
        } else {
            self.close_up(key);
        }
    }

    /// Frees the slot and closes the socket, with TLS' own goodbye.
    pub(super) fn close_up(&mut self, key: UpKey) {
        let Some(mut up) = self.ups.remove(key) else { return };
        self.deadlines.cancel(&mut up.timer);
        let mut last = up.cipher.as_slice().to_vec();
        if let Some(session) = &mut up.tls {
            session.close(&mut last);
        }
        self.resolving.retain(|&resolving| resolving != key);
        self.actions.push_back(Action::Close { conn: Conn::Up(key), last, reset: false });
    }
}
