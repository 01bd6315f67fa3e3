//! Heads on their way through: what passes, what is ours to write. Pure functions of parsed heads.

use super::Settings;
use crate::access::{subprotocol_key, subprotocols};
use crate::http::body::BodyWriter;
use crate::http::framing::Framing;
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::headers::{Header, Headers, Known, write, write_decimal, write_readable};
use crate::limit::status::RateLimitStatus;
use crate::usage::reader::{Coding, Form};

/// Codings that the target may use, in place of those that the client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// None at all.
    Identity,
    Gzip,
}

/// A body up to this size has its room reserved together with its head, bytes.
const JOINED_BYTES_MAX: u64 = 16 * 1024;

/// Room for the lines of a head that are ours: one allocation does for all of it in almost every case.
const OWN_LINES_BYTES: usize = 512;

/// The one upgrade that passes (RFC 6455 §4).
const UPGRADE: &[u8] = b"connection: Upgrade\r\nupgrade: websocket\r\n";

/// Appends a request head for the target, but for its framing and its end. Where the response will be read for usage,
/// `Accept-Encoding` stays out: what is returned in its place is to be written once it is known what is done with the
/// response. So does `Content-Encoding` of a body that may be `decoded` before it is sent on.
pub fn write_request(
    out: &mut Vec<u8>,
    head: &RequestHead<'_, '_>,
    settings: &Settings,
    captured: bool,
    decoded: bool,
) -> Option<Accepted> {
    let mut offers: Option<Offers> = None;
    out.reserve(head.target.len() + head.headers.wire_bytes() + OWN_LINES_BYTES);
    for part in [head.method, " ", &settings.prefix, head.target, " HTTP/1.1\r\nhost: ", &settings.authority, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    if let Some(authorization) = &settings.authorization {
        write(out, "authorization", authorization.as_bytes());
        out.extend_from_slice(&settings.account);
    }
    let replaces_key = settings.authorization.is_some() || settings.keys_only;
    for (class, header) in head.headers.iter() {
        match class {
            // Frames that an extension has changed (compressed) could not be read.
            Known::Host | Known::UserId | Known::EncodedUserId | Known::Expect | Known::WebSocketExtensions => {}
            Known::Authorization if replaces_key => {}
            Known::ApiKey if settings.keys_only => {}                // ours
            Known::Account if settings.authorization.is_some() => {} // of another account than our key's
            Known::ForwardedFor | Known::Front if !settings.forward_headers.holds(header.name) => {}
            _ if class.is_hop_by_hop() || head.connection.names(header.name, class) => {}
            Known::Subprotocols if replaces_key => write_subprotocols(out, header),
            Known::ContentEncoding if decoded => {}
            Known::AcceptEncoding if captured => offers.get_or_insert_default().add(header.value),
            _ => write(out, header.name, header.value),
        }
    }
    if head.is_websocket() {
        out.extend_from_slice(UPGRADE);
    }
    offers.map(|offers| offers.reduced())
}

/// Appends what a client offers to speak, without the key that stands there.
fn write_subprotocols(out: &mut Vec<u8>, header: &Header<'_>) {
    let is_key = |offered: &&[u8]| subprotocol_key(offered).is_some();
    if !subprotocols(header.value).any(|offered| is_key(&offered)) {
        return write(out, header.name, header.value);
    }
    let others: Vec<_> = subprotocols(header.value).filter(|offered| !is_key(offered)).collect();
    if !others.is_empty() {
        write(out, header.name, &others.join(&b", "[..]));
    }
}

/// Appends `accept-encoding`, where the client sent one.
pub fn write_accepted(out: &mut Vec<u8>, accepted: Option<Accepted>) {
    match accepted {
        Some(Accepted::Identity) => write(out, "accept-encoding", b"identity"),
        Some(Accepted::Gzip) => write(out, "accept-encoding", b"gzip"),
        None => {}
    }
}

/// Appends the framing of a request that streams through, and the end of its head.
pub fn write_request_framing(out: &mut Vec<u8>, method: &str, framing: Framing) {
    match framing {
        Framing::Length(length) => write_length(out, length),
        Framing::Chunked => write(out, "transfer-encoding", b"chunked"),
        // A method that usually has a body says so where it has none (RFC 9110 §8.6).
        Framing::None | Framing::Close if matches!(method, "POST" | "PUT" | "PATCH") => write_length(out, 0),
        Framing::None | Framing::Close => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `content-length`.
pub fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    write_decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

/// What a client says of the one coding that the capture decodes, over all lines of its `Accept-Encoding`.
#[derive(Default)]
struct Offers {
    /// It takes gzip, or refuses it, by name.
    gzip: Option<bool>,
    /// It takes whatever it does not name, or refuses that.
    others: Option<bool>,
}

impl Offers {
    /// Takes a line up. A coding whose weight is 0 is refused (RFC 9110 §12.4.2, §12.5.3).
    fn add(&mut self, line: &[u8]) {
        for offer in line.split(|&byte| byte == b',') {
            let mut parts = offer.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let coding = parts.next().unwrap_or_default();
            let is_zero = |weight: &[u8]| {
                let q = weight.split_at_checked(2).filter(|(name, _)| name.eq_ignore_ascii_case(b"q="));
                q.is_some_and(|(_, value)| value.iter().all(|byte| matches!(byte, b'0' | b'.')))
            };
            let taken = !parts.any(is_zero);
            if coding.eq_ignore_ascii_case(b"gzip") {
                self.gzip = Some(taken);
            } else if coding == b"*" {
                self.others = Some(taken);
            }
        }
    }

    /// Gzip where it is taken, else nothing.
    fn reduced(&self) -> Accepted {
        if self.gzip.or(self.others) == Some(true) { Accepted::Gzip } else { Accepted::Identity }
    }
}

/// How a response goes on to the client, and what its head says.
pub struct ResponsePlan {
    pub writer: BodyWriter,
    /// The body's length, where it is told.
    pub length: Option<u64>,
    /// Only the end of the connection tells the end of the body.
    pub until_close: bool,
    /// The client's connection stays open after it.
    pub keep_alive: bool,
    /// Its body is decoded on the way.
    pub decoded: bool,
}

/// Chooses the framing towards the client. `edited` bodies change their length on the way.
pub fn plan(head: &ResponseHead<'_, '_>, http11_client: bool, edited: bool, keep_alive: bool) -> ResponsePlan {
    let writer = match head.framing {
        Framing::None => BodyWriter::Nothing,
        Framing::Length(_) if !edited => BodyWriter::Bytes,
        _ if http11_client => BodyWriter::Chunked,
        _ => BodyWriter::Bytes,
    };
    let length = match head.framing {
        Framing::Length(length) if writer == BodyWriter::Bytes && !edited => Some(length),
        _ => None,
    };
    let until_close = writer == BodyWriter::Bytes && length.is_none();
    ResponsePlan { writer, length, until_close, keep_alive: keep_alive && !until_close, decoded: edited }
}

/// Appends the head of a switch to the WebSocket protocol.
pub fn write_switch(out: &mut Vec<u8>, head: &ResponseHead<'_, '_>, limit_status: &RateLimitStatus) {
    write_status(out, head);
    for (class, header) in head.headers.iter() {
        if !(class.is_hop_by_hop() || limit_status.writes(header.name) || head.connection.names(header.name, class)) {
            write(out, header.name, header.value);
        }
    }
    out.extend_from_slice(UPGRADE);
    limit_status.write(out);
    out.extend_from_slice(b"\r\n");
}

fn write_status(out: &mut Vec<u8>, head: &ResponseHead<'_, '_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(out, u64::from(head.status));
    out.push(b' ');
    out.extend_from_slice(head.reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// What of a request its response's head depends on.
#[derive(Clone, Copy, Default)]
pub struct ClientHead<'a> {
    pub http11: bool,
    /// The page's origin that may read it.
    pub origin: Option<&'a str>,
}

/// Appends a response head for the client.
pub fn write_response(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_, '_>,
    plan: &ResponsePlan,
    limit_status: &RateLimitStatus,
    client: ClientHead<'_>,
) {
    // With the body, where it is short: the two leave in one piece.
    let body_bytes = plan.length.map_or(0, |length| length.min(JOINED_BYTES_MAX));
    out.reserve(head.headers.wire_bytes() + OWN_LINES_BYTES + body_bytes as usize);
    write_status(out, head);
    let mut is_readable = false;
    for (class, header) in head.headers.iter() {
        is_readable |= class == Known::AllowOrigin;
        if class == Known::ContentType {
            write_beside_type(out, header.value);
        }
        let told_here = limit_status.writes(header.name);
        // Of a message without a body (HEAD, 304) the length is information about another one, and stays; a 204 has
        // none (RFC 9110 §8.6).
        let length_stays = class == Known::ContentLength && plan.writer == BodyWriter::Nothing && head.status != 204;
        if plan.decoded && class == Known::ContentEncoding {
            continue;
        }
        if length_stays || !(class.is_hop_by_hop() || told_here || head.connection.names(header.name, class)) {
            write(out, header.name, header.value);
        }
    }
    match (plan.writer, plan.length) {
        (BodyWriter::Chunked, _) => write(out, "transfer-encoding", b"chunked"),
        (BodyWriter::Bytes, Some(length)) => write_length(out, length),
        _ => {}
    }
    limit_status.write(out);
    if let Some(origin) = client.origin.filter(|_| !is_readable) {
        write_readable(out, origin);
    }
    match (plan.keep_alive, client.http11) {
        (false, _) => write(out, "connection", b"close"),
        (true, false) => write(out, "connection", b"keep-alive"), // 1.0 clients must be told
        (true, true) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// How the body of a response is to be read, from its head.
pub fn form(headers: &Headers<'_, '_>) -> (Form, Coding) {
    let (mut form, mut coding) = (Form::Opaque, Coding::Identity);
    for (class, header) in headers.iter() {
        match class {
            Known::ContentType => form = form_of(header.value),
            Known::ContentEncoding => coding = with_coding(coding, header.value),
            _ => {}
        }
    }
    (form, coding)
}

/// The coding of a body that is in `coding` already, after one more `Content-Encoding`.
fn with_coding(coding: Coding, value: &[u8]) -> Coding {
    let is = |name: &[u8]| value.eq_ignore_ascii_case(name);
    match coding {
        _ if value.is_empty() || is(b"identity") => coding,
        // The second is the first's old name (RFC 9110 §8.4.1.3).
        Coding::Identity if is(b"gzip") || is(b"x-gzip") => Coding::Gzip,
        _ => Coding::Unknown,
    }
}

fn form_of(content_type: &[u8]) -> Form {
    if is_json(content_type) {
        return Form::Json;
    }
    let kind = essence(content_type);
    if kind.eq_ignore_ascii_case(b"text/event-stream") {
        Form::Events
    } else if kind.eq_ignore_ascii_case(b"application/x-ndjson") {
        Form::Lines
    } else {
        Form::Opaque
    }
}

/// What goes with a response of this type.
fn write_beside_type(out: &mut Vec<u8>, content_type: &[u8]) {
    if is_page(content_type) {
        // It must not be taken for a page of ours, with what those may do.
        write(out, "content-security-policy", b"sandbox");
    } else if form_of(content_type) == Form::Events {
        // nginx would gather its events otherwise.
        write(out, "x-accel-buffering", b"no");
    }
}

/// True for what a browser would show as a page, with scripts in it.
fn is_page(content_type: &[u8]) -> bool {
    [&b"text/html"[..], b"application/xhtml+xml", b"image/svg+xml"]
        .iter()
        .any(|page| essence(content_type).eq_ignore_ascii_case(page))
}

/// A type without its parameters.
fn essence(content_type: &[u8]) -> &[u8] {
    content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii()
}

/// True for `application/json` and `application/…+json`, with any parameters.
fn is_json(content_type: &[u8]) -> bool {
    if content_type == b"application/json" {
        return true; // as almost everybody writes it
    }
    let Some((family, member)) = essence(content_type).split_at_checked(b"application/".len()) else { return false };
    let suffix = &member[member.len().saturating_sub(b"+json".len())..];
    family.eq_ignore_ascii_case(b"application/")
        && (member.eq_ignore_ascii_case(b"json") || suffix.eq_ignore_ascii_case(b"+json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers::Header;

    #[test]
    fn only_codings_that_can_be_read_are_accepted() {
        for (lines, reduced) in [
            (&["gzip, deflate, br, zstd"][..], Accepted::Gzip),
            (&["br;q=1.0, GZIP;q=0.5"], Accepted::Gzip),
            (&["*"], Accepted::Gzip),
            (&["br", "gzip"], Accepted::Gzip),
            (&["br, gzip;q=0"], Accepted::Identity),
            (&["gzip;q=0.000"], Accepted::Identity),
            (&["gzip;Q=0"], Accepted::Identity),
            (&["gzip;q=0, *"], Accepted::Identity),
            (&["*", "gzip; q=0"], Accepted::Identity),
            (&["gzip, *;q=0"], Accepted::Gzip),
            (&["*;q=0"], Accepted::Identity),
            (&["identity"], Accepted::Identity),
            (&[""], Accepted::Identity),
        ] {
            let mut offers = Offers::default();
            lines.iter().for_each(|line| offers.add(line.as_bytes()));
            assert_eq!(offers.reduced(), reduced, "{lines:?}");
        }
    }

    #[test]
    fn codings_add_up() {
        for (values, coding) in [
            (&[][..], Coding::Identity),
            (&["identity", ""], Coding::Identity),
            (&["GZIP"], Coding::Gzip),
            (&["x-gzip", "identity"], Coding::Gzip),
            (&["br"], Coding::Unknown),
            (&["gzip, br"], Coding::Unknown),
            (&["br", "gzip"], Coding::Unknown),
            (&["gzip", "gzip"], Coding::Unknown),
        ] {
            let field = |value: &&'static str| Header { name: "Content-Encoding", value: value.as_bytes() };
            assert_eq!(form(&Headers::new(&values.iter().map(field).collect::<Vec<_>>())).1, coding, "{values:?}");
        }
    }

    #[test]
    fn json_is_known_by_its_type() {
        assert!(is_json(b"application/json; charset=utf-8") && is_json(b"Application/Problem+JSON"));
        assert!(!is_json(b"text/json") && !is_json(b"application/jsonl") && !is_json(b""));
        assert_eq!(form_of(b"text/event-stream;charset=UTF-8"), Form::Events);
        assert_eq!(form_of(b"application/x-ndjson; charset=utf-8"), Form::Lines);
        assert_eq!(form_of(b"audio/mpeg"), Form::Opaque);
    }
}
