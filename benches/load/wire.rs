//! The little HTTP/1.1 that the two ends of the benchmark need, on purpose not the proxy's own.
//!
//! In: bytes as they arrive. Out: where a message ends and whether it is the one that was asked for. Never lenient: a
//! head that does not parse, a wrong chunk or a body of unknown length is an error of the run.

use memchr::memmem;

enum State {
    Head,
    /// Bytes of a body with a length that are still to come.
    Length(u64),
    ChunkSize,
    /// Bytes of a chunk that are still to come, its CRLF not counted.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Done,
}

/// Reads one response after another from a connection.
pub struct ResponseReader {
    state: State,
    pending: Vec<u8>,
    /// Status of the response being read, 0 before its head is complete.
    pub status: u16,
    /// The server will close after this response.
    pub closes: bool,
    /// Bytes of its body so far.
    pub body_bytes: u64,
    /// The last bytes of its body, at most [`TAIL_BYTES`].
    pub tail: Vec<u8>,
}

/// Enough to see the end of a stream.
pub const TAIL_BYTES: usize = 16;

impl ResponseReader {
    /// Before the first response.
    pub fn new() -> Self {
        Self { state: State::Head, pending: Vec::new(), status: 0, closes: false, body_bytes: 0, tail: Vec::new() }
    }

    /// Makes ready for the next response.
    pub fn reset(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        *self = Self { pending, ..Self::new() };
    }

    /// Takes bytes; true once the response is complete. Bytes behind its end are an error: nothing was asked for.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<bool, String> {
        self.pending.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(used) = self.step(at)? {
            at += used;
        }
        self.pending.drain(..at);
        let done = matches!(self.state, State::Done);
        if done && !self.pending.is_empty() { Err("bytes behind the response".into()) } else { Ok(done) }
    }

    /// One step of the machine: how many bytes from `at` on it used, `None` when it needs more or is done.
    fn step(&mut self, at: usize) -> Result<Option<usize>, String> {
        let rest = &self.pending[at..];
        let line = || memmem::find(rest, b"\r\n");
        match self.state {
            State::Done => Ok(None),
            State::Head => {
                let Some(end) = memmem::find(rest, b"\r\n\r\n") else { return Ok(None) };
                self.head(at, end + 4)?;
                Ok(Some(end + 4))
            }
            State::Length(left) => Ok(self.body(at, left, State::Length, State::Done)),
            State::Chunk(left) => Ok(self.body(at, left, State::Chunk, State::ChunkEnd)),
            State::ChunkSize => {
                let Some(end) = line() else { return Ok(None) };
                let digits = std::str::from_utf8(&rest[..end]).map_err(|e| e.to_string())?;
                let size = u64::from_str_radix(digits, 16).map_err(|e| format!("chunk size {digits:?}: {e}"))?;
                self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                Ok(Some(end + 2))
            }
            State::ChunkEnd => match rest {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize;
                    Ok(Some(2))
                }
                [] | [b'\r'] => Ok(None),
                _ => Err("a chunk does not end with CRLF".into()),
            },
            State::Trailers => {
                let Some(end) = line() else { return Ok(None) };
                self.state = if end == 0 { State::Done } else { State::Trailers };
                Ok(Some(end + 2))
            }
        }
    }

    fn head(&mut self, at: usize, length: usize) -> Result<(), String> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        response.parse(&self.pending[at..at + length]).map_err(|e| format!("response head: {e}"))?;
        self.status = response.code.unwrap_or(0);
        let value = |name: &str| response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value);
        self.closes = value("connection").is_some_and(|v| v.eq_ignore_ascii_case(b"close"));
        self.state = match (value("transfer-encoding"), value("content-length")) {
            (Some(b"chunked"), None) => State::ChunkSize,
            (None, Some(length)) => match std::str::from_utf8(length).ok().and_then(|v| v.parse().ok()) {
                Some(0) => State::Done,
                Some(length) => State::Length(length),
                None => return Err("content-length is not a number".into()),
            },
            _ => return Err("a response must have one framing".into()),
        };
        Ok(())
    }

    /// Counts what is there of a run of `left` body bytes.
    fn body(&mut self, at: usize, left: u64, more: fn(u64) -> State, then: State) -> Option<usize> {
        let rest = &self.pending[at..];
        let taken = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if taken == 0 {
            return None;
        }
        self.tail.extend_from_slice(&rest[taken.saturating_sub(TAIL_BYTES)..taken]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
        self.body_bytes += taken as u64;
        let left = left - taken as u64;
        self.state = if left == 0 { then } else { more(left) };
        Some(taken)
    }
}
