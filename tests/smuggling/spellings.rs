//! Random messages in legal spellings that are hardly ever seen: any case of a name, white space around a value, chunks
//! of all sizes with extensions and trailers, targets and values of all characters that may be in them; with what each
//! of them means.

use super::parsers::Message;
use super::support::rng::Rng;

/// Bytes, and the message that is meant: of its fields only those that pass, whose names begin with `x-`.
pub struct Spelling {
    pub method: &'static str,
    pub bytes: Vec<u8>,
    pub means: Message,
    /// The message's end is the end of the connection.
    pub until_close: bool,
}

/// Methods that all parsers know.
pub const METHODS: [&str; 12] = [
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "HEAD",
    "PROPFIND",
    "REPORT",
    "PURGE",
    "M-SEARCH",
    "MKCALENDAR",
];
const TOKEN: &[u8] = b"abcXYZ019!#$%&'*+-.^_`|~";
/// Which of the proxy's ways a body goes: held for inspection, or streamed through.
const PATHS: [&str; 3] = ["/v1/embeddings", "/v1/files", "/other/"];

/// A request that is to be accepted.
pub fn request(rng: &mut Rng) -> Spelling {
    let method = pick(rng, &METHODS);
    let target = target(rng);
    let http10 = rng.below(8) == 0;
    let absolute = if rng.below(6) == 0 { pick(rng, &["http://a.test", "HTTPS://[::1]:1"]) } else { "" };
    let version = if http10 { "1.0" } else { "1.1" };
    let fields = fields(rng);
    let mut lines: Vec<String> = fields.iter().map(|(name, value)| line(rng, name, value)).collect();
    let host = any_case(rng, "host");
    let named = pick(rng, &["a", "a.localhost:80", "[::1]:8080"]);
    lines.push(line(rng, &host, named));
    if rng.below(4) == 0 {
        let name = any_case(rng, "connection");
        lines.push(line(rng, &name, "keep-alive , X-Dropped,host,content-length"));
        lines.push(line(rng, "x-dropped", "1"));
    }
    if rng.below(6) == 0 {
        lines.push(line(rng, "TE", "trailers"));
    }
    if rng.below(6) == 0 && !http10 {
        lines.push(line(rng, "expect", "100-continue"));
    }
    let (body, framed) = body(rng, !http10, &mut lines);
    shuffle(rng, &mut lines, fields.len());
    let empty = if rng.below(6) == 0 { "\r\n" } else { "" };
    let head = format!("{empty}{method} {absolute}{target} HTTP/{version}\r\n{}\r\n", lines.concat());
    let means = Message { start: format!("{method} {target}"), fields, body };
    Spelling { method, bytes: [head.as_bytes(), &framed].concat(), means, until_close: false }
}

/// A response that is to be relayed.
pub fn response(rng: &mut Rng) -> Spelling {
    let method = pick(rng, &["GET", "POST", "HEAD"]);
    let status = pick(rng, &["200", "201", "203", "204", "299", "304", "400", "404", "418", "500", "599"]);
    let bodiless = method == "HEAD" || matches!(status, "204" | "304");
    let until_close = !bodiless && rng.below(8) == 0;
    let fields = fields(rng);
    let mut lines: Vec<String> = fields.iter().map(|(name, value)| line(rng, name, value)).collect();
    if rng.below(4) == 0 {
        lines.push(line(rng, "Connection", "keep-alive, x-dropped"));
        lines.push(line(rng, "x-dropped", "1"));
    }
    if rng.below(4) == 0 {
        let kind = pick(rng, &["application/json", "text/event-stream", "x"]);
        lines.push(line(rng, "content-type", kind));
    }
    let (mut body, mut framed) = if until_close {
        let body = bytes(rng, 300);
        (body.clone(), body)
    } else {
        body_of(rng, true, &mut lines)
    };
    if bodiless {
        (body, framed) = (Vec::new(), Vec::new());
    }
    shuffle(rng, &mut lines, fields.len());
    let interim = ["", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"][rng.below(3)];
    let reason = pick(rng, &["", "OK", "No \u{e9}\ttab", "  two  spaces "]);
    let head = format!("{interim}HTTP/1.1 {status} {reason}\r\n{}\r\n", lines.concat());
    let means = Message { start: status.to_owned(), fields, body };
    Spelling { method, bytes: [head.as_bytes(), &framed].concat(), means, until_close }
}

/// The bytes with one or two of them changed, taken out, put in or doubled: not those of the method, since llhttp knows
/// few; UTF-8, as the strict reader wants it.
pub fn damage(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    loop {
        let damaged = damage_any(rng, bytes);
        if std::str::from_utf8(&damaged).is_ok() {
            return damaged;
        }
    }
}

fn damage_any(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    const BYTES: &[u8] = b"\r\n\t \0\x0b\x0c\x7f:;,0127afx+-\"#/";
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + rng.below(2) {
        let target = bytes.iter().position(|&b| b == b' ').map_or(0, |space| space + 1);
        let (at, byte) = (target + rng.below(bytes.len() - target), BYTES[rng.below(BYTES.len())]);
        match rng.below(5) {
            0 => bytes[at] = byte,
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, bytes[at]),
            3 => {
                // A line end is where most of it happens.
                let end = bytes[at..].iter().position(|&b| b == b'\r').map_or(at, |cr| at + cr);
                bytes.insert(end + rng.below(2), byte);
            }
            _ => bytes.insert(at, byte),
        }
    }
    bytes
}

fn pick(rng: &mut Rng, from: &[&'static str]) -> &'static str {
    from[rng.below(from.len())]
}

fn target(rng: &mut Rng) -> String {
    let mut target = pick(rng, &PATHS).to_owned();
    for at in 0..rng.below(40) {
        // Visible ASCII but `#`, which is no part of a target.
        let byte = if at == 0 { b'?' } else { b'!' + rng.below(94) as u8 };
        target.push(char::from(if byte == b'#' { b'?' } else { byte }));
    }
    target
}

fn any_case(rng: &mut Rng, name: &str) -> String {
    name.chars().map(|c| if rng.coin() { c.to_ascii_uppercase() } else { c }).collect()
}

/// A field line with white space around its value.
fn line(rng: &mut Rng, name: &str, value: &str) -> String {
    let space = |rng: &mut Rng| [" ", "", "\t", " \t "][rng.below(4)];
    format!("{name}:{}{value}{}\r\n", space(rng), space(rng))
}

/// Fields that pass, some of them more than once.
fn fields(rng: &mut Rng) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    for _ in 0..rng.below(6) {
        let token: String = (0..rng.below(9)).map(|_| char::from(TOKEN[rng.below(TOKEN.len())])).collect();
        fields.push((any_case(rng, "x-") + &token, value(rng)));
        if rng.below(4) == 0 {
            fields.push((fields[0].0.clone(), value(rng)));
        }
    }
    fields
}

/// Text and white space in any script; none around it.
fn value(rng: &mut Rng) -> String {
    let character = |rng: &mut Rng| match rng.below(8) {
        0 => ' ',
        1 => '\t',
        2 => ['é', '太', '\u{85}', '\u{a0}', '😀', '\u{ff}'][rng.below(6)],
        _ => char::from(b'!' + rng.below(94) as u8),
    };
    let value: String = (0..rng.below(30)).map(|_| character(rng)).collect();
    value.trim_matches([' ', '\t']).to_owned()
}

fn bytes(rng: &mut Rng, most: usize) -> Vec<u8> {
    // Much of it looks like framing, for whoever loses his place.
    let piece = |rng: &mut Rng| ["0\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "5\r\n", "\r\n", "\n", "\0", "x"][rng.below(7)];
    let mut bytes = Vec::new();
    let len = rng.below(most);
    while bytes.len() < len {
        bytes.extend_from_slice(piece(rng).as_bytes());
    }
    bytes
}

/// Perhaps a body, how it goes over the wire, and with it the line that frames it.
fn body(rng: &mut Rng, chunks: bool, lines: &mut Vec<String>) -> (Vec<u8>, Vec<u8>) {
    if rng.below(3) == 0 { (Vec::new(), Vec::new()) } else { body_of(rng, chunks, lines) }
}

fn body_of(rng: &mut Rng, chunks: bool, lines: &mut Vec<String>) -> (Vec<u8>, Vec<u8>) {
    let body = bytes(rng, 400);
    if !chunks || rng.coin() {
        let (name, zeros) = (any_case(rng, "content-length"), "0".repeat(rng.below(3)));
        lines.push(line(rng, &name, &format!("{zeros}{}", body.len())));
        return (body.clone(), body);
    }
    let name = any_case(rng, "transfer-encoding");
    let coding = any_case(rng, "chunked");
    lines.push(line(rng, &name, &coding));
    let mut framed = Vec::new();
    let parts = if body.is_empty() { Vec::new() } else { rng.cut(&body, 6) };
    for part in parts {
        let zeros = "0".repeat(rng.below(4));
        let size = if rng.coin() { format!("{zeros}{:x}", part.len()) } else { format!("{zeros}{:X}", part.len()) };
        framed.extend_from_slice(format!("{size}{}\r\n", extension(rng)).as_bytes());
        framed.extend_from_slice(part);
        framed.extend_from_slice(b"\r\n");
    }
    framed.extend_from_slice(format!("{}{}\r\n", "0".repeat(1 + rng.below(3)), extension(rng)).as_bytes());
    for _ in 0..rng.below(3) {
        framed.extend_from_slice(pick(rng, &["x-trailer: 1\r\n", "Content-Length: 7\r\n", "host:b\r\n"]).as_bytes());
    }
    framed.extend_from_slice(b"\r\n");
    (body, framed)
}

fn extension(rng: &mut Rng) -> &'static str {
    pick(rng, &["", "", "", ";a", ";a=b", ";a=\"b;c\\\"d\"", ";a;b=1", ";a=\"0 é\"", "; a = b", ";=", ";\t"])
}

/// Lines in any order, but for those of the fields that pass, which come first and keep theirs.
fn shuffle(rng: &mut Rng, lines: &mut Vec<String>, passing: usize) {
    for line in lines.split_off(passing) {
        lines.insert(rng.below(lines.len() + 1), line);
    }
}
