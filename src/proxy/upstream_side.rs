//! The proxy's side of the target: brings exchanges and connections together, and hands bytes on between the two. What
//! a connection does is decided in [`super::upstream`], what to connect to in [`super::dialer`].
//!
//! In: requests that can go out, what happens to the target's connections. Out: actions, plaintext of responses. Never:
//! a response's meaning.

use super::dialer::resend::Resend;
use super::dialer::{AfterFailure, Loser, RaceKey};
use super::exchange::{Progress, Stage};
use super::timing::Class;
use super::tunnel::Tunnel;
use super::upstream::{Failure, Link, Received, Upstream};
use super::{Action, Conn, ExchangeKey, HIGH_WATERMARK, Proxy, UpKey, Written};
use crate::base::clock::Now;
use crate::base::log::Level;
use crate::usage::record::Outcome;
use std::io::ErrorKind;
use std::net::SocketAddr;

impl Proxy {
    /// The request can go out, once the journal has it where one is kept.
    pub(super) fn dispatch(&mut self, now: Now, key: ExchangeKey) {
        if self.settings.journaled {
            self.open_entry(now, key);
        } else {
            self.forward(now, key);
        }
    }

    /// Takes a connection for the request. From here on the exchange will have a record.
    pub(super) fn forward(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return debug_assert!(false, "no exchange") };
        exchange.stage = Stage::Forwarding;
        let Some(up_key) = self.dialer.pool.take() else { return self.open(now, key) };
        exchange.up = Some(up_key);
        self.ups.get_mut(up_key).expect("what is in the pool is open").reuse(key);
        self.actions.push_back(Action::Look(up_key));
        self.retime_up(now, up_key, true);
    }

    /// Opens a connection for an exchange.
    fn open(&mut self, now: Now, exchange: ExchangeKey) {
        let up = self.add_up(exchange);
        self.start_connecting(now, up);
    }

    /// A new connection for an exchange, which is nowhere yet.
    fn add_up(&mut self, exchange: ExchangeKey) -> UpKey {
        let up = self.ups.insert(Upstream::new(exchange));
        self.set_up(exchange, up);
        up
    }

    fn set_up(&mut self, exchange: ExchangeKey, up: UpKey) {
        let Some(found) = self.exchanges.get_mut(exchange) else { return debug_assert!(false, "no exchange") };
        found.up = Some(up);
    }

    fn start_connecting(&mut self, now: Now, up: UpKey) {
        match self.dialer.start(now.mono, up) {
            Some((race, address)) => self.connect(now, up, race, address),
            None => {
                self.actions.push_back(Action::Resolve);
                self.retime_up(now, up, false);
            }
        }
    }

    /// The target's addresses are known, or are not to be had. What was known before stays good in the latter case.
    pub fn resolved(&mut self, now: Now, addresses: Result<Vec<SocketAddr>, String>) {
        let (waiting, failure) = self.dialer.resolved(addresses);
        for up in waiting {
            match &failure {
                Some(why) => self.fail_up(now, up, Failure::Resolve(why.clone())),
                None => self.start_connecting(now, up),
            }
        }
    }

    /// An exchange's next attempt to connect.
    fn attempt(&mut self, now: Now, exchange: ExchangeKey, race: RaceKey) {
        let up = self.add_up(exchange);
        let address = self.dialer.attempt(now.mono, race, up).expect("there is another address");
        self.connect(now, up, race, address);
    }

    /// An attempt to connect has been silent for a while: the next one begins beside it.
    fn attempt_beside(&mut self, now: Now, key: UpKey) {
        let Some((exchange, race)) = self.ups.get(key).and_then(|up| up.exchange.zip(up.link.race())) else {
            return debug_assert!(false, "no attempt");
        };
        self.dialer.delay_over(race, key);
        self.retime_up(now, key, false);
        self.attempt(now, exchange, race);
    }

    fn connect(&mut self, now: Now, key: UpKey, race: RaceKey, address: SocketAddr) {
        let Some(up) = self.ups.get_mut(key) else { return debug_assert!(false, "no connection") };
        up.link = Link::Connecting(race);
        self.actions.push_back(Action::Connect { up: key, address });
        self.note_connecting(address);
        self.retime_up(now, key, false);
    }

    /// The socket of [`Action::Connect`] is connected.
    pub fn connected(&mut self, now: Now, key: UpKey) {
        let Some(up) = self.ups.get_mut(key) else { return };
        let (Link::Connecting(race), Some(exchange)) = (up.link, up.exchange) else { return };
        for Loser { up: loser, silent } in self.dialer.connected(now.mono, race, key) {
            self.remove_up(loser);
            self.note_silent(silent);
        }
        self.set_up(exchange, key);
        let Some(up) = self.ups.get_mut(key) else { return };
        let Some(connector) = &self.settings.tls else { return self.link_ready(now, key) };
        up.link = Link::Handshaking(race);
        match up.start_tls(connector) {
            Ok(()) => {
                self.actions.push_back(Action::Flush(Conn::Up(key)));
                self.retime_up(now, key, false);
            }
            Err(error) => self.fail_up(now, key, Failure::Tls(error)),
        }
    }

    /// All that had come was read: a connection from the pool that is still there can be used; one that broke while it
    /// was written to is of no more use.
    pub fn looked(&mut self, now: Now, key: UpKey) {
        let Some(up) = self.ups.get(key) else { return };
        match (up.broken, up.link) {
            (Some(why), _) => self.upstream_broke(now, key, why),
            (None, Link::Looking) => self.link_ready(now, key),
            (None, _) => {}
        }
    }

    fn link_ready(&mut self, now: Now, key: UpKey) {
        let Some(up) = self.ups.get_mut(key) else { return };
        if let Some(race) = std::mem::replace(&mut up.link, Link::Ready).race() {
            self.dialer.ready(race);
        }
        self.actions.push_back(Action::Flush(Conn::Up(key)));
        self.retime_up(now, key, true);
    }

    /// A connection is of no more use. Its exchange goes on elsewhere where it may, or ends here.
    pub(super) fn fail_up(&mut self, now: Now, key: UpKey, failure: Failure) {
        let Some(up) = self.ups.get_mut(key) else { return };
        let Some(exchange) = up.exchange.take() else {
            self.dialer.pool.remove(key);
            return self.close_up(key);
        };
        self.metrics.upstream_error(failure.label());
        let link = up.link;
        let after = link.race().map_or(AfterFailure::GiveUp, |race| self.dialer.failed(now.mono, race, key));
        if after == AfterFailure::GiveUp {
            return self.fail_request(now, key, exchange, &failure);
        }
        self.remove_up(key);
        self.note_failure(Level::Warn, &failure, link, "its next address is tried");
        match after {
            AfterFailure::TryNext(race) => self.attempt(now, exchange, race),
            AfterFailure::Others(other) => self.set_up(exchange, other),
            AfterFailure::GiveUp => {}
        }
    }

    /// The request's connection is of no more use, and there is no other address: it is sent once more, or has failed.
    fn fail_request(&mut self, now: Now, key: UpKey, exchange: ExchangeKey, failure: &Failure) {
        let Some(up) = self.ups.get(key) else { return };
        let (link, reused, begun, written) = (up.link, up.reused, up.has_begun(), up.has_written());
        let head_begun = !up.input.is_empty();
        self.close_up(key);
        let Some(found) = self.exchanges.get_mut(exchange) else { return debug_assert!(false, "no exchange") };
        found.up = None;
        found.request.reached |= written;
        let resend = Resend {
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
        if lost && resend.verdict().is_ok() {
            found.request.retried = true;
            found.request.outgoing.rewind();
            self.note_failure(Level::Debug, failure, link, "the request is sent once more");
            return self.open(now, exchange);
        }
        if link.race().is_some() {
            self.actions.push_back(Action::Resolve); // perhaps the target has moved
        }
        self.note_failure(Level::Warn, failure, link, "the request has failed");
        self.fail_exchange(now, exchange, failure, link);
    }

    /// The exchange cannot be completed: an error, where the client can still be told; else its stream is cut.
    fn fail_exchange(&mut self, now: Now, key: ExchangeKey, failure: &Failure, link: Link) {
        let Some(exchange) = self.exchanges.get(key) else { return debug_assert!(false, "no exchange") };
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
        let Some(up) = self.ups.get_mut(key) else { return debug_assert!(false, "no connection") };
        up.exchange = None;
        let is_kept = reusable && !self.draining && up.link == Link::Ready && up.input.is_empty();
        if is_kept && self.dialer.pool.put(key) {
            self.retime_up(now, key, false);
        } else {
            self.close_up(key);
        }
    }

    /// An exchange's connection is closed, with all attempts to get it one.
    pub(super) fn close_up(&mut self, key: UpKey) {
        let Some(up) = self.ups.get(key) else { return };
        match up.link {
            Link::Resolving => self.dialer.cancel_lookup(key),
            Link::Connecting(race) | Link::Handshaking(race) => {
                self.dialer.cancel(race).into_iter().for_each(|attempt| self.remove_up(attempt));
            }
            Link::Looking | Link::Ready => {}
        }
        self.remove_up(key);
    }

    /// Frees the slot and closes the socket.
    fn remove_up(&mut self, key: UpKey) {
        let Some(mut up) = self.ups.remove(key) else { return };
        self.deadlines.cancel(&mut up.timer);
        self.actions.push_back(Action::Close { conn: Conn::Up(key), last: up.close(), reset: false });
    }

    /// True where reading from the target makes sense now: always, but for a client that does not keep up.
    pub(super) fn wants_upstream_bytes(&self, key: UpKey) -> bool {
        let Some(up) = self.ups.get(key) else { return false };
        let exchange = up.exchange.and_then(|exchange| self.exchanges.get(exchange));
        let down = exchange.and_then(|exchange| self.downs.get(exchange.down));
        let waits = self.tunnel_of(key).is_some_and(Tunnel::is_paused);
        up.link != Link::Resolving && !waits && down.is_none_or(|down| down.out.len() < HIGH_WATERMARK)
    }

    pub(super) fn upstream_bytes(&mut self, now: Now, key: UpKey, bytes: &mut [u8]) {
        let Some(up) = self.ups.get_mut(key) else { return };
        let mut scratch = std::mem::take(&mut self.tls);
        let Received { plain, replies, tls } = up.receive(bytes, &mut scratch);
        if replies {
            self.actions.push_back(Action::Flush(Conn::Up(key)));
        }
        self.upstream_plain(now, key, plain);
        self.tls = scratch;
        let closed = match tls {
            Err(error) => return self.fail_up(now, key, Failure::Tls(error)),
            Ok(progress) if progress.ready => {
                self.link_ready(now, key);
                progress.closed
            }
            Ok(progress) => progress.closed,
        };
        if closed {
            self.upstream_ended(now, key);
        }
        self.retime_up(now, key, true);
    }

    pub(super) fn flush_up(&mut self, now: Now, key: UpKey, write: &mut dyn FnMut(&[u8]) -> Written) {
        match self.write_up(key, write) {
            // A target that refuses a request before it has read it may answer, close, and so reset the connection: the
            // answer has come then, and must be read before the reset counts.
            Err(Failure::Broken(why)) => {
                if let Some(up) = self.ups.get_mut(key) {
                    up.broken = Some(why);
                    let exchange = up.exchange.and_then(|exchange| self.exchanges.get_mut(exchange));
                    drop(exchange.map(|exchange| exchange.request.outgoing.take_stream()));
                }
                self.resume_client(key);
                self.actions.push_back(Action::Look(key));
            }
            Err(failure) => self.fail_up(now, key, failure),
            Ok(progress) => {
                self.retime_up(now, key, progress);
                // Only then: what a client sends on asks for a flush again.
                if progress {
                    self.resume_client(key);
                    self.forget_sent_body(key);
                }
            }
        }
    }

    fn write_up(&mut self, key: UpKey, write: &mut dyn FnMut(&[u8]) -> Written) -> Result<bool, Failure> {
        let Some(up) = self.ups.get_mut(key).filter(|up| up.broken.is_none()) else { return Ok(false) };
        let exchange = up.exchange.filter(|_| up.link == Link::Ready);
        let Some((key, exchange)) = exchange.and_then(|key| Some((key, self.exchanges.get_mut(key)?))) else {
            return up.send_waiting(write);
        };
        let had_begun = up.has_begun();
        let outcome = up.send(&mut exchange.request.outgoing, &mut self.tls, write);
        if up.has_begun() && !had_begun {
            self.dispatched.push(key);
        }
        outcome
    }

    /// The client's body may go on where it had to wait for this connection.
    fn resume_client(&mut self, key: UpKey) {
        let exchange = self.ups.get(key).and_then(|up| self.exchanges.get(up.exchange?));
        if let Some(exchange) = exchange.filter(|exchange| !exchange.request.complete) {
            self.actions.push_back(Action::Read(Conn::Down(exchange.down)));
        }
    }

    /// Puts bytes out as the last ones before the connection is closed; as far as the socket takes them.
    pub(super) fn say_last(&mut self, key: UpKey, words: &[u8]) {
        if let Some(up) = self.ups.get_mut(key).filter(|up| up.link == Link::Ready) {
            up.say_last(words);
        }
    }

    /// An error instead of an end. What came before it is relayed first, where it has to wait.
    pub(super) fn upstream_broke(&mut self, now: Now, key: UpKey, why: ErrorKind) {
        if !self.puts_end_off(key, Err(why)) {
            self.fail_up(now, key, Failure::Broken(why));
        }
    }

    pub(super) fn upstream_ended(&mut self, now: Now, key: UpKey) {
        if self.puts_end_off(key, Ok(())) {
            return;
        }
        let is_clean = self.ups.get(key).is_some_and(Upstream::ends_cleanly);
        if !(is_clean && self.response_ends_here(now, key)) {
            self.fail_up(now, key, Failure::Closed);
        }
    }

    pub(super) fn expire_up(&mut self, now: Now, key: UpKey, class: Class) {
        match class {
            Class::Pool => {
                self.dialer.pool.remove(key);
                self.close_up(key);
            }
            Class::ConnectDelay => self.attempt_beside(now, key),
            _ => self.fail_up(now, key, Failure::Timeout),
        }
    }

    /// Arms the deadline that the connection's state asks for; `progress` says that bytes have moved.
    pub(super) fn retime_up(&mut self, now: Now, key: UpKey, progress: bool) {
        let Some(up) = self.ups.get_mut(key) else { return };
        let exchange = up.exchange.and_then(|exchange| self.exchanges.get(exchange));
        let connect = up.link.race().and_then(|race| self.dialer.class(race, key));
        if !up.retime(now, connect, exchange, progress, self.settings.timeouts.response) {
            return;
        }
        match up.timing {
            Some(class) => self.deadlines.arm(&mut up.timer, class as u8, Conn::Up(key), now.mono),
            None => self.deadlines.cancel(&mut up.timer),
        }
    }
}

#[cfg(test)]
mod tests;
