//! How a request's body is coded, and what it is decoded.
//!
//! In: a head, or a whole body. Out: the coding, or the decoded body within a bound. Never: a change of what is sent.

use super::refusal::Refusal;
use crate::http::head::RequestHead;
use crate::http::headers::Known;
use crate::http::reply::Fault;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use ruzstd::decoding::StreamingDecoder;
use std::borrow::Cow;
use std::io::Read;

/// How a request's body is coded: by its `Content-Encoding`, and the `charset` of its type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coding {
    #[default]
    Identity,
    Gzip,
    Deflate,
    Zstd,
    /// Another, or more than one; or a charset in which its bytes do not say what they say in UTF-8.
    Unknown,
}

impl Coding {
    /// Of a head.
    pub fn of(head: &RequestHead<'_, '_>) -> Self {
        if !head.headers.values(Known::ContentType).all(is_as_in_utf8) {
            return Self::Unknown;
        }
        let lines = head.headers.values(Known::ContentEncoding);
        let codings = lines.flat_map(|line| line.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
        codings.fold(Self::Identity, |coding, name| {
            let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
            match coding {
                _ if name.is_empty() || is(b"identity") => coding,
                Self::Identity if is(b"gzip") || is(b"x-gzip") => Self::Gzip,
                Self::Identity if is(b"deflate") => Self::Deflate,
                Self::Identity if is(b"zstd") => Self::Zstd,
                _ => Self::Unknown,
            }
        })
    }

    /// True where the body can be sent on decoded.
    pub fn is_decodable(self) -> bool {
        matches!(self, Self::Gzip | Self::Deflate | Self::Zstd)
    }

    /// Appends the header that was left out of the head, where the body goes on as it came.
    pub fn write(self, out: &mut Vec<u8>) {
        let name: &[u8] = match self {
            Self::Gzip => b"content-encoding: gzip\r\n",
            Self::Deflate => b"content-encoding: deflate\r\n",
            Self::Zstd => b"content-encoding: zstd\r\n",
            Self::Identity | Self::Unknown => return, // it stands in the head
        };
        out.extend_from_slice(name);
    }

    /// The body decoded, at most `bytes_max` of it.
    ///
    /// # Errors
    /// It is larger, not coded like this, or coded in a way that is not known.
    pub fn decode(self, body: &[u8], bytes_max: u64) -> Result<Cow<'_, [u8]>, Refusal> {
        let read = |reader: &mut dyn Read| {
            let mut decoded = Vec::new();
            reader.take(bytes_max.saturating_add(1)).read_to_end(&mut decoded).map(|_| decoded)
        };
        let decoded = match self {
            Self::Identity => return Ok(Cow::Borrowed(body)),
            Self::Gzip => read(&mut MultiGzDecoder::new(body)),
            // With zlib's header (RFC 9110 §8.4.1.2), which some leave away.
            Self::Deflate if has_zlib_header(body) => read(&mut ZlibDecoder::new(body)),
            Self::Deflate => read(&mut DeflateDecoder::new(body)),
            Self::Zstd => unzstd(body, bytes_max),
            Self::Unknown => {
                let message = "a body so encoded cannot be metered; UTF-8 can, by gzip, deflate or zstd or as it is";
                return Err(Refusal::new(Fault::UnsupportedMediaType, message));
            }
        };
        match decoded {
            Ok(decoded) if decoded.len() as u64 > bytes_max => {
                Err(Refusal::new(Fault::BodyTooLarge, "the request's body is too large once it is decoded"))
            }
            Ok(decoded) => Ok(Cow::Owned(decoded)),
            Err(_) => Err(Refusal::new(Fault::BadRequest, "the request's body is not coded as it says")),
        }
    }
}

/// Window that a sender may have used (RFC 9659 §3), bytes.
const ZSTD_WINDOW_MAX: u64 = 8 << 20;

/// All frames of a zstd body (RFC 8878), with at most one byte more than `bytes_max`.
fn unzstd(mut body: &[u8], bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut decoded = Vec::new();
    while !body.is_empty() && decoded.len() as u64 <= bytes_max {
        let frame = StreamingDecoder::new_with_max_window_size(&mut body, ZSTD_WINDOW_MAX);
        let left = bytes_max.saturating_add(1) - decoded.len() as u64;
        frame.map_err(std::io::Error::other)?.take(left).read_to_end(&mut decoded)?;
    }
    Ok(decoded)
}

/// Charsets in which what is ASCII reads as it does in UTF-8, wherever it stands.
const CHARSETS: [&[u8]; 6] = [b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1", b"latin1", b"windows-1252"];

/// False for a type with another charset: to servers that go by it, the bytes may say something else.
fn is_as_in_utf8(content_type: &[u8]) -> bool {
    if content_type == b"application/json" {
        return true; // as almost everybody writes it
    }
    let mut parameters = content_type.split(|&byte| byte == b';').skip(1).filter_map(|parameter| {
        let equals = parameter.iter().position(|&byte| byte == b'=')?;
        Some((parameter[..equals].trim_ascii(), parameter[equals + 1..].trim_ascii()))
    });
    parameters.all(|(name, value)| {
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        !name.eq_ignore_ascii_case(b"charset") || CHARSETS.iter().any(|charset| value.eq_ignore_ascii_case(charset))
    })
}

/// RFC 1950 §2.2.
fn has_zlib_header(body: &[u8]) -> bool {
    matches!(body, [method, flags, ..] if method & 15 == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use std::io::Write;

    /// `{"stream":true}` as zstd's own program packs it, without compression.
    const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd\x20\x0f\x79\x00\x00{\"stream\":true}";

    fn packed<W: Write>(body: &[u8], mut encoder: W, finish: impl FnOnce(W) -> std::io::Result<Vec<u8>>) -> Vec<u8> {
        encoder.write_all(body).unwrap();
        finish(encoder).unwrap()
    }

    #[test]
    fn bodies_are_decoded_up_to_their_bound() {
        let body = br#"{"stream":true}"#;
        let level = Compression::fast();
        let gzip = packed(body, GzEncoder::new(Vec::new(), level), GzEncoder::finish);
        let twice = [&gzip[..], &gzip].concat();
        let zlib = packed(body, ZlibEncoder::new(Vec::new(), level), ZlibEncoder::finish);
        let raw = packed(body, DeflateEncoder::new(Vec::new(), level), DeflateEncoder::finish);
        for (coding, coded, length) in [
            (Coding::Identity, &body[..], 15),
            (Coding::Gzip, &gzip, 15),
            (Coding::Gzip, &twice, 30),
            (Coding::Deflate, &zlib, 15),
            (Coding::Deflate, &raw, 15),
            (Coding::Zstd, ZSTD, 15),
            (Coding::Zstd, &[ZSTD, ZSTD].concat(), 30),
        ] {
            let decoded = coding.decode(coded, length).unwrap();
            assert_eq!(&decoded[..15], body, "{coding:?}");
            assert_eq!(decoded.len() as u64, length);
            if coding != Coding::Identity {
                let refused = coding.decode(coded, length - 1).unwrap_err();
                assert_eq!(refused.fault, Fault::BodyTooLarge, "{coding:?}");
                let cut = coding.decode(&coded[..coded.len() - 9], length).unwrap_err();
                assert_eq!(cut.fault, Fault::BadRequest, "{coding:?}");
            }
        }
        assert_eq!(Coding::Unknown.decode(body, 100).unwrap_err().fault, Fault::UnsupportedMediaType);
        let huge_window = b"\x28\xb5\x2f\xfd\x00\x80\x79\x00\x00";
        assert_eq!(Coding::Zstd.decode(huge_window, 100).unwrap_err().fault, Fault::BadRequest);
    }
}
