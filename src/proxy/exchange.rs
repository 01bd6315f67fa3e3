//! One request and its response: the state that belongs to neither connection.

use super::api_paths::Cost;
use super::content_coding::Coding;
use super::forward::Accepted;
use super::tunnel::Tunnel;
use super::{DownKey, UpKey};
use crate::base::buffer::Buffer;
use crate::http::body::{BodyReader, BodyWriter};
use crate::limit::reservation::Reservation;
use crate::limit::status::RateLimitStatus;
use crate::usage::inspect::{Splice, write_spliced};
use crate::usage::multipart::MultipartReader;
use crate::usage::reader::UsageReader;
use crate::usage::record::Draft;

/// A held body up to this size travels in one piece with its head: one copy, but one write and one TLS record.
const COALESCE_BYTES_MAX: usize = 16 * 1024;

/// How far an exchange has come.
///
/// ```text
///   Receiving ──▶ (Journaling) ──▶ Forwarding ──▶ Settled ──▶ (gone)
///       │ refused: nothing │ is recorded  │          ▲
///       ▼                  ▼              └──────────┘ every way out
///     (gone)             (gone)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The body is being held for inspection; the target knows nothing yet.
    Receiving,
    /// Its entry in the journal is on its way to the ledger, under this `seq`; the target still knows nothing.
    Journaling { seq: u64 },
    /// On its way: from here on there will be a record.
    Forwarding,
    /// The record is written, under this `seq`; the reply's end waits for its commit.
    Settled { seq: u64 },
}

/// An admitted request.
pub struct Exchange {
    pub down: DownKey,
    pub up: Option<UpKey>,
    pub stage: Stage,
    /// Permits that it holds for its records.
    pub permits: u64,
    /// After the switch to a WebSocket.
    pub tunnel: Option<Box<Tunnel>>,
    /// The client has gone; what comes is read for its usage only.
    pub abandoned: bool,
    /// What it has taken of its user's limits.
    pub reservation: Reservation,
    /// The user's limits after that; told in the response.
    pub limit_status: RateLimitStatus,
    pub request: Request,
    pub response: Response,
    /// Facts as they become known; a record at settlement.
    pub draft: Draft,
    /// When the head was complete, monotonic nanoseconds.
    pub started: u64,
    /// When the request could go out: its head, or its whole body where that is held.
    pub ready: u64,
}

impl Exchange {
    /// The `seq` with whose commit something that the client waits for leaves.
    pub fn awaited_seq(&self) -> Option<u64> {
        match self.stage {
            Stage::Journaling { seq } | Stage::Settled { seq } => Some(seq),
            Stage::Receiving | Stage::Forwarding => self.tunnel.as_ref().and_then(|tunnel| tunnel.awaited_seq()),
        }
    }

    /// True for one that the target has not heard of.
    pub fn is_unsent(&self) -> bool {
        matches!(self.stage, Stage::Receiving | Stage::Journaling { .. })
    }

    /// True where the client can still be told an error: nothing of an answer has begun.
    pub fn may_still_refuse(&self) -> bool {
        self.response.progress == Progress::Awaited
    }
}

/// What the request's name of the model stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelName {
    /// A model.
    #[default]
    Model,
    /// A deployment, which has no price: it is called what its owner likes.
    Deployment,
    /// The same, and it stands in the path: the body needs none.
    DeploymentInPath,
}

/// What must still be known of a request once it is parsed.
#[derive(Default)]
pub struct Request {
    pub to_head: bool,
    pub http11: bool,
    /// It asks for a WebSocket.
    pub websocket: bool,
    /// May be sent again after bytes of it were written.
    pub idempotent: bool,
    /// What it costs, as far as its path tells.
    pub cost: Cost,
    /// What it calls the model.
    pub model_name: ModelName,
    /// `Accept-Encoding` for the target, where the client sent one that we must change.
    pub accepted: Option<Accepted>,
    pub has_body: bool,
    /// How a held body is coded.
    pub coding: Coding,
    /// The target works on it beyond the answer.
    pub background: bool,
    /// Output tokens by which its reservation is reckoned.
    pub output_reserved: u64,
    /// It has no price, and the operator lets such requests through: what it holds of a budget is not spent with it.
    pub spares_budget: bool,
    /// The id of what it looks at again, where that stands in its path.
    pub retrieved_id: Option<Box<str>>,
    /// Reads the fields of a form.
    pub form: Option<Box<MultipartReader>>,
    /// Usage was asked for in the client's place.
    pub usage_asked: bool,
    /// Bytes of text in it, for an estimate; counted only where it asks for a stream.
    pub text_bytes: u64,
    /// All of it is in `outgoing`.
    pub complete: bool,
    /// It was sent a second time.
    pub retried: bool,
    /// Bytes of it were taken by a connection that failed since: the target may have acted on them.
    pub reached: bool,
    pub outgoing: Outgoing,
}

/// The bytes for the target: the head, then a held body, then what streams through.
#[derive(Default)]
pub struct Outgoing {
    pub head: Vec<u8>,
    pub body: Vec<u8>,
    /// Bytes of `body` that have been moved into `head`.
    body_start: usize,
    pub stream: Buffer,
    /// Bytes of memory of a held body that went into `head`.
    joined_bytes: usize,
    /// What of [`Outgoing::held_bytes`] is in the sum of all.
    pub counted: usize,
    /// The body does not fit beside the others that are held: its client is not read from.
    pub paused: bool,
    /// Bytes of head and body that were taken.
    sent: usize,
    /// Bytes of the stream were taken: they are gone, nothing can be sent again.
    stream_sent: bool,
}

impl Outgoing {
    /// Memory that the held body takes in addition for `more` bytes, where it can have `most` in the end: it doubles,
    /// and takes all of it once half is here.
    pub fn growth(&self, more: usize, most: usize) -> usize {
        let (length, capacity) = (self.body.len(), self.body.capacity());
        let needed = length.saturating_add(more);
        if needed <= capacity {
            return 0;
        }
        let next = if needed >= most / 2 { most } else { capacity.saturating_mul(2).min(most) };
        needed.max(next) - capacity
    }

    /// Holds bytes of the body; `most` as in [`Outgoing::growth`].
    pub fn hold(&mut self, data: &[u8], most: usize) {
        let spare = self.body.capacity() - self.body.len();
        self.body.reserve_exact(spare + self.growth(data.len(), most));
        self.body.extend_from_slice(data);
    }

    /// Memory that the held body occupies, bytes.
    pub fn held_bytes(&self) -> usize {
        self.body.capacity() + self.joined_bytes
    }

    /// The body is whole: makes its edits, and joins it to the head where that is worth it.
    pub fn finish_body(&mut self, splices: &[Splice]) {
        let added: usize = splices.iter().map(|splice| splice.with.len()).sum();
        let edited = splices.last().map_or(0, |splice| splice.at.end);
        let head_bytes = self.head.capacity();
        if self.body.len() <= COALESCE_BYTES_MAX {
            self.head.reserve_exact(self.body.len() + added);
            write_spliced(&mut self.head, &self.body, splices);
            self.body = Vec::new();
        } else if edited <= COALESCE_BYTES_MAX {
            self.head.reserve_exact(edited + added);
            write_spliced(&mut self.head, &self.body[..edited], splices);
            self.body_start = edited;
        } else {
            // An edit far behind: no second copy of all before it.
            self.body.reserve_exact(added);
            for splice in splices.iter().rev() {
                self.body.splice(splice.at.clone(), splice.with.iter().copied());
            }
        }
        self.joined_bytes = self.head.capacity() - head_bytes;
    }

    /// The next bytes to send; empty where none are here now.
    pub fn next(&self) -> &[u8] {
        if self.sent < self.head.len() {
            return &self.head[self.sent..];
        }
        let body = self.body.get(self.body_start + self.sent - self.head.len()..).unwrap_or_default();
        if body.is_empty() { self.stream.as_slice() } else { body }
    }

    /// `count` of the bytes that [`Outgoing::next`] gave were taken.
    pub fn advance(&mut self, count: usize) {
        if self.sent < self.fixed_bytes() {
            self.sent += count;
        } else {
            self.stream.consume(count);
            self.stream_sent |= count > 0;
        }
    }

    /// Takes back the last bytes of what streams through, which were not taken yet.
    pub fn take_back(&mut self, count: usize) {
        self.stream.truncate(self.stream.len() - count);
    }

    /// What streams through and was not taken yet.
    pub fn take_stream(&mut self) -> Buffer {
        std::mem::take(&mut self.stream)
    }

    /// True where all bytes that are here were taken.
    pub fn is_sent(&self) -> bool {
        self.sent >= self.fixed_bytes() && self.stream.is_empty()
    }

    /// True where everything from the first byte on is still here.
    pub fn is_replayable(&self) -> bool {
        !self.stream_sent && !self.head.is_empty()
    }

    /// Starts again from the first byte.
    pub fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Gives the memory back of what was sent, once nothing can need it again.
    pub fn forget_sent(&mut self) {
        if self.sent >= self.fixed_bytes() {
            self.forget_held();
        }
    }

    /// Gives the memory of head and held body back, sent or not.
    pub fn forget_held(&mut self) {
        (self.head, self.body, self.body_start, self.sent) = (Vec::new(), Vec::new(), 0, 0);
        self.joined_bytes = 0;
    }

    fn fixed_bytes(&self) -> usize {
        self.head.len() + self.body.len() - self.body_start
    }
}

/// How far a response has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its head has not come.
    Awaited,
    /// Its head is with the client, its body is on the way.
    Body,
    /// All of it has come.
    Complete,
}

/// A response on its way through.
pub struct Response {
    pub progress: Progress,
    pub reader: BodyReader,
    pub writer: BodyWriter,
    /// A stream of events or lines: nothing of it is held back but its very end.
    pub streamed: bool,
    /// Reads along; and edits, where usage was asked for in the client's place.
    pub usage_reader: UsageReader,
    /// The connection to the target may carry another exchange afterwards.
    pub reusable: bool,
    /// Where it starts in the bytes ever put out to the client.
    pub starts_at: u64,
    /// Interim responses (1xx) skipped before it.
    pub interim: u32,
}

impl Response {
    /// True for one that only the connection's end ends.
    pub fn ends_by_closing(&self) -> bool {
        self.progress == Progress::Body && matches!(self.reader, BodyReader::Close)
    }
}

impl Default for Response {
    fn default() -> Self {
        Self {
            progress: Progress::Awaited,
            reader: BodyReader::Length(0),
            writer: BodyWriter::Nothing,
            streamed: false,
            usage_reader: UsageReader::default(),
            reusable: false,
            starts_at: 0,
            interim: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outgoing: &mut Outgoing, step: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while !outgoing.next().is_empty() {
            let take = outgoing.next().len().min(step);
            sent.extend_from_slice(&outgoing.next()[..take]);
            outgoing.advance(take);
        }
        sent
    }

    #[test]
    fn head_body_and_stream_leave_in_order_and_again_after_a_rewind() {
        for (body_bytes, late) in [0, 5, COALESCE_BYTES_MAX, COALESCE_BYTES_MAX + 1, 50_000]
            .map(|n| (n, false))
            .into_iter()
            .chain([(50_000, true)])
        {
            let body: Vec<u8> = (0..body_bytes).map(|n| (n % 251) as u8).collect();
            let mut splices = if body_bytes > 4 { vec![Splice { at: 2..3, with: b"<edit>".to_vec() }] } else { vec![] };
            if late {
                splices.push(Splice { at: 49_000..49_010, with: b"<another, longer edit>".to_vec() });
            }
            let mut expected = b"head".to_vec();
            write_spliced(&mut expected, &body, &splices);
            let mut outgoing = Outgoing { head: b"head".to_vec(), body, ..Outgoing::default() };
            outgoing.finish_body(&splices);
            assert!(drain(&mut outgoing, 7) == expected && outgoing.is_sent() && outgoing.is_replayable());
            outgoing.rewind();
            assert!(drain(&mut outgoing, 70_000) == expected);
            outgoing.forget_sent();
            assert!(outgoing.is_sent() && !outgoing.is_replayable());
            outgoing.stream.append(b"stream");
            assert!(!outgoing.is_sent());
            assert_eq!(drain(&mut outgoing, 4), b"stream");
            assert!(outgoing.is_sent());
        }
    }
}
