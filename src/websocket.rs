//! WebSocket frames of one direction, the server's (RFC 6455 §5): splits a byte stream into its text messages, cut
//! anywhere.
//!
//! In: the bytes behind the `101` head, as they are relayed. Out: the payload of each text message, its fragments
//! joined to one, and where it ends; binary messages, pings and pongs are passed over. It holds one frame's header,
//! never a payload. What it cannot read (a compressed or masked message) it passes over by its length and reports;
//! where the borders between frames are lost, it reads no more. It never unmasks, decompresses or answers anything: the
//! bytes go their way whatever it makes of them, and judging them is the client's part.

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

/// Parser of one direction.
#[derive(Debug, Default)]
pub struct Frames {
    at: At,
    header: [u8; HEADER_BYTES_MAX],
    /// Bytes of the header that have come.
    filled: usize,
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

    fn header_byte(&mut self, byte: u8) -> Option<Piece<'static>> {
        self.header[self.filled] = byte;
        self.filled += 1;
        if self.filled < self.header_length() {
            return None;
        }
        self.filled = 0;
        let piece = self.begin_frame();
        self.at = if matches!(piece, Some(Piece::Close | Piece::Lost)) { At::Over } else { At::Payload };
        piece
    }

    /// How long the header is, as far as its bytes so far show.
    fn header_length(&self) -> usize {
        let second = if self.filled < 2 { 0 } else { self.header[1] };
        let length = match second & LENGTH {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if second & MASKED == 0 { 0 } else { 4 }
    }

    /// The header is complete. The checks are those of §5.2, §5.4 and §5.5.
    fn begin_frame(&mut self) -> Option<Piece<'static>> {
        let [first, second, ..] = self.header;
        self.left = match second & LENGTH {
            126 => big_endian(&self.header[2..4]),
            127 => big_endian(&self.header[2..10]),
            length => u64::from(length),
        };
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
            return None;
        }
        self.message = Message::PassedOver;
        Some(Piece::Unreadable)
    }

    fn end_frame(&mut self) -> Option<Piece<'static>> {
        self.at = At::Header;
        if self.frame != Frame::LastFragment {
            return None;
        }
        let ended = std::mem::take(&mut self.message);
        (ended == Message::Text).then_some(Piece::TextEnd)
    }
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
