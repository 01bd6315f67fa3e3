//! Reads usage from the server's side of a tunnelled WebSocket, beside its relaying: realtime, responses and live
//! sessions.
//!
//! In: the bytes behind the `101` head, cut anywhere, and the text of the client's messages. Out: a [`Report`] for each
//! response, transcription and decision, given at the last byte of the message that brings it, so that its record can
//! have a place before the next byte is read; at the end, what the session reports of itself. It holds the one value
//! that it is after, and between messages three names and the responses under way. Of the client's side it knows what
//! was asked for and has not begun, and the models that were named: what was consumed is the server's word alone.

mod asked;
mod message;
mod running;

use super::capture::Reported;
use super::record::Endpoint;
use crate::base::clock::Now;
use crate::websocket::{Frames, Piece};
use asked::Asked;
use message::{Message, SessionEvent};
use running::{Beginning, Running};
use std::sync::Arc;

/// What one message reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What was consumed: [`Endpoint::Realtime`], [`Endpoint::RealtimeTranscription`], [`Endpoint::Responses`] or
    /// [`Endpoint::Decisions`].
    pub endpoint: Endpoint,
    /// Its usage, which is always there, and its names.
    pub reported: Reported,
    /// When the response began; `None` for what has no beginning.
    pub began: Option<Now>,
    /// The model that its client has named for it.
    pub model_requested: Option<Arc<str>>,
}

/// What is known of a session at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The server has ended it: a close frame has come.
    pub closed: bool,
    /// What the session reports of itself: its model, its id (`sess_…`) and, of a live session, its length, as usage.
    /// `unreadable` where a part of the stream that may have held a report could not be read.
    pub reported: Reported,
    /// Something was consumed, or may have been, that was never reported: a response had begun and its end did not
    /// come, or came without numbers; one was asked for, and nothing came of it, not even a goodbye; a live session
    /// began and did not report its length; something went by, and nothing was reported at all; a part of the stream
    /// could not be read.
    pub unreported: bool,
}

/// The reader of the server's side of one session.
#[derive(Debug)]
pub struct Session {
    endpoint: Endpoint,
    frames: Frames,
    message: Message,
    running: Running,
    asked: Asked,
    /// It is to stop where no response is under way and no message has begun.
    stops: bool,
    /// Something went by that may have cost something.
    active: bool,
    /// Something was reported.
    reports: bool,
    /// The model that transcribes, which its transcriptions do not name.
    transcription_model: Option<Arc<str>>,
    ended: Ended,
}

impl Session {
    /// A reader for a session of [`Endpoint::RealtimeSession`], [`Endpoint::ResponsesSession`] or
    /// [`Endpoint::LiveSession`]; in one of any other, nothing is found.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            frames: Frames::default(),
            message: Message::new(endpoint),
            running: Running::default(),
            asked: Asked::default(),
            stops: false,
            active: false,
            reports: false,
            transcription_model: None,
            ended: Ended::default(),
        }
    }

    /// Takes bytes up to and including the last byte of the first message that reports usage. Returns how many were
    /// used, and the report; without one, all were, or it stops here. Responses begin now.
    pub fn feed(&mut self, now: Now, bytes: &[u8]) -> (usize, Option<Report>) {
        let mut used = 0;
        loop {
            if self.stops && self.is_at_rest() {
                return (used, None);
            }
            let (length, piece) = self.frames.next(&bytes[used..]);
            used += length;
            match piece {
                Piece::More => return (used, None),
                Piece::Text(text) => self.message.read(text),
                Piece::TextEnd => {
                    let event = self.next_message().end();
                    if let Some(report) = self.handle_event(now, event) {
                        return (used, Some(report));
                    }
                }
                Piece::Unreadable => {
                    self.next_message();
                    self.ended.reported.unreadable = true;
                }
                Piece::Lost => self.ended.reported.unreadable = true,
                Piece::Close => self.ended.closed = true,
                Piece::Binary => self.active = true,
                Piece::FrameEnd => {}
            }
        }
    }

    /// Takes the text of the client's messages; false where the rest of one is not wanted.
    pub fn hear(&mut self, piece: Piece<'_>) -> bool {
        let asks = matches!(self.endpoint, Endpoint::RealtimeSession | Endpoint::ResponsesSession);
        match piece {
            Piece::Text(text) => asks && self.asked.read(text),
            _ => {
                self.asked.end();
                false
            }
        }
    }

    /// Whether it stops where it is [at rest](Session::is_at_rest).
    pub fn stop_at_rest(&mut self, stops: bool) {
        self.stops = stops;
    }

    /// True where no response is under way, and another message could stand here.
    pub fn is_at_rest(&self) -> bool {
        !self.is_responding() && self.frames.is_between_messages()
    }

    /// True while a response is under way.
    pub fn is_responding(&self) -> bool {
        self.running.is_any()
    }

    /// True where the client may go with all that it asked for: everything has come to its end, and has said what it
    /// consumed.
    pub fn is_done(&self) -> bool {
        self.endpoint.is_session() && self.is_at_rest() && !self.has_unreported()
    }

    /// True where something was consumed, or may have been, that was not reported so far.
    fn has_unreported(&self) -> bool {
        let reported = &self.ended.reported;
        let length_unknown =
            self.endpoint == Endpoint::LiveSession && reported.id.is_some() && reported.usage.is_none();
        let all_unreported = self.active && !self.reports && reported.usage.is_none() && self.endpoint.is_session();
        // What a server has not begun that says goodbye, it has not done.
        let is_open = !self.running.is_empty() || self.asked.is_waited_for() && !self.ended.closed;
        self.ended.unreported || reported.unreadable || length_unknown || all_unreported || is_open
    }

    /// The model that the server names, or has named last.
    pub fn model(&self) -> Option<&str> {
        self.ended.reported.model.as_deref()
    }

    /// True where the server has ended it: a close frame has come.
    pub fn is_closed(&self) -> bool {
        self.ended.closed
    }

    /// True where its messages cannot be told any more: it will never be at rest again.
    pub fn is_lost(&self) -> bool {
        self.frames.is_over() && !self.ended.closed
    }

    /// The stream has ended or was cut.
    pub fn finish(mut self) -> Ended {
        // A message that was cut is lost with its report, if it was to have one.
        self.ended.reported.unreadable |= self.frames.is_in_text() && !self.message.is_irrelevant();
        self.ended.unreported = self.has_unreported();
        self.ended
    }

    /// Makes ready for the next message, with nothing held; returns the last.
    fn next_message(&mut self) -> Message {
        std::mem::replace(&mut self.message, Message::new(self.endpoint))
    }

    fn handle_event(&mut self, now: Now, event: SessionEvent) -> Option<Report> {
        self.active |= !matches!(event, SessionEvent::Idle | SessionEvent::Session(..))
            && !matches!(event, SessionEvent::ResponseFailed(_) | SessionEvent::Refused);
        match event {
            SessionEvent::Idle | SessionEvent::Other => None,
            SessionEvent::Unreadable => {
                self.ended.reported.unreadable = true;
                None
            }
            SessionEvent::Session(session, transcription_model) => {
                let known = &mut self.ended.reported;
                known.model = session.model.or(known.model.take());
                known.id = session.id.or(known.id.take());
                // The whole length so far: it replaces what was reported before and is never added to it.
                known.usage = session.usage.or(known.usage);
                // Switched off, it may still have something to finish: the last one named stays.
                self.transcription_model = transcription_model.or(self.transcription_model.take());
                None
            }
            SessionEvent::ResponseCreated(name) => {
                if self.endpoint == Endpoint::ResponsesSession {
                    self.running.supersede(name.lane.as_deref()); // a lane has one at a time
                }
                self.running.begin(name, now, |lane| self.asked.begin(lane));
                None
            }
            SessionEvent::ResponseFailed(name) => {
                let lane = name.lane.as_deref();
                if !self.running.is_in_lane(lane) {
                    self.asked.refuse(lane);
                }
                self.running.supersede(lane);
                None
            }
            SessionEvent::Refused => {
                self.asked.refuse(None);
                None
            }
            SessionEvent::ResponseDone(endpoint, name, mut response) => {
                let began = self.running.end(&name);
                let model_requested = match &began {
                    Some(Beginning { model, .. }) => model.clone(),
                    None => self.asked.begin(name.lane.as_deref()),
                };
                if endpoint == Endpoint::Realtime && response.model.is_none() {
                    response.model.clone_from(&self.ended.reported.model);
                }
                let report = self.report(endpoint, response)?;
                Some(Report { began: began.map(|began| began.at), model_requested, ..report })
            }
            SessionEvent::Transcription(item) if item.usage.is_none() => None, // some servers do not bill it by itself
            SessionEvent::Transcription(item) => {
                let item = Reported { model: self.transcription_model.clone(), ..item };
                self.report(Endpoint::RealtimeTranscription, item)
            }
            SessionEvent::Decision(decision) => self.report(Endpoint::Decisions, decision),
        }
    }

    /// Reports what something that has ended consumed, or notes that it is not known.
    fn report(&mut self, endpoint: Endpoint, reported: Reported) -> Option<Report> {
        let has_usage = reported.usage.is_some();
        self.ended.unreported |= !has_usage;
        self.reports |= has_usage;
        has_usage.then_some(Report { endpoint, reported, began: None, model_requested: None })
    }
}

#[cfg(test)]
mod tests;
