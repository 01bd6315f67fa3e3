//! The client's direction of a WebSocket, as far as it must be known to end it: where a frame begins, and which are
//! control frames (RFC 6455 §5.5); and the text of its messages, for whoever wants to hear it.
//!
//! ```text
//!   Open ──restrict──▶ Control ──┐
//!     │                          ├─close──▶ Closed: nothing passes
//!     └──────────────────────────┘
//! ```
//!
//! In: the client's bytes. Out: those that pass, and of messages the text, unmasked. While it is open, all do, whatever
//! they are. Once it is restricted, nothing is asked of the server any more, but pings are answered, so that what it is
//! at work on can come to its end. What has not left yet of a frame that must not pass is taken back; where a part of
//! it has left, nothing can follow. It holds one frame's header, never a payload.

use super::{BINARY, CLOSE, FIN, Header, OPCODE, Piece, RSV, TEXT};

/// Control frames have this bit of the opcode.
const CONTROL: u8 = 0x8;
/// Text that is unmasked in one piece, bytes.
const UNMASKED_BYTES: usize = 1024;

/// What passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Gate {
    #[default]
    Open,
    Control,
    Closed,
}

/// The borders of the client's frames, and which of them pass.
#[derive(Debug, Default)]
pub struct ClientFrames {
    gate: Gate,
    header: Header,
    /// Bytes of the payload that have not come.
    left: u64,
    /// Bytes of the frame that has begun, up to now.
    begun: u64,
    /// That frame passes.
    passes: bool,
    /// A close frame has passed: its side is over.
    said_goodbye: bool,
    /// A part of a frame has passed whose rest will not.
    broken: bool,
    /// The mask of the frame's next byte, and of those behind it (§5.3).
    mask: [u8; 4],
    /// A data message has begun, and not ended.
    in_message: bool,
    /// It is text that somebody wants to hear.
    is_heard: bool,
}

impl ClientFrames {
    /// Takes the client's next bytes, and appends those that pass. `hear` gets each
    /// [`Piece::Text`] of what passes, and says whether more of the message is wanted; and a [`Piece::TextEnd`] where a
    /// message ends.
    pub fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>, mut hear: impl FnMut(Piece<'_>) -> bool) {
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            if self.begun == 0 {
                self.passes = match self.gate {
                    Gate::Open => true,
                    Gate::Control => first & CONTROL != 0 && !self.broken,
                    Gate::Closed => false,
                };
            }
            let count = if self.left > 0 { self.left.min(rest.len() as u64) as usize } else { 1 };
            let (piece, after) = rest.split_at(count);
            rest = after;
            if self.passes {
                out.extend_from_slice(piece);
            }
            self.begun += count as u64;
            if self.left > 0 {
                self.left -= count as u64;
                self.tell(piece, &mut hear);
            } else if self.header.push(first) {
                self.mask = self.header.mask();
                self.left = self.header.take_payload_bytes();
                self.begin_frame();
            } else {
                continue;
            }
            if self.left == 0 {
                self.end_frame(&mut hear);
            }
        }
    }

    /// True where neither a frame nor a message has begun that has not ended.
    pub fn is_between_messages(&self) -> bool {
        self.begun == 0 && self.header.is_empty() && !self.in_message
    }

    /// A frame's header is complete. What an extension has changed is not heard: none was agreed on.
    fn begin_frame(&mut self) {
        let first = self.header.bytes[0];
        if let opcode @ (TEXT | BINARY) = first & OPCODE {
            self.in_message = true;
            self.is_heard = opcode == TEXT && first & RSV == 0;
        }
    }

    fn end_frame(&mut self, hear: &mut impl FnMut(Piece<'_>) -> bool) {
        let first = self.header.bytes[0];
        self.begun = 0;
        self.said_goodbye |= self.passes && first & OPCODE == CLOSE;
        if first & CONTROL != 0 || first & FIN == 0 {
            return;
        }
        if self.in_message && self.passes {
            hear(Piece::TextEnd);
        }
        (self.in_message, self.is_heard) = (false, false);
    }

    /// Tells what comes of a payload, unmasked.
    fn tell(&mut self, payload: &[u8], hear: &mut impl FnMut(Piece<'_>) -> bool) {
        let is_heard = self.is_heard && self.passes && self.header.bytes[0] & CONTROL == 0;
        if !is_heard {
            return;
        }
        let mut unmasked = [0; UNMASKED_BYTES];
        for part in payload.chunks(UNMASKED_BYTES) {
            let text = &mut unmasked[..part.len()];
            text.iter_mut().zip(part).zip(self.mask.iter().cycle()).for_each(|((out, byte), mask)| *out = byte ^ mask);
            self.mask.rotate_left(part.len() % 4);
            self.is_heard = hear(Piece::Text(text));
            if !self.is_heard {
                return;
            }
        }
    }

    /// From now on only control frames pass. Of what passed, the last `waiting` bytes have not left: returns how many
    /// of these to take back, the part of a frame that must not go on.
    pub fn restrict(&mut self, waiting: usize) -> usize {
        self.gate = Gate::Control;
        let is_control = self.begun > 0 && self.header.bytes[0] & CONTROL != 0;
        if is_control { 0 } else { self.break_off(waiting) }
    }

    /// From now on nothing passes. Returns how many bytes to take back, as [`ClientFrames::restrict`] does, and whether
    /// a close frame may follow then.
    pub fn close(&mut self, waiting: usize) -> (usize, bool) {
        self.gate = Gate::Closed;
        let taken_back = self.break_off(waiting);
        (taken_back, !self.broken && !self.said_goodbye)
    }

    /// Ends the frame that has begun where it is, if it passes.
    fn break_off(&mut self, waiting: usize) -> usize {
        if self.begun == 0 || !std::mem::take(&mut self.passes) {
            return 0;
        }
        match usize::try_from(self.begun) {
            Ok(begun) if begun <= waiting => begun,
            _ => {
                self.broken = true;
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::{FIN, MASKED, PING, TEXT};
    use proptest::prelude::*;

    /// A masked frame of so many bytes of payload.
    fn frame(opcode: u8, length: usize) -> Vec<u8> {
        let mut out = vec![FIN | opcode];
        match length {
            0..126 => out.push(MASKED | length as u8),
            126..65_536 => {
                out.push(MASKED | 126);
                out.extend((length as u16).to_be_bytes());
            }
            _ => {
                out.push(MASKED | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        out.extend([1, 2, 3, 4]);
        out.extend((0..length).map(|n| n as u8));
        out
    }

    /// Passes `frames`, restricts at byte `at` while `waiting` bytes have not left, and closes at the end: what is with
    /// the server then, and whether a close frame may follow.
    fn restricted(frames: &[Vec<u8>], at: usize, waiting: usize, step: usize) -> (Vec<u8>, bool) {
        let (mut borders, mut out, stream) = (ClientFrames::default(), Vec::new(), frames.concat());
        stream[..at].chunks(step).for_each(|piece| borders.pass(piece, &mut out, |_| false));
        assert_eq!(out, stream[..at], "until then all passes");
        let taken_back = borders.restrict(waiting);
        assert!(taken_back <= waiting);
        out.truncate(out.len() - taken_back);
        stream[at..].chunks(step).for_each(|piece| borders.pass(piece, &mut out, |_| false));
        let (taken_back, may_follow) = borders.close(0);
        assert_eq!(taken_back, 0);
        borders.pass(&frame(PING, 3), &mut out, |_| false);
        (out, may_follow)
    }

    proptest! {
        /// Whenever it is restricted, whole frames are with the server: those that had passed, and control frames; or
        /// the part of one that had left already, and nothing behind it.
        #[test]
        fn only_whole_frames_pass(
            shapes in proptest::collection::vec((any::<bool>(), prop_oneof![0usize..130, Just(70_000)]), 1..6),
            at in any::<prop::sample::Index>(),
            waiting in 0usize..200,
            step in 1usize..300,
        ) {
            let kinds: Vec<(u8, usize)> =
                shapes.iter().map(|&(control, length)| if control { (PING, length.min(125)) } else { (TEXT, length) }).collect();
            let frames: Vec<Vec<u8>> = kinds.iter().map(|&(opcode, length)| frame(opcode, length)).collect();
            let at = at.index(frames.concat().len() + 1);
            let (mut expected, mut whole, mut begins) = (Vec::new(), true, 0);
            for (bytes, &(opcode, _)) in frames.iter().zip(&kinds) {
                let ends = begins + bytes.len();
                let part = at.saturating_sub(begins).min(bytes.len());
                match (part, opcode) {
                    _ if part == bytes.len() || opcode == PING && whole => expected.extend(bytes),
                    (0, _) => {}
                    _ if part <= waiting => {}
                    _ => {
                        expected.extend(&bytes[..part]);
                        whole = false;
                    }
                }
                begins = ends;
            }
            prop_assert_eq!(restricted(&frames, at, waiting.min(at), step), (expected, whole));
        }
    }

    /// What a client says in whole messages, in fragments with a ping between, and cut anywhere; of one that nobody
    /// wants to hear, the rest is not told.
    #[test]
    fn texts_are_heard_as_they_were_said() {
        let said: String = (0..3000).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
        let masked = |first: u8, text: &str| {
            let mut bytes = frame(first & OPCODE, text.len());
            bytes[0] = first;
            let start = bytes.len() - text.len();
            for (n, byte) in text.bytes().enumerate() {
                bytes[start + n] = byte ^ [1, 2, 3, 4][n % 4];
            }
            bytes
        };
        let parts = [masked(TEXT, &said[..1501]), frame(PING, 9), masked(FIN, &said[1501..])];
        let binary = frame(crate::websocket::BINARY, 40);
        let stream = [parts.concat(), binary, masked(FIN | TEXT, "no more"), masked(FIN | TEXT, "")].concat();
        for step in [1, 2, 7, 1000, stream.len()] {
            let (mut borders, mut heard, mut ends) = (ClientFrames::default(), String::new(), 0);
            for piece in stream.chunks(step) {
                borders.pass(piece, &mut Vec::new(), |piece| {
                    match piece {
                        Piece::Text(text) => heard.push_str(std::str::from_utf8(text).unwrap()),
                        _ => ends += 1,
                    }
                    heard.len() <= said.len()
                });
            }
            assert!(heard.starts_with(&said) && ends == 4 && borders.is_between_messages(), "{ends} by {step}");
            let rest = &heard[said.len()..];
            assert!("no more".starts_with(rest) && (1..=step).contains(&rest.len()), "{rest} by {step}");
        }
        let mut borders = ClientFrames::default();
        borders.pass(&masked(TEXT, "a"), &mut Vec::new(), |_| true);
        assert!(!borders.is_between_messages(), "a fragment is missing");
    }

    #[test]
    fn after_a_goodbye_none_follows() {
        let (out, may_follow) = restricted(&[frame(CLOSE, 2), frame(PING, 0)], 0, 0, 100);
        assert_eq!((out.len(), may_follow), (8 + 6, false));
        let (out, may_follow) = restricted(&[frame(TEXT, 9)], 4, 0, 1);
        assert_eq!((out.len(), may_follow), (4, false), "half a frame has left");
        let mut borders = ClientFrames::default();
        borders.pass(&frame(CLOSE, 2)[..5], &mut Vec::new(), |_| false);
        assert_eq!((borders.restrict(9), borders.close(9)), (0, (5, true)), "a goodbye may end, but must then");
    }
}
