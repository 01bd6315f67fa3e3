//! What a request's body says, whatever it calls itself: which bodies are held to be read, and what is read and edited
//! in them. Functions of the head and of the exchange.
//!
//! A target may read a body in another way than its `Content-Type` says, so that says nothing here: a body for an
//! endpoint that reports usage is held and read as JSON. Only a form streams through, to the endpoints that take one;
//! and is held as well where it decides over money. What cannot be read, or be read in two ways, is passed on as it is,
//! and counted by its answer; for a user whose tokens or money are limited it is refused.

use super::content_coding::Coding;
use super::exchange::{Exchange, ModelName};
use super::forward::{self, Accepted};
use super::outgoing::Outgoing;
use super::refusal::Refusal;
use super::request_estimate::Size;
use super::usage_asking::{Asked, UsageAsking};
use crate::base::clock::Now;
use crate::http::framing::Framing;
use crate::http::head::RequestHead;
use crate::http::headers::Known;
use crate::http::reply::Fault;
use crate::usage::inspect::{Inspected, inspect, unclear_key};
use crate::usage::multipart::MultipartReader;
use crate::usage::record::Endpoint;
use crate::usage::{content, estimate};
use std::borrow::Cow;

/// True for a body that is held to be read. `has_budget` says that its user's money is limited.
pub fn is_held(head: &RequestHead<'_, '_>, endpoint: Endpoint, has_budget: bool) -> bool {
    let has_body = head.framing != Framing::None;
    has_body && endpoint != Endpoint::Other && (has_budget || form(head, endpoint).is_none())
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

/// What a held body is read for.
pub struct Reading<'s> {
    /// The model for a request that names none.
    pub default_model: Option<&'s str>,
    /// Its user's tokens or money are limited: it must be clear, and is measured.
    pub is_limited: bool,
    /// Maximum of a decoded body, bytes.
    pub bytes_max: u64,
    /// Which streams are asked for their usage; none where it is never asked for.
    pub asking: Option<&'s UsageAsking>,
    pub now: Now,
}

/// A held body is whole: reads it and makes the edits that SPEC allows; its size.
///
/// # Errors
/// Its user is limited, and what it asks for cannot be said.
pub fn finish(exchange: &mut Exchange, reading: &Reading<'_>) -> Result<Size, Refusal> {
    let is_limited = reading.is_limited && !exchange.draft.endpoint.is_retrieval();
    let body = std::mem::take(&mut exchange.request.outgoing.body);
    let (mut inspected, mut size, mut edited) = (Inspected::default(), Size::default(), None);
    match exchange.request.form.take() {
        Some(mut form) => {
            form.feed(&body);
            size = of_form(exchange, &form, body.len() as u64);
        }
        None => match exchange.request.coding.decode(&body, reading.bytes_max) {
            Ok(plain) => {
                inspected = of_json(exchange, &plain, reading, is_limited, &mut size)?;
                // Only one that is edited goes on decoded.
                edited = match plain {
                    Cow::Owned(plain) if !inspected.splices.is_empty() => Some(plain),
                    _ => None,
                };
            }
            Err(refusal) if is_limited => return Err(refusal),
            Err(_) => {} // passed on as it is
        },
    }
    let request = &mut exchange.request;
    if edited.is_none() {
        request.coding.write(&mut request.outgoing.head);
    }
    request.outgoing.body = edited.unwrap_or(body);
    write_head_end(exchange, &inspected);
    exchange.draft.stream = inspected.stream;
    Ok(size)
}

/// What a form says of its size.
fn of_form(exchange: &mut Exchange, form: &MultipartReader, body_bytes: u64) -> Size {
    if let Some(model) = form.model() {
        exchange.draft.model_requested = Some(model.into());
    }
    let is_transcription = exchange.draft.endpoint == Endpoint::AudioTranscriptions;
    let reports = matches!(form.response_format(), Some("json" | "verbose_json" | "diarized_json"));
    let unreported = "a transcription as text, srt or vtt does not say what it took; one as json does";
    Size {
        more_answers: form.answers().map_or(ANSWERS_MAX, |answers| answers.saturating_sub(1)),
        input_max: is_transcription.then_some(body_bytes / AUDIO_BYTES_PER_TOKEN),
        unreported: (is_transcription && !reports).then_some(unreported),
        ..Size::default()
    }
}

/// The least that a token of audio takes in a file: speech has 500 bytes a second or more, and ten tokens.
const AUDIO_BYTES_PER_TOKEN: u64 = 50;

/// The most answers that the API gives to one request: for a form that does not say clearly how many it wants.
const ANSWERS_MAX: u64 = 127;

/// What a JSON body says, and its size.
fn of_json(
    exchange: &mut Exchange,
    body: &[u8],
    reading: &Reading<'_>,
    is_limited: bool,
    size: &mut Size,
) -> Result<Inspected, Refusal> {
    let (request, endpoint) = (&mut exchange.request, exchange.draft.endpoint);
    let default_model = reading.default_model.filter(|_| request.model_name != ModelName::DeploymentInPath);
    let mut inspected = inspect(body, endpoint, default_model);
    if inspected.usage_asked {
        let (head, model) = (&request.outgoing.head, inspected.model.as_deref());
        let asks = reading.asking.is_some_and(|asking| !asking.is_refused(reading.now, head, model, body));
        if !asks {
            inspected.ask_nothing();
        }
    }
    if is_limited && let Some(why) = inspected.unclear.or_else(|| unclear_key(body)) {
        let message = format!("This user is limited, and the request is not clear: {why}.");
        return Err(Refusal::new(Fault::BadRequest, message));
    }
    if inspected.stream || inspected.background || reading.is_limited {
        let content = content::measure(body);
        request.text_bytes = content.text_bytes;
        let is_response = matches!(endpoint, Endpoint::Responses | Endpoint::ResponsesCompact);
        let names_items = || is_response && reading.is_limited && content::names_items(body);
        let shows_all = !content.refers && !inspected.refers && endpoint != Endpoint::ThreadsRuns && !names_items();
        let as_sound = endpoint == Endpoint::AudioSpeech && !inspected.speech_events;
        *size = Size {
            input: Some(estimate::input_tokens(content.text_bytes)),
            // Keys and numbers are read by the model as well, and so is text that looks like media.
            input_max: shows_all.then_some(body.len() as u64),
            output_max: inspected.output_max,
            more_answers: inspected.choices.saturating_sub(1),
            service_tier: inspected.service_tier.take(),
            tools: inspected.tools,
            unreported: as_sound.then_some("speech as a sound file does not say what it took; as events (sse) it does"),
        };
    }
    if inspected.model.is_some() {
        exchange.draft.model_requested = inspected.model.take();
    }
    exchange.request.background = inspected.background;
    exchange.request.caches_long = inspected.caches_long;
    Ok(inspected)
}

/// Ends the request's head, and joins the body to it.
fn write_head_end(exchange: &mut Exchange, inspected: &Inspected) {
    let request = &mut exchange.request;
    let edited_bytes = inspected
        .splices
        .iter()
        .fold(request.outgoing.body.len(), |bytes, splice| bytes + splice.with.len() - splice.at.len());
    // A compressed stream would have to be decoded to be edited.
    let accepted = request.accepted.map(|accepted| if inspected.usage_asked { Accepted::Identity } else { accepted });
    forward::write_accepted(&mut request.outgoing.head, accepted);
    forward::write_length(&mut request.outgoing.head, edited_bytes as u64);
    request.outgoing.head.extend_from_slice(b"\r\n");
    let Outgoing { head, body, .. } = &request.outgoing;
    request.asked = inspected.usage_asked.then(|| Asked::new(head.len(), body, &inspected.splices).into());
    request.outgoing.finish_body(&inspected.splices);
    request.complete = true;
}
