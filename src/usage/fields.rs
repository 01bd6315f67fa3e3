//! One usage object, in any dialect, as [`Usage`].
//!
//! The table below is the whole knowledge: which place of a usage object says which number. Null, unknown and
//! malformed fields are passed over; where two names of one number appear, the later in the object wins.

use super::record::Usage;
use crate::json::{Path, Scanner};

/// Longest number that is read.
const NUMBER_BYTES_MAX: usize = 32;

macro_rules! fields {
    ($($field:ident: $([$($key:literal),+])|+;)+) => {
        const PATHS: &[Path] = &[$($(Path { keys: &[$($key),+], value_bytes_max: NUMBER_BYTES_MAX },)+)+];
        const SETTERS: &[fn(&mut Usage, u64)] =
            &[$($({ let _ = [$($key),+]; |usage, value| usage.$field = value },)+)+];
    };
}

// Shapes A, B and C of the API reference: chat and legacy completions, responses, embeddings; and the spellings of
// the same numbers by compatible servers.
fields! {
    input_tokens: ["prompt_tokens"] | ["input_tokens"];
    cached_input_tokens: ["prompt_tokens_details", "cached_tokens"] | ["input_tokens_details", "cached_tokens"];
    cache_write_tokens:
        ["prompt_tokens_details", "cache_write_tokens"] | ["input_tokens_details", "cache_write_tokens"];
    input_audio_tokens: ["prompt_tokens_details", "audio_tokens"];
    input_image_tokens: ["prompt_tokens_details", "image_tokens"];
    output_tokens: ["completion_tokens"] | ["output_tokens"];
    reasoning_tokens: ["completion_tokens_details", "reasoning_tokens"] | ["output_tokens_details", "reasoning_tokens"];
    output_audio_tokens: ["completion_tokens_details", "audio_tokens"];
    total_tokens: ["total_tokens"];
}

/// The numbers of a raw usage value; `None` where it is not an object (`null`, most often).
pub fn read(raw: &[u8]) -> Option<Usage> {
    if raw.first() != Some(&b'{') {
        return None;
    }
    let mut usage = Usage::default();
    let mut scanner = Scanner::new(PATHS);
    scanner.feed(raw, |found| {
        if let Some(value) = found.raw.and_then(number) {
            SETTERS[found.path](&mut usage, value);
        }
    });
    if usage.total_tokens == 0 {
        usage.total_tokens = usage.input_tokens.saturating_add(usage.output_tokens);
    }
    Some(usage)
}

/// A count. Some servers write it as a float; a fraction counts as a whole one.
fn number(raw: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(raw).ok()?;
    text.parse().ok().or_else(|| {
        let float: f64 = text.parse().ok()?;
        (0.0..9e15).contains(&float).then_some(float.ceil() as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chat_responses_and_embeddings() {
        let chat = br#"{"prompt_tokens":48,"completion_tokens":14,"total_tokens":62,"prompt_tokens_details":
            {"cached_tokens":5,"audio_tokens":2,"cache_write_tokens":3,"image_tokens":1},
            "completion_tokens_details":{"reasoning_tokens":7,"audio_tokens":4,"accepted_prediction_tokens":9}}"#;
        let expected = Usage {
            input_tokens: 48,
            cached_input_tokens: 5,
            cache_write_tokens: 3,
            input_audio_tokens: 2,
            input_image_tokens: 1,
            output_tokens: 14,
            reasoning_tokens: 7,
            output_audio_tokens: 4,
            total_tokens: 62,
            ..Usage::default()
        };
        assert_eq!(read(chat), Some(expected));
        let responses = br#"{"input_tokens":9,"input_tokens_details":{"cached_tokens":1,"cache_write_tokens":2},
            "output_tokens":3,"output_tokens_details":{"reasoning_tokens":2},"total_tokens":12}"#;
        let expected = Usage {
            input_tokens: 9,
            cached_input_tokens: 1,
            cache_write_tokens: 2,
            output_tokens: 3,
            reasoning_tokens: 2,
            total_tokens: 12,
            ..Usage::default()
        };
        assert_eq!(read(responses), Some(expected));
        let embeddings = Usage { input_tokens: 8, total_tokens: 8, ..Usage::default() };
        assert_eq!(read(br#"{"prompt_tokens":8,"total_tokens":8}"#), Some(embeddings));
    }

    #[test]
    fn nulls_floats_and_nonsense_are_passed_over() {
        assert_eq!(read(b"null"), None);
        let odd = br#"{"prompt_tokens":4.0,"completion_tokens":"7","prompt_tokens_details":null,"queue_time":0.5,
            "completion_tokens_details":[1],"x":{"prompt_tokens":99},"total_tokens":null}"#;
        assert_eq!(read(odd), Some(Usage { input_tokens: 4, total_tokens: 4, ..Usage::default() }));
        assert_eq!(read(br#"{"prompt_tokens":-4,"total_tokens":1e300}"#), Some(Usage::default()));
    }
}
