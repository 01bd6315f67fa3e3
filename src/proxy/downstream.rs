//! A client's connection: requests in, one after another; replies out, in the same order.
//!
//! ```text
//!   Head ──head complete──▶ Body ──body complete──▶ Busy or Asking ──reply complete──▶ Head
//!     │                      │ no body: at once      │
//!     └── refused, framing lost ──▶ Closing ◀────────┘ the connection will not be kept alive
//!                                      └── all sent ──▶ Lingering (half-closed) ──▶ (closed)
//! ```
//!
//! Bytes that come before their turn (pipelined requests) wait in `input`, up to a watermark.
//!
//! In: the client's bytes, what its socket takes. Out: heads and pieces of bodies, bytes for the socket. Never: an
//! exchange, or a decision about one.

use super::channel::Channel;
use super::refusal::Refusal;
use super::timing::Class;
use super::tls_scratch::TlsScratch;
use super::{ExchangeKey, HIGH_WATERMARK, Written};
use crate::base::buffer::{Buffer, Spares};
use crate::base::deadlines::Timer;
use crate::http::body::BodyReader;
use crate::http::chunked::Piece;
use crate::http::head::HeadEnd;
use crate::http::reply::Reply;
use crate::http::{HEAD_BYTES_MAX, HttpError};
use crate::local::admin_request::AdminRequest;
use std::net::IpAddr;
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
    /// A local answer is awaited; with `to_head` without its body. With `is_own` it is about the asker alone.
    Asking { to_head: bool, is_own: bool },
    /// The request is refused, and its answer waits: whatever comes is read and dropped.
    Delayed { refusal: Box<Refusal>, to_head: bool },
    /// Nothing more is understood: whatever comes is read and dropped, until all of `out` is sent.
    Closing,
    /// All is sent and our sending side is shut down. The connection is read on for a while, so that our last reply is
    /// not lost to a reset (RFC 9112 §9.6, lingering close).
    Lingering,
}

/// What becomes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Held for inspection.
    Hold,
    /// Sent on as it comes.
    Stream,
    /// Kept for a local request.
    Keep,
    /// Dropped; the reply is out already. How many more bytes are accepted.
    Discard(u32),
}

/// What becomes of the connection after the current reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterReply {
    KeepAlive,
    #[default]
    Close,
    /// Only the end of the connection ends the reply: cut, it must not look like that.
    EndsReply,
}

/// What the client's bytes are.
#[derive(Debug)]
pub enum Arrived<'b> {
    /// Nothing that could be told yet, or nothing for now.
    Nothing,
    /// Of no interest, all of them.
    Ignored,
    /// A whole head, of so many bytes.
    Head(usize),
    /// Part of a body that took so many bytes.
    Body { used: usize, piece: Piece<'b>, sink: Sink, from_chunks: bool },
    /// They are not HTTP, or too many.
    Bad(HttpError),
    /// So is the body of a request that has its reply, or there is too much of it: a second reply would be taken for
    /// the next request's.
    BadUnwanted,
}

/// Bytes of large answers that wait for their client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerBytes {
    pub all: usize,
    /// Of those, of answers to holders of keys about themselves.
    pub own: usize,
}

impl AnswerBytes {
    /// So many more.
    pub fn add(&mut self, more: Self) {
        (self.all, self.own) = (self.all + more.all, self.own + more.own);
    }
}

/// One client's connection.
#[derive(Debug, Default)]
pub struct Downstream {
    pub channel: Channel,
    pub phase: Phase,
    pub input: Buffer,
    pub head_end: HeadEnd,
    pub out: Buffer,
    /// Bytes at the end of `out` that wait for a commit.
    pub held_back: usize,
    /// Bytes ever sent.
    pub sent: u64,
    pub exchange: Option<ExchangeKey>,
    /// Bytes of large local answers since `out` was empty the last time.
    pub answer_bytes: AnswerBytes,
    pub after_reply: AfterReply,
    /// The current request is HTTP/1.0: a client that must be told that the connection stays open.
    pub http10: bool,
    /// The administrator's request whose body is arriving.
    pub admin: Option<Box<AdminRequest>>,
    /// The page's origin that may read the current reply.
    pub origin: Option<Arc<str>>,
    /// Where its client is, or the server in front that it came through.
    pub address: Option<IpAddr>,
    /// That is such a server, which is believed: its connections are those of many clients.
    pub trusted: bool,
    /// It is one more than there may be.
    pub surplus: bool,
    /// A request was read on this connection.
    pub served: bool,
    /// The client has shut its sending side down.
    pub ended: bool,
    /// Bytes that have moved since its deadline began.
    pub moved: u64,
    pub timer: Timer,
    pub timing: Option<Class>,
}

impl Downstream {
    /// The connection closes after the current reply, whatever was said before.
    pub fn close_after_reply(&mut self) {
        if self.after_reply == AfterReply::KeepAlive {
            self.after_reply = AfterReply::Close;
        }
    }

    /// True where the connection stays open after the current reply.
    pub fn keeps_alive(&self) -> bool {
        self.after_reply == AfterReply::KeepAlive
    }

    /// True for a connection that owes nobody anything.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Head) && self.input.is_empty() && self.waiting() == 0 && self.exchange.is_none()
    }

    /// True where reading makes sense now. `streaming` bytes of the current body wait for the target; `paused` says
    /// that the held body has no room. Both are looked up only where they matter: this is asked often.
    pub fn wants_bytes(&self, streaming: impl Fn() -> usize, paused: impl Fn() -> bool) -> bool {
        !self.ended
            && match self.phase {
                Phase::Head => self.waiting() < HIGH_WATERMARK && self.input.len() <= HEAD_BYTES_MAX,
                Phase::Body { sink: Sink::Stream, .. } => streaming() < HIGH_WATERMARK,
                Phase::Body { sink: Sink::Hold, .. } => !paused(),
                Phase::Body { .. } | Phase::Delayed { .. } | Phase::Closing | Phase::Lingering => true,
                // Read on while busy, or a client that goes away would not be noticed.
                Phase::Busy | Phase::Asking { .. } => self.input.len() < HIGH_WATERMARK,
            }
    }

    /// Reads the next thing that there is in `bytes`, all that is here.
    pub fn read<'b>(&mut self, bytes: &'b [u8]) -> Arrived<'b> {
        let piles_up = self.waiting() >= HIGH_WATERMARK;
        match &mut self.phase {
            // Pipelined requests wait while replies pile up.
            Phase::Head if piles_up || bytes.is_empty() => Arrived::Nothing,
            Phase::Head => match self.head_end.find(bytes) {
                Ok(None) => Arrived::Nothing,
                Ok(Some(end)) => {
                    self.head_end = HeadEnd::default();
                    self.served = true;
                    Arrived::Head(end)
                }
                Err(error) => Arrived::Bad(error),
            },
            Phase::Body { reader, sink } => {
                let from_chunks = matches!(reader, BodyReader::Chunked(_));
                let (used, piece) = match reader.next(bytes) {
                    Ok(step) => step,
                    Err(_) if matches!(sink, Sink::Discard(_)) => return Arrived::BadUnwanted,
                    Err(error) => return Arrived::Bad(error),
                };
                if let (Sink::Discard(left), Piece::Data(data)) = (&mut *sink, piece) {
                    match u32::try_from(data.len()).ok().and_then(|count| left.checked_sub(count)) {
                        Some(rest) => *left = rest,
                        None => return Arrived::BadUnwanted,
                    }
                }
                Arrived::Body { used, piece, sink: *sink, from_chunks }
            }
            Phase::Busy | Phase::Asking { .. } => Arrived::Nothing,
            Phase::Delayed { .. } | Phase::Closing | Phase::Lingering => Arrived::Ignored,
        }
    }

    /// Bytes of `out` that may go out now.
    fn sendable(&self) -> usize {
        self.out.len() - self.held_back
    }

    /// Bytes that may go out now, those that are encrypted included.
    pub fn unsent(&self) -> usize {
        self.sendable() + self.channel.waiting()
    }

    /// Bytes that the client is still to be sent.
    pub fn waiting(&self) -> usize {
        self.out.len() + self.channel.waiting()
    }

    /// What waits for a commit will never leave: nobody waits for that commit any more.
    pub fn drop_held(&mut self) {
        self.out.truncate(self.sendable());
        self.held_back = 0;
    }

    /// Everything put out from here on is a reply that begins at this place in the bytes ever put out.
    pub fn position(&self) -> u64 {
        self.sent + self.out.len() as u64
    }

    /// Has all bytes wait that were put out from `position` on and have not left yet: they leave in one piece.
    pub fn hold_back_from(&mut self, position: u64) {
        let since = usize::try_from(self.position().saturating_sub(position)).unwrap_or(usize::MAX);
        self.held_back = since.min(self.out.len());
    }

    /// Writes what may go out, until the socket takes no more; true where bytes have moved, `None` where it is broken.
    pub fn write(
        &mut self,
        spares: &mut Spares,
        scratch: &mut TlsScratch,
        write: &mut dyn FnMut(&[u8]) -> Written,
    ) -> Option<bool> {
        let mut progress = false;
        loop {
            let sendable = self.sendable();
            let step = self.channel.send(&self.out.as_slice()[..sendable], scratch, write)?;
            self.moved += step.moved as u64;
            progress |= step.moved > 0;
            if step.consumed == 0 {
                return Some(progress);
            }
            self.out.consume_to(spares, step.consumed);
            self.sent += step.consumed as u64;
        }
    }

    /// Puts out a reply of ours, with what becomes of the connection after it.
    pub fn put_reply(&mut self, reply: &Reply<'_>, request_id: &str) {
        let connection = match (self.keeps_alive(), self.http10) {
            (false, _) => Some("close"),
            (true, true) => Some("keep-alive"),
            (true, false) => None,
        };
        let reply = Reply { origin: self.origin.as_deref(), ..*reply };
        reply.write(self.out.tail(), request_id, connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::framing::Framing;

    fn discarding(left: u32, length: u64) -> Downstream {
        let phase = Phase::Body { reader: BodyReader::new(Framing::Length(length)), sink: Sink::Discard(left) };
        Downstream { phase, ..Downstream::default() }
    }

    #[test]
    fn an_unwanted_body_is_dropped_up_to_its_bound() {
        let mut down = discarding(5, 100);
        assert!(matches!(down.read(b"abc"), Arrived::Body { used: 3, sink: Sink::Discard(2), .. }));
        assert!(matches!(down.read(b"de"), Arrived::Body { used: 2, sink: Sink::Discard(0), .. }));
        assert!(matches!(down.read(b"f"), Arrived::BadUnwanted));
    }

    #[test]
    fn what_is_held_back_is_the_part_of_the_reply_that_has_not_left() {
        let mut down = Downstream::default();
        down.out.append(b"before");
        let start = down.position();
        down.out.append(b"reply");
        let mut taken = 8;
        down.write(&mut Spares::default(), &mut TlsScratch::default(), &mut |_| match std::mem::take(&mut taken) {
            0 => Written::Blocked,
            count => Written::Taken(count),
        });
        down.hold_back_from(start);
        assert_eq!((down.held_back, down.sendable()), (3, 0));
        down.drop_held();
        assert!(down.out.is_empty());
        down.out.append(b"next");
        down.hold_back_from(down.position());
        assert_eq!(down.sendable(), 4);
    }

    #[test]
    fn a_head_is_told_at_any_cut_and_what_follows_waits_its_turn() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        for cut in 1..head.len() {
            let mut down = Downstream::default();
            assert!(matches!(down.read(&head[..cut]), Arrived::Nothing), "{cut}");
            assert!(matches!(down.read(head), Arrived::Head(end) if end == head.len()), "{cut}");
            down.phase = Phase::Busy;
            assert!(matches!(down.read(head), Arrived::Nothing));
            down.phase = Phase::Lingering;
            assert!(matches!(down.read(head), Arrived::Ignored));
        }
    }
}
