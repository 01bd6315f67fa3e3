//! What a response that was cut probably consumed: counted from the text that went by, where no usage was reported.
//!
//! A token is about four bytes of text in most languages; and a stream's event carries at least one. These are
//! estimates, and every record that holds one is marked as such.

use super::record::{Endpoint, Usage};
use super::shapes::Needle;
use crate::json;
use crate::sse::Piece;
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// Bytes of text to a token, on average.
const BYTES_PER_TOKEN: u64 = 4;
/// Below this, a plain search is faster.
const SHORT_BYTES: usize = 32;

static CONTENT: Needle = LazyLock::new(|| Finder::new(b"\"content\":"));
static ARGUMENTS: Needle = LazyLock::new(|| Finder::new(b"\"arguments\":"));
static TEXT: Needle = LazyLock::new(|| Finder::new(b"\"text\":"));
static DELTA: Needle = LazyLock::new(|| Finder::new(b"\"delta\":"));
static THINKING: Needle = LazyLock::new(|| Finder::new(b"\"thinking\":"));
static PARTIAL_JSON: Needle = LazyLock::new(|| Finder::new(b"\"partial_json\":"));
static RESPONSE: Needle = LazyLock::new(|| Finder::new(b"\"response\":"));

/// Bytes of text in a JSON body: of all its strings that are values, but for data URLs, whose price is another.
pub fn text_bytes(body: &[u8]) -> u64 {
    let (mut text, mut at) = (0, 0);
    while let Some(offset) = json::find_quote(&body[at..]) {
        at += offset + 1;
        if body[at - 1] != b'"' {
            continue; // a backslash outside of a string: no JSON
        }
        let start = at;
        let is_closed = json::string_end(body, &mut at, &mut false).is_some();
        let string = &body[start..at - usize::from(is_closed)];
        let is_key = body[at..].trim_ascii_start().starts_with(b":");
        if !is_key && !string.starts_with(b"data:") {
            text += string.len() as u64;
        }
    }
    text
}

/// Tokens of an input with so many bytes of text.
pub fn input_tokens(text_bytes: u64) -> u64 {
    text_bytes.div_ceil(BYTES_PER_TOKEN)
}

/// Counts the output text in the data of a stream, cut anywhere. It looks for keys, at the speed of a search for a
/// word, and holds nothing.
#[derive(Debug)]
pub struct Deltas(Box<[Search]>);

impl Deltas {
    /// A counter for streams of this operation; `None` where none is known to carry text.
    pub fn new(endpoint: Endpoint) -> Option<Self> {
        // The keys whose strings are output.
        let keys: &[&Needle] = match endpoint {
            Endpoint::ChatCompletions => &[&CONTENT, &ARGUMENTS],
            Endpoint::Completions => &[&TEXT],
            Endpoint::Responses => &[&DELTA],
            Endpoint::Messages => &[&TEXT, &THINKING, &PARTIAL_JSON],
            Endpoint::ApiChat => &[&CONTENT],
            Endpoint::ApiGenerate => &[&RESPONSE],
            _ => return None,
        };
        let search = |&key| Search { key, at: At::Key(0), strings: 0, bytes: 0, current: 0 };
        Some(Self(keys.iter().map(search).collect()))
    }

    /// Takes the stream's next piece.
    #[inline(always)]
    pub fn feed(&mut self, piece: Piece<'_>) {
        if let Piece::Data(data) | Piece::Whole(data) = piece {
            self.0.iter_mut().for_each(|search| search.feed(data));
        }
    }

    /// The usage of the cut response, given its input's.
    pub fn usage(&self, input_tokens: u64) -> Usage {
        let of_one = |search: &Search| u64::from(search.strings).max(search.bytes.div_ceil(BYTES_PER_TOKEN));
        let output_tokens = self.0.iter().map(of_one).sum();
        Usage { input_tokens, output_tokens, total_tokens: input_tokens + output_tokens, ..Usage::default() }
    }
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// The last bytes match so many bytes of the key.
    Key(u8),
    /// Behind the key: white space may stand before the value.
    Value,
    String {
        escaped: bool,
    },
}

/// The strings behind one key.
#[derive(Debug)]
struct Search {
    key: &'static Needle,
    at: At,
    /// Strings that were not empty.
    strings: u32,
    /// Their raw bytes.
    bytes: u64,
    /// Raw bytes of the string that is being read.
    current: u64,
}

impl Search {
    fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(&byte) = bytes.first() {
            let used = match self.at {
                At::Key(0) => self.find(bytes),
                At::Key(matched) => {
                    self.at = self.step(matched, byte);
                    1
                }
                At::Value => {
                    self.at = match byte {
                        b' ' | b'\t' => At::Value,
                        b'"' => At::String { escaped: false },
                        _ => At::Key(0),
                    };
                    1
                }
                At::String { escaped } => self.string(bytes, escaped),
            };
            bytes = &bytes[used..];
        }
    }

    /// One more byte after `matched` ones of the key. A key is a quoted word and a colon: only its closing quote can be
    /// the start of another.
    fn step(&self, matched: u8, byte: u8) -> At {
        let key = self.key.needle();
        let at_colon = usize::from(matched) == key.len() - 1;
        if key[usize::from(matched)] == byte {
            return if at_colon { At::Value } else { At::Key(matched + 1) };
        }
        match at_colon && key[1] == byte {
            true => At::Key(2),
            false => At::Key(u8::from(byte == key[0])),
        }
    }

    /// Looks for the key, whole or begun at the very end; how many bytes are done with.
    fn find(&mut self, bytes: &[u8]) -> usize {
        let key = self.key.needle();
        let at = match bytes.len() {
            // What is left of a line behind its text is too short to search by vectors.
            ..SHORT_BYTES => bytes.windows(key.len()).position(|word| word[0] == key[0] && word == key),
            _ => self.key.find(bytes),
        };
        if let Some(at) = at {
            self.at = At::Value;
            return at + key.len();
        }
        if bytes.last() == Some(&b'}') {
            return bytes.len(); // a document's end, as almost always: no key goes over it
        }
        // Only its first byte, a quote, can begin it.
        let tail = &bytes[bytes.len().saturating_sub(key.len() - 1)..];
        let begun = (0..tail.len()).map(|at| &tail[at..]).find(|begun| begun[0] == key[0] && key.starts_with(begun));
        self.at = At::Key(begun.map_or(0, |begun| begun.len() as u8)); // less than a word
        bytes.len()
    }

    fn string(&mut self, bytes: &[u8], escaped: bool) -> usize {
        if escaped {
            self.current += 1;
            self.at = At::String { escaped: false };
            return 1;
        }
        match memchr::memchr2(b'"', b'\\', bytes) {
            Some(end) if bytes[end] == b'"' => {
                let length = self.current + end as u64;
                self.strings = self.strings.saturating_add(u32::from(length > 0));
                self.bytes += length;
                (self.current, self.at) = (0, At::Key(0));
                end + 1
            }
            Some(backslash) => {
                self.current += backslash as u64 + 1;
                self.at = At::String { escaped: true };
                backslash + 1
            }
            None => {
                self.current += bytes.len() as u64;
                bytes.len()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn output_tokens(endpoint: Endpoint, stream: &str, cuts: &[usize]) -> u64 {
        let (mut deltas, mut at) = (Deltas::new(endpoint).unwrap(), 0);
        for cut in cuts.iter().copied().chain([stream.len()]) {
            let end = cut.clamp(at, stream.len());
            deltas.feed(Piece::Data(&stream.as_bytes()[at..end]));
            at = end;
        }
        deltas.usage(10).output_tokens
    }

    #[test]
    fn each_event_counts_at_least_one_and_long_ones_by_their_length() {
        let chat = concat!(
            "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\": {\"content\": \"\\\"twelve\\\" b\"}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":null,\"tool_calls\":[{\"function\":{\"arguments\":\"{\\\"a\\\":1}\"}}]}}]}\n\n",
        );
        for cut in 0..chat.len() {
            // 2 and 12 bytes of content: 14 in all, 4 tokens. 9 bytes of arguments: 3 tokens.
            assert_eq!(output_tokens(Endpoint::ChatCompletions, chat, &[cut]), 4 + 3, "cut at {cut}");
        }
        let short = "data: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n".repeat(5);
        assert_eq!(output_tokens(Endpoint::Responses, &short, &[]), 5);
        assert_eq!(Deltas::new(Endpoint::Responses).unwrap().usage(10).total_tokens, 10);
        assert!(Deltas::new(Endpoint::Embeddings).is_none());
        let body = br#"{"model" : "ab", "x": ["c\"d", 5, {"e":"data:image/png;base64,AAAA"}], "f":""}"#;
        assert_eq!(text_bytes(body), 2 + 4);
        assert_eq!((text_bytes(b""), text_bytes(b"\"a\\"), text_bytes(b"\"")), (0, 2, 0));
        assert_eq!((input_tokens(0), input_tokens(1), input_tokens(8)), (0, 1, 2));
    }

    proptest! {
        /// Any split counts the same.
        #[test]
        fn any_split_counts_the_same(
            stream in "(\"content\":|\"content|\"|: |\\\\|[a-c]){0,60}",
            mut cuts in proptest::collection::vec(0usize..300, 0..12),
        ) {
            cuts.sort_unstable();
            let whole = output_tokens(Endpoint::ChatCompletions, &stream, &[]);
            prop_assert_eq!(output_tokens(Endpoint::ChatCompletions, &stream, &cuts), whole);
        }
    }
}
