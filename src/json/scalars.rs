//! Strings and numbers as they stand in a document: where they end, and what they mean.
//!
//! In: raw bytes. Out: a place, a text, a number. Never: a look at what stands around them.

use std::borrow::Cow;

/// Bytes that are compared at once, as one number.
const WORD_BYTES: usize = size_of::<u64>();
/// So many bytes are compared in words. Most strings end within them, and before a search by vectors, which is faster
/// over a distance, would have begun.
const SHORT_BYTES: usize = 3 * WORD_BYTES;
/// A word of ones, and the top bit of each of its bytes.
const ONES: u64 = u64::MAX / 0xff;
const TOPS: u64 = ONES << 7;

/// What a byte may be a part of, outside of strings; and inside.
const STRUCTURE: u8 = 1;
const LITERAL: u8 = 2;
const PLAIN: u8 = 4;
/// The above for each byte.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < classes.len() {
        classes[byte] = match byte as u8 {
            b'"' => STRUCTURE,
            b'{' | b'[' | b'}' | b']' => STRUCTURE | PLAIN,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'+' | b'.' => LITERAL | PLAIN,
            b'\\' => 0,
            b' '..=b'~' => PLAIN,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

/// True for a quote or a bracket: the bytes by which a container's end is found.
pub(super) fn is_structure(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & STRUCTURE != 0
}

/// True for what `true`, `null` and numbers are made of.
pub(super) fn is_literal(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & LITERAL != 0
}

/// True for what may stand between all parts of a document.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// The first place of a quote or a backslash.
#[inline]
pub fn find_quote(text: &[u8]) -> Option<usize> {
    let passed = pass_words(text);
    match text.get(passed)? {
        b'"' | b'\\' => Some(passed),
        _ => memchr::memchr2(b'"', b'\\', &text[passed..]).map(|at| passed + at),
    }
}

/// The same where it stands near the start; else some place before it.
#[inline(always)]
fn pass_words(text: &[u8]) -> usize {
    let mut at = 0;
    while at < SHORT_BYTES
        && let Some(word) = text[at..].first_chunk()
    {
        let found = special(u64::from_le_bytes(*word));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += WORD_BYTES;
    }
    at
}

/// The top bits of the bytes that are a quote or a backslash; perhaps of others behind the first of them.
const fn special(word: u64) -> u64 {
    zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64))
}

/// The same of bytes that are zero.
const fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & TOPS
}

/// Moves `at` behind a closing quote; whether this part of it is without an escape. `None` where the input ends
/// first. `escaped` says that the byte at `at` stands behind a backslash.
#[inline(always)]
pub fn string_end(input: &[u8], at: &mut usize, escaped: &mut bool) -> Option<bool> {
    if !*escaped {
        *at += pass_words(&input[*at..]);
        if input.get(*at) == Some(&b'"') {
            *at += 1;
            return Some(true);
        }
    }
    let (behind, next_escaped, plain) = long_string_end(input, *at, *escaped);
    (*at, *escaped) = (behind, next_escaped);
    plain
}

/// The same for any other: the new `at` and `escaped`, and the answer. By value, so that the caller's may stay in
/// registers.
#[inline(never)]
fn long_string_end(input: &[u8], mut at: usize, mut escaped: bool) -> (usize, bool, Option<bool>) {
    let mut is_plain = true;
    loop {
        if escaped && at < input.len() {
            escaped = false;
            at += 1;
        }
        match find_quote(&input[at..]) {
            Some(offset) if input[at + offset] == b'"' => return (at + offset + 1, escaped, Some(is_plain)),
            Some(offset) => {
                at += offset + 1;
                (escaped, is_plain) = (true, false);
            }
            None => return (input.len(), escaped, None),
        }
    }
}

/// The text of a raw JSON string's inside.
pub(super) fn unescape(inside: &[u8]) -> Option<String> {
    serde_json::from_slice(&[b"\"", inside, b"\""].concat()).ok()
}

/// The text of a raw JSON string value, quotes included; `None` for any other value.
pub fn string(raw: &[u8]) -> Option<Cow<'_, str>> {
    let inside = raw.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let (words, rest) = inside.as_chunks();
    let is_plain = words.iter().all(|word| is_plain(u64::from_le_bytes(*word)))
        && rest.iter().all(|&byte| CLASSES[usize::from(byte)] & PLAIN != 0);
    match std::str::from_utf8(inside) {
        Ok(text) if is_plain => Some(Cow::Borrowed(text)),
        _ => serde_json::from_slice(raw).ok().map(Cow::Owned),
    }
}

/// True where all bytes of a word are printable, and stand for themselves.
const fn is_plain(word: u64) -> bool {
    (word | word.wrapping_sub(ONES * b' ' as u64) | special(word)) & TOPS == 0
}

/// Appends `text` as a JSON string, quotes included.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    // Writing into memory cannot fail, and a str is always valid JSON text.
    serde_json::to_writer(out, text).expect("a string serialises");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Wherever it stands, and whatever stands around it.
        #[test]
        fn the_first_quote_is_found(text in "[\"\\\\!#\u{a2}\u{dc}\u{0}\u{1}]{0,3}[ -!#-\\[\\]-~]{0,40}.{0,40}") {
            let first = text.bytes().position(|byte| matches!(byte, b'"' | b'\\'));
            prop_assert_eq!(find_quote(text.as_bytes()), first);
        }
    }
}
