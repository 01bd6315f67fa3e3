//! What a request's body says, whatever it calls itself: which bodies are held to be read, and what is read and edited
//! in them. Functions of the head and of the exchange.
//!
//! A target may read a body in another way than its `Content-Type` says, so that says nothing here: a body for an
//! endpoint that reports usage is held and read as JSON. Only a form streams through, to the endpoints that take one;
//! and is held as well where it decides over money. What cannot be read, or be read in two ways, is passed on as it is,
//! and counted by its answer; for a user whose tokens or money are limited it is refused.

use super::Settings;
use super::content_coding::Coding;
use super::exchange::{Exchange, ModelName};
use super::forward::{self, Accepted};
use super::outgoing::COALESCE_BYTES_MAX;
use super::refusal::Refusal;
use super::request_estimate::Size;
use super::usage_asking::{Asked, undo};
use crate::http::framing::Framing;
use crate::http::head::RequestHead;
use crate::http::headers::Known;
use crate::http::reply::Fault;
use crate::usage::inspect::{Inspected, inspect, unclear_key};
use crate::usage::multipart::MultipartReader;
use crate::usage::record::Endpoint;
use crate::usage::splice::{Splice, splice_far};
use crate::usage::{content, estimate};
use std::borrow::Cow;
use std::sync::Arc;

/// True for a body that is held to be read. `must_be_read` says that
/// its user's money is limited, or the models that may be asked for.
pub fn is_held(head: &RequestHead<'_, '_>, endpoint: Endpoint, must_be_read: bool) -> bool {
    let has_body = head.framing != Framing::None;
    has_body && endpoint != Endpoint::Other && (must_be_read || form(head, endpoint).is_none())
}

/// The reader of a form, for an endpoint that takes one.
pub fn form(head: &RequestHead<'_, '_>, endpoint: Endpoint) -> Option<Box<MultipartReader>> {
    let takes_forms = matches!(
        endpoint,
        Endpoint::AudioTranscriptions
            | Endpoint::AudioTranslations
            | Endpoint::ImagesEdits
            | Endpoint::ImagesVariations
    );
    if !takes_forms || Coding::of(head) != Coding::Identity {
        return None;
    }
    let mut types = head.headers.values(Known::ContentType);
    let only = types.next().filter(|_| types.next().is_none())?;
    MultipartReader::new(only).map(Box::new)
}

/// A held body that is whole, and what it is read for.
pub struct Unread {
    body: Vec<u8>,
    coding: Coding,
    form: Option<Box<MultipartReader>>,
    endpoint: Endpoint,
    /// The model for a request that names none.
    default_model: Option<Arc<str>>,
    /// Its user's tokens, money or models are limited: it is measured.
    is_limited: bool,
    /// Usage is asked for in the client's place.
    asks_usage: bool,
    /// Maximum of a decoded body, bytes.
    bytes_max: u64,
}

/// What a held body says, and what of it goes on.
#[derive(Default)]
pub struct BodyRead {
    /// As it came, or decoded; edits far behind are made.
    body: Vec<u8>,
    /// The edits that are still to be made.
    splices: Vec<Splice>,
    /// What takes the asking for usage out again, once all edits are made.
    undo: Vec<Splice>,
    is_decoded: bool,
    inspected: Inspected,
    size: Size,
    text_bytes: u64,
}

impl Unread {
    /// Takes the body of an exchange, which is whole. `is_limited` says that its user's tokens, money or
    /// models are.
    pub fn take(exchange: &mut Exchange, settings: &Settings, is_limited: bool) -> Self {
        let default_model = settings.model_name.clone();
        let request = &mut exchange.request;
        Self {
            body: std::mem::take(&mut request.outgoing.body),
            coding: request.coding,
            form: request.form.take(),
            endpoint: exchange.draft.endpoint,
            default_model: default_model.filter(|_| request.model_name != ModelName::DeploymentInPath),
            is_limited,
            asks_usage: settings.asks_usage,
            bytes_max: settings.body_bytes_max,
        }
    }

    /// True where reading it would hold others up, as one of `long_bytes` does. Of a compressed one, a few bytes may be
    /// very many.
    pub fn takes_long(&self, long_bytes: usize) -> bool {
        self.body.len() >= long_bytes || self.coding.is_decodable()
    }

    /// Reads it, and chooses the edits that SPEC allows. `may_ask` says whether a stream for this model, with this
    /// body, is asked for its usage.
    ///
    /// # Errors
    /// Its user is limited, and what it asks for cannot be said.
    pub fn read(mut self, may_ask: impl FnOnce(Option<&str>, &[u8]) -> bool) -> Result<BodyRead, Refusal> {
        let must_be_clear = self.is_limited && !self.endpoint.is_retrieval();
        if let Some(mut form) = self.form.take() {
            form.feed(&self.body);
            return Ok(of_form(self.endpoint, &form, self.body));
        }
        let mut read = BodyRead::default();
        match self.coding.decode(&self.body, self.bytes_max) {
            Ok(plain) => {
                self.read_json(&plain, must_be_clear, may_ask, &mut read)?;
                // Only one that is edited goes on decoded.
                match plain {
                    Cow::Owned(plain) if !read.splices.is_empty() => (read.body, read.is_decoded) = (plain, true),
                    _ => read.body = self.body,
                }
            }
            Err(refusal) if must_be_clear => return Err(refusal),
            Err(_) => read.body = self.body, // passed on as it is
        }
        read.undo = undo(&read.body, &read.splices);
        if read.body.len() > COALESCE_BYTES_MAX {
            splice_far(&mut read.body, &mut read.splices, COALESCE_BYTES_MAX);
        }
        Ok(read)
    }

    /// What a JSON body says, and its size.
    fn read_json(
        &self,
        body: &[u8],
        must_be_clear: bool,
        may_ask: impl FnOnce(Option<&str>, &[u8]) -> bool,
        read: &mut BodyRead,
    ) -> Result<(), Refusal> {
        let mut inspected = inspect(body, self.endpoint, self.default_model.as_deref());
        if inspected.usage_asked && !(self.asks_usage && may_ask(inspected.model.as_deref(), body)) {
            inspected.ask_nothing();
        }
        if must_be_clear && let Some(why) = inspected.unclear.or_else(|| unclear_key(body)) {
            let message = format!("This user is limited, and the request is not clear: {why}.");
            return Err(Refusal::new(Fault::BadRequest, message));
        }
        if inspected.stream || inspected.background || self.is_limited {
            let content = content::measure(body);
            read.text_bytes = content.text_bytes;
            let is_response = matches!(self.endpoint, Endpoint::Responses | Endpoint::ResponsesCompact);
            let names_items = || is_response && self.is_limited && content::names_items(body);
            let is_run = self.endpoint == Endpoint::ThreadsRuns;
            let shows_all = !content.refers && !inspected.refers && !is_run && !names_items();
            let as_sound = self.endpoint == Endpoint::AudioSpeech && !inspected.speech_events;
            read.size = Size {
                input: Some(estimate::input_tokens(content.text_bytes)),
                // Keys and numbers are read by the model as well, and so is text that looks like media.
                input_max: shows_all.then_some(body.len() as u64),
                output_max: inspected.output_max,
                more_answers: inspected.choices.saturating_sub(1),
                service_tier: inspected.service_tier.take(),
                tools: inspected.tools,
                unreported: as_sound
                    .then_some("speech as a sound file does not say what it took; as events (sse) it does"),
            };
        }
        read.splices = std::mem::take(&mut inspected.splices);
        read.inspected = inspected;
        Ok(())
    }
}

impl BodyRead {
    /// Sends a request on its way with what its body says, and with the body; its size.
    pub fn finish(mut self, exchange: &mut Exchange) -> Size {
        let (request, inspected) = (&mut exchange.request, &mut self.inspected);
        if !self.is_decoded {
            request.coding.write(&mut request.outgoing.head);
        }
        request.outgoing.body = self.body;
        // A compressed stream would have to be decoded to be edited.
        let accepted =
            request.accepted.map(|accepted| if inspected.usage_asked { Accepted::Identity } else { accepted });
        let edited_bytes = (self.splices.iter())
            .fold(request.outgoing.body.len(), |bytes, splice| bytes + splice.with.len() - splice.at.len());
        forward::write_accepted(&mut request.outgoing.head, accepted);
        forward::write_length(&mut request.outgoing.head, edited_bytes as u64);
        request.outgoing.head.extend_from_slice(b"\r\n");
        request.asked = inspected.usage_asked.then(|| Asked::new(request.outgoing.head.len(), self.undo).into());
        request.outgoing.finish_body(&self.splices);
        request.complete = true;
        request.text_bytes = self.text_bytes;
        request.background = inspected.background;
        request.caches_long = inspected.caches_long;
        exchange.draft.stream = inspected.stream;
        if inspected.model.is_some() {
            exchange.draft.model_requested = inspected.model.take();
        }
        self.size
    }
}

/// What a form says of its size.
fn of_form(endpoint: Endpoint, form: &MultipartReader, body: Vec<u8>) -> BodyRead {
    let is_transcription = endpoint == Endpoint::AudioTranscriptions;
    let reports = matches!(form.response_format(), Some("json" | "verbose_json" | "diarized_json"));
    let unreported = "a transcription as text, srt or vtt does not say what it took; one as json does";
    let size = Size {
        more_answers: form.answers().map_or(ANSWERS_MAX, |answers| answers.saturating_sub(1)),
        input_max: is_transcription.then_some(body.len() as u64 / AUDIO_BYTES_PER_TOKEN),
        unreported: (is_transcription && !reports).then_some(unreported),
        ..Size::default()
    };
    let inspected = Inspected { model: form.model().map(Arc::from), ..Inspected::default() };
    BodyRead { body, inspected, size, ..BodyRead::default() }
}

/// The least that a token of audio takes in a file: speech has 500 bytes a second or more, and ten tokens.
const AUDIO_BYTES_PER_TOKEN: u64 = 50;

/// The most answers that the API gives to one request: for a form that does not say clearly how many it wants.
const ANSWERS_MAX: u64 = 127;
