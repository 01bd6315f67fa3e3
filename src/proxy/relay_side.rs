//! The target's side of the proxy: a response on its way to the client, and WebSockets.

use super::downstream::{AfterReply, Phase, Sink};
use super::exchange::{Progress, Stage};
use super::response::{Next, body_pieces, put_piece};
use super::timing::{Class, SWITCHING_PROTOCOLS, gets_on};
use super::tunnel::{Part, Tunnel};
use super::upstream::{Failure, Link};
use super::{Action, Conn, DownKey, ExchangeKey, Proxy, UpKey, forward, settlement};
use crate::base::clock::{MICROSECOND, Now};
use crate::http::HttpError;
use crate::http::body::BodyReader;
use crate::http::head::{self, HeadEnd, ResponseHead};
use crate::usage::record::Outcome;
use std::io::ErrorKind;

impl Proxy {
    /// Decrypted bytes of a connection to the target.
    pub(super) fn upstream_plain(&mut self, now: Now, key: UpKey, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(up) = self.ups.get(key) else { return };
            let Some(exchange) = up.exchange.filter(|_| up.begun) else {
                // Bytes that nobody asked for: whatever they are, the next response could not be told from them.
                return self.fail_up(now, key, Failure::Protocol(HttpError::Malformed("bytes outside of a response")));
            };
            match self.response_bytes(now, key, exchange, rest) {
                Ok(Next::Bytes(used)) => rest = &rest[used..],
                Ok(Next::Wait) => return,
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

    fn response_bytes(&mut self, now: Now, key: UpKey, exchange: ExchangeKey, bytes: &[u8]) -> Result<Next, HttpError> {
        let Some(found) = self.exchanges.linked(exchange) else { return Ok(Next::Wait) };
        let Some(up) = self.ups.linked_mut(key) else { return Ok(Next::Wait) };
        if found.response.progress != Progress::Awaited {
            // Of a tunnel, what came before may still wait.
            return if up.input.is_empty() { self.body(now, exchange, bytes) } else { Ok(Next::Later) };
        }
        if up.input.is_empty() {
            return match up.head_end.find(bytes)? {
                Some(end) => {
                    up.head_end = HeadEnd::default();
                    self.response_head(exchange, &bytes[..end])?;
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
        self.response_head(exchange, &input.as_slice()[..end])?;
        Ok(self.complete_if_empty(exchange, end - waited))
    }

    fn complete_if_empty(&self, exchange: ExchangeKey, used: usize) -> Next {
        let Some(response) = self.exchanges.linked(exchange).map(|found| &found.response) else { return Next::Wait };
        let without_body = matches!(response.reader, BodyReader::Length(0));
        if response.progress == Progress::Body && without_body { Next::Complete(used) } else { Next::Bytes(used) }
    }

    /// A response head: chooses how its body goes on, and writes ours.
    fn response_head(&mut self, key: ExchangeKey, bytes: &[u8]) -> Result<(), HttpError> {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return Ok(()) };
        let mut storage = head::storage();
        let head = ResponseHead::parse(bytes, &mut storage, exchange.request.to_head)?;
        if head.status == 101 {
            return self.switch(key, &head);
        }
        if head.status < 200 {
            return exchange.interim_head();
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
        forward::write_response(out, &head, &plan, &exchange.limit_status, exchange.request.http11);
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
            return body_pieces(now, exchange, bytes, |_, _| {});
        };
        let out = found.out.tail_from(&mut self.spares);
        let edited = &mut self.edited;
        let next = body_pieces(now, exchange, bytes, |exchange, piece| put_piece(exchange, edited, out, piece));
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
        let may_repeat = reused && request.idempotent && !request.retried && !is_wanted;
        if request.outgoing.counted > 0 && request.complete && request.outgoing.is_sent() && !may_repeat {
            request.outgoing.forget_sent();
            self.recount(key);
        }
    }

    /// The target has closed the connection: true where that is how its response ends.
    pub(super) fn response_ends_here(&mut self, now: Now, key: UpKey) -> bool {
        let Some(exchange) = self.ups.linked(key).and_then(|up| up.exchange) else { return false };
        let Some(found) = self.exchanges.linked(exchange) else { return false };
        let by_closing =
            found.response.progress == Progress::Body && matches!(found.response.reader, BodyReader::Close);
        if by_closing {
            self.response_complete(now, exchange, false);
        }
        by_closing
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
    fn switch(&mut self, key: ExchangeKey, head: &ResponseHead<'_, '_>) -> Result<(), HttpError> {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return Ok(()) };
        if !(exchange.request.websocket && head.is_websocket()) {
            return Err(HttpError::Malformed("a switch of protocols that nobody asked for"));
        }
        let down = self.downs.get_mut(exchange.down);
        exchange.switch(head, down.as_ref().map_or(0, |down| down.position()));
        let Some(down) = down else { return Ok(()) };
        down.after_reply = AfterReply::EndsReply;
        down.phase = Phase::Body { reader: BodyReader::Close, sink: Sink::Stream };
        forward::write_switch(down.out.tail(), head, &exchange.limit_status);
        self.actions.push_back(Action::Flush(Conn::Down(exchange.down)));
        self.actions.push_back(Action::Read(Conn::Down(exchange.down)));
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
        let is_over = exchange.abandoned && !tunnel.is_responding();
        exchange.draft.first_byte_us.get_or_insert((now.mono - exchange.started) / MICROSECOND);
        exchange.draft.response_bytes += used as u64;
        if let Some(down) = self.downs.get_mut(exchange.down) {
            down.out.append(&bytes[..used]);
            self.actions.push_back(Action::Flush(Conn::Down(exchange.down)));
        }
        if let Some(part) = part {
            self.settle_part(now, key, part);
        }
        if is_over {
            self.end_abandoned(now, key);
            return Next::Wait;
        }
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
        let Some(down) = self.downs.get_mut(exchange.down).filter(|_| self.settings.settled) else {
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

    /// Lets the last part's end out, and takes up the target's bytes again where there are permits for all that the next
    /// part may report; false where there are not.
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
        let Some((false, up)) = self.tunnel_of(key).map(Tunnel::is_paused).zip(self.ups.get_mut(key)) else { return };
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
        let Some(paused) = self.tunnel_of(key).map(Tunnel::is_paused) else { return false };
        let Some(up) = self.ups.linked_mut(key) else { return false };
        let waits = paused || !up.input.is_empty();
        if waits {
            up.ended.get_or_insert(end);
        }
        waits
    }

    /// The tunnel that a connection carries.
    pub(super) fn tunnel_of(&self, key: UpKey) -> Option<&Tunnel> {
        self.exchanges.linked(self.ups.get(key)?.exchange?)?.tunnel.as_deref()
    }
}

// ---------------------------------------------------------------------------------------------------------- deadlines

impl Proxy {
    /// Arms the deadline that the upstream connection's state asks for; `progress` says that bytes have moved.
    pub(super) fn retime_up(&mut self, now: Now, key: UpKey, progress: bool) {
        let response_timeout = self.settings.timeouts.response;
        let Some(up) = self.ups.get_mut(key) else { return };
        let exchange = up.exchange.and_then(|exchange| self.exchanges.get(exchange));
        let is_paused = exchange.and_then(|exchange| exchange.tunnel.as_ref()).is_some_and(|tunnel| tunnel.is_paused());
        let is_tunnel = exchange.is_some_and(|exchange| exchange.draft.status == SWITCHING_PROTOCOLS);
        let is_awaited = exchange.is_some_and(|exchange| exchange.response.progress == Progress::Awaited);
        let has_begun = is_awaited && !up.input.is_empty();
        let wanted = match (&up.link, up.exchange) {
            _ if exchange.is_some_and(|exchange| exchange.abandoned) => Some(Class::ReadOn),
            (Link::Resolving | Link::Connecting | Link::Handshaking, _) => Some(Class::Connect),
            // Nothing is asked of a target that we do not read from.
            (_, Some(_)) if is_paused => None,
            (_, Some(_)) if has_begun => Some(Class::ResponseHead),
            (_, Some(_)) => Some(Class::Response),
            (_, None) => Some(Class::Pool),
        };
        if up.timing != wanted && !matches!(up.timing, Some(Class::Response | Class::ResponseHead)) {
            (up.moved, up.since) = (0, now.mono);
        }
        let restarts = wanted == Some(Class::Response) && progress && (is_tunnel || gets_on(up, now, response_timeout));
        if up.timing == wanted && !restarts {
            return;
        }
        up.timing = wanted;
        match wanted {
            Some(class) => self.deadlines.arm(&mut up.timer, class as u8, Conn::Up(key), now.mono),
            None => self.deadlines.cancel(&mut up.timer),
        }
    }

    pub(super) fn expire_up(&mut self, now: Now, key: UpKey, class: Class) {
        match class {
            Class::Pool => {
                self.pool.remove(key);
                self.close_up(key);
            }
            _ => self.fail_up(now, key, Failure::Timeout),
        }
    }
}
