//! The clients' side of the proxy: what a client's bytes lead to, up to the dispatch of its request, and what is put
//! out to it by us.
//!
//! ```text
//!   head ──▶ local ──▶ answered here
//!     └────▶ relayed ──▶ admitted (permits, limits) ──▶ body held, or streams ──▶ dispatched
//!                └── refused
//! ```
//!
//! The order of the checks is the order of their price: nothing is taken from a user's limit, and no permit is
//! reserved, for a request that another check refuses. A refused request leaves the connection usable where its end can
//! be told; where it cannot, the connection closes once the answer is read.

use super::addresses::{Room, network};
use super::api_paths::Cost;
use super::channel::{Mistake, NO_TLS_ALERT};
use super::content_coding::Coding;
use super::downstream::{AfterReply, Arrived, DISCARD_BYTES_MAX, Downstream, Phase, Sink};
use super::exchange::{Exchange, ModelName, Request, Response, Stage};
use super::identity::Who;
use super::key_guesses::presents_key;
use super::local_answers::{overloaded, text};
use super::local_request::{self, LocalRequest};
use super::outgoing::{Outgoing, body_bytes_max};
use super::refusal::Refusal;
use super::request_body::{self, BodyRead, Unread};
use super::request_estimate::{self, Denied, Size};
use super::retrieved_id::retrieved_id;
use super::route::{Local, Route};
use super::timing::Class;
use super::tls_scratch::{Received, TlsProgress};
use super::{
    Action, Conn, DownKey, ExchangeKey, LOW_WATERMARK, Proxy, Question, Written, allowed_models, crowding, forward,
    identity, local_limit, log_notes, model_in_path, route, slow_holders,
};
use crate::base::clock::Now;
use crate::base::slab::Slab;
use crate::door::Entrance;
use crate::http::body::{BodyReader, BodyWriter};
use crate::http::chunked::Piece;
use crate::http::framing::Framing;
use crate::http::head::{self, RequestHead};
use crate::http::headers::Known;
use crate::http::reply::{Fault, Reply, error_body};
use crate::limit::lease::Heard;
use crate::limit::levels::{LimitLevel, Payer};
use crate::limit::reservation::Reservation;
use crate::limit::status::RateLimitStatus;
use crate::local::Answer;
use crate::local::admin_request::{self, AdminRequest};
use crate::local::dashboard;
use crate::usage::draft::Draft;
use crate::usage::record::{Endpoint, Outcome};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

/// Who asks, and for which operation.
struct Asker {
    user: Arc<str>,
    team: Option<Arc<str>>,
    key_id: Option<i64>,
    endpoint: Endpoint,
    cost: Cost,
}

impl Asker {
    fn payer(&self) -> Payer<'_> {
        Payer { user: &self.user, team: self.team.as_deref() }
    }
}

// -------------------------------------------------------------------------------------------------- bytes of clients

impl Proxy {
    /// When one more client may be accepted, monotonic nanoseconds; `None` while that depends on others' leaving.
    pub fn accepts_at(&self) -> Option<u64> {
        if self.draining {
            return None;
        }
        let makes_room_at = crowding::idlest(&self.deadlines).map(|(_, from)| from).filter(|_| self.is_full());
        let accepts_at = self.client_limit.accepts_at(self.downs.len());
        accepts_at.into_iter().chain(makes_room_at).min()
    }

    /// A client has connected.
    pub fn accepted(&mut self, now: Now) -> DownKey {
        let surplus = self.client_limit.came(now, self.downs.len());
        let key = self.downs.insert(Downstream { surplus, ..Downstream::default() });
        self.retime_down(now, key, false);
        log_notes::client(&mut self.notes, "client connected", self.downs.len());
        key
    }

    /// True where reading from the client makes sense now.
    pub(super) fn wants_client_bytes(&self, key: DownKey) -> bool {
        let Some(down) = self.downs.get(key) else { return false };
        let outgoing = || Some(&self.exchanges.linked(down.exchange?)?.request.outgoing);
        down.wants_bytes(|| outgoing().map_or(0, |out| out.stream.len()), || outgoing().is_some_and(|out| out.paused))
    }

    pub(super) fn client_bytes(&mut self, now: Now, key: DownKey, bytes: &mut [u8]) {
        let Some(down) = self.downs.get_mut(key) else { return };
        down.moved += bytes.len() as u64;
        if let Err(mistake) = down.channel.begin(bytes, self.settings.acceptor.as_ref()) {
            return self.turn_away(now, key, mistake);
        }
        let mut scratch = std::mem::take(&mut self.tls);
        let Received { plain, replies, tls } = down.channel.receive(bytes, &mut scratch);
        if replies {
            self.actions.push_back(Action::Flush(Conn::Down(key)));
        }
        if !plain.is_empty() {
            self.client_plain(now, key, plain);
        }
        self.tls = scratch;
        match tls {
            Ok(TlsProgress { closed: true, .. }) => self.client_ended(now, key),
            Ok(_) => {}
            Err(error) => {
                log_notes::client_tls(&mut self.notes, &error);
                self.drop_down(now, key);
            }
        }
        self.retime_down(now, key, true);
    }

    /// A client speaks what this port does not: it is told in its own words, and the connection closes.
    fn turn_away(&mut self, now: Now, key: DownKey, mistake: Mistake) {
        log_notes::mistaken(&mut self.notes, mistake);
        match mistake {
            Mistake::Unable => self.drop_down(now, key),
            Mistake::Plain => {
                let message = "this port speaks HTTPS: the address begins with https://";
                self.refuse_and_close(now, key, &Refusal::new(Fault::BadRequest, message));
            }
            Mistake::Tls => {
                if let Some(down) = self.downs.linked_mut(key) {
                    down.out.append(NO_TLS_ALERT);
                }
                self.close_when_sent(now, key);
            }
        }
    }

    /// Bytes of a client, as it wrote them.
    fn client_plain(&mut self, now: Now, key: DownKey, bytes: &[u8]) {
        let Some(down) = self.downs.get_mut(key) else { return };
        if down.input.is_empty() {
            let used = self.consume(now, key, bytes);
            if let Some(down) = self.downs.get_mut(key).filter(|_| used < bytes.len()) {
                down.input.append(&bytes[used..]);
            }
        } else {
            down.input.append(bytes);
            self.advance_client(now, key);
        }
    }

    /// Goes on with what waits in `input`: the answer to [`Action::Read`], before the socket is read.
    pub(super) fn advance_client(&mut self, now: Now, key: DownKey) {
        let Some(down) = self.downs.get_mut(key) else { return };
        let mut input = std::mem::take(&mut down.input);
        let used = self.consume(now, key, input.as_slice());
        input.consume(used);
        if let Some(down) = self.downs.get_mut(key) {
            down.input = input;
        }
        self.retime_down(now, key, used > 0);
    }

    /// Takes bytes as far as the state allows; how many were used.
    fn consume(&mut self, now: Now, key: DownKey, bytes: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let Some(down) = self.downs.get(key) else { return bytes.len() };
            let is_held = matches!(down.phase, Phase::Body { sink: Sink::Hold, .. });
            if is_held && self.must_wait(now, key, bytes.len() - used) {
                return used;
            }
            let Some(down) = self.downs.get_mut(key) else { return bytes.len() };
            match down.read(&bytes[used..]) {
                Arrived::Nothing => return used,
                Arrived::Ignored => return bytes.len(),
                Arrived::Head(end) => {
                    let head = &bytes[used..used + end];
                    used += end;
                    self.head_complete(now, key, head);
                }
                Arrived::Body { used: taken, piece, sink, from_chunks } => {
                    used += taken;
                    if !self.body_piece(now, key, sink, piece, from_chunks) {
                        return bytes.len();
                    }
                    // Half a line end may have been taken although no piece came of it.
                    if taken == 0 && piece != Piece::End {
                        return used;
                    }
                }
                Arrived::Bad(error) => {
                    self.refuse_and_close(now, key, &Refusal::new(Fault::of(error), error.message()));
                    return bytes.len();
                }
                Arrived::BadUnwanted => {
                    self.close_when_sent(now, key);
                    return bytes.len();
                }
            }
        }
    }

    /// A piece of a body, and its end; false where it was refused.
    fn body_piece(&mut self, now: Now, key: DownKey, sink: Sink, piece: Piece<'_>, from_chunks: bool) -> bool {
        match (sink, piece) {
            (Sink::Hold, Piece::Data(data)) => return self.hold(now, key, data),
            (Sink::Stream, piece) => self.stream_on(key, piece, from_chunks),
            (Sink::Keep, Piece::Data(data)) => return self.keep(now, key, data),
            (Sink::Hold | Sink::Keep | Sink::Discard(_), _) => {}
        }
        if piece == Piece::End {
            self.body_complete(now, key);
        }
        true
    }

    /// Sends a piece of a body on as it comes.
    fn stream_on(&mut self, key: DownKey, piece: Piece<'_>, from_chunks: bool) {
        let exchange = self.downs.linked(key).and_then(|down| down.exchange);
        let Some(exchange) = exchange.and_then(|exchange| self.exchanges.linked_mut(exchange)) else { return };
        if let Piece::Data(data) = piece {
            exchange.draft.request_bytes += data.len() as u64;
            if exchange.request.form.as_mut().is_some_and(|form| form.feed(data)) {
                let model = exchange.request.form.as_ref().and_then(|form| form.model());
                exchange.draft.model_requested = model.map(Arc::from);
            }
        }
        // A target that has answered early and is gone takes no more: the client must get rid of it all the same, or it
        // may never come to read the answer.
        let is_broken = exchange.up.and_then(|up| self.ups.get(up)).is_some_and(|up| up.broken.is_some());
        if !is_broken {
            let writer = if from_chunks { BodyWriter::Chunked } else { BodyWriter::Bytes };
            let out = exchange.request.outgoing.stream.tail();
            match (&mut exchange.tunnel, piece) {
                (Some(tunnel), Piece::Data(data)) => tunnel.pass(data, out),
                _ => writer.write(out, piece, from_chunks),
            }
        }
        if let Some(up) = exchange.up.filter(|_| piece != Piece::More) {
            self.actions.push_back(Action::Flush(Conn::Up(up)));
        }
    }

    fn body_complete(&mut self, now: Now, key: DownKey) {
        let Some(down) = self.downs.linked_mut(key) else { return };
        let Phase::Body { sink, .. } = std::mem::replace(&mut down.phase, Phase::Busy) else { return };
        match (sink, down.exchange) {
            (Sink::Hold, Some(exchange)) => {
                self.request_held(now, exchange);
                self.recount(exchange);
            }
            (Sink::Stream, Some(exchange)) => {
                if let Some(exchange) = self.exchanges.linked_mut(exchange) {
                    exchange.request.complete = true;
                }
            }
            (Sink::Keep, _) => self.ask_admin(now, key),
            (Sink::Discard(_), _) => self.next_request(now, key),
            (Sink::Hold | Sink::Stream, None) => debug_assert!(false, "a body with a destination is an exchange's"),
        }
    }

    pub(super) fn client_ended(&mut self, now: Now, key: DownKey) {
        let Some(down) = self.downs.get_mut(key) else { return };
        down.ended = true;
        down.close_after_reply();
        // A reply that is whole, or a local answer, still goes out to a client that has only stopped sending. One that
        // the target is still working at costs money: the client is taken to be gone, as closing looks the same.
        match (&down.phase, down.exchange) {
            (Phase::Lingering, _) => self.drop_down(now, key),
            (_, Some(exchange)) => {
                let stage = self.exchanges.linked(exchange).map(|exchange| exchange.stage);
                if !matches!(stage, Some(Stage::Settled { .. })) {
                    self.drop_down(now, key);
                }
            }
            (Phase::Asking { .. }, None) => {}
            (_, None) if down.waiting() == 0 => self.drop_down(now, key),
            (_, None) => self.close_when_sent(now, key),
        }
    }

    pub(super) fn flush_down(&mut self, now: Now, key: DownKey, write: &mut dyn FnMut(&[u8]) -> Written) {
        let Some(down) = self.downs.get_mut(key) else { return };
        let (spares, scratch) = (&mut self.spares, &mut self.tls);
        let mut written = down.write(spares, scratch, write);
        // TLS says that nothing follows before the sending side is shut down; once, after all else.
        if down.waiting() == 0
            && down.exchange.is_none()
            && matches!(down.phase, Phase::Closing)
            && down.channel.close()
        {
            written = written.and_then(|moved| Some(down.write(spares, scratch, write)? | moved));
        }
        let Some(progress) = written else { return self.drop_down(now, key) };
        let (waiting, exchange) = (down.waiting(), down.exchange);
        if waiting == 0 {
            self.local_answers.give_room_back(std::mem::take(&mut down.answer_bytes));
        }
        if waiting == 0 && exchange.is_none() && matches!(down.phase, Phase::Closing) {
            down.after_reply = AfterReply::Close; // it has ended as it should
            if down.ended {
                return self.drop_down(now, key);
            }
            down.phase = Phase::Lingering;
            self.actions.push_back(Action::HalfClose(key));
        }
        if progress && waiting < LOW_WATERMARK {
            let up = exchange.and_then(|exchange| self.exchanges.linked(exchange)).and_then(|exchange| exchange.up);
            self.actions.extend(up.map(|up| Action::Read(Conn::Up(up))));
            // Pipelined requests wait while replies pile up.
            if matches!(down.phase, Phase::Head) {
                self.actions.push_back(Action::Read(Conn::Down(key)));
            }
        }
        self.retime_down(now, key, progress);
    }
}

// ------------------------------------------------------------------------------------------------- heads and requests

impl Proxy {
    /// A head is complete. Leaves the connection in the state that its body needs.
    fn head_complete(&mut self, now: Now, key: DownKey, bytes: &[u8]) {
        let mut storage = head::storage();
        let head = match RequestHead::parse(bytes, &mut storage) {
            Ok(head) => head,
            Err(error) => return self.refuse_and_close(now, key, &Refusal::new(Fault::of(error), error.message())),
        };
        if let Some(down) = self.downs.linked_mut(key) {
            let keep_alive = head.keep_alive() && !self.draining && !down.ended && !down.surplus;
            down.after_reply = if keep_alive { AfterReply::KeepAlive } else { AfterReply::Close };
            down.http10 = !head.http11;
        }
        let route = route::route(head.method, head.target, head.is_websocket());
        if !self.comes_in(now, key, &head, !matches!(route, Ok(Route::Local(_)))) {
            return;
        }
        match route {
            Err(message) => self.refuse(now, key, &head, &Refusal::new(Fault::BadRequest, message)),
            Ok(Route::Local(local)) => self.local_request(now, key, &head, local),
            Ok(Route::Relay { endpoint, cost }) => {
                let may_relay = self.may_relay(&head, now);
                match may_relay.and_then(|()| identity::who(&head.headers, &self.access, now.unix)) {
                    Ok(Who { user, team, key_id }) => {
                        let user = user.unwrap_or_else(|name| self.limiter.name(&name));
                        let asker = Asker { user, team, key_id, endpoint, cost };
                        if let Err(refusal) = self.may_ask(asker.payer(), &head, endpoint) {
                            return self.refuse(now, key, &head, &refusal);
                        }
                        self.relay(now, key, &head, asker);
                    }
                    Err(refusal) => self.refuse(now, key, &head, &refusal),
                }
            }
        }
    }

    /// The administrator's request is asked when its body is here.
    fn keep_body(&mut self, key: DownKey, head: &RequestHead<'_, '_>, request: Box<AdminRequest>) {
        let Some(down) = self.downs.linked_mut(key) else { return };
        down.admin = Some(request);
        down.phase = Phase::Body { reader: BodyReader::new(head.framing), sink: Sink::Keep };
        if head.expects_continue {
            down.out.append(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.actions.push_back(Action::Flush(Conn::Down(key)));
        }
    }

    /// Keeps a piece of its body; false where that is too much.
    fn keep(&mut self, now: Now, key: DownKey, data: &[u8]) -> bool {
        let Some(request) = self.downs.linked_mut(key).and_then(|down| down.admin.as_mut()) else { return false };
        if request.body.len() + data.len() > admin_request::BODY_BYTES_MAX {
            let refusal = Refusal::new(Fault::BodyTooLarge, "the request's body is too large");
            self.refuse_and_close(now, key, &refusal);
            return false;
        }
        request.body.extend_from_slice(data);
        true
    }

    fn ask_admin(&mut self, now: Now, key: DownKey) {
        let Some(down) = self.downs.linked_mut(key) else { return };
        let Some(request) = down.admin.take() else { return debug_assert!(false, "it was put there") };
        down.phase = Phase::Asking { to_head: false, is_own: false };
        let ticket = self.local_answers.ask(key);
        self.actions.push_back(Action::Ask { ticket, question: Question::Admin(request) });
        self.retime_down(now, key, false);
    }

    /// Why a request is not for the target, whoever asks.
    fn may_relay(&self, head: &RequestHead<'_, '_>, now: Now) -> Result<(), Refusal> {
        let bad = |message| Err(Refusal::new(Fault::BadRequest, message));
        if head.method == "TRACE" {
            let refusal = Refusal::new(Fault::MethodNotAllowed, "TRACE is not passed on");
            return Err(refusal.with(b"allow: GET, POST\r\n"));
        }
        if head.headers.values(Known::Override).next().is_some() {
            return bad("a header would have some servers take the request for another one");
        }
        if self.access.opens_admin(&head.headers) {
            return bad(
                "this is the administrator's token, which is not sent to the target: is another path meant, or a key?",
            );
        }
        if now.unix >= self.policy_holds_until {
            let message = "the fleet's database has been out of reach for so long that nobody knows who may still come \
                           in (FLEET_POLICY_STALE)";
            return Err(Refusal::new(Fault::LimitsUnavailable, message).with(b"retry-after: 1\r\n"));
        }
        Ok(())
    }

    /// Why a request is not for the target from this user, by its path.
    fn may_ask(&self, payer: Payer<'_>, head: &RequestHead<'_, '_>, endpoint: Endpoint) -> Result<(), Refusal> {
        let own = LimitLevel::ALL.into_iter().find_map(|level| self.own_paths.at(level, payer));
        if route::is_allowed(own.unwrap_or(&self.settings.allowed_paths), head.method, head.target, endpoint) {
            return Ok(());
        }
        let message = match own {
            Some(_) => "this path is not among those that this user may ask for (limits set --paths)",
            None => "this path is not among those that are relayed here (ALLOWED_PATHS)",
        };
        Err(Refusal::new(Fault::PathNotAllowed, message))
    }

    /// True for a request that may come in; else it is answered. `relayed` says that it is for the target.
    fn comes_in(&mut self, now: Now, key: DownKey, head: &RequestHead<'_, '_>, relayed: bool) -> bool {
        let entry = self.settings.door.enter(head, relayed);
        let Some(down) = self.downs.linked_mut(key) else { return false };
        down.origin = None;
        match entry {
            Ok(Entrance::Request(origin)) => {
                down.origin = origin;
                return true;
            }
            Ok(Entrance::Preflight(origin, lines)) if head.framing == Framing::None => {
                down.origin = Some(origin);
                self.answer_preflight(now, key, &lines);
            }
            Ok(Entrance::Preflight(..)) => {
                let refusal = Refusal::new(Fault::BadRequest, "a preflight has no body");
                self.refuse(now, key, head, &refusal);
            }
            Err((fault, message)) => self.refuse(now, key, head, &Refusal::new(fault, message)),
        }
        false
    }

    /// A browser asks whether a page may ask: the target has no part in that, and nobody is counted.
    fn answer_preflight(&mut self, now: Now, key: DownKey, lines: &[u8]) {
        let reply = Reply {
            status: 200,
            content_type: "text/plain",
            body: b"",
            error_code: None,
            extra: lines,
            origin: None,
            to_head: false,
            unix: now.unix,
        };
        self.put_reply(key, &reply, false);
        self.next_request(now, key);
    }

    fn relay(&mut self, now: Now, key: DownKey, head: &RequestHead<'_, '_>, asker: Asker) {
        let must_be_read =
            self.limiter.measures(asker.payer()).cost || allowed_models::restrict(&self.models, asker.payer());
        let hold = request_body::is_held(head, asker.endpoint, must_be_read);
        let exchange = match self.admit(now, key, head, asker, hold) {
            Ok(exchange) => self.exchanges.insert(exchange),
            Err(refusal) => return self.refuse(now, key, head, &refusal),
        };
        let Some(down) = self.downs.linked_mut(key) else { return };
        down.exchange = Some(exchange);
        if head.expects_continue && head.framing != Framing::None {
            down.out.append(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.actions.push_back(Action::Flush(Conn::Down(key)));
        }
        let sink = if hold { Sink::Hold } else { Sink::Stream };
        down.phase = match head.framing {
            Framing::None => Phase::Busy,
            framing => Phase::Body { reader: BodyReader::new(framing), sink },
        };
        if !hold {
            let request = &mut self.exchanges.get_mut(exchange).expect("inserted above").request;
            forward::write_accepted(&mut request.outgoing.head, request.accepted);
            forward::write_request_framing(&mut request.outgoing.head, head.method, head.framing);
            match std::mem::take(&mut request.is_asked) {
                true => self.park(now, exchange, Size::default()),
                false => self.dispatch(now, exchange),
            }
        }
    }

    /// The request's exchange with all that it takes; or why it is not relayed, and takes nothing.
    fn admit(
        &mut self,
        now: Now,
        key: DownKey,
        head: &RequestHead<'_, '_>,
        asker: Asker,
        hold: bool,
    ) -> Result<Exchange, Refusal> {
        let surplus = self.downs.linked(key).filter(|down| down.surplus);
        let is_crowded = surplus.and_then(|down| down.address).is_some_and(|from| self.addresses.is_exceeded(from));
        if is_crowded || surplus.is_some() && self.client_limit.is_exceeded(self.downs.len()) {
            let message = match is_crowded {
                true => "this address has too many connections (MAX_CONNECTIONS_PER_ADDRESS); try again in a moment",
                false => "too many clients are connected; try again in a moment",
            };
            return Err(Refusal::new(Fault::Overloaded, message).with(b"retry-after: 1\r\n"));
        }
        if matches!(head.framing, Framing::Length(length) if hold && length > self.settings.body_bytes_max) {
            return Err(Refusal::new(Fault::BodyTooLarge, "the request's body is too large"));
        }
        let permits = asker.endpoint.records_max() + u64::from(self.settings.journaled);
        if permits > self.permits.available() {
            let message = "the ledger cannot take more records at the moment";
            return Err(Refusal::new(Fault::LedgerUnavailable, message).with(b"retry-after: 1\r\n"));
        }
        let mut exchange = self.exchange(now, key, head, asker, hold);
        if !hold {
            allowed_models::check(&self.models, &exchange)?;
        }
        // One that is held takes its place among the requests here, and its tokens and money when it is whole; for
        // these it is refused here only where it would be anyway.
        let has_waited = false;
        let reserved = match hold {
            true => {
                let may_cost = exchange.request.cost != Cost::Free && !self.prices.has_free();
                self.limiter
                    .may_come(exchange.draft.payer(), may_cost, now)
                    .map_err(Denied::from)
                    .and_then(|()| request_estimate::reserve_place(&mut self.limiter, &mut exchange, now))
            }
            false => {
                let size = Size::default();
                let (limiter, prices, settings) = (&mut self.limiter, &self.prices, &self.settings);
                request_estimate::reserve(limiter, prices, settings, &mut exchange, &size, has_waited, now)
            }
        };
        match reserved {
            Ok(()) => {}
            Err(Denied::Asked) => exchange.request.is_asked = true,
            Err(denied) => return Err(self.denied(now, exchange.draft.payer(), &denied)),
        }
        let reserved = self.permits.reserve(permits);
        debug_assert!(reserved, "they were available");
        Ok(Exchange { permits, ..exchange })
    }

    fn exchange(&self, now: Now, down: DownKey, head: &RequestHead<'_, '_>, asker: Asker, hold: bool) -> Exchange {
        let Asker { user, team, key_id, endpoint, cost } = asker;
        let mut outgoing = Outgoing::default();
        outgoing.holder = hold.then(|| Arc::clone(&user));
        let captured = endpoint != Endpoint::Other;
        let coding = if hold { Coding::of(head) } else { Coding::Identity };
        let decoded = coding.is_decodable();
        let accepted = forward::write_request(&mut outgoing.head, head, &self.settings, captured, decoded);
        let named = model_in_path::named(head.target);
        Exchange {
            down,
            up: None,
            stage: Stage::Receiving,
            permits: 0,
            tunnel: None,
            abandoned: false,
            reservation: Reservation::default(),
            limit_status: RateLimitStatus::default(),
            request: Request {
                to_head: head.method == "HEAD",
                http11: head.http11,
                websocket: head.is_websocket(),
                idempotent: is_idempotent(head),
                cost,
                model_name: match (named.deployed, self.deploys) {
                    (true, _) => ModelName::DeploymentInPath,
                    (false, true) => ModelName::Deployment,
                    (false, false) => ModelName::Model,
                },
                accepted,
                has_body: !matches!(head.framing, Framing::None | Framing::Length(0)),
                coding,
                retrieved_id: retrieved_id(endpoint, head.target),
                form: request_body::form(head, endpoint),
                complete: head.framing == Framing::None,
                outgoing,
                ..Request::default()
            },
            response: Response::default(),
            draft: Draft {
                started_at: now.unix,
                user,
                team,
                key_id,
                endpoint,
                model_requested: named.name,
                ..Draft::default()
            },
            started: now.mono,
            ready: now.mono,
        }
    }

    /// A held body is complete: it is read, here or by a thread.
    fn request_held(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return };
        exchange.ready = now.mono;
        let user = exchange.draft.user.clone();
        let (bytes, payer) = (exchange.request.outgoing.held_bytes(), exchange.draft.payer());
        let is_limited = self.limiter.measures(payer).tokens || allowed_models::restrict(&self.models, payer);
        let body = Unread::take(exchange, &self.settings, is_limited);
        if body.takes_long(self.settings.long_body_bytes) {
            self.held_bodies.change(&user, 0, bytes);
            return self.actions.push_back(Action::Work(self.bodies_away.send(key, user, bytes, body)));
        }
        let may_ask = |model: Option<&str>, body: &[u8]| {
            !self.usage_asking.is_refused(now, &exchange.request.outgoing.head, model, body)
        };
        let read = body.read(may_ask);
        self.request_read(now, key, read);
    }

    /// The work of [`Action::Work`] is done: a body was read.
    pub fn worked(&mut self, now: Now, ticket: u64) {
        let Some(away) = self.bodies_away.take(ticket) else { return };
        let has_room = self.held_bodies.change(&away.user, away.bytes, 0);
        if let Some(read) = away.read().filter(|_| self.exchanges.get(away.exchange).is_some()) {
            self.request_read(now, away.exchange, read);
            self.recount(away.exchange);
        }
        if has_room {
            self.resume_held();
        }
    }

    /// A held body was read: its request takes what it may need, and goes on its way.
    fn request_read(&mut self, now: Now, key: ExchangeKey, read: Result<BodyRead, Refusal>) {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return };
        let size = match read {
            Err(refusal) => return self.refuse_held(now, key, &refusal),
            Ok(read) => read.finish(exchange),
        };
        if let Err(refusal) = allowed_models::check(&self.models, exchange) {
            return self.refuse_held(now, key, &refusal);
        }
        // In place of what its head has taken.
        let reservation = std::mem::take(&mut exchange.reservation);
        self.limiter.withdraw(exchange.draft.payer(), reservation, now);
        if self.take_or_refuse(now, key, &size, false) {
            self.park(now, key, size);
        }
    }

    /// Has an exchange take what it may need, and sends it on its way, or refuses it. True where the fleet is asked,
    /// and it is to wait.
    fn take_or_refuse(&mut self, now: Now, key: ExchangeKey, size: &Size, has_waited: bool) -> bool {
        let Some(exchange) = self.exchanges.get_mut(key) else { return false };
        let (limiter, prices, settings) = (&mut self.limiter, &self.prices, &self.settings);
        match request_estimate::reserve(limiter, prices, settings, exchange, size, has_waited, now) {
            Ok(()) => self.dispatch(now, key),
            Err(Denied::Asked) => return true,
            Err(denied) => {
                let (user, team) = (Arc::clone(&exchange.draft.user), exchange.draft.team.clone());
                let refusal = self.denied(now, Payer { user: &user, team: team.as_deref() }, &denied);
                self.refuse_held(now, key, &refusal);
            }
        }
        false
    }

    /// A request waits for the fleet, while the rest of it may come.
    fn park(&mut self, now: Now, key: ExchangeKey, size: Size) {
        self.parked.begin(key, size, now.mono);
    }

    /// What the fleet says of limits: whoever waits looks again, in the order in which they came.
    pub fn heard(&mut self, now: Now, heard: Heard) {
        if !self.limiter.heard(heard, now) {
            return;
        }
        for waiting in self.parked.take_all() {
            if self.take_or_refuse(now, waiting.exchange, &waiting.size, false) {
                self.parked.go_on(waiting);
            }
        }
    }

    /// Whoever has waited long enough goes on without the fleet, as the operator says.
    pub(super) fn expire_parked(&mut self, now: Now) {
        while let Some(waiting) = self.parked.take_due(now.mono) {
            if self.limiter.is_joining(now) {
                self.parked.begin(waiting.exchange, waiting.size, now.mono);
                continue;
            }
            let still_waits = self.take_or_refuse(now, waiting.exchange, &waiting.size, true);
            debug_assert!(!still_waits, "who has waited is answered");
        }
    }

    /// A request that was admitted is refused after all, before the target heard of it: it takes nothing.
    pub(super) fn withdraw(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return };
        if let Some(entry) = exchange.draft.entry {
            exchange.permits -= 1;
            self.permits.withdraw_entry(entry);
        }
        self.limiter.withdraw(exchange.draft.payer(), std::mem::take(&mut exchange.reservation), now);
        self.remove_exchange(now, key);
    }

    /// The current reply is all in `out`, and its request was all read.
    pub(super) fn next_request(&mut self, now: Now, key: DownKey) {
        let Some(down) = self.downs.linked_mut(key) else { return };
        // A reply that came before the request was read leaves no way to tell where the next one starts.
        let is_read = !matches!(down.phase, Phase::Body { .. } | Phase::Closing | Phase::Lingering);
        if !down.keeps_alive() || self.draining || !is_read {
            return self.close_when_sent(now, key);
        }
        down.phase = Phase::Head;
        self.actions.push_back(Action::Flush(Conn::Down(key)));
        self.actions.push_back(Action::Read(Conn::Down(key)));
    }

    /// Closes once all of `out` is sent; until then and a little longer, what still comes is read and dropped.
    pub(super) fn close_when_sent(&mut self, now: Now, key: DownKey) {
        let Some(down) = self.downs.linked_mut(key) else { return };
        if !matches!(down.phase, Phase::Lingering) {
            down.phase = Phase::Closing;
        }
        down.input.clear();
        self.actions.push_back(Action::Flush(Conn::Down(key)));
        self.actions.push_back(Action::Read(Conn::Down(key)));
        self.retime_down(now, key, false);
    }

    /// The client is gone, or must go: ends its exchange and frees the slot.
    pub(super) fn drop_down(&mut self, now: Now, key: DownKey) {
        if let Some(exchange) = self.downs.get(key).and_then(|down| down.exchange) {
            self.client_gone(now, exchange);
        }
        let Some(mut down) = self.downs.remove(key) else { return };
        log_notes::client(&mut self.notes, "client gone", self.downs.len());
        self.client_limit.went(self.downs.len());
        down.address.filter(|_| !down.trusted).into_iter().for_each(|address| self.addresses.went(address));
        self.deadlines.cancel(&mut down.timer);
        self.local_answers.give_room_back(down.answer_bytes);
        // A reply that would end like this is cut, not ended; what has come of it is worth having all the same.
        let reset = down.after_reply == AfterReply::EndsReply;
        let last = down.channel.last(down.out.as_slice(), reset);
        self.actions.push_back(Action::Close { conn: Conn::Down(key), last, reset });
    }
}

// ------------------------------------------------------------------------------------------------ crowds and strangers

impl Proxy {
    /// True where there are as many clients as there may be.
    pub fn is_full(&self) -> bool {
        self.client_limit.is_full(self.downs.len())
    }

    /// A client is at the door: where there is no place, the idlest connection makes room. True where one did.
    pub fn make_room(&mut self, now: Now) -> bool {
        let idlest = crowding::idlest(&self.deadlines).filter(|(_, from)| *from <= now.mono && self.is_full());
        let Some((key, _)) = idlest else { return false };
        self.metrics.connection_evicted();
        self.tell_of_crowd(now, "all connections are taken: idle ones are closed for new ones");
        self.drop_down(now, key);
        true
    }

    /// Where a client comes from; the connections of a server in front that is trusted are not counted, as each may be
    /// of another client. False where its address has so many connections that this one is closed unheard.
    pub fn comes_from(&mut self, now: Now, key: DownKey, address: IpAddr) -> bool {
        let Some(down) = self.downs.get_mut(key) else { return true };
        down.trusted = self.settings.trusted_proxies.holds(address);
        let address = network(address);
        down.address = Some(address);
        if down.trusted {
            return true;
        }
        let room = self.addresses.came(address);
        down.surplus |= room != Room::Enough;
        if room == Room::NotEvenForThat {
            self.metrics.refused(Fault::Overloaded.code(), now.mono);
        }
        if room != Room::Enough {
            self.tell_of_crowd(now, "an address has all the connections that it may have");
        }
        room != Room::NotEvenForThat
    }

    fn tell_of_crowd(&mut self, now: Now, what: &'static str) {
        if self.crowd_told.is_due(now.mono) {
            log_notes::crowd(&mut self.notes, what, self.downs.len());
        }
    }

    /// True where a request is refused for a wrong key, as too many were lately from its client's address.
    fn is_guessed(&mut self, now: Now, key: DownKey, head: &RequestHead<'_, '_>, fault: Fault) -> bool {
        let is_wrong = matches!(fault, Fault::InvalidClientKey | Fault::Unauthorized) && presents_key(&head.headers);
        let Some(down) = self.downs.get(key).filter(|_| is_wrong) else { return false };
        let forwarded = || self.settings.trusted_proxies.client(head.headers.values(Known::ForwardedFor));
        let address = down.trusted.then(forwarded).flatten().or(down.address);
        address.is_some_and(|address| self.key_guesses.wrong(address, now.mono))
    }

    /// A refusal has waited; the connection closes with it.
    fn refuse_after_delay(&mut self, now: Now, key: DownKey) {
        let Some(down) = self.downs.linked_mut(key) else { return };
        let Phase::Delayed { refusal, to_head } = std::mem::take(&mut down.phase) else { return };
        self.write_error(now, key, &refusal, to_head, true);
        self.close_when_sent(now, key);
    }
}

// ---------------------------------------------------------------------------------------------------- bodies in memory

impl Proxy {
    /// True where these bytes of a body that is held must wait for others to be gone; their client is paused then.
    fn must_wait(&mut self, now: Now, key: DownKey, count: usize) -> bool {
        let growth = growth(&self.downs, &self.exchanges, self.settings.body_bytes_max, key, count);
        let Some(exchange) = self.downs.get(key).and_then(|down| down.exchange).filter(|_| growth > 0) else {
            return false;
        };
        let Some(found) = self.exchanges.linked_mut(exchange) else { return false };
        let outgoing = &mut found.request.outgoing;
        let Some(user) = &outgoing.holder else { return false };
        if self.held_bodies.admits(exchange, user, growth) {
            return false;
        }
        if !std::mem::replace(&mut outgoing.paused, true) {
            self.held_bodies.pause(exchange, user, now.mono);
            // Who holds others up has less time from now on.
            let holder = self.held_bodies.holding_up().and_then(|key| self.exchanges.linked(key));
            if let Some(down) = holder.map(|holder| holder.down) {
                self.retime_down(now, down, false);
            }
        }
        true
    }

    /// Takes a piece of a body that is held; false where it is too much, and refused.
    fn hold(&mut self, now: Now, key: DownKey, data: &[u8]) -> bool {
        let Some(down) = self.downs.linked(key) else { return false };
        let (Phase::Body { reader, .. }, Some(owner)) = (&down.phase, down.exchange) else { return false };
        let Some(exchange) = self.exchanges.linked_mut(owner) else { return false };
        exchange.draft.request_bytes += data.len() as u64;
        if exchange.draft.request_bytes > self.settings.body_bytes_max {
            self.refuse_and_close(now, key, &Refusal::new(Fault::BodyTooLarge, "the request's body is too large"));
            return false;
        }
        let outgoing = &mut exchange.request.outgoing;
        outgoing.hold(data, body_bytes_max(self.settings.body_bytes_max, reader, outgoing.body.len() + data.len()));
        self.recount(owner);
        true
    }

    /// What an exchange holds has changed.
    pub(super) fn recount(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let outgoing = &mut exchange.request.outgoing;
        let (before, after) = (outgoing.counted, outgoing.held_bytes());
        outgoing.counted = after;
        let Some(user) = &outgoing.holder else { return };
        let was_favoured = after == 0 && exchange.stage != Stage::Receiving && self.held_bodies.leave(key);
        if self.held_bodies.change(user, before, after) || was_favoured {
            self.resume_held();
        }
    }

    /// An exchange is gone, and what it held with it.
    pub(super) fn uncount(&mut self, key: ExchangeKey, exchange: &Exchange) {
        let outgoing = &exchange.request.outgoing;
        let Some(user) = &outgoing.holder else { return };
        if outgoing.paused {
            self.held_bodies.forget_paused(key, user);
        }
        let was_favoured = self.held_bodies.leave(key);
        if self.held_bodies.change(user, outgoing.counted, 0) || was_favoured || outgoing.paused {
            self.resume_held();
        }
    }

    /// Looks at all who hold a body in memory; where somebody starves, the slowest go until somebody goes on.
    pub(super) fn look_at_holders(&mut self, now: Now) {
        let starves = self.held_bodies.look(now.mono);
        let (favoured, waiting) = (self.held_bodies.holding_up(), self.held_bodies.waiting());
        let max = self.settings.body_bytes_max;
        for down in slow_holders::look(&self.downs, &mut self.exchanges, favoured, max, starves) {
            if self.held_bodies.waiting() < waiting {
                return;
            }
            let message = "others wait for the memory that this request's body takes, and it comes too slowly";
            self.refuse_and_close(now, down, &Refusal::new(Fault::Overloaded, message).with(b"retry-after: 1\r\n"));
        }
    }

    /// Lets paused clients go on, as far as what they have sent fits.
    fn resume_held(&mut self) {
        let (downs, exchanges, max) = (&self.downs, &self.exchanges, self.settings.body_bytes_max);
        let resumed = self.held_bodies.resume(|key| {
            let down = exchanges.get(key)?.down;
            Some(growth(downs, exchanges, max, down, downs.get(down).map_or(0, |down| down.input.len())))
        });
        for key in resumed {
            let Some(exchange) = self.exchanges.linked_mut(key) else { continue };
            exchange.request.outgoing.paused = false;
            self.actions.push_back(Action::Read(Conn::Down(exchange.down)));
        }
    }
}

// ------------------------------------------------------------------------------------------------- answers of our own

impl Proxy {
    fn local_request(&mut self, now: Now, key: DownKey, head: &RequestHead<'_, '_>, local: Local) {
        let request = match local_request::read(now, head, local, &self.access) {
            Ok(request) => request,
            Err(refusal) => return self.refuse(now, key, head, &refusal),
        };
        if let Err(refusal) = self.local_limit.take(&request, now.mono) {
            return self.refuse(now, key, head, &refusal);
        }
        let is_own = local_limit::asker(&request).is_some();
        let Some(down) = self.downs.linked_mut(key) else { return };
        down.phase = Phase::Asking { to_head: head.method == "HEAD", is_own };
        let address = down.address;
        let question = match request {
            LocalRequest::Elsewhere(location) => {
                return self.local_answer(now, key, &Answer { headers: location, ..text(303, "") });
            }
            LocalRequest::BadDashboard(language, why) => {
                return self.local_answer(now, key, &dashboard::refusal(language, &why));
            }
            LocalRequest::Robots => return self.local_answer(now, key, &text(200, "User-agent: *\nDisallow: /\n")),
            LocalRequest::Health => return self.local_answer(now, key, &text(200, "ok\n")),
            LocalRequest::Readiness => {
                let answer = self.readiness(now);
                return self.local_answer(now, key, &answer);
            }
            LocalRequest::Admin(mut request) => {
                let from = address.map(|from| format!("administrator, {from}"));
                request.who = from.unwrap_or_else(|| "administrator".to_owned());
                if head.framing != Framing::None {
                    return self.keep_body(key, head, request);
                }
                Question::Admin(request)
            }
            LocalRequest::Metrics { scraper } => {
                let scraper = scraper.map(|program| format!("{address:?} {program}"));
                let snapshot = self.metrics.snapshot(self.gauges(now), scraper.as_deref(), now.mono);
                Question::Metrics(Box::new(snapshot))
            }
            LocalRequest::Usage(query) => Question::Usage(query),
            LocalRequest::Help(query) => Question::Help(query),
            LocalRequest::Dashboard(mut query) => {
                query.prices = self.prices.dates();
                query.limits = self.limit_uses(now, query.user.as_deref(), query.team.as_deref());
                let is_known = query.team.is_none() && query.model.is_none();
                query.refused = is_known.then(|| self.metrics.refusals_of(query.user.as_deref())).flatten();
                Question::Dashboard(query)
            }
        };
        let ticket = self.local_answers.ask(key);
        self.actions.push_back(Action::Ask { ticket, question });
    }

    /// An answer to [`Action::Ask`] has come.
    pub fn answered(&mut self, now: Now, ticket: u64, answer: &Answer) {
        if let Some(key) = self.local_answers.answered(ticket) {
            self.local_answer(now, key, answer);
        }
    }

    /// Puts out an answer to a local request.
    fn local_answer(&mut self, now: Now, key: DownKey, answer: &Answer) {
        let Some(down) = self.downs.get_mut(key) else { return };
        let Phase::Asking { to_head, is_own } = down.phase else {
            return debug_assert!(false, "an answer nobody asked for");
        };
        let length = if to_head { 0 } else { answer.body.len() };
        let refusal;
        let answer = match self.local_answers.take_room(length, is_own) {
            Some(counted) => {
                down.answer_bytes.add(counted);
                answer
            }
            None => {
                refusal = overloaded("too many large answers wait for their readers; ask again in a moment");
                &refusal
            }
        };
        let extra = format!("cache-control: no-store\r\n{}", answer.headers);
        let reply = Reply {
            status: answer.status,
            content_type: answer.content_type,
            body: &answer.body,
            error_code: answer.fault.map(Fault::code),
            extra: extra.as_bytes(),
            origin: None,
            to_head,
            unix: now.unix,
        };
        down.phase = Phase::Busy;
        self.put_reply(key, &reply, false);
        self.next_request(now, key);
        self.retime_down(now, key, false);
    }

    /// What `GET /readyz` says.
    fn readiness(&self, now: Now) -> Answer {
        if self.draining {
            text(503, "draining\n")
        } else if self.leaving {
            text(503, "stopping soon: requests are still served\n")
        } else if let Some(trouble) = &self.ledger_trouble {
            text(503, &format!("the ledger cannot commit: {trouble}\n"))
        } else if self.permits.available() <= u64::from(self.settings.journaled) {
            text(503, "the ledger cannot take more records at the moment\n")
        } else if !self.dialer.is_resolved() {
            text(503, "the target's address is not known\n")
        } else if now.unix >= self.policy_holds_until {
            text(503, "the fleet has been out of reach for longer than FLEET_POLICY_STALE\n")
        } else if self.fleet_away {
            text(200, "degraded: the fleet is out of reach; the log says why\n")
        } else {
            text(200, "ready\n")
        }
    }

    /// Refuses a request whose end can be told. A small body is read and dropped, to keep the connection.
    fn refuse(&mut self, now: Now, key: DownKey, head: &RequestHead<'_, '_>, refusal: &Refusal) {
        let short = match head.framing {
            Framing::Length(length) => length <= u64::from(DISCARD_BYTES_MAX),
            Framing::None | Framing::Chunked => true,
            Framing::Close => false,
        };
        // A client that waits for 100 Continue sends its body only if it likes: nobody can tell what comes next.
        // Nor is a place kept for strangers.
        let close = !short || head.expects_continue || refusal.fault.is_of_strangers();
        self.count_refusal(now, refusal.fault);
        let to_head = head.method == "HEAD";
        if self.is_guessed(now, key, head, refusal.fault) {
            let Some(down) = self.downs.linked_mut(key) else { return };
            down.phase = Phase::Delayed { refusal: Box::new(refusal.clone()), to_head };
            return self.retime_down(now, key, false);
        }
        self.write_error(now, key, refusal, to_head, close);
        let Some(down) = self.downs.linked_mut(key) else { return };
        if close {
            self.close_when_sent(now, key);
        } else if head.framing == Framing::None {
            self.next_request(now, key);
        } else {
            let sink = Sink::Discard(DISCARD_BYTES_MAX);
            down.phase = Phase::Body { reader: BodyReader::new(head.framing), sink };
            self.actions.push_back(Action::Flush(Conn::Down(key)));
        }
    }

    /// Refuses a request whose end cannot be told, or is not worth waiting for, and closes.
    pub(super) fn refuse_and_close(&mut self, now: Now, key: DownKey, refusal: &Refusal) {
        let mut to_head = false;
        if let Some(exchange) = self.downs.linked(key).and_then(|down| down.exchange) {
            let Some(found) = self.exchanges.linked(exchange) else { return };
            if found.is_unsent() {
                to_head = found.request.to_head;
                self.withdraw(now, exchange);
            } else if found.may_still_refuse() {
                return self.give_up(now, exchange, refusal);
            } else {
                return self.drop_down(now, key);
            }
        }
        self.count_refusal(now, refusal.fault);
        self.write_error(now, key, refusal, to_head, true);
        self.close_when_sent(now, key);
    }

    /// The target has part of a request whose rest makes no sense, or does not come.
    fn give_up(&mut self, now: Now, key: ExchangeKey, refusal: &Refusal) {
        self.write_exchange_error(now, key, refusal.fault, refusal.message.clone());
        let down = self.exchanges.linked(key).map(|exchange| exchange.down);
        if let Some(down) = down.and_then(|down| self.downs.linked_mut(down)) {
            down.phase = Phase::Closing;
        }
        self.settle(now, key, Outcome::ClientAborted);
        self.hold_or_release(now, key);
    }

    /// Refuses a request that is here as a whole; the connection may carry another.
    fn refuse_held(&mut self, now: Now, key: ExchangeKey, refusal: &Refusal) {
        let Some(exchange) = self.exchanges.linked(key) else { return };
        let (down, to_head, close) = (exchange.down, exchange.request.to_head, !exchange.request.complete);
        self.count_refusal(now, refusal.fault);
        self.withdraw(now, key);
        self.write_error(now, down, refusal, to_head, close);
        self.next_request(now, down);
        self.retime_down(now, down, false);
    }

    /// How somebody is refused whose limits do not allow a request.
    fn denied(&mut self, now: Now, payer: Payer<'_>, denied: &Denied) -> Refusal {
        match denied {
            Denied::Limit(refused) => {
                let limit = [refused.level.label(), refused.limit.label()];
                self.metrics.rate_limited(payer, limit, now.mono);
                request_estimate::refusal(refused, payer, now)
            }
            Denied::Unmetered(why) => request_estimate::unmetered_refusal(why),
            Denied::Asked | Denied::OutOfReach => request_estimate::out_of_reach_refusal(),
        }
    }

    fn count_refusal(&mut self, now: Now, fault: Fault) {
        self.metrics.refused(fault.code(), now.mono);
        log_notes::refusal(&mut self.notes, fault);
    }

    /// The error for an exchange that ends without a response: with the state of its user's limits, and for its record.
    pub(super) fn write_exchange_error(
        &mut self,
        now: Now,
        key: ExchangeKey,
        fault: Fault,
        message: Cow<'static, str>,
    ) {
        let Some(exchange) = self.exchanges.linked_mut(key) else { return };
        exchange.draft.status = fault.status();
        let (down, to_head, close) = (exchange.down, exchange.request.to_head, !exchange.request.complete);
        let mut extra = Vec::new();
        exchange.limit_status.write(&mut extra);
        self.write_error(now, down, &Refusal::new(fault, message).with(extra), to_head, close);
    }

    fn write_error(&mut self, now: Now, key: DownKey, refusal: &Refusal, to_head: bool, close: bool) {
        let code = refusal.fault.code();
        let reply = Reply {
            status: refusal.fault.status(),
            content_type: "application/json",
            body: &error_body(code, &refusal.message, refusal.param),
            error_code: Some(code),
            extra: &refusal.extra,
            origin: None,
            to_head,
            unix: now.unix,
        };
        self.put_reply(key, &reply, close);
    }

    /// Puts out a reply of ours, after which the connection closes where it must.
    fn put_reply(&mut self, key: DownKey, reply: &Reply<'_>, close: bool) {
        let Some(down) = self.downs.linked_mut(key) else { return };
        if close || self.draining {
            down.close_after_reply();
        }
        self.replies += 1;
        down.put_reply(reply, &format!("proxy-{:x}-{:x}", self.boot, self.replies));
    }
}

// ----------------------------------------------------------------------------------------------------------- deadlines

impl Proxy {
    /// Arms the deadline that the client's state asks for; `progress` says that bytes have moved.
    pub(super) fn retime_down(&mut self, now: Now, key: DownKey, progress: bool) {
        let wanted = self.down_class(key);
        let Some(down) = self.downs.get_mut(key) else { return };
        if !down.wants_new_deadline(wanted, progress, &self.settings.timeouts) {
            return;
        }
        match wanted {
            Some(class) => self.deadlines.arm(&mut down.timer, class as u8, Conn::Down(key), now.mono),
            None => self.deadlines.cancel(&mut down.timer),
        }
    }

    fn down_class(&self, key: DownKey) -> Option<Class> {
        let down = self.downs.get(key)?;
        let awaited = || self.exchanges.linked(down.exchange?)?.awaited_seq();
        let holding_up = || self.held_bodies.holding_up().is_some_and(|key| down.exchange == Some(key));
        down.deadline(
            || self.settings.timeouts.ledger_wait > 0 && awaited().is_some(),
            || self.wants_client_bytes(key),
            holding_up,
        )
    }

    pub(super) fn expire_down(&mut self, now: Now, key: DownKey, class: Class) {
        let Some(down) = self.downs.linked_mut(key) else { return };
        self.deadlines.cancel(&mut down.timer);
        down.timing = None;
        let (has_begun, owner) = (!down.input.is_empty(), down.exchange);
        let exchange = owner.and_then(|owner| self.exchanges.linked(owner));
        let late = |message| Refusal::new(Fault::HeaderTimeout, message);
        match (class, owner.zip(exchange)) {
            (Class::Header, _) if has_begun => {
                self.refuse_and_close(now, key, &late("the request's head did not arrive in time"));
            }
            (Class::Delay, _) => self.refuse_after_delay(now, key),
            // Nobody waits for it any more.
            (Class::HurriedBody, _) if self.down_class(key) == Some(Class::Body) => self.retime_down(now, key, false),
            (Class::Body | Class::HurriedBody, Some((_, exchange))) if exchange.may_still_refuse() => {
                self.refuse_and_close(now, key, &late("the request's body did not arrive in time"));
            }
            (Class::LedgerWait, Some((_, exchange))) if matches!(exchange.stage, Stage::Journaling { .. }) => {
                let message = "the ledger cannot take the request's entry at the moment";
                self.refuse_and_close(now, key, &Refusal::new(Fault::LedgerUnavailable, message));
            }
            (Class::LedgerWait, Some((owner, exchange))) => {
                if let Some(seq) = exchange.awaited_seq() {
                    self.permits.stop_waiting(seq);
                }
                self.metrics.ledger_released_uncommitted();
                self.commit_over(now, owner);
            }
            _ => self.drop_down(now, key),
        }
    }
}

// ------------------------------------------------------------------------------------------------------ pure functions

/// Memory that the client's held body takes in addition once `count` more bytes of it have come. A body has at most
/// `max` bytes.
fn growth(downs: &Slab<Downstream>, exchanges: &Slab<Exchange>, max: u64, key: DownKey, count: usize) -> usize {
    let Some(down) = downs.get(key) else { return 0 };
    let Phase::Body { reader, sink: Sink::Hold } = &down.phase else { return 0 };
    let Some(exchange) = down.exchange.and_then(|exchange| exchanges.linked(exchange)) else { return 0 };
    let have = exchange.request.outgoing.body.len();
    let max = body_bytes_max(max, reader, have);
    exchange.request.outgoing.growth(count.min(max - have), max)
}

/// True for what may be sent again after bytes of it were written: it is safe, or its client gave it a key (RFC 9110
/// §9.2.2). A key that does not reach the target does not make a repetition safe.
fn is_idempotent(head: &RequestHead<'_, '_>) -> bool {
    let mut keys = head.headers.iter().filter(|(class, _)| *class == Known::IdempotencyKey);
    matches!(head.method, "GET" | "HEAD") || keys.any(|(class, header)| !head.connection.names(header.name, class))
}
