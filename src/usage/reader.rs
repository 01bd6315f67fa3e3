//! Reads a response's body beside its relaying, in one pass: splits it into its documents, of which the capture takes
//! what was consumed, the estimate counts the text, and the editor takes out what only our asking for usage brought.
//!
//! In: the body's bytes as the upstream sent them, cut anywhere, perhaps compressed. Out: of an edited stream, what
//! goes to the client; at the end, what the response reported. A body that is not edited is never held.

use super::capture::{Capture, Reported};
use super::editor::Editor;
use super::estimate::Deltas;
use super::gunzip::Gunzip;
use super::record::{Endpoint, Usage};
use super::shapes::{MESSAGE_STOP, Shape};
use crate::http::HttpError;
use crate::sse::{BYTE_ORDER_MARK, Piece, Splitter};
use std::io::Write;

/// A stream that has reported no more output than this, and goes on, has not reported.
const PLACEHOLDER_TOKENS_MAX: u64 = 1;

/// Longest last event of Anthropic's that is looked for, bytes; it holds nothing but its type.
const LAST_BYTES_MAX: usize = 100;

/// How a body must be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON document.
    Json,
    /// A stream of events, each a JSON document.
    Events,
    /// Lines, each a JSON document.
    Lines,
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

/// How the first bytes of a stream of events read (WHATWG HTML, *Server-sent events*): a field, or a comment.
const EVENT_STARTS: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];

/// The reader of one response body; by default one that reads nothing.
#[derive(Default)]
pub struct UsageReader {
    /// Of a compressed body, with the reader of the decoded one.
    gunzip: Option<Box<Gunzip<Decoded>>>,
    decoded: Decoded,
    editing: bool,
}

impl UsageReader {
    /// A reader for a body that calls itself of this form and coding, of a response from `endpoint`. What it is, its
    /// first bytes tell. With `edit`, the traces of asking for usage are taken out of a stream of events, which is
    /// decoded for that.
    pub fn new(endpoint: Endpoint, form: Form, coding: Coding, edit: bool) -> Self {
        if endpoint == Endpoint::Other || coding == Coding::Unknown {
            let unread = Body { told: true, ..Body::new(endpoint, Form::Opaque, false) };
            return Self { decoded: Decoded::new((endpoint != Endpoint::Other).then_some(unread)), ..Self::default() };
        }
        let decoded = Decoded::new(Some(Body::new(endpoint, form, edit)));
        if coding == Coding::Gzip {
            return Self { gunzip: Some(Box::new(Gunzip::new(decoded))), editing: edit, ..Self::default() };
        }
        Self { gunzip: None, decoded, editing: edit }
    }

    /// True where [`UsageReader::feed`] gives what goes to the client, decoded; else that is the body as it came.
    pub fn is_editing(&self) -> bool {
        self.editing
    }

    /// Bytes that have been decoded so far: a few may stand for very many. `None` for a body that is not decoded.
    pub fn decoded_bytes(&self) -> Option<u64> {
        self.gunzip.as_ref().map(|gunzip| gunzip.sink_ref().map_or(0, |decoded| decoded.bytes))
    }

    /// Takes the body's next bytes. Of an edited stream, appends to `out` what goes to the client.
    ///
    /// # Errors
    /// It is edited, and cannot be decoded: what would come of it is not the whole.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), HttpError> {
        match (&mut self.gunzip, &mut self.decoded.body) {
            (Some(gunzip), _) => {
                gunzip.feed(bytes);
                if self.editing {
                    gunzip.flush();
                }
                let Some(decoded) = gunzip.sink() else {
                    let corrupt = HttpError::Malformed("a body that is not the gzip it claims to be");
                    return if self.editing { Err(corrupt) } else { Ok(()) };
                };
                out.append(&mut decoded.edited);
            }
            (None, Some(body)) => body.feed(bytes, out),
            (None, None) => {}
        }
        Ok(())
    }

    /// All that came at once was fed: of an edited stream, appends to `out` what was kept for more of it.
    pub fn release(&mut self, out: &mut Vec<u8>) {
        let sink = self.gunzip.as_mut().and_then(|gunzip| gunzip.sink());
        let body = sink.unwrap_or(&mut self.decoded).body.as_mut();
        if let Some(Output::Edited(editor)) = body.map(|body| &mut body.output) {
            editor.release(out);
        }
    }

    /// The body is complete. Of an edited stream, appends to `out` what was held of its last event.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        let sink = self.gunzip.as_mut().and_then(|gunzip| gunzip.sink());
        if let Some(body) = sink.unwrap_or(&mut self.decoded).body.as_mut() {
            body.end(out);
        }
    }

    /// True for a body that has proved to be a stream.
    pub fn is_stream(&self) -> bool {
        self.body().is_some_and(|body| body.told && matches!(body.form, Form::Events | Form::Lines))
    }

    /// True for a stream whose last event has come, though perhaps not its end.
    pub fn has_ended(&self) -> bool {
        self.body().is_some_and(|body| body.has_ended)
    }

    /// What a stream that was cut here, or never reported, probably consumed, given its input; `None` where no text
    /// was counted.
    pub fn estimate(&self, input_tokens: u64) -> Option<Usage> {
        Some(self.body()?.deltas.as_ref()?.usage(input_tokens))
    }

    fn body(&self) -> Option<&Body> {
        self.gunzip.as_ref().map_or(Some(&self.decoded), |gunzip| gunzip.sink_ref())?.body.as_deref()
    }

    /// The body has ended, or was cut: what it reported until then.
    pub fn finish(self) -> Reported {
        let (decoded, whole) = match self.gunzip {
            Some(gunzip) => gunzip.finish().unwrap_or_default(),
            None => (self.decoded, true),
        };
        let reported = decoded.body.map(|body| body.finish()).unwrap_or_default();
        Reported { unreadable: reported.unreadable || !whole, ..reported }
    }
}

/// Takes what is decoded; the default one reads nothing.
#[derive(Default)]
struct Decoded {
    body: Option<Box<Body>>,
    /// How many bytes it has taken.
    bytes: u64,
    /// What goes to the client in its place.
    edited: Vec<u8>,
}

impl Decoded {
    fn new(body: Option<Body>) -> Self {
        Self { body: body.map(Box::new), ..Self::default() }
    }
}

impl Write for Decoded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes += bytes.len() as u64;
        if let Some(body) = &mut self.body {
            body.feed(bytes, &mut self.edited);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What goes to the client.
enum Output {
    /// The body as it came, which is not given here.
    Same,
    /// The same, as it is given here.
    Copied,
    Edited(Box<Editor>),
}

/// The reader of a decoded body.
struct Body {
    endpoint: Endpoint,
    /// How it is divided into documents; as it calls itself, until it is `told` by its bytes.
    form: Form,
    told: bool,
    /// The first bytes, where they do not tell yet.
    start: Vec<u8>,
    splitter: Splitter,
    capture: Capture,
    /// The text that goes by, in case the stream is cut, or never reports.
    deltas: Option<Deltas>,
    /// Of that text, tokens that had gone by before the event of which a part has come.
    tokens_before: Option<u64>,
    /// The same when usage was reported last: before the event that did, and with it.
    tokens_at_report: (u64, u64),
    output: Output,
    /// The event has come behind which nothing follows.
    has_ended: bool,
}

impl Body {
    fn new(endpoint: Endpoint, form: Form, edit: bool) -> Self {
        let output = match (edit, form) {
            (false, _) => Output::Same,
            (true, Form::Events) => Output::Edited(Box::default()),
            (true, _) => Output::Copied,
        };
        Self {
            endpoint,
            form,
            told: false,
            start: Vec::new(),
            splitter: Splitter::default(),
            capture: Capture::new(Shape::of(endpoint, form == Form::Events)),
            deltas: if matches!(form, Form::Events | Form::Lines) { Deltas::new(endpoint) } else { None },
            tokens_before: None,
            tokens_at_report: (0, 0),
            output,
            has_ended: false,
        }
    }

    fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        if self.told {
            return self.read(input, out);
        }
        let space = input.len() - input.trim_ascii_start().len();
        if space > 0 && self.start.trim_ascii_start().is_empty() {
            // White space does not tell, and there may be any amount of it: some send it to keep a connection alive.
            // Its last byte stays, for behind it a line may begin, or be none of an event.
            if !matches!(self.output, Output::Same) {
                out.extend_from_slice(&self.start);
                out.extend_from_slice(&input[..space - 1]);
            }
            self.start.clear();
            input = &input[space - 1..];
        }
        if self.start.is_empty()
            && let Some(form) = told_by(self.form, input)
        {
            self.is_of(form);
            return self.read(input, out);
        }
        let mut start = std::mem::take(&mut self.start);
        start.extend_from_slice(input);
        match told_by(self.form, &start) {
            Some(form) => {
                self.is_of(form);
                self.read(&start, out);
            }
            None => self.start = start,
        }
    }

    /// Its bytes have told what it is.
    fn is_of(&mut self, form: Form) {
        if form != self.form {
            *self = Self::new(self.endpoint, form, !matches!(self.output, Output::Same));
        }
        self.told = true;
    }

    fn read(&mut self, input: &[u8], out: &mut Vec<u8>) {
        // Where the event starts in the input, and what is not read yet.
        let (mut start, mut at) = (0, 0);
        match &mut self.output {
            Output::Same => {}
            Output::Copied => out.extend_from_slice(input),
            Output::Edited(editor) => start = editor.end_line(input, out), // the splitter passes over it by itself
        }
        loop {
            let (used, piece) = match self.form {
                Form::Json => {
                    self.capture.feed(Piece::Data(input));
                    return;
                }
                Form::Events => self.splitter.next(&input[at..]),
                Form::Lines => next_line(&input[at..]),
                Form::Opaque => return,
            };
            at += used;
            let reported = self.capture.feed(piece);
            if is_last(self.endpoint, piece, reported) {
                self.has_ended = true;
                self.capture.end_answer();
            }
            if let Some(deltas) = &mut self.deltas {
                if reported || matches!(piece, Piece::Data(_)) {
                    self.tokens_before.get_or_insert_with(|| deltas.tokens());
                }
                deltas.feed(piece);
                if reported {
                    self.tokens_at_report = (self.tokens_before.unwrap_or(0), deltas.tokens());
                }
                if matches!(piece, Piece::Whole(_) | Piece::Event(_)) {
                    self.tokens_before = None;
                }
            }
            if let Output::Edited(editor) = &mut self.output {
                editor.feed(piece, &input[start..at], out);
            }
            match piece {
                Piece::More => return,
                Piece::Whole(_) | Piece::Event(_) => start = at,
                Piece::Data(_) | Piece::LineEnd => {}
            }
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        match &mut self.output {
            Output::Same => {}
            _ if !self.told => out.append(&mut self.start),
            Output::Copied => {}
            Output::Edited(editor) => {
                editor.end_event(&[], out);
                editor.release(out);
            }
        }
    }

    /// What was reported. A report of nothing with text beside it, or of a single token with text after it, stands for
    /// one that is to come.
    fn finish(self) -> Reported {
        let (tokens, (before, with)) = (self.deltas.as_ref().map_or(0, Deltas::tokens), self.tokens_at_report);
        // Of an opaque body nothing was read, so that it is a document that has not ended.
        let one_document = matches!(self.form, Form::Json | Form::Opaque);
        let mut reported = self.capture.finish(one_document, self.endpoint.is_metered());
        reported.usage.take_if(|usage| match usage.total_tokens {
            0 => tokens > before,
            _ => tokens > with && usage.output_tokens <= PLACEHOLDER_TOKENS_MAX,
        });
        reported
    }
}

/// True for the event behind which nothing follows; of those that are cut, only for one that reports.
#[inline(always)]
fn is_last(endpoint: Endpoint, piece: Piece<'_>, reported: bool) -> bool {
    match (endpoint, piece) {
        // Its usage is in no other.
        (Endpoint::Responses | Endpoint::ResponsesRetrieve, _) => reported,
        (Endpoint::Messages, Piece::Whole(data)) => data.len() < LAST_BYTES_MAX && MESSAGE_STOP.find(data).is_some(),
        (_, Piece::Whole(data)) => data == b"[DONE]",
        _ => false,
    }
}

/// What a body is whose first bytes these are; `None` where they do not tell yet.
fn told_by(declared: Form, start: &[u8]) -> Option<Form> {
    let text = start.trim_ascii_start();
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let is_begun = |field: &&[u8]| field.starts_with(text) && text.len() < field.len();
    if is_begun(&BYTE_ORDER_MARK) {
        return None;
    }
    match (declared, *text.first()?) {
        (Form::Lines, b'{') => Some(Form::Lines),
        (_, b'{' | b'[') => Some(Form::Json),
        (Form::Events, _) => Some(Form::Events),
        _ if EVENT_STARTS.iter().any(|field| text.starts_with(field)) => Some(Form::Events),
        _ if EVENT_STARTS.iter().any(is_begun) => None,
        _ => Some(declared),
    }
}

/// The next piece of newline-delimited JSON, in the terms of an event stream.
fn next_line(input: &[u8]) -> (usize, Piece<'_>) {
    match memchr::memchr(b'\n', input) {
        _ if input.is_empty() => (0, Piece::More),
        Some(end) => (end + 1, Piece::Whole(&input[..end])),
        None => (input.len(), Piece::Data(input)),
    }
}

#[cfg(test)]
mod tests;
