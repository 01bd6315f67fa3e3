//! The fields of a multipart request that matter here, read on the side while the body streams through.
//!
//! In: the `Content-Type` and the body's bytes, cut anywhere. Out: the values of the fields `model`, `response_format`
//! and `n`. It holds at most one part's header or one of these values, searches a file at the speed of `memmem`, and
//! changes nothing. The grammar is that of RFC 7578 (`multipart/form-data`) over RFC 2046 §5.1.1, strictly: what
//! another reader might take in another way gives no value, never a wrong one.
//!
//! ```text
//!   Content ──delimiter's text──▶ Behind ──line end──▶ Head ──empty line──▶ Content (kept, of a wanted field)
//!      ▲                            │ │
//!      └──── something else ────────┘ └── "--" ──▶ Over
//! ```

use super::inspect::clip;
use crate::base::digits::whole_number;
use memchr::memmem::{self, Finder};

/// Longest header of a part that is read; clients send a tenth of it.
const HEAD_BYTES_MAX: usize = 4096;
/// Longest value of a field.
const VALUE_BYTES_MAX: usize = 512;
/// RFC 2046 §5.1.1.
const BOUNDARY_BYTES_MAX: usize = 70;
/// The names of the fields that are read.
const NAMES: [&[u8]; 3] = [b"model", b"response_format", b"n"];
const MODEL: usize = 0;
const RESPONSE_FORMAT: usize = 1;
const ANSWERS: usize = 2;

/// The reader of one body.
#[derive(Debug)]
pub struct MultipartReader {
    /// `CRLF "--" boundary`: its text has one CR, so where it does not go on it cannot have begun again in itself.
    delimiter: Finder<'static>,
    state: State,
    /// The field whose content, or whose end, is being read.
    wanted: Option<usize>,
    /// A part's header, or a field's value.
    held: Vec<u8>,
    fields: [Value; NAMES.len()],
    /// The model has changed.
    changed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a part, or before the first. So many bytes of the delimiter stand at the end of what was read.
    Content(usize),
    /// Behind a delimiter's text: what follows decides whether it is one.
    Behind(Behind),
    Head,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Text,
    Dash,
    /// White space that a transport has added.
    Padding,
    Cr,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Value {
    #[default]
    Absent,
    Given(String),
    /// Given twice and differently, or not readable: readers differ in what they take.
    Ambiguous,
}

impl MultipartReader {
    /// A reader for a body of this type; `None` where that is no form, or its boundary is not valid.
    pub fn new(content_type: &[u8]) -> Option<Self> {
        if !kind(content_type).eq_ignore_ascii_case(b"multipart/form-data") {
            return None;
        }
        let parameters = parameters(content_type)?;
        let boundary = one(&parameters, b"boundary").filter(|boundary| is_boundary(boundary))?;
        Some(Self {
            delimiter: Finder::new(&[b"\r\n--", boundary].concat()).into_owned(),
            state: State::Content(2), // the first delimiter needs no line end before it
            wanted: None,
            held: Vec::new(),
            fields: Default::default(),
            changed: false,
        })
    }

    /// The model as far as the body was read, at most 128 bytes.
    pub fn model(&self) -> Option<&str> {
        self.value(MODEL)
    }

    /// The form of the answer that is asked for, as far as the body was read: `json` unless it says another; `None`
    /// where that cannot be said.
    pub fn response_format(&self) -> Option<&str> {
        let is_absent = self.fields[RESPONSE_FORMAT] == Value::Absent;
        if is_absent { Some("json") } else { self.value(RESPONSE_FORMAT) }
    }

    /// How many answers are asked for, as far as the body was read; `None` where that cannot be said.
    pub fn answers(&self) -> Option<u64> {
        match &self.fields[ANSWERS] {
            Value::Absent => Some(1),
            Value::Given(number) => whole_number(number.as_bytes()),
            Value::Ambiguous => None,
        }
    }

    fn value(&self, field: usize) -> Option<&str> {
        match &self.fields[field] {
            Value::Given(value) => Some(value),
            Value::Absent | Value::Ambiguous => None,
        }
    }

    /// Takes the body's next bytes; true where the model has changed.
    pub fn feed(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let used = match self.state {
                State::Content(0) => self.content(bytes),
                State::Content(matched) => self.delimiter_goes_on(bytes, matched),
                State::Behind(behind) => self.behind(behind, bytes[0]),
                State::Head => self.head(bytes),
                State::Over => break,
            };
            bytes = &bytes[used..];
        }
        std::mem::take(&mut self.changed)
    }

    /// Content up to a delimiter's text, or all there is; how much it is.
    fn content(&mut self, bytes: &[u8]) -> usize {
        let delimiter = self.delimiter.needle();
        let (end, matched) = match self.delimiter.find(bytes) {
            Some(at) => (at, delimiter.len()),
            None => {
                let last = bytes.len().saturating_sub(delimiter.len() - 1);
                let begun = memchr::memrchr(b'\r', &bytes[last..]).map(|at| last + at);
                let end = begun.filter(|&at| delimiter.starts_with(&bytes[at..])).unwrap_or(bytes.len());
                (end, bytes.len() - end)
            }
        };
        let found = matched == delimiter.len();
        self.keep(&bytes[..end]);
        self.state = if found { State::Behind(Behind::Text) } else { State::Content(matched) };
        end + matched
    }

    /// A delimiter's text that began in earlier input.
    fn delimiter_goes_on(&mut self, bytes: &[u8], matched: usize) -> usize {
        let rest = &self.delimiter.needle()[matched..];
        let more = bytes.iter().zip(rest).take_while(|(byte, next)| byte == next).count();
        self.state = match more {
            _ if more == rest.len() => State::Behind(Behind::Text),
            _ if more == bytes.len() => State::Content(matched + more),
            _ => {
                let content = self.delimiter.needle()[..matched + more].to_vec();
                self.keep(&content);
                State::Content(0)
            }
        };
        more
    }

    /// One byte behind a delimiter's text (RFC 2046 §5.1.1: `--`, or white space and a line end).
    fn behind(&mut self, behind: Behind, byte: u8) -> usize {
        self.state = match (behind, byte) {
            (Behind::Text, b'-') => State::Behind(Behind::Dash),
            (Behind::Dash, b'-') => {
                self.end_part();
                State::Over
            }
            (Behind::Text | Behind::Padding, b' ' | b'\t') => State::Behind(Behind::Padding),
            (Behind::Text | Behind::Padding, b'\r') => State::Behind(Behind::Cr),
            (Behind::Cr, b'\n') => {
                self.end_part();
                State::Head
            }
            _ => {
                // Content after all. It must not stand in any (RFC 2046 §5.1.1), and not every reader looks behind it.
                if let Some(field) = self.wanted.take() {
                    self.give(field, Value::Ambiguous);
                }
                self.held.clear();
                self.state = State::Content(0);
                return 0;
            }
        };
        1
    }

    /// A part's header up to its empty line, or all there is.
    fn head(&mut self, bytes: &[u8]) -> usize {
        let searched = self.held.len().saturating_sub(3);
        let taken = bytes.len().min(HEAD_BYTES_MAX - self.held.len());
        self.held.extend_from_slice(&bytes[..taken]);
        let end = if self.held.starts_with(b"\r\n") {
            Some(2)
        } else {
            memmem::find(&self.held[searched..], b"\r\n\r\n").map(|at| searched + at + 4)
        };
        let unused = match end {
            Some(end) => self.held.len() - end,
            None if self.held.len() == HEAD_BYTES_MAX => 0,
            None => return taken,
        };
        self.wanted = end.and_then(|end| wanted(&self.held[..end]));
        self.held.clear();
        self.state = State::Content(0);
        taken - unused
    }

    /// Keeps what belongs to a field's value.
    fn keep(&mut self, content: &[u8]) {
        let Some(field) = self.wanted else { return };
        if self.held.len() + content.len() <= VALUE_BYTES_MAX {
            self.held.extend_from_slice(content);
        } else {
            self.held.clear();
            self.wanted = None;
            self.give(field, Value::Ambiguous);
        }
    }

    /// A part has ended.
    fn end_part(&mut self) {
        if let Some(field) = self.wanted.take() {
            let value = std::str::from_utf8(&self.held).ok().filter(|value| !value.is_empty());
            self.give(field, value.map_or(Value::Ambiguous, |value| Value::Given(clip(value).to_owned())));
        }
        self.held.clear();
    }

    fn give(&mut self, field: usize, value: Value) {
        let known = &mut self.fields[field];
        if *known != value {
            *known = if *known == Value::Absent { value } else { Value::Ambiguous };
            self.changed |= field == MODEL;
        }
    }
}

/// Which of the fields a part's header is of; not of a file (RFC 7578 §4.2). A folded line, a second
/// `Content-Disposition` or an encoded value (§4.7) is no client's way, and not understood by all readers.
fn wanted(head: &[u8]) -> Option<usize> {
    let mut disposition = None;
    for line in head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
        let Some(colon) = memchr::memchr(b':', line) else { if line.is_empty() { continue } else { return None } };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let plain = || [&b"7bit"[..], b"8bit", b"binary"].iter().any(|coding| value.eq_ignore_ascii_case(coding));
        if !name.iter().all(|&byte| is_token(byte))
            || name.eq_ignore_ascii_case(b"content-transfer-encoding") && !plain()
            || name.eq_ignore_ascii_case(b"content-disposition") && disposition.replace(value).is_some()
        {
            return None;
        }
    }
    let parameters = disposition.filter(|value| kind(value).eq_ignore_ascii_case(b"form-data")).and_then(parameters)?;
    let is_file = |name: &[u8]| name.eq_ignore_ascii_case(b"filename") || name.eq_ignore_ascii_case(b"filename*");
    let name = one(&parameters, b"name").filter(|_| !parameters.iter().any(|(name, _)| is_file(name)))?;
    NAMES.iter().position(|wanted| *wanted == name)
}

/// What stands before the parameters.
fn kind(value: &[u8]) -> &[u8] {
    value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii()
}

/// A parameter's name, and its value without quotes.
type Parameter<'v> = (&'v [u8], Vec<u8>);

/// The parameters of a header's value (RFC 9110 §5.6.6); `None` where it does not follow the grammar.
fn parameters(value: &[u8]) -> Option<Vec<Parameter<'_>>> {
    let mut found = Vec::new();
    let mut rest = &value[memchr::memchr(b';', value).unwrap_or(value.len())..];
    while let Some(parameter) = rest.strip_prefix(b";").map(<[u8]>::trim_ascii_start).filter(|rest| !rest.is_empty()) {
        let name = &parameter[..memchr::memchr(b'=', parameter)?];
        let (text, after) = match parameter[name.len() + 1..].strip_prefix(b"\"") {
            Some(quoted) => unquote(quoted)?,
            // Clients leave the quotes away where the grammar asks for them, and are understood.
            None => {
                let text = &parameter[name.len() + 1..];
                let (text, after) = text.split_at(memchr::memchr(b';', text).unwrap_or(text.len()));
                (text.trim_ascii_end().to_vec(), after)
            }
        };
        if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) || text.contains(&b'"') {
            return None;
        }
        found.push((name, text));
        rest = after.trim_ascii_start();
    }
    rest.strip_prefix(b";").unwrap_or(rest).trim_ascii().is_empty().then_some(found)
}

/// The inside of a quoted string, and what follows it.
fn unquote(quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut text, mut at) = (Vec::new(), 0);
    loop {
        match quoted.get(at)? {
            b'"' => return Some((text, &quoted[at + 1..])),
            b'\\' => {
                text.push(*quoted.get(at + 1)?);
                at += 2;
            }
            &byte => {
                text.push(byte);
                at += 1;
            }
        }
    }
}

/// The value of a parameter that stands there once.
fn one<'p>(parameters: &'p [Parameter<'_>], name: &[u8]) -> Option<&'p [u8]> {
    let mut values = parameters.iter().filter(|parameter| parameter.0.eq_ignore_ascii_case(name));
    let value = &values.next()?.1;
    values.next().is_none().then_some(value)
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 2046 §5.1.1.
fn is_boundary(text: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(byte);
    (1..=BOUNDARY_BYTES_MAX).contains(&text.len()) && text.iter().all(allowed) && !text.ends_with(b" ")
}

#[cfg(test)]
mod tests;
