//! A WebSocket that is read along: after the handshake the bytes of both sides pass as they are, and what the target
//! says is read for its usage.
//!
//! A tunnel is an exchange whose request and response end with their connections. It has a record of its own like any
//! other, and one for each message of the target that reports usage. The permit for the next of those is reserved
//! before the next byte of the target is taken up:
//!
//! ```text
//!   reading ──message reports usage──▶ its record is on its way to the ledger: the message's last byte waits for it,
//!      ▲                               and what follows waits in `Upstream::input`
//!      │                                 │ committed (or `LEDGER_WAIT` is over)
//!      └───────── next permit ◀──────────┘
//! ```
//!
//! In: the target's bytes. Out: how many of them pass now, and parts that have their own record. Never: a connection.

use crate::base::clock::{MICROSECOND, Now};
use crate::usage::capture::Reported;
use crate::usage::record::{Draft, Endpoint, Outcome, Record, UsageSource};
use crate::usage::session::{Report, Session};

/// What must still be known of a tunnel that is read along.
pub struct Tunnel {
    session: Session,
    pause: Pause,
    /// When the response that the target is at work on began.
    response_began: Option<Now>,
}

/// Why the target's bytes are not taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// They are.
    None,
    /// The last part's record is on its way to the ledger, under this `seq`.
    Commit { seq: u64 },
    /// No permit for a record is left.
    Permit,
}

/// A part of a tunnel that has a record of its own.
pub struct Part {
    report: Report,
    began: Now,
}

impl Tunnel {
    /// A session that begins.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { session: Session::new(endpoint), pause: Pause::None, response_began: None }
    }

    /// Bytes of the target: how many pass, up to the end of the first message that reports usage, and that message's
    /// part. Not while it is paused.
    pub fn feed(&mut self, now: Now, bytes: &[u8]) -> (usize, Option<Part>) {
        debug_assert!(!self.is_paused(), "bytes of a tunnel that is paused");
        let (used, report) = self.session.feed(bytes);
        let began = self.response_began.take_if(|_| !self.session.is_responding());
        if self.session.is_responding() {
            self.response_began.get_or_insert(now);
        }
        (used, report.map(|report| Part { report, began: began.unwrap_or(now) }))
    }

    /// The target's bytes wait until the record with this `seq` is committed.
    pub fn pause_for_commit(&mut self, seq: u64) {
        self.pause = Pause::Commit { seq };
    }

    /// The target's bytes wait until there is a permit for the next record.
    pub fn pause_for_permit(&mut self) {
        self.pause = Pause::Permit;
    }

    /// The target's bytes are taken up again.
    pub fn resume(&mut self) {
        self.pause = Pause::None;
    }

    /// True while the target's bytes must wait.
    pub fn is_paused(&self) -> bool {
        self.pause != Pause::None
    }

    /// The `seq` of the record that must be committed first.
    pub fn awaited_seq(&self) -> Option<u64> {
        match self.pause {
            Pause::Commit { seq } => Some(seq),
            Pause::None | Pause::Permit => None,
        }
    }

    /// True while the target is at work on a response.
    pub fn is_responding(&self) -> bool {
        self.session.is_responding()
    }

    /// Completes the record of the whole from what its session says in the end, which is returned. `unread` says that
    /// bytes of the target had to wait and will not be read any more.
    pub fn conclude(self, record: &mut Record, unread: bool) -> Reported {
        let ended = self.session.finish();
        // A goodbye is the end that both sides wanted; without one, the target has broken off.
        record.outcome = match record.outcome {
            _ if ended.closed => Outcome::Completed,
            Outcome::Completed => Outcome::UpstreamError,
            other => other,
        };
        record.usage_source = match ended.reported.usage {
            _ if ended.unreported || unread => UsageSource::Unknown,
            Some(_) => UsageSource::Reported,
            None => UsageSource::None,
        };
        record.usage = ended.reported.usage.unwrap_or_default();
        record.model.clone_from(&ended.reported.model);
        record.response_id.clone_from(&ended.reported.id);
        ended.reported
    }
}

impl Part {
    /// Its record, but for the price, and what was reported with it. `whole` is the tunnel's own draft; `abandoned`
    /// says that the client has gone.
    pub fn record(self, now: Now, whole: &Draft, abandoned: bool) -> (Record, Reported) {
        let Self { report: Report { endpoint, reported }, began } = self;
        let record = Record {
            started_at: began.unix,
            user: whole.user.clone(),
            key_id: whole.key_id,
            endpoint,
            // What the session's model transcribes is another one's doing.
            model_requested: whole.model_requested.clone().filter(|_| endpoint != Endpoint::RealtimeTranscription),
            model: reported.model.clone(),
            stream: true,
            status: whole.status,
            usage_source: if abandoned { UsageSource::Drained } else { UsageSource::Reported },
            usage: reported.usage.unwrap_or_default(),
            duration_us: (now.mono - began.mono) / MICROSECOND,
            response_id: reported.id.clone(),
            upstream_request_id: whole.upstream_request_id.clone(),
            ..Record::default()
        };
        (record, reported)
    }
}
