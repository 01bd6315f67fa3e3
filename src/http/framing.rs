//! Where a body ends: `Content-Length` and `Transfer-Encoding` (RFC 9112 §6), in the order in which the RFC decides.

use super::HttpError;
use super::headers::{Headers, Known};
use crate::base::digits::whole_number;

/// How a message's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// This many bytes.
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
    /// Everything until the connection closes; only in responses.
    Close,
}

/// Framing of a request (RFC 9112 §6.3, rules 3, 4, 6, 7).
pub fn of_request(headers: &Headers<'_, '_>, http11: bool) -> Result<Framing, HttpError> {
    Ok(said(headers, http11)?.unwrap_or(Framing::None))
}

/// Framing of a response to a request that was a HEAD or not (RFC 9112 §6.3, rules 1 to 8).
pub fn of_response(headers: &Headers<'_, '_>, status: u16, http11: bool, to_head: bool) -> Result<Framing, HttpError> {
    let said = said(headers, http11)?;
    let is_bodiless = to_head || status < 200 || status == 204 || status == 304;
    Ok(if is_bodiless { Framing::None } else { said.unwrap_or(Framing::Close) })
}

/// What the two framing headers say, taken together; `None` where neither is there.
fn said(headers: &Headers<'_, '_>, http11: bool) -> Result<Option<Framing>, HttpError> {
    let (mut length, mut is_chunked) = (None, false);
    for (class, header) in headers.iter() {
        match class {
            // §6.3 rule 5 lets equal repetitions pass; who wrote two may mean two messages.
            Known::ContentLength if length.is_some() => {
                return Err(HttpError::Malformed("Content-Length is repeated"));
            }
            Known::ContentLength => length = Some(content_length(header.value)?),
            Known::TransferEncoding => {
                if !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HttpError::UnknownCoding);
                }
                if std::mem::replace(&mut is_chunked, true) {
                    return Err(HttpError::Malformed("Transfer-Encoding is repeated"));
                }
            }
            _ => {}
        }
    }
    match length {
        Some(_) if is_chunked => Err(HttpError::Malformed("both Transfer-Encoding and Content-Length")),
        None if is_chunked && !http11 => Err(HttpError::Malformed("Transfer-Encoding in HTTP/1.0")),
        None => Ok(is_chunked.then_some(Framing::Chunked)),
        Some(0) => Ok(Some(Framing::None)),
        Some(length) => Ok(Some(Framing::Length(length))),
    }
}

/// `1*DIGIT`, in 64 bits (RFC 9110 §8.6). No sign, no list, no white space inside.
fn content_length(value: &[u8]) -> Result<u64, HttpError> {
    whole_number(value).ok_or(HttpError::Malformed("Content-Length is not a number"))
}
