//! One request and its response: the state that belongs to neither connection.

use super::api_paths::Cost;
use super::content_coding::Coding;
use super::forward::Accepted;
use super::outgoing::Outgoing;
use super::tunnel::Tunnel;
use super::usage_asking::{Asked, HeldAnswer};
use super::{DownKey, UpKey};
use crate::http::body::{BodyReader, BodyWriter};
use crate::limit::reservation::Reservation;
use crate::limit::status::RateLimitStatus;
use crate::usage::draft::Draft;
use crate::usage::multipart::MultipartReader;
use crate::usage::reader::UsageReader;

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
    /// Of one that streams through: the fleet is asked for its limits.
    pub is_asked: bool,
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
    /// What it writes to the prompt cache is kept for 12 hours or longer.
    pub caches_long: bool,
    /// Output tokens by which its reservation is reckoned.
    pub output_reserved: u64,
    /// It has no price, and the operator lets such requests through: what it holds of a budget is not spent with it.
    pub spares_budget: bool,
    /// The id of what it looks at again, where that stands in its path.
    pub retrieved_id: Option<Box<str>>,
    /// Reads the fields of a form.
    pub form: Option<Box<MultipartReader>>,
    /// Usage is asked for in the client's place.
    pub asked: Option<Box<Asked>>,
    /// That was refused before: the hash of requests like this one.
    pub refused_asking: Option<u64>,
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
    /// One that may refuse what we put into the request.
    pub held: Option<Box<HeldAnswer>>,
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
            held: None,
        }
    }
}
