//! The proxy on the way out, where there is one: what it is asked before a connection is the target's, and its answer.
//!
//! In: where the target is, bytes that the proxy answers with. Out: the request (CONNECT, RFC 9110 section 9.3.6), and
//! where the tunnel begins, or why there is none. Never: credentials but in that request; a head without a bound.

use crate::http::HttpError;
use crate::http::head::HeadEnd;
use std::fmt;
use std::net::Ipv6Addr;

/// Most bytes of what it answers with before the tunnel begins.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// The statuses for one who has not said who it is, or is not believed: tinyproxy has the first for the latter.
const UNAUTHORIZED: u16 = 401;
const PROXY_AUTHENTICATION_REQUIRED: u16 = 407;

/// The request for a tunnel to a host, which has no brackets; `authorization` is the value of `Proxy-Authorization`.
pub fn request(host: &str, port: u16, authorization: Option<&str>) -> Vec<u8> {
    let host = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() };
    let authorization = authorization.map_or(String::new(), |value| format!("proxy-authorization: {value}\r\n"));
    format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\n{authorization}\r\n").into_bytes()
}

/// What has come of its answer.
#[derive(Debug, Default)]
pub struct EgressAnswer {
    head: Vec<u8>,
    end: HeadEnd,
}

/// Why there is no tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressError {
    /// The proxy answers with another status than 2xx.
    Status(u16),
    /// What it answers is not HTTP.
    Protocol(HttpError),
}

impl EgressAnswer {
    /// Takes bytes that were read. How many of them belong to its head, where that has ended and there is a tunnel; the
    /// others came through it. `None` where more must come.
    ///
    /// # Errors
    /// There will be no tunnel.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<usize>, EgressError> {
        self.head.extend_from_slice(bytes);
        while let Some(end) = self.end.find(&self.head).map_err(EgressError::Protocol)? {
            match status(&self.head[..end]) {
                Some(100..=199) => {
                    self.head.drain(..end); // an interim answer says nothing
                    self.end = HeadEnd::default();
                }
                Some(200..=299) if end <= ANSWER_BYTES_MAX => {
                    let behind = self.head.len() - end; // all of them came with these bytes
                    return Ok(Some(bytes.len() - behind));
                }
                Some(200..=299) => break,
                Some(status) => return Err(EgressError::Status(status)),
                None => return Err(EgressError::Protocol(HttpError::Malformed("the status line is malformed"))),
            }
        }
        match self.head.len() > ANSWER_BYTES_MAX {
            true => Err(EgressError::Protocol(HttpError::HeadTooLarge)),
            false => Ok(None),
        }
    }
}

/// Goes on after the proxy that is spoken of.
impl fmt::Display for EgressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status @ (UNAUTHORIZED | PROXY_AUTHENTICATION_REQUIRED)) => {
                write!(
                    f,
                    "refused the tunnel with status {status}: it wants another user and password than it was given"
                )
            }
            Self::Status(status) => write!(f, "refused the tunnel with status {status}"),
            Self::Protocol(error) => write!(f, "answered something that is not HTTP: {}", error.message()),
        }
    }
}

/// The status in a head. Nothing else of it counts: a tunnel has no body, whatever its headers say.
fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.").filter(|rest| matches!(rest, [b'0' | b'1', b' ', ..]))?;
    let (digits, after) = rest[2..].split_at_checked(3)?;
    let is_status = digits.iter().all(u8::is_ascii_digit) && matches!(after, [b' ' | b'\r', ..]);
    let status = str::from_utf8(digits).ok().filter(|_| is_status)?.parse().ok()?;
    (100..=599).contains(&status).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of an answer that arrives in such pieces: the bytes behind its head.
    fn answer(bytes: &[u8], piece: usize) -> Result<Option<Vec<u8>>, EgressError> {
        let mut answer = EgressAnswer::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            if let Some(used) = answer.take(now)? {
                return Ok(Some([&now[used..], later].concat()));
            }
            rest = later;
        }
        Ok(None)
    }

    #[test]
    fn a_request_names_the_host_with_its_port() {
        assert_eq!(request("a.example", 443, None), b"CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n");
        let with = request("2001:db8::1", 80, Some("Basic eDp5"));
        assert!(with.starts_with(b"CONNECT [2001:db8::1]:80 HTTP/1.1\r\nhost: [2001:db8::1]:80\r\n"));
        assert!(with.ends_with(b"\r\nproxy-authorization: Basic eDp5\r\n\r\n"));
    }

    #[test]
    fn an_answer_is_the_same_in_any_pieces() {
        let malformed = |why| Err(EgressError::Protocol(HttpError::Malformed(why)));
        let no_status = "the status line is malformed";
        for (text, expected) in [
            ("HTTP/1.1 200 Connection established\r\n\r\n", Ok(Some(""))),
            ("HTTP/1.0 200\r\nContent-Length: 7\r\nTransfer-Encoding: x\r\n\r\n\x16\x03\n\n", Ok(Some("\x16\x03\n\n"))),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 \r\na: b\r\n\r\nHTTP/1.1 500 x\r\n\r\n",
                Ok(Some("HTTP/1.1 500 x\r\n\r\n")),
            ),
            ("HTTP/1.1 200 OK\r\na: b\r\n", Ok(None)),
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", Err(EgressError::Status(407))),
            ("HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", Err(EgressError::Status(301))),
            ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 9\r\n\r\nno route\n", Err(EgressError::Status(502))),
            ("HTTP/2 200 OK\r\n\r\n", malformed(no_status)),
            ("HTTP/1.1 20 OK\r\n\r\n", malformed(no_status)),
            ("HTTP/1.1 2000 OK\r\n\r\n", malformed(no_status)),
            ("HTTP/1.1 600 OK\r\n\r\n", malformed(no_status)),
            ("220 mail.example ESMTP\r\n\r\n", malformed(no_status)),
            ("SSH-2.0-x\n", malformed("a line of the head does not end in CRLF")),
        ] {
            for piece in [1, 2, 3, 7, 1000] {
                let found = answer(text.as_bytes(), piece);
                let expected = expected.map(|rest| rest.map(|rest| rest.as_bytes().to_vec()));
                assert_eq!(found, expected, "{text:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_head_has_a_bound() {
        let line = format!("a: {}\r\n", "b".repeat(995)).into_bytes();
        let long = [&b"HTTP/1.1 200 OK\r\n"[..], &line.repeat(17), b"\r\n"].concat();
        for piece in [1, 1000, 100_000] {
            assert_eq!(answer(&long, piece), Err(EgressError::Protocol(HttpError::HeadTooLarge)), "{piece}");
        }
        assert_eq!(answer(&[&long[..17 + 16 * 1000], b"\r\n"].concat(), 100_000), Ok(Some(Vec::new())));
        let endless = b"HTTP/1.1 200 ".repeat(2000);
        assert!(answer(&endless, 1).is_err());
    }
}
