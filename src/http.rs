//! HTTP/1.1 message syntax (RFC 9110, RFC 9112), strict at the door: what two parsers could read differently is
//! refused, never repaired. Pure: bytes in, ranges and decisions out.

pub mod body;
pub mod chunked;
pub mod forwarded_for;
pub mod framing;
pub mod front_headers;
pub mod head;
pub mod headers;
pub mod reply;

/// Most bytes of a head, start line included. OpenAI asks for less than 64 KiB of headers.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a request line: method, target, version.
pub const REQUEST_LINE_BYTES_MAX: usize = 16 * 1024;
/// Most header lines in a head.
pub const HEADERS_MAX: usize = 100;

/// Why a message cannot be accepted. Each is a fault of whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// The syntax is broken or could be read in two ways; says what.
    Malformed(&'static str),
    /// The request line is over [`REQUEST_LINE_BYTES_MAX`].
    LineTooLong,
    /// The head is over [`HEAD_BYTES_MAX`] or [`HEADERS_MAX`].
    HeadTooLarge,
    /// A transfer coding other than `chunked`.
    UnknownCoding,
    /// An `Expect` other than `100-continue`.
    UnknownExpectation,
}

impl HttpError {
    /// What is wrong, in words for the sender.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Malformed(what) => what,
            Self::LineTooLong => "the request line is too long",
            Self::HeadTooLarge => "the headers are too large or too many",
            Self::UnknownCoding => "the only supported transfer coding is chunked",
            Self::UnknownExpectation => "the only supported expectation is 100-continue",
        }
    }
}
