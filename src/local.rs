//! Answers of our own on the proxy's port: parameters in, bytes out. Never reads a database or a socket; the query
//! thread fills in the numbers.

pub mod dashboard;
pub mod humanize;
pub mod text_table;
pub mod usage_report;

/// A finished answer of a local endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// Further header lines, each ended by CRLF.
    pub headers: &'static str,
    /// The body, whole.
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer without further headers.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type, headers: "", body: body.into() }
    }
}
