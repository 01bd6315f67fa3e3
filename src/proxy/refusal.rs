//! An error of ours in place of an answer.

use crate::http::reply::Fault;
use std::borrow::Cow;

/// Why a request is refused, and how its client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub fault: Fault,
    /// A sentence for the client. Never an address or a key.
    pub message: Cow<'static, str>,
    /// Further header lines, each ended by CRLF.
    pub extra: Cow<'static, [u8]>,
    /// What it is about: the error's `param`.
    pub param: Option<&'static str>,
}

impl Refusal {
    /// A refusal without further header lines.
    pub fn new(fault: Fault, message: impl Into<Cow<'static, str>>) -> Self {
        Self { fault, message: message.into(), extra: Cow::Borrowed(&[]), param: None }
    }

    /// The same about this.
    pub fn about(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }

    /// The same with these header lines.
    pub fn with(self, extra: impl Into<Cow<'static, [u8]>>) -> Self {
        Self { extra: extra.into(), ..self }
    }
}
