//! What a session's client asks for: its messages, as far as they ask for a response, until the server has begun it.
//!
//! In: the text of the client's messages, cut anywhere; in which lanes the server begins, ends or refuses. Out: the
//! model that a response was asked of; whether something is asked for that the server has not taken up. Of a message
//! that asks for nothing, the rest is not looked at. What a client says is never a report: it decides names, and no
//! numbers.

use crate::json::{self, Path, Paths, Scanner};
use crate::usage::capture::{set_id, set_name};
use crate::usage::shapes::Attribute;
use std::sync::Arc;

/// Requests that are remembered, begun or not: twice as many as a connection may have lanes.
const REMEMBERED_MAX: usize = 64;

const PATHS: Paths = {
    const LIST: &[Path] = &[
        Path { keys: &["type"], value_bytes_max: Attribute::Kind.bytes_max() },
        Path { keys: &["model"], value_bytes_max: Attribute::Model.bytes_max() },
        Path { keys: &["stream_id"], value_bytes_max: Attribute::Id.bytes_max() },
    ];
    Paths::new(LIST)
};

/// A request for a response.
#[derive(Debug, Default)]
struct Request {
    lane: Option<Box<str>>,
    model: Option<Arc<str>>,
    /// The server has begun it; it stays for those that follow it in its lane without being asked for.
    begun: bool,
}

/// One message of the client's.
#[derive(Debug)]
struct Message {
    scanner: Scanner,
    /// It asks for a response, as far as its `type` has come. Of a repeated one the first counts.
    asks: Option<bool>,
    request: Request,
}

/// What was asked for, oldest first.
#[derive(Debug, Default)]
pub(super) struct Asked {
    message: Option<Box<Message>>,
    remembered: Vec<Request>,
    /// There were too many: which is whose cannot be told any more.
    lost: bool,
}

impl Asked {
    /// Takes the next text of the client's message; false where the rest of it does not matter.
    pub(super) fn read(&mut self, text: &[u8]) -> bool {
        let message = self.message.get_or_insert_with(|| {
            Box::new(Message { scanner: Scanner::new(&PATHS), asks: None, request: Request::default() })
        });
        let Message { scanner, asks, request } = &mut **message;
        scanner.feed(text, |found| {
            let Some(raw) = found.raw else { return };
            match found.path {
                0 => _ = asks.get_or_insert_with(|| json::string(raw).is_some_and(|name| name == "response.create")),
                1 => set_name(&mut request.model, raw),
                _ => set_id(&mut request.lane, raw),
            }
        });
        *asks != Some(false)
    }

    /// The message is complete.
    pub(super) fn end(&mut self) {
        let Some(message) = self.message.take().filter(|message| message.asks == Some(true)) else { return };
        if self.remembered.len() < REMEMBERED_MAX {
            self.remembered.push(message.request);
        } else {
            self.lost = true;
        }
    }

    /// A response begins in this lane: the model that it was asked of. One that nobody asked for goes on with the last.
    pub(super) fn begin(&mut self, lane: Option<&str>) -> Option<Arc<str>> {
        let waits = self.remembered.iter().position(|request| !request.begun && request.lane.as_deref() == lane);
        let last = self.remembered.iter().rposition(|request| request.begun && request.lane.as_deref() == lane);
        if let Some(at) = waits {
            self.remembered[at].begun = true;
        }
        let model = waits.or(last).and_then(|at| self.remembered[at].model.clone());
        if let (Some(_), Some(before)) = (waits, last) {
            self.remembered.remove(before);
        }
        model.filter(|_| !self.lost)
    }

    /// The server refuses what was asked for in this lane.
    pub(super) fn refuse(&mut self, lane: Option<&str>) {
        let waits = self.remembered.iter().position(|request| !request.begun && request.lane.as_deref() == lane);
        waits.map(|at| self.remembered.remove(at));
    }

    /// True while the server has not taken up all that was asked for, or a message has begun.
    pub(super) fn is_waited_for(&self) -> bool {
        self.lost || self.message.is_some() || self.remembered.iter().any(|request| !request.begun)
    }
}
