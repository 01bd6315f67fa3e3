//! Answers of our own on the proxy's port: parameters in, bytes out. Never reads a database or a socket; the query
//! thread fills in the numbers.

pub mod usage;

/// A finished answer of a local endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// The body, whole.
    pub body: Vec<u8>,
}
