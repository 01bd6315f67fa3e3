//! An incremental JSON scanner that finds the values at a few watched places of a document.
//!
//! In: the document's bytes, cut anywhere. Out: the raw bytes of each value at a watched path, with its position.
//! It holds no more than the value it is after (each path has a cap), whatever the document's size, and it never
//! validates more than it needs to keep its place: a document that serde_json takes is scanned rightly, any other makes
//! it stop ([`Scanner::failed`]) or find something harmless, but never panic.

mod paths;
mod scalars;

pub use paths::{EACH, Path, Paths};
pub use scalars::{find_quote, string, string_end, write_string};

use paths::{PATH_KEYS_MAX, WATCHED_BYTES_MAX};
use scalars::{is_literal, is_space, is_structure, unescape};
use std::ops::Range;

/// Containers deeper than this are counted, and no longer told apart by their kind. Some readers stop there
/// (serde_json), others go on for thousands of levels (Python, Node.js): what stands behind is read for them.
const DEPTH_MAX: usize = 127;
/// Bytes of a `\u` escape.
const ESCAPE_BYTES: usize = 6;
/// Longest raw key that is compared with a watched one: every byte of the longest could be a `\u` escape.
const KEY_BYTES_MAX: usize = WATCHED_BYTES_MAX * ESCAPE_BYTES;
/// U+FEFF in UTF-8, which may stand before the document.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A value found at a watched place.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// Index of the path in the watched list.
    pub path: usize,
    /// Where the value stands in the document, in bytes from its start.
    pub at: Range<u64>,
    /// Its raw JSON; `None` where it is over the path's cap.
    pub raw: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A value must start here; a `]` may stand instead of the first in an array.
    Value {
        or_end: bool,
    },
    /// A key must start here; a `}` may stand instead of the first in an object.
    Key {
        or_end: bool,
    },
    InKey {
        escaped: bool,
    },
    Colon,
    InString {
        escaped: bool,
    },
    InLiteral,
    /// In a container in which nothing is watched: only its strings and brackets are followed, until the depth is that
    /// outside of it again.
    Nested {
        in_string: bool,
        escaped: bool,
        outside: usize,
    },
    /// A comma or the end of the container must follow.
    AfterValue,
    Done,
    Failed,
}

#[derive(Debug)]
struct Capture {
    path: usize,
    depth: usize,
    start: u64,
}

/// Scanner of one document; [`Scanner::reset`] makes it ready for the next.
#[derive(Debug)]
pub struct Scanner {
    paths: &'static Paths,
    state: State,
    depth: usize,
    /// Open containers beyond `DEPTH_MAX`.
    deeper: usize,
    /// The lowest bit says that the innermost container is an object, the next that the one around it is.
    objects: u128,
    /// For each depth, the paths (bits) whose first keys led to the container there; of an array, those that go on to
    /// its elements.
    open: [u64; PATH_KEYS_MAX],
    /// The paths whose first keys lead to the value that comes next.
    next: u64,
    capture: Option<Capture>,
    /// Bytes of a key or of a captured value from earlier input.
    held: Vec<u8>,
    held_overflow: bool,
    /// Document offset of the current input's first byte.
    offset: u64,
}

impl Scanner {
    /// A scanner for these places.
    pub fn new(paths: &'static Paths) -> Self {
        Self {
            paths,
            state: State::Value { or_end: false },
            depth: 0,
            deeper: 0,
            objects: 0,
            open: [0; PATH_KEYS_MAX],
            next: u64::MAX.checked_shr(64 - paths.len() as u32).unwrap_or(0),
            capture: None,
            held: Vec::new(),
            held_overflow: false,
            offset: 0,
        }
    }

    /// Forgets the document, keeping the memory.
    pub fn reset(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        held.clear();
        *self = Self { held, ..Self::new(self.paths) };
    }

    /// True once the root value has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// True where the bytes were not JSON: nothing more will be found.
    pub fn failed(&self) -> bool {
        self.state == State::Failed
    }

    /// Takes the document's next bytes, giving each watched value to `found` as it ends.
    pub fn feed(&mut self, input: &[u8], mut found: impl FnMut(Found<'_>)) {
        let mut at = 0;
        // Where the key or captured value that is being read starts in this input.
        let mut piece_start = 0;
        while at < input.len() {
            let value_ended = match self.state {
                State::InString { ref mut escaped } => match string_end(input, &mut at, escaped) {
                    Some(_) => true,
                    None => break,
                },
                State::InKey { ref mut escaped } => {
                    let Some(is_plain) = string_end(input, &mut at, escaped) else { break };
                    self.end_key(&input[piece_start..at - 1], is_plain);
                    let colon = input.get(at) == Some(&b':'); // where everybody has it
                    at += usize::from(colon);
                    self.state = if colon { State::Value { or_end: false } } else { State::Colon };
                    false
                }
                State::Nested { .. } => match self.pass(input, &mut at) {
                    true => true,
                    false => break,
                },
                State::InLiteral => {
                    let rest = &input[at..];
                    at += rest.iter().position(|byte| !is_literal(*byte)).unwrap_or(rest.len());
                    at < input.len()
                }
                State::Failed => break,
                _ if is_space(input[at]) => {
                    at += 1;
                    false
                }
                _ => self.token(input[at], &mut at, &mut piece_start),
            };
            if value_ended {
                self.end_value(input, piece_start, at, &mut found);
            }
        }
        if self.capture.is_some() || matches!(self.state, State::InKey { .. }) {
            self.hold(&input[piece_start.min(input.len())..]);
        }
        self.offset += input.len() as u64;
    }

    /// Moves `at` behind the end of a container in which nothing is watched; false where the input ends first, or its
    /// brackets are wrong.
    fn pass(&mut self, input: &[u8], at: &mut usize) -> bool {
        let State::Nested { mut in_string, mut escaped, outside } = self.state else { return false };
        loop {
            if in_string && string_end(input, at, &mut escaped).is_none() {
                break;
            }
            in_string = false;
            let Some(offset) = input[*at..].iter().position(|byte| is_structure(*byte)) else {
                *at = input.len();
                break;
            };
            let byte = input[*at + offset];
            *at += offset + 1;
            match byte {
                b'"' => in_string = true,
                b'{' | b'[' if self.depth < DEPTH_MAX => self.enter(byte == b'{'),
                b'{' | b'[' => self.deeper += 1,
                b'}' | b']' if self.deeper > 0 => self.deeper -= 1,
                b'}' | b']' if self.in_object() == (byte == b'}') => {
                    self.leave();
                    if self.depth == outside {
                        return true;
                    }
                }
                _ => {
                    self.state = State::Failed;
                    return false;
                }
            }
        }
        self.state = State::Nested { in_string, escaped, outside };
        false
    }

    /// One container deeper.
    fn enter(&mut self, object: bool) {
        self.objects = self.objects << 1 | u128::from(object);
        self.depth += 1;
    }

    /// Out of one.
    fn leave(&mut self) {
        self.objects >>= 1;
        self.depth -= 1;
    }

    /// One byte of structure, at `at`; true where it ends a container.
    #[inline(always)]
    fn token(&mut self, byte: u8, at: &mut usize, piece_start: &mut usize) -> bool {
        *at += 1;
        self.state = match self.state {
            State::Value { or_end: true } if byte == b']' => return self.close(byte),
            State::Value { .. } => {
                self.start_value(byte, *at - 1, piece_start);
                return false;
            }
            State::Key { .. } if byte == b'"' => {
                *piece_start = *at;
                self.clear_held();
                State::InKey { escaped: false }
            }
            State::Key { or_end: true } if byte == b'}' => return self.close(byte),
            State::Colon if byte == b':' => State::Value { or_end: false },
            State::AfterValue if byte == b',' && self.in_object() => State::Key { or_end: false },
            State::AfterValue if byte == b',' => {
                self.next = self.open.get(self.depth - 1).copied().unwrap_or(0);
                State::Value { or_end: false }
            }
            State::AfterValue if matches!(byte, b'}' | b']') => return self.close(byte),
            _ => State::Failed,
        };
        false
    }

    fn start_value(&mut self, byte: u8, start: usize, piece_start: &mut usize) {
        let here = self.next & self.paths.by_keys.get(self.depth).copied().unwrap_or(0);
        if here != 0 {
            let path = here.trailing_zeros() as usize;
            self.capture = Some(Capture { path, depth: self.depth, start: self.offset + start as u64 });
            *piece_start = start;
            self.clear_held();
        }
        self.state = match byte {
            b'{' | b'[' => {
                let object = byte == b'{';
                // An object's keys choose among the paths, all elements of an array go on with the same.
                let goes_on = if object { u64::MAX } else { self.paths.each.get(self.depth).copied().unwrap_or(0) };
                let inside = self.next & goes_on;
                if let Some(open) = self.open.get_mut(self.depth) {
                    *open = inside;
                }
                let outside = self.depth;
                self.enter(object);
                if inside == 0 || self.capture.is_some() {
                    self.state = State::Nested { in_string: false, escaped: false, outside };
                    return;
                }
                self.next = if object { 0 } else { inside };
                if object { State::Key { or_end: true } } else { State::Value { or_end: true } }
            }
            b'"' => State::InString { escaped: false },
            _ if is_literal(byte) => State::InLiteral,
            _ if self.depth == 0 && BYTE_ORDER_MARK.get(self.offset as usize + start) == Some(&byte) => return,
            _ => State::Failed,
        };
    }

    fn in_object(&self) -> bool {
        self.objects & 1 != 0
    }

    /// True where this ends the container: it is of that kind.
    fn close(&mut self, byte: u8) -> bool {
        if self.depth == 0 || self.in_object() != (byte == b'}') {
            self.state = State::Failed;
            return false;
        }
        self.leave();
        true
    }

    /// A value has ended before `end`; reports it where it is the captured one.
    fn end_value(&mut self, input: &[u8], start: usize, end: usize, found: &mut impl FnMut(Found<'_>)) {
        self.state = if self.depth == 0 { State::Done } else { State::AfterValue };
        if let Some(capture) = self.capture.take_if(|capture| capture.depth == self.depth) {
            self.report(&capture, &input[start..end], self.offset + end as u64, found);
        }
    }

    /// Reports a value, of which this is the last part; or all of it.
    fn report(&mut self, capture: &Capture, part: &[u8], end: u64, found: &mut impl FnMut(Found<'_>)) {
        let &Capture { path, start, .. } = capture;
        let cap = self.paths.list[path].value_bytes_max;
        let raw = if end - start > cap as u64 || self.held_overflow {
            None
        } else if self.held.is_empty() {
            Some(part)
        } else {
            self.held.extend_from_slice(part);
            Some(&self.held[..])
        };
        found(Found { path, at: start..end, raw });
        self.clear_held();
    }

    /// Finds which paths go on through this key.
    fn end_key(&mut self, last_part: &[u8], is_plain: bool) {
        let level = self.depth - 1;
        let candidates = self.open.get(level).copied().unwrap_or(0);
        self.next = if candidates == 0 || self.held_overflow {
            0
        } else if is_plain && self.held.is_empty() {
            self.paths.with_key(candidates, level, last_part)
        } else {
            let raw = [&self.held[..], last_part].concat();
            let decoded = if is_plain && !self.held.contains(&b'\\') { None } else { unescape(&raw) };
            self.paths.with_key(candidates, level, decoded.as_deref().map_or(&raw, str::as_bytes))
        };
        self.clear_held();
    }

    /// Keeps what was read of a key or captured value when the input ends inside it.
    fn hold(&mut self, part: &[u8]) {
        let cap = self.capture.as_ref().map_or(KEY_BYTES_MAX, |capture| self.paths.list[capture.path].value_bytes_max);
        if self.held_overflow || self.held.len() + part.len() > cap {
            self.held = Vec::new();
            self.held_overflow = true;
        } else {
            self.held.extend_from_slice(part);
        }
    }

    /// Bytes of memory that it keeps beside its own size.
    #[cfg(test)]
    pub(crate) fn held_capacity(&self) -> usize {
        self.held.capacity()
    }

    fn clear_held(&mut self) {
        self.held.clear();
        self.held_overflow = false;
    }
}

#[cfg(test)]
mod tests;
