//! WebSocket (RFC 6455) as a test wants it: the handshake of both sides, and frames made and read by hand. Whatever is
//! not exactly right is an error, and nothing is repaired.

use super::client::{Client, Response};
use super::rng::Rng;
use super::script::Step;
use super::upstream::{SeenRequest, Tunnel};
use super::wire::{Cut, Wire, malformed};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// Payloads beyond it are a mistake in the test.
const PAYLOAD_BYTES_MAX: u64 = 64 << 20;
/// The key that our client sends: the one of RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The fields that ask for a WebSocket.
pub const HANDSHAKE: [(&str, &str); 4] =
    [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13"), ("sec-websocket-key", KEY)];

/// One frame, unmasked.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame that is a whole message.
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { fin: true, opcode, payload: payload.into() }
    }

    pub fn text(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(TEXT, payload)
    }

    pub fn close(code: u16, reason: &str) -> Self {
        Self::new(CLOSE, [&code.to_be_bytes(), reason.as_bytes()].concat())
    }

    /// The frame's bytes (RFC 6455 §5.2), masked where there is a mask.
    pub fn encode(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let masked = u8::from(mask.is_some()) << 7;
        let mut bytes = vec![u8::from(self.fin) << 7 | self.opcode];
        match self.payload.len() {
            length @ 0..=125 => bytes.push(masked | length as u8),
            length @ 126..=0xffff => {
                bytes.push(masked | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(masked | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(mask.iter().flatten());
        bytes.extend_from_slice(&self.payload);
        if let Some(mask) = mask {
            let start = bytes.len() - self.payload.len();
            unmask(&mut bytes[start..], mask);
        }
        bytes
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let payload = String::from_utf8_lossy(&self.payload);
        write!(f, "{}{:x} {}", if self.fin { "" } else { "part of " }, self.opcode, payload)
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

/// Which end of the connection somebody is: a client masks what it sends, a server must not (RFC 6455 §5.1).
#[derive(Clone)]
pub enum Side {
    Client(Rng),
    Server,
}

impl Side {
    /// The bytes of a frame that this side sends.
    pub fn encode(&mut self, frame: &Frame) -> Vec<u8> {
        match self {
            Self::Client(masks) => frame.encode(Some((masks.next() as u32).to_be_bytes())),
            Self::Server => frame.encode(None),
        }
    }

    /// The bytes of a message in as many frames as chance wants, some of them empty, with pings and pongs between.
    pub fn encode_in_fragments(&mut self, message: &Frame, rng: &mut Rng) -> Vec<u8> {
        let pieces = if rng.coin() { 1 } else { 1 + rng.below(6) };
        let mut parts = rng.cut(&message.payload, pieces);
        while parts.is_empty() || rng.below(8) == 0 {
            parts.insert(rng.below(parts.len() + 1), b"");
        }
        let mut bytes = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let opcode = if i == 0 { message.opcode } else { CONTINUATION };
            let frame = Frame { fin: i + 1 == parts.len(), opcode, payload: part.to_vec() };
            bytes.extend(self.encode(&frame));
            if rng.below(4) == 0 {
                let control = if rng.coin() { PING } else { PONG };
                let payload = &b"{\"type\":\"response.done\",\"response\":{\"usage\":{\"input_tokens\":9}}}"[..];
                bytes.extend(self.encode(&Frame::new(control, &payload[..rng.below(payload.len() + 1)])));
            }
        }
        bytes
    }
}

/// One side of an open WebSocket.
pub struct Socket<S> {
    pub stream: S,
    side: Side,
}

impl<S: Read + Write> Socket<S> {
    pub fn new(stream: S, side: Side) -> Self {
        Self { stream, side }
    }

    pub fn send(&mut self, frame: &Frame) -> Result<(), Cut> {
        let bytes = self.side.encode(frame);
        self.stream.write_all(&bytes)?;
        Ok(self.stream.flush()?)
    }

    /// Sends an event of the API.
    pub fn send_json(&mut self, event: &Value) -> Result<(), Cut> {
        self.send(&Frame::text(event.to_string()))
    }

    /// The next frame; `None` where the stream ends before one begins.
    pub fn frame(&mut self) -> Result<Option<Frame>, Cut> {
        let mut first = [0; 2];
        if self.stream.read(&mut first[..1])? == 0 {
            return Ok(None);
        }
        self.stream.read_exact(&mut first[1..])?;
        let (fin, opcode, masked) = (first[0] & 0x80 != 0, first[0] & 0x0f, first[1] & 0x80 != 0);
        if first[0] & 0x70 != 0 || !matches!(opcode, 0..=2 | 8..=10) {
            return malformed(format!("no extension was agreed on: {:#x}", first[0]));
        }
        if masked == matches!(self.side, Side::Client(_)) {
            return malformed("frames of a client are masked, those of a server are not");
        }
        let length = self.length(first[1] & 0x7f)?;
        if opcode >= CLOSE && (!fin || length > 125) {
            return malformed("a control frame that is long or in parts");
        }
        let mut mask = [0; 4];
        self.stream.read_exact(&mut mask[..if masked { 4 } else { 0 }])?;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload)?;
        unmask(&mut payload, mask);
        Ok(Some(Frame { fin, opcode, payload }))
    }

    /// A payload's length, in the shortest form (RFC 6455 §5.2).
    fn length(&mut self, short: u8) -> Result<usize, Cut> {
        let mut extended = [0; 8];
        let (bytes, least) = match short {
            126 => (2, 126),
            127 => (8, 0x1_0000),
            _ => return Ok(short.into()),
        };
        self.stream.read_exact(&mut extended[8 - bytes..])?;
        match u64::from_be_bytes(extended) {
            length if length >= least && length <= PAYLOAD_BYTES_MAX => Ok(length as usize),
            length => malformed(format!("a payload of {length} bytes in {bytes}")),
        }
    }

    /// The next message, put together, or the close frame. Pings on the way are answered. `None` where the stream ends.
    pub fn message(&mut self) -> Result<Option<Frame>, Cut> {
        let mut message: Option<Frame> = None;
        while let Some(frame) = self.frame()? {
            match (frame.opcode, &mut message) {
                (CLOSE, _) => return Ok(Some(frame)),
                (PING, _) => self.send(&Frame { opcode: PONG, ..frame })?,
                (PONG, _) => {}
                (CONTINUATION, Some(message)) => {
                    message.payload.extend(frame.payload);
                    message.fin = frame.fin;
                }
                (TEXT | BINARY, None) => message = Some(frame),
                (opcode, _) => return malformed(format!("opcode {opcode} out of turn")),
            }
            if let Some(whole) = message.take_if(|message| message.fin) {
                if whole.opcode == TEXT && std::str::from_utf8(&whole.payload).is_err() {
                    return malformed("a text that is not UTF-8");
                }
                return Ok(Some(whole));
            }
        }
        if message.is_some() { Err(Cut::Closed) } else { Ok(None) }
    }

    /// The next event of the API. Panics where there is none.
    #[track_caller]
    pub fn event(&mut self) -> Value {
        match self.message() {
            Ok(Some(message)) if message.opcode == TEXT => serde_json::from_slice(&message.payload).unwrap(),
            other => panic!("no event but {other:?}"),
        }
    }
}

/// The answer to a key (RFC 6455 §4.2.2).
pub fn accept_of(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// The head that accepts a handshake, with the first protocol of those that the client speaks. Panics where it is none.
pub fn switching_protocols(request: &SeenRequest) -> Vec<u8> {
    let field = |name: &str| request.head.get(name).unwrap_or_default();
    let key = field("sec-websocket-key");
    let connection: Vec<_> = field("connection").split(',').map(|name| name.trim().to_lowercase()).collect();
    assert!(connection.contains(&"upgrade".to_owned()), "{:?}", request.head);
    assert!(request.method == "GET" && field("upgrade").eq_ignore_ascii_case("websocket"), "{:?}", request.head);
    assert_eq!(field("sec-websocket-version"), "13");
    assert_eq!(BASE64_STANDARD.decode(key).map(|key| key.len()), Ok(16));
    let protocol = match field("sec-websocket-protocol").split(',').next() {
        None | Some("") => String::new(),
        Some(first) => format!("sec-websocket-protocol: {}\r\n", first.trim()),
    };
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: {}\r\n{protocol}x-request-id: req_of_a_socket\r\n\r\n",
        accept_of(key)
    )
    .into_bytes()
}

/// The steps of a server that accepts, talks and then closes the connection.
pub fn accept(request: &SeenRequest, talk: impl FnOnce(&mut Tunnel) -> Result<(), Cut> + Send + 'static) -> Vec<Step> {
    vec![Step::Send(switching_protocols(request)), Step::Talk(Box::new(talk)), Step::Close]
}

/// A client's end of an open WebSocket.
pub type ClientSocket = Socket<Wire<TcpStream>>;

/// Opens a WebSocket. Panics where the server gives none.
#[track_caller]
pub fn connect(addr: SocketAddr, target: &str, fields: &[(&str, &str)]) -> ClientSocket {
    let fields: Vec<_> = HANDSHAKE.iter().chain(fields).copied().collect();
    let mut client = Client::connect(addr);
    check_accepted(&client.request("GET", target, &fields, b"").expect(101));
    Socket::new(client.into_wire(), Side::Client(Rng::new(0)))
}

/// What a client checks of a server that accepts (RFC 6455 §4.1). Panics where it is not so.
#[track_caller]
pub fn check_accepted(response: &Response) {
    let field = |name: &str| response.head.get(name).unwrap_or_default().to_lowercase();
    assert_eq!((field("upgrade"), field("connection")), ("websocket".into(), "upgrade".into()), "{:?}", response.head);
    assert_eq!(response.head.get("sec-websocket-accept"), Some(accept_of(KEY).as_str()));
}
