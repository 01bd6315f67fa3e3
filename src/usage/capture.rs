//! Reads a response's usage from a side copy of its body, while the bytes themselves are relayed untouched.
//!
//! In: the body's bytes as the upstream sent them, cut anywhere, perhaps compressed. Out, at the end: what it reported.
//! It holds the one value that it is after, never the body.

use super::fields;
use super::record::{Endpoint, Usage};
use super::request::clip;
use crate::json::{self, Found, Path, Scanner};
use crate::sse::{Piece, Splitter};
use flate2::write::MultiGzDecoder;
use std::io::Write;

/// Largest usage object that is read, bytes; real ones have a few hundred.
const USAGE_BYTES_MAX: usize = 16 * 1024;
/// Longest id or name that is read, raw bytes.
const NAME_BYTES_MAX: usize = 512;

const fn path(keys: &'static [&'static str], value_bytes_max: usize) -> Path {
    Path { keys, value_bytes_max }
}

// Where usage stands: at the top of an answer and of a chat chunk; under `response` in the events of a responses
// stream. Nowhere else counts: prompts, tool results and metadata can contain anything.
const TOP: &[Path] = &[
    path(&["usage"], USAGE_BYTES_MAX),
    path(&["model"], NAME_BYTES_MAX),
    path(&["id"], NAME_BYTES_MAX),
    path(&["service_tier"], NAME_BYTES_MAX),
];
const UNDER_RESPONSE: &[Path] = &[
    path(&["response", "usage"], USAGE_BYTES_MAX),
    path(&["response", "model"], NAME_BYTES_MAX),
    path(&["response", "id"], NAME_BYTES_MAX),
    path(&["response", "service_tier"], NAME_BYTES_MAX),
];
/// The key that leads to usage, as a line must contain it to be worth scanning once the model is known.
const MARK: &[u8] = b"\"usage\"";
/// An escape, which might hide the key.
const ESCAPE: &[u8] = b"\\u";

/// What a response said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// The last usage object that was not null.
    pub usage: Option<Usage>,
    /// The model that answered, at most 128 bytes.
    pub model: Option<String>,
    /// The response's id, at most 128 bytes.
    pub id: Option<String>,
    /// The service tier that was used, which prices depend on.
    pub service_tier: Option<String>,
    /// The body could not be read to its end (not JSON, a broken encoding, an unknown one).
    pub unreadable: bool,
}

/// How a body must be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON document.
    Json,
    /// A stream of events, each a JSON document.
    Events,
    /// Nothing in it is read.
    Opaque,
}

/// The `Content-Encoding` of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Identity,
    Gzip,
    /// One that we never ask for and cannot decode.
    Unknown,
}

/// The reader of one response body.
pub struct Capture {
    reader: Reader,
}

enum Reader {
    Plain(Box<Body>),
    Gzip(Box<MultiGzDecoder<Body>>),
    /// Nothing is read; true where something should have been.
    Off(bool),
}

impl Capture {
    /// A reader for a body of this form and coding, of an answer from `endpoint`.
    pub fn new(endpoint: Endpoint, form: Form, coding: Coding) -> Self {
        let paths = match (endpoint, form) {
            (_, Form::Opaque) => return Self { reader: Reader::Off(false) },
            (Endpoint::Responses, Form::Events) => UNDER_RESPONSE,
            _ => TOP,
        };
        let events = (form == Form::Events).then(Events::default);
        let body = Body { scanner: Scanner::new(paths), events, reported: Reported::default() };
        let reader = match coding {
            Coding::Identity => Reader::Plain(Box::new(body)),
            Coding::Gzip => Reader::Gzip(Box::new(MultiGzDecoder::new(body))),
            Coding::Unknown => Reader::Off(true),
        };
        Self { reader }
    }

    /// Takes the body's next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        match &mut self.reader {
            Reader::Plain(body) => body.feed(bytes),
            Reader::Gzip(decoder) => {
                if decoder.write_all(bytes).is_err() {
                    self.reader = Reader::Off(true);
                }
            }
            Reader::Off(_) => {}
        }
    }

    /// The body has ended, or was cut: what it reported until then.
    pub fn finish(self) -> Reported {
        match self.reader {
            Reader::Plain(body) => body.finish(),
            Reader::Gzip(decoder) => match decoder.finish() {
                Ok(body) => body.finish(),
                Err(_) => Reported { unreadable: true, ..Reported::default() },
            },
            Reader::Off(unreadable) => Reported { unreadable, ..Reported::default() },
        }
    }
}

/// The reader of a decoded body.
struct Body {
    scanner: Scanner,
    events: Option<Events>,
    reported: Reported,
}

#[derive(Default)]
struct Events {
    splitter: Splitter,
    /// Some of the event's data has gone to the scanner; else all so far was passed over.
    scanning: bool,
}

impl Body {
    fn feed(&mut self, mut bytes: &[u8]) {
        let Self { scanner, events, reported } = self;
        let Some(Events { splitter, scanning }) = events else {
            scanner.feed(bytes, |found| reported.take(found));
            return;
        };
        loop {
            let (used, piece) = splitter.next(bytes);
            match piece {
                Piece::More => return,
                Piece::Data(data) => {
                    // A whole line (its end is in this input) that cannot hold usage is not scanned.
                    let whole = used < bytes.len() && !*scanning;
                    if !(whole && reported.model.is_some() && !may_hold_usage(data)) {
                        *scanning = true;
                        scanner.feed(data, |found| reported.take(found));
                    }
                }
                Piece::Event(_) => {
                    if std::mem::take(scanning) {
                        scanner.reset();
                    }
                }
            }
            bytes = &bytes[used..];
        }
    }

    fn finish(mut self) -> Reported {
        // A cut event stream is no fault of the reader's; a cut document is.
        self.reported.unreadable = self.events.is_none() && !self.scanner.is_done();
        self.reported
    }
}

/// False where no usage object can be in the line. A null says nothing, and stands in almost every event of a stream
/// whose client, or we in its place, asked for usage.
fn may_hold_usage(line: &[u8]) -> bool {
    let is_null = |after: &[u8]| {
        let value = after.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        value.is_some_and(|value| value.starts_with(b"null"))
    };
    memchr::memmem::find_iter(line, MARK).any(|at| !is_null(&line[at + MARK.len()..]))
        || memchr::memmem::find(line, ESCAPE).is_some()
}

impl Write for Body {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.feed(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Reported {
    /// Both path lists have the same four things in the same order. The last non-null wins.
    fn take(&mut self, found: Found<'_>) {
        let Some(raw) = found.raw else { return };
        match found.path {
            0 => self.usage = fields::read(raw).or(self.usage.take()),
            1 => set_name(&mut self.model, raw),
            2 => set_name(&mut self.id, raw),
            _ => set_name(&mut self.service_tier, raw),
        }
    }
}

fn set_name(slot: &mut Option<String>, raw: &[u8]) {
    // Chunk after chunk repeats the same name; it is decoded once.
    let same = |old: &String| raw.len() == old.len() + 2 && &raw[1..raw.len() - 1] == old.as_bytes();
    if !slot.as_ref().is_some_and(same)
        && let Some(name) = json::string(raw).filter(|name| !name.is_empty())
    {
        *slot = Some(clip(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    fn capture(endpoint: Endpoint, form: Form, coding: Coding, body: &[u8], cuts: &[usize]) -> Reported {
        let (mut capture, mut at) = (Capture::new(endpoint, form, coding), 0);
        for cut in cuts.iter().copied().chain([body.len()]) {
            let end = cut.clamp(at, body.len());
            capture.feed(&body[at..end]);
            at = end;
        }
        capture.finish()
    }

    const CHAT: &str = concat!(
        "data: {\"id\":\"chatcmpl-1\",\"model\":\"gpt-4o-2024-08-06\",\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":{\"}}],\"usage\":null}\n\n",
        ": a comment\r\n\r\n",
        "data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"metadata\":{\"usage\":{\"prompt_tokens\":9999}}}\n\n",
        "data: {\"id\":\"chatcmpl-1\",\"service_tier\":\"default\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\"total_tokens\":9}}\n\n",
        "data: {\"id\":\"chatcmpl-1\",\"choices\":[],\"usage\":null}\n\n",
        "data: [DONE]\n\n",
    );
    const RESPONSES: &str = concat!(
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"model\":\"o3\",\"usage\":null}}\n\n",
        "event: response.output_text.delta\ndata: {\"type\":\"x\",\"delta\":\"d\",\"usage\":{\"input_tokens\":1}}\n\n",
        "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"usage\":{\"input_tokens\":3,\"output_tokens\":4,\"total_tokens\":7}}}",
    );

    fn usage(input_tokens: u64, output_tokens: u64) -> Option<Usage> {
        Some(Usage { input_tokens, output_tokens, total_tokens: input_tokens + output_tokens, ..Usage::default() })
    }

    #[test]
    fn streams_cut_at_every_byte() {
        for cut in 0..CHAT.len() {
            let reported = capture(Endpoint::ChatCompletions, Form::Events, Coding::Identity, CHAT.as_bytes(), &[cut]);
            assert_eq!(reported.usage, usage(7, 2), "cut at {cut}");
            assert_eq!(reported.model.as_deref(), Some("gpt-4o-2024-08-06"));
            assert_eq!(reported.id.as_deref(), Some("chatcmpl-1"));
            assert_eq!(reported.service_tier.as_deref(), Some("default"));
        }
        for cut in 0..RESPONSES.len() {
            let reported = capture(Endpoint::Responses, Form::Events, Coding::Identity, RESPONSES.as_bytes(), &[cut]);
            assert_eq!(reported.usage, usage(3, 4), "cut at {cut}");
            assert_eq!((reported.id.as_deref(), reported.model.as_deref()), (Some("resp_1"), Some("o3")));
        }
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        let whole = br#"{"usage":{"prompt_tokens":1}}"#;
        let json = |coding, body: &[u8]| capture(Endpoint::ChatCompletions, Form::Json, coding, body, &[]);
        assert!(!json(Coding::Identity, whole).unreadable);
        assert!(json(Coding::Identity, &whole[..20]).unreadable);
        assert!(json(Coding::Identity, b"<html>").unreadable);
        assert!(json(Coding::Gzip, whole).unreadable);
        assert!(json(Coding::Unknown, whole).unreadable);
        assert!(!capture(Endpoint::Other, Form::Opaque, Coding::Identity, b"<html>", &[]).unreadable);
    }

    proptest! {
        /// Compressed or not, cut anywhere: the same numbers.
        #[test]
        fn any_split_and_coding_reports_the_same(gzip: bool, pad in "[ -~]{0,2000}", mut cuts in proptest::collection::vec(0usize..2500, 0..9)) {
            cuts.sort_unstable();
            let document = serde_json::json!({"id": "a", "choices": [{"text": pad, "usage": {"prompt_tokens": 5}}],
                "usage": {"prompt_tokens": 11, "completion_tokens": 22, "total_tokens": 33}, "model": "m"});
            let mut body = serde_json::to_vec_pretty(&document).unwrap();
            if gzip {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(&body).unwrap();
                body = encoder.finish().unwrap();
            }
            let coding = if gzip { Coding::Gzip } else { Coding::Identity };
            let reported = capture(Endpoint::ChatCompletions, Form::Json, coding, &body, &cuts);
            prop_assert_eq!(reported.usage, usage(11, 22));
            prop_assert_eq!(reported.model.as_deref(), Some("m"));
            prop_assert!(!reported.unreadable);
        }
    }
}
