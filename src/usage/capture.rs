//! Reads a response's usage from a side copy of its body, while the bytes themselves are relayed untouched.
//!
//! In: the body's bytes as the upstream sent them, cut anywhere, perhaps compressed. Out, at the end: what it reported.
//! It holds the one value that it is after, never the body.

use super::fields::{self, Field, Reading};
use super::gunzip::Gunzip;
use super::places::{Means, Shape};
use super::record::{Endpoint, Usage};
use super::request::clip;
use crate::json::{self, Found, Scanner};
use crate::sse::{Piece, Splitter};
use memchr::memmem::Finder;
use std::io::Write;
use std::sync::Arc;

/// What a response said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// The usage that holds for the whole response.
    pub usage: Option<Usage>,
    /// The model that answered, at most 128 bytes.
    pub model: Option<Arc<str>>,
    /// The response's id, at most 128 bytes.
    pub id: Option<Box<str>>,
    /// The service tier that was used, which prices depend on.
    pub service_tier: Option<String>,
    /// The quality of the images that were made, which their price depends on.
    pub quality: Option<String>,
    /// The same for their size, `1024x1536`.
    pub size: Option<String>,
    /// What a tool consumed that made images in its course.
    pub images: Option<Box<Images>>,
    /// The body could not be read to its end (not JSON, a broken encoding, an unknown one).
    pub unreadable: bool,
}

/// What was consumed beside a response's own usage, to make images in its course.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    pub usage: Usage,
    /// The model that made them, where the request named one.
    pub model: Option<Arc<str>>,
}

impl Images {
    /// Takes the tool's usage object, where it says that anything was consumed.
    pub(super) fn set_usage(slot: &mut Option<Box<Self>>, raw: &[u8]) {
        let usage = Reading::parse(raw).map(|reading| reading.usage(false));
        if let Some(usage) = usage.filter(|usage| usage.total_tokens > 0) {
            slot.get_or_insert_default().usage = usage;
        }
    }

    /// Takes the tool's model.
    pub(super) fn set_model(slot: &mut Option<Box<Self>>, raw: &[u8]) {
        set_name(&mut slot.get_or_insert_default().model, raw);
    }

    /// What was found; a model alone made nothing.
    pub(super) fn found(slot: Option<Box<Self>>) -> Option<Box<Self>> {
        slot.filter(|images| images.usage.total_tokens > 0)
    }
}

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

/// The reader of one response body.
pub struct Capture {
    reader: Reader,
}

enum Reader {
    Plain(Box<Body>),
    Gzip(Box<Gunzip<Body>>),
    /// Nothing is read; true where something should have been.
    Off(bool),
}

impl Capture {
    /// A reader for a body of this form and coding, of an answer from `endpoint`.
    pub fn new(endpoint: Endpoint, form: Form, coding: Coding) -> Self {
        let units = match form {
            Form::Opaque => return Self { reader: Reader::Off(false) },
            Form::Json => Units::One,
            Form::Events => Units::Events(Splitter::default()),
            Form::Lines => Units::Lines,
        };
        let body = Body::new(Shape::of(endpoint, form == Form::Events), units);
        let reader = match coding {
            Coding::Identity => Reader::Plain(Box::new(body)),
            Coding::Gzip => Reader::Gzip(Box::new(Gunzip::new(body))),
            Coding::Unknown => Reader::Off(true),
        };
        Self { reader }
    }

    /// Takes the body's next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        match &mut self.reader {
            Reader::Plain(body) => body.feed(bytes),
            Reader::Gzip(decoder) => decoder.feed(bytes),
            Reader::Off(_) => {}
        }
    }

    /// The body has ended, or was cut: what it reported until then.
    pub fn finish(self) -> Reported {
        match self.reader {
            Reader::Plain(body) => body.finish(),
            Reader::Gzip(decoder) => match decoder.finish(Body::new(Shape::of(Endpoint::Other, false), Units::One)) {
                Some((body, whole)) => {
                    let reported = body.finish();
                    Reported { unreadable: reported.unreadable || !whole, ..reported }
                }
                None => Reported { unreadable: true, ..Reported::default() },
            },
            Reader::Off(unreadable) => Reported { unreadable, ..Reported::default() },
        }
    }
}

/// How a body is divided into documents.
enum Units {
    One,
    Events(Splitter),
    Lines,
}

/// The reader of a decoded body.
struct Body {
    shape: &'static Shape,
    scanner: Scanner,
    units: Units,
    /// Some of the document has gone to the scanner; else all so far was passed over.
    scanning: bool,
    facts: Facts,
    /// Of the document that is being read, where only its end tells whether it counts.
    draft: Option<Box<Facts>>,
}

impl Body {
    fn new(shape: &'static Shape, units: Units) -> Self {
        let draft = (!shape.kinds.is_empty()).then(Box::default);
        Self { shape, scanner: Scanner::new(shape.paths), units, scanning: false, facts: Facts::default(), draft }
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        loop {
            let (used, piece) = match &mut self.units {
                Units::One => return self.scan(bytes),
                Units::Events(splitter) => splitter.next(bytes),
                Units::Lines => next_of_lines(bytes),
            };
            match piece {
                Piece::More => return,
                Piece::Data(data) => self.data(data, &bytes[used..]),
                Piece::Event(_) => self.end_document(),
            }
            bytes = &bytes[used..];
        }
    }

    /// Data of a document, with what follows it. One whose end is in this input, and that says nothing new, is not
    /// scanned: almost every event. Scanned or not, it comes to the same (see [`Facts::end_document`]).
    fn data(&mut self, data: &[u8], after: &[u8]) {
        let ends = match self.units {
            Units::Events(_) => ends_event(after),
            Units::Lines | Units::One => !after.is_empty(),
        };
        let whole = ends && !self.scanning;
        let nothing_new = || self.facts.names.model.is_some() && !may_hold_usage(data, self.shape.mark);
        let line_end = !self.scanning && data == b"\n"; // of a line that was passed over, or white space
        if !(line_end || whole && nothing_new()) {
            self.scan(data);
        }
    }

    fn scan(&mut self, data: &[u8]) {
        self.scanning = true;
        let facts = self.draft.as_deref_mut().unwrap_or(&mut self.facts);
        self.scanner.feed(data, |found| facts.take(self.shape, found));
    }

    fn end_document(&mut self) {
        if !std::mem::take(&mut self.scanning) {
            return; // nothing of it was looked at
        }
        self.scanner.reset();
        match self.draft.as_deref_mut().map(std::mem::take) {
            Some(draft) if draft.is_wanted => self.facts.adopt(draft),
            Some(_) => {}
            None => self.facts.end_document(),
        }
    }

    fn finish(mut self) -> Reported {
        // A cut stream is no fault of the reader's; a cut document is.
        let unreadable = matches!(self.units, Units::One) && !self.scanner.is_done();
        self.end_document();
        if unreadable && self.facts.reading.is_none() {
            self.facts.images = 0; // not all of them, and perhaps tokens would have followed
        }
        Reported { unreadable, ..self.facts.into_reported(self.shape) }
    }
}

/// True where what follows a line's data ends its event too.
fn ends_event(after: &[u8]) -> bool {
    [&b"\n\n"[..], b"\r\n\r\n", b"\r\r"].iter().any(|end| after.starts_with(end))
}

/// The next piece of newline-delimited JSON, in the terms of an event stream.
fn next_of_lines(bytes: &[u8]) -> (usize, Piece<'_>) {
    match memchr::memchr(b'\n', bytes) {
        _ if bytes.is_empty() => (0, Piece::More),
        Some(0) => (1, Piece::Event(true)),
        Some(end) => (end, Piece::Data(&bytes[..end])),
        None => (bytes.len(), Piece::Data(bytes)),
    }
}

/// False where no usage can be in the line. A null says nothing, and stands in almost every event of a stream whose
/// client, or we in its place, asked for usage. An escape might hide the key that leads to usage.
fn may_hold_usage(line: &[u8], mark: &Finder<'_>) -> bool {
    let is_null = |after: &[u8]| {
        let value = after.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        value.is_some_and(|value| value.starts_with(b"null"))
    };
    let is_escape = |backslash: usize| line.get(backslash + 1) == Some(&b'u');
    mark.find_iter(line).any(|at| !is_null(&line[at + mark.needle().len()..]))
        || memchr::memchr_iter(b'\\', line).any(is_escape)
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

/// What a response calls itself.
#[derive(Default)]
struct Names {
    model: Option<Arc<str>>,
    id: Option<Box<str>>,
    service_tier: Option<String>,
    quality: Option<String>,
    size: Option<String>,
}

impl Names {
    /// Takes over what a later document says.
    fn adopt(&mut self, later: Self) {
        self.model = later.model.or(self.model.take());
        self.id = later.id.or(self.id.take());
        self.service_tier = later.service_tier.or(self.service_tier.take());
        self.quality = later.quality.or(self.quality.take());
        self.size = later.size.or(self.size.take());
    }
}

/// What has been found.
#[derive(Default)]
struct Facts {
    /// Large, and not there before the end of almost every stream; the same below.
    opening: Option<Box<Reading>>,
    reading: Option<Box<Reading>>,
    /// Images seen.
    images: u64,
    /// What a tool says that made images.
    image_tool: Option<Box<Images>>,
    names: Names,
    /// The names in the document that is being read.
    beside: Names,
    /// Usage stands in the document that is being read.
    has_usage: bool,
    /// The document is of the kind that the shape asks for.
    is_wanted: bool,
}

impl Facts {
    fn take(&mut self, shape: &Shape, found: Found<'_>) {
        if shape.means[found.path] == Means::Image {
            self.images += 1;
        }
        let Some(raw) = found.raw else { return };
        match shape.means[found.path] {
            Means::Usage => {
                let reading = Reading::parse(raw).map(Box::new);
                self.has_usage |= reading.is_some();
                self.reading = reading.or(self.reading.take());
            }
            Means::Opening => {
                let opening = Reading::parse(raw).map(Box::new);
                self.has_usage |= opening.is_some();
                self.opening = opening.or(self.opening.take());
            }
            Means::Update => {
                if let Some(later) = Reading::parse(raw) {
                    self.has_usage = true;
                    self.reading.get_or_insert_default().merge(&later);
                }
            }
            Means::Input => self.set(Field::input_tokens, raw),
            Means::Output => self.set(Field::output_tokens, raw),
            Means::Model => set_name(&mut self.beside.model, raw),
            Means::Id => set_name(&mut self.beside.id, raw),
            Means::ServiceTier => set_name(&mut self.beside.service_tier, raw),
            Means::ImageUsage => Images::set_usage(&mut self.image_tool, raw),
            Means::ImageModel => Images::set_model(&mut self.image_tool, raw),
            Means::Quality => set_name(&mut self.beside.quality, raw),
            Means::Size => set_name(&mut self.beside.size, raw),
            Means::Kind => self.is_wanted = json::string(raw).is_some_and(|kind| shape.kinds.contains(&&*kind)),
            Means::Image => {}
        }
    }

    fn set(&mut self, field: Field, raw: &[u8]) {
        if let Some(value) = fields::number(raw) {
            self.has_usage = true;
            self.reading.get_or_insert_default().set(field, value);
        }
    }

    /// A document has ended: its names count where usage stands beside them, or none were known. So it makes no
    /// difference whether a document that says nothing new was looked at.
    fn end_document(&mut self) {
        let names = std::mem::take(&mut self.beside);
        if std::mem::take(&mut self.has_usage) || self.names.model.is_none() {
            self.names.adopt(names);
        }
    }

    /// Takes over what a later document says.
    fn adopt(&mut self, later: Self) {
        self.has_usage = later.reading.is_some() || later.images > 0;
        self.images += later.images;
        self.reading = later.reading.or(self.reading.take());
        self.beside = later.beside;
        self.end_document();
    }

    fn into_reported(self, shape: &Shape) -> Reported {
        let reading = self.reading.map(|reading| match self.opening {
            Some(mut opening) => {
                opening.merge(&reading);
                opening
            }
            None => reading,
        });
        let usage = reading.map(|reading| reading.usage(shape.cache_beside_input));
        // The images are the upstream's answer itself: their number needs no usage object to be told.
        let images = self.images;
        let usage = if images > 0 { Some(Usage { images, ..usage.unwrap_or_default() }) } else { usage };
        let Names { model, id, service_tier, quality, size } = self.names;
        let images = Images::found(self.image_tool);
        Reported { usage, model, id, service_tier, quality, size, images, unreadable: false }
    }
}

pub(super) fn set_name<T: for<'a> From<&'a str>>(slot: &mut Option<T>, raw: &[u8]) {
    if let Some(name) = json::string(raw).filter(|name| !name.is_empty()) {
        *slot = Some(clip(&name).into());
    }
}

#[cfg(test)]
mod tests;
