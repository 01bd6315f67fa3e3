//! A response on its way from the target to the client, with the capture reading along: what its head means for the
//! rest, and the pieces of its body.
//!
//! Plaintext of the connection in; bytes for the client out. What is relayed is what came, but for framing and, where
//! usage was asked for in the client's place, the traces of that. Never: a connection.

use super::exchange::{Exchange, Progress};
use super::forward::{self, ResponsePlan};
use super::tunnel::Tunnel;
use super::usage_asking::HeldAnswer;
use crate::base::clock::{MICROSECOND, Now};
use crate::http::HttpError;
use crate::http::body::{BodyReader, BodyWriter};
use crate::http::chunked::Piece;
use crate::http::framing::Framing;
use crate::http::head::ResponseHead;
use crate::http::headers::Known;
use crate::usage::inspect::clip;
use crate::usage::reader::{Coding, Form, UsageReader};
use std::sync::Arc;

/// Interim responses (RFC 9110 §15.2) accepted before a final one.
const INTERIM_MAX: u32 = 64;
/// Longest request id of the target's that is recorded, bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Memory that is kept for the next piece of an edited stream, of whichever connection, bytes.
pub(super) const EDITED_BYTES_KEPT: usize = 128 * 1024;

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

impl Exchange {
    /// An interim response has come.
    ///
    /// # Errors
    /// There were too many.
    pub(super) fn interim_head(&mut self) -> Result<(), HttpError> {
        self.response.interim += 1;
        let too_many = self.response.interim > INTERIM_MAX;
        if too_many { Err(HttpError::Malformed("too many interim responses")) } else { Ok(()) }
    }

    /// Holds an answer with this head, of these bytes, back where it may refuse that we asked for usage; true where it
    /// does.
    pub(super) fn holds_answer(&mut self, head: &ResponseHead<'_, '_>, bytes: &[u8]) -> bool {
        let outgoing = &self.request.outgoing;
        let may_repeat = outgoing.is_sent() && outgoing.is_replayable() && !self.abandoned;
        let has_body = !matches!(head.framing, Framing::None | Framing::Length(0));
        let may_refuse = self.request.asked.is_some() && matches!(head.status, 400 | 422) && has_body;
        let holds = may_refuse && may_repeat && forward::form(&head.headers).1 == Coding::Identity;
        if holds {
            self.response.held = Some(Box::new(HeldAnswer::new(bytes, BodyReader::new(head.framing))));
        }
        holds
    }

    /// The response's head has come: decides how its body is read, and what goes on to the client. `keep_alive` says
    /// that the client's connection could stay open, `position` where the response starts in all that was put out to
    /// it.
    pub(super) fn response_head(
        &mut self,
        head: &ResponseHead<'_, '_>,
        keep_alive: bool,
        position: u64,
    ) -> ResponsePlan {
        let (form, coding) = forward::form(&head.headers);
        let endpoint = self.draft.endpoint;
        let streamed = matches!(form, Form::Events | Form::Lines);
        let response = &mut self.response;
        // What was asked for in the client's place is in no error.
        let edit = self.request.asked.is_some() && head.status < 400 && head.framing != Framing::None;
        response.usage_reader = UsageReader::new(endpoint, form, coding, edit);
        let edited = response.usage_reader.is_editing();
        let plan = forward::plan(head, self.request.http11, edited, keep_alive);
        response.progress = Progress::Body;
        response.reader = BodyReader::new(head.framing);
        response.writer = plan.writer;
        response.streamed = streamed;
        response.reusable = head.keep_alive();
        response.starts_at = position;
        // Nothing can be sent again any more.
        self.request.outgoing.forget_sent();
        self.draft.stream = streamed;
        self.draft.status = head.status;
        self.draft.upstream_request_id = request_id(head);
        self.draft.model = served_model(head);
        plan
    }

    /// The target takes up the WebSocket that the request asks for.
    pub(super) fn switch(&mut self, head: &ResponseHead<'_, '_>, position: u64) {
        self.tunnel = Some(Box::new(Tunnel::new(self.draft.endpoint)));
        self.request.complete = false;
        self.request.outgoing.forget_sent();
        self.draft.status = head.status;
        self.draft.upstream_request_id = request_id(head);
        self.draft.stream = true;
        let response = &mut self.response;
        (response.progress, response.streamed, response.reusable) = (Progress::Body, true, false);
        (response.reader, response.writer) = (BodyReader::Close, BodyWriter::Bytes);
        response.starts_at = position;
    }

    /// All of the body has come: puts out its end.
    pub(super) fn response_end(&mut self, out: &mut Vec<u8>) {
        let response = &mut self.response;
        let mut last = Vec::new();
        response.usage_reader.end(&mut last);
        put_edited(response.writer, &mut self.draft.response_bytes, out, &last);
        response.writer.write(out, Piece::End, false);
    }
}

/// Reads the body on, piece by piece, to the end of the input or its own. Each piece is read for its usage, and then
/// `put` out, with what became of it where the stream is edited.
pub(super) fn body_pieces(
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
            Piece::More => {
                if response.usage_reader.is_editing() {
                    edited.clear();
                    response.usage_reader.release(edited);
                    put(exchange, Piece::Data(&[]), edited);
                }
                return Ok(Next::Wait);
            }
            Piece::End => return Ok(Next::Complete(at)),
            Piece::Data(data) => {
                edited.clear();
                response.usage_reader.feed(data, edited)?;
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
pub(super) fn put_piece(exchange: &mut Exchange, piece: Piece<'_>, edited: &[u8], out: &mut Vec<u8>) {
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
fn request_id(head: &ResponseHead<'_, '_>) -> Option<Box<str>> {
    let id = head.headers.values(Known::RequestId).next()?;
    let id = std::str::from_utf8(id).ok()?;
    Some(id[..id.floor_char_boundary(REQUEST_ID_BYTES_MAX)].into())
}
