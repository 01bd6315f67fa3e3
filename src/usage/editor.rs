//! Takes out of a stream what is there only because we asked for usage: the chunk that carries it, and the
//! `"usage":null` of every other chunk. The client sees what it would have seen.
//!
//! In: the stream, cut anywhere. Out: whole events, each as soon as its blank line is in; so an event is never held
//! back for a later one. An event over [`EVENT_BYTES_MAX`] passes as it is: the chunk that carries usage has a few
//! hundred bytes.

use crate::json::{Path, Paths, Scanner};
use crate::sse::{MARK, Piece, Splitter};
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

/// Editor of one stream.
#[derive(Debug, Default)]
pub struct Editor {
    splitter: Splitter,
    /// The event so far, raw.
    event: Vec<u8>,
    /// Where the event's data stands in `event`; `None` where it is in more than one piece.
    data: Option<Range<usize>>,
    data_lines: usize,
    /// The event was too large: the rest of it passes as it comes.
    passing: bool,
    /// The last event was taken out; an LF that still belongs to its blank line goes with it.
    dropped: bool,
}

impl Editor {
    /// Takes the stream's next bytes, appending to `out` what goes on to the client.
    pub fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        if self.splitter.is_after_cr() && self.event.is_empty() && input.first() == Some(&b'\n') {
            if !self.dropped {
                out.push(b'\n');
            }
            self.splitter.next(&input[..1]);
            input = &input[1..];
        }
        loop {
            let (used, piece) = self.splitter.next(input);
            let (taken, rest) = input.split_at(used);
            self.event.extend_from_slice(taken);
            match piece {
                Piece::More => break,
                Piece::Data(b"\n") => self.data_lines += 1,
                Piece::Data(data) => self.add_data(data.len()),
                Piece::Event(_) => self.end_event(out),
            }
            input = rest;
        }
        if self.passing || self.event.len() > EVENT_BYTES_MAX {
            self.passing = true;
            self.begin_event(out);
            out.append(&mut self.event);
        }
    }

    /// The stream has ended: an event without its blank line goes out, edited like any other.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.end_event(out);
    }

    /// Before an event's first byte goes out: where all before it was taken out, a byte order mark of its own would
    /// become the stream's, and the line behind it a field. A blank line keeps it from standing first.
    fn begin_event(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.dropped) && self.event.starts_with(MARK) {
            out.push(b'\n');
        }
    }

    fn add_data(&mut self, length: usize) {
        let end = self.event.len();
        self.data = match self.data.take() {
            None if self.data_lines == 0 => Some(end - length..end),
            Some(data) if data.end == end - length && self.data_lines == 0 => Some(data.start..end),
            // Several data lines: no sender of chunks writes that, and the edit below works on one.
            _ => None,
        };
    }

    fn end_event(&mut self, out: &mut Vec<u8>) {
        let whole = !self.passing && self.data_lines <= 1 && self.event.len() <= EVENT_BYTES_MAX;
        let data = self.data.take().filter(|_| whole);
        match data.map_or(Verdict::Keep, |data| judge(&self.event[data.clone()], data.start)) {
            Verdict::Keep => {
                self.begin_event(out);
                out.append(&mut self.event);
            }
            Verdict::Drop => {
                self.dropped = true;
                self.event.clear();
            }
            Verdict::Cut(range) => {
                self.begin_event(out);
                out.extend_from_slice(&self.event[..range.start]);
                out.extend_from_slice(&self.event[range.end..]);
                self.event.clear();
            }
        }
        (self.data_lines, self.passing) = (0, false);
        if self.event.capacity() > 4096 {
            self.event = Vec::new();
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Drop,
    /// Leave this range of the event out.
    Cut(Range<usize>),
}

/// What becomes of a chunk whose data stands at `offset` in its event.
fn judge(data: &[u8], offset: usize) -> Verdict {
    if memchr::memmem::find(data, b"\"usage\"").is_none() {
        return Verdict::Keep;
    }
    let (mut usage, mut choices_empty, mut says_more) = (None, false, false);
    let mut scanner = Scanner::new(&PATHS);
    scanner.feed(data, |found| match found.path {
        USAGE => usage = Some((found.at.start as usize..found.at.end as usize, found.raw == Some(b"null"))),
        CHOICES => choices_empty = found.raw.is_some_and(is_empty_array),
        MODERATION | FILTERS => says_more = true,
        _ => {}
    });
    match usage {
        Some((value, is_null)) if scanner.is_done() && (is_null || choices_empty) => {
            if !is_null && !says_more {
                return Verdict::Drop;
            }
            member(data, value).map_or(Verdict::Keep, |range| Verdict::Cut(range.start + offset..range.end + offset))
        }
        // Usage beside real choices comes from a server that sends it unasked.
        _ => Verdict::Keep,
    }
}

fn is_empty_array(raw: &[u8]) -> bool {
    raw.iter().filter(|byte| !byte.is_ascii_whitespace()).eq(b"[]")
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

    fn edit(stream: &str, cut: usize) -> String {
        let (mut editor, mut out) = (Editor::default(), Vec::new());
        editor.feed(&stream.as_bytes()[..cut], &mut out);
        editor.feed(&stream.as_bytes()[cut..], &mut out);
        editor.finish(&mut out);
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
    fn an_event_goes_out_with_its_last_byte() {
        for line_end in ["\n", "\r\n", "\r"] {
            let (mut editor, mut sent) = (Editor::default(), String::new());
            for (with, without) in EVENTS.iter().filter(|event| event.0.ends_with('|')) {
                let mut out = Vec::new();
                editor.feed(with.replace('|', line_end).as_bytes(), &mut out);
                sent.push_str(&String::from_utf8(out).unwrap());
                assert!(sent.ends_with(&without.replace('|', line_end)), "{with}");
                assert!(editor.event.is_empty());
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
