//! One usage object, in any dialect, as [`Usage`].
//!
//! The table below is the whole knowledge: at which path of a usage object which number stands. Null, unknown and
//! malformed fields are passed over. Where two names of one number appear the larger counts: a server that knows one of
//! them leaves the other at zero. A number that is given as zero is zero, one that is not given is unknown, and a later
//! object's zero replaces an earlier one's number.

use super::record::Usage;
use crate::base::digits::whole_number;
use crate::json::{Path, Paths, Scanner};

/// Longest number that is read, bytes.
pub const NUMBER_BYTES_MAX: usize = 32;
/// Numbers from here on are nobody's count, and a float would not be exact.
const FLOAT_MAX: f64 = 9e15;
const MICROS_PER_SECOND: f64 = 1e6;

macro_rules! fields {
    ($($field:ident: $([$($key:literal),+])|+;)+) => {
        /// A number of [`Usage`], by its name there.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Field { $($field),+ }

        const PATHS: Paths = Paths::new(&[$($(Path { keys: &[$($key),+], value_bytes_max: NUMBER_BYTES_MAX },)+)+]);
        /// The field at each of `PATHS`.
        const FIELDS: &[Field] = &[$($({ let _ = [$($key),+]; Field::$field },)+)+];
        const FIELD_COUNT: usize = [$(Field::$field),+].len();

        impl UsageObject {
            fn plain(&self) -> Usage {
                Usage { $($field: self.values[Field::$field as usize].unwrap_or(0),)+ ..Usage::default() }
            }
        }
    };
}

// In the order of the API reference's shapes: completions (A), responses (B), embeddings (C), transcription (D: details
// in the singular, or seconds), speech (E), images (F), realtime (G), runs (I: details in the singular); the images of
// a response's tool, whose cached tokens have details at the top. Then other servers: Together and Copilot at the top,
// Mistral, DeepSeek, Anthropic.
fields! {
    input_tokens: ["prompt_tokens"] | ["input_tokens"];
    cached_input_tokens: ["prompt_tokens_details", "cached_tokens"] | ["input_tokens_details", "cached_tokens"]
        | ["input_token_details", "cached_tokens"] | ["prompt_token_details", "cached_tokens"] | ["cached_tokens"]
        | ["num_cached_tokens"] | ["prompt_cache_hit_tokens"] | ["cache_read_input_tokens"];
    cache_write_tokens: ["prompt_tokens_details", "cache_write_tokens"]
        | ["input_tokens_details", "cache_write_tokens"] | ["cache_creation_input_tokens"];
    input_audio_tokens: ["prompt_tokens_details", "audio_tokens"] | ["input_token_details", "audio_tokens"];
    input_image_tokens: ["prompt_tokens_details", "image_tokens"] | ["input_tokens_details", "image_tokens"]
        | ["input_token_details", "image_tokens"];
    output_tokens: ["completion_tokens"] | ["output_tokens"];
    reasoning_tokens: ["completion_tokens_details", "reasoning_tokens"] | ["output_tokens_details", "reasoning_tokens"]
        | ["output_token_details", "reasoning_tokens"] | ["reasoning_tokens"];
    output_audio_tokens: ["completion_tokens_details", "audio_tokens"] | ["output_token_details", "audio_tokens"];
    output_image_tokens: ["completion_tokens_details", "image_tokens"] | ["output_tokens_details", "image_tokens"];
    total_tokens: ["total_tokens"];
    audio_us: ["seconds"];
    cache_write_12h_tokens: ["input_tokens_details", "cache_write_tokens_details", "ttl_12h_tokens"]
        | ["prompt_tokens_details", "cache_write_tokens_details", "ttl_12h_tokens"];
    cached_text_tokens: ["input_token_details", "cached_tokens_details", "text_tokens"]
        | ["cached_tokens_details", "cached_text_tokens"];
    cached_audio_tokens: ["input_token_details", "cached_tokens_details", "audio_tokens"];
    cached_image_tokens: ["input_token_details", "cached_tokens_details", "image_tokens"]
        | ["cached_tokens_details", "cached_image_tokens"];
}

/// The numbers that a usage object gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageObject {
    values: [Option<u64>; FIELD_COUNT],
}

impl UsageObject {
    /// Reads a raw usage value; `None` where no number is in it: usually `null`, or an empty object.
    pub fn parse(raw: &[u8]) -> Option<Self> {
        if raw.first() != Some(&b'{') {
            return None;
        }
        let mut object = Self::default();
        Scanner::new(&PATHS).feed(raw, |found| {
            let field = FIELDS[found.path];
            let value = found.raw.and_then(|raw| if field == Field::audio_us { micros(raw) } else { number(raw) });
            let slot = &mut object.values[field as usize];
            *slot = (*slot).max(value);
        });
        object.values.iter().any(Option::is_some).then_some(object)
    }

    /// Sets a number.
    pub fn set(&mut self, field: Field, value: u64) {
        self.values[field as usize] = Some(value);
    }

    /// True where it gives this number, zero included.
    pub fn gives(&self, field: Field) -> bool {
        self.values[field as usize].is_some()
    }

    /// Takes over the numbers that a later object gives.
    pub fn merge(&mut self, later: &Self) {
        for (value, later) in self.values.iter_mut().zip(later.values) {
            *value = later.or(*value);
        }
    }

    /// The usage. With `cache_beside_input` (Anthropic) the input's own number leaves out what was read from the cache
    /// and written to it; here those are parts of the input, as OpenAI counts, and are added to it.
    pub fn usage(&self, cache_beside_input: bool) -> Usage {
        let mut usage = self.plain();
        if cache_beside_input {
            let cache = usage.cached_input_tokens.saturating_add(usage.cache_write_tokens);
            usage.input_tokens = usage.input_tokens.saturating_add(cache);
        }
        // xAI counts what was thought beside the output: its total tells.
        let beside = usage.input_tokens.checked_add(usage.output_tokens).and_then(|sum| {
            sum.checked_add(usage.reasoning_tokens).filter(|&total| total > sum && total == usage.total_tokens)
        });
        if beside.is_some() {
            usage.output_tokens += usage.reasoning_tokens;
        }
        if usage.total_tokens == 0 {
            usage.total_tokens = usage.input_tokens.saturating_add(usage.output_tokens);
        }
        usage
    }
}

/// A count from raw JSON; `None` for anything else. Some servers write it as a float, or in quotes; a fraction counts
/// as a whole one.
pub fn number(raw: &[u8]) -> Option<u64> {
    whole_number(raw).or_else(|| {
        let raw = unquoted(raw);
        whole_number(raw).or_else(|| float(raw).map(|float| float.ceil() as u64))
    })
}

fn unquoted(raw: &[u8]) -> &[u8] {
    raw.strip_prefix(b"\"").and_then(|raw| raw.strip_suffix(b"\"")).unwrap_or(raw)
}

/// Seconds, whole or not, perhaps in quotes, as microseconds.
pub fn micros(raw: &[u8]) -> Option<u64> {
    let micros = float(unquoted(raw))? * MICROS_PER_SECOND;
    (micros < FLOAT_MAX).then(|| micros.round() as u64)
}

fn float(raw: &[u8]) -> Option<f64> {
    std::str::from_utf8(raw).ok()?.parse().ok().filter(|float| (0.0..FLOAT_MAX).contains(float))
}

#[cfg(test)]
mod tests;
