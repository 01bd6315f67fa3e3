//! A client's connection: requests in, one after another; replies out, in the same order.
//!
//! ```text
//!   Head ──head complete──▶ Body ──body complete──▶ Busy ──reply complete──▶ Head
//!     │                      │ no body: at once      │
//!     └── refused, framing lost ──▶ Deaf ◀───────────┘ the connection will not be kept alive
//!                                    └── all sent ──▶ half-closed, lingering ──▶ (closed)
//! ```
//!
//! Bytes that come before their turn (pipelined requests) wait in `input`, up to a watermark.

use super::exchange::Stage;
use super::timing::Class;
use super::{Action, Conn, DownKey, ExchangeKey, HIGH_WATERMARK, LOW_WATERMARK, Proxy, UpKey, Written};
use crate::base::buffer::Buffer;
use crate::base::clock::Now;
use crate::base::deadlines::Timer;
use crate::http::HEAD_BYTES_MAX;
use crate::http::body::{BodyReader, BodyWriter};
use crate::http::chunked::Piece;
use crate::http::head::HeadEnd;
use crate::http::reply::Fault;
use std::sync::Arc;

/// Bytes of an unwanted body that are read to keep the connection; beyond, it is closed.
pub const DISCARD_BYTES_MAX: u32 = 256 * 1024;

/// Where the client's bytes go now.
#[derive(Debug, Default)]
pub enum Phase {
    /// A head is awaited or arriving.
    #[default]
    Head,
    /// A body is arriving.
    Body { reader: BodyReader, sink: Sink },
    /// The request is whole, its reply is under way.
    Busy,
    /// Nothing more is understood: whatever comes is read and dropped.
    Deaf,
}

/// What becomes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Held for inspection.
    Hold,
    /// Sent on as it comes.
    Stream,
    /// Dropped; the reply is out already. How many more bytes are accepted.
    Discard(u32),
}

/// One client's connection.
#[derive(Debug, Default)]
pub struct Downstream {
    pub phase: Phase,
    pub input: Buffer,
    pub head_end: HeadEnd,
    pub out: Buffer,
    /// Bytes at the end of `out` that wait for a commit.
    pub held_back: usize,
    /// Bytes ever sent.
    pub sent: u64,
    pub exchange: Option<ExchangeKey>,
    /// A local answer is awaited; true where it is to a HEAD.
    pub asked: Option<bool>,
    /// Bytes of large local answers since `out` was empty the last time.
    pub answer_bytes: usize,
    /// The connection stays open after the current reply.
    pub keep_alive: bool,
    /// The current request is HTTP/1.0: a client that must be told that the connection stays open.
    pub http10: bool,
    /// Only the end of the connection ends the current reply: cut, it must not look like that.
    pub until_close: bool,
    /// It is one more than there may be.
    pub surplus: bool,
    /// Bytes that have moved since its deadline began.
    pub moved: u64,
    /// A request was read on this connection.
    pub served: bool,
    /// The client has shut its sending side down.
    pub ended: bool,
    /// Our sending side is shut down.
    pub lingering: bool,
    pub timer: Timer,
    pub timing: Option<Class>,
}

impl Downstream {
    /// The value of `connection` in a reply after which the connection closes, or does not.
    pub fn connection_header(&self, close: bool) -> Option<&'static str> {
        match (close, self.http10) {
            (true, _) => Some("close"),
            (false, true) => Some("keep-alive"),
            (false, false) => None,
        }
    }

    /// Bytes that may go out now.
    pub fn sendable(&self) -> usize {
        self.out.len() - self.held_back
    }

    /// What waits for a commit will never leave: nobody waits for that commit any more.
    pub fn drop_held(&mut self) {
        self.out.truncate(self.sendable());
        self.held_back = 0;
    }
}

impl Proxy {
    /// True where reading from the client makes sense now.
    pub(super) fn wants_client_bytes(&self, key: DownKey) -> bool {
        let Some(down) = self.downs.get(key) else { return false };
        let waiting = || {
            let exchange = down.exchange.and_then(|exchange| self.exchanges.get(exchange));
            exchange.map_or(0, |exchange| exchange.request.outgoing.stream.len())
        };
        let is_paused = || {
            let exchange = down.exchange.and_then(|exchange| self.exchanges.get(exchange));
            exchange.is_some_and(|exchange| exchange.request.outgoing.paused)
        };
        !down.ended
            && match down.phase {
                Phase::Head => down.out.len() < HIGH_WATERMARK && down.input.len() <= HEAD_BYTES_MAX,
                Phase::Body { sink: Sink::Stream, .. } => waiting() < HIGH_WATERMARK,
                Phase::Body { sink: Sink::Hold, .. } => !is_paused(),
                Phase::Body { .. } | Phase::Deaf => true,
                // Read on while busy, or a client that goes away would not be noticed.
                Phase::Busy => down.input.len() < HIGH_WATERMARK,
            }
    }

    pub(super) fn client_bytes(&mut self, now: Now, key: DownKey, bytes: &[u8]) {
        let Some(down) = self.downs.get_mut(key) else { return };
        down.moved += bytes.len() as u64;
        if down.input.is_empty() {
            let used = self.consume(now, key, bytes);
            if let Some(down) = self.downs.get_mut(key).filter(|_| used < bytes.len()) {
                down.input.append(&bytes[used..]);
            }
        } else {
            down.input.append(bytes);
            self.advance(now, key);
        }
        self.retime_down(now, key, true);
    }

    /// Goes on with what waits in `input`: the answer to [`Action::Read`], before the socket is read.
    pub(super) fn advance(&mut self, now: Now, key: DownKey) {
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
            let Some(down) = self.downs.get_mut(key) else { return bytes.len() };
            let step = match down.phase {
                Phase::Head if down.out.len() < HIGH_WATERMARK => self.head_bytes(now, key, &bytes[used..]),
                Phase::Body { .. } => self.body_bytes(now, key, &bytes[used..]),
                Phase::Head | Phase::Busy => None,
                Phase::Deaf => return bytes.len(),
            };
            match step {
                Some(taken) => used += taken,
                None => return used,
            }
        }
    }

    /// A head, where it is whole.
    fn head_bytes(&mut self, now: Now, key: DownKey, bytes: &[u8]) -> Option<usize> {
        let down = self.downs.get_mut(key).filter(|_| !bytes.is_empty())?;
        match down.head_end.find(bytes) {
            Ok(None) => None,
            Ok(Some(end)) => {
                down.head_end = HeadEnd::default();
                down.served = true;
                self.admit(now, key, &bytes[..end]);
                Some(end)
            }
            Err(error) => {
                self.refuse_and_close(now, key, Fault::of(error), error.message());
                Some(bytes.len())
            }
        }
    }

    /// As much of a body as there is; `None` where there is nothing to do until more comes.
    fn body_bytes(&mut self, now: Now, key: DownKey, bytes: &[u8]) -> Option<usize> {
        if self.must_wait(now, key, bytes.len()) {
            return None;
        }
        let down = self.downs.get_mut(key)?;
        let exchange = down.exchange.and_then(|exchange| self.exchanges.get_mut(exchange));
        let Phase::Body { reader, sink } = &mut down.phase else { return None };
        let from_chunks = matches!(reader, BodyReader::Chunked(_));
        let (used, piece) = match reader.next(bytes) {
            Ok(step) => step,
            // Its reply is out already: a second one would be taken for the next request's.
            Err(_) if matches!(sink, Sink::Discard(_)) => {
                self.close_when_sent(now, key);
                return Some(bytes.len());
            }
            Err(error) => {
                self.refuse_and_close(now, key, Fault::of(error), error.message());
                return Some(bytes.len());
            }
        };
        let data_bytes = if let Piece::Data(data) = piece { data.len() as u64 } else { 0 };
        match (sink, exchange) {
            (Sink::Discard(left), _) if data_bytes > u64::from(*left) => {
                self.close_when_sent(now, key);
                return Some(bytes.len());
            }
            (Sink::Discard(left), _) => *left -= data_bytes as u32, // no more than it
            (Sink::Hold, Some(_)) => {
                if let Piece::Data(data) = piece
                    && !self.hold(now, key, data)
                {
                    return Some(bytes.len());
                }
            }
            (Sink::Stream, Some(exchange)) => {
                exchange.draft.request_bytes += data_bytes;
                if let (Some(form), Piece::Data(data)) = (&mut exchange.request.form, piece)
                    && form.feed(data)
                {
                    exchange.draft.model_requested = form.model().map(Arc::from);
                }
                let is_broken = |&up: &UpKey| self.ups.get(up).is_some_and(|up| up.broken.is_some());
                // A target that has answered early and is gone takes no more: the client must get rid of it all the
                // same, or it may never come to read the answer.
                if exchange.up.as_ref().is_none_or(|up| !is_broken(up)) {
                    let writer = if from_chunks { BodyWriter::Chunked } else { BodyWriter::Bytes };
                    writer.write(exchange.request.outgoing.stream.tail(), piece, from_chunks);
                }
                if let Some(up) = exchange.up.filter(|_| piece != Piece::More) {
                    self.actions.push_back(Action::Flush(Conn::Up(up)));
                }
            }
            // Unreachable: a body with a destination belongs to an exchange.
            (Sink::Hold | Sink::Stream, None) => return None,
        }
        if piece == Piece::End {
            self.body_complete(now, key);
        }
        // Half a line end may have been taken although no piece came of it.
        (used > 0 || piece == Piece::End).then_some(used)
    }

    fn body_complete(&mut self, now: Now, key: DownKey) {
        let Some(down) = self.downs.get_mut(key) else { return };
        let Phase::Body { sink, .. } = std::mem::replace(&mut down.phase, Phase::Busy) else { return };
        match (sink, down.exchange) {
            (Sink::Hold, Some(exchange)) => {
                self.request_held(now, exchange);
                self.recount(exchange);
            }
            (Sink::Stream, Some(exchange)) => {
                if let Some(exchange) = self.exchanges.get_mut(exchange) {
                    exchange.request.complete = true;
                }
            }
            (Sink::Discard(_), _) => self.next_request(now, key),
            (Sink::Hold | Sink::Stream, None) => {}
        }
    }

    pub(super) fn client_ended(&mut self, now: Now, key: DownKey) {
        let Some(down) = self.downs.get_mut(key) else { return };
        down.ended = true;
        down.keep_alive = false;
        let settled =
            |proxy: &Self, key| proxy.exchanges.get(key).is_some_and(|exchange| exchange.stage == Stage::Settled);
        // A reply that is whole, or a local answer, still goes out to a client that has only stopped sending. One that
        // the target is still working at costs money: the client is taken to be gone, as closing looks the same.
        let reply_is_whole = match down.exchange {
            Some(exchange) => settled(self, exchange),
            None => down.asked.is_some() || !down.out.is_empty(),
        };
        let Some(down) = self.downs.get_mut(key) else { return };
        if down.lingering || !reply_is_whole {
            self.drop_down(now, key);
        } else if down.exchange.is_none() && down.asked.is_none() {
            self.close_when_sent(now, key);
        }
    }

    /// The current reply is all in `out`, and its request was all read.
    pub(super) fn next_request(&mut self, now: Now, key: DownKey) {
        let Some(down) = self.downs.get_mut(key) else { return };
        // A reply that came before the request was read leaves no way to tell where the next one starts.
        if !down.keep_alive || self.draining || matches!(down.phase, Phase::Body { .. } | Phase::Deaf) {
            self.close_when_sent(now, key);
        } else {
            down.phase = Phase::Head;
            self.actions.push_back(Action::Flush(Conn::Down(key)));
            self.actions.push_back(Action::Read(Conn::Down(key)));
        }
    }

    /// Closes once all of `out` is sent; until then and a little longer, what still comes is read and dropped.
    pub(super) fn close_when_sent(&mut self, now: Now, key: DownKey) {
        let Some(down) = self.downs.get_mut(key) else { return };
        down.phase = Phase::Deaf;
        down.input.clear();
        self.actions.push_back(Action::Flush(Conn::Down(key)));
        self.actions.push_back(Action::Read(Conn::Down(key)));
        self.retime_down(now, key, false);
    }

    pub(super) fn flush_down(&mut self, now: Now, key: DownKey, write: &mut dyn FnMut(&[u8]) -> Written) {
        let Some(down) = self.downs.get_mut(key) else { return };
        let mut progress = false;
        while down.sendable() > 0 {
            match write(&down.out.as_slice()[..down.sendable()]) {
                Written::Taken(count) => {
                    down.out.consume_to(&mut self.spares, count);
                    down.sent += count as u64;
                    down.moved += count as u64;
                    progress = true;
                }
                Written::Blocked => break,
                Written::Broken(_) => return self.drop_down(now, key),
            }
        }
        let (waiting, exchange) = (down.out.len(), down.exchange);
        if waiting == 0 {
            self.answer_bytes -= std::mem::take(&mut down.answer_bytes);
        }
        if waiting == 0 && exchange.is_none() && matches!(down.phase, Phase::Deaf) && !down.lingering {
            down.until_close = false; // here it ends as it should
            if down.ended {
                return self.drop_down(now, key);
            }
            down.lingering = true;
            self.actions.push_back(Action::HalfClose(key));
        }
        if progress && waiting < LOW_WATERMARK {
            let up = exchange.and_then(|exchange| self.exchanges.get(exchange)).and_then(|exchange| exchange.up);
            self.actions.extend(up.map(|up| Action::Read(Conn::Up(up))));
            // Pipelined requests wait while replies pile up.
            if matches!(down.phase, Phase::Head) {
                self.actions.push_back(Action::Read(Conn::Down(key)));
            }
        }
        self.retime_down(now, key, progress);
    }

    /// The client is gone, or must go: ends its exchange and frees the slot.
    pub(super) fn drop_down(&mut self, now: Now, key: DownKey) {
        if let Some(exchange) = self.downs.get(key).and_then(|down| down.exchange) {
            self.client_gone(now, exchange);
        }
        let Some(mut down) = self.downs.remove(key) else { return };
        self.client_left();
        self.deadlines.cancel(&mut down.timer);
        self.answer_bytes -= down.answer_bytes;
        // A reply that would end like this is cut, not ended; what has come of it is worth having all the same.
        let reset = down.until_close;
        let last = if reset { down.out.as_slice().to_vec() } else { Vec::new() };
        self.actions.push_back(Action::Close { conn: Conn::Down(key), last, reset });
    }

    /// True for a connection that owes nobody anything.
    pub(super) fn is_between_requests(&self, key: DownKey) -> bool {
        self.downs.get(key).is_some_and(|down| {
            matches!(down.phase, Phase::Head) && down.input.is_empty() && down.out.is_empty() && down.exchange.is_none()
        })
    }
}
