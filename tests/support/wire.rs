//! HTTP/1.1 as a test wants it: whatever is not exactly right is an error, and nothing is repaired.

use std::io::{self, ErrorKind, Read, Write};

/// Why a message could not be read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The connection ended in mid-message, or before one.
    Closed,
    /// The connection was reset.
    Reset,
    /// Nothing came before the deadline.
    Deadline,
    /// What came is not HTTP/1.1.
    Malformed(String),
}

impl From<io::Error> for Cut {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Deadline,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Reset,
            ErrorKind::UnexpectedEof => Self::Closed, // TLS without close_notify, or an end in the middle
            _ => Self::Malformed(error.to_string()),
        }
    }
}

pub fn malformed<T>(why: impl Into<String>) -> Result<T, Cut> {
    Err(Cut::Malformed(why.into()))
}

/// A request's or response's first line and header fields.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// The bytes as they came, with the empty line.
    pub raw: Vec<u8>,
    /// The first line.
    pub start: String,
    /// Names as sent and values without the space around them, in order.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// Every value of `name`, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The value of `name`. Panics where it is sent twice.
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} is sent {} times: {self:?}", all.len());
        all.first().copied()
    }

    /// The status of a response's head.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status: {self:?}"))
    }
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.raw))
    }
}

/// How a body's end is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes are still to come.
    Length(u64),
    /// Chunks; so many bytes of the current one are still to come.
    Chunked { left: u64, first: bool },
    /// All until the end of the connection.
    UntilClose,
}

/// A stream with the bytes read from it and not yet used.
pub struct Wire<S> {
    pub stream: S,
    held: Vec<u8>,
    at: usize,
}

impl<S: Read> Wire<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, held: Vec::new(), at: 0 }
    }

    /// Bytes that came and were not asked for yet.
    pub fn rest(&self) -> &[u8] {
        &self.held[self.at..]
    }

    /// Reads what there is; false at the end of the stream.
    fn fill(&mut self) -> Result<bool, Cut> {
        self.held.drain(..self.at);
        self.at = 0;
        let mut chunk = [0; 16 * 1024];
        let n = self.stream.read(&mut chunk)?;
        self.held.extend_from_slice(&chunk[..n]);
        Ok(n > 0)
    }

    /// Waits for the end of the stream. An error where anything else comes.
    pub fn expect_end(&mut self) -> Result<(), Cut> {
        if self.rest().is_empty() && !self.fill()? {
            return Ok(());
        }
        malformed(format!("more came: {:?}", String::from_utf8_lossy(self.rest())))
    }

    /// A line without its CRLF.
    fn line(&mut self) -> Result<String, Cut> {
        loop {
            if let Some(end) = self.rest().iter().position(|&b| b == b'\n') {
                let line = self.rest()[..end].to_vec();
                self.at += end + 1;
                let Some((b'\r', line)) = line.split_last() else {
                    return malformed(format!("bare LF after {line:?}"));
                };
                if line.iter().any(|&b| b == b'\r' || b == 0) {
                    return malformed(format!("CR or NUL inside {line:?}"));
                }
                return String::from_utf8(line.to_vec()).or_else(|_| malformed("a line that is not UTF-8"));
            }
            if self.rest().len() > 64 * 1024 {
                return malformed("an endless line");
            }
            if !self.fill()? {
                return Err(Cut::Closed);
            }
        }
    }

    /// A head, or `None` where the stream ends before one begins.
    pub fn head(&mut self) -> Result<Option<Head>, Cut> {
        if self.rest().is_empty() && !self.fill()? {
            return Ok(None);
        }
        let mut head = Head { start: self.line()?, ..Head::default() };
        head.raw = [head.start.as_bytes(), b"\r\n"].concat();
        loop {
            let line = self.line()?;
            head.raw.extend_from_slice(line.as_bytes());
            head.raw.extend_from_slice(b"\r\n");
            if line.is_empty() {
                return Ok(Some(head));
            }
            let Some((name, value)) = line.split_once(':') else { return malformed(format!("no colon: {line:?}")) };
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if name.is_empty() || !name.bytes().all(token) {
                return malformed(format!("not a field name: {name:?}"));
            }
            head.fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
    }

    /// The next bytes of the body, at least one; `None` at its proper end.
    pub fn body_piece(&mut self, framing: &mut Framing) -> Result<Option<Vec<u8>>, Cut> {
        let until_close = *framing == Framing::UntilClose;
        let mut unlimited = u64::MAX;
        let left = match framing {
            Framing::None | Framing::Length(0) => return Ok(None),
            Framing::Length(left) => left,
            Framing::Chunked { left, first } => {
                if *left == 0 && !self.chunk_head(left, first)? {
                    *framing = Framing::None;
                    return Ok(None);
                }
                left
            }
            Framing::UntilClose => &mut unlimited,
        };
        if self.rest().is_empty() && !self.fill()? {
            return if until_close { Ok(None) } else { Err(Cut::Closed) };
        }
        let n = (self.rest().len() as u64).min(*left) as usize;
        let piece = self.rest()[..n].to_vec();
        self.at += n;
        *left -= n as u64;
        Ok(Some(piece))
    }

    /// Reads up to a chunk's data; false after the last chunk.
    fn chunk_head(&mut self, left: &mut u64, first: &mut bool) -> Result<bool, Cut> {
        if !std::mem::replace(first, false) && !self.line()?.is_empty() {
            return malformed("no CRLF after a chunk's data");
        }
        let line = self.line()?;
        let size = line.split(';').next().unwrap_or("");
        if size.is_empty() || size.len() > 16 || !size.bytes().all(|b| b.is_ascii_hexdigit()) {
            return malformed(format!("not a chunk size: {line:?}"));
        }
        *left = u64::from_str_radix(size, 16).unwrap();
        if *left == 0 && !self.line()?.is_empty() {
            return malformed("a trailer"); // dropped by the proxy, in both directions
        }
        Ok(*left > 0)
    }

    /// The whole body, or what came of it and why it broke off.
    pub fn body(&mut self, mut framing: Framing) -> (Vec<u8>, Option<Cut>) {
        let mut body = Vec::new();
        loop {
            match self.body_piece(&mut framing) {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => return (body, None),
                Err(cut) => return (body, Some(cut)),
            }
        }
    }
}

/// The bytes that follow what was read as a message: those at hand first.
impl<S: Read> Read for Wire<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.rest().is_empty() {
            return self.stream.read(buf);
        }
        let n = self.rest().len().min(buf.len());
        buf[..n].copy_from_slice(&self.rest()[..n]);
        self.at += n;
        Ok(n)
    }
}

impl<S: Write> Write for Wire<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The framing that a head announces (RFC 9112 §6.3). `none` where the exchange allows no body; `absent` where neither
/// field is there.
pub fn framing(head: &Head, none: bool, absent: Framing) -> Result<Framing, Cut> {
    let (encodings, lengths) = (head.all("transfer-encoding"), head.all("content-length"));
    match (&encodings[..], &lengths[..]) {
        _ if none => Ok(Framing::None),
        ([], []) => Ok(absent),
        (["chunked"], []) => Ok(Framing::Chunked { left: 0, first: true }),
        ([], [length]) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
            length.parse().map(Framing::Length).or_else(|_| malformed("length out of range"))
        }
        _ => malformed(format!("framing by {encodings:?} and {lengths:?}")),
    }
}
