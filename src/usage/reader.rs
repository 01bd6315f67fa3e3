//! Reads a response's body beside its relaying, in one pass: splits it into its documents, of which the capture takes
//! what was consumed, the estimate counts the text, and the editor takes out what only our asking for usage brought.
//!
//! In: the body's bytes as the upstream sent them, cut anywhere, perhaps compressed. Out: of an edited stream, what goes
//! to the client; at the end, what the response reported. A body that is not edited is never held.

use super::capture::{Capture, Mention, Reported};
use super::editor::Editor;
use super::estimate::Deltas;
use super::gunzip::Gunzip;
use super::record::{Endpoint, Usage};
use super::shapes::Shape;
use crate::sse::{Piece, Splitter};
use std::io::Write;

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

/// The reader of one response body; by default one that reads nothing.
#[derive(Default)]
pub struct UsageReader(Decoder);

enum Decoder {
    Identity(Box<Body>),
    Gzip(Box<Gunzip<Body>>),
    /// Nothing is read.
    Off {
        unreadable: bool,
    },
}

impl Default for Decoder {
    fn default() -> Self {
        Self::Off { unreadable: false }
    }
}

impl UsageReader {
    /// A reader for a body of this form and coding, of a response from `endpoint`. With `edit`, the traces of asking
    /// for usage are taken out of a stream of events that is not compressed.
    pub fn new(endpoint: Endpoint, form: Form, coding: Coding, edit: bool) -> Self {
        let documents = match form {
            Form::Opaque => return Self::default(),
            _ if endpoint == Endpoint::Other => return Self::default(),
            Form::Json => Documents::One,
            Form::Events => Documents::Events(Splitter::default()),
            Form::Lines => Documents::Lines,
        };
        let mut body = Body::new(Shape::of(endpoint, form == Form::Events), documents);
        Self(match coding {
            Coding::Identity => {
                body.deltas = if form == Form::Json { None } else { Deltas::new(endpoint) };
                body.editor = (edit && form == Form::Events).then(Box::default);
                Decoder::Identity(Box::new(body))
            }
            Coding::Gzip => Decoder::Gzip(Box::new(Gunzip::new(body))),
            Coding::Unknown => Decoder::Off { unreadable: true },
        })
    }

    /// True where [`UsageReader::feed`] gives what goes to the client; else that is the body as it came.
    pub fn is_editing(&self) -> bool {
        matches!(&self.0, Decoder::Identity(body) if body.editor.is_some())
    }

    /// There is no client any more: the rest is read for its usage only.
    pub fn stop_editing(&mut self) {
        if let Decoder::Identity(body) = &mut self.0 {
            body.editor = None;
        }
    }

    /// Takes the body's next bytes. Of an edited stream, appends to `out` what goes to the client.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match &mut self.0 {
            Decoder::Identity(body) => body.feed(bytes, out),
            Decoder::Gzip(decoder) => decoder.feed(bytes),
            Decoder::Off { .. } => {}
        }
    }

    /// The body is complete. Of an edited stream, appends to `out` what was held of its last event.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if let Decoder::Identity(body) = &mut self.0
            && let Some(editor) = &mut body.editor
        {
            editor.end_event(&[], Mention::Perhaps, out);
        }
    }

    /// What a stream that was cut here probably consumed, given its input; `None` where no text was counted.
    pub fn estimate(&self, input_tokens: u64) -> Option<Usage> {
        match &self.0 {
            Decoder::Identity(body) => body.deltas.as_ref().map(|deltas| deltas.usage(input_tokens)),
            _ => None,
        }
    }

    /// The body has ended, or was cut: what it reported until then.
    pub fn finish(self) -> Reported {
        match self.0 {
            Decoder::Identity(body) => body.finish(),
            Decoder::Gzip(decoder) => {
                match decoder.finish(Body::new(Shape::of(Endpoint::Other, false), Documents::One)) {
                    Some((body, whole)) => {
                        let reported = body.finish();
                        Reported { unreadable: reported.unreadable || !whole, ..reported }
                    }
                    None => Reported { unreadable: true, ..Reported::default() },
                }
            }
            Decoder::Off { unreadable } => Reported { unreadable, ..Reported::default() },
        }
    }
}

/// How a body is divided into documents.
enum Documents {
    One,
    Events(Splitter),
    Lines,
}

/// The reader of a decoded body.
struct Body {
    documents: Documents,
    capture: Capture,
    /// The text that goes by, in case the stream is cut.
    deltas: Option<Deltas>,
    editor: Option<Box<Editor>>,
}

impl Body {
    fn new(shape: &'static Shape, documents: Documents) -> Self {
        Self { documents, capture: Capture::new(shape), deltas: None, editor: None }
    }

    fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        // Where the event starts in the input, and what is not read yet.
        let (mut start, mut at) = (self.editor.as_mut().map_or(0, |editor| editor.end_line(input, out)), 0);
        loop {
            let (used, piece) = match &mut self.documents {
                Documents::One => return self.capture.part(input),
                Documents::Events(splitter) => splitter.next(&input[at..]),
                Documents::Lines => next_line(&input[at..]),
            };
            at += used;
            let mention = match piece {
                Piece::More => break,
                Piece::Whole(data) => {
                    self.count(data);
                    self.capture.document(data)
                }
                Piece::Data(data) => {
                    self.count(data);
                    self.capture.part(data);
                    if let Some(editor) = &mut self.editor {
                        editor.add_data(at - start, data.len());
                    }
                    continue;
                }
                Piece::LineEnd => {
                    self.capture.line_end();
                    if let Some(editor) = &mut self.editor {
                        editor.add_line();
                    }
                    continue;
                }
                Piece::Event(_) => {
                    self.capture.end_document();
                    Mention::Perhaps
                }
            };
            if let Some(editor) = &mut self.editor {
                let event = &input[start..at];
                if let Piece::Whole(data) = piece {
                    editor.add_whole(event, data.len());
                }
                editor.end_event(event, mention, out);
            }
            start = at;
        }
        if let Some(editor) = &mut self.editor {
            editor.hold(&input[start..], out);
        }
    }

    fn count(&mut self, text: &[u8]) {
        if let Some(deltas) = &mut self.deltas {
            deltas.feed(text);
        }
    }

    fn finish(self) -> Reported {
        self.capture.finish(matches!(self.documents, Documents::One))
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

impl Write for Body {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.feed(bytes, &mut Vec::new());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
