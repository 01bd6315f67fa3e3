//! What one relayed request consumed, and how we know.
//!
//! In: numbers that the capture found. Out: one [`Record`] for each exchange, moved (never copied) to the ledger.
//! Never: text of a prompt or an answer, a key, a clock.

use crate::limit::levels::Payer;
use std::sync::Arc;

/// Token and media counts of one response, as the upstream reported them. Subset fields (`cached`, `reasoning`,
/// `audio`, `image`) are contained in their total, as OpenAI counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the input, cached and written-to-cache ones included.
    pub input_tokens: u64,
    /// Of the input, those read from the prompt cache.
    pub cached_input_tokens: u64,
    /// Of the input, those written to the prompt cache.
    pub cache_write_tokens: u64,
    /// Of the input, audio tokens.
    pub input_audio_tokens: u64,
    /// Of the input, image tokens.
    pub input_image_tokens: u64,
    /// Tokens of the output, reasoning ones included.
    pub output_tokens: u64,
    /// Of the output, reasoning tokens.
    pub reasoning_tokens: u64,
    /// Of the output, audio tokens.
    pub output_audio_tokens: u64,
    /// Of the output, image tokens.
    pub output_image_tokens: u64,
    /// The upstream's own total; the sum of input and output where it gave none.
    pub total_tokens: u64,
    /// Length of transcribed audio, in microseconds.
    pub audio_us: u64,
    /// Number of images made.
    pub images: u64,
    /// Calls of the target's own tools in the course of the answer, which have a fee beside the tokens: searches of the
    /// web and of files, sessions of the code interpreter.
    pub tool_calls: u64,
    /// Of the cached input, text tokens. This and the two below are for the price alone, and not kept in the ledger.
    /// They hold where they add up to `cached_input_tokens`; else the cached tokens' media are not known.
    pub cached_text_tokens: u64,
    /// Of the cached input, audio tokens.
    pub cached_audio_tokens: u64,
    /// Of the cached input, image tokens.
    pub cached_image_tokens: u64,
    /// Of `cache_write_tokens`, those that are kept for 12 hours or longer. This and those below are for the price
    /// alone as well.
    pub cache_write_12h_tokens: u64,
    /// Of `tool_calls`, searches of the web, by the size of their context: low, medium, high.
    pub web_searches: [u64; 3],
    /// Of `tool_calls`, searches of files. What is left of them are sessions of the code interpreter.
    pub file_searches: u64,
    /// Of the output of an answer that made images, tokens of which it does not say what they are.
    pub unsaid_output_tokens: u64,
}

impl Usage {
    /// Nothing at all.
    pub const NOTHING: Self = Self {
        input_tokens: 0,
        cached_input_tokens: 0,
        cache_write_tokens: 0,
        input_audio_tokens: 0,
        input_image_tokens: 0,
        output_tokens: 0,
        reasoning_tokens: 0,
        output_audio_tokens: 0,
        output_image_tokens: 0,
        total_tokens: 0,
        audio_us: 0,
        images: 0,
        tool_calls: 0,
        cached_text_tokens: 0,
        cached_audio_tokens: 0,
        cached_image_tokens: 0,
        cache_write_12h_tokens: 0,
        web_searches: [0; 3],
        file_searches: 0,
        unsaid_output_tokens: 0,
    };

    /// The sum of both, number by number.
    pub fn plus(&self, other: &Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    /// What this is more than the other, number by number.
    pub fn excess_over(&self, other: &Self) -> Self {
        self.each(other, u64::saturating_sub)
    }

    fn each(&self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        let mut web_searches = self.web_searches;
        web_searches.iter_mut().zip(other.web_searches).for_each(|(count, other)| *count = combine(*count, other));
        Self {
            input_tokens: combine(self.input_tokens, other.input_tokens),
            cached_input_tokens: combine(self.cached_input_tokens, other.cached_input_tokens),
            cache_write_tokens: combine(self.cache_write_tokens, other.cache_write_tokens),
            input_audio_tokens: combine(self.input_audio_tokens, other.input_audio_tokens),
            input_image_tokens: combine(self.input_image_tokens, other.input_image_tokens),
            output_tokens: combine(self.output_tokens, other.output_tokens),
            reasoning_tokens: combine(self.reasoning_tokens, other.reasoning_tokens),
            output_audio_tokens: combine(self.output_audio_tokens, other.output_audio_tokens),
            output_image_tokens: combine(self.output_image_tokens, other.output_image_tokens),
            total_tokens: combine(self.total_tokens, other.total_tokens),
            audio_us: combine(self.audio_us, other.audio_us),
            images: combine(self.images, other.images),
            tool_calls: combine(self.tool_calls, other.tool_calls),
            cached_text_tokens: combine(self.cached_text_tokens, other.cached_text_tokens),
            cached_audio_tokens: combine(self.cached_audio_tokens, other.cached_audio_tokens),
            cached_image_tokens: combine(self.cached_image_tokens, other.cached_image_tokens),
            cache_write_12h_tokens: combine(self.cache_write_12h_tokens, other.cache_write_12h_tokens),
            web_searches,
            file_searches: combine(self.file_searches, other.file_searches),
            unsaid_output_tokens: combine(self.unsaid_output_tokens, other.unsaid_output_tokens),
        }
    }
}

/// A closed set, whose values have stable names and stored codes. Codes are part of the ledger's schema: never
/// renumbered.
macro_rules! coded {
    ($(#[$about:meta])* pub enum $type:ident {
        $($(#[$about_variant:meta])* $variant:ident = $code:literal $name:literal,)+
    }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$about_variant])* $variant = $code,)+
        }

        impl $type {
            /// Every value, in code order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable name, as users read and type it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The number stored in the ledger.
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// The value of a stored number, `None` for one that this version does not know.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

coded! {
    /// The API operation, a closed set so that labels and rollups stay bounded whatever paths clients ask for.
    pub enum Endpoint {
        /// Anything else.
        #[default]
        Other = 0 "other",
        /// `POST …/chat/completions`
        ChatCompletions = 1 "chat/completions",
        /// `POST …/completions` (legacy)
        Completions = 2 "completions",
        /// `POST …/responses`
        Responses = 3 "responses",
        /// `POST …/embeddings`
        Embeddings = 4 "embeddings",
        /// `POST …/responses/compact`
        ResponsesCompact = 5 "responses/compact",
        /// `POST …/audio/transcriptions`
        AudioTranscriptions = 6 "audio/transcriptions",
        /// `POST …/audio/translations`: never reports usage
        AudioTranslations = 7 "audio/translations",
        /// `POST …/audio/speech`: reports usage only where it is streamed as events
        AudioSpeech = 8 "audio/speech",
        /// `POST …/images/generations`
        ImagesGenerations = 9 "images/generations",
        /// `POST …/images/edits`
        ImagesEdits = 10 "images/edits",
        /// `POST …/images/variations`
        ImagesVariations = 11 "images/variations",
        /// `POST …/moderations`: free
        Moderations = 12 "moderations",
        /// `POST …/messages` (Anthropic's own API)
        Messages = 13 "messages",
        /// `POST …/threads/runs` and `POST …/threads/{id}/runs`
        ThreadsRuns = 14 "threads/runs",
        /// `POST …/api/chat` (Ollama's own API)
        ApiChat = 15 "api/chat",
        /// `POST …/api/generate` (Ollama's own API)
        ApiGenerate = 16 "api/generate",
        /// `POST …/decisions`
        Decisions = 17 "decisions",
        /// One response inside of a realtime session
        Realtime = 18 "realtime",
        /// The transcription of the user's speech in a realtime session, by another model than the session's
        RealtimeTranscription = 19 "realtime/transcription",
        /// A WebSocket at `…/realtime`, as a whole
        RealtimeSession = 20 "realtime/session",
        /// A WebSocket at `…/responses`, as a whole; each response in it is one of [`Endpoint::Responses`]
        ResponsesSession = 21 "responses/session",
        /// A WebSocket at `…/live/sessions`, as a whole: its seconds
        LiveSession = 22 "live/session",
        /// A response looked at again: `GET …/responses/{id}`, `POST …/responses/{id}/cancel`
        ResponsesRetrieve = 23 "responses/retrieve",
        /// A run looked at again or led on: `GET` and `POST …/runs/{id}`, `…/cancel`, `…/submit_tool_outputs`
        ThreadsRunsRetrieve = 24 "threads/runs/retrieve",
        /// `POST …/batches`, `GET …/batches/{id}`, `POST …/batches/{id}/cancel`: the batch's total so far
        Batches = 25 "batches",
        /// Images that a tool made in the course of a response, which are billed beside it
        ResponsesImages = 26 "responses/images",
    }
}

impl Endpoint {
    /// False where a whole response without usage means that nothing was consumed, or that its path must say so.
    pub const fn is_metered(self) -> bool {
        !matches!(self, Self::Other | Self::Moderations) && !self.is_session() && !self.is_retrieval()
    }

    /// True where the usage may have been counted before: by the creation of the same thing, or by an earlier look at
    /// it. It counts as far as it exceeds what was counted under the same id.
    pub const fn is_retrieval(self) -> bool {
        matches!(self, Self::ResponsesRetrieve | Self::ThreadsRunsRetrieve | Self::Batches)
    }

    /// Records that an exchange may leave at once, its own included: of images made in its course, of a session's part.
    pub const fn records_max(self) -> u64 {
        match self {
            Self::Responses | Self::ResponsesRetrieve | Self::RealtimeSession => 2,
            Self::ResponsesSession | Self::LiveSession => 3,
            _ => 1,
        }
    }

    /// True for a WebSocket as a whole.
    pub const fn is_session(self) -> bool {
        matches!(self, Self::RealtimeSession | Self::ResponsesSession | Self::LiveSession)
    }

    /// True where a later retrieval may report the same usage again, under the same id.
    pub const fn is_retrievable(self) -> bool {
        self.is_retrieval() || matches!(self, Self::Responses | Self::ThreadsRuns | Self::ResponsesImages)
    }
}

coded! {
    /// How an exchange ended.
    pub enum Outcome {
        /// The client received the upstream's whole response (an error response of the upstream included).
        #[default]
        Completed = 0 "completed",
        /// The client went away first.
        ClientAborted = 1 "client_aborted",
        /// The upstream could not be reached, broke off, timed out or broke the protocol.
        UpstreamError = 2 "upstream_error",
        /// The proxy itself was stopped in mid-exchange.
        Interrupted = 3 "interrupted",
    }
}

coded! {
    /// How far a record's numbers can be trusted.
    pub enum UsageSource {
        /// The upstream reported them in the response that the client read.
        Reported = 0 "reported",
        /// The upstream reported them after the client had gone, read on to the end.
        Drained = 1 "drained",
        /// Counted by us, because the response was cut before it reported.
        Estimated = 2 "estimated",
        /// The response is whole and of a kind that reports none: nothing was consumed that is counted in tokens.
        #[default]
        None = 3 "none",
        /// Something was or may have been consumed and no number is known.
        Unknown = 4 "unknown",
        /// No request: what the upstream's own number, told later under the same id, is more or less than a record
        /// that was estimated or unknown ([`Correction`]).
        Correction = 5 "correction",
    }
}

impl UsageSource {
    /// True where there are numbers, of whatever kind.
    pub const fn has_numbers(self) -> bool {
        matches!(self, Self::Reported | Self::Drained | Self::Estimated | Self::Correction)
    }

    /// True where they are the upstream's own.
    pub const fn is_report(self) -> bool {
        matches!(self, Self::Reported | Self::Drained)
    }
}

/// What a correction takes back, beside the `usage` and the cost that its record adds. Of each number one of both is
/// zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Correction {
    /// What was counted too much.
    pub less: Usage,
    /// The same of the cost, nano-dollars.
    pub less_nano_usd: u64,
    /// The corrected record has no cost, and this is the whole of it.
    pub gives_price: bool,
}

/// What a line has to do with the journal of requests that are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Journal {
    /// Nothing: no journal is kept.
    #[default]
    Off,
    /// It opens an entry of this number: a request that is about to be sent. It is no record yet.
    Open(u64),
    /// It closes the entry, and takes its place.
    Close(u64),
    /// It takes the entry back: nothing was sent. It is no record.
    Withdraw(u64),
}

impl Journal {
    /// False for a line that is only about the journal.
    pub const fn is_record(self) -> bool {
        matches!(self, Self::Off | Self::Close(_))
    }
}

/// One line of the ledger: one relayed request, or a correction of an earlier line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Position in the order of settlement since the process started, from 1; what a commit acknowledges. Not stored.
    pub seq: u64,
    /// When the request's head was complete, nanoseconds since the Unix epoch. Under a budget, where its body came on
    /// another day: when it was let through.
    pub started_at: u64,
    /// Who asked: 1–128 bytes.
    pub user: Arc<str>,
    /// The team that the user belonged to then: 1–128 bytes.
    pub team: Option<Arc<str>>,
    /// The client key used, where keys are on.
    pub key_id: Option<i64>,
    pub endpoint: Endpoint,
    /// The model that the request named (after `MODEL_NAME`), at most 128 bytes.
    pub model_requested: Option<Arc<str>>,
    /// The model that the response named, at most 128 bytes.
    pub model: Option<Arc<str>>,
    /// The response was a stream of events.
    pub stream: bool,
    /// The HTTP status that the client was sent; 0 where it left before any.
    pub status: u16,
    pub outcome: Outcome,
    pub usage_source: UsageSource,
    pub usage: Usage,
    /// Money in nano-dollars (10⁻⁹ USD); `None` where the model has no price or the usage is unknown.
    pub cost_nano_usd: Option<u64>,
    /// What it cost at most, where that is all that is known: for its user's budget. Not stored.
    pub at_most_nano_usd: Option<u64>,
    /// From the request's head to the end of the response, microseconds.
    pub duration_us: u64,
    /// From the request's head to the first byte of the response's body, microseconds.
    pub first_byte_us: Option<u64>,
    /// Of `duration_us`, what the proxy itself added before the request was on its way, microseconds.
    pub proxy_us: u64,
    /// Bytes of the request's body as the client sent it.
    pub request_bytes: u64,
    /// Bytes of the response's body as the client was sent it.
    pub response_bytes: u64,
    /// Its entry in the journal. Not stored.
    pub journal: Journal,
    /// The numbers may have been counted under the same id before: the ledger counts what they are more than that. Not
    /// stored.
    pub is_retrieval: bool,
    /// The upstream's `x-request-id`, at most 128 bytes.
    pub upstream_request_id: Option<Box<str>>,
    /// The response's own id (`chatcmpl-…`, `resp_…`), or of a retrieval the one that was asked for; at most 128 bytes
    /// (see [`bounded_id`](super::response_id::bounded_id)).
    pub response_id: Option<Box<str>>,
    /// Only with [`UsageSource::Correction`]: all but the numbers is the corrected record's, so that every sum of that
    /// one is of this one too.
    pub correction: Option<Box<Correction>>,
}

impl Record {
    /// Whose limits it was under.
    pub fn payer(&self) -> Payer<'_> {
        Payer { user: &self.user, team: self.team.as_deref() }
    }

    /// False for a correction, which is no request.
    pub const fn is_request(&self) -> bool {
        self.correction.is_none()
    }

    /// The model to show and to count under: the response's, else the request's, else the empty string.
    pub fn model_name(&self) -> &str {
        self.model.as_deref().or(self.model_requested.as_deref()).unwrap_or("")
    }

    /// True where only the ledger knows how much of the numbers is new.
    pub const fn may_repeat(&self) -> bool {
        self.is_retrieval && self.usage_source.has_numbers()
    }

    /// True for what a reader of the ledger would call an error: an HTTP error, or an exchange that did not complete.
    pub fn is_error(&self) -> bool {
        self.is_request() && (self.status >= 400 || self.outcome != Outcome::Completed)
    }
}
