//! The chunked transfer coding (RFC 9112 §7.1), incremental and strict.
//!
//! ```text
//!   Size ──CR──▶ SizeLf ──LF, size>0──▶ Data ──all──▶ DataCr ──CR──▶ DataLf ──LF──▶ Size
//!    │ ';'│ws ▲     └──LF, size=0──▶ TrailerStart ◀──LF── TrailerLf ◀──CR── Trailer ◀──':'── TrailerName
//!    ▼    └ CR                            └──CR──▶ EndLf ──LF──▶ Done
//!   Extension
//! ```
//!
//! In: bytes, cut anywhere. Out: one [`Piece`] at a time, its data a range of the input. Extensions and trailers are
//! dropped (both are for this hop only, §7.1.1 and §7.1.2), within caps.

use super::HttpError;

/// Most bytes of extensions in one body: none is defined that a client could need.
const EXTENSION_BYTES_MAX: u32 = 16 * 1024;
/// Most bytes of trailers.
const TRAILER_BYTES_MAX: u32 = 16 * 1024;
/// 64 bits in hexadecimal.
const SIZE_DIGITS_MAX: u8 = 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

/// What the next bytes of a chunked body are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The input is used up inside a size, a line end or a trailer.
    More,
    /// A chunk of this many bytes (never 0) begins.
    Chunk(u64),
    /// Bytes of the chunk; more may follow.
    Data(&'a [u8]),
    /// The chunk has ended, its CRLF included.
    ChunkEnd,
    /// The body has ended, trailers included.
    End,
}

/// Decoder and validator of one chunked body.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    size: u64,
    digits: u8,
    extension_bytes: u32,
    trailer_bytes: u32,
}

impl Decoder {
    /// True once the body has ended; nothing more is consumed then.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// True where a chunk has begun that has not ended.
    pub fn is_in_chunk(&self) -> bool {
        matches!(self.state, State::Data | State::DataCr | State::DataLf)
    }

    /// The next piece, and how many bytes of `input` are used up with it.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Piece<'a>), HttpError> {
        let mut used = 0;
        while self.state != State::Done {
            if self.state == State::Data {
                let take = usize::try_from(self.size).unwrap_or(usize::MAX).min(input.len() - used);
                if take == 0 {
                    break;
                }
                self.size -= take as u64;
                if self.size == 0 {
                    self.state = State::DataCr;
                }
                return Ok((used + take, Piece::Data(&input[used..used + take])));
            }
            if self.state == State::Size
                && self.digits == 0
                && let Some((size, line_bytes)) = size_line(&input[used..])
            {
                (self.size, self.state) = (size, State::Data);
                return Ok((used + line_bytes, Piece::Chunk(size)));
            }
            let Some(&byte) = input.get(used) else { break };
            used += 1;
            if let Some(piece) = self.step(byte)? {
                return Ok((used, piece));
            }
        }
        Ok((used, if self.is_done() { Piece::End } else { Piece::More }))
    }

    /// One byte outside of chunk data.
    fn step(&mut self, byte: u8) -> Result<Option<Piece<'static>>, HttpError> {
        self.state = match (self.state, byte) {
            (State::Size, _) => return self.size_byte(byte).map(|()| None),
            (State::Extension, _) => self.extension_byte(byte)?,
            (State::SizeLf, b'\n') if self.size > 0 => {
                self.state = State::Data;
                return Ok(Some(Piece::Chunk(self.size)));
            }
            (State::SizeLf, b'\n') => State::TrailerStart,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                (self.state, self.size, self.digits) = (State::Size, 0, 0);
                return Ok(Some(Piece::ChunkEnd));
            }
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::TrailerName | State::Trailer, _) => self.trailer_byte(byte)?,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => {
                self.state = State::Done;
                return Ok(Some(Piece::End));
            }
            _ => return Err(HttpError::Malformed("a chunk does not end in CRLF")),
        };
        Ok(None)
    }

    /// `chunk-size = 1*HEXDIG`; white space before an extension is the "bad" one of §7.1.1 that some parsers take and
    /// others do not, so it is refused.
    fn size_byte(&mut self, byte: u8) -> Result<(), HttpError> {
        match char::from(byte).to_digit(16) {
            Some(_) if self.digits == SIZE_DIGITS_MAX => return Err(HttpError::Malformed("a chunk size is too large")),
            Some(digit) => {
                self.digits += 1;
                self.size = self.size << 4 | u64::from(digit); // 16 digits are exactly 64 bits
            }
            None if self.digits == 0 => return Err(HttpError::Malformed("a chunk size is missing")),
            None if byte == b'\r' => self.state = State::SizeLf,
            None if byte == b';' => self.state = State::Extension,
            None => return Err(HttpError::Malformed("a chunk size has a character that is not allowed there")),
        }
        Ok(())
    }

    fn extension_byte(&mut self, byte: u8) -> Result<State, HttpError> {
        self.extension_bytes += 1;
        match byte {
            b'\r' => Ok(State::SizeLf),
            _ if self.extension_bytes > EXTENSION_BYTES_MAX => Err(HttpError::HeadTooLarge),
            b'\t' | b' '..=b'~' | 0x80.. => Ok(State::Extension),
            _ => Err(HttpError::Malformed("a chunk extension has a character that is not allowed there")),
        }
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, HttpError> {
        self.trailer_bytes += 1;
        match byte {
            b'\r' if self.state == State::Trailer => Ok(State::TrailerLf),
            _ if self.trailer_bytes > TRAILER_BYTES_MAX => Err(HttpError::HeadTooLarge),
            b' ' | b'\t' if self.state == State::TrailerStart => Err(HttpError::Malformed("a trailer is folded")),
            b':' if self.state == State::TrailerName => Ok(State::Trailer),
            _ if self.state != State::Trailer && is_token(byte) => Ok(State::TrailerName),
            _ if self.state != State::Trailer => Err(HttpError::Malformed("a trailer is no field")),
            b'\t' | b' '..=b'~' | 0x80.. => Ok(State::Trailer),
            _ => Err(HttpError::Malformed("a trailer has a character that is not allowed there")),
        }
    }
}

/// The size of a chunk, and the length of its line, where the whole line is there and holds nothing but a few digits
/// that are not all 0: what almost every line is. For anything else, `None`.
fn size_line(input: &[u8]) -> Option<(u64, usize)> {
    const DIGITS_MAX: usize = 7;
    let mut size = 0;
    for (digits, &byte) in input.iter().enumerate().take(DIGITS_MAX + 1) {
        match char::from(byte).to_digit(16) {
            Some(digit) => size = size << 4 | u64::from(digit),
            None => return (size > 0 && input[digits..].starts_with(b"\r\n")).then_some((size, digits + 2)),
        }
    }
    None
}

/// Appends the line that begins a chunk of `size` bytes.
pub fn write_size(out: &mut Vec<u8>, size: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut line = *b"0123456789abcdef\r\n";
    let (mut start, mut left) = (line.len() - 2, size);
    loop {
        start -= 1;
        line[start] = DIGITS[(left & 0xf) as usize];
        left >>= 4;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&line[start..]);
}

/// What a field's name consists of (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What ends a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes `wire` in parts cut at `cuts`: the body, and how many bytes were used when it ended.
    fn decode(wire: &[u8], cuts: &[usize]) -> Result<Option<(Vec<u8>, usize)>, HttpError> {
        let (mut decoder, mut body, mut used_in_all) = (Decoder::default(), Vec::new(), 0);
        let mut at = 0;
        for cut in cuts.iter().copied().chain([wire.len()]) {
            let end = cut.clamp(at, wire.len());
            let mut part = &wire[at..end];
            at = end;
            loop {
                let (used, piece) = decoder.next(part)?;
                used_in_all += used;
                part = &part[used..];
                match piece {
                    Piece::More => break,
                    Piece::Data(data) => body.extend_from_slice(data),
                    Piece::Chunk(_) | Piece::ChunkEnd => {}
                    Piece::End => return Ok(Some((body, used_in_all))),
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn refuses_what_parsers_disagree_about() {
        let hostile: &[&[u8]] = &[
            b"4 \r\nabcd\r\n0\r\n\r\n",
            b" 4\r\nabcd\r\n0\r\n\r\n",
            b"4\nabcd\r\n0\r\n\r\n",
            b"4;a\n\r\nabcd\r\n0\r\n\r\n",
            b"0x4\r\nabcd\r\n0\r\n\r\n",
            b"+4\r\nabcd\r\n0\r\n\r\n",
            b"\r\nabcd\r\n0\r\n\r\n",
            b";a\r\nabcd\r\n0\r\n\r\n",
            b"4\r\nabcdX\r\n0\r\n\r\n",
            b"4\r\nabcd\n0\r\n\r\n",
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"00000000000000004\r\nabcd\r\n0\r\n\r\n",
            b"10000000000000000\r\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\n A: b\r\n\r\n",
            b"0\r\nA: b\0\r\n\r\n",
            b"4\r\nabcd\r\n0\r\n\rX",
        ];
        for wire in hostile {
            assert!(decode(wire, &[]).is_err(), "{}", wire.escape_ascii());
        }
    }

    #[test]
    fn a_size_line_means_the_same_whole_and_byte_by_byte() {
        for line in
            ["4", "04", "0000004", "00000004", "0000000000000004", "4;a=b", "4;a\r", "4 ", "4\n", "g", "", "0", "00"]
        {
            let wire = format!("{line}\r\nabcd\r\n0\r\n\r\n");
            let cuts: Vec<usize> = (0..wire.len()).collect();
            assert_eq!(decode(wire.as_bytes(), &[]), decode(wire.as_bytes(), &cuts), "{line:?}");
        }
    }

    #[test]
    fn caps_extensions_and_trailers() {
        let extension = format!("1;{}\r\n", "e".repeat(EXTENSION_BYTES_MAX as usize + 1));
        assert_eq!(decode(extension.as_bytes(), &[]), Err(HttpError::HeadTooLarge));
        let trailer = format!("0\r\n{}\r\n", "t".repeat(TRAILER_BYTES_MAX as usize + 1));
        assert_eq!(decode(trailer.as_bytes(), &[]), Err(HttpError::HeadTooLarge));
    }

    proptest! {
        /// Any body, in any chunks, cut anywhere, decodes to itself; bytes after the end are not touched.
        #[test]
        fn any_split_decodes_the_same(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..8),
            extension in "(;[a-z]{1,9})?",
            trailer in "([A-Z][a-z]{0,5}: [a-z]{0,9}\r\n){0,2}",
            rest in proptest::collection::vec(any::<u8>(), 0..9),
            mut cuts in proptest::collection::vec(0usize..400, 0..20),
        ) {
            cuts.sort_unstable();
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
            let end = wire.len();
            wire.extend_from_slice(&rest);
            prop_assert_eq!(decode(&wire, &cuts).unwrap(), Some((chunks.concat(), end)));
        }

        /// What is written as a size is read as that size.
        #[test]
        fn sizes_round_trip(size in 1u64..) {
            let mut wire = Vec::new();
            write_size(&mut wire, size);
            prop_assert_eq!(Decoder::default().next(&wire).unwrap(), (wire.len(), Piece::Chunk(size)));
        }
    }
}
