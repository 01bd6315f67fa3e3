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
pub struct UsageReader {
    /// Of a compressed body, with the reader of the decoded one.
    gunzip: Option<Box<Gunzip<Decoded>>>,
    decoded: Decoded,
}

impl UsageReader {
    /// A reader for a body of this form and coding, of a response from `endpoint`. With `edit`, the traces of asking
    /// for usage are taken out of a stream of events that is not compressed.
    pub fn new(endpoint: Endpoint, form: Form, coding: Coding, edit: bool) -> Self {
        if endpoint == Endpoint::Other || form == Form::Opaque {
            return Self::default();
        }
        let is_plain_stream = form != Form::Json && coding == Coding::Identity;
        let body = Body {
            form: if coding == Coding::Unknown { Form::Opaque } else { form },
            splitter: Splitter::default(),
            capture: Capture::new(Shape::of(endpoint, form == Form::Events)),
            deltas: if is_plain_stream { Deltas::new(endpoint) } else { None },
            editor: (edit && is_plain_stream && form == Form::Events).then(Box::default),
        };
        let decoded = Decoded(Some(Box::new(body)));
        if coding == Coding::Gzip {
            return Self { gunzip: Some(Box::new(Gunzip::new(decoded))), ..Self::default() };
        }
        Self { gunzip: None, decoded }
    }

    /// True where [`UsageReader::feed`] gives what goes to the client; else that is the body as it came.
    pub fn is_editing(&self) -> bool {
        self.decoded.0.as_ref().is_some_and(|body| body.editor.is_some())
    }

    /// Takes the body's next bytes. Of an edited stream, appends to `out` what goes to the client.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match (&mut self.gunzip, &mut self.decoded.0) {
            (Some(gunzip), _) => gunzip.feed(bytes),
            (None, Some(body)) => body.feed(bytes, out),
            (None, None) => {}
        }
    }

    /// The body is complete. Of an edited stream, appends to `out` what was held of its last event.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if let Some(editor) = self.decoded.0.as_mut().and_then(|body| body.editor.as_mut()) {
            editor.end_event(&[], out);
        }
    }

    /// What a stream that was cut here probably consumed, given its input; `None` where no text was counted.
    pub fn estimate(&self, input_tokens: u64) -> Option<Usage> {
        Some(self.decoded.0.as_ref()?.deltas.as_ref()?.usage(input_tokens))
    }

    /// The body has ended, or was cut: what it reported until then.
    pub fn finish(self) -> Reported {
        let (decoded, whole) = match self.gunzip {
            Some(gunzip) => gunzip.finish().unwrap_or_default(),
            None => (self.decoded, true),
        };
        // Of an opaque body nothing was read, so that it is a document that has not ended.
        let finish = |body: Box<Body>| body.capture.finish(matches!(body.form, Form::Json | Form::Opaque));
        let reported = decoded.0.map(finish).unwrap_or_default();
        Reported { unreadable: reported.unreadable || !whole, ..reported }
    }
}

/// Takes what is decoded; the default one reads nothing.
#[derive(Default)]
struct Decoded(Option<Box<Body>>);

impl Write for Decoded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(body) = &mut self.0 {
            body.feed(bytes, &mut Vec::new()); // not edited
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The reader of a decoded body.
struct Body {
    /// How it is divided into documents; opaque where its coding is not known.
    form: Form,
    splitter: Splitter,
    capture: Capture,
    /// The text that goes by, in case the stream is cut.
    deltas: Option<Deltas>,
    editor: Option<Box<Editor>>,
}

impl Body {
    fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        // Where the event starts in the input, and what is not read yet.
        let (mut start, mut at) = (self.editor.as_mut().map_or(0, |editor| editor.end_line(input, out)), 0);
        loop {
            let (used, piece) = match self.form {
                Form::Json => return self.capture.feed(Piece::Data(input)),
                Form::Events => self.splitter.next(&input[at..]),
                Form::Lines => next_line(&input[at..]),
                Form::Opaque => return,
            };
            at += used;
            self.capture.feed(piece);
            if let Some(deltas) = &mut self.deltas {
                deltas.feed(piece);
            }
            if let Some(editor) = &mut self.editor {
                editor.feed(piece, &input[start..at], out);
            }
            match piece {
                Piece::More => return,
                Piece::Whole(_) | Piece::Event(_) => start = at,
                Piece::Data(_) | Piece::LineEnd => {}
            }
        }
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
