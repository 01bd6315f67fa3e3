//! Answers of our own: errors in OpenAI's shape, marked so that nobody takes them for OpenAI's.

use super::HttpError;
use super::headers::{write, write_decimal, write_number, write_readable};
use crate::base::civil::write_imf_fixdate;
use serde_json::Value;

macro_rules! faults {
    ($($fault:ident = $status:literal $code:literal,)+) => {
        /// Why the proxy itself answers a request with an error. A closed set: `code()` is a metric label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $($fault),+ }

        impl Fault {
            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$fault => $status),+ }
            }

            /// The stable code, in the body, in `x-proxy-error` and in metrics.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$fault => $code),+ }
            }
        }
    };
}

faults! {
    BadRequest = 400 "bad_request",
    InvalidClientKey = 401 "invalid_client_key",
    Unauthorized = 401 "unauthorized",
    Forbidden = 403 "forbidden",
    Unmetered = 403 "unmetered",
    PathNotAllowed = 403 "path_not_allowed",
    ModelNotAllowed = 403 "model_not_allowed",
    ForeignOrigin = 403 "foreign_origin",
    NotFound = 404 "not_found",
    MethodNotAllowed = 405 "method_not_allowed",
    HeaderTimeout = 408 "header_timeout",
    BodyTooLarge = 413 "body_too_large",
    UriTooLong = 414 "uri_too_long",
    UnsupportedMediaType = 415 "unsupported_media_type",
    ExpectationFailed = 417 "expectation_failed",
    Misdirected = 421 "misdirected_request",
    RateLimited = 429 "rate_limit_exceeded",
    QuotaSpent = 429 "insufficient_quota",
    HeadTooLarge = 431 "headers_too_large",
    NotImplemented = 501 "not_implemented",
    UpstreamUnreachable = 502 "upstream_unreachable",
    UpstreamProtocol = 502 "upstream_protocol",
    UpstreamClosed = 502 "upstream_closed",
    Overloaded = 503 "overloaded",
    LedgerUnavailable = 503 "ledger_unavailable",
    LimitsUnavailable = 503 "limits_unavailable",
    UpstreamTimeout = 504 "upstream_timeout",
}

impl Fault {
    /// True where whoever asks is not known here, or has come by a way that is not theirs.
    pub const fn is_of_strangers(self) -> bool {
        matches!(self, Self::InvalidClientKey | Self::Unauthorized | Self::ForeignOrigin | Self::Misdirected)
    }

    /// How a request that broke the protocol is answered.
    pub const fn of(error: HttpError) -> Self {
        match error {
            HttpError::Malformed(_) => Self::BadRequest,
            HttpError::LineTooLong => Self::UriTooLong,
            HttpError::HeadTooLarge => Self::HeadTooLarge,
            HttpError::UnknownCoding => Self::NotImplemented,
            HttpError::UnknownExpectation => Self::ExpectationFailed,
        }
    }
}

/// The error body in OpenAI's shape, `type` being `proxy_error`. `param` is what it is about.
pub fn error_body(code: &str, message: &str, param: Option<&str>) -> Vec<u8> {
    let (message, code, param) = (Value::from(message), Value::from(code), Value::from(param));
    // In OpenAI's order, for people; a map would sort it.
    format!("{{\"error\":{{\"message\":{message},\"type\":\"proxy_error\",\"param\":{param},\"code\":{code}}}}}\n")
        .into_bytes()
}

/// The same as an event of a WebSocket session, in which `place` are the members beside the error.
pub fn error_event(place: &str, code: &str, message: &str, param: Option<&str>) -> String {
    let (message, code, param) = (Value::from(message), Value::from(code), Value::from(param));
    format!(
        "{{\"type\":\"error\",{place},\"error\":{{\"type\":\"proxy_error\",\"code\":{code},\"message\":{message},\
         \"param\":{param}}}}}"
    )
}

/// The parts of an answer of ours.
pub struct Reply<'a> {
    pub status: u16,
    pub content_type: &'a str,
    pub body: &'a [u8],
    /// The fault's code where this is an error.
    pub error_code: Option<&'a str>,
    /// Further header lines, each ended by CRLF.
    pub extra: &'a [u8],
    /// The page's origin that may read it.
    pub origin: Option<&'a str>,
    /// The request was a HEAD: the body stays away, its length is given.
    pub to_head: bool,
    /// When, nanoseconds since the Unix epoch.
    pub unix: u64,
}

impl Reply<'_> {
    /// Appends head and body. `connection` is that header's value, where there is something to say.
    pub fn write(&self, out: &mut Vec<u8>, request_id: &str, connection: Option<&str>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        write_decimal(out, u64::from(self.status));
        out.push(b' ');
        out.extend_from_slice(reason(self.status).as_bytes());
        out.extend_from_slice(b"\r\ndate: ");
        write_imf_fixdate(out, self.unix);
        out.extend_from_slice(b"\r\n");
        write(out, "content-type", self.content_type.as_bytes());
        write_number(out, "content-length", self.body.len() as u64);
        if let Some(code) = self.error_code {
            write(out, "x-proxy-error", code.as_bytes());
        }
        write(out, "x-request-id", request_id.as_bytes());
        out.extend_from_slice(self.extra);
        if let Some(origin) = self.origin {
            write_readable(out, origin);
        }
        if let Some(connection) = connection {
            write(out, "connection", connection.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        if !self.to_head {
            out.extend_from_slice(self.body);
        }
    }
}

/// The reason phrase of a status that we send (RFC 9110 §15); clients ignore it, people do not.
pub const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        303 => "See Other",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Error",
    }
}
