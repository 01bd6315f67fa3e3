//! A response on its way from the target to the client, with the capture reading along.
//!
//! Plaintext of the connection in; bytes for the client out. What is relayed is what came, but for framing and, where
//! usage was asked for in the client's place, the traces of that.

use super::exchange::{Exchange, Progress};
use super::forward;
use super::upstream::Failure;
use super::{Action, Conn, ExchangeKey, Proxy, UpKey};
use crate::base::clock::{MICROSECOND, Now};
use crate::http::HttpError;
use crate::http::body::{BodyReader, BodyWriter};
use crate::http::chunked::Piece;
use crate::http::head::{self, HeadEnd, ResponseHead};
use crate::http::headers::Known;
use crate::usage::inspect::clip;
use crate::usage::reader::{Form, UsageReader};
use crate::usage::record::Outcome;
use std::sync::Arc;

/// Interim responses (RFC 9110 §15.2) accepted before a final one.
const INTERIM_MAX: u32 = 64;
/// Longest request id of the target's that is recorded, bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Memory that is kept for the next piece of an edited stream, of whichever connection, bytes.
const EDITED_BYTES_KEPT: usize = 128 * 1024;

/// What happens after a piece of a response.
pub(super) enum Next {
    /// More of it may follow in the input, from this many bytes on.
    Bytes(usize),
    /// The input is used up.
    Wait,
    /// The input must wait for something else.
    Later,
    /// The response is complete; so many bytes of the input were its.
    Complete(usize),
}

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
                    let Some(up) = self.ups.get_mut(key) else { return };
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
        let Some(found) = self.exchanges.get_mut(exchange) else { return Ok(Next::Wait) };
        let is_awaited = found.response.progress == Progress::Awaited;
        let Some(up) = self.ups.get_mut(key) else { return Ok(Next::Wait) };
        if !is_awaited {
            // Of a tunnel, what came before may still wait.
            return if up.input.is_empty() { self.body(now, exchange, bytes) } else { Ok(Next::Later) };
        }
        if up.input.is_empty() {
            return match up.head_end.find(bytes)? {
                Some(end) => {
                    up.head_end = HeadEnd::default();
                    self.response_head(exchange, &bytes[..end])?;
                    self.complete_if_empty(exchange, end)
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
        self.complete_if_empty(exchange, end - waited)
    }

    fn complete_if_empty(&mut self, exchange: ExchangeKey, used: usize) -> Result<Next, HttpError> {
        let Some(found) = self.exchanges.get_mut(exchange) else { return Ok(Next::Wait) };
        let without_body = matches!(found.response.reader, BodyReader::Length(0));
        let complete = found.response.progress == Progress::Body && without_body;
        Ok(if complete { Next::Complete(used) } else { Next::Bytes(used) })
    }

    /// A response head: chooses how its body goes on, and writes ours.
    fn response_head(&mut self, key: ExchangeKey, bytes: &[u8]) -> Result<(), HttpError> {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Ok(()) };
        let mut storage = head::storage();
        let head = ResponseHead::parse(bytes, &mut storage, exchange.request.to_head)?;
        if head.status == 101 {
            return self.switch(key, &head);
        }
        if head.status < 200 {
            exchange.response.interim += 1;
            let too_many = exchange.response.interim > INTERIM_MAX;
            return if too_many { Err(HttpError::Malformed("too many interim responses")) } else { Ok(()) };
        }
        let (form, coding) = forward::form(&head.headers);
        let endpoint = exchange.draft.endpoint;
        let streamed = matches!(form, Form::Events | Form::Lines);
        let response = &mut exchange.response;
        response.progress = Progress::Body;
        response.reader = BodyReader::new(head.framing);
        response.streamed = streamed;
        response.reusable = head.keep_alive();
        response.usage_reader = UsageReader::new(endpoint, form, coding, exchange.request.usage_asked);
        let edited = response.usage_reader.is_editing();
        // Nothing can be sent again any more.
        exchange.request.outgoing.forget_sent();
        exchange.draft.stream = streamed;
        exchange.draft.upstream_request_id = request_id(&head);
        exchange.draft.model = served_model(&head);
        let Some(down) = self.downs.get_mut(exchange.down) else { return Ok(()) };
        // What was sent on the assumption of a WebSocket is no request.
        let mistaken = exchange.request.websocket && !down.input.is_empty();
        let keep_alive = down.keep_alive && !self.draining && exchange.request.complete && !mistaken;
        let plan = forward::plan(&head, exchange.request.http11, edited, keep_alive);
        down.keep_alive = plan.keep_alive;
        down.until_close = plan.until_close;
        response.starts_at = down.sent + down.out.len() as u64;
        response.writer = plan.writer;
        exchange.draft.status = head.status;
        forward::write_response(
            down.out.tail_from(&mut self.spares),
            &head,
            &plan,
            &exchange.limit_status,
            exchange.request.http11,
        );
        self.actions.push_back(Action::Flush(Conn::Down(exchange.down)));
        self.recount(key);
        Ok(())
    }

    /// Bytes of the body, as far as they go.
    fn body(&mut self, now: Now, key: ExchangeKey, bytes: &[u8]) -> Result<Next, HttpError> {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Ok(Next::Wait) };
        if exchange.tunnel.is_some() {
            return Ok(self.tunnel_piece(now, key, bytes));
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

    /// The target has closed the connection: true where that is how its response ends.
    pub(super) fn response_ends_here(&mut self, now: Now, key: UpKey) -> bool {
        let Some(exchange) = self.ups.get(key).and_then(|up| up.exchange) else { return false };
        let Some(found) = self.exchanges.get(exchange) else { return false };
        let by_closing =
            found.response.progress == Progress::Body && matches!(found.response.reader, BodyReader::Close);
        if by_closing {
            self.response_complete(now, exchange, false);
        }
        by_closing
    }

    /// All of the response has come: puts out its end, and settles. The end waits for the record's commit.
    fn response_complete(&mut self, now: Now, key: ExchangeKey, reusable: bool) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let (up, complete) = (exchange.up.take(), exchange.request.complete && exchange.request.outgoing.is_sent());
        let reusable = reusable && exchange.response.reusable && complete;
        exchange.response.progress = Progress::Complete;
        if let Some(down) = self.downs.get_mut(exchange.down) {
            let out = down.out.tail();
            let mut last = Vec::new();
            exchange.response.usage_reader.end(&mut last);
            put_edited(exchange.response.writer, &mut exchange.draft.response_bytes, out, &last);
            exchange.response.writer.write(out, Piece::End, false);
            // All that has not left yet waits, so that it leaves in one piece: of a stream what came together with its
            // end.
            let of_this = (down.sent + down.out.len() as u64).saturating_sub(exchange.response.starts_at);
            let held = usize::try_from(of_this).unwrap_or(usize::MAX).min(down.out.len());
            down.held_back = if self.settings.settled { held } else { 0 };
        }
        if let Some(up) = up {
            self.free_up(now, up, reusable);
        }
        if self.exchanges.get(key).is_some_and(|exchange| exchange.abandoned) {
            return self.end_abandoned(now, key);
        }
        self.settle(now, key, Outcome::Completed);
        self.hold_or_release(now, key);
    }
}

/// Reads the body on, piece by piece, to the end of the input or its own. Each piece is read for its usage, and then
/// `put` out, with what became of it where the stream is edited.
fn body_pieces(
    now: Now,
    exchange: &mut Exchange,
    bytes: &[u8],
    edited: &mut Vec<u8>,
    mut put: impl FnMut(&mut Exchange, Piece<'_>, &[u8]),
) -> Result<Next, HttpError> {
    let mut at = 0;
    loop {
        let response = &mut exchange.response;
        let (used, piece) = response.reader.next(&bytes[at..])?;
        at += used;
        match piece {
            Piece::More => return Ok(Next::Wait),
            Piece::End => return Ok(Next::Complete(at)),
            Piece::Data(data) => {
                edited.clear();
                response.usage_reader.feed(data, edited);
                let since_start = (now.mono - exchange.started) / MICROSECOND;
                exchange.draft.first_byte_us.get_or_insert(since_start);
            }
            Piece::Chunk(_) | Piece::ChunkEnd => {}
        }
        put(exchange, piece, edited);
        if matches!(exchange.response.reader, BodyReader::Length(0)) {
            return Ok(Next::Complete(at));
        }
    }
}

/// Puts a piece of the body out: as it came, or what became of it in `edited`.
fn put_piece(exchange: &mut Exchange, piece: Piece<'_>, edited: &[u8], out: &mut Vec<u8>) {
    let (response, sent) = (&mut exchange.response, &mut exchange.draft.response_bytes);
    match (response.usage_reader.is_editing(), piece) {
        (true, Piece::Data(_)) => put_edited(response.writer, sent, out, edited),
        (true, _) => {} // chunks are ours to cut
        (false, piece) => {
            if let Piece::Data(data) = piece {
                *sent += data.len() as u64;
            }
            let from_chunks = matches!(response.reader, BodyReader::Chunked(_));
            response.writer.write(out, piece, from_chunks);
        }
    }
}

fn put_edited(writer: BodyWriter, count: &mut u64, out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        *count += data.len() as u64;
        writer.write(out, Piece::Data(data), false);
    }
}

/// The model that answered, for a body that does not name it.
fn served_model(head: &ResponseHead<'_, '_>) -> Option<Arc<str>> {
    let model = head.headers.values(Known::ServedModel).next()?;
    let model = std::str::from_utf8(model).ok().filter(|model| !model.is_empty())?;
    Some(clip(model).into())
}

/// The target's own id of the request.
pub(super) fn request_id(head: &ResponseHead<'_, '_>) -> Option<Box<str>> {
    let id = head.headers.values(Known::RequestId).next()?;
    let id = std::str::from_utf8(id).ok()?;
    Some(id[..id.floor_char_boundary(REQUEST_ID_BYTES_MAX)].into())
}
