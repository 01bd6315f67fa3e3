//! What a JSON request holds that costs by its size: bytes of text, and references to what is not in it.
//!
//! In: the whole body. Out: two facts. It walks over the body's strings, without regard to where they stand: one that a
//! prompt quotes counts like any other.

use crate::json::{self, EACH, Path, Paths, Scanner};

/// A string of at least so many bytes, all of them of base64's alphabets (RFC 4648 §4, §5), is media.
const MEDIA_BYTES_MIN: usize = 256;

/// Keys whose values stand for input of a size that the body does not show: media, files, what the target remembers.
const REFERENCES: [&[u8]; 21] = [
    b"image_url",
    b"image",
    b"images",
    b"input_audio",
    b"audio",
    b"video_url",
    b"file",
    b"file_id",
    b"file_ids",
    b"file_data",
    b"file_url",
    b"source",
    b"input_reference",
    b"previous_response_id",
    b"conversation",
    b"assistant_id",
    b"thread",
    b"vector_store_ids",
    b"mcp_servers",
    b"container",
    b"web_search_options",
];

/// A value that stands for such input, the kind of a stored item.
const STORED_ITEM: &[u8] = b"item_reference";

/// The items of a response's input, and what tells a stored one from one that is given.
const ITEM_PATHS: Paths = Paths::new(&[Path { keys: &["input", EACH], value_bytes_max: 0 }]);
const ID_PATHS: Paths =
    Paths::new(&[Path { keys: &["id"], value_bytes_max: 0 }, Path { keys: &["type"], value_bytes_max: 4 }]);

/// What a body holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Raw bytes of all strings that are values, but for media, whose price is another.
    pub text_bytes: u64,
    /// It refers to more input than it shows.
    pub refers: bool,
}

/// Measures a body.
pub fn measure(body: &[u8]) -> Content {
    let (mut content, mut at) = (Content::default(), 0);
    while let Some(offset) = json::find_quote(&body[at..]) {
        at += offset + 1;
        if body[at - 1] != b'"' {
            continue; // a backslash outside of a string: no JSON
        }
        let start = at;
        let is_closed = json::string_end(body, &mut at, &mut false).is_some();
        let string = &body[start..at - usize::from(is_closed)];
        match body[at..].trim_ascii_start().strip_prefix(b":") {
            Some(value) => content.refers |= is(string, &REFERENCES) && !value.trim_ascii_start().starts_with(b"null"),
            None if is_media(string) => {}
            None => {
                content.text_bytes += string.len() as u64;
                content.refers |= is(string, &[STORED_ITEM]);
            }
        }
    }
    content
}

/// True where a response's input has an item by nothing but its id, which the target has stored: one without a kind.
pub fn names_items(body: &[u8]) -> bool {
    let mut names = false;
    Scanner::new(&ITEM_PATHS).feed(body, |item| {
        let (mut has_id, mut has_kind) = (false, false);
        Scanner::new(&ID_PATHS).feed(&body[item.at.start as usize..item.at.end as usize], |found| match found.path {
            0 => has_id = true,
            _ => has_kind = found.raw != Some(b"null"),
        });
        names |= has_id && !has_kind;
    });
    names
}

/// True for a string that is one of these, however it is written.
fn is(string: &[u8], words: &[&[u8]]) -> bool {
    if !string.contains(&b'\\') {
        return words.contains(&string);
    }
    let string = [b"\"", string, b"\""].concat();
    json::string(&string).is_some_and(|plain| words.contains(&plain.as_bytes()))
}

fn is_media(string: &[u8]) -> bool {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_=\\".contains(byte);
    string.starts_with(b"data:") || string.len() >= MEDIA_BYTES_MIN && string.iter().all(is_base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_counts_and_media_does_not() {
        let audio = "UklGRgAA".repeat(40);
        let body = format!(
            r#"{{"model" : "ab", "x": ["c\"d", 5, {{"e":"data:image/png;base64,AAAA"}}], "f":"", "data":"{audio}"}}"#
        );
        assert_eq!(measure(body.as_bytes()), Content { text_bytes: 2 + 4, refers: false });
        let words = format!(r#"{{"text":"{}"}}"#, "words ".repeat(60));
        assert_eq!(measure(words.as_bytes()).text_bytes, 360);
        for (body, text_bytes) in [("", 0), ("\"a\\", 2), ("\"", 0)] {
            assert_eq!(measure(body.as_bytes()).text_bytes, text_bytes, "{body}");
        }
    }

    #[test]
    fn items_without_a_kind_are_stored_ones() {
        for (body, names) in [
            (r#"{"input":[{"id":"msg_1"}]}"#, true),
            (r#"{"input":[{"type":"message","role":"user"},{"\u0069d":"msg_1" , "type":null}]}"#, true),
            (r#"{"input":[{"type":"message","id":"msg_1","content":[{"id":"x"}]}]}"#, false),
            (r#"{"input":[{"role":"user","content":"text"}],"id":"x"}"#, false),
            (r#"{"input":"text","items":[{"id":"x"}]}"#, false),
            ("", false),
        ] {
            assert_eq!(names_items(body.as_bytes()), names, "{body}");
        }
    }

    #[test]
    fn references_are_known_by_their_key_however_it_is_written() {
        for (body, refers) in [
            (r#"{"previous_response_id":"resp_1"}"#, true),
            (r#"{"previous_response_id" : null}"#, false),
            (r#"{"messages":[{"content":[{"im\u0061ge_url":{"url":"https://x"}}]}]}"#, true),
            (r#"{"messages":[{"content":"an \"image_url\": as text"}]}"#, false),
            (r#"{"input":"image_url"}"#, false),
            (r#"{"audio":{"id":"audio_1"}}"#, true),
            (r#"{"input":[{"type":"item_reference","id":"msg_1"}]}"#, true),
            (r#"{"input":[{"type":"item\u005freference","id":"msg_1"}]}"#, true),
            (r#"{"input":"an item_reference"}"#, false),
        ] {
            assert_eq!(measure(body.as_bytes()).refers, refers, "{body}");
        }
    }
}
