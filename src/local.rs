//! Answers of our own on the proxy's port: parameters in, bytes out. Never reads a database or a socket; the query
//! thread fills in the numbers.

pub mod admin_page;
pub mod admin_request;
pub mod agreement;
pub mod dashboard;
pub mod document;
pub mod humanize;
pub mod language;
pub mod manual;
pub mod text_table;
pub mod usage_report;

use crate::http::reply::{Fault, error_body};

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
    /// Where this is an error: which.
    pub fault: Option<Fault>,
}

impl Answer {
    /// An answer without further headers.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, content_type, headers: "", body: body.into(), fault: None }
    }

    /// An error in OpenAI's shape; `param` is what it is about.
    pub fn error(fault: Fault, message: &str, param: Option<&str>) -> Self {
        let body = error_body(fault.code(), message, param);
        Self { fault: Some(fault), ..Self::new(fault.status(), "application/json", body) }
    }
}
