//! What the documents of one response report: its usage, and its names.
//!
//! In: the documents, in pieces. Out, at the end: one [`Reported`]. It holds the one value that it is after, never a
//! document.

use super::dialects::{self, Field, UsageObject};
use super::inspect::clip;
use super::record::Usage;
use super::response_id::bounded_id;
use super::shapes::{Attribute, ERROR, Shape};
use super::tool_calls::ToolCalls;
use crate::json::{self, Found, Scanner};
use crate::sse::Piece;
use memchr::memmem::Finder;
use std::sync::Arc;

/// What a response reports of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// The usage that holds for the whole response.
    pub usage: Option<Usage>,
    /// The model that answered, at most 128 bytes.
    pub model: Option<Arc<str>>,
    /// The response's id, at most 128 bytes (see [`bounded_id`]).
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
    /// It is a stream that says itself that something went wrong; or that has nothing to say, where there should be an
    /// answer.
    pub failed: bool,
}

/// What was consumed beside a response's own usage, to make images in its course.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    pub usage: Usage,
    /// The model that made them, where the request named one.
    pub model: Option<Arc<str>>,
}

impl Images {
    /// Takes the tool's usage object, where anything was consumed.
    pub(super) fn set_usage(slot: &mut Option<Box<Self>>, raw: &[u8]) {
        let usage = UsageObject::parse(raw).map(|object| of_images(&object, object.usage(false)));
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

/// The reader of one response's documents.
pub(super) struct Capture {
    shape: &'static Shape,
    scanner: Scanner,
    /// Some of the document has gone to the scanner; else all so far was passed over.
    scanning: bool,
    facts: Facts,
    /// Of the document that is being read, where only its end decides whether it counts.
    draft: Option<Box<Facts>>,
}

impl Capture {
    pub(super) fn new(shape: &'static Shape) -> Self {
        let draft = (!shape.kinds.is_empty()).then(Box::default);
        Self { shape, scanner: Scanner::new(shape.paths), scanning: false, facts: Facts::default(), draft }
    }

    /// Takes the next piece of a document; true where that has ended, and usage stood in it.
    #[inline(always)]
    pub(super) fn feed(&mut self, piece: Piece<'_>) -> bool {
        match piece {
            Piece::Data(data) => {
                self.facts.has_documents = true;
                self.scan(data);
            }
            Piece::LineEnd if self.scanning => self.scan(b"\n"),
            Piece::LineEnd | Piece::More => {}
            Piece::Whole(data) => {
                // Almost every event reports nothing new. Scanned or not, it comes to the same (see
                // [`Facts::end_document`]).
                let known = !self.scanning && self.facts.names.model.is_some();
                self.facts.has_documents = true;
                if !known || may_report(data, self.shape.needle) || ERROR.find(data).is_some() {
                    self.scan(data);
                    return self.end_document();
                }
            }
            Piece::Event(_) => return self.end_document(),
        }
        false
    }

    fn scan(&mut self, data: &[u8]) {
        self.scanning = true;
        let facts = self.draft.as_deref_mut().unwrap_or(&mut self.facts);
        self.scanner.feed(data, |found| facts.take(self.shape, found));
    }

    /// A document has ended; true where usage stood in it.
    fn end_document(&mut self) -> bool {
        if !std::mem::take(&mut self.scanning) {
            return false; // nothing of it was looked at
        }
        self.scanner.reset();
        match self.draft.as_deref_mut().map(std::mem::take) {
            Some(draft) if draft.is_wanted => self.facts.adopt(draft, self.shape),
            Some(draft) => {
                self.facts.failed |= draft.document.failed;
                false
            }
            None => self.facts.end_document(self.shape),
        }
    }

    /// The event has come behind which nothing follows, but perhaps another answer: of a gateway that tried once more.
    pub(super) fn end_answer(&mut self) {
        self.facts.is_over = self.facts.reported.is_some();
    }

    /// The response has ended, or was cut: what it reported until then. A cut stream is no fault of the reader's; where
    /// the whole is one document, a cut one is. `answers` says that there should be something in it.
    pub(super) fn finish(mut self, one_document: bool, answers: bool) -> Reported {
        let unreadable = one_document && !self.scanner.is_done();
        self.end_document();
        if unreadable && self.facts.reported.is_none() {
            self.facts.images = 0; // not all of them, and perhaps tokens would have followed
        }
        let failed = !one_document && (self.facts.failed || answers && !self.facts.has_documents);
        Reported { unreadable, failed, ..self.facts.into_reported(self.shape) }
    }
}

/// False where no usage can be in the document. A null says nothing, and stands in almost every event of a stream whose
/// client, or we in its place, asked for usage. An escape might hide the key that leads to usage.
fn may_report(document: &[u8], needle: &Finder<'_>) -> bool {
    let mut rest = document;
    while let Some(at) = needle.find(rest) {
        rest = &rest[at + needle.needle().len()..];
        let value = rest.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        if !value.is_some_and(|value| value.starts_with(b"null")) {
            return true;
        }
    }
    memchr::memchr_iter(b'\\', document).any(|backslash| document.get(backslash + 1) == Some(&b'u'))
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
    /// Takes over what a later document reports.
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
    opening: Option<Box<UsageObject>>,
    reported: Option<Box<UsageObject>>,
    tool_calls: Option<Box<ToolCalls>>,
    /// What whole answers before this one consumed, in the same body.
    earlier: Option<Box<Usage>>,
    /// The answer that `reported` is of is complete.
    is_over: bool,
    /// Images seen.
    images: u64,
    /// What a tool reports that made images.
    image_tool: Option<Box<Images>>,
    names: Names,
    document: Document,
    /// The document is of the kind that the shape asks for.
    is_wanted: bool,
    has_documents: bool,
    failed: bool,
}

/// What stands in the document that is being read.
#[derive(Default)]
struct Document {
    names: Names,
    /// Its usage, and what that is in the whole.
    usage: Option<(Attribute, Box<UsageObject>)>,
    tool_calls: Option<Box<ToolCalls>>,
    has_choices: bool,
    failed: bool,
}

impl Document {
    /// Takes a usage object, or what stands for one.
    fn set_usage(&mut self, attribute: Attribute, raw: &[u8]) {
        if let Some(object) = UsageObject::parse(raw) {
            self.usage = Some((attribute, Box::new(object)));
        }
    }

    fn set(&mut self, field: Field, value: Option<u64>) {
        let Some(value) = value else { return };
        let (_, object) = self.usage.get_or_insert_with(|| (Attribute::Update, Box::default()));
        object.set(field, value);
    }
}

impl Facts {
    fn take(&mut self, shape: &Shape, found: Found<'_>) {
        let (attribute, document) = (shape.values[found.path], &mut self.document);
        match attribute {
            Attribute::Image => self.images += 1,
            Attribute::Choice => document.has_choices = true,
            Attribute::Error => document.failed |= !found.raw.is_some_and(is_nothing),
            _ => {}
        }
        let Some(raw) = found.raw else { return };
        match attribute {
            Attribute::Usage | Attribute::Opening | Attribute::Update => document.set_usage(attribute, raw),
            Attribute::ChoiceUsage if document.usage.is_none() => document.set_usage(Attribute::Usage, raw),
            Attribute::Duration if document.usage.is_none() => document.set(Field::audio_us, dialects::micros(raw)),
            Attribute::Input => document.set(Field::input_tokens, dialects::number(raw)),
            Attribute::Output => document.set(Field::output_tokens, dialects::number(raw)),
            Attribute::Model => set_name(&mut document.names.model, raw),
            Attribute::Id => set_id(&mut document.names.id, raw),
            Attribute::ServiceTier => set_name(&mut document.names.service_tier, raw),
            Attribute::ImageUsage => Images::set_usage(&mut self.image_tool, raw),
            Attribute::ImageModel => Images::set_model(&mut self.image_tool, raw),
            Attribute::Quality => set_name(&mut document.names.quality, raw),
            Attribute::Size => set_name(&mut document.names.size, raw),
            Attribute::Kind => {
                let kind = json::string(raw).unwrap_or_default();
                self.is_wanted = shape.kinds.contains(&&*kind);
                document.failed |= kind == "error";
            }
            Attribute::EventKind => document.failed |= matches!(raw, b"\"error\"" | b"\"response.failed\""),
            Attribute::WebSearches
            | Attribute::SearchContext
            | Attribute::OutputKind
            | Attribute::ActionKind
            | Attribute::Container => document.tool_calls.get_or_insert_default().take(attribute, raw),
            Attribute::ChoiceUsage | Attribute::Duration | Attribute::Image | Attribute::Choice | Attribute::Error => {}
        }
    }

    /// A document has ended: its names count where usage stands beside them, or none were known. So it makes no
    /// difference whether a document that reports nothing new was looked at.
    fn end_document(&mut self, shape: &Shape) -> bool {
        let document = std::mem::take(&mut self.document);
        self.failed |= document.failed;
        let has_usage = document.usage.is_some() || self.images > 0 && self.is_wanted;
        let names_other =
            |id: &Option<Box<str>>| id.is_some() && document.names.id.is_some() && *id != document.names.id;
        if has_usage && self.is_over && names_other(&self.names.id) {
            let over = self.usage(shape).unwrap_or_default();
            self.earlier = Some(Box::new(self.earlier.take().unwrap_or_default().plus(&over)));
            (self.opening, self.reported, self.is_over) = (None, None, false);
        }
        if has_usage || self.names.model.is_none() {
            self.names.adopt(document.names);
        }
        match document.usage {
            Some((Attribute::Opening, object)) => self.opening = Some(object),
            Some((Attribute::Update, object)) => self.reported.get_or_insert_default().merge(&object),
            Some((_, object)) => self.reported = Some(object),
            None => {}
        }
        if has_usage {
            self.tool_calls = document.tool_calls;
            // No choice is left to be finished.
            self.is_over |= self.reported.is_some() && !document.has_choices;
        }
        has_usage
    }

    /// Takes over what a later document reports.
    fn adopt(&mut self, later: Self, shape: &Shape) -> bool {
        self.images += later.images;
        self.is_wanted = true;
        self.document = later.document;
        self.end_document(shape)
    }

    /// What the answer reports that is being read.
    fn usage(&self, shape: &Shape) -> Option<Usage> {
        let mut said = self.opening.as_deref().cloned().unwrap_or_default();
        said.merge(self.reported.as_deref()?);
        let mut usage = said.usage(shape.cache_beside_input);
        if shape.speaks {
            usage.output_audio_tokens = usage.output_tokens;
        } else if self.images > 0 {
            usage = of_images(&said, usage);
        }
        if let Some(calls) = &self.tool_calls {
            calls.count_in(&mut usage);
        }
        Some(usage)
    }

    fn into_reported(self, shape: &Shape) -> Reported {
        let usage = self.usage(shape);
        let usage = match self.earlier {
            Some(earlier) => Some(earlier.plus(&usage.unwrap_or_default())),
            None => usage,
        };
        // The images are the upstream's answer itself: their number needs no usage object to be reported.
        let images = self.images;
        let usage = if images > 0 { Some(Usage { images, ..usage.unwrap_or_default() }) } else { usage };
        let Names { model, id, service_tier, quality, size } = self.names;
        let images = Images::found(self.image_tool);
        Reported { usage, model, id, service_tier, quality, size, images, unreadable: false, failed: false }
    }
}

/// True for an error that is none.
fn is_nothing(raw: &[u8]) -> bool {
    matches!(raw, b"null" | b"false" | b"\"\"" | b"{}" | b"[]")
}

/// The usage of an answer that made images. Where that does not say what its output is, it is images alone (the API
/// reference's `ImagesUsage`); where it says that none of it is, it is text.
fn of_images(said: &UsageObject, usage: Usage) -> Usage {
    let unsaid_output_tokens = if said.gives(Field::output_image_tokens) { 0 } else { usage.output_tokens };
    Usage { unsaid_output_tokens, ..usage }
}

pub(super) fn set_id(slot: &mut Option<Box<str>>, raw: &[u8]) {
    if let Some(id) = json::string(raw).filter(|id| !id.is_empty()) {
        *slot = Some(bounded_id(&id).into());
    }
}

pub(super) fn set_name<T: for<'a> From<&'a str>>(slot: &mut Option<T>, raw: &[u8]) {
    if let Some(name) = json::string(raw).filter(|name| !name.is_empty()) {
        *slot = Some(clip(&name).into());
    }
}
