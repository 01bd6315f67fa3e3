//! A connection to the target: opened for one exchange, kept for the next.
//!
//! ```text
//!   Resolving ─▶ Connecting ─▶ Handshaking ─▶ Ready ◀─────────── Looking
//!                                             │ exchange complete   ▲ taken for an exchange
//!                                             └──▶ (in the pool) ───┘
//! ```
//!
//! Only a Ready connection with an exchange sends anything of it. Ciphertext that the socket would not take waits in
//! `cipher`; a TLS session has no buffers of its own.

use super::timing::Class;
use super::tunnel::Tunnel;
use super::{Action, Conn, ExchangeKey, HIGH_WATERMARK, Proxy, UpKey, Written};
use crate::base::buffer::Buffer;
use crate::base::clock::Now;
use crate::base::deadlines::Timer;
use crate::http::HttpError;
use crate::http::head::HeadEnd;
use crate::http::reply::Fault;
use crate::tls::{Session, TlsError};
use std::io::ErrorKind;
use std::net::SocketAddr;

/// Plaintext that is encrypted before the socket is tried: as much as a socket usually takes at once.
const ENCRYPT_BYTES: usize = 64 * 1024;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The target's address is not known yet.
    Resolving,
    Connecting,
    Handshaking,
    /// Taken from the pool; whether it still lives is being looked at.
    Looking,
    Ready,
}

/// Why a connection is of no more use.
#[derive(Debug)]
pub enum Failure {
    /// The target's name has no address.
    Resolve(String),
    /// It could not be connected, or broke with an error.
    Broken(ErrorKind),
    /// The target closed it.
    Closed,
    /// TLS failed.
    Tls(TlsError),
    /// What the target sent is not HTTP.
    Protocol(HttpError),
    /// It took too long.
    Timeout,
}

/// One connection to the target.
pub struct Upstream {
    pub link: Link,
    /// Addresses not tried yet, the next one last.
    pub addresses: Vec<SocketAddr>,
    pub tls: Option<Box<Session>>,
    /// Ciphertext that waits for the socket.
    pub cipher: Buffer,
    /// A response head that is not whole yet; or what comes of a tunnel while it must wait.
    pub input: Buffer,
    pub head_end: HeadEnd,
    pub exchange: Option<ExchangeKey>,
    /// It has carried an exchange before this one.
    pub reused: bool,
    /// This exchange's request has begun to leave `outgoing`.
    pub begun: bool,
    /// Bytes of it were taken by the socket.
    pub written: bool,
    /// The socket takes no more: it is read to its end, and then given up.
    pub broken: Option<ErrorKind>,
    /// How it has ended, by an end or an error, where bytes that came before are still to be relayed.
    pub ended: Option<Result<(), ErrorKind>>,
    /// Bytes that have moved since the instant `since`, monotonic nanoseconds.
    pub moved: u64,
    pub since: u64,
    pub timer: Timer,
    pub timing: Option<Class>,
}

impl Upstream {
    /// A connection still to be opened, for this exchange.
    pub fn new(exchange: ExchangeKey) -> Self {
        Self {
            link: Link::Resolving,
            addresses: Vec::new(),
            tls: None,
            cipher: Buffer::new(),
            input: Buffer::new(),
            head_end: HeadEnd::default(),
            exchange: Some(exchange),
            reused: false,
            begun: false,
            written: false,
            broken: None,
            ended: None,
            moved: 0,
            since: 0,
            timer: Timer::default(),
            timing: None,
        }
    }
}

impl Upstream {
    /// Writes what was encrypted before, until none is left or the socket takes no more; true where bytes have moved.
    fn write_cipher(&mut self, write: &mut dyn FnMut(&[u8]) -> Written) -> Result<bool, Failure> {
        let mut progress = false;
        while !self.cipher.is_empty() {
            let Some(count) = taken(write(self.cipher.as_slice()))? else { break };
            self.cipher.consume(count);
            self.moved += count as u64;
            self.written |= self.begun && count > 0;
            progress |= count > 0;
        }
        Ok(progress)
    }
}

impl Failure {
    /// How a client is told.
    pub fn fault(&self, link: Link) -> Fault {
        match self {
            Self::Resolve(_) | Self::Tls(_) => Fault::UpstreamUnreachable,
            Self::Broken(_) | Self::Closed if matches!(link, Link::Connecting | Link::Handshaking) => {
                Fault::UpstreamUnreachable
            }
            Self::Broken(_) | Self::Closed => Fault::UpstreamClosed,
            Self::Protocol(_) => Fault::UpstreamProtocol,
            Self::Timeout => Fault::UpstreamTimeout,
        }
    }

    /// Words for the client, and what to do where that is known. Never an address or a key.
    pub fn message(&self, link: Link) -> String {
        match self {
            Self::Resolve(why) => format!("the upstream's name could not be resolved: {why}"),
            Self::Tls(error) => format!("TLS with the upstream failed: {error}"),
            Self::Protocol(error) => format!("the upstream's response is not valid HTTP: {}", error.message()),
            Self::Timeout if matches!(link, Link::Ready) => "the upstream did not answer in time".to_owned(),
            Self::Timeout => "the upstream could not be connected in time".to_owned(),
            Self::Broken(_) | Self::Closed => match (self.fault(link), self) {
                (Fault::UpstreamUnreachable, Self::Broken(why)) => {
                    format!("the upstream could not be connected: {why}")
                }
                (Fault::UpstreamUnreachable, _) => "the upstream closed the connection at once".to_owned(),
                _ => "the upstream closed the connection before it answered".to_owned(),
            },
        }
    }

    /// Label of the metric.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Resolve(_) => "resolve",
            Self::Broken(_) => "broken",
            Self::Closed => "closed",
            Self::Tls(_) => "tls",
            Self::Protocol(_) => "protocol",
            Self::Timeout => "timeout",
        }
    }
}

impl Proxy {
    /// True where reading from the target makes sense now: always, but for a client that does not keep up.
    pub(super) fn wants_upstream_bytes(&self, key: UpKey) -> bool {
        let Some(up) = self.ups.get(key) else { return false };
        let exchange = up.exchange.and_then(|exchange| self.exchanges.get(exchange));
        let down = exchange.and_then(|exchange| self.downs.get(exchange.down));
        let waits = self.tunnel_of(key).is_some_and(Tunnel::is_paused);
        up.link != Link::Resolving && !waits && down.is_none_or(|down| down.out.len() < HIGH_WATERMARK)
    }

    /// The socket of [`Action::Connect`] is connected.
    pub fn connected(&mut self, now: Now, key: UpKey) {
        let Some(up) = self.ups.get_mut(key).filter(|up| up.link == Link::Connecting) else { return };
        let Some(connector) = &self.settings.tls else { return self.link_ready(now, key) };
        up.link = Link::Handshaking;
        let mut hello = Vec::new();
        let opened = connector.open().and_then(|mut session| {
            session.start(&mut hello)?;
            Ok(session)
        });
        match opened {
            Ok(session) => {
                up.tls = Some(Box::new(session));
                up.cipher.append(&hello);
                self.actions.push_back(Action::Flush(Conn::Up(key)));
            }
            Err(error) => self.fail_up(now, key, Failure::Tls(error)),
        }
    }

    /// All that had come was read: a connection from the pool that is still there can be used; one that broke while it
    /// was written to is of no more use.
    pub fn looked(&mut self, now: Now, key: UpKey) {
        let Some(up) = self.ups.get(key) else { return };
        match (up.broken, up.link) {
            (Some(why), _) => self.upstream_broke(now, key, why),
            (None, Link::Looking) => self.link_ready(now, key),
            (None, _) => {}
        }
    }

    fn link_ready(&mut self, now: Now, key: UpKey) {
        let Some(up) = self.ups.get_mut(key) else { return };
        up.link = Link::Ready;
        up.addresses = Vec::new();
        self.actions.push_back(Action::Flush(Conn::Up(key)));
        self.retime_up(now, key, true);
    }

    pub(super) fn upstream_bytes(&mut self, now: Now, key: UpKey, bytes: &mut [u8]) {
        let Some(up) = self.ups.get_mut(key) else { return };
        up.moved += bytes.len() as u64;
        let Some(mut session) = up.tls.take() else {
            self.upstream_plain(now, key, bytes);
            return self.retime_up(now, key, true);
        };
        let mut reply = std::mem::take(&mut self.scratch);
        reply.clear();
        let was_handshaking = session.is_handshaking();
        let received = session.receive(bytes, &mut reply, |plain| self.upstream_plain(now, key, plain));
        let ready = was_handshaking && !session.is_handshaking();
        let closed = session.peer_closed();
        if let Some(up) = self.ups.get_mut(key) {
            up.tls = Some(session);
            if !reply.is_empty() {
                up.cipher.append(&reply);
                self.actions.push_back(Action::Flush(Conn::Up(key)));
            }
        }
        self.scratch = reply;
        match received {
            Err(error) => return self.fail_up(now, key, Failure::Tls(error)),
            Ok(()) if ready => self.link_ready(now, key),
            Ok(()) => {}
        }
        if closed {
            self.upstream_ended(now, key);
        }
        self.retime_up(now, key, true);
    }

    pub(super) fn flush_up(&mut self, now: Now, key: UpKey, write: &mut dyn FnMut(&[u8]) -> Written) {
        let mut sealed = std::mem::take(&mut self.sealed);
        let outcome = self.write_up(key, &mut sealed, write);
        self.sealed = sealed;
        match outcome {
            // A target that refuses a request before it has read it may answer, close, and so reset the connection: the
            // answer has come then, and must be read before the reset counts.
            Err(Failure::Broken(why)) => {
                if let Some(up) = self.ups.get_mut(key) {
                    up.broken = Some(why);
                    let exchange = up.exchange.and_then(|exchange| self.exchanges.get_mut(exchange));
                    drop(exchange.map(|exchange| exchange.request.outgoing.take_stream()));
                }
                self.resume_client(key);
                self.actions.push_back(Action::Look(key));
            }
            Err(failure) => self.fail_up(now, key, failure),
            Ok(progress) => {
                self.retime_up(now, key, progress);
                // Only then: what a client sends on asks for a flush again.
                if progress {
                    self.resume_client(key);
                    self.forget_sent_body(key);
                }
            }
        }
    }

    /// Writes until nothing is left or the socket takes no more; true where bytes have moved.
    fn write_up(
        &mut self,
        key: UpKey,
        sealed: &mut Vec<u8>,
        write: &mut dyn FnMut(&[u8]) -> Written,
    ) -> Result<bool, Failure> {
        let Some(up) = self.ups.get_mut(key).filter(|up| up.broken.is_none()) else { return Ok(false) };
        let mut progress = up.write_cipher(write)?;
        let Some(exchange) = up.exchange.filter(|_| up.link == Link::Ready) else { return Ok(progress) };
        let Some(found) = self.exchanges.get_mut(exchange) else { return Ok(progress) };
        let outgoing = &mut found.request.outgoing;
        while up.cipher.is_empty() && !outgoing.next().is_empty() {
            if !std::mem::replace(&mut up.begun, true) {
                self.dispatched.push(exchange);
            }
            let next = outgoing.next();
            let count = match &mut up.tls {
                None => {
                    let Some(count) = taken(write(next))? else { return Ok(progress) };
                    outgoing.advance(count);
                    count
                }
                Some(session) => {
                    let plain = &next[..next.len().min(ENCRYPT_BYTES)];
                    let sealed_bytes = session.encrypt_over(plain, sealed).map_err(Failure::Tls)?;
                    let sealed = &sealed[..sealed_bytes];
                    // Encrypted once is sent once: the record's number is used up, whatever the socket takes now.
                    outgoing.advance(plain.len());
                    let Some(count) = taken(write(sealed))? else {
                        up.cipher.append(sealed);
                        return Ok(progress);
                    };
                    up.cipher.append(&sealed[count..]);
                    count
                }
            };
            up.moved += count as u64;
            up.written |= count > 0;
            progress |= count > 0;
            // A socket that took a part says that it takes more only once it has refused.
            progress |= up.write_cipher(write)?;
        }
        Ok(progress)
    }

    /// The client's body may go on where it had to wait for this connection.
    fn resume_client(&mut self, key: UpKey) {
        let exchange = self.ups.get(key).and_then(|up| self.exchanges.get(up.exchange?));
        if let Some(exchange) = exchange.filter(|exchange| !exchange.request.complete) {
            self.actions.push_back(Action::Read(Conn::Down(exchange.down)));
        }
    }

    /// Puts bytes out as the last ones before the connection is closed; as far as the socket takes them.
    pub(super) fn say_last(&mut self, key: UpKey, words: &[u8]) {
        let Some(up) = self.ups.get_mut(key).filter(|up| up.link == Link::Ready) else { return };
        match &mut up.tls {
            None => up.cipher.append(words),
            Some(session) => _ = session.encrypt(words, up.cipher.tail()), // it is over either way
        }
    }

    /// An error instead of an end. What came before it is relayed first, where it has to wait.
    pub(super) fn upstream_broke(&mut self, now: Now, key: UpKey, why: ErrorKind) {
        if !self.puts_end_off(key, Err(why)) {
            self.fail_up(now, key, Failure::Broken(why));
        }
    }

    pub(super) fn upstream_ended(&mut self, now: Now, key: UpKey) {
        if self.puts_end_off(key, Ok(())) {
            return;
        }
        let Some(up) = self.ups.get(key) else { return };
        // Over TLS an end without close_notify may be somebody else's: what ends by it cannot be trusted to be whole.
        let is_clean = up.tls.as_ref().is_none_or(|session| session.peer_closed());
        if !(is_clean && self.response_ends_here(now, key)) {
            self.fail_up(now, key, Failure::Closed);
        }
    }
}

/// What a write took; `None` where the socket takes nothing now.
fn taken(written: Written) -> Result<Option<usize>, Failure> {
    match written {
        Written::Taken(count) => Ok(Some(count)),
        Written::Blocked => Ok(None),
        Written::Broken(why) => Err(Failure::Broken(why)),
    }
}
