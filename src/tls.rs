//! TLS to the upstream and with clients: ciphertext in, plaintext and ciphertext out. Only this file and its folder
//! name rustls, so that the library can be swapped here.
//!
//! In: the target's name or our certificate, bytes read from a socket, plaintext to send. Out: plaintext in pieces,
//! bytes to write. Never: a socket, a buffer of its own between records, a clock (rustls alone asks for the date, to
//! judge a certificate's validity, and to change the key of its tickets).
//!
//! rustls' unbuffered API works inside the caller's buffer. All sessions share the loop's scratch, and each keeps bytes
//! of its own only while a record, or a handshake message over several records, is incomplete:
//!
//! ```text
//!  receive:   | record | record | rec…|      the loop's scratch, decrypted in place
//!                                  '--'----> partial    exactly what must wait; no allocation when nothing does
//!  the next:  |ord | record |
//!              '---'----> partial completes, is decrypted there and freed; what follows is decrypted in place again
//! ```

mod acceptor;
mod unverified;

pub use acceptor::{Acceptor, PairError, ServerSession};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{CertificateError, ClientConfig, CommonState, Error, HandshakeKind, InvalidMessage, RootCertStore};
use std::fmt;
use std::sync::Arc;

/// RFC 8446 §5.1: type, version, length.
const RECORD_HEADER_BYTES: usize = 5;
/// Plaintext in one record (RFC 8446 §5.1).
const RECORD_PLAIN_BYTES_MAX: usize = 16 * 1024;
/// Longest record of a peer's behind its header (RFC 5246 §6.2.3), bytes.
const RECORD_BYTES_MAX: usize = 18 * 1024;
/// Header, explicit nonce and tag of the largest cipher suite offered, rounded up; rustls says if it needs more.
const RECORD_OVERHEAD_BYTES: usize = 32;

/// How to reach one target: trust anchors, protocol versions, its name and its resumable sessions. Cheap to clone, and
/// all clones share the sessions.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Connector {
    /// `host` is a DNS name or an IP address (v6 without brackets), `extra_pem` holds certificates trusted beside
    /// Mozilla's.
    ///
    /// # Errors
    /// [`TlsError::ServerName`], or [`TlsError::Anchors`] when `extra_pem` holds no certificate or an invalid one.
    pub fn new(host: &str, extra_pem: Option<&[u8]>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(pem) = extra_pem {
            add_anchors(&mut roots, pem)?;
        }
        Self::trusting(roots, host, b"http/1.1")
    }

    /// For a PostgreSQL server at `host`. Where `only_pem` is given, its certificates are trusted and no others.
    ///
    /// # Errors
    /// As for [`Connector::new`].
    pub fn to_database(host: &str, only_pem: Option<&[u8]>) -> Result<Self, TlsError> {
        let Some(pem) = only_pem else {
            return Self::trusting(
                RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
                host,
                b"postgresql",
            );
        };
        let mut roots = RootCertStore::empty();
        add_anchors(&mut roots, pem)?;
        Self::trusting(roots, host, b"postgresql")
    }

    fn trusting(roots: RootCertStore, host: &str, protocol: &[u8]) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::ServerName(host.to_owned()))?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Handshake)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Self { config: Arc::new(config), name })
    }

    /// For this machine's own port, which shows whatever certificate it has: nothing is told to whoever answers there
    /// that a stranger may not know.
    ///
    /// # Errors
    /// [`TlsError::Handshake`] where rustls has no protocol version, which cannot be.
    pub fn to_own_port() -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(unverified::AnyCertificate(provider.signature_verification_algorithms));
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(TlsError::Handshake)?;
        let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        let name = ServerName::try_from("localhost").map_err(|_| TlsError::ServerName("localhost".to_owned()))?;
        Ok(Self { config: Arc::new(config), name })
    }

    /// A new session, which resumes an earlier one where the target allows it.
    ///
    /// # Errors
    /// [`TlsError::Handshake`] when the system gives no random bytes.
    pub fn open(&self) -> Result<Session, TlsError> {
        let tls =
            UnbufferedClientConnection::new(self.config.clone(), self.name.clone()).map_err(TlsError::Handshake)?;
        Ok(Session::new(tls))
    }
}

fn add_anchors(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), TlsError> {
    let mut found = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        found += 1;
        let bad = |why: &dyn fmt::Display| TlsError::Anchors(format!("the {} certificate: {why}", ordinal(found)));
        roots.add(certificate.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
    }
    if found == 0 {
        return Err(TlsError::Anchors("no BEGIN CERTIFICATE in it".to_owned()));
    }
    Ok(())
}

/// `1st`, `2nd`, `3rd`, `4th` …
fn ordinal(number: usize) -> String {
    let ending = match (number % 100, number % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

/// Our side of a connection: rustls has a type for each.
pub trait Side {
    type Data;

    /// Bytes kept for one session at most: for an incomplete record, which has 18 KiB at most (RFC 5246 §6.2.3), or for
    /// a handshake message over several, with their own overhead.
    const PARTIAL_BYTES_MAX: usize;

    /// rustls' own step over the records in `input`.
    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn common(&self) -> &CommonState;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    /// A server's certificates: a message is at most 64 KiB for rustls.
    const PARTIAL_BYTES_MAX: usize = 96 * 1024;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(input)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    /// A client's hello, which strangers send: a few KiB with all that there is to offer.
    const PARTIAL_BYTES_MAX: usize = 24 * 1024;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(input)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

/// One connection's TLS. After an error it only refuses: send what is in `reply`, then close the socket.
pub struct Session<S = UnbufferedClientConnection> {
    tls: S,
    /// Ciphertext that waits for the rest of its record; no capacity when nothing does.
    partial: Vec<u8>,
    peer_closed: bool,
    failed: bool,
}

impl Session {
    /// Starts the handshake: appends the client hello to `reply`.
    ///
    /// # Errors
    /// [`TlsError::Handshake`] when no hello can be made.
    pub fn start(&mut self, reply: &mut Vec<u8>) -> Result<(), TlsError> {
        self.process(&mut [], reply, &mut |_| {}).map(|_| ())
    }
}

impl<S: Side> Session<S> {
    fn new(tls: S) -> Self {
        Self { tls, partial: Vec::new(), peer_closed: false, failed: false }
    }

    /// Takes ciphertext just read, decrypting it in place; calls `plain` for each piece of application data in order
    /// (at most 16 KiB each), and appends to `reply` whatever TLS itself has to send: handshake flights, alerts.
    ///
    /// # Errors
    /// Whatever the peer did wrong, once; `reply` then ends with the alert that tells it, where one is due. Later calls
    /// give [`TlsError::Finished`].
    pub fn receive(
        &mut self,
        mut input: &mut [u8],
        reply: &mut Vec<u8>,
        mut plain: impl FnMut(&[u8]),
    ) -> Result<(), TlsError> {
        while !input.is_empty() {
            if self.peer_closed {
                return Ok(()); // RFC 8446 §6.1: data after a closure alert is ignored.
            }
            if self.partial.is_empty() {
                let used = self.process(input, reply, &mut plain)?;
                self.partial = input[used..].to_vec();
                return self.check_partial(reply);
            }
            let take = missing(&self.partial).unwrap_or(usize::MAX).min(input.len());
            let (head, rest) = input.split_at_mut(take);
            self.partial.extend_from_slice(head);
            input = rest;
            if missing(&self.partial).is_none() {
                let mut buffer = std::mem::take(&mut self.partial);
                let used = self.process(&mut buffer, reply, &mut plain)?;
                if used < buffer.len() {
                    buffer.drain(..used);
                    self.partial = buffer;
                    self.check_partial(reply)?;
                }
            }
        }
        Ok(())
    }

    /// True until both sides may send application data.
    pub fn is_handshaking(&self) -> bool {
        self.tls.common().is_handshaking()
    }

    /// The peer sent close_notify: all that it had to say has arrived. An end of the socket without it is a cut.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// The handshake is done, and was a short one thanks to an earlier session.
    pub fn is_resumed(&self) -> bool {
        self.tls.common().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Bytes held back for an incomplete record; 0 on an idle connection.
    pub fn held_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// Encrypts `plain` as records appended to `out`: one record for each 16 KiB begun.
    ///
    /// # Errors
    /// [`TlsError::Finished`] before the handshake is done or after a failure; [`TlsError::Protocol`] when the keys are
    /// worn out (TLS 1.2 only, after some 2²⁴ records: open a new connection).
    pub fn encrypt(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        let start = out.len();
        let end = self.encrypt_at(start, plain, out)?;
        out.truncate(end);
        Ok(())
    }

    /// As [`Session::encrypt`], but over what is in `out`, from its start. It only grows, and is not cleared each time.
    /// How many bytes were written.
    ///
    /// # Errors
    /// As for [`Session::encrypt`].
    pub fn encrypt_over(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<usize, TlsError> {
        self.encrypt_at(0, plain, out)
    }

    fn encrypt_at(&mut self, start: usize, plain: &[u8], out: &mut Vec<u8>) -> Result<usize, TlsError> {
        if plain.is_empty() {
            return Ok(start);
        }
        let records = plain.len().div_ceil(RECORD_PLAIN_BYTES_MAX);
        let room = plain.len() + records * RECORD_OVERHEAD_BYTES;
        self.write(out, start, room, |traffic, free| traffic.encrypt(plain, free))
    }

    /// Appends close_notify, the last thing to send; nothing where the session cannot send it any more, or not yet.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        // A session that cannot say goodbye is closed all the same: the caller closes the socket next.
        let start = out.len();
        let room = 2 + RECORD_OVERHEAD_BYTES;
        let closed = self.write(out, start, room, |traffic, free| traffic.queue_close_notify(free));
        if let Ok(end) = closed {
            out.truncate(end);
        }
    }

    /// Runs rustls over `buffer` until it wants more of it. Returns how many bytes at its front are done with; the rest
    /// must be in front of what comes next.
    fn process(
        &mut self,
        buffer: &mut [u8],
        reply: &mut Vec<u8>,
        plain: &mut impl FnMut(&[u8]),
    ) -> Result<usize, TlsError> {
        if self.failed {
            return Err(TlsError::Finished);
        }
        let handshaking = self.is_handshaking();
        self.run(buffer, reply, plain).map_err(|error| self.fail(error, handshaking, reply))
    }

    fn run(&mut self, buffer: &mut [u8], reply: &mut Vec<u8>, plain: &mut impl FnMut(&[u8])) -> Result<usize, Error> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.tls.process(&mut buffer[used..]);
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plain(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => append(reply, |free| Ok(data.encode(free)?))?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => {
                    self.peer_closed = true;
                    return Ok(buffer.len());
                }
                ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) | ConnectionState::Closed => {
                    return Ok(used + discard);
                }
                // Early data is not accepted, and the enum is open: neither can come.
                other => return Err(Error::General(format!("unexpected state {other:?}"))),
            }
            used += discard;
        }
    }

    /// Brings rustls to the state in which it writes, and lets it write into `out` from `start` on. Where that ends.
    fn write(
        &mut self,
        out: &mut Vec<u8>,
        start: usize,
        room: usize,
        write: impl Fn(&mut WriteTraffic<'_, S::Data>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<usize, TlsError> {
        let mut end = start;
        while !self.failed {
            // The partial record goes along only because rustls may hold positions in it; it stays incomplete.
            let written = match self.tls.process(&mut self.partial).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    put(out, end, room, |free| Ok(write(&mut traffic, free)?)).map(|end| (true, end))
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    put(out, end, 0, |free| Ok(data.encode(free)?)).map(|end| (false, end))
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Ok((false, end))
                }
                Ok(_) => return Err(TlsError::Finished),
                Err(error) => Err(error),
            };
            let is_done;
            (is_done, end) = written.map_err(|error| {
                out.truncate(end);
                self.fail(error, false, out)
            })?;
            if is_done {
                return Ok(end);
            }
        }
        Err(TlsError::Finished)
    }

    /// Marks the session as failed, and appends the alert that rustls has queued for the peer.
    fn fail(&mut self, error: Error, handshaking: bool, reply: &mut Vec<u8>) -> TlsError {
        self.failed = true;
        self.partial = Vec::new();
        // What is queued comes out before rustls looks at any input, so none is given.
        while self.tls.common().wants_write() {
            let Ok(ConnectionState::EncodeTlsData(mut data)) = self.tls.process(&mut []).state else {
                break;
            };
            if append(reply, |free| Ok(data.encode(free)?)).is_err() {
                break;
            }
        }
        match error {
            Error::InvalidCertificate(error) => TlsError::Certificate(error),
            error if handshaking => TlsError::Handshake(error),
            error => TlsError::Protocol(error),
        }
    }

    /// Bounds what a peer can make us keep.
    fn check_partial(&mut self, reply: &mut Vec<u8>) -> Result<(), TlsError> {
        if self.partial.len() <= S::PARTIAL_BYTES_MAX {
            return Ok(());
        }
        let handshaking = self.is_handshaking();
        Err(self.fail(InvalidMessage::HandshakePayloadTooLarge.into(), handshaking, reply))
    }
}

/// How many bytes the record at the front of `partial` lacks (or first its header). `None` when it is complete: then it
/// is to be processed, together with all that came after it, however often its handshake message goes on. So is one
/// that is longer than any, to be refused at once.
fn missing(partial: &[u8]) -> Option<usize> {
    let &[_, _, _, high, low, ..] = partial else { return Some(RECORD_HEADER_BYTES - partial.len()) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > RECORD_BYTES_MAX {
        return None;
    }
    let record = RECORD_HEADER_BYTES + length;
    record.checked_sub(partial.len()).filter(|&lacking| lacking > 0)
}

/// Why rustls wrote nothing.
enum Unwritten {
    /// It needs this much room.
    Room(usize),
    Never(Error),
}

impl From<EncodeError> for Unwritten {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(short) => Self::Room(short.required_size),
            EncodeError::AlreadyEncoded => Self::Never(Error::General(error.to_string())),
        }
    }
}

impl From<EncryptError> for Unwritten {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(short) => Self::Room(short.required_size),
            EncryptError::EncryptExhausted => Self::Never(Error::EncryptError),
        }
    }
}

/// Appends what `write` writes, which asks for the room that it needs.
fn append(out: &mut Vec<u8>, write: impl FnMut(&mut [u8]) -> Result<usize, Unwritten>) -> Result<(), Error> {
    let start = out.len();
    let end = put(out, start, 0, write);
    out.truncate(*end.as_ref().unwrap_or(&start));
    end.map(|_| ())
}

/// Lets `write` fill `room` bytes of `out` from `start` on, and once more as many as it asks for. `out` grows to hold
/// them, and never shrinks; where what was written ends.
fn put(
    out: &mut Vec<u8>,
    start: usize,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Unwritten>,
) -> Result<usize, Error> {
    let mut with_room = |room: usize| {
        out.resize(out.len().max(start + room), 0);
        write(&mut out[start..start + room])
    };
    let mut written = with_room(room);
    if let Err(Unwritten::Room(needed)) = written {
        written = with_room(needed);
    }
    match written {
        Ok(count) => Ok(start + count),
        Err(Unwritten::Never(error)) => Err(error),
        Err(Unwritten::Room(needed)) => Err(Error::General(format!("{needed} bytes more were asked for than before"))),
    }
}

/// Why there is no TLS with a peer. `Display` says what to do about it where that is the target.
#[derive(Clone, Debug)]
pub enum TlsError {
    /// The extra trust anchors cannot be used.
    Anchors(String),
    /// The target's host is neither a DNS name nor an IP address.
    ServerName(String),
    /// The target's certificate is not acceptable.
    Certificate(CertificateError),
    /// There is no common ground, or the peer broke off or broke the protocol, before the handshake was done.
    Handshake(Error),
    /// The same after the handshake.
    Protocol(Error),
    /// The session has failed before, or cannot send yet.
    Finished,
}

impl TlsError {
    /// A stable name for metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Anchors(_) => "trust_anchors",
            Self::ServerName(_) => "server_name",
            Self::Certificate(_) => "certificate",
            Self::Handshake(_) => "handshake",
            Self::Protocol(_) => "protocol",
            Self::Finished => "finished",
        }
    }

    /// What has happened with a database, and what to do about it.
    pub fn of_database(&self) -> String {
        use CertificateError as E;
        let Self::Certificate(error) = self else { return format!("no TLS with it: {}", self.cause()) };
        let remedy = match error {
            E::UnknownIssuer | E::BadSignature => " (name its authority's PEM file as sslrootcert in the URL)",
            E::NotValidForName | E::NotValidForNameContext { .. } => " (the URL must use a name in it)",
            error => remedy(error),
        };
        format!("its certificate is refused: {error}{remedy}")
    }

    /// What has happened, whoever the peer is.
    pub fn cause(&self) -> String {
        match self {
            Self::Handshake(error) | Self::Protocol(error) => error.to_string(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anchors(why) => write!(f, "TLS_CA_FILE needs PEM certificates: {why}"),
            Self::ServerName(host) => write!(f, "{host:?} is neither a DNS name nor an IP address"),
            Self::Certificate(error) => write!(f, "the target's certificate is refused: {error}{}", remedy(error)),
            Self::Handshake(Error::InvalidMessage(error)) => {
                write!(f, "the target does not seem to speak TLS on this port ({error:?}): is it http:// instead?")
            }
            Self::Handshake(error) => write!(f, "no TLS handshake with the target: {error}"),
            Self::Protocol(error) => write!(f, "TLS with the target broke: {error}"),
            Self::Finished => f.write_str("the TLS session cannot be used any more, or not yet"),
        }
    }
}

impl std::error::Error for TlsError {}

fn remedy(error: &CertificateError) -> &'static str {
    use CertificateError as E;
    match error {
        E::UnknownIssuer | E::BadSignature => " (for a private authority, name its current PEM file in TLS_CA_FILE)",
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
            " (renew it there, or set this machine's clock)"
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => " (PROXY_TARGET must use a name in it)",
        _ => "",
    }
}
