//! The bound on all request bodies that are held in memory together: beyond it, clients are not read from.
//!
//! ```text
//!   body bytes that fit ──▶ held        ┌──── a body is sent on, withdrawn or aborted: what fits goes on, in order
//!          │ that do not fit            ▼
//!          └──▶ the client is paused, last in the queue ──▶ (reading again)
//!                      │ nobody is favoured: at once
//!                      ▼
//!               favoured: goes on whatever the sum is, until its body is sent on or given up
//! ```
//!
//! Several bodies that are half received could fill the bound and wait for each other for ever. So one exchange, the
//! first of those that wait, goes on up to `MAX_BODY_BYTES`: it ends, and lets the next one go on. What is held is thus
//! at most the bound and one body more. Counted is what a body occupies, not how long it is.
//!
//! A client that is paused here is not timed: it is us whom it waits for. One that is favoured while others wait has
//! to get on as quickly as with a head, or everybody would wait for a client that has fallen silent.

use super::downstream::{Phase, Sink};
use super::exchange::{Exchange, Stage};
use super::{Action, Conn, DownKey, ExchangeKey, Proxy, UpKey};
use crate::base::clock::Now;
use crate::http::body::BodyReader;
use crate::http::reply::Fault;
use std::collections::VecDeque;

/// The sum of what is held, and who waits for it to fall.
#[derive(Default)]
pub struct Buffered {
    /// Bytes of memory.
    bytes: usize,
    /// Exchanges whose client is paused, in the order in which they were.
    paused: VecDeque<ExchangeKey>,
    /// The one exchange that need not fit.
    favoured: Option<ExchangeKey>,
}

impl Buffered {
    /// Bytes of memory that held bodies occupy.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True where somebody waits although nobody is favoured, whose end would let them go on.
    pub fn is_stuck(&self) -> bool {
        self.favoured.is_none() && !self.paused.is_empty()
    }
}

impl Proxy {
    /// True where these bytes of a body that is held must wait for others to be gone; their client is paused then.
    pub(super) fn must_wait(&mut self, now: Now, key: DownKey, count: usize) -> bool {
        let Some(exchange) = self.downs.get(key).and_then(|down| down.exchange) else { return false };
        if !self.needs_more_than_is_left(key, count) || self.buffered.favoured == Some(exchange) {
            return false;
        }
        let Some(favoured) = self.buffered.favoured else {
            self.buffered.favoured = Some(exchange);
            return false;
        };
        let Some(found) = self.exchanges.get_mut(exchange) else { return false };
        if !std::mem::replace(&mut found.request.outgoing.paused, true) {
            self.buffered.paused.push_back(exchange);
            if let Some(holder) = self.exchanges.get(favoured).map(|favoured| favoured.down) {
                self.retime_down(now, holder, false);
            }
        }
        true
    }

    /// True for the client whose body others wait for.
    pub(super) fn holds_up_others(&self, key: DownKey) -> bool {
        let favoured = self.buffered.favoured.filter(|_| !self.buffered.paused.is_empty());
        favoured.is_some() && self.downs.get(key).is_some_and(|down| down.exchange == favoured)
    }

    fn needs_more_than_is_left(&self, key: DownKey, count: usize) -> bool {
        let needed = self.growth(key, count);
        needed > 0 && self.buffered.bytes + needed > self.settings.buffered_bytes_max
    }

    /// Memory that the client's held body takes in addition once `count` more bytes of it have come.
    fn growth(&self, key: DownKey, count: usize) -> usize {
        let Some(down) = self.downs.get(key) else { return 0 };
        let Phase::Body { reader, sink: Sink::Hold } = &down.phase else { return 0 };
        let Some(exchange) = down.exchange.and_then(|exchange| self.exchanges.get(exchange)) else { return 0 };
        let have = exchange.request.outgoing.body.len();
        let most = self.body_bytes_most(reader, have);
        exchange.request.outgoing.growth(count.min(most - have), most)
    }

    /// The most bytes that a held body can have in the end, of which so many are here.
    fn body_bytes_most(&self, reader: &BodyReader, have: usize) -> usize {
        let most = usize::try_from(self.settings.body_bytes_max).unwrap_or(usize::MAX);
        match reader {
            BodyReader::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX).saturating_add(have),
            BodyReader::Chunked(_) | BodyReader::Close => most.max(have),
        }
    }

    /// Takes a piece of a body that is held; false where it is too much, and refused.
    pub(super) fn hold(&mut self, now: Now, key: DownKey, data: &[u8]) -> bool {
        let Some(down) = self.downs.get(key) else { return false };
        let Phase::Body { reader, .. } = &down.phase else { return false };
        let Some(owner) = down.exchange else { return false };
        let Some(have) = self.exchanges.get(owner).map(|exchange| exchange.request.outgoing.body.len()) else {
            return false;
        };
        let most = self.body_bytes_most(reader, have + data.len());
        let Some(exchange) = self.exchanges.get_mut(owner) else { return false };
        exchange.draft.request_bytes += data.len() as u64;
        if exchange.draft.request_bytes > self.settings.body_bytes_max {
            self.refuse_and_close(now, key, Fault::BodyTooLarge, "the request's body is too large");
            return false;
        }
        exchange.request.outgoing.hold(data, most);
        self.recount(owner);
        true
    }

    /// What an exchange holds has changed.
    pub(super) fn recount(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let outgoing = &mut exchange.request.outgoing;
        let (before, now) = (outgoing.counted, outgoing.held_bytes());
        outgoing.counted = now;
        self.buffered.bytes = self.buffered.bytes - before + now;
        if now == 0 && exchange.stage != Stage::Receiving && self.buffered.favoured == Some(key) {
            self.buffered.favoured = None;
        }
        if now < before {
            self.read_on_what_fits();
        }
    }

    /// An exchange is gone, and what it held with it.
    pub(super) fn uncount(&mut self, key: ExchangeKey, exchange: &Exchange) {
        let outgoing = &exchange.request.outgoing;
        self.buffered.bytes -= outgoing.counted;
        if outgoing.paused {
            self.buffered.paused.retain(|&paused| paused != key);
        }
        let was_favoured = self.buffered.favoured == Some(key);
        if was_favoured {
            self.buffered.favoured = None;
        }
        if was_favoured || outgoing.counted > 0 {
            self.read_on_what_fits();
        }
    }

    /// The whole request is with the target: what cannot be sent again is not kept. Nor is anything kept on the chance
    /// of a retry while others wait for its memory.
    pub(super) fn forget_sent_body(&mut self, up: UpKey) {
        let Some(found) = self.ups.get(up).filter(|up| up.cipher.is_empty()) else { return };
        let Some((key, reused)) = found.exchange.map(|key| (key, found.reused)) else { return };
        let is_wanted = self.buffered.favoured == Some(key) || !self.buffered.paused.is_empty();
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let request = &mut exchange.request;
        let may_repeat = reused && request.idempotent && !request.retried && !is_wanted;
        if request.outgoing.counted > 0 && request.complete && request.outgoing.is_sent() && !may_repeat {
            request.outgoing.forget_sent();
            self.recount(key);
        }
    }

    /// Lets paused clients go on, in order, as far as what they have sent fits; the first one in any case where nobody
    /// is favoured.
    fn read_on_what_fits(&mut self) {
        let mut room = self.settings.buffered_bytes_max.saturating_sub(self.buffered.bytes);
        while let Some(&key) = self.buffered.paused.front() {
            let Some(down) = self.exchanges.get(key).map(|exchange| exchange.down) else {
                self.buffered.paused.pop_front();
                continue;
            };
            let waiting = self.downs.get(down).map_or(0, |down| down.input.len());
            let needed = self.growth(down, waiting);
            if self.buffered.favoured.is_none() {
                self.buffered.favoured = Some(key);
            } else if needed > room {
                return;
            }
            room = room.saturating_sub(needed);
            self.buffered.paused.pop_front();
            if let Some(exchange) = self.exchanges.get_mut(key) {
                exchange.request.outgoing.paused = false;
            }
            self.actions.push_back(Action::Read(Conn::Down(down)));
        }
    }
}

#[cfg(test)]
mod tests;
