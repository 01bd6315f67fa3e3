//! What a response that was cut probably consumed: counted from the text that went by, where no usage was reported.
//!
//! A token is about four bytes of text in most languages; and a stream's event carries at least one. These are
//! estimates, and every record that holds one is marked as such.

use super::record::{Endpoint, Usage};
use super::shapes::Needle;
use crate::sse::Piece;
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// Bytes of text to a token, on average.
const BYTES_PER_TOKEN: u64 = 4;
/// Below this, a plain search is faster.
const SHORT_BYTES: usize = 32;
/// Longest key that is counted by, bytes.
const NAME_BYTES_MAX: usize = 24;

static TEXT: Needle = LazyLock::new(|| Finder::new(b"\"text\":"));
static DELTA: Needle = LazyLock::new(|| Finder::new(b"\"delta\":"));
static MESSAGE: Needle = LazyLock::new(|| Finder::new(b"\"message\":"));
static RESPONSE: Needle = LazyLock::new(|| Finder::new(b"\"response\":"));
static THINKING: Needle = LazyLock::new(|| Finder::new(b"\"thinking\":"));

/// The keys in what a chunk adds whose strings are output: text, what was thought before it (under the names of
/// DeepSeek, OpenRouter, Anthropic), a refusal, a tool's arguments, what is said in audio.
const WORDS: [&str; 10] = [
    "content",
    "text",
    "value",
    "reasoning_content",
    "reasoning",
    "thinking",
    "refusal",
    "arguments",
    "partial_json",
    "transcript",
];
/// How what almost every chunk of a completion adds begins.
const PLAIN: &[u8] = b"{\"content\":\"";
/// What repeats the words beside it.
const REPETITION: &str = "reasoning_details";

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
        // The keys whose strings are output, or the words in whose objects are.
        let keys: &[&Needle] = match endpoint {
            Endpoint::ChatCompletions
            | Endpoint::Responses
            | Endpoint::ResponsesRetrieve
            | Endpoint::Messages
            | Endpoint::ThreadsRuns
            | Endpoint::AudioTranscriptions => &[&DELTA],
            Endpoint::Completions => &[&TEXT],
            Endpoint::ApiChat => &[&MESSAGE],
            Endpoint::ApiGenerate => &[&RESPONSE, &THINKING],
            _ => return None,
        };
        let search = |&key| Search { key, at: At::Key(0), strings: 0, bytes: 0, current: 0, name: Name::default() };
        Some(Self(keys.iter().map(search).collect()))
    }

    /// Takes the stream's next piece.
    #[inline(always)]
    pub fn feed(&mut self, piece: Piece<'_>) {
        if let Piece::Data(data) | Piece::Whole(data) = piece {
            self.0.iter_mut().for_each(|search| search.feed(data));
        }
        if let Piece::Event(_) | Piece::Whole(_) = piece {
            self.0.iter_mut().for_each(Search::end_event);
        }
    }

    /// Output tokens, by the text so far.
    pub fn tokens(&self) -> u64 {
        self.0.iter().map(Search::tokens).sum()
    }

    /// The usage of the cut response, given its input's.
    pub fn usage(&self, input_tokens: u64) -> Usage {
        let output_tokens = self.tokens();
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
    /// In an object or an array, so deep.
    Inside(u32, Inside),
}

/// Where in an object.
#[derive(Clone, Copy, Debug)]
enum Inside {
    Between,
    String {
        escaped: bool,
    },
    /// Behind a string, which was a key where a colon follows.
    Behind,
}

/// The last key in an object, as far as it matters.
#[derive(Clone, Copy, Debug, Default)]
struct Name {
    /// The first bytes of the string that is being read.
    start: [u8; NAME_BYTES_MAX],
    /// The values behind the last key count.
    counts: bool,
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
    name: Name,
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
                        b'{' | b'[' => {
                            self.name.counts = false; // the last object's key is none of this one's
                            At::Inside(1, Inside::Between)
                        }
                        _ => At::Key(0),
                    };
                    1
                }
                At::String { escaped } => {
                    let (used, end) = self.string(bytes, escaped);
                    self.at = match end {
                        Ok(()) => {
                            self.count();
                            At::Key(0)
                        }
                        Err(escaped) => At::String { escaped },
                    };
                    used
                }
                At::Inside(depth, inside) => self.walk(bytes, depth, inside),
            };
            bytes = &bytes[used..];
        }
    }

    /// An event's document does not go on in the next.
    #[inline(always)]
    fn end_event(&mut self) {
        if !matches!(self.at, At::Key(0)) {
            if self.is_cut() {
                self.count();
            }
            (self.at, self.current) = (At::Key(0), 0);
        }
    }

    /// The last string has ended, and may be a key, which the next byte tells: the last of all was none.
    fn is_cut(&self) -> bool {
        matches!(self.at, At::Inside(_, Inside::Behind)) && self.name.counts
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
            let behind = at + key.len();
            return behind + self.plain(&bytes[behind..]);
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

    /// Behind the key: a value as almost every chunk has it, in one step; how many bytes it has. Else none are done
    /// with.
    #[inline(always)]
    fn plain(&mut self, value: &[u8]) -> usize {
        let end = value.strip_prefix(PLAIN).and_then(|text| {
            let end = memchr::memchr2(b'"', b'\\', text)?;
            text[end..].starts_with(b"\"}").then_some(end)
        });
        let Some(end) = end else {
            self.at = At::Value;
            return 0;
        };
        self.current = end as u64;
        self.count();
        PLAIN.len() + end + b"\"}".len()
    }

    /// Reads on in a string: how many bytes, and whether it ends with them; else whether the next one is escaped.
    fn string(&mut self, bytes: &[u8], escaped: bool) -> (usize, Result<(), bool>) {
        if escaped {
            self.current += 1;
            return (1, Err(false));
        }
        match memchr::memchr2(b'"', b'\\', bytes) {
            Some(end) if bytes[end] == b'"' => {
                self.current += end as u64;
                (end + 1, Ok(()))
            }
            Some(backslash) => {
                self.current += backslash as u64 + 1;
                (backslash + 1, Err(true))
            }
            None => {
                self.current += bytes.len() as u64;
                (bytes.len(), Err(false))
            }
        }
    }

    /// The tokens of all strings so far.
    fn tokens(&self) -> u64 {
        let (last, last_bytes) = if self.is_cut() { (u64::from(self.current > 0), self.current) } else { (0, 0) };
        (u64::from(self.strings) + last).max((self.bytes + last_bytes).div_ceil(BYTES_PER_TOKEN))
    }

    /// A string that is output has ended.
    fn count(&mut self) {
        self.strings = self.strings.saturating_add(u32::from(self.current > 0));
        self.bytes += self.current;
        self.current = 0;
    }

    /// Reads on in an object: how many bytes are done with.
    fn walk(&mut self, bytes: &[u8], depth: u32, inside: Inside) -> usize {
        let (used, depth, inside) = match (inside, bytes[0]) {
            (Inside::String { escaped }, _) => {
                let before = self.current as usize;
                let (used, end) = self.string(bytes, escaped);
                // A key is short, and has no escapes where a server writes it.
                let read = (self.current as usize - before).min(bytes.len());
                if let Some(room) = self.name.start.get_mut(before..).filter(|room| !room.is_empty()) {
                    let kept = read.min(room.len());
                    room[..kept].copy_from_slice(&bytes[..kept]);
                }
                (used, depth, end.map_or_else(|escaped| Inside::String { escaped }, |()| Inside::Behind))
            }
            (Inside::Behind, b' ' | b'\t' | b'\n' | b'\r') => (1, depth, inside),
            (Inside::Behind, b':') => {
                let name = self.name.start.get(..self.current as usize).unwrap_or_default();
                if name == REPETITION.as_bytes() {
                    self.at = At::Key(0);
                    self.current = 0;
                    return 1;
                }
                self.name.counts = WORDS.iter().any(|word| word.as_bytes() == name);
                self.current = 0;
                (1, depth, Inside::Between)
            }
            (Inside::Behind, _) => {
                if self.name.counts {
                    self.count();
                }
                self.current = 0;
                (0, depth, Inside::Between)
            }
            (Inside::Between, b'"') => (1, depth, Inside::String { escaped: false }),
            (Inside::Between, b'{' | b'[') => (1, depth.saturating_add(1), inside),
            (Inside::Between, b'}' | b']') => (1, depth - 1, inside),
            (Inside::Between, _) => (1, depth, inside),
        };
        self.at = if depth == 0 { At::Key(0) } else { At::Inside(depth, inside) };
        used
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
            // 2 and 12 bytes of content, 9 of arguments.
            assert_eq!(output_tokens(Endpoint::ChatCompletions, chat, &[cut]), 6, "cut at {cut}");
        }
        let short = "data: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n".repeat(5);
        assert_eq!(output_tokens(Endpoint::Responses, &short, &[]), 5);
        assert_eq!(Deltas::new(Endpoint::Responses).unwrap().usage(10).total_tokens, 10);
        assert!(Deltas::new(Endpoint::Embeddings).is_none());
        assert_eq!((input_tokens(0), input_tokens(1), input_tokens(8)), (0, 1, 2));
    }

    /// Whatever it is called that a model puts out; not the name of a tool, an id, or audio.
    #[test]
    fn all_words_of_a_chunk_count_and_nothing_else() {
        for (delta, tokens) in [
            (r#"{"reasoning_content":"twelve bytes","content":null}"#, 3),
            (r#"{"reasoning":"twelve bytes","reasoning_details":[{"type":"x","text":"twelve bytes"}]}"#, 3),
            (r#"{"refusal" : "twelve bytes"}"#, 3),
            (r#"{"tool_calls":[{"id":"call_123456","function":{"name":"long_name","arguments":"{\"a\":1}"}}]}"#, 3),
            (r#"{"audio":{"id":"audio_1","data":"AAAAAAAAAAAAAAAA","transcript":"twelve bytes"}}"#, 3),
            (r#"{"content":[{"type":"text","text":{"value":"twelve bytes"}},{"text":"four"}]}"#, 4),
            (r#"{"role":"assistant","type":"text_delta","text":"twelve bytes"}"#, 3),
            (r#""twelve bytes""#, 3),
            (r#"{"role":"assistant"}"#, 0),
            (r#"{"x":{"content":""},"a_name_that_is_longer_than_any_word":"content"}"#, 0),
        ] {
            let stream = format!(r#"{{"id":"x","choices":[{{"delta":{delta},"content":"no delta"}}]}}"#);
            for cut in 0..stream.len() {
                assert_eq!(output_tokens(Endpoint::ChatCompletions, &stream, &[cut]), tokens, "{delta} cut at {cut}");
            }
        }
    }

    proptest! {
        /// Any split counts the same.
        #[test]
        fn any_split_counts_the_same(
            stream in "(\"delta\":|\"delta|[{}]|\"content\":|\"|: |\\\\|[a-c]){0,60}",
            mut cuts in proptest::collection::vec(0usize..300, 0..12),
        ) {
            cuts.sort_unstable();
            let whole = output_tokens(Endpoint::ChatCompletions, &stream, &[]);
            prop_assert_eq!(output_tokens(Endpoint::ChatCompletions, &stream, &cuts), whole);
        }
    }
}
