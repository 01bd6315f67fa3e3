//! Reading a body by its framing, one piece at a time, cut anywhere.

use super::HttpError;
use super::chunked::{Decoder, LAST_CHUNK, Piece, write_size};
use super::framing::Framing;

/// Reader of one message's body. Every framing gives the same pieces; only chunked ones give chunk borders.
#[derive(Debug)]
pub enum BodyReader {
    /// This many bytes are left.
    Length(u64),
    Chunked(Decoder),
    /// Until the connection ends.
    Close,
}

impl BodyReader {
    /// A reader for a body so framed.
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Decoder::default()),
            Framing::Close => Self::Close,
        }
    }

    /// The next piece, and how many bytes of `input` are used up with it. A body by length gives [`Piece::End`] on the
    /// call after its last byte, for which no input is needed.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Piece<'a>), HttpError> {
        let take = match self {
            Self::Chunked(decoder) => return decoder.next(input),
            Self::Length(0) => return Ok((0, Piece::End)),
            Self::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= take as u64;
                take
            }
            Self::Close => input.len(),
        };
        Ok((take, if take == 0 { Piece::More } else { Piece::Data(&input[..take]) }))
    }
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyWriter {
    /// There is none: HEAD, 204, 304.
    Nothing,
    /// Bytes as they are: the length was told, or the connection's end will tell it.
    Bytes,
    /// As chunks, with the same borders where it came in chunks.
    Chunked,
}

impl BodyWriter {
    /// Appends a piece as it was read. Chunk borders of the input are kept; extensions and trailers are gone.
    pub fn write(self, out: &mut Vec<u8>, piece: Piece<'_>, from_chunks: bool) {
        match (self, piece) {
            (Self::Nothing, _) | (_, Piece::More) => {}
            (Self::Chunked, Piece::Data(data)) if !from_chunks => {
                write_size(out, data.len() as u64);
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
            (_, Piece::Data(data)) => out.extend_from_slice(data),
            (Self::Bytes, _) => {}
            (Self::Chunked, Piece::Chunk(size)) => write_size(out, size),
            (Self::Chunked, Piece::ChunkEnd) => out.extend_from_slice(b"\r\n"),
            (Self::Chunked, Piece::End) => out.extend_from_slice(LAST_CHUNK),
        }
    }
}
