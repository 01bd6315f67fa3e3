//! The target's side of the proxy: brings exchanges and connections together, and hands bytes on between the two; a
//! response on its way to the client, and WebSockets.
//!
//! What a connection does is decided in [`super::upstream`], what to connect to in [`super::dialer`], what a response's
//! head and body mean in [`super::response`] and [`super::tunnel`].
//!
//! In: requests that can go out, what happens to the target's connections. Out: actions, bytes for clients.

use super::dialer::resend::Resend;
use super::dialer::{AfterFailure, Loser, RaceKey};
use super::downstream::{AfterReply, Phase, Sink};
use super::exchange::{Exchange, ModelName, Progress, Stage};
use super::failure::{Failure, Reached};
use super::forward::ClientHead;
use super::outgoing::Outgoing;
use super::refusal::Refusal;
use super::response::{EDITED_BYTES_KEPT, Next, body_pieces, put_piece};
use super::timing::Class;
use super::tls_scratch::Received;
use super::tunnel::{Part, Tunnel};
use super::upstream::{Link, Upstream, reached};
use super::usage_asking::Held;
use super::{
    Action, Conn, DownKey, ExchangeKey, HIGH_WATERMARK, Proxy, UpKey, Written, forward, log_notes, request_estimate,
    settlement,
};
use crate::base::clock::{MICROSECOND, Now};
use crate::base::log::Level;
use crate::http::HttpError;
use crate::http::body::BodyReader;
use crate::http::head::{self, HeadEnd, ResponseHead};
use crate::http::reply::Fault;
use crate::limit::levels::{LimitLevel, Payer};
use crate::usage::record::{Endpoint, Outcome};
use std::io::ErrorKind;
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
        log_notes::connecting(&mut self.notes, address);
        self.retime_up(now, key, false);
    }

    /// The socket of [`Action::Connect`] is connected.
    pub fn connected(&mut self, now: Now, key: UpKey) {
        let Some(up) = self.ups.get_mut(key) else { return };
        let (Link::Connecting(race), Some(exchange)) = (up.link, up.exchange) else { return };
        for Loser { up: loser, silent } in self.dialer.connected(now.mono, race, key) {
            self.remove_up(loser);
            if let Some(address) = silent {
                log_notes::silent(&mut self.notes, address);
            }
        }
        self.set_up(exchange, key);
        let Some(request) = &self.settings.egress else { return self.connected_through(now, key, race) };
        let Some(up) = self.ups.get_mut(key) else { return };
        up.link = Link::Egress(race);
        up.start_egress(request);
        self.actions.push_back(Action::Flush(Conn::Up(key)));
        self.retime_up(now, key, false);
    }

    /// There is a connection to the target itself, or a tunnel to it.
    fn connected_through(&mut self, now: Now, key: UpKey, race: RaceKey) {
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
        let Some(up) = self.ups.get(key) else { return };
        let tunnel = up.exchange.and_then(|exchange| Some((exchange, self.exchanges.get(exchange)?.tunnel.as_ref()?)));
        if let Some((exchange, _)) = tunnel.filter(|(_, tunnel)| tunnel.is_leaving()) {
            return self.session_over(now, exchange);
        }
        let Some(up) = self.ups.get_mut(key) else { return };
        let Some(exchange) = up.exchange.take() else {
            self.dialer.pool.remove(key);
            return self.close_up(key);
        };
        self.metrics.upstream_error(failure.label(), now.mono);
        let link = up.link;
        let after = link.race().map_or(AfterFailure::GiveUp, |race| self.dialer.failed(now.mono, race, key));
        if after == AfterFailure::GiveUp {
            return self.fail_request(now, key, exchange, &failure);
        }
        self.remove_up(key);
        let reached = link.reached(self.settings.egress.is_some());
        log_notes::failure(&mut self.notes, Level::Warn, &failure, reached, "its next address is tried");
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
        let reached = reached(link, self.settings.egress.is_some(), head_begun, found);
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
            Failure::Resolve(_) | Failure::Egress(_) | Failure::Timeout => false,
        };
        if found.abandoned {
            return self.end_abandoned(now, exchange);
        }
        if lost && resend.is_allowed() {
            found.request.retried = true;
            found.request.outgoing.rewind();
            log_notes::failure(&mut self.notes, Level::Debug, failure, reached, "the request is sent once more");
            return self.open(now, exchange);
        }
        if link.race().is_some() {
            self.actions.push_back(Action::Resolve); // perhaps the target has moved
        }
        log_notes::failure(&mut self.notes, Level::Warn, failure, reached, "the request has failed");
        self.fail_exchange(now, exchange, failure, reached);
    }

    /// The exchange cannot be completed: an error, where the client can still be told; else its stream is cut.
    fn fail_exchange(&mut self, now: Now, key: ExchangeKey, failure: &Failure, reached: Reached) {
        let Some(exchange) = self.exchanges.get(key) else { return debug_assert!(false, "no exchange") };
        if exchange.response.progress == Progress::Awaited {
            let fault = failure.fault(reached);
            self.write_exchange_error(now, key, fault, failure.message(reached).into());
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
            Link::Connecting(race) | Link::Egress(race) | Link::Handshaking(race) => {
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
        let tunnel = self.tunnel_of(key);
        let waits = up.postponed || tunnel.is_some_and(Tunnel::is_paused);
        // What comes of one that is left is not for the client.
        let has_room = || tunnel.is_some_and(Tunnel::is_leaving) || self.client_has_room(key);
        up.link != Link::Resolving && !waits && has_room()
    }

    /// True where the client of a connection's exchange keeps up, or is gone.
    fn client_has_room(&self, key: UpKey) -> bool {
        let down = self.exchange_of(key).and_then(|exchange| self.downs.get(exchange.down));
        down.is_none_or(|down| down.waiting() < HIGH_WATERMARK)
    }

    /// What of these bytes comes from the target: nothing, while the proxy on the way out is asked for a tunnel.
    fn behind_egress<'b>(&mut self, now: Now, key: UpKey, bytes: &'b mut [u8]) -> Option<&'b mut [u8]> {
        let up = self.ups.get_mut(key)?;
        let Link::Egress(race) = up.link else { return Some(bytes) };
        match up.take_answer(bytes) {
            Ok(Some(used)) => {
                self.connected_through(now, key, race);
                Some(&mut bytes[used..]).filter(|bytes| !bytes.is_empty())
            }
            Ok(None) => None,
            Err(error) => {
                self.fail_up(now, key, Failure::Egress(error));
                None
            }
        }
    }

    pub(super) fn upstream_bytes(&mut self, now: Now, key: UpKey, bytes: &mut [u8]) {
        let Some(bytes) = self.behind_egress(now, key, bytes) else { return };
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
                    // Before it is ready, all of the request is still for another connection.
                    let exchange = up.exchange.filter(|_| up.link == Link::Ready);
                    let exchange = exchange.and_then(|exchange| self.exchanges.get_mut(exchange));
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
        if let Some(exchange) = self.exchange_of(key).filter(|exchange| !exchange.request.complete) {
            self.actions.push_back(Action::Read(Conn::Down(exchange.down)));
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
        if is_clean && self.held_ended(now, key) {
            return;
        }
        let exchange = self.ups.get(key).and_then(|up| up.exchange);
        match (exchange, self.exchange_of(key)) {
            (Some(exchange), Some(found)) if is_clean && found.response.ends_by_closing() => {
                self.response_complete(now, exchange, false);
            }
            _ => self.fail_up(now, key, Failure::Closed),
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

// ----------------------------------------------------------------------------------------------------------- responses

/// How much of compressed bodies is decoded in a turn, of one connection, bytes: a millisecond's work or two.
const DECODED_BYTES_A_TURN: u64 = 128 * 1024;
/// How much of a compressed body is decoded at a time, bytes, which may become a thousand times as many.
const COMPRESSED_BYTES: usize = 256;

impl Proxy {
    /// Decrypted bytes of a connection to the target.
    pub(super) fn upstream_plain(&mut self, now: Now, key: UpKey, bytes: &[u8]) {
        let (mut rest, decoded_before) = (bytes, self.decoded_bytes(key));
        while !rest.is_empty() {
            let decoded = self.decoded_bytes(key);
            if decoded.unwrap_or(0) >= decoded_before.unwrap_or(0) + DECODED_BYTES_A_TURN {
                return self.postpone(key, rest);
            }
            let piece = &rest[..rest.len().min(decoded.map_or(usize::MAX, |_| COMPRESSED_BYTES))];
            let Some(up) = self.ups.get(key) else { return };
            let Some(exchange) = up.exchange.filter(|_| up.has_begun()) else {
                // Bytes that nobody asked for: whatever they are, the next response could not be told from them.
                return self.fail_up(now, key, Failure::Protocol(HttpError::Malformed("bytes outside of a response")));
            };
            match self.response_bytes(now, key, exchange, piece) {
                Ok(Next::Bytes(used)) => rest = &rest[used..],
                Ok(Next::Wait) => rest = &rest[piece.len()..],
                Ok(Next::Later) => {
                    let Some(up) = self.ups.linked_mut(key) else { return };
                    return up.input.append(rest);
                }
                Ok(Next::Complete(used)) => {
                    let junk_follows = used < rest.len();
                    return self.response_complete(now, exchange, !junk_follows);
                }
                Err(error) => return self.fail_up(now, key, Failure::Protocol(error)),
            }
        }
    }

    /// Bytes that were decoded of a compressed body so far; `None` for any other.
    fn decoded_bytes(&self, key: UpKey) -> Option<u64> {
        self.exchange_of(key)?.response.usage_reader.decoded_bytes()
    }

    /// A compressed body has taken its time in this turn.
    fn postpone(&mut self, key: UpKey, rest: &[u8]) {
        let Some(up) = self.ups.linked_mut(key) else { return };
        up.input.append(rest);
        up.postponed = true;
        self.postponed.push_back(key);
    }

    /// One of those whose time was up in an earlier turn goes on; where its client does not keep up, it is
    /// [`Proxy::advance_upstream`] that has it wait for its turn again.
    pub(super) fn read_postponed(&mut self, now: Now) {
        let Some(key) = self.postponed.pop_front() else { return };
        let has_room = self.client_has_room(key);
        let Some(up) = self.ups.get_mut(key).filter(|_| has_room) else { return };
        up.postponed = false;
        self.read_waiting(now, key);
        self.actions.push_back(Action::Read(Conn::Up(key)));
    }

    fn response_bytes(&mut self, now: Now, key: UpKey, exchange: ExchangeKey, bytes: &[u8]) -> Result<Next, HttpError> {
        let Some(found) = self.exchanges.linked(exchange) else { return Ok(Next::Wait) };
        let Some(up) = self.ups.linked_mut(key) else { return Ok(Next::Wait) };
        if found.response.progress != Progress::Awaited {
            // Of a tunnel, what came before may still wait.
            return if up.input.is_empty() { self.body(now, exchange, bytes) } else { Ok(Next::Later) };
        }
        if found.response.held.is_some() {
            return self.held_bytes(now, exchange, bytes);
        }
        if up.input.is_empty() {
            return match up.head_end.find(bytes)? {
                Some(end) => {
                    up.head_end = HeadEnd::default();
                    self.response_head(now, exchange, &bytes[..end])?;
                    Ok(self.complete_if_empty(exchange, end))
                }
                None => {
                    up.input.append(bytes);
                    Ok(Next::Wait)
                }
            };
        }
        let waited = up.input.len();
        up.input.append(bytes);
        let Some(end) = up.head_end.find(up.input.as_slice())? else { return Ok(Next::Wait) };
        up.head_end = HeadEnd::default();
        let input = std::mem::take(&mut up.input);
        self.response_head(now, exchange, &input.as_slice()[..end])?;
        Ok(self.complete_if_empty(exchange, end - waited))
    }

    /// Bytes of an answer that is held: once it is told, its request is sent again, or it goes on its way.
    fn held_bytes(&mut self, now: Now, key: ExchangeKey, bytes: &[u8]) -> Result<Next, HttpError> {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return Ok(Next::Wait) };
        let Some(held) = exchange.response.held.as_mut() else { return Ok(Next::Wait) };
        match held.feed(bytes)? {
            Held::More => Ok(Next::Wait),
            Held::Long => self.release_answer(now, key),
            Held::Complete(_) if held.refuses() && !exchange.abandoned => {
                self.ask_nothing(now, key);
                Ok(Next::Wait)
            }
            Held::Complete(used) => match self.release_answer(now, key)? {
                Next::Complete(_) => Ok(Next::Complete(used)),
                next => Ok(next),
            },
        }
    }

    /// Sends the request once more, without asking for usage.
    fn ask_nothing(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return };
        let (up, request) = (exchange.up.take(), &mut exchange.request);
        exchange.response.held = None;
        if let Some(asked) = request.asked.take() {
            asked.take_out(&mut request.outgoing);
            let (Outgoing { head, body, .. }, model) = (&request.outgoing, exchange.draft.model_requested.as_deref());
            request.refused_asking = self.usage_asking.kind(head, model, body);
            request.outgoing.finish_body(&[]);
        }
        self.recount(key);
        if let Some(up) = up {
            self.free_up(now, up, false);
        }
        self.forward(now, key);
    }

    /// An answer that was held goes on its way.
    fn release_answer(&mut self, now: Now, key: ExchangeKey) -> Result<Next, HttpError> {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return Ok(Next::Wait) };
        let Some(held) = exchange.response.held.take() else { return Ok(Next::Wait) };
        exchange.request.asked = None; // it is told that this is no refusal, and in no error there is anything of ours
        self.response_head(now, key, &held.head)?;
        self.body(now, key, &held.raw)
    }

    /// The connection's end is that of an answer that is held; true where its request is sent again.
    fn held_ended(&mut self, now: Now, key: UpKey) -> bool {
        let Some(exchange) = self.ups.get(key).and_then(|up| up.exchange) else { return false };
        let Some(found) = self.exchanges.linked(exchange) else { return false };
        let Some(held) = found.response.held.as_ref().filter(|held| held.ends_by_closing()) else { return false };
        if held.refuses() && !found.abandoned {
            self.ask_nothing(now, exchange);
            return true;
        }
        // What cannot be read of it ends with the connection.
        drop(self.release_answer(now, exchange));
        false
    }

    fn complete_if_empty(&self, exchange: ExchangeKey, used: usize) -> Next {
        let Some(response) = self.exchanges.linked(exchange).map(|found| &found.response) else { return Next::Wait };
        let without_body = matches!(response.reader, BodyReader::Length(0));
        if response.progress == Progress::Body && without_body { Next::Complete(used) } else { Next::Bytes(used) }
    }

    /// A response head: chooses how its body goes on, and writes ours; one that may refuse what we asked for is held.
    fn response_head(&mut self, now: Now, key: ExchangeKey, bytes: &[u8]) -> Result<(), HttpError> {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return Ok(()) };
        let mut storage = head::storage();
        let head = ResponseHead::parse(bytes, &mut storage, exchange.request.to_head)?;
        if head.status == 101 {
            return self.switch(now, key, &head);
        }
        if head.status < 200 {
            return exchange.interim_head();
        }
        if exchange.holds_answer(&head, bytes) {
            return Ok(());
        }
        if let Some(kind) = exchange.request.refused_asking.take_if(|_| head.status < 300) {
            self.usage_asking.remember(now, kind);
            log_notes::asking_refused(&mut self.notes);
        }
        if head.status == 401 && !std::mem::replace(&mut self.key_refusal_told, true) {
            log_notes::key_refused(&mut self.notes, self.settings.authorization.is_some());
        }
        let down = self.downs.get_mut(exchange.down);
        // What was sent on the assumption of a WebSocket is no request.
        let mistaken = exchange.request.websocket && down.as_ref().is_some_and(|down| !down.input.is_empty());
        let may_keep = exchange.request.complete && !mistaken && !self.draining;
        let keep_alive = may_keep && down.as_ref().is_some_and(|down| down.keeps_alive());
        let plan = exchange.response_head(&head, keep_alive, down.as_ref().map_or(0, |down| down.position()));
        let Some(down) = down else { return Ok(()) }; // it has gone: the response is read on for its usage
        down.after_reply = match (plan.until_close, plan.keep_alive) {
            (true, _) => AfterReply::EndsReply,
            (false, true) => AfterReply::KeepAlive,
            (false, false) => AfterReply::Close,
        };
        let out = down.out.tail_from(&mut self.spares);
        let client = ClientHead { http11: exchange.request.http11, origin: down.origin.as_deref() };
        forward::write_response(out, &head, &plan, &exchange.limit_status, client);
        self.actions.push_back(Action::Flush(Conn::Down(exchange.down)));
        self.recount(key);
        Ok(())
    }

    /// Bytes of the body, as far as they go.
    fn body(&mut self, now: Now, key: ExchangeKey, bytes: &[u8]) -> Result<Next, HttpError> {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return Ok(Next::Wait) };
        if exchange.tunnel.is_some() {
            return Ok(self.tunnel_bytes(now, key, bytes));
        }
        let down = exchange.down;
        let Some(found) = self.downs.get_mut(down) else {
            // Nobody is there, and the response is read on for its usage.
            return body_pieces(now, exchange, bytes, &mut self.edited, |_, _, _| {});
        };
        let out = found.out.tail_from(&mut self.spares);
        let next = body_pieces(now, exchange, bytes, &mut self.edited, |exchange, piece, edited| {
            put_piece(exchange, piece, edited, out);
        });
        if self.edited.capacity() > EDITED_BYTES_KEPT {
            self.edited = Vec::new();
        }
        found.out.consume_to(&mut self.spares, 0); // nothing of an event goes out before its end
        self.actions.push_back(Action::Flush(Conn::Down(down)));
        next
    }

    /// The whole request is with the target: what cannot be sent again is not kept. Nor is anything kept on the chance
    /// of a retry while others wait for its memory.
    pub(super) fn forget_sent_body(&mut self, up: UpKey) {
        let Some(found) = self.ups.get(up).filter(|up| up.cipher.is_empty()) else { return };
        let Some((key, reused)) = found.exchange.map(|key| (key, found.reused)) else { return };
        let is_wanted = self.held_bodies.is_wanted(key);
        let Some(exchange) = self.exchanges.linked_mut(key) else { return };
        let request = &mut exchange.request;
        let may_repeat = reused && request.idempotent && !request.retried || request.asked.is_some();
        let may_repeat = may_repeat && !is_wanted;
        if request.outgoing.counted > 0 && request.complete && request.outgoing.is_sent() && !may_repeat {
            request.outgoing.forget_sent();
            self.recount(key);
        }
    }

    /// All of the response has come: puts out its end, and settles. The end waits for the record's commit.
    fn response_complete(&mut self, now: Now, key: ExchangeKey, reusable: bool) {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return };
        let (up, complete) = (exchange.up.take(), exchange.request.complete && exchange.request.outgoing.is_sent());
        let reusable = reusable && exchange.response.reusable && complete;
        let abandoned = exchange.abandoned;
        exchange.response.progress = Progress::Complete;
        if let Some(down) = self.downs.get_mut(exchange.down) {
            exchange.response_end(down.out.tail());
            if self.settings.settled {
                // Of a stream what came together with its end.
                down.hold_back_from(exchange.response.starts_at);
            }
        }
        if let Some(up) = up {
            self.free_up(now, up, reusable);
        }
        if abandoned {
            return self.end_abandoned(now, key);
        }
        self.settle(now, key, Outcome::Completed);
        self.hold_or_release(now, key);
    }
}

// ------------------------------------------------------------------------------------------------------------- tunnels

impl Proxy {
    /// The target takes up the WebSocket: from here on there are no messages of HTTP any more.
    fn switch(&mut self, now: Now, key: ExchangeKey, head: &ResponseHead<'_, '_>) -> Result<(), HttpError> {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return Ok(()) };
        if !(exchange.request.websocket && head.is_websocket()) {
            return Err(HttpError::Malformed("a switch of protocols that nobody asked for"));
        }
        let down = self.downs.get_mut(exchange.down);
        exchange.switch(head, down.as_ref().map_or(0, |down| down.position()));
        self.open_sessions.add(&exchange.draft.user, key);
        let Some(down) = down else { return Ok(()) };
        down.after_reply = AfterReply::EndsReply;
        down.phase = Phase::Body { reader: BodyReader::Close, sink: Sink::Stream };
        forward::write_switch(down.out.tail(), head, &exchange.limit_status);
        self.actions.push_back(Action::Flush(Conn::Down(exchange.down)));
        self.actions.push_back(Action::Read(Conn::Down(exchange.down)));
        self.check_session(now, key); // much can have happened since it was admitted
        Ok(())
    }

    /// Bytes of the target's side: relays them up to the end of the first message that reports usage.
    fn tunnel_bytes(&mut self, now: Now, key: ExchangeKey, bytes: &[u8]) -> Next {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return Next::Wait };
        let Some(tunnel) = exchange.tunnel.as_mut() else { return Next::Wait };
        if tunnel.is_paused() {
            return Next::Later;
        }
        let (used, part) = tunnel.feed(now, bytes);
        let is_left = tunnel.is_leaving();
        let is_over = tunnel.is_over() || exchange.abandoned && !is_left && !tunnel.is_responding();
        exchange.draft.first_byte_us.get_or_insert((now.mono - exchange.started) / MICROSECOND);
        if !is_left {
            exchange.draft.response_bytes += used as u64;
            if let Some(down) = self.downs.get_mut(exchange.down) {
                down.out.append(&bytes[..used]);
                self.actions.push_back(Action::Flush(Conn::Down(exchange.down)));
            }
        }
        if let Some(part) = part {
            self.settle_part(now, key, part);
        }
        if is_over {
            self.session_over(now, key);
            return Next::Wait;
        }
        self.end_dismissed(now, key);
        Next::Bytes(used)
    }

    /// A record for a part of a tunnel; what follows it waits.
    fn settle_part(&mut self, now: Now, key: ExchangeKey, part: Part) {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return };
        let name = exchange.request.model_name;
        let (record, reported) = part.record(now, &exchange.draft, exchange.abandoned);
        let before = self.permits.last_seq();
        let seq = self.submit(now, settlement::priced(record, &reported, name, &self.prices));
        let Some(exchange) = self.exchanges.linked_mut(key) else { return };
        exchange.permits -= seq - before;
        self.permits.release(seq - before);
        let Some(tunnel) = exchange.tunnel.as_mut() else { return };
        tunnel.pause_for_commit(seq);
        // Of a session that is left the client has got no part that could wait.
        let may_wait = self.settings.settled && !tunnel.is_leaving();
        let Some(down) = self.downs.get_mut(exchange.down).filter(|_| may_wait) else {
            return self.next_part(now, key);
        };
        down.held_back = 1;
        self.permits.await_commit(seq, key);
        let (down, up) = (exchange.down, exchange.up);
        self.retime_tunnel(now, down, up);
    }

    /// The last part's record is committed, or no longer waited for: goes on as soon as there is a permit for the next.
    pub(super) fn next_part(&mut self, now: Now, key: ExchangeKey) {
        if !self.take_part_permits(now, key) {
            self.permits.await_permit(key);
        }
    }

    /// Permits have become free: whoever waits for one goes on, in order.
    pub(super) fn permits_freed(&mut self, now: Now) {
        while let Some(key) = self.permits.next_starved() {
            if !self.take_part_permits(now, key) {
                return self.permits.await_permit_first(key);
            }
        }
    }

    /// Lets the last part's end out, and takes up the target's bytes again where there are permits for all that the
    /// next part may report; false where there are not.
    fn take_part_permits(&mut self, now: Now, key: ExchangeKey) -> bool {
        let Some(exchange) = self.exchanges.get_mut(key).filter(|exchange| exchange.stage == Stage::Forwarding) else {
            return true; // it has ended meanwhile
        };
        let Some(tunnel) = exchange.tunnel.as_mut() else { return true };
        if let Some(down) = self.downs.get_mut(exchange.down) {
            down.held_back = 0;
            self.actions.push_back(Action::Flush(Conn::Down(exchange.down)));
        }
        let wanted = exchange.draft.endpoint.records_max() - exchange.permits;
        let granted = self.permits.reserve(wanted);
        if granted {
            tunnel.resume();
            exchange.permits += wanted;
            self.actions.extend(exchange.up.map(|up| Action::Read(Conn::Up(up))));
        } else {
            tunnel.pause_for_permit();
        }
        let (down, up) = (exchange.down, exchange.up);
        self.retime_tunnel(now, down, up);
        granted
    }

    /// A pause has begun or ended: both sides are waited for otherwise.
    fn retime_tunnel(&mut self, now: Now, down: DownKey, up: Option<UpKey>) {
        self.retime_down(now, down, false);
        if let Some(up) = up {
            self.retime_up(now, up, false);
        }
    }

    /// Goes on with what the target sent while it had to wait, and with its end if that has come meanwhile.
    pub(super) fn advance_upstream(&mut self, now: Now, key: UpKey) {
        if self.ups.get(key).is_some_and(|up| up.postponed) && !self.postponed.contains(&key) {
            self.postponed.push_back(key);
        }
        if self.tunnel_of(key).is_none_or(Tunnel::is_paused) {
            return;
        }
        if let Some(exchange) = self.ups.get(key).and_then(|up| up.exchange) {
            self.end_dismissed(now, exchange);
        }
        self.read_waiting(now, key);
    }

    /// Reads what waits in a connection, and acts on its end if that has come meanwhile.
    fn read_waiting(&mut self, now: Now, key: UpKey) {
        let Some(up) = self.ups.get_mut(key) else { return };
        let input = std::mem::take(&mut up.input);
        self.upstream_plain(now, key, input.as_slice());
        let Some(up) = self.ups.get(key).filter(|up| up.input.is_empty()) else { return };
        match up.ended {
            Some(Ok(())) => self.upstream_ended(now, key),
            Some(Err(why)) => self.upstream_broke(now, key, why),
            None => {}
        }
    }

    /// Puts the end of the target's side off, where bytes that came before it are still to be relayed. Of several, the
    /// first counts: where it has ended in good order, writing to it breaks later.
    pub(super) fn puts_end_off(&mut self, key: UpKey, end: Result<(), ErrorKind>) -> bool {
        let tunnel_paused = self.tunnel_of(key).map(Tunnel::is_paused);
        let Some(up) = self.ups.get_mut(key) else { return false };
        let waits = up.postponed || tunnel_paused.is_some_and(|paused| paused || !up.input.is_empty());
        if waits {
            up.ended.get_or_insert(end);
        }
        waits
    }

    /// Looks at all sessions: whether they may go on, and when the next key expires.
    pub(super) fn check_sessions(&mut self, now: Now) {
        for key in self.open_sessions.look_at_all() {
            self.check_session(now, key);
        }
    }

    /// Something was charged: the sessions end whose budget is spent with it.
    pub(super) fn check_sessions_of(&mut self, now: Now, payer: Payer<'_>) {
        if self.open_sessions.is_empty() {
            return;
        }
        match self.limiter.spent_budget(payer, now).map(|refused| refused.level) {
            None => {}
            Some(LimitLevel::User) => {
                for key in self.open_sessions.of(payer.user).to_vec() {
                    self.check_session(now, key);
                }
            }
            Some(LimitLevel::Team | LimitLevel::Total) => self.check_sessions(now),
        }
    }

    /// Dismisses a session whose user may not go on. It ends by [`Action::Read`]: whoever asks may be at work on it.
    fn check_session(&mut self, now: Now, key: ExchangeKey) {
        let Some(draft) = self.exchanges.linked(key).map(|exchange| &exchange.draft) else { return };
        let valid_until = draft.key_id.map_or(u64::MAX, |id| self.access.valid_until(id));
        let why = if valid_until <= now.unix {
            Refusal::new(Fault::InvalidClientKey, "the session's client key was revoked, or has expired")
        } else {
            self.open_sessions.note_expiry(now, valid_until);
            match self.limiter.spent_budget(draft.payer(), now) {
                Some(refused) if !self.is_free(key) => request_estimate::refusal(&refused, draft.payer(), now),
                _ => return,
            }
        };
        let Some(exchange) = self.exchanges.linked_mut(key) else { return };
        let (fault, outgoing) = (why.fault, &mut exchange.request.outgoing);
        let dismissed = exchange.tunnel.as_mut().and_then(|tunnel| tunnel.dismiss(why, outgoing.stream.len()));
        let Some(taken_back) = dismissed else { return };
        outgoing.take_back(taken_back);
        log_notes::dismissal(&mut self.notes, fault);
        self.actions.push_back(Action::Read(Conn::Down(exchange.down))); // it may have waited for room
        self.actions.extend(exchange.up.map(|up| Action::Read(Conn::Up(up))));
    }

    /// True for a session whose model costs nothing: the one that its client has named, and by the target's own word.
    fn is_free(&self, key: ExchangeKey) -> bool {
        let Some(Exchange { draft, request, tunnel, .. }) = self.exchanges.linked(key) else { return false };
        let is_named = draft.endpoint == Endpoint::RealtimeSession && request.model_name == ModelName::Model;
        let named = draft.model_requested.as_deref().filter(|_| is_named);
        let served = tunnel.as_ref().and_then(|tunnel| tunnel.model());
        named.or(served).is_some() && [named, served].into_iter().flatten().all(|model| self.prices.is_free(model))
    }

    /// Ends a session that was dismissed, where it may end now: both sides are told, and the target has a while to take
    /// it and to say what is still to be counted.
    fn end_dismissed(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(tunnel) = exchange.tunnel.as_mut() else { return };
        if tunnel.must_be_cut() {
            return if exchange.abandoned { self.end_abandoned(now, key) } else { self.cut(now, key) };
        }
        if !tunnel.may_leave() {
            return;
        }
        self.replies += 1;
        let event_id = format!("proxy-{:x}-{:x}", self.boot, self.replies);
        let outgoing = &mut exchange.request.outgoing;
        let Some(goodbye) = tunnel.leave(outgoing.stream.len(), &event_id, mask(now, self.boot)) else { return };
        outgoing.take_back(goodbye.taken_back);
        outgoing.stream.append(&goodbye.to_target);
        if let Some(down) = self.downs.get_mut(exchange.down) {
            exchange.draft.response_bytes += goodbye.to_client.len() as u64;
            down.out.append(&goodbye.to_client);
            down.after_reply = AfterReply::Close; // it has ended as it should
        }
        self.actions.push_back(Action::Flush(Conn::Down(exchange.down)));
        let (down, up) = (exchange.down, exchange.up);
        self.actions.extend(up.map(|up| Action::Flush(Conn::Up(up))));
        self.actions.extend(up.map(|up| Action::Read(Conn::Up(up))));
        self.retime_tunnel(now, down, up);
    }

    /// Nothing more comes of a session that was left, or whose client has gone.
    fn session_over(&mut self, now: Now, key: ExchangeKey) {
        if self.exchanges.linked(key).is_some_and(|exchange| exchange.abandoned) {
            return self.end_abandoned(now, key);
        }
        self.settle(now, key, Outcome::Completed);
        self.hold_or_release(now, key);
    }

    /// The tunnel that a connection carries.
    pub(super) fn tunnel_of(&self, key: UpKey) -> Option<&Tunnel> {
        self.exchange_of(key)?.tunnel.as_deref()
    }

    /// The exchange that a connection carries, or is to carry.
    fn exchange_of(&self, key: UpKey) -> Option<&Exchange> {
        self.exchanges.linked(self.ups.get(key)?.exchange?)
    }
}

/// The mask of a frame of ours to the target: there is nothing in it that a client chose, so it need not be secret.
fn mask(now: Now, boot: u64) -> [u8; 4] {
    let [.., a, b, c, d] = (now.mono ^ boot).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_right(32).to_be_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests;
