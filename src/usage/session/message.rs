//! One message of a session, a JSON document: what it reports of usage.
//!
//! In: its text, cut anywhere. Out: one [`SessionEvent`]. Of a message whose `type` reports nothing, the rest is not
//! looked at: almost every one is a piece of audio or text. `usage` stands in tool results, transcripts and metadata
//! too; only the paths in the table count, and only in messages of the `type` that goes with them.

use crate::json::{self, EACH, Found, Path, Paths, Scanner};
use crate::usage::capture::{Images, Reported, set_id, set_name};
use crate::usage::dialects::UsageObject;
use crate::usage::record::Endpoint;
use crate::usage::shapes::Attribute;
use crate::usage::tool_calls::ToolCalls;
use std::sync::Arc;

/// The `type` mostly stands within so many bytes from the message's start: these are scanned before the rest, which can
/// be a megabyte of audio.
const OPENING_BYTES: usize = 256;

/// What a message reports.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SessionEvent {
    /// Nothing, and nothing is consumed for it.
    Idle,
    /// Nothing of usage, but something goes by.
    Other,
    /// Not JSON, or not all of it.
    Unreadable,
    /// The session's names; its whole length so far as usage, where that is what the message is about; and the model
    /// that transcribes the user's speech.
    Session(Reported, Option<Arc<str>>),
    /// A response has begun.
    ResponseCreated(ResponseName),
    /// A response, of this endpoint, has ended.
    ResponseDone(Endpoint, ResponseName, Reported),
    /// The response of this lane has failed without another word.
    ResponseFailed(ResponseName),
    /// Something of the client's is refused; nothing is consumed for it.
    Refused,
    /// The user's speech is transcribed.
    Transcription(Reported),
    Decision(Reported),
}

/// What a response is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResponseName {
    pub id: Option<Box<str>>,
    /// Its `stream_id`. The default lane has none.
    pub lane: Option<Box<str>>,
}

/// A part of a message that is about one thing.
#[derive(Clone, Copy, Debug)]
enum Part {
    Top,
    Response,
    Session,
    /// The model that transcribes.
    Transcription,
    /// The event of a response that a live session has asked for.
    Event,
    Decision,
    /// The lane, whose name is taken for an id.
    Lane,
}

const PARTS: usize = Part::Lane as usize + 1;

macro_rules! paths {
    ($($part:ident $attribute:ident: $([$($key:expr),+])|+;)+) => {
        const PATHS: Paths = {
            const LIST: &[Path] =
                &[$($(Path { keys: &[$($key),+], value_bytes_max: Attribute::$attribute.bytes_max() },)+)+];
            Paths::new(LIST)
        };
        /// What the value at each of `PATHS` is, and of what part.
        const ATTRIBUTES: &[(Part, Attribute)] =
            &[$($({ let _ = [$($key),+]; (Part::$part, Attribute::$attribute) },)+)+];
    };
}

paths! {
    Top Kind: ["type"];
    Top Usage: ["usage"];
    Top Id: ["item_id"];
    Response Usage: ["response", "usage"];
    Response Model: ["response", "model"];
    Response Id: ["response", "id"];
    Response ServiceTier: ["response", "service_tier"];
    Response ImageUsage: ["response", "tool_usage", "image_gen"];
    Response ImageModel: ["response", "tools", EACH, "model"];
    Response WebSearches: ["response", "tool_usage", "web_search", "num_requests"];
    Response SearchContext: ["response", "tools", EACH, "search_context_size"];
    Response OutputKind: ["response", "output", EACH, "type"];
    Response ActionKind: ["response", "output", EACH, "action", "type"];
    Response Container: ["response", "output", EACH, "container_id"];
    Session Model: ["session", "model"];
    Session Id: ["session", "id"];
    Transcription Model: ["session", "audio", "input", "transcription", "model"]
        | ["session", "input_audio_transcription", "model"];
    Event Kind: ["event", "type"];
    Event Usage: ["event", "response", "usage"];
    Event Model: ["event", "response", "model"];
    Event Id: ["event", "response", "id"];
    Event ServiceTier: ["event", "response", "service_tier"];
    Event ImageUsage: ["event", "response", "tool_usage", "image_gen"];
    Event ImageModel: ["event", "response", "tools", EACH, "model"];
    Event WebSearches: ["event", "response", "tool_usage", "web_search", "num_requests"];
    Event SearchContext: ["event", "response", "tools", EACH, "search_context_size"];
    Event OutputKind: ["event", "response", "output", EACH, "type"];
    Event ActionKind: ["event", "response", "output", EACH, "action", "type"];
    Event Container: ["event", "response", "output", EACH, "container_id"];
    Decision Usage: ["event", "decision", "usage"];
    Decision Model: ["event", "decision", "model"];
    Decision Id: ["event", "decision", "id"];
    Lane Id: ["stream_id"];
}

/// What a message is about, by its `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Session,
    /// How long the session has lasted so far.
    Duration,
    ResponseCreated,
    ResponseDone,
    ResponseFailed,
    /// Something of the client's is refused.
    Refused,
    Transcription,
    /// An event of a response that the session has asked for.
    Event,
    Decision,
    /// Something that costs nothing.
    Idle,
    Other,
}

impl Kind {
    fn of(endpoint: Endpoint, name: &str) -> Self {
        match (endpoint, name) {
            (Endpoint::RealtimeSession, "session.created" | "session.updated")
            | (Endpoint::RealtimeSession, "transcription_session.created" | "transcription_session.updated")
            | (Endpoint::LiveSession, "session.started" | "session.updated") => Self::Session,
            (Endpoint::RealtimeSession, "conversation.item.input_audio_transcription.completed") => Self::Transcription,
            (Endpoint::LiveSession, "session.usage.updated" | "session.closed") => Self::Duration,
            (Endpoint::ResponsesSession, "error") => Self::ResponseFailed,
            // It is about an event of the client's; a response there is always done.
            (Endpoint::RealtimeSession, "error") => Self::Refused,
            (_, name) if is_idle(name) => Self::Idle,
            (Endpoint::RealtimeSession | Endpoint::ResponsesSession, name) => Self::of_response(name),
            (Endpoint::LiveSession, "response.event") => Self::Event,
            (Endpoint::LiveSession, "decision.event") => Self::Decision,
            _ => Self::Other,
        }
    }

    /// A realtime response is `done`, whatever became of it; the others have a name for each end.
    fn of_response(name: &str) -> Self {
        match name {
            "response.created" => Self::ResponseCreated,
            "response.done" | "response.completed" | "response.failed" | "response.incomplete" => Self::ResponseDone,
            _ => Self::Other,
        }
    }
}

/// True for a `type` that goes by where nothing was consumed: of what stands here already, of what its client puts in
/// for a response to come, of what has gone wrong. Whatever is not known may have cost something.
fn is_idle(name: &str) -> bool {
    const ITEMS: [&str; 6] = ["created", "added", "done", "retrieved", "truncated", "deleted"];
    match name {
        "error" | "ping" | "rate_limits.updated" | "conversation.created" | "session.closed" => true,
        "input_audio_buffer.cleared" | "output_audio_buffer.cleared" => true,
        _ => name.strip_prefix("conversation.item.").is_some_and(|what| ITEMS.contains(&what)),
    }
}

/// The reader of one message.
#[derive(Debug)]
pub(super) struct Message {
    endpoint: Endpoint,
    scanner: Scanner,
    /// Bytes read, up to `OPENING_BYTES`.
    opening: usize,
    findings: Findings,
}

#[derive(Debug, Default)]
struct Findings {
    kind: Option<Kind>,
    /// The same of the event inside.
    event: Option<Kind>,
    /// What each [`Part`] reports. Few messages report anything.
    parts: Option<Box<[Reported; PARTS]>>,
    /// The calls of tools in the one response that it can be about.
    tool_calls: Option<Box<ToolCalls>>,
}

impl Message {
    /// A reader for a message of such a session.
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, scanner: Scanner::new(&PATHS), opening: 0, findings: Findings::default() }
    }

    /// Takes the message's next text.
    pub(super) fn read(&mut self, text: &[u8]) {
        let (opening, rest) = text.split_at(text.len().min(OPENING_BYTES - self.opening));
        self.opening += opening.len();
        for part in [opening, rest] {
            if !self.is_irrelevant() {
                self.scanner.feed(part, |found| self.findings.take(self.endpoint, &found));
            }
        }
    }

    /// True once it is known to report nothing, whatever may follow.
    pub(super) fn is_irrelevant(&self) -> bool {
        match self.findings.kind {
            Some(Kind::Event) => self.findings.event == Some(Kind::Other),
            kind => matches!(kind, Some(Kind::Other | Kind::Idle | Kind::Refused)),
        }
    }

    /// The message is complete.
    pub(super) fn end(mut self) -> SessionEvent {
        // Empty ones keep some connections alive.
        if self.findings.kind == Some(Kind::Idle) || self.opening == 0 {
            return SessionEvent::Idle;
        }
        if self.findings.kind == Some(Kind::Refused) {
            return SessionEvent::Refused;
        }
        if self.is_irrelevant() {
            return SessionEvent::Other;
        }
        if !self.scanner.is_done() {
            return SessionEvent::Unreadable;
        }
        let Some(kind) = self.findings.kind else { return SessionEvent::Other };
        match kind {
            Kind::Session | Kind::Duration => {
                let usage = if kind == Kind::Duration { self.part(Part::Top).usage } else { None };
                let names = self.part(Part::Session);
                SessionEvent::Session(Reported { usage, ..names }, self.part(Part::Transcription).model)
            }
            Kind::ResponseCreated => SessionEvent::ResponseCreated(self.name(Part::Response)),
            Kind::ResponseFailed => SessionEvent::ResponseFailed(self.name(Part::Response)),
            Kind::ResponseDone => {
                let endpoint = match self.endpoint {
                    Endpoint::RealtimeSession => Endpoint::Realtime,
                    _ => Endpoint::Responses,
                };
                let name = self.name(Part::Response);
                // xAI leaves the response's own usage empty and puts it beside the response.
                let (response, beside) = (self.part(Part::Response), self.part(Part::Top));
                let usage = response.usage.or(beside.usage);
                SessionEvent::ResponseDone(endpoint, name, Reported { usage, ..response })
            }
            Kind::Transcription => SessionEvent::Transcription(self.part(Part::Top)),
            Kind::Event => match self.findings.event {
                Some(Kind::ResponseCreated) => SessionEvent::ResponseCreated(self.name(Part::Event)),
                Some(Kind::ResponseDone) => {
                    let name = self.name(Part::Event);
                    SessionEvent::ResponseDone(Endpoint::Responses, name, self.part(Part::Event))
                }
                _ => SessionEvent::Other,
            },
            Kind::Decision => SessionEvent::Decision(self.part(Part::Decision)),
            Kind::Idle | Kind::Refused | Kind::Other => SessionEvent::Other,
        }
    }

    /// Bytes of memory that it keeps beside its own size.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.scanner.held_capacity() + self.findings.parts.as_ref().map_or(0, |parts| size_of_val(&**parts))
    }

    /// What the response of this part is known by.
    fn name(&mut self, response: Part) -> ResponseName {
        let id = self.findings.parts.as_mut().and_then(|parts| parts[response as usize].id.clone());
        ResponseName { id, lane: self.part(Part::Lane).id }
    }

    /// Takes out what one part reports.
    fn part(&mut self, part: Part) -> Reported {
        let reported = self.findings.parts.as_mut().map(|parts| std::mem::take(&mut parts[part as usize]));
        let mut reported = reported.unwrap_or_default();
        if let (Some(usage), Some(calls)) = (&mut reported.usage, &self.findings.tool_calls) {
            calls.count_in(usage);
        }
        Reported { images: Images::found(reported.images), ..reported }
    }
}

impl Findings {
    fn take(&mut self, endpoint: Endpoint, found: &Found<'_>) {
        let (part, attribute) = ATTRIBUTES[found.path];
        if attribute == Attribute::Kind {
            let name = found.raw.and_then(json::string).unwrap_or_default();
            // Of a repeated `type` the first counts, for nothing is looked at behind one that reports nothing.
            match part {
                Part::Event => self.event.get_or_insert(Kind::of_response(&name)),
                _ => self.kind.get_or_insert(Kind::of(endpoint, &name)),
            };
            return;
        }
        let Some(raw) = found.raw else { return };
        let reported = &mut self.parts.get_or_insert_default()[part as usize];
        match attribute {
            Attribute::Usage => {
                reported.usage = UsageObject::parse(raw).map(|object| object.usage(false)).or(reported.usage);
            }
            Attribute::Model => set_name(&mut reported.model, raw),
            Attribute::Id => set_id(&mut reported.id, raw),
            Attribute::ServiceTier => set_name(&mut reported.service_tier, raw),
            Attribute::ImageUsage => Images::set_usage(&mut reported.images, raw),
            Attribute::ImageModel => Images::set_model(&mut reported.images, raw),
            tool => self.tool_calls.get_or_insert_default().take(tool, raw),
        }
    }
}
