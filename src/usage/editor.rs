//! Takes out of a stream what is there only because we asked for usage: the chunk that carries it, and the
//! `"usage":null` of every other chunk. The client sees what it would have seen.
//!
//! In: the stream's pieces, with their event's raw bytes. Out: whole events, each as soon
//! as its blank line is in; so an event is never held back for a later one, and one in one piece is never held. An
//! event over [`EVENT_BYTES_MAX`] passes as it is: the chunk that carries usage has a few hundred bytes.

use super::shapes::USAGE_KEY;
use crate::json::{Path, Paths, Scanner};
use crate::sse::{BYTE_ORDER_MARK, Piece};
use std::ops::Range;

/// Largest event that is looked into, bytes. Real ones stay under 200 KB.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

const USAGE: usize = 0;
const CHOICES: usize = 1;
const MODERATION: usize = 2;
const FILTERS: usize = 3;
const PATHS: Paths = Paths::new(&[
    Path { keys: &["usage"], value_bytes_max: 4 },
    Path { keys: &["choices"], value_bytes_max: 16 },
    Path { keys: &["moderation"], value_bytes_max: 0 },
    Path { keys: &["prompt_filter_results"], value_bytes_max: 0 },
]);

/// Memory that is kept for the parts of the next event, bytes.
const HELD_BYTES_KEPT: usize = 4096;

/// Editor of one stream.
#[derive(Debug, Default)]
pub(super) struct Editor {
    /// What came of the event in earlier input.
    held: Vec<u8>,
    /// Where the event's data stands in it; `None` where it is in more than one piece.
    data: Option<Range<usize>>,
    data_lines: usize,
    /// The event was too large: the rest of it passes as it comes.
    passing: bool,
    /// The last event was taken out.
    dropped: bool,
    /// The last event ended in CR: an LF that follows belongs to its blank line, and goes where that went.
    after_cr: bool,
}

impl Editor {
    /// Before the input is read: how many of its bytes belong to the last event's blank line.
    pub(super) fn end_line(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let is_line_end = self.after_cr && input.first() == Some(&b'\n');
        self.after_cr &= input.is_empty();
        if is_line_end && !self.dropped {
            out.push(b'\n');
        }
        usize::from(is_line_end)
    }

    /// Takes the next piece, the last of `event`: what came of the event in this input.
    #[inline(always)]
    pub(super) fn feed(&mut self, piece: Piece<'_>, event: &[u8], out: &mut Vec<u8>) {
        match piece {
            Piece::Data(data) => self.add_data(event.len(), data.len()),
            Piece::LineEnd => self.data_lines += 1,
            Piece::Whole(data) => {
                let line_ends = if event.ends_with(b"\r\n") { 4 } else { 2 };
                self.add_data(event.len() - line_ends, data.len());
                self.end_event(event, out);
            }
            Piece::Event(_) => self.end_event(event, out),
            Piece::More => self.hold(event, out),
        }
    }

    /// The event goes on with data: the last `length` of its first `so_far` bytes in this input.
    fn add_data(&mut self, so_far: usize, length: usize) {
        let end = self.held.len() + so_far;
        self.data = match self.data.take() {
            None if self.data_lines == 0 => Some(end - length..end),
            Some(data) if data.end == end - length && self.data_lines == 0 => Some(data.start..end),
            // Several data lines: no sender of chunks writes that, and the edit below works on one.
            _ => None,
        };
    }

    /// The event ends with `rest`: puts it out as far as it is not ours.
    pub(super) fn end_event(&mut self, rest: &[u8], out: &mut Vec<u8>) {
        let mut held = std::mem::take(&mut self.held);
        let event = if held.is_empty() {
            rest
        } else {
            held.extend_from_slice(rest);
            &held
        };
        let is_whole = !self.passing && self.data_lines <= 1 && event.len() <= EVENT_BYTES_MAX;
        let data = self.data.take().filter(|_| is_whole);
        let ours = data.and_then(|data| ours(event, data)).unwrap_or(event.len()..event.len());
        if ours == (0..event.len()) {
            self.dropped = true;
        } else {
            self.put(&event[..ours.start], out);
            out.extend_from_slice(&event[ours.end..]);
        }
        (self.data_lines, self.passing, self.after_cr) = (0, false, event.ends_with(b"\r"));
        held.clear();
        if held.capacity() <= HELD_BYTES_KEPT {
            self.held = held;
        }
    }

    /// The input ends within the event, of which it brought `part`.
    fn hold(&mut self, part: &[u8], out: &mut Vec<u8>) {
        self.after_cr &= part.is_empty();
        self.held.extend_from_slice(part);
        if self.passing || self.held.len() > EVENT_BYTES_MAX {
            self.passing = true;
            let held = std::mem::take(&mut self.held);
            self.put(&held, out);
        }
    }

    /// Puts an event's first bytes out. Where all before it was taken out, a byte order mark of its own would become
    /// the stream's, and the line behind it a field: a blank line keeps it from standing first.
    fn put(&mut self, event: &[u8], out: &mut Vec<u8>) {
        if std::mem::take(&mut self.dropped) && event.starts_with(BYTE_ORDER_MARK) {
            out.push(b'\n');
        }
        out.extend_from_slice(event);
    }
}

/// What is there only because we asked for usage: all of the event, a part of its data, or nothing.
fn ours(event: &[u8], at: Range<usize>) -> Option<Range<usize>> {
    let data = &event[at.clone()];
    USAGE_KEY.find(data)?;
    // A chunk without any choices has none (vLLM's successors leave the member out, others write null).
    let (mut usage, mut choices_empty, mut has_more) = (None, true, false);
    let mut scanner = Scanner::new(&PATHS);
    scanner.feed(data, |found| match found.path {
        USAGE => usage = Some((found.at.start as usize..found.at.end as usize, found.raw == Some(b"null"))),
        CHOICES => {
            let bare = |raw: &[u8]| raw == b"null" || raw.iter().filter(|byte| !byte.is_ascii_whitespace()).eq(b"[]");
            choices_empty = found.raw.is_some_and(bare);
        }
        MODERATION | FILTERS => has_more = true,
        _ => {}
    });
    // Usage beside real choices comes from a server that sends it unasked.
    let (value, is_null) = usage.filter(|(_, is_null)| scanner.is_done() && (*is_null || choices_empty))?;
    if !is_null && !has_more {
        return Some(0..event.len());
    }
    member(data, value).map(|range| range.start + at.start..range.end + at.start)
}

/// The range of the whole member whose value stands at `value`: its key, and one of the commas beside it.
fn member(data: &[u8], value: Range<usize>) -> Option<Range<usize>> {
    let before = |at: usize| data[..at].iter().rposition(|byte| !byte.is_ascii_whitespace());
    let colon = before(value.start).filter(|&at| data[at] == b':')?;
    let quote = before(colon).filter(|&at| data[at] == b'"')?;
    let start = quote.checked_sub("\"usage".len()).filter(|&at| data[at..=quote] == *b"\"usage\"")?;
    if let Some(comma) = before(start).filter(|&at| data[at] == b',') {
        return Some(comma..value.end);
    }
    let after = data[value.end..].iter().position(|byte| !byte.is_ascii_whitespace())? + value.end;
    if data[after] != b',' {
        return Some(start..value.end);
    }
    let next =
        data[after + 1..].iter().position(|byte| !byte.is_ascii_whitespace()).map_or(after + 1, |n| after + 1 + n);
    Some(start..next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::reader::{Coding, Form, UsageReader};
    use crate::usage::record::Endpoint;

    fn reader() -> UsageReader {
        UsageReader::new(Endpoint::ChatCompletions, Form::Events, Coding::Identity, true)
    }

    fn edit(stream: &str, cut: usize) -> String {
        let (mut reader, mut out) = (reader(), Vec::new());
        reader.feed(&stream.as_bytes()[..cut], &mut out).unwrap();
        reader.feed(&stream.as_bytes()[cut..], &mut out).unwrap();
        reader.end(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// `(with our asking, without)`, in the order of a stream; `|` stands for the line end.
    const EVENTS: &[(&str, &str)] = &[
        (
            r#"data: {"choices":[{"delta":{"content":"\"usage\":null"}}],"usage":null}||"#,
            r#"data: {"choices":[{"delta":{"content":"\"usage\":null"}}]}||"#,
        ),
        (r#"data: {"usage":null,"choices":[1],"obfuscation":"x"}||"#, r#"data: {"choices":[1],"obfuscation":"x"}||"#),
        (
            r#"data: {"choices":[1], "usage" : null , "obfuscation":"x"}||"#,
            r#"data: {"choices":[1] , "obfuscation":"x"}||"#,
        ),
        (
            ": a comment|event: x|data:{\"choices\":[2],\"usage\":null}|id: 3||",
            ": a comment|event: x|data:{\"choices\":[2]}|id: 3||",
        ),
        (r#"data: {"choices":[],"usage":{"prompt_tokens":1}}||"#, ""),
        (r#"data: {"id":"c","choices":null,"usage":{"prompt_tokens":1}}||"#, ""),
        (r#"data: {"id":"c","usage":{"prompt_tokens":1}}||"#, ""),
        (
            r#"data: {"choices":[],"moderation":{},"usage":{"prompt_tokens":1}}||"#,
            r#"data: {"choices":[],"moderation":{}}||"#,
        ),
        (
            r#"data: {"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}||"#,
            r#"data: {"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}||"#,
        ),
        (r#"data: {"x":{"usage":null},"choices":[]}||"#, r#"data: {"x":{"usage":null},"choices":[]}||"#),
        ("||", "||"),
        ("data: [DONE]||", "data: [DONE]||"),
        (r#"data: {"choices":[3],"usage":null}"#, r#"data: {"choices":[3]}"#),
    ];

    #[test]
    fn takes_out_what_we_brought_and_nothing_else_cut_at_every_byte() {
        for line_end in ["\n", "\r\n", "\r"] {
            let all = |side: fn(&(&'static str, &'static str)) -> &'static str| {
                EVENTS.iter().map(side).collect::<String>().replace('|', line_end)
            };
            let (with, without) = (all(|event| event.0), all(|event| event.1));
            for cut in 0..=with.len() {
                assert_eq!(edit(&with, cut), without, "{line_end:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_line_end_belongs_to_its_own_event() {
        let counted = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\r\r";
        for kept in ["event: x\ndata: 1\n\n", "data: 1\r\rid: 1\n\n", "\r\r: c\n\ndata: 1\r\r\n\n"] {
            for cut in 0..=counted.len() + kept.len() {
                assert_eq!(edit(&format!("{counted}{kept}"), cut), kept, "cut at {cut}");
            }
        }
    }

    #[test]
    fn an_event_goes_out_with_its_last_byte() {
        for line_end in ["\n", "\r\n", "\r"] {
            let (mut reader, mut sent) = (reader(), String::new());
            for (with, without) in EVENTS.iter().filter(|event| event.0.ends_with('|')) {
                let mut out = Vec::new();
                reader.feed(with.replace('|', line_end).as_bytes(), &mut out).unwrap();
                sent.push_str(&String::from_utf8(out).unwrap());
                assert!(sent.ends_with(&without.replace('|', line_end)), "{with}");
            }
        }
    }

    #[test]
    fn a_leading_byte_order_mark_stays_and_hides_nothing() {
        let counted = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n";
        for (with, without) in
            [("data: {\"choices\":[1],\"usage\":null}\n\n", "data: {\"choices\":[1]}\n\n"), (counted, "")]
        {
            let (with, without) = (format!("\u{feff}{with}{counted}"), format!("\u{feff}{without}"));
            for cut in 0..=with.len() {
                assert_eq!(edit(&with, cut), without, "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_byte_order_mark_behind_what_is_taken_out_does_not_become_the_streams() {
        let counted = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n";
        let marked = "\u{feff}data: no field\ndata: 1\n\n";
        let with = format!("{counted}{counted}{marked}{marked}");
        for cut in 0..=with.len() {
            assert_eq!(edit(&with, cut), format!("\n{marked}{marked}"), "cut at {cut}");
        }
    }

    #[test]
    fn a_line_end_cut_in_two_stays_whole_in_a_huge_event_behind_one_that_is_taken_out() {
        let counted = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\r\n\r\n";
        let huge = format!("data: {}\r\ndata: 2\r\n\r\n", "x".repeat(EVENT_BYTES_MAX));
        let with = format!("{counted}{huge}");
        let second_half = counted.len() + huge.find('\n').unwrap();
        assert!(edit(&with, second_half) == huge, "cut between CR and LF");
    }

    #[test]
    fn a_huge_event_passes() {
        let huge = format!("data: {{\"x\":\"{}\",\"usage\":null}}\n\n", "x".repeat(EVENT_BYTES_MAX));
        let tail = "data: {\"choices\":[1],\"usage\":null}\n\n";
        for cut in [10, EVENT_BYTES_MAX + 10, huge.len() - 1, huge.len()] {
            assert!(
                edit(&format!("{huge}{tail}"), cut) == format!("{huge}data: {{\"choices\":[1]}}\n\n"),
                "cut at {cut}"
            );
        }
    }
}
