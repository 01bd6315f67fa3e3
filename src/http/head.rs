//! Heads of requests and responses: where one ends, and what it says.
//!
//! httparse splits the lines; the checks that make the result unambiguous stand here, above it: it would take bare LF,
//! several leading empty lines, `#` in a target and absolute-form as they come.

use super::framing::{self, Framing};
use super::headers::{Connection, Header, Headers, Known};
use super::{HEAD_BYTES_MAX, HEADERS_MAX, HttpError, REQUEST_LINE_BYTES_MAX};
use std::fmt;
use std::mem::MaybeUninit;

/// Room for a head's parsed headers, on the caller's stack.
pub type Storage<'b> = [MaybeUninit<Header<'b>>; HEADERS_MAX];

/// An empty [`Storage`].
pub const fn storage<'b>() -> Storage<'b> {
    [const { MaybeUninit::uninit() }; HEADERS_MAX]
}

/// Incremental search for the end of a head: no byte is looked at twice, however it arrives.
#[derive(Debug, Default)]
pub struct HeadEnd {
    scanned: usize,
    line_start: usize,
    lines: usize,
    blank: bool,
}

impl HeadEnd {
    /// Where the head ends in `input`, which must start where the previous calls' input started and may only have
    /// grown; `None` where it does not end yet.
    ///
    /// Every line must end in CRLF (RFC 9112 §2.2 lets a recipient take a bare LF; a peer that does not would see
    /// another message). One empty line is skipped before the start line.
    pub fn find(&mut self, input: &[u8]) -> Result<Option<usize>, HttpError> {
        while let Some(offset) = memchr::memchr(b'\n', &input[self.scanned..]) {
            let newline = self.scanned + offset;
            if newline == self.line_start || input[newline - 1] != b'\r' {
                return Err(HttpError::Malformed("a line of the head does not end in CRLF"));
            }
            let line_bytes = newline - 1 - self.line_start;
            self.scanned = newline + 1;
            self.line_start = self.scanned;
            if line_bytes > 0 {
                self.lines += 1;
                self.check_caps(line_bytes)?;
            } else if self.lines > 0 {
                self.check_caps(0)?;
                return Ok(Some(self.scanned));
            } else if std::mem::replace(&mut self.blank, true) {
                return Err(HttpError::Malformed("more than one empty line before the request"));
            }
        }
        self.scanned = input.len();
        // A CR at the very end may be half of a line end, which does not count: the same result in any split.
        let line_bytes = input.len() - self.line_start - usize::from(input.ends_with(b"\r"));
        self.check_caps(if self.lines == 0 { line_bytes } else { 0 })?;
        Ok(None)
    }

    fn check_caps(&self, first_line_bytes: usize) -> Result<(), HttpError> {
        if self.lines <= 1 && first_line_bytes > REQUEST_LINE_BYTES_MAX {
            return Err(HttpError::LineTooLong);
        }
        if self.scanned > HEAD_BYTES_MAX || self.lines > HEADERS_MAX + 1 {
            return Err(HttpError::HeadTooLarge);
        }
        Ok(())
    }
}

/// A request head that passed every check. Borrows the bytes that it was parsed from.
pub struct RequestHead<'h, 'b> {
    pub method: &'b str,
    /// Path and query, starting with `/`; an absolute-form target's scheme and host are gone.
    pub target: &'b str,
    /// HTTP/1.1; else 1.0.
    pub http11: bool,
    pub headers: Headers<'h, 'b>,
    /// How the body is delimited: [`Framing::None`], [`Framing::Length`] or [`Framing::Chunked`].
    pub framing: Framing,
    /// What `Connection` says.
    pub connection: Connection<'b>,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// The method, the path and the names of the headers: a query or a value may be a key.
impl fmt::Debug for RequestHead<'_, '_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        write!(out, "{} {path} {:?} {:?}", self.method, self.framing, names(&self.headers))
    }
}

impl fmt::Debug for ResponseHead<'_, '_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {:?} {:?}", self.status, self.framing, names(&self.headers))
    }
}

fn names<'b>(headers: &Headers<'_, 'b>) -> Vec<&'b str> {
    headers.lines().iter().map(|header| header.name).collect()
}

impl<'h, 'b> RequestHead<'h, 'b> {
    /// Parses a whole head: `head` ends where [`HeadEnd::find`] said.
    pub fn parse(head: &'b [u8], storage: &'h mut Storage<'b>) -> Result<Self, HttpError> {
        let mut request = httparse::Request::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, head, storage);
        check_whole(parsed, head)?;
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
            return Err(HttpError::Malformed("the request line is incomplete"));
        };
        let headers = Headers::new(request.headers);
        let http11 = version == 1;
        let target = origin_form(method, target)?;
        check_host(&headers, http11)?;
        Ok(Self {
            method,
            target,
            http11,
            framing: framing::of_request(&headers, http11)?,
            connection: Connection::parse(&headers)?,
            expects_continue: expects_continue(&headers, http11)?,
            headers,
        })
    }

    /// True where it asks for the WebSocket protocol and nothing else (RFC 6455 §4.1).
    pub fn is_websocket(&self) -> bool {
        self.method == "GET"
            && self.http11
            && self.framing == Framing::None
            && is_websocket(&self.headers, &self.connection)
    }

    /// True where the connection stays open after this exchange (RFC 9112 §9.3).
    pub fn keep_alive(&self) -> bool {
        self.connection.stays_open(self.http11)
    }
}

/// One `Upgrade`, to the WebSocket protocol, named by `Connection` (RFC 9110 §7.8).
fn is_websocket(headers: &Headers<'_, '_>, connection: &Connection<'_>) -> bool {
    let mut upgrades = headers.values(Known::Upgrade);
    let only = upgrades.next().filter(|_| upgrades.next().is_none());
    only.is_some_and(|value| value.eq_ignore_ascii_case(b"websocket")) && connection.names("upgrade", Known::Upgrade)
}

/// A response head that passed every check.
pub struct ResponseHead<'h, 'b> {
    pub status: u16,
    /// The reason phrase, perhaps empty.
    pub reason: &'b str,
    /// HTTP/1.1; else 1.0.
    pub http11: bool,
    pub headers: Headers<'h, 'b>,
    /// How the body is delimited.
    pub framing: Framing,
    /// What `Connection` says.
    pub connection: Connection<'b>,
}

impl<'h, 'b> ResponseHead<'h, 'b> {
    /// True where it switches to the WebSocket protocol (RFC 6455 §4.2.2).
    pub fn is_websocket(&self) -> bool {
        self.status == 101 && self.http11 && is_websocket(&self.headers, &self.connection)
    }

    /// Parses a whole head: `head` ends where [`HeadEnd::find`] said. `to_head` says that the request was a HEAD.
    pub fn parse(head: &'b [u8], storage: &'h mut Storage<'b>, to_head: bool) -> Result<Self, HttpError> {
        if head.first() == Some(&b'\r') {
            return Err(HttpError::Malformed("an empty line before the status line"));
        }
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, head, storage);
        check_whole(parsed, head)?;
        let (Some(status), Some(version)) = (response.code, response.version) else {
            return Err(HttpError::Malformed("the status line is incomplete"));
        };
        if !(100..=599).contains(&status) {
            return Err(HttpError::Malformed("the status is not between 100 and 599"));
        }
        let headers = Headers::new(response.headers);
        let framing = framing::of_response(&headers, status, version == 1, to_head)?;
        let reason = response.reason.unwrap_or("");
        let connection = Connection::parse(&headers)?;
        Ok(Self { status, reason, http11: version == 1, headers, framing, connection })
    }

    /// True where the connection can carry another exchange once this message has ended.
    pub fn keep_alive(&self) -> bool {
        self.framing != Framing::Close && self.connection.stays_open(self.http11)
    }
}

/// The request target as path and query. Origin-form passes; of absolute-form only the path is used, never the host
/// (RFC 9112 §3.2.2 would have it replace `Host`, which a proxy before one fixed target has no use for). CONNECT's
/// authority-form and the asterisk-form are refused.
fn origin_form<'b>(method: &str, target: &'b str) -> Result<&'b str, HttpError> {
    if method == "CONNECT" {
        return Err(HttpError::Malformed("CONNECT is not supported"));
    }
    // Only what RFC 3986 allows in a target, and the few characters beside it that clients send and parsers agree on.
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(HttpError::Malformed("the request target has a character that is not allowed there"));
    }
    if target.starts_with('/') {
        return Ok(target);
    }
    let scheme_bytes = ["http://", "https://"]
        .iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
        .map(|scheme| scheme.len())
        .ok_or(HttpError::Malformed("the request target does not start with a slash"))?;
    match target[scheme_bytes..].find(['/', '?']) {
        Some(0) => Err(HttpError::Malformed("the request target has a scheme but no host")),
        Some(offset) if target.as_bytes()[scheme_bytes + offset] == b'/' => Ok(&target[scheme_bytes + offset..]),
        Some(_) => Err(HttpError::Malformed("the request target has a query but no path")),
        None => Ok("/"),
    }
}

/// Exactly one valid `Host` on HTTP/1.1, at most one on 1.0 (RFC 9112 §3.2).
fn check_host(headers: &Headers<'_, '_>, http11: bool) -> Result<(), HttpError> {
    let mut hosts = headers.values(Known::Host);
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(HttpError::Malformed("more than one Host header")),
        (None, None) if http11 => Err(HttpError::Malformed("the Host header is missing")),
        (Some(host), None) if !is_host(host) => Err(HttpError::Malformed("the Host header is not a host")),
        _ => Ok(()),
    }
}

/// `uri-host [":" port]` (RFC 9110 §7.2), by its characters: a name, an IPv4 address or a bracketed IPv6 one.
fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value.iter().rposition(|&byte| byte == b':') {
        Some(colon) if !value.ends_with(b"]") => (&value[..colon], &value[colon + 1..]),
        _ => (value, &b""[..]),
    };
    let inside = host.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    let name_is_valid = match inside {
        Some(address) => {
            !address.is_empty() && address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
        }
        None => host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(byte)),
    };
    !host.is_empty() && name_is_valid && port.iter().all(u8::is_ascii_digit)
}

/// `Expect` (RFC 9110 §10.1.1): only `100-continue` is defined, and a 1.0 client cannot mean it.
fn expects_continue(headers: &Headers<'_, '_>, http11: bool) -> Result<bool, HttpError> {
    let mut expects = false;
    for value in headers.values(Known::Expect) {
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(HttpError::UnknownExpectation);
        }
        expects = http11;
    }
    Ok(expects)
}

/// Checks that the lines were split, and that their end is where [`HeadEnd::find`] said.
fn check_whole(parsed: httparse::Result<usize>, head: &[u8]) -> Result<(), HttpError> {
    Err(match parsed {
        Ok(httparse::Status::Complete(length)) if length == head.len() => return Ok(()),
        Ok(_) => HttpError::Malformed("the head ends in two places"),
        Err(error) => explain(error),
    })
}

fn explain(error: httparse::Error) -> HttpError {
    match error {
        httparse::Error::TooManyHeaders => HttpError::HeadTooLarge,
        httparse::Error::HeaderName => HttpError::Malformed("a header name has a character that is not allowed there"),
        httparse::Error::HeaderValue => {
            HttpError::Malformed("a header value has a character that is not allowed there")
        }
        httparse::Error::Version => HttpError::Malformed("the HTTP version is not 1.0 or 1.1"),
        httparse::Error::Status => HttpError::Malformed("the status line is malformed"),
        httparse::Error::NewLine => HttpError::Malformed("a line end is malformed"),
        httparse::Error::Token => HttpError::Malformed("the start line is malformed"),
    }
}
