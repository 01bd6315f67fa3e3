//! One client of a generator: its connection, the request in flight, and whether the answer is the one that was due.
//!
//! In: an [`Order`] and what the sockets say. Out: requests as an SDK would send them, from many users in turn, and
//! "whole and right" or what was wrong. Never: an answer that is taken for right by its status alone.

use crate::answers::{COMPLETION, STREAM_END, stream_bytes};
use crate::link::Link;
use crate::wire::{ResponseReader, TAIL_BYTES};
use crate::work::{Load, Order};
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::ClientConfig;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What an answer must be.
struct Expected {
    length: Length,
    end: &'static str,
}

/// How long its body must be.
enum Length {
    /// As long as the mock's.
    Is(u64),
    /// The end, and any number of content chunks of so many bytes.
    Stream(u64, u64),
    /// The target writes it anew.
    Unknown,
}

impl Length {
    fn allows(&self, bytes: u64) -> bool {
        match *self {
            Self::Is(length) => bytes == length,
            Self::Stream(end, chunk) => bytes > end && (bytes - end).is_multiple_of(chunk),
            Self::Unknown => true,
        }
    }
}

/// The requests of a load: one head a user, and the body that all share.
pub struct Requests {
    heads: Vec<Vec<u8>>,
    body: Vec<u8>,
    expected: Expected,
    next: usize,
}

impl Requests {
    pub fn new(order: &Order) -> Self {
        let Load { events, pace_ms, users, body_bytes, .. } = order.load;
        let streamed = if events > 0 { r#""stream":true,"stream_options":{"include_usage":true},"# } else { "" };
        let paced = if pace_ms > 0 { format!("pace_ms={pace_ms} ") } else { String::new() };
        let before = format!(r#"{{"model":"gpt-4o-mini",{streamed}"messages":[{{"role":"user","content":"{paced}"#);
        let after = r#""}],"max_tokens":128,"temperature":0.7}"#;
        let filling = "lorem ipsum dolor sit amet ".bytes().cycle();
        let mut body = before.into_bytes();
        let content = body_bytes.saturating_sub(body.len() + after.len());
        body.extend(filling.take(content));
        body.extend_from_slice(after.as_bytes());
        let (length, address) = (body.len(), order.address);
        let head = |user: usize| {
            format!(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nAccept: application/json\r\n\
                 User-Agent: OpenAI/Python 3.54.0\r\nAuthorization: Bearer sk-client-0123456789abcdef\r\n\
                 X-User-ID: user-{user:06}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
            )
        };
        let (rest, chunk) = stream_bytes();
        let length = match events as u64 {
            _ if order.rewritten => Length::Unknown,
            0 => Length::Is(COMPLETION.len() as u64),
            _ if pace_ms > 0 => Length::Stream(rest, chunk),
            events => Length::Is(rest + events * chunk),
        };
        let expected = Expected { length, end: if events > 0 { STREAM_END } else { "}" } };
        Self { heads: (0..users).map(|user| head(user).into_bytes()).collect(), body, expected, next: 0 }
    }
}

/// One connection and its request in flight.
pub struct Client {
    link: Link,
    user: usize,
    written: usize,
    pub sent_at: Instant,
    pub response: ResponseReader,
}

impl Client {
    /// Connects, with TLS where there is a way to speak it; its events come under the token.
    pub fn connect(order: &Order, tls: Option<&Arc<ClientConfig>>, to: (&Registry, Token)) -> Result<Self, String> {
        let (address, (registry, token)) = (order.address, to);
        let failed = |e| format!("cannot connect to {address}: {e}");
        let socket = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(failed)?;
        socket.set_nodelay(true).and_then(|()| socket.set_nonblocking(true)).map_err(failed)?;
        let mut socket = TcpStream::from_std(socket);
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE).map_err(failed)?;
        Ok(Self {
            link: Link::new(socket, tls),
            user: 0,
            written: 0,
            sent_at: Instant::now(),
            response: ResponseReader::new(),
        })
    }

    /// The next user's request on an idle connection.
    pub fn send(&mut self, requests: &mut Requests) {
        self.response.reset();
        (self.user, self.written, self.sent_at) = (requests.next, 0, Instant::now());
        requests.next = (requests.next + 1) % requests.heads.len();
        // An answer can be refused before its request is out: what the socket says then is read from it, not here.
        let _ = self.write(requests);
    }

    /// What the connection has to say: `Ok(true)` when its answer is whole and right.
    pub fn turn(&mut self, event: &Event, requests: &Requests, scratch: &mut [u8]) -> Result<bool, String> {
        self.write(requests)?;
        if !event.is_readable() {
            return Ok(false);
        }
        loop {
            match self.link.read(scratch) {
                Ok(0) => return Err("the connection was closed before the answer's end".into()),
                Ok(n) => {
                    if self.response.feed(&scratch[..n])? {
                        self.judge(&requests.expected)?;
                        return Ok(true);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
    }

    /// Writes what the socket takes of the rest of the request.
    fn write(&mut self, requests: &Requests) -> Result<(), String> {
        let head = &requests.heads[self.user];
        let total = head.len() + requests.body.len();
        self.link.flush().map_err(|e| e.to_string())?;
        while self.written < total {
            let head_left = &head[self.written.min(head.len())..];
            let body_left = &requests.body[self.written.saturating_sub(head.len())..];
            match self.link.write([head_left, body_left]) {
                Ok(n) => self.written += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        self.link.flush().map_err(|e| e.to_string())
    }

    /// Is the complete answer the one that the mock gave?
    fn judge(&self, expected: &Expected) -> Result<(), String> {
        let ResponseReader { status, body_bytes, ref tail, .. } = self.response;
        if status != 200 {
            return Err(format!("status {status}"));
        }
        const { assert!(STREAM_END.len() <= TAIL_BYTES) };
        let right = tail.ends_with(expected.end.as_bytes()) && expected.length.allows(body_bytes);
        if right { Ok(()) } else { Err(format!("a body of {body_bytes} bytes that is not the mock's")) }
    }
}
