//! Takes out of a stream what is there only because we asked for usage: the chunk that carries it, and the
//! `"usage":null` of every other chunk. The client sees what it would have seen.
//!
//! In: the stream's pieces, with their event's raw bytes. Out: whole events, each as soon as its blank line is in; so
//! an event is never held back for one that has not come. An event over [`EVENT_BYTES_MAX`] passes as it is: the chunk
//! that carries usage has a few hundred bytes.
//!
//! Some servers (llama.cpp) put on that chunk what else would stand on the one before it, which finishes the answer.
//! Where both come at once it is put there; else on a chunk without text, which says nothing else.

use super::shapes::{Needle, USAGE_KEY};
use crate::json::{Path, Paths, Scanner};
use crate::sse::{BYTE_ORDER_MARK, Piece};
use memchr::memmem::Finder;
use std::ops::Range;
use std::sync::LazyLock;

/// Largest event that is looked into, bytes. Real ones stay under 200 KB.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

const USAGE: usize = 0;
const CHOICES: usize = 1;
const MODERATION: usize = 2;
const FILTERS: usize = 3;
const TIMINGS: usize = 4;
const PATHS: Paths = Paths::new(&[
    Path { keys: &["usage"], value_bytes_max: 4 },
    Path { keys: &["choices"], value_bytes_max: 16 },
    Path { keys: &["moderation"], value_bytes_max: 0 },
    Path { keys: &["prompt_filter_results"], value_bytes_max: 0 },
    Path { keys: &["timings"], value_bytes_max: 0 },
]);

/// What stands in the one chunk that finishes an answer, with a word behind it.
static FINISH_KEY: Needle = LazyLock::new(|| Finder::new(b"\"finish_reason\""));
/// The choices of a chunk that says nothing.
const NO_WORDS: &[u8] = br#"[{"index":0,"delta":{},"finish_reason":null}]"#;

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
    /// The event that finishes the answer, which came just now: what follows at once may belong on it.
    finish: Vec<u8>,
    /// Where the closing brace of its object stands in it.
    finish_brace: usize,
    /// The last event ended in CR: an LF that follows belongs to its blank line, and goes where that went.
    after_cr: bool,
}

impl Editor {
    /// Before the input is read: how many of its bytes belong to the last event's blank line.
    pub(super) fn end_line(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let is_line_end = self.after_cr && input.first() == Some(&b'\n');
        self.after_cr &= input.is_empty();
        if is_line_end && !self.dropped {
            let last = if self.finish.is_empty() { out } else { &mut self.finish };
            last.push(b'\n');
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
        let finish_brace = data.as_ref().and_then(|at| finish_brace(&event[at.clone()]).map(|brace| at.start + brace));
        let ours = data.and_then(|data| ours(event, data)).unwrap_or(Ours::Part(event.len()..event.len()));
        self.put_event(event, &ours, finish_brace, out);
        (self.data_lines, self.passing, self.after_cr) = (0, false, event.ends_with(b"\r"));
        held.clear();
        if held.capacity() <= HELD_BYTES_KEPT {
            self.held = held;
        }
    }

    /// Puts a whole event out, but for what is ours in it. One that finishes the answer has its closing brace told.
    fn put_event(&mut self, event: &[u8], ours: &Ours, finish_brace: Option<usize>, out: &mut Vec<u8>) {
        match ours {
            Ours::ButTimings { timings, .. } if !self.finish.is_empty() => {
                let member = [b",", &event[timings.clone()]].concat();
                self.finish.splice(self.finish_brace..self.finish_brace, member);
                self.release(out);
                self.dropped = true;
                return;
            }
            _ => self.release(out),
        }
        match ours {
            Ours::All => {
                // Of the line that white space begins, more of it may have gone out before anything told what this is:
                // the next event must not go on with it.
                if let Some(space @ (b' ' | b'\t' | 0x0c)) = event.first() {
                    self.put(&[*space, b'\n'], out);
                }
                self.dropped = true;
            }
            Ours::Part(part) => {
                let mut finish = Vec::new();
                let out = if finish_brace.is_some() { &mut finish } else { out };
                self.put(&event[..part.start], out);
                out.extend_from_slice(&event[part.end..]);
                if let Some(brace) = finish_brace {
                    self.finish_brace = finish.len() - (event.len() - brace);
                    self.finish = finish; // it may go with what comes at once
                }
            }
            Ours::ButTimings { usage, choices, .. } => {
                let (first, second, with): (_, _, [&[u8]; 2]) = if usage.start < choices.start {
                    (usage, choices, [b"", NO_WORDS])
                } else {
                    (choices, usage, [NO_WORDS, b""])
                };
                self.put(&event[..first.start], out);
                for part in [with[0], &event[first.end..second.start], with[1], &event[second.end..]] {
                    out.extend_from_slice(part);
                }
            }
        }
    }

    /// All that came at once was read.
    pub(super) fn release(&mut self, out: &mut Vec<u8>) {
        out.append(&mut std::mem::take(&mut self.finish));
    }

    /// The input ends within the event, of which it brought `part`.
    fn hold(&mut self, part: &[u8], out: &mut Vec<u8>) {
        self.after_cr &= part.is_empty();
        self.held.extend_from_slice(part);
        if self.passing || self.held.len() > EVENT_BYTES_MAX {
            self.passing = true;
            self.release(out);
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

/// What is there only because we asked for usage, by its place in the event.
enum Ours {
    All,
    Part(Range<usize>),
    /// The chunk, but for a member that would stand on another.
    ButTimings {
        usage: Range<usize>,
        choices: Range<usize>,
        timings: Range<usize>,
    },
}

/// Of a chunk that finishes an answer, where its closing brace stands.
fn finish_brace(data: &[u8]) -> Option<usize> {
    let at = FINISH_KEY.find(data)?;
    let value = data[at + FINISH_KEY.needle().len()..].trim_ascii_start().strip_prefix(b":")?;
    let object = data.trim_ascii_end();
    if !value.trim_ascii_start().starts_with(b"\"") || !object.ends_with(b"}") {
        return None;
    }
    let mut scanner = Scanner::new(&const { Paths::new(&[]) });
    scanner.feed(object, |_| {});
    scanner.is_done().then(|| object.len() - 1)
}

/// `None` where nothing of it is.
fn ours(event: &[u8], at: Range<usize>) -> Option<Ours> {
    let data = &event[at.clone()];
    let in_event = |range: Range<usize>| range.start + at.start..range.end + at.start;
    USAGE_KEY.find(data)?;
    Some(match find(data)? {
        Chunk { usage: (value, true), .. } | Chunk { usage: (value, _), has_more: true, .. } => {
            Ours::Part(in_event(member(data, &value)?))
        }
        Chunk { usage: (value, _), choices: Some(choices), timings: Some(timings), .. } => {
            let usage = member(data, &value).filter(|usage| !overlap(usage, &choices));
            match (usage, key(data, &timings, b"\"timings\"")) {
                (Some(usage), Some(start)) => Ours::ButTimings {
                    usage: in_event(usage),
                    choices: in_event(choices),
                    timings: in_event(start..timings.end),
                },
                _ => Ours::All,
            }
        }
        _ => Ours::All,
    })
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

/// What matters of a chunk with usage that is not the client's.
struct Chunk {
    /// Where the value stands, and whether it is null.
    usage: (Range<usize>, bool),
    choices: Option<Range<usize>>,
    timings: Option<Range<usize>>,
    /// Something that the client would see on a chunk like this one.
    has_more: bool,
}

/// Reads a chunk; `None` where its usage comes unasked, or it is no chunk.
fn find(data: &[u8]) -> Option<Chunk> {
    // A chunk without any choices has none (vLLM's successors leave the member out, others write null).
    let (mut usage, mut choices, mut choices_empty, mut timings, mut has_more) = (None, None, true, None, false);
    let mut scanner = Scanner::new(&PATHS);
    scanner.feed(data, |found| {
        let at = found.at.start as usize..found.at.end as usize;
        match found.path {
            USAGE => usage = Some((at, found.raw == Some(b"null"))),
            CHOICES => {
                let bare =
                    |raw: &[u8]| raw == b"null" || raw.iter().filter(|byte| !byte.is_ascii_whitespace()).eq(b"[]");
                (choices, choices_empty) = (Some(at), found.raw.is_some_and(bare));
            }
            TIMINGS => timings = Some(at),
            MODERATION | FILTERS => has_more = true,
            _ => {}
        }
    });
    // Usage beside real choices comes from a server that sends it unasked.
    let usage = usage.filter(|(_, is_null)| scanner.is_done() && (*is_null || choices_empty))?;
    Some(Chunk { usage, choices, timings, has_more })
}

/// Where the key starts whose value stands at `value`: with its quotes it is this one.
fn key(data: &[u8], value: &Range<usize>, name: &[u8]) -> Option<usize> {
    let before = |at: usize| data[..at].iter().rposition(|byte| !byte.is_ascii_whitespace());
    let colon = before(value.start).filter(|&at| data[at] == b':')?;
    let quote = before(colon)?;
    (quote + 1).checked_sub(name.len()).filter(|&at| data[at..=quote] == *name)
}

/// The range of the whole member of usage, whose value stands at `value`: its key, and one of the commas beside it.
fn member(data: &[u8], value: &Range<usize>) -> Option<Range<usize>> {
    let before = |at: usize| data[..at].iter().rposition(|byte| !byte.is_ascii_whitespace());
    let start = key(data, value, b"\"usage\"")?;
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

    /// llama.cpp's: a member of the finish chunk where nobody asks, of the usage chunk where somebody does.
    #[test]
    fn what_came_along_with_usage_stays() {
        const TEXT: &str = r#"data: {"choices":[{"delta":{"content":"x"},"finish_reason":null}],"id":"c"}||"#;
        const FINISH: &str = r#"data: {"choices":[{"delta":{}, "finish_reason": "stop"}],"id":"c"}||"#;
        const WITH_TIMINGS: &str =
            r#"data: {"choices":[{"delta":{}, "finish_reason": "stop"}],"id":"c","timings":{"n":[1]}}||"#;
        const ALONE: &str =
            r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":null}],"id":"c","timings":{"n":[1]}}||"#;
        for usage in [
            r#"data: {"choices":[],"id":"c","usage":{"prompt_tokens":1},"timings":{"n":[1]}}||"#,
            r#"data: {"usage":{"prompt_tokens":1},"choices":[],"id":"c","timings":{"n":[1]}}||"#,
        ] {
            for line_end in ["\n", "\r\n", "\r"] {
                let of = |events: &[&str]| events.concat().replace('|', line_end);
                let with = of(&[TEXT, FINISH, usage, "data: [DONE]||"]);
                let together = of(&[TEXT, WITH_TIMINGS, "data: [DONE]||"]);
                let apart = of(&[TEXT, FINISH, ALONE, "data: [DONE]||"]);
                let (finish, usage) = (of(&[TEXT, FINISH]).len(), of(&[TEXT, FINISH, usage]).len());
                for cut in 0..=with.len() {
                    let (mut reader, mut out) = (reader(), Vec::new());
                    for part in [&with[..cut], &with[cut..]] {
                        reader.feed(part.as_bytes(), &mut out).unwrap();
                        reader.release(&mut out);
                    }
                    reader.end(&mut out);
                    // In CR LF, an event is over with its last CR.
                    let over = usize::from(line_end == "\r\n");
                    let expected = if (finish - over..usage - over).contains(&cut) { &apart } else { &together };
                    assert_eq!(&String::from_utf8(out).unwrap(), expected, "{line_end:?} cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn what_came_along_with_usage_goes_into_no_line_but_the_finish_chunks_object() {
        let usage = r#"data: {"choices":[],"usage":{"prompt_tokens":1},"timings":{"n":[1]}}||"#;
        let alone = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":null}],"timings":{"n":[1]}}||"#;
        let object = r#"data: {"choices":[{"finish_reason":"stop"}]}|id: {}||"#;
        let with_timings = r#"data: {"choices":[{"finish_reason":"stop"}],"timings":{"n":[1]}}|id: {}||"#;
        let torn = r#"data: {"choices":[],"x"::{},"finish_reason":"s||"#;
        let marked = format!("{usage}\u{feff}{object}{object}");
        for (with, without) in [
            (format!("{object}{usage}"), with_timings.to_owned()),
            (format!("{torn}{usage}"), format!("{torn}{alone}")),
            (format!("{marked}{usage}"), format!("{alone}\u{feff}{object}{with_timings}")),
        ] {
            for line_end in ["\n", "\r\n", "\r"] {
                let with = with.replace('|', line_end);
                assert_eq!(edit(&with, with.len()), without.replace('|', line_end));
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
                reader.release(&mut out);
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
