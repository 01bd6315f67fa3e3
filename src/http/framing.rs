//! Where a body ends: `Content-Length` and `Transfer-Encoding` (RFC 9112 §6), in the order in which the RFC decides.

use super::HttpError;
use super::headers::{Headers, Known};

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

/// What the two framing headers say, taken together.
struct Fields {
    length: Option<u64>,
    chunked: bool,
}

/// Framing of a request (RFC 9112 §6.3, rules 3, 4, 6, 7).
pub fn of_request(headers: &Headers<'_, '_>, http11: bool) -> Result<Framing, HttpError> {
    let fields = fields(headers, http11)?;
    Ok(match fields.length {
        _ if fields.chunked => Framing::Chunked,
        None | Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
    })
}

/// Framing of a response to a request that was a HEAD or not (RFC 9112 §6.3, rules 1 to 8).
pub fn of_response(headers: &Headers<'_, '_>, status: u16, http11: bool, to_head: bool) -> Result<Framing, HttpError> {
    let fields = fields(headers, http11)?;
    if to_head || status < 200 || status == 204 || status == 304 {
        return Ok(Framing::None);
    }
    Ok(match fields.length {
        _ if fields.chunked => Framing::Chunked,
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Close,
    })
}

fn fields(headers: &Headers<'_, '_>, http11: bool) -> Result<Fields, HttpError> {
    let mut fields = Fields { length: None, chunked: false };
    for (class, header) in headers.iter() {
        match class {
            // §6.3 rule 5 lets equal repetitions pass; who wrote two may mean two messages.
            Known::ContentLength if fields.length.is_some() => {
                return Err(HttpError::Malformed("Content-Length is repeated"));
            }
            Known::ContentLength => fields.length = Some(content_length(header.value)?),
            Known::TransferEncoding => {
                if !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HttpError::UnknownCoding);
                }
                if std::mem::replace(&mut fields.chunked, true) {
                    return Err(HttpError::Malformed("Transfer-Encoding is repeated"));
                }
            }
            _ => {}
        }
    }
    if fields.chunked && fields.length.is_some() {
        return Err(HttpError::Malformed("both Transfer-Encoding and Content-Length"));
    }
    if fields.chunked && !http11 {
        return Err(HttpError::Malformed("Transfer-Encoding in HTTP/1.0"));
    }
    Ok(fields)
}

/// `1*DIGIT`, in 64 bits (RFC 9110 §8.6). No sign, no list, no white space inside.
fn content_length(value: &[u8]) -> Result<u64, HttpError> {
    let malformed = HttpError::Malformed("Content-Length is not a number");
    if value.is_empty() {
        return Err(malformed);
    }
    value.iter().try_fold(0u64, |sum, byte| {
        let digit = char::from(*byte).to_digit(10).ok_or(malformed)?;
        sum.checked_mul(10).and_then(|sum| sum.checked_add(u64::from(digit))).ok_or(malformed)
    })
}
