//! The shapes of responses: at which paths the documents of each endpoint report what was consumed. Only these count.
//!
//! One table, in the order of the API reference. A prompt, a tool result, metadata or a file can contain `"usage"` too;
//! it stands elsewhere in the document and is never looked at.

use super::dialects::NUMBER_BYTES_MAX;
use super::record::Endpoint;
use crate::json::{EACH, Path, Paths};
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// A word with its prepared search: once for the process, not for each event, which is shorter than that takes.
pub(super) type Needle = LazyLock<Finder<'static>>;

/// Largest usage object that is read, bytes; real ones have a few hundred.
const USAGE_BYTES_MAX: usize = 16 * 1024;
/// Longest id or name that is read, raw bytes.
const NAME_BYTES_MAX: usize = 512;
/// Longest value that says that nothing went wrong, bytes.
const NOTHING_BYTES_MAX: usize = 8;

/// What the value at a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// A usage object of the whole response so far: the last that is not null replaces those before, and none are added
    /// up. Some servers repeat a growing one in every chunk.
    Usage,
    /// A usage object that later ones complete. Alone it is no report: the output has only begun.
    Opening,
    /// A usage object, each of whose numbers replaces the same of an earlier one.
    Update,
    /// A usage object of one choice: counts where there is none of the whole (Moonshot).
    ChoiceUsage,
    /// The length of transcribed audio, seconds: counts where there is no usage.
    Duration,
    /// A choice of a completion.
    Choice,
    /// A number beside no usage object: the input's tokens.
    Input,
    /// The same for the output's.
    Output,
    Model,
    Id,
    ServiceTier,
    /// What a tool consumed that made images: beside the usage, and billed at another model's price.
    ImageUsage,
    /// That model, where the request named it.
    ImageModel,
    /// An image that was made.
    Image,
    /// The quality of the images, which their price depends on.
    Quality,
    /// The same for their size.
    Size,
    /// The document's kind, which [`Shape::kinds`] may ask for.
    Kind,
    /// What went wrong, where a stream has no status any more to say so.
    Error,
    /// The kind of an event that may say so.
    EventKind,
    /// How often the web was searched.
    WebSearches,
    /// How much of what was found went to the model.
    SearchContext,
    /// The kind of an item of the output.
    OutputKind,
    /// What a search of the web did.
    ActionKind,
    /// Where a code interpreter ran.
    Container,
}

impl Attribute {
    pub(super) const fn bytes_max(self) -> usize {
        match self {
            Self::Usage | Self::ChoiceUsage | Self::Opening | Self::Update | Self::ImageUsage => USAGE_BYTES_MAX,
            Self::Input | Self::Output | Self::Duration | Self::WebSearches => NUMBER_BYTES_MAX,
            Self::Image | Self::Choice => 0,
            Self::Error => NOTHING_BYTES_MAX,
            _ => NAME_BYTES_MAX,
        }
    }
}

/// The paths of one kind of document.
#[derive(Debug)]
pub struct Shape {
    pub paths: &'static Paths,
    /// What the value at each of `paths` is.
    pub values: &'static [Attribute],
    /// What stands in every document that reports: the end of the key that leads to usage, or of a kind. A line without
    /// it is not worth scanning once the model is known.
    pub(super) needle: &'static Needle,
    /// Only documents of these kinds count; empty for all.
    pub kinds: &'static [&'static str],
    /// The input's tokens are counted without those read from and written to the cache.
    pub cache_beside_input: bool,
    /// All output is audio, though the usage does not say so.
    pub speaks: bool,
}

macro_rules! shape {
    ($name:ident: $($attribute:ident: $([$($key:expr),+])|+;)+ $({ $($option:ident: $value:expr),+ })?) => {
        static $name: Shape = {
            const PATHS: Paths = {
                const LIST: &[Path] =
                    &[$($(Path { keys: &[$($key),+], value_bytes_max: Attribute::$attribute.bytes_max() },)+)+];
                Paths::new(LIST)
            };
            Shape {
                paths: &PATHS,
                values: &[$($({ let _ = [$($key),+]; Attribute::$attribute },)+)+],
                $($($option: $value,)+)?
                ..PLAIN
            }
        };
    };
}

pub(super) static USAGE_KEY: Needle = LazyLock::new(|| Finder::new(b"\"usage\""));
pub(super) static MESSAGE_STOP: Needle = LazyLock::new(|| Finder::new(b"\"message_stop\""));
static COMPLETED: Needle = LazyLock::new(|| Finder::new(b".completed\""));
pub(super) static ERROR: Needle = LazyLock::new(|| Finder::new(b"\"error\""));
static EVAL_COUNT_KEY: Needle = LazyLock::new(|| Finder::new(b"eval_count\""));

const PLAIN: Shape = Shape {
    paths: &const { Paths::new(&[]) },
    values: &[],
    needle: &USAGE_KEY,
    kinds: &[],
    cache_beside_input: false,
    speaks: false,
};

// Whole answers of all endpoints but those below; chunks of completions; `transcript.text.done`.
// Groq puts usage under `x_groq` where nobody asked for it, or in both places, equal.
shape! { TOP:
    Usage: ["usage"] | ["x_groq", "usage"];
    ChoiceUsage: ["choices", EACH, "usage"];
    Choice: ["choices", EACH, "index"] | ["choices", EACH, "delta"] | ["choices", EACH, "text"];
    Error: ["error"];
    Model: ["model"];
    Id: ["id"];
    ServiceTier: ["service_tier"];
}

// A `verbose_json` says how long the audio is, whether or not it has a usage.
shape! { TRANSCRIPT:
    Usage: ["usage"];
    Duration: ["duration"];
    Model: ["model"];
    Id: ["id"];
    Error: ["error"];
}

// `speech.audio.done`.
shape! { SPEECH:
    Usage: ["usage"];
    Model: ["model"];
    Id: ["id"];
    Error: ["error"];
    { speaks: true }
}

// The only tool that echoes a model is the one that makes images.
shape! { RESPONSE:
    Usage: ["usage"];
    Model: ["model"];
    Id: ["id"];
    ServiceTier: ["service_tier"];
    ImageUsage: ["tool_usage", "image_gen"];
    ImageModel: ["tools", EACH, "model"];
    WebSearches: ["tool_usage", "web_search", "num_requests"];
    SearchContext: ["tools", EACH, "search_context_size"];
    OutputKind: ["output", EACH, "type"];
    ActionKind: ["output", EACH, "action", "type"];
    Container: ["output", EACH, "container_id"];
}

// Events of a responses stream; in `response.created` and its like the usage is null, so that only the terminal ones
// (`completed`, `incomplete`, `failed`) report something.
shape! { RESPONSE_EVENT:
    Usage: ["response", "usage"];
    Model: ["response", "model"];
    Id: ["response", "id"];
    ServiceTier: ["response", "service_tier"];
    ImageUsage: ["response", "tool_usage", "image_gen"];
    ImageModel: ["response", "tools", EACH, "model"];
    WebSearches: ["response", "tool_usage", "web_search", "num_requests"];
    SearchContext: ["response", "tools", EACH, "search_context_size"];
    OutputKind: ["response", "output", EACH, "type"];
    ActionKind: ["response", "output", EACH, "action", "type"];
    Container: ["response", "output", EACH, "container_id"];
    EventKind: ["type"];
}

// Runs and their events. A step (`thread.run.step`) has a usage too, which is a part of its run's.
shape! { RUN:
    Usage: ["usage"];
    Model: ["model"];
    Id: ["id"];
    Kind: ["object"];
    { kinds: &["thread.run"] }
}

// Images in `data`, as base64 or by their address. Older models report no usage beside them.
shape! { IMAGES:
    Usage: ["usage"];
    Image: ["data", EACH];
    Quality: ["quality"];
    Size: ["size"];
    Model: ["model"];
    Id: ["id"];
}

// Each image has an event of its own at its end; those before it (`partial_image`) are drafts of it.
shape! { IMAGE_EVENT:
    Usage: ["usage"];
    Image: ["b64_json"];
    Quality: ["quality"];
    Size: ["size"];
    Model: ["model"];
    Id: ["id"];
    Kind: ["type"];
    Error: ["error"];
    { kinds: &["image_generation.completed", "image_edit.completed"], needle: &COMPLETED }
}

shape! { MESSAGE:
    Update: ["usage"];
    Model: ["model"];
    Id: ["id"];
    { cache_beside_input: true }
}

// `message_start` and `message_delta`; the latter has all numbers, or only the output's.
shape! { MESSAGE_EVENT:
    Opening: ["message", "usage"];
    Update: ["usage"];
    Model: ["message", "model"];
    Id: ["message", "id"];
    Error: ["error"];
    { cache_beside_input: true }
}

// Ollama's own answers and lines; the last has the numbers.
shape! { OLLAMA:
    Input: ["prompt_eval_count"];
    Output: ["eval_count"];
    Model: ["model"];
    Error: ["error"];
    { needle: &EVAL_COUNT_KEY }
}

impl Shape {
    /// The shape of an answer from `endpoint`, or of the events of one.
    pub fn of(endpoint: Endpoint, event: bool) -> &'static Self {
        match endpoint {
            Endpoint::Responses | Endpoint::ResponsesRetrieve if event => &RESPONSE_EVENT,
            Endpoint::Responses | Endpoint::ResponsesRetrieve => &RESPONSE,
            Endpoint::ThreadsRuns | Endpoint::ThreadsRunsRetrieve => &RUN,
            Endpoint::ImagesGenerations | Endpoint::ImagesEdits | Endpoint::ImagesVariations if event => &IMAGE_EVENT,
            Endpoint::ImagesGenerations | Endpoint::ImagesEdits | Endpoint::ImagesVariations => &IMAGES,
            Endpoint::AudioSpeech => &SPEECH,
            Endpoint::Messages if event => &MESSAGE_EVENT,
            Endpoint::Messages => &MESSAGE,
            Endpoint::ApiChat | Endpoint::ApiGenerate => &OLLAMA,
            Endpoint::AudioTranscriptions | Endpoint::AudioTranslations if !event => &TRANSCRIPT,
            _ => &TOP,
        }
    }
}
