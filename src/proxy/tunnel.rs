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
//! It ends before its peers want it to where its user may not go on: their budget is spent, or their key is not valid
//! any more.
//!
//! ```text
//!   open ──dismiss──▶ dismissed ──no response is under way, ──▶ leaving ──the target's goodbye, or──▶ (settled)
//!                     of the client,   no message has begun      both are told,    its end, or 2 s
//!                     control frames                             what still comes
//!                     pass                                       is read, and not passed on
//! ```
//!
//! In: both sides' bytes. Out: how many of them pass now, parts that have their own record, and the frames that end a
//! session. Never: a connection.

use super::refusal::Refusal;
use crate::base::clock::{MICROSECOND, Now};
use crate::http::reply::error_event;
use crate::usage::capture::Reported;
use crate::usage::draft::Draft;
use crate::usage::record::{Endpoint, Outcome, Record, UsageSource};
use crate::usage::session::{Report, Session};
use crate::websocket::{self, ClientFrames};

/// The status of a close frame that a session ends with here: policy violation (RFC 6455 §7.4.1).
const POLICY_VIOLATION: u16 = 1008;

/// What must still be known of a tunnel.
pub struct Tunnel {
    endpoint: Endpoint,
    session: Session,
    client: ClientFrames,
    pause: Pause,
    ending: Ending,
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

/// How far its end has come, where it is ours.
enum Ending {
    None,
    /// It is to end as soon as it may, for this reason.
    Dismissed(Box<Refusal>),
    /// Both sides are told.
    Leaving,
    /// The client has left, with all that it had asked for.
    Done,
}

/// What ends a session, for each side.
pub struct Goodbye {
    pub to_client: Vec<u8>,
    pub to_target: Vec<u8>,
    /// Bytes to take back first of those that wait for the target: a frame has begun there that must not go on.
    pub taken_back: usize,
}

/// A part of a tunnel that has a record of its own.
pub struct Part(Report);

impl Tunnel {
    /// A session that begins.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            session: Session::new(endpoint),
            client: ClientFrames::default(),
            pause: Pause::None,
            ending: Ending::None,
        }
    }

    /// Bytes of the client: appends what of them goes to the target.
    pub fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let Self { client, session, .. } = self;
        client.pass(bytes, out, |piece| session.hear(piece));
    }

    /// Bytes of the target: how many pass, up to the end of the first message that reports usage, and that message's
    /// part. A dismissed one stops where it may end. Not while it is paused.
    pub fn feed(&mut self, now: Now, bytes: &[u8]) -> (usize, Option<Part>) {
        debug_assert!(!self.is_paused(), "bytes of a tunnel that is paused");
        let (used, report) = self.session.feed(now, bytes);
        (used, report.map(Part))
    }

    /// It must end, as soon as no response is under way: nothing more is asked of the target. `waiting` bytes that have
    /// passed have not left yet. Returns how many of these are to be taken back; `None` where it is to end already.
    pub fn dismiss(&mut self, why: Refusal, waiting: usize) -> Option<usize> {
        if !matches!(self.ending, Ending::None) {
            return None;
        }
        self.ending = Ending::Dismissed(Box::new(why));
        self.session.stop_at_rest(true);
        Some(self.client.restrict(waiting))
    }

    /// True where it was dismissed and can end now.
    pub fn may_leave(&self) -> bool {
        matches!(self.ending, Ending::Dismissed(_)) && !self.is_paused() && self.session.is_at_rest()
    }

    /// True where it was dismissed, and the target's frames cannot be told any more: nothing can be said between them.
    pub fn must_be_cut(&self) -> bool {
        matches!(self.ending, Ending::Dismissed(_)) && self.session.is_lost()
    }

    /// It ends now: what either side is told. `waiting` is as in [`Tunnel::dismiss`], `event_id` is for the event that
    /// says why, and `mask` for the frame that goes to the target. `None` where it was not dismissed.
    pub fn leave(&mut self, waiting: usize, event_id: &str, mask: [u8; 4]) -> Option<Goodbye> {
        let Ending::Dismissed(why) = std::mem::replace(&mut self.ending, Ending::Leaving) else {
            debug_assert!(false, "nobody has dismissed it");
            return None;
        };
        self.session.stop_at_rest(false);
        let (taken_back, may_follow) = self.client.close(waiting);
        let (mut to_client, mut to_target) = (Vec::new(), Vec::new());
        if let Some(event) = self.error_event(&why, event_id) {
            websocket::write_text(&mut to_client, &event);
        }
        websocket::write_close(&mut to_client, POLICY_VIOLATION, why.fault.code(), None);
        if may_follow {
            websocket::write_close(&mut to_target, POLICY_VIOLATION, why.fault.code(), Some(mask));
        }
        Some(Goodbye { to_client, to_target, taken_back })
    }

    /// The event that says why, in the shape of the API whose session it is.
    fn error_event(&self, why: &Refusal, event_id: &str) -> Option<String> {
        let place = match self.endpoint {
            Endpoint::RealtimeSession | Endpoint::LiveSession => format!("\"event_id\":\"{event_id}\""),
            Endpoint::ResponsesSession => format!("\"status\":{}", why.fault.status()),
            _ => return None,
        };
        Some(error_event(&place, why.fault.code(), &why.message, why.param))
    }

    /// True where its client may leave without a word: nothing that it asked for is missing, or was not counted.
    pub fn is_done(&self) -> bool {
        let is_open = matches!(self.ending, Ending::None) && !self.is_paused();
        is_open && self.client.is_between_messages() && self.session.is_done()
    }

    /// Its client has left, who [may](Tunnel::is_done).
    pub fn client_has_left(&mut self) {
        debug_assert!(self.is_done(), "something is missing");
        self.ending = Ending::Done;
    }

    /// True where both sides are told that it ends: what comes is read for its usage only.
    pub fn is_leaving(&self) -> bool {
        matches!(self.ending, Ending::Leaving)
    }

    /// True where nothing more is to come of one that is left.
    pub fn is_over(&self) -> bool {
        self.is_leaving() && (self.session.is_closed() || self.session.is_lost())
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

    /// The session's model, as far as the target has named it.
    pub fn model(&self) -> Option<&str> {
        self.session.model()
    }

    /// True while the target is at work on a response.
    pub fn is_responding(&self) -> bool {
        self.session.is_responding()
    }

    /// Completes the record of the whole from what its session says in the end, which is returned. `unread` says that
    /// bytes of the target had to wait and will not be read any more.
    pub fn conclude(self, record: &mut Record, unread: bool) -> Reported {
        let is_left = matches!(self.ending, Ending::Leaving | Ending::Done);
        if !self.endpoint.is_session() {
            record.outcome = if is_left { Outcome::Completed } else { record.outcome };
            return Reported::default();
        }
        let ended = self.session.finish();
        // A goodbye is the end that both sides wanted, or we, and so is the leaving of a client that had all (codex
        // says no goodbye); else the target has broken off.
        record.outcome = match record.outcome {
            _ if ended.closed || is_left => Outcome::Completed,
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
        let Report { endpoint, reported, began, model_requested } = self.0;
        let began = began.unwrap_or(now);
        // What the session's model transcribes is another one's doing.
        let model_of_session = whole.model_requested.clone().filter(|_| endpoint != Endpoint::RealtimeTranscription);
        let record = Record {
            started_at: began.unix,
            user: whole.user.clone(),
            team: whole.team.clone(),
            key_id: whole.key_id,
            endpoint,
            model_requested: model_requested.or(model_of_session),
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

#[cfg(test)]
mod tests;
