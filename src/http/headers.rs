//! Header fields: which ones we know, what `Connection` names, and which may pass a proxy.

use super::front_headers::is_added_in_front;
use super::{HEADERS_MAX, HttpError};

/// One header line: name as sent, value without surrounding white space.
pub type Header<'b> = httparse::Header<'b>;

/// Header names that the proxy acts on; any other is [`Known::Other`] and passes as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    AcceptEncoding,
    /// `api-key` and `x-api-key`: where Azure's and Anthropic's clients put theirs.
    ApiKey,
    Authorization,
    Connection,
    ContentEncoding,
    ContentLength,
    ContentType,
    Expect,
    /// Where servers in front say that a client is.
    ForwardedFor,
    /// What else [servers in front](super::front_headers) add.
    Front,
    Host,
    IdempotencyKey,
    KeepAlive,
    /// Names by which some servers take a request for another one: of another method, or for another path.
    Override,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    UserId,
    /// `X-User-ID*`: the same in the encoding of RFC 8187.
    EncodedUserId,
    RequestId,
    WebSocketExtensions,
    /// What a WebSocket's client offers to speak, and where browsers put their key.
    Subprotocols,
    /// The model that answered, as OpenAI and Azure name it.
    ServedModel,
    Origin,
    FetchSite,
    FetchMode,
    /// What a preflight asks for.
    RequestMethod,
    RequestHeaders,
    RequestPrivateNetwork,
    AllowOrigin,
    /// Whose account pays.
    Account,
    /// One with an underscore that servers behind CGI take for one of the others (RFC 3875 §4.1.18).
    Disguised,
    Other,
}

/// Classifies a name, in any case. By length and first letter: of most names nothing more is compared.
pub fn known(name: &str) -> Known {
    let first = name.as_bytes().first().map(u8::to_ascii_lowercase);
    let candidates: &[(&str, Known)] = match name.len() {
        2 => &[("te", Known::Te)],
        4 => &[("host", Known::Host)],
        6 => &[("expect", Known::Expect), ("origin", Known::Origin)],
        7 => &[("trailer", Known::Trailer), ("upgrade", Known::Upgrade), ("api-key", Known::ApiKey)],
        9 => &[("x-user-id", Known::UserId), ("x-api-key", Known::ApiKey)],
        10 => {
            &[("connection", Known::Connection), ("keep-alive", Known::KeepAlive), ("x-user-id*", Known::EncodedUserId)]
        }
        12 => &[
            ("content-type", Known::ContentType),
            ("x-request-id", Known::RequestId),
            ("openai-model", Known::ServedModel),
        ],
        13 => &[
            ("authorization", Known::Authorization),
            ("x-http-method", Known::Override),
            ("x-rewrite-url", Known::Override),
        ],
        14 => &[
            ("content-length", Known::ContentLength),
            ("x-original-url", Known::Override),
            ("sec-fetch-site", Known::FetchSite),
            ("sec-fetch-mode", Known::FetchMode),
            ("openai-project", Known::Account),
        ],
        15 => &[
            ("accept-encoding", Known::AcceptEncoding),
            ("idempotency-key", Known::IdempotencyKey),
            ("x-forwarded-for", Known::ForwardedFor),
        ],
        16 => &[("content-encoding", Known::ContentEncoding), ("proxy-connection", Known::ProxyConnection)],
        17 => &[
            ("transfer-encoding", Known::TransferEncoding),
            ("x-ms-served-model", Known::ServedModel),
            ("x-method-override", Known::Override),
        ],
        18 => &[("proxy-authenticate", Known::ProxyAuthenticate)],
        19 => &[("proxy-authorization", Known::ProxyAuthorization), ("openai-organization", Known::Account)],
        22 => &[("x-http-method-override", Known::Override), ("sec-websocket-protocol", Known::Subprotocols)],
        24 => &[("sec-websocket-extensions", Known::WebSocketExtensions)],
        27 => &[("access-control-allow-origin", Known::AllowOrigin)],
        29 => &[("access-control-request-method", Known::RequestMethod)],
        30 => &[("access-control-request-headers", Known::RequestHeaders)],
        38 => &[("access-control-request-private-network", Known::RequestPrivateNetwork)],
        _ => &[],
    };
    let is_it = |known: &str| known.as_bytes().first().copied() == first && is_same(name, known);
    match candidates.iter().find(|(known, _)| is_it(known)) {
        Some(&(_, known)) => known,
        None if is_added_in_front(name) => Known::Front,
        None if name.contains('_') && known(&name.replace('_', "-")) != Known::Other => Known::Disguised,
        None => Known::Other,
    }
}

/// Whether a name is this one of small letters, hyphens and stars, in any case, without a branch for each byte. The bit
/// makes small letters of capitals; of the other bytes that a name may have (RFC 9110 §5.6.2) it makes none of those.
fn is_same(name: &str, known: &str) -> bool {
    let both = name.bytes().zip(known.bytes());
    name.len() == known.len() && both.fold(0, |differs, (byte, known)| differs | (byte | 0x20) ^ known) == 0
}

/// The headers of a head, each classified once.
pub struct Headers<'h, 'b> {
    lines: &'h [Header<'b>],
    classes: [Known; HEADERS_MAX],
    /// A bit for each class that is among them.
    present: u64,
}

impl<'h, 'b> Headers<'h, 'b> {
    /// Classifies the lines. Those beyond [`HEADERS_MAX`], which no parsed head has, are [`Known::Other`].
    pub fn new(lines: &'h [Header<'b>]) -> Self {
        let (mut classes, mut present) = ([Known::Other; HEADERS_MAX], 0u64);
        for (class, line) in classes.iter_mut().zip(lines) {
            *class = known(line.name);
            present |= 1 << *class as u32;
        }
        Self { lines, classes, present }
    }

    /// The lines as they came.
    pub fn lines(&self) -> &'h [Header<'b>] {
        self.lines
    }

    /// Bytes that all lines take, as [`write`] puts them.
    pub fn wire_bytes(&self) -> usize {
        self.lines.iter().map(|line| line.name.len() + line.value.len() + b": \r\n".len()).sum()
    }

    /// Each line with its class, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Known, &'h Header<'b>)> {
        let class = |at: usize| self.classes.get(at).copied().unwrap_or(Known::Other);
        self.lines.iter().enumerate().map(move |(at, line)| (class(at), line))
    }

    /// The values of a class, in order.
    pub fn values(&self, class: Known) -> impl Iterator<Item = &'b [u8]> {
        let lines = if self.present & 1 << class as u32 == 0 { &[] } else { self.lines };
        let of_class = self.classes.iter().zip(lines).filter(move |(known, _)| **known == class);
        of_class.map(|(_, line)| line.value)
    }
}

impl Known {
    /// Headers that concern one connection only and never pass (RFC 9110 §7.6.1). Framing is ours to set; what could be
    /// taken for one of those that mean something here does not pass either.
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyAuthenticate
                | Self::ProxyAuthorization
                | Self::ProxyConnection
                | Self::Te
                | Self::Trailer
                | Self::TransferEncoding
                | Self::Upgrade
                | Self::ContentLength
                | Self::Disguised
        )
    }

    /// Headers that a `Connection` option can never name away: without them the message would say something else.
    const fn is_protected(self) -> bool {
        matches!(
            self,
            Self::Host | Self::ContentLength | Self::Authorization | Self::ContentType | Self::ContentEncoding
        )
    }
}

/// Most options that `Connection` may name beside `close` and `keep-alive`.
const OPTIONS_MAX: usize = 8;

/// What the `Connection` headers of a message say (RFC 9110 §7.6.1).
#[derive(Clone, Copy, Debug, Default)]
pub struct Connection<'b> {
    pub close: bool,
    pub keep_alive: bool,
    options: [&'b str; OPTIONS_MAX],
    count: usize,
}

impl<'b> Connection<'b> {
    /// Reads all `Connection` headers together.
    pub fn parse(headers: &Headers<'_, 'b>) -> Result<Self, HttpError> {
        let mut connection = Self::default();
        for value in headers.values(Known::Connection) {
            for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                connection.add(option)?;
            }
        }
        Ok(connection)
    }

    fn add(&mut self, option: &'b [u8]) -> Result<(), HttpError> {
        if option.eq_ignore_ascii_case(b"close") {
            self.close = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
        } else if !option.is_empty() {
            let option =
                std::str::from_utf8(option).map_err(|_| HttpError::Malformed("a Connection option is not a token"))?;
            *self.options.get_mut(self.count).ok_or(HttpError::HeadTooLarge)? = option;
            self.count += 1;
        }
        Ok(())
    }

    /// True where the connection stays open after this message (RFC 9112 §9.3).
    pub fn stays_open(&self, http11: bool) -> bool {
        !self.close && (http11 || self.keep_alive)
    }

    /// True where this header, of this class, was named as concerning the connection only.
    pub fn names(&self, name: &str, class: Known) -> bool {
        self.count > 0
            && !class.is_protected()
            && self.options[..self.count].iter().any(|option| option.eq_ignore_ascii_case(name))
    }
}

/// Appends one header line.
pub fn write(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a header line whose value is a number.
pub fn write_number(out: &mut Vec<u8>, name: &str, number: u64) {
    write(out, name, itoa::Buffer::new().format(number).as_bytes());
}

/// Appends `number` in decimal digits.
pub fn write_decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// What of our own headers a page may read.
const READABLE: &[u8] = b"x-proxy-error, x-request-id, retry-after, retry-after-ms, x-should-retry, \
    x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
    x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";

/// Lines that let a page of this origin read an answer of ours.
pub fn write_readable(out: &mut Vec<u8>, origin: &str) {
    write(out, "access-control-allow-origin", origin.as_bytes());
    write(out, "access-control-expose-headers", READABLE);
    write(out, "vary", b"origin");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_underscore_disguises_nothing() {
        for name in
            ["Content_Length", "transfer_encoding", "X_User-ID", "x_http_method_override_", "API_KEY", "X_Real_IP"]
        {
            let expected = if name.ends_with('_') { Known::Other } else { Known::Disguised };
            assert_eq!(known(name), expected, "{name}");
        }
        assert_eq!((known("my_header"), known("_")), (Known::Other, Known::Other));
        assert!(known("CONTENT_LENGTH").is_hop_by_hop());
    }

    #[test]
    fn connection_names_headers_but_never_protected_ones() {
        let headers = [
            Header { name: "Connection", value: b"close, X-Secret" },
            Header { name: "connection", value: b"authorization,host , content-length" },
        ];
        let connection = Connection::parse(&Headers::new(&headers)).unwrap();
        assert!(connection.close && !connection.keep_alive);
        let named = |name: &str| connection.names(name, known(name));
        assert!(named("x-secret"));
        assert!(!named("Authorization") && !named("Host") && !named("Content-Length") && !named("x-other"));
    }
}
