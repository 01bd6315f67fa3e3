//! What must hold for any bytes: the bodies of the fuzz targets, which `tests/fuzz_corpus.rs` runs too.
//!
//! In: one input. Its first bytes say how the rest is cut into parts and read (see [`Input`]). A property panics where
//! it does not hold; else it says whether the rest was accepted, so that a corpus can be held to have both kinds. Each
//! compares a reading in parts with a reading in one piece, and what was accepted with a second, simpler reader.

// Each target uses one of them.
#![allow(dead_code)]

#[path = "connection.rs"]
pub mod connection;
#[path = "first_bytes.rs"]
pub mod first_bytes;

use flate2::{Compression, write::GzEncoder};
use openai_api_proxy::base::clock::Now;
use openai_api_proxy::http::body::BodyWriter;
use openai_api_proxy::http::chunked::{Decoder, Piece};
use openai_api_proxy::http::framing::Framing;
use openai_api_proxy::http::head::{HeadEnd, RequestHead, ResponseHead, storage};
use openai_api_proxy::http::headers::{Header, Known, known};
use openai_api_proxy::http::{HttpError, headers::Connection};
use openai_api_proxy::json::{EACH, Path, Paths, Scanner};
use openai_api_proxy::sse::{self, Splitter};
use openai_api_proxy::usage::reader::{Coding, Form, UsageReader};
use openai_api_proxy::usage::record::Endpoint;
use openai_api_proxy::usage::session::{Ended, Report, Session};
use openai_api_proxy::websocket::{self, Frames};
use serde_json::Value;
use std::io::Write;
use std::ops::Range;

/// An input: three bytes whose low five bits are the lengths of the parts, in turn (`a` is 1, `z` is 26, `@` is all
/// that is left), one byte that says how to read, and what is read.
struct Input<'a> {
    lengths: [usize; 3],
    mode: u8,
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn parse(input: &'a [u8]) -> Option<Self> {
        let (&[a, b, c, mode], bytes) = input.split_first_chunk()?;
        Some(Self { lengths: [a, b, c].map(|byte| usize::from(byte & 0x1f)), mode, bytes })
    }

    /// The bytes that are read, in parts.
    fn parts(&self) -> Vec<&'a [u8]> {
        let (mut parts, mut rest) = (Vec::new(), self.bytes);
        for length in self.lengths.iter().cycle() {
            let length = if *length == 0 { rest.len() } else { rest.len().min(*length) };
            let (part, left) = rest.split_at(length);
            parts.push(part);
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        parts
    }
}

// ----------------------------------------------------------------------------------------------------------- JSON

const PATHS: &[Path] = &[
    Path { keys: &["usage"], value_bytes_max: 24 },
    Path { keys: &["response", "usage"], value_bytes_max: 1024 },
    Path { keys: &["model"], value_bytes_max: 8 },
    Path { keys: &["a", "usage", "b"], value_bytes_max: 0 },
    Path { keys: &["b", EACH], value_bytes_max: 8 },
    Path { keys: &[EACH, "a", EACH, "model"], value_bytes_max: 8 },
];

/// A path's index, where the value stands, and its bytes.
type Hit = (usize, Range<usize>, Option<Vec<u8>>);

/// Any split finds the same values; of a document that serde_json takes, those that serde_json finds.
pub fn json(input: &[u8]) -> bool {
    let Some(input) = Input::parse(input) else { return false };
    let document = input.bytes;
    let (hits, done, failed) = scan(&[document]);
    assert_eq!(scan(&input.parts()), (hits.clone(), done, failed));
    for (path, at, raw) in &hits {
        let fits = at.len() <= PATHS[*path].value_bytes_max;
        assert_eq!(raw.as_deref(), fits.then(|| &document[at.clone()]), "the bytes at the place, or over the cap");
    }
    let Ok(value) = serde_json::from_slice::<Value>(document) else { return false };
    // A number or a word at the root has no end of its own.
    assert!(done || !(value.is_object() || value.is_array() || value.is_string()));
    assert!(!failed);
    let read = |at: &Range<usize>| serde_json::from_slice::<Value>(&document[at.clone()]).expect("a value of its own");
    let found: Vec<(usize, Value)> = hits.iter().map(|(path, at, _)| (*path, read(at))).collect();
    if colons(document) == members(&value) {
        // No key is repeated, so serde_json has kept everything.
        for (index, path) in PATHS.iter().enumerate() {
            let found = found.iter().filter(|hit| hit.0 == index).map(|hit| &hit.1);
            assert!(found.eq(at_path(&value, path.keys)), "{:?}", path.keys);
        }
    }
    true
}

fn scan(parts: &[&[u8]]) -> (Vec<Hit>, bool, bool) {
    let (mut scanner, mut hits) = (Scanner::new(&const { Paths::new(PATHS) }), Vec::new());
    for part in parts {
        scanner.feed(part, |found| {
            let at = found.at.start as usize..found.at.end as usize;
            hits.push((found.path, at, found.raw.map(<[u8]>::to_vec)));
        });
    }
    (hits, scanner.is_done(), scanner.failed())
}

/// The values at a path, in the document's order.
fn at_path<'v>(value: &'v Value, keys: &[&str]) -> Vec<&'v Value> {
    let Some((key, rest)) = keys.split_first() else { return vec![value] };
    let inner: Vec<&Value> = match value {
        Value::Array(elements) if *key == EACH => elements.iter().collect(),
        Value::Object(members) if *key != EACH => members.get(*key).into_iter().collect(),
        _ => Vec::new(),
    };
    inner.into_iter().flat_map(|value| at_path(value, rest)).collect()
}

/// Members of all objects in a value.
fn members(value: &Value) -> usize {
    match value {
        Value::Object(object) => object.len() + object.values().map(members).sum::<usize>(),
        Value::Array(array) => array.iter().map(members).sum(),
        _ => 0,
    }
}

/// Members of all objects in a valid document, repeated keys included: colons outside of strings.
fn colons(document: &[u8]) -> usize {
    let (mut count, mut in_string, mut escaped) = (0, false, false);
    for byte in document {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b':' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

// ------------------------------------------------------------------------------------------------------------ SSE

/// Any split finds the same events, those of a reader by lines; any split is edited to the same stream, in which every
/// event that does not speak of usage is left as it was: one that finishes the answer may have got its timings.
pub fn sse(input: &[u8]) -> bool {
    let Some(input) = Input::parse(input) else { return false };
    let whole = events(&[input.bytes]);
    assert_eq!(events(&input.parts()), whole);
    assert_eq!(whole, events_by_line(input.bytes));
    let edited = edit(&[input.bytes]);
    assert_eq!(edit(&input.parts()), edited);
    let after = events(&[&edited]);
    let mut rest = after.iter();
    for event in whole.iter().filter(|event| !holds(event, b"\"usage\"")) {
        assert!(rest.any(|kept| kept == event || has_timings_more(kept, event)), "lost: {}", event.escape_ascii());
    }
    if !holds(input.bytes, b"\"usage\"") {
        assert_eq!(edited, input.bytes);
    }
    !whole.is_empty()
}

/// True where `kept` is the finishing object `event` with one member more, its last.
fn has_timings_more(kept: &[u8], event: &[u8]) -> bool {
    let object = event.trim_ascii_end();
    let Some(open) = object.strip_suffix(b"}").filter(|_| holds(object, b"\"finish_reason\"")) else { return false };
    kept.starts_with(&[open, b",\"timings\""].concat()) && kept.ends_with(&event[open.len()..])
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// The data of each event, the last one even without its blank line.
fn events(parts: &[&[u8]]) -> Vec<Vec<u8>> {
    let (mut splitter, mut events, mut data) = (Splitter::default(), Vec::new(), None::<Vec<u8>>);
    for mut part in parts.iter().copied() {
        loop {
            let (used, piece) = splitter.next(part);
            part = &part[used..];
            match piece {
                sse::Piece::More => break,
                sse::Piece::Data(bytes) => data.get_or_insert_default().extend_from_slice(bytes),
                sse::Piece::LineEnd => data.get_or_insert_default().push(b'\n'),
                sse::Piece::Whole(bytes) => {
                    assert_eq!(data, None, "nothing was reported before");
                    events.push([bytes, b"\n"].concat());
                }
                sse::Piece::Event(has_data) => {
                    assert_eq!(data.is_some(), has_data);
                    events.extend(data.take());
                }
            }
        }
        assert!(part.is_empty(), "the input is used up");
    }
    events.extend(data);
    events
}

/// The same, from the whole stream.
fn events_by_line(stream: &[u8]) -> Vec<Vec<u8>> {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let (mut lines, mut at) = (vec![Vec::new()], 0);
    while let Some(&byte) = stream.get(at) {
        at += 1;
        match byte {
            b'\r' | b'\n' => {
                at += usize::from(byte == b'\r' && stream.get(at) == Some(&b'\n'));
                lines.push(Vec::new());
            }
            _ => lines.last_mut().expect("a line").push(byte),
        }
    }
    let last = lines.len() - 1; // has no line end
    let (mut events, mut event): (Vec<Vec<u8>>, Option<Vec<u8>>) = (Vec::new(), None);
    for (index, line) in lines.iter().enumerate() {
        let value = line.strip_prefix(b"data:").map(|value| value.strip_prefix(b" ").unwrap_or(value));
        match value.or((line == b"data").then_some(&[])) {
            // Of a last line, what has come counts.
            Some(value) if index < last || !value.is_empty() => {
                let data = event.get_or_insert_default();
                data.extend_from_slice(value);
                data.extend_from_slice(if index < last { b"\n" } else { b"" });
            }
            None if line.is_empty() && index < last => events.extend(event.take()),
            _ => {}
        }
    }
    events.extend(event);
    events
}

fn edit(parts: &[&[u8]]) -> Vec<u8> {
    let mut reader = UsageReader::new(Endpoint::ChatCompletions, Form::Events, Coding::Identity, true);
    let mut out = Vec::new();
    for part in parts {
        reader.feed(part, &mut out).expect("it is not compressed, or not edited");
    }
    reader.end(&mut out);
    out
}

// ---------------------------------------------------------------------------------------------------------- heads

/// Any split ends at the same byte or is refused for the same reason. An accepted head says what its lines say, could
/// not be framed in a second way, and is read the same when it is written out again.
pub fn request_head(input: &[u8]) -> bool {
    let Some(input) = Input::parse(input) else { return false };
    let Some(head) = whole_head(&input) else { return false };
    let mut room = storage();
    let Ok(request) = RequestHead::parse(head, &mut room) else { return false };
    let line = format!("{} {} HTTP/1.{}", request.method, request.target, u8::from(request.http11));
    let wire = check_headers(head, &line, request.headers.lines(), request.framing);
    assert!(request.target.starts_with('/') && request.target.bytes().all(|byte| byte.is_ascii_graphic()));
    let hosts = request.headers.lines().iter().filter(|header| known(header.name) == Known::Host).count();
    assert!(hosts == 1 || hosts == 0 && !request.http11);
    assert_ne!(request.framing, Framing::Close);
    let mut room = storage();
    let again = RequestHead::parse(&wire, &mut room).expect("what was accepted once");
    let facts = |head: &RequestHead<'_, '_>| {
        let flags = (head.http11, head.keep_alive(), head.expects_continue);
        (head.method.to_owned(), head.target.to_owned(), flags, head.framing, lines(head.headers.lines()))
    };
    assert_eq!(facts(&again), facts(&request));
    check_options(&again.connection, &request.connection, request.headers.lines());
    true
}

/// The same for responses; that the request was a HEAD changes the framing and nothing else.
pub fn response_head(input: &[u8]) -> bool {
    let Some(input) = Input::parse(input) else { return false };
    let Some(head) = whole_head(&input) else { return false };
    let (mut room, mut head_room) = (storage(), storage());
    let to_head = ResponseHead::parse(head, &mut head_room, true);
    let Ok(response) = ResponseHead::parse(head, &mut room, false) else {
        assert!(to_head.is_err());
        return false;
    };
    let to_head = to_head.expect("the same head");
    assert_eq!(
        (to_head.framing, to_head.status, lines(to_head.headers.lines())),
        (Framing::None, response.status, lines(response.headers.lines()))
    );
    let line = format!("HTTP/1.{} {} {}", u8::from(response.http11), response.status, response.reason);
    let bodiless = matches!(response.status, 100..200 | 204 | 304);
    assert!(!bodiless || response.framing == Framing::None);
    let framing = if bodiless { None } else { Some(response.framing) };
    let wire = check_headers(head, &line, response.headers.lines(), framing.unwrap_or(Framing::None));
    let mut room = storage();
    let again = ResponseHead::parse(&wire, &mut room, false).expect("what was accepted once");
    let facts = |head: &ResponseHead<'_, '_>| {
        let reason = head.reason.to_owned();
        (head.status, reason, head.http11, head.keep_alive(), head.framing, lines(head.headers.lines()))
    };
    assert_eq!(facts(&again), facts(&response));
    check_options(&again.connection, &response.connection, response.headers.lines());
    true
}

/// The head at the input's start, as any split finds it.
fn whole_head<'a>(input: &Input<'a>) -> Option<&'a [u8]> {
    let whole = HeadEnd::default().find(input.bytes);
    let (mut end, mut seen, mut split) = (HeadEnd::default(), 0, Ok(None));
    for part in input.parts() {
        seen += part.len();
        split = end.find(&input.bytes[..seen]);
        if split != Ok(None) {
            break;
        }
    }
    assert_eq!(split, whole);
    whole.ok()?.map(|end| &input.bytes[..end])
}

fn lines(headers: &[Header<'_>]) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|header| (header.name.to_owned(), header.value.to_owned())).collect()
}

/// The headers are the head's lines, one for one, and only one framing can be read from them. Returns a head made of
/// `start_line` and the headers.
fn check_headers(head: &[u8], start_line: &str, headers: &[Header<'_>], framing: Framing) -> Vec<u8> {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let text: String = head.iter().copied().map(char::from).collect(); // Latin-1: a character for each byte
    let mut rows = text.strip_suffix("\r\n\r\n").expect("ends with an empty line").split("\r\n").skip(1);
    let mut wire = format!("{start_line}\r\n").into_bytes();
    for header in headers {
        let row = rows.next().expect("a line for each header");
        assert!(!row.contains(['\r', '\n', '\0']), "{row:?}");
        let (name, value) = row.split_once(':').expect("a colon in each line");
        assert_eq!(name, header.name);
        let bytes: String = header.value.iter().copied().map(char::from).collect();
        assert_eq!(value.trim_matches([' ', '\t']), bytes);
        wire.extend_from_slice(format!("{name}: ").as_bytes());
        wire.extend_from_slice(header.value);
        wire.extend_from_slice(b"\r\n");
    }
    assert_eq!(rows.next(), None, "a line that is no header");
    wire.extend_from_slice(b"\r\n");
    let of = |what| headers.iter().filter(move |header| known(header.name) == what);
    let (lengths, codings) = (of(Known::ContentLength).count(), of(Known::TransferEncoding).count());
    assert!(lengths + codings <= 1);
    match framing {
        Framing::Length(length) => {
            let said = of(Known::ContentLength).map(|header| str::from_utf8(header.value).expect("digits"));
            assert_eq!(said.map(|said| said.parse()).collect::<Vec<_>>(), [Ok(length)]);
        }
        Framing::Chunked => assert_eq!(codings, 1),
        Framing::None | Framing::Close => {}
    }
    wire
}

/// Both name the same headers away.
fn check_options(one: &Connection<'_>, other: &Connection<'_>, headers: &[Header<'_>]) {
    assert_eq!((one.close, one.keep_alive), (other.close, other.keep_alive));
    for header in headers {
        assert_eq!(one.names(header.name, known(header.name)), other.names(header.name, known(header.name)));
    }
}

// -------------------------------------------------------------------------------------------------------- chunked

/// What a decoder made of a body: its data, its chunks' sizes, the body written out again, and how many bytes were
/// used when it ended (`None`: it did not).
type Decoded = (Vec<u8>, Vec<u64>, Vec<u8>, Option<usize>);

/// Any split decodes the same or is refused for the same reason. An accepted body is what a simple decoder makes of
/// it, and comes back from being written out again.
pub fn chunked(input: &[u8]) -> bool {
    let Some(input) = Input::parse(input) else { return false };
    let whole = decode(&[input.bytes]);
    assert_eq!(decode(&input.parts()), whole);
    let Ok((body, sizes, wire, Some(used))) = whole else { return false };
    assert_eq!(simple_decode(input.bytes), Some((body.clone(), used)));
    assert_eq!(sizes.iter().sum::<u64>(), body.len() as u64);
    let length = wire.len();
    assert_eq!(decode(&[&wire]), Ok((body, sizes, wire, Some(length))));
    true
}

fn decode(parts: &[&[u8]]) -> Result<Decoded, HttpError> {
    let (mut decoder, mut body, mut sizes) = (Decoder::default(), Vec::new(), Vec::new());
    let (mut wire, mut used_in_all) = (Vec::new(), 0);
    for mut part in parts.iter().copied() {
        loop {
            let (used, piece) = decoder.next(part)?;
            used_in_all += used;
            part = &part[used..];
            BodyWriter::Chunked.write(&mut wire, piece, true);
            match piece {
                Piece::More => break,
                Piece::Data(data) => body.extend_from_slice(data),
                Piece::Chunk(size) => sizes.push(size),
                Piece::ChunkEnd => {}
                Piece::End => return Ok((body, sizes, wire, Some(used_in_all))),
            }
        }
        assert!(part.is_empty(), "the input is used up");
    }
    Ok((body, sizes, wire, None))
}

/// Reads a whole body by its lines: data, and how many bytes it took.
fn simple_decode(wire: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = |at: usize| {
        let length = wire[at..].windows(2).position(|two| two == b"\r\n")?;
        Some((&wire[at..at + length], at + length + 2))
    };
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let (size, data) = line(at)?;
        let size = str::from_utf8(size.split(|&byte| byte == b';').next()?).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        at = data;
        if size == 0 {
            break;
        }
        body.extend_from_slice(wire.get(at..at.checked_add(size)?)?);
        at = line(at + size).filter(|end| end.0.is_empty())?.1;
    }
    loop {
        let (trailer, next) = line(at)?;
        at = next;
        if trailer.is_empty() {
            return Some((body, at));
        }
    }
}

// -------------------------------------------------------------------------------------------------------- capture

/// Any split reports the same, compressed or not. Bit 0 of the mode reads a stream, bit 1 the paths of the responses
/// endpoint, bit 2 takes the bytes themselves as gzip, bits 3 and 4 choose an endpoint whose shape is another.
pub fn capture(input: &[u8]) -> bool {
    let Some(input) = Input::parse(input) else { return false };
    let streamed = input.mode & 1 != 0;
    let (endpoint, form) = match (input.mode >> 3 & 3, input.mode & 2 == 0) {
        (0, true) => (Endpoint::ChatCompletions, Form::Events),
        (0, false) => (Endpoint::Responses, Form::Events),
        (1, _) => (Endpoint::ThreadsRuns, Form::Events),
        (2, _) => (Endpoint::Messages, Form::Events),
        _ => (Endpoint::ApiChat, Form::Lines),
    };
    let form = if streamed { form } else { Form::Json };
    let report = |coding, parts: &[&[u8]]| {
        let (mut reader, mut out) = (UsageReader::new(endpoint, form, coding, false), Vec::new());
        for part in parts {
            reader.feed(part, &mut out).expect("it is not compressed, or not edited");
        }
        assert!(out.is_empty(), "what is not edited goes out as it came");
        let (estimate, reported) = (reader.estimate(1), reader.finish());
        // Where corrupt gzip is noticed, the bytes at hand decide: of what came before there may be an estimate or none.
        (estimate.filter(|_| coding == Coding::Identity || !reported.unreadable), reported)
    };
    let own_coding = if input.mode & 4 == 0 { Coding::Identity } else { Coding::Gzip };
    let whole = report(own_coding, &[input.bytes]);
    assert_eq!(report(own_coding, &input.parts()), whole);
    if own_coding == Coding::Identity {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(input.bytes).expect("memory");
        let packed = encoder.finish().expect("memory");
        let packed = Input { bytes: &packed, ..input };
        assert_eq!(report(Coding::Gzip, &packed.parts()).1, whole.1);
    }
    whole.1.usage.is_some()
}

// ------------------------------------------------------------------------------------------------------ websocket

/// What a stream of frames says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Text(Vec<u8>),
    Unreadable,
    Close,
    Lost,
}

/// Any split finds the same texts at the same places, those of a simple reader, and the same reports. Each stands at the
/// end of a text in which serde_json finds the usage too; and where it finds numbers, there is one. The mode's low bits
/// choose the session: realtime, responses, live.
pub fn websocket(input: &[u8]) -> bool {
    let Some(input) = Input::parse(input) else { return false };
    let said = frames(&[input.bytes]);
    assert_eq!(frames(&input.parts()), said);
    assert_eq!(simple_frames(input.bytes), said);
    let endpoint = match input.mode & 3 {
        0 => Endpoint::RealtimeSession,
        1 => Endpoint::ResponsesSession,
        _ => Endpoint::LiveSession,
    };
    let (reports, ended) = session(endpoint, &[input.bytes]);
    assert_eq!(session(endpoint, &input.parts()), (reports.clone(), ended.clone()));
    assert_eq!(ended.closed, said.iter().any(|(_, said)| *said == Said::Close));
    let mut at_ends = reports.iter().map(|(end, _)| *end).peekable();
    for (end, text) in
        said.iter().filter_map(|(end, said)| if let Said::Text(text) = said { Some((*end, text)) } else { None })
    {
        let is_reported = at_ends.next_if_eq(&end).is_some();
        let Some(value) = serde_json::from_slice::<Value>(text).ok().filter(|value| colons(text) == members(value))
        else {
            continue;
        };
        let usages = usages(endpoint, &value);
        assert!(!is_reported || usages.iter().any(|usage| usage.is_object()), "{value}");
        let has_number = |usage: &&Value| usage["output_tokens"].is_u64() && text.len() < 16 * 1024;
        assert!(is_reported || !usages.iter().any(has_number), "{value}");
    }
    assert_eq!(at_ends.next(), None, "a report where no text ends");
    !reports.is_empty()
}

/// What is said, each with the number of bytes used when it was told.
fn frames(parts: &[&[u8]]) -> Vec<(usize, Said)> {
    let (mut frames, mut said, mut text, mut total) = (Frames::default(), Vec::new(), Vec::new(), 0);
    for mut part in parts.iter().copied() {
        loop {
            let (used, piece) = frames.next(part);
            (part, total) = (&part[used..], total + used);
            let told = match piece {
                websocket::Piece::More => break,
                websocket::Piece::Text(bytes) => {
                    text.extend_from_slice(bytes);
                    continue;
                }
                websocket::Piece::TextEnd => Said::Text(std::mem::take(&mut text)),
                websocket::Piece::Unreadable => {
                    text.clear();
                    Said::Unreadable
                }
                websocket::Piece::Close => Said::Close,
                websocket::Piece::Lost => Said::Lost,
                websocket::Piece::Binary | websocket::Piece::FrameEnd => continue,
            };
            said.push((total, told));
        }
        assert!(part.is_empty(), "the input is used up");
    }
    said
}

/// The same, from the whole stream.
fn simple_frames(stream: &[u8]) -> Vec<(usize, Said)> {
    // The data message that is open: its text, `None` where it is binary or cannot be read.
    let (mut said, mut open, mut at): (_, Option<Option<Vec<u8>>>, _) = (Vec::new(), None, 0);
    while let Some((first, length, is_masked, payload)) = simple_header(stream, at) {
        let (is_final, opcode) = (first >= 0x80, first & 15);
        let is_known = matches!(opcode, 0..=2 | 8..=10) && length < 1 << 63;
        let is_control_good = opcode < 8 || (is_final && length <= 125);
        let is_in_turn = opcode > 2 || (opcode == 0) == open.is_some();
        if !(is_known && is_control_good && is_in_turn) {
            said.push((payload, Said::Lost));
            break;
        }
        if opcode == 8 {
            said.push((payload, Said::Close));
            break;
        }
        if opcode == 1 || opcode == 2 {
            open = Some((opcode == 1).then(Vec::new));
        }
        if opcode <= 2 && (is_masked || first & 0x70 != 0) && open.replace(None).flatten().is_some() {
            said.push((payload, Said::Unreadable));
        }
        let Some(end) = usize::try_from(length).ok().and_then(|length| payload.checked_add(length)) else { break };
        let Some(bytes) = stream.get(payload..end) else { break };
        if opcode <= 2 {
            open.as_mut().and_then(Option::as_mut).into_iter().for_each(|text| text.extend_from_slice(bytes));
            if is_final {
                said.extend(open.take().flatten().map(|text| (end, Said::Text(text))));
            }
        }
        at = end;
    }
    said
}

/// The frame at `at`: its first byte, how long its payload is, whether it is masked, and where the payload starts.
fn simple_header(stream: &[u8], at: usize) -> Option<(u8, u64, bool, usize)> {
    let &[first, second] = stream.get(at..)?.first_chunk()?;
    let (is_masked, short) = (second >= 0x80, second & 0x7f);
    let more = &stream[at + 2..];
    let (length, taken) = match short {
        126 => (u64::from(u16::from_be_bytes(*more.first_chunk()?)), 2),
        127 => (u64::from_be_bytes(*more.first_chunk()?), 8),
        short => (u64::from(short), 0),
    };
    let payload = at + 2 + taken + if is_masked { 4 } else { 0 };
    (payload <= stream.len()).then_some((first, length, is_masked, payload))
}

/// The reports, each with the number of bytes used when it was given.
fn session(endpoint: Endpoint, parts: &[&[u8]]) -> (Vec<(usize, Report)>, Ended) {
    let (mut session, mut reports, mut total) = (Session::new(endpoint), Vec::new(), 0);
    for mut part in parts.iter().copied() {
        loop {
            let (used, report) = session.feed(Now::default(), part);
            (part, total) = (&part[used..], total + used);
            match report {
                Some(report) => reports.push((total, report)),
                None => break,
            }
        }
        assert!(part.is_empty(), "the input is used up");
    }
    (reports, session.finish())
}

/// The usages that count in a message, where its type says that it has any.
fn usages(endpoint: Endpoint, message: &Value) -> Vec<&Value> {
    let is_end = |kind: &Value| {
        let ends = ["response.done", "response.completed", "response.failed", "response.incomplete"];
        kind.as_str().is_some_and(|kind| ends.contains(&kind))
    };
    let event = &message["event"];
    match endpoint {
        Endpoint::LiveSession if message["type"] == "response.event" && is_end(&event["type"]) => {
            vec![&event["response"]["usage"]]
        }
        Endpoint::LiveSession if message["type"] == "decision.event" => vec![&event["decision"]["usage"]],
        Endpoint::LiveSession => vec![],
        _ if is_end(&message["type"]) => vec![&message["response"]["usage"], &message["usage"]],
        Endpoint::RealtimeSession if message["type"] == "conversation.item.input_audio_transcription.completed" => {
            vec![&message["usage"]]
        }
        _ => vec![],
    }
}
