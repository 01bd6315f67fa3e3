//! WebSocket frames (RFC 6455 §5): of the server's direction, splits a byte stream into its text messages, cut
//! anywhere; of the client's, [`ClientFrames`] knows the borders; and writes the frames that end a session.
//!
//! In: the bytes behind the `101` head, as they are relayed. Out: the payload of each text message, its fragments
//! joined to one, and where it ends; binary messages, pings and pongs are passed over. It holds one frame's header,
//! never a payload. What it cannot read (a compressed or masked message) it passes over by its length and reports;
//! where the borders between frames are lost, it reads no more. It never unmasks, decompresses or answers anything: the
//! bytes go their way whatever it makes of them, and judging them is the client's part.

mod client_frames;

pub use client_frames::ClientFrames;

const FIN: u8 = 0x80;
/// Extensions give these bits a meaning (§5.2); we let none be agreed on.
const RSV: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// Two bytes, eight of length, four of masking key.
const HEADER_BYTES_MAX: usize = 14;
/// Longest payload of a control frame (§5.5).
const CONTROL_BYTES_MAX: u64 = 125;

/// What the next bytes of the stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The input is used up.
    More,
    /// Payload of a text message, not empty.
    Text(&'a [u8]),
    /// The text message whose payload came before, if it has any, is complete.
    TextEnd,
    /// A binary message has begun, of which nothing else will be said.
    Binary,
    /// A frame is complete that does not end a text message.
    FrameEnd,
    /// A text message, in whole or from here on, cannot be read: it is compressed or masked. Comes once for a message;
    /// neither its text nor its end will follow.
    Unreadable,
    /// A close frame has begun: nothing more is sent in this direction (§5.5.1), and what may follow is passed over.
    Close,
    /// Not WebSocket: nothing that follows is read.
    Lost,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Within a frame's header.
    #[default]
    Header,
    /// Within a frame's payload, or at its end.
    Payload,
    /// Behind the end of all that is read.
    Over,
}

/// What the frame that is being read is to its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Frame {
    /// A control frame, which may stand between the fragments of a message (§5.4).
    #[default]
    Control,
    Fragment,
    LastFragment,
}

/// The data message that has begun and not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Message {
    #[default]
    None,
    Text,
    /// Binary or unreadable.
    PassedOver,
}

/// A frame's header as it comes, byte by byte (§5.2).
#[derive(Debug, Default)]
struct Header {
    bytes: [u8; HEADER_BYTES_MAX],
    /// Bytes that have come.
    filled: usize,
}

/// Parser of the server's direction.
#[derive(Debug, Default)]
pub struct Frames {
    at: At,
    header: Header,
    frame: Frame,
    message: Message,
    /// Bytes of the payload that have not come.
    left: u64,
}

impl Frames {
    /// The next piece, and how many bytes of `input` are used up with it. A message's end comes without waiting for
    /// another byte: call until it is [`Piece::More`].
    pub fn next<'a>(&mut self, input: &'a [u8]) -> (usize, Piece<'a>) {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let piece = match self.at {
                At::Header => match rest.first() {
                    Some(&byte) => {
                        used += 1;
                        self.header_byte(byte)
                    }
                    None => Some(Piece::More),
                },
                At::Payload if self.left == 0 => self.end_frame(),
                At::Payload if rest.is_empty() => Some(Piece::More),
                At::Payload => {
                    let part = &rest[..usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()))];
                    self.left -= part.len() as u64;
                    used += part.len();
                    let is_text = self.frame != Frame::Control && self.message == Message::Text;
                    is_text.then_some(Piece::Text(part))
                }
                At::Over => return (input.len(), Piece::More),
            };
            if let Some(piece) = piece {
                return (used, piece);
            }
        }
    }

    /// True where a text message has begun, is readable so far, and has not ended.
    pub fn is_in_text(&self) -> bool {
        self.message == Message::Text
    }

    /// True behind the end of all that is read: a close frame has begun, or the borders are lost.
    pub fn is_over(&self) -> bool {
        self.at == At::Over
    }

    /// True where neither a frame nor a message has begun that has not ended: another message may stand here.
    pub fn is_between_messages(&self) -> bool {
        self.at == At::Header && self.header.is_empty() && self.message == Message::None
    }

    fn header_byte(&mut self, byte: u8) -> Option<Piece<'static>> {
        if !self.header.push(byte) {
            return None;
        }
        let piece = self.begin_frame();
        self.at = if matches!(piece, Some(Piece::Close | Piece::Lost)) { At::Over } else { At::Payload };
        piece
    }

    /// The header is complete. The checks are those of §5.2, §5.4 and §5.5.
    fn begin_frame(&mut self) -> Option<Piece<'static>> {
        let [first, second, ..] = self.header.bytes;
        self.left = self.header.take_payload_bytes();
        if self.left > i64::MAX as u64 {
            return Some(Piece::Lost); // §5.2: the most significant bit is 0
        }
        // A server masks nothing (§5.1). The key is a part of the header, so that the borders hold all the same.
        let is_readable = first & RSV == 0 && second & MASKED == 0;
        let is_final = first & FIN != 0;
        match first & OPCODE {
            opcode @ (CONTINUATION | TEXT | BINARY) => self.begin_data(opcode, is_final, is_readable),
            CLOSE | PING | PONG if !is_final || self.left > CONTROL_BYTES_MAX => Some(Piece::Lost), // §5.5
            CLOSE => Some(Piece::Close),
            PING | PONG => {
                self.frame = Frame::Control;
                None
            }
            _ => Some(Piece::Lost), // reserved: a frame whose meaning was never agreed on (§5.2)
        }
    }

    fn begin_data(&mut self, opcode: u8, is_final: bool, is_readable: bool) -> Option<Piece<'static>> {
        let goes_on = self.message != Message::None;
        if goes_on != (opcode == CONTINUATION) {
            return Some(Piece::Lost); // §5.4: fragments of messages are not mixed, and one is not continued unbegun
        }
        self.frame = if is_final { Frame::LastFragment } else { Frame::Fragment };
        if opcode != CONTINUATION {
            self.message = if opcode == TEXT { Message::Text } else { Message::PassedOver };
        }
        if is_readable || self.message != Message::Text {
            return (opcode == BINARY).then_some(Piece::Binary);
        }
        self.message = Message::PassedOver;
        Some(Piece::Unreadable)
    }

    fn end_frame(&mut self) -> Option<Piece<'static>> {
        self.at = At::Header;
        if self.frame != Frame::LastFragment {
            return Some(Piece::FrameEnd);
        }
        let ended = std::mem::take(&mut self.message);
        Some(if ended == Message::Text { Piece::TextEnd } else { Piece::FrameEnd })
    }
}

impl Header {
    /// True where none of it has come.
    fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Takes the next byte; true where it is the last.
    fn push(&mut self, byte: u8) -> bool {
        self.bytes[self.filled] = byte;
        self.filled += 1;
        self.filled == self.length()
    }

    /// It is complete: the key that its frame is masked with (§5.3); without one, zeros.
    fn mask(&self) -> [u8; 4] {
        let is_masked = self.bytes[1] & MASKED != 0;
        let key = self.bytes[..self.filled].last_chunk().copied();
        key.filter(|_| is_masked).unwrap_or_default()
    }

    /// How long it is, as far as its bytes so far show.
    fn length(&self) -> usize {
        let second = if self.filled < 2 { 0 } else { self.bytes[1] };
        let length = match second & LENGTH {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if second & MASKED == 0 { 0 } else { 4 }
    }

    /// It is complete: how long the payload is; what comes next is another header.
    fn take_payload_bytes(&mut self) -> u64 {
        self.filled = 0;
        match self.bytes[1] & LENGTH {
            126 => big_endian(&self.bytes[2..4]),
            127 => big_endian(&self.bytes[2..10]),
            length => u64::from(length),
        }
    }
}

/// A text message for a client, in one frame.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    out.push(FIN | TEXT);
    match text.len() {
        length @ 0..126 => out.push(length as u8),
        length @ 126..0x1_0000 => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// A close frame (§5.5.1) with a status and a reason, which is cut where it would be too long; with a `mask`, as a
/// client's must have (§5.3).
pub fn write_close(out: &mut Vec<u8>, status: u16, reason: &str, mask: Option<[u8; 4]>) {
    let reason = &reason.as_bytes()[..reason.len().min(CONTROL_BYTES_MAX as usize - 2)];
    let length = 2 + reason.len() as u8;
    out.extend_from_slice(&[FIN | CLOSE, length | if mask.is_some() { MASKED } else { 0 }]);
    out.extend(mask.iter().flatten());
    let payload = status.to_be_bytes().into_iter().chain(reason.iter().copied());
    out.extend(payload.zip(mask.unwrap_or_default().into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
