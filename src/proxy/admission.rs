//! What happens to a request when its head is complete: answered here, refused, or admitted as an exchange.
//!
//! The order of the checks is the order of their price: nothing is taken from a user's limit, and no place is reserved,
//! for a request that another check refuses.

use super::asked::Asked;
use super::downstream::{Phase, Sink};
use super::exchange::{Exchange, Outgoing, Request, Response, Stage};
use super::forward::Accepted;
use super::route::{Local, Route};
use super::{Action, Conn, DownKey, ExchangeKey, Proxy, forward, identity, named, route};
use crate::base::clock::Now;
use crate::http::body::BodyReader;
use crate::http::framing::Framing;
use crate::http::head::{self, RequestHead};
use crate::http::headers::Known;
use crate::http::reply::Fault;
use crate::limit::limiter::Reservation;
use crate::limit::status::RateLimitStatus;
use crate::usage::estimate;
use crate::usage::inspect::inspect;
use crate::usage::multipart::MultipartReader;
use crate::usage::record::{Draft, Endpoint};
use std::sync::Arc;

/// Has a browser ask its user for the administrator's token (RFC 7617 §2).
const CHALLENGE: &[u8] = b"www-authenticate: Basic realm=\"proxy-server\", charset=\"UTF-8\"\r\n";

impl Proxy {
    /// A head is complete. Leaves the connection in the state that its body needs.
    pub(super) fn admit(&mut self, now: Now, key: DownKey, bytes: &[u8]) {
        let mut storage = head::storage();
        let head = match RequestHead::parse(bytes, &mut storage) {
            Ok(head) => head,
            Err(error) => return self.refuse_and_close(now, key, Fault::of(error), error.message()),
        };
        if let Some(down) = self.downs.get_mut(key) {
            down.keep_alive = head.keep_alive() && !self.draining && !down.ended && !down.surplus;
            down.http10 = !head.http11;
        }
        match route::route(head.method, head.target, head.is_websocket()) {
            Route::Local(local) => self.local_request(now, key, &head, local),
            Route::Relay(endpoint) => match identity::who(&head.headers, &self.access, now.unix) {
                Ok((user, key_id)) => {
                    let user = user.unwrap_or_else(|name| self.limiter.name(name));
                    self.relay(now, key, &head, user, key_id, endpoint);
                }
                Err((fault, message)) => self.refuse(now, key, &head, fault, message, &[]),
            },
        }
    }

    fn relay(
        &mut self,
        now: Now,
        key: DownKey,
        head: &RequestHead<'_, '_>,
        user: Arc<str>,
        key_id: Option<i64>,
        endpoint: Endpoint,
    ) {
        if self.is_too_many(key) {
            let message = "too many clients are connected; try again in a moment";
            return self.refuse(now, key, head, Fault::Overloaded, message, b"retry-after: 1\r\n");
        }
        if !self.settings.prefix.is_empty() && route::climbs(head.target) {
            let message = "a path with `..` could leave the target's own path";
            return self.refuse(now, key, head, Fault::BadRequest, message, &[]);
        }
        let hold = endpoint != Endpoint::Other && head.framing != Framing::None && is_plain_json(head);
        if let Framing::Length(length) = head.framing
            && hold
            && length > self.settings.body_bytes_max
        {
            return self.refuse(now, key, head, Fault::BodyTooLarge, "the request's body is too large", &[]);
        }
        let places = endpoint.records_max() + u64::from(self.settings.journaled);
        if places > self.places_left() {
            let message = "the ledger cannot take more records at the moment";
            return self.refuse(now, key, head, Fault::LedgerUnavailable, message, b"retry-after: 1\r\n");
        }
        let mut exchange = self.exchange(now, key, head, user, endpoint, hold);
        exchange.draft.key_id = key_id;
        if let Err(refused) = self.take_of_limits(now, &mut exchange, hold) {
            return self.refuse_limited(now, key, head, &exchange.draft.user, &refused);
        }
        self.places_reserved += places;
        let exchange = self.exchanges.insert(Exchange { places, ..exchange });
        let Some(down) = self.downs.get_mut(key) else { return };
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
            self.dispatch(now, exchange);
        }
    }

    fn exchange(
        &self,
        now: Now,
        down: DownKey,
        head: &RequestHead<'_, '_>,
        user: Arc<str>,
        endpoint: Endpoint,
        hold: bool,
    ) -> Exchange {
        let mut outgoing = Outgoing::default();
        let captured = endpoint != Endpoint::Other;
        let accepted = forward::write_request(&mut outgoing.head, head, &self.settings, captured);
        let safe = matches!(head.method, "GET" | "HEAD");
        let named = named::named(head.target);
        // A key that does not reach the target does not make a repetition safe.
        let keyed = || {
            let mut keys = head.headers.iter().filter(|(class, _)| *class == Known::IdempotencyKey);
            keys.any(|(class, header)| !head.connection.names(header.name, class))
        };
        Exchange {
            down,
            up: None,
            stage: Stage::Receiving,
            places: 0,
            tunnel: None,
            abandoned: false,
            reservation: Reservation::default(),
            limit_status: RateLimitStatus::default(),
            request: Request {
                to_head: head.method == "HEAD",
                http11: head.http11,
                websocket: head.is_websocket(),
                idempotent: safe || keyed(),
                model_wanted: !named.deployed,
                deployed: named.deployed || self.deploys,
                accepted,
                form: (captured && !hold).then(|| form(head)).flatten(),
                usage_asked: false,
                text_bytes: 0,
                complete: head.framing == Framing::None,
                retried: false,
                reached: false,
                outgoing,
            },
            response: Response::default(),
            draft: Draft { started_at: now.unix, user, endpoint, model_requested: named.name, ..Draft::default() },
            settled_as: 0,
            started: now.mono,
            ready: now.mono,
        }
    }

    /// A held body is complete: reads it, makes the two edits, and sends the request on its way.
    pub(super) fn request_held(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let request = &mut exchange.request;
        let default_model = self.settings.model_name.as_deref().filter(|_| request.model_wanted);
        let inspected = inspect(&request.outgoing.body, exchange.draft.endpoint, default_model);
        let limited = self.limiter.measures(&exchange.draft.user).tokens;
        if inspected.stream || limited {
            request.text_bytes = estimate::text_bytes(&request.outgoing.body);
        }
        let edited_bytes = inspected
            .splices
            .iter()
            .fold(request.outgoing.body.len(), |bytes, splice| bytes + splice.with.len() - splice.at.len());
        // A compressed stream could not be edited.
        let accepted =
            request.accepted.map(|accepted| if inspected.usage_asked { Accepted::Identity } else { accepted });
        forward::write_accepted(&mut request.outgoing.head, accepted);
        forward::write_length(&mut request.outgoing.head, edited_bytes as u64);
        request.outgoing.head.extend_from_slice(b"\r\n");
        request.outgoing.finish_body(&inspected.splices);
        request.usage_asked = inspected.usage_asked;
        request.complete = true;
        if inspected.model.is_some() {
            exchange.draft.model_requested = inspected.model;
        }
        exchange.draft.stream = inspected.stream;
        exchange.ready = now.mono;
        match self.take_when_whole(now, key, inspected.output_max) {
            Ok(()) => self.dispatch(now, key),
            Err(refused) => self.refuse_held(now, key, &refused),
        }
    }

    fn local_request(&mut self, now: Now, key: DownKey, head: &RequestHead<'_, '_>, local: Local) {
        if !matches!(head.method, "GET" | "HEAD") {
            let message = "only GET and HEAD are answered here";
            return self.refuse(now, key, head, Fault::MethodNotAllowed, message, b"allow: GET, HEAD\r\n");
        }
        if head.framing != Framing::None {
            return self.refuse(now, key, head, Fault::BadRequest, "a request with a body is not answered here", &[]);
        }
        let asked = match self.asked(now, head, local) {
            Ok(asked) => asked,
            Err((fault, message)) => {
                let challenge = if fault == Fault::Unauthorized { CHALLENGE } else { &[] };
                return self.refuse(now, key, head, fault, &message, challenge);
            }
        };
        let Some(down) = self.downs.get_mut(key) else { return };
        down.asked = Some(head.method == "HEAD");
        down.phase = Phase::Busy;
        match asked {
            Asked::Known(answer) => self.local_answer(now, key, &answer),
            Asked::Question(question) => {
                self.next_ticket += 1;
                self.tickets.insert(self.next_ticket, key);
                self.actions.push_back(Action::Ask { ticket: self.next_ticket, question });
            }
        }
    }

    /// A request that was admitted is refused after all, before the target heard of it: it takes nothing.
    pub(super) fn withdraw(&mut self, now: Now, key: ExchangeKey) {
        self.withdraw_entry(key);
        if let Some(exchange) = self.exchanges.get_mut(key) {
            self.limiter.withdraw(&exchange.draft.user, std::mem::take(&mut exchange.reservation), now);
        }
        self.remove_exchange(now, key);
    }
}

/// True for a JSON body that is not compressed.
fn is_plain_json(head: &RequestHead<'_, '_>) -> bool {
    plain_type(head).is_some_and(forward::is_json)
}

/// The reader of a form that is not compressed.
fn form(head: &RequestHead<'_, '_>) -> Option<Box<MultipartReader>> {
    plain_type(head).and_then(MultipartReader::new).map(Box::new)
}

/// The type of a body that is not compressed.
fn plain_type<'b>(head: &RequestHead<'b, '_>) -> Option<&'b [u8]> {
    let mut types = head.headers.values(Known::ContentType);
    let only = types.next().filter(|_| types.next().is_none())?;
    let compressed = head.headers.values(Known::ContentEncoding).next().is_some();
    (!compressed).then_some(only)
}
