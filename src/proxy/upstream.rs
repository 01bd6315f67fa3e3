//! A connection to the target: opened for one exchange, kept for the next.
//!
//! ```text
//!   Resolving ─▶ Connecting ─▶ Egress ─▶ Handshaking ─▶ Ready ◀─────────── Looking
//!                                                       │ exchange complete   ▲ taken for an exchange
//!                                                       └──▶ (in the pool) ───┘
//! ```
//!
//! In: bytes read from its socket, and what its exchange has to send. Out: plaintext, bytes to write, the deadline that
//! its state asks for. Never: a socket, another connection. Only a Ready connection with an exchange sends anything of
//! it. Ciphertext that the socket would not take waits in `cipher`; a TLS session has no buffers of its own.

use super::dialer::RaceKey;
use super::egress_tunnel::{EgressAnswer, EgressError};
use super::exchange::{Exchange, Progress, Response};
use super::failure::{Failure, Reached};
use super::outgoing::Outgoing;
use super::timing::Class;
use super::tls_scratch::{ENCRYPT_BYTES, Received, TlsScratch};
use super::{ExchangeKey, Written};
use crate::base::buffer::Buffer;
use crate::base::clock::Now;
use crate::base::deadlines::Timer;
use crate::http::body::BodyReader;
use crate::http::head::HeadEnd;
use crate::tls::{Connector, Session, TlsError};
use std::io::ErrorKind;

/// What is no trickle: the least that a target must move, answer and request together, within so many times
/// `RESPONSE_TIMEOUT`. It may well send next to nothing for long, to keep a connection alive while a model is at work.
const TRICKLE: (u64, u64) = (4096, 24);

/// The status of a tunnel.
const SWITCHING_PROTOCOLS: u16 = 101;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The target's address is not known yet.
    Resolving,
    /// One attempt of a race.
    Connecting(RaceKey),
    /// Connected to the proxy on the way out, which is asked for a tunnel.
    Egress(RaceKey),
    /// Connected, and the race is not over before TLS is ready.
    Handshaking(RaceKey),
    /// Taken from the pool; whether it still lives is being looked at.
    Looking,
    Ready,
}

impl Link {
    /// The race that it is an attempt of.
    pub fn race(self) -> Option<RaceKey> {
        match self {
            Self::Connecting(race) | Self::Egress(race) | Self::Handshaking(race) => Some(race),
            Self::Resolving | Self::Looking | Self::Ready => None,
        }
    }

    /// How far it has come that is not ready; `by_egress` where there is a proxy on the way out.
    pub fn reached(self, by_egress: bool) -> Reached {
        match self {
            Self::Resolving | Self::Connecting(_) | Self::Egress(_) if by_egress => Reached::Egress,
            _ => Reached::Nothing,
        }
    }
}

/// How much of its exchange's request has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sent {
    #[default]
    Nothing,
    /// It has begun to leave `outgoing`, and waits here as ciphertext.
    Begun,
    /// Bytes of it were taken by the socket.
    Written,
}

/// One connection to the target.
pub struct Upstream {
    pub link: Link,
    tls: Option<Box<Session>>,
    /// What the proxy on the way out has said, while it is asked.
    answer: Option<Box<EgressAnswer>>,
    /// Ciphertext, or last words, that wait for the socket.
    pub cipher: Buffer,
    /// A response head that is not whole yet; or what comes of a tunnel, or of a compressed body, while it must wait.
    pub input: Buffer,
    /// What waits of a compressed body is read in a later turn; nothing more is taken from the socket until then.
    pub postponed: bool,
    pub head_end: HeadEnd,
    pub exchange: Option<ExchangeKey>,
    /// It has carried an exchange before this one.
    pub reused: bool,
    sent: Sent,
    /// The socket takes no more: it is read to its end, and then given up.
    pub broken: Option<ErrorKind>,
    /// How it has ended, by an end or an error, where bytes that came before are still to be relayed.
    pub ended: Option<Result<(), ErrorKind>>,
    /// Bytes that have moved since the instant `since`, monotonic nanoseconds.
    moved: u64,
    since: u64,
    pub timer: Timer,
    pub timing: Option<Class>,
}

impl Upstream {
    /// A connection still to be opened, for this exchange.
    pub fn new(exchange: ExchangeKey) -> Self {
        Self {
            link: Link::Resolving,
            tls: None,
            answer: None,
            cipher: Buffer::new(),
            input: Buffer::new(),
            postponed: false,
            head_end: HeadEnd::default(),
            exchange: Some(exchange),
            reused: false,
            sent: Sent::Nothing,
            broken: None,
            ended: None,
            moved: 0,
            since: 0,
            timer: Timer::default(),
            timing: None,
        }
    }

    /// Taken from the pool for this exchange.
    pub fn reuse(&mut self, exchange: ExchangeKey) {
        (self.exchange, self.link, self.reused, self.sent) = (Some(exchange), Link::Looking, true, Sent::Nothing);
    }

    /// True where its exchange's request has begun to leave.
    pub fn has_begun(&self) -> bool {
        self.sent != Sent::Nothing
    }

    /// True where the target may have seen something of its exchange's request.
    pub fn has_written(&self) -> bool {
        self.sent == Sent::Written
    }

    /// True where an end of the socket is one that the target wanted: over TLS one without close_notify may be somebody
    /// else's, and what ends by it cannot be trusted to be whole.
    pub fn ends_cleanly(&self) -> bool {
        self.tls.as_ref().is_none_or(|session| session.peer_closed())
    }

    /// Asks the proxy on the way out for a tunnel.
    pub fn start_egress(&mut self, request: &[u8]) {
        self.cipher.append(request);
        self.answer = Some(Box::default());
    }

    /// Takes bytes of its answer. How many of them were that, once the tunnel is open; `None` before.
    ///
    /// # Errors
    /// It opens none.
    pub fn take_answer(&mut self, bytes: &[u8]) -> Result<Option<usize>, EgressError> {
        let used = self.answer.get_or_insert_default().take(bytes)?;
        self.answer.take_if(|_| used.is_some());
        Ok(used)
    }

    /// Begins the handshake.
    ///
    /// # Errors
    /// TLS cannot begin.
    pub fn start_tls(&mut self, connector: &Connector) -> Result<(), TlsError> {
        let mut session = connector.open()?;
        session.start(self.cipher.tail())?;
        self.tls = Some(Box::new(session));
        Ok(())
    }

    /// Takes bytes that were read.
    pub fn receive<'a>(&mut self, bytes: &'a mut [u8], scratch: &'a mut TlsScratch) -> Received<'a> {
        self.moved += bytes.len() as u64;
        let Some(session) = &mut self.tls else {
            return Received::plain(bytes);
        };
        scratch.open(session, &mut self.cipher, bytes)
    }

    /// Writes what waits, and then what there is of the request, until nothing is left or the socket takes no more;
    /// true where bytes have moved.
    ///
    /// # Errors
    /// The socket is broken, or TLS cannot go on.
    pub fn send(
        &mut self,
        outgoing: &mut Outgoing,
        scratch: &mut TlsScratch,
        write: &mut dyn FnMut(&[u8]) -> Written,
    ) -> Result<bool, Failure> {
        let mut progress = self.send_waiting(write)?;
        while self.cipher.is_empty() && !outgoing.next().is_empty() {
            if self.sent == Sent::Nothing {
                self.sent = Sent::Begun;
            }
            let next = outgoing.next();
            let count = match &mut self.tls {
                None => {
                    let Some(count) = taken(write(next))? else { return Ok(progress) };
                    outgoing.advance(count);
                    count
                }
                Some(session) => {
                    let plain = &next[..next.len().min(ENCRYPT_BYTES)];
                    let sealed_bytes = session.encrypt_over(plain, &mut scratch.sealed).map_err(Failure::Tls)?;
                    let sealed = &scratch.sealed[..sealed_bytes];
                    // Encrypted once is sent once: the record's number is used up, whatever the socket takes now.
                    outgoing.advance(plain.len());
                    let Some(count) = taken(write(sealed))? else {
                        self.cipher.append(sealed);
                        return Ok(progress);
                    };
                    self.cipher.append(&sealed[count..]);
                    count
                }
            };
            progress |= self.note_written(count);
            // A socket that took a part says that it takes more only once it has refused.
            progress |= self.send_waiting(write)?;
        }
        Ok(progress)
    }

    /// Writes what was encrypted before, until none is left or the socket takes no more; true where bytes have moved.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn send_waiting(&mut self, write: &mut dyn FnMut(&[u8]) -> Written) -> Result<bool, Failure> {
        let mut progress = false;
        while !self.cipher.is_empty() {
            let Some(count) = taken(write(self.cipher.as_slice()))? else { break };
            self.cipher.consume(count);
            progress |= self.note_written(count);
        }
        Ok(progress)
    }

    /// The socket has taken so many bytes; true where these are any.
    fn note_written(&mut self, count: usize) -> bool {
        self.moved += count as u64;
        if count > 0 && self.sent == Sent::Begun {
            self.sent = Sent::Written;
        }
        count > 0
    }

    /// Puts bytes out as the last ones before the connection is closed; as far as the socket takes them.
    pub fn say_last(&mut self, words: &[u8]) {
        match &mut self.tls {
            None => self.cipher.append(words),
            Some(session) => _ = session.encrypt(words, self.cipher.tail()), // it is over either way
        }
    }

    /// What is still to be written before the socket is closed, with TLS' own goodbye.
    pub fn close(mut self) -> Vec<u8> {
        let mut last = self.cipher.as_slice().to_vec();
        if let Some(session) = &mut self.tls {
            session.close(&mut last);
        }
        last
    }

    /// Chooses the deadline that its state asks for; true where that is to be armed, or cancelled, anew. `connect` is
    /// what an attempt to connect has, `progress` says that bytes have moved, `response_timeout` is in nanoseconds.
    pub fn retime(
        &mut self,
        now: Now,
        connect: Option<Class>,
        exchange: Option<&Exchange>,
        progress: bool,
        response_timeout: u64,
    ) -> bool {
        let is_tunnel = exchange.is_some_and(|exchange| exchange.draft.status == SWITCHING_PROTOCOLS);
        let wanted = self.class(connect, exchange);
        if self.timing != wanted && !matches!(self.timing, Some(Class::Response | Class::ResponseHead)) {
            (self.moved, self.since) = (0, now.mono);
        }
        let restarts =
            wanted == Some(Class::Response) && progress && (is_tunnel || self.gets_on(now, response_timeout));
        std::mem::replace(&mut self.timing, wanted) != wanted || restarts
    }

    fn class(&self, connect: Option<Class>, exchange: Option<&Exchange>) -> Option<Class> {
        let is_paused = exchange.and_then(|exchange| exchange.tunnel.as_ref()).is_some_and(|tunnel| tunnel.is_paused());
        let is_left = exchange.and_then(|exchange| exchange.tunnel.as_ref()).is_some_and(|tunnel| tunnel.is_leaving());
        let is_awaited = exchange.is_some_and(|exchange| exchange.response.progress == Progress::Awaited);
        let has_begun = is_awaited && !self.input.is_empty();
        match (self.link, self.exchange) {
            _ if is_left => Some(Class::Linger),
            _ if exchange.is_some_and(|exchange| exchange.abandoned) => Some(Class::ReadOn),
            (Link::Resolving, _) => Some(Class::Resolve),
            (Link::Connecting(_), _) => connect,
            (Link::Egress(_), _) => Some(Class::Egress),
            (Link::Handshaking(_), _) => Some(Class::Handshake),
            // Nothing is asked of a target that we do not read from.
            (_, Some(_)) if is_paused => None,
            (_, Some(_)) if has_begun => Some(Class::ResponseHead),
            (_, Some(_)) => Some(Class::Response),
            (_, None) => Some(Class::Pool),
        }
    }

    /// True for a target that has moved enough lately to be given more time.
    fn gets_on(&mut self, now: Now, response_timeout: u64) -> bool {
        let (bytes, times) = TRICKLE;
        if self.moved >= bytes {
            (self.moved, self.since) = (0, now.mono);
        }
        now.mono - self.since < response_timeout.saturating_mul(times)
    }
}

/// How far an exchange's answer had come on a connection in this state; `by_egress` where there is a proxy on the way
/// out, `head_begun` says that bytes of the answer's head have come.
pub fn reached(link: Link, by_egress: bool, head_begun: bool, exchange: &Exchange) -> Reached {
    match (link, &exchange.response) {
        (Link::Resolving | Link::Connecting(_) | Link::Egress(_) | Link::Handshaking(_), _) => link.reached(by_egress),
        _ if exchange.tunnel.is_some() => Reached::Session,
        (_, Response { progress: Progress::Awaited, .. }) if head_begun => Reached::Head,
        (_, Response { progress: Progress::Awaited, .. }) => Reached::Connected,
        (_, Response { reader: BodyReader::Chunked(decoder), .. }) if decoder.is_in_chunk() => Reached::Chunk,
        _ => Reached::Body,
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
