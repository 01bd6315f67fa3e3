//! The upstream of a run: a server that answers every POST as the chat completions endpoint would, with TLS on one port
//! and without on another.
//!
//! In: `CERTIFICATE KEY`, two PEM files. Out: its ports (TLS, plain) on stdout, then answers until stdin closes (that
//! is, until the benchmark is gone). A body with `"stream":true` gets 20 content chunks, each an event, a chunk, a TLS
//! record and a write of its own, then the usage chunk and `[DONE]`. A message that says `pace_ms=1000` gets one each
//! second, until another body says `release`: all such streams then end with their next event. Never: a request body
//! without a length, another delay.

use crate::answers::Answers;
use crate::work::EVENTS;
use memchr::memmem;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

const TLS: Token = Token(0);
const PLAIN: Token = Token(1);
/// How much of a body is looked at for what it wants.
const LOOK_BYTES: usize = 1024;

/// Serves until stdin closes.
pub fn run(args: &[String]) -> io::Result<()> {
    let [certificate, key] = args else { return Err(io::Error::other("expects CERTIFICATE KEY")) };
    let mut mock = Mock::new(server_config(certificate, key).map_err(io::Error::other)?)?;
    println!("{} {}", mock.tls.local_addr()?.port(), mock.plain.local_addr()?.port());
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink()); // either way: the benchmark is gone
        std::process::exit(0);
    });
    let mut events = Events::with_capacity(256);
    loop {
        let due = mock.beats.first().map(|(at, _)| at.saturating_duration_since(Instant::now()));
        match mock.poll.poll(&mut events, due) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            match event.token() {
                TLS | PLAIN => mock.accept(event.token())?,
                token => mock.turn(token, |peer, answers, scratch| peer.turn(event, answers, scratch)),
            }
        }
        let now = Instant::now();
        while let Some((_, token)) = mock.beats.first().copied().filter(|(at, _)| *at <= now) {
            mock.beats.pop_first();
            mock.turn(token, |peer, answers, _| peer.beat(answers));
        }
    }
}

fn server_config(certificate: &str, key: &str) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error + Send + Sync>> {
    let chain = vec![CertificateDer::from_pem_file(certificate)?];
    let key = PrivateKeyDer::from_pem_file(key)?;
    Ok(Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?))
}

struct Mock {
    poll: Poll,
    tls: TcpListener,
    plain: TcpListener,
    config: Arc<ServerConfig>,
    answers: Answers,
    scratch: Vec<u8>,
    peers: BTreeMap<Token, Peer>,
    next: usize,
    /// When which paced stream has its next event; no token is given twice, so that a peer may be gone by then.
    beats: BTreeSet<(Instant, Token)>,
}

impl Mock {
    fn new(config: Arc<ServerConfig>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let listen = |token| {
            let mut listener = TcpListener::bind("127.0.0.1:0".parse().expect("an address"))?;
            poll.registry().register(&mut listener, token, Interest::READABLE)?;
            io::Result::Ok(listener)
        };
        let (tls, plain) = (listen(TLS)?, listen(PLAIN)?);
        let (answers, scratch) = (Answers::new(), vec![0; 64 * 1024]);
        Ok(Self {
            poll,
            tls,
            plain,
            config,
            answers,
            scratch,
            peers: BTreeMap::new(),
            next: PLAIN.0 + 1,
            beats: BTreeSet::new(),
        })
    }

    fn accept(&mut self, from: Token) -> io::Result<()> {
        let listener = if from == TLS { &self.tls } else { &self.plain };
        while let Ok((mut socket, _)) = listener.accept() {
            let token = Token(self.next);
            self.next += 1;
            socket.set_nodelay(true)?;
            self.poll.registry().register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
            let tls = (from == TLS).then(|| ServerConnection::new(self.config.clone())).transpose();
            self.peers.insert(token, Peer::new(socket, tls.map_err(io::Error::other)?));
        }
        Ok(())
    }

    /// Something for a peer to do; a peer that fails at it is gone.
    fn turn(&mut self, token: Token, act: impl FnOnce(&mut Peer, &Answers, &mut [u8]) -> io::Result<()>) {
        let Some(peer) = self.peers.get_mut(&token) else { return };
        let outcome = act(peer, &self.answers, &mut self.scratch);
        self.beats.extend(peer.beat_at.take().map(|at| (at, token)));
        if std::mem::take(&mut peer.releases) {
            self.peers.values_mut().filter_map(|peer| peer.paced.as_mut()).for_each(|paced| paced.is_released = true);
        }
        if outcome.is_err() {
            self.peers.remove(&token);
        }
    }
}

/// A stream of which there is more to come.
struct Paced {
    pace: Duration,
    is_released: bool,
}

/// One connection of the target.
struct Peer {
    socket: TcpStream,
    tls: Option<ServerConnection>,
    /// Without TLS: what the socket did not take yet.
    unsent: Vec<u8>,
    /// Head, then the start of the body, of the request being read.
    request: Vec<u8>,
    /// Length of the head, once known, and body bytes that are still to come.
    body: Option<(usize, usize)>,
    paced: Option<Paced>,
    /// When to come back, once it is known.
    beat_at: Option<Instant>,
    /// It has asked to end what is paced.
    releases: bool,
}

impl Peer {
    fn new(socket: TcpStream, mut tls: Option<ServerConnection>) -> Self {
        if let Some(tls) = &mut tls {
            tls.set_buffer_limit(None);
        }
        Self {
            socket,
            tls,
            unsent: Vec::new(),
            request: Vec::new(),
            body: None,
            paced: None,
            beat_at: None,
            releases: false,
        }
    }

    /// `Err` when the connection is over, for whatever reason.
    fn turn(&mut self, event: &Event, answers: &Answers, scratch: &mut [u8]) -> io::Result<()> {
        self.flush()?;
        if !event.is_readable() {
            return Ok(());
        }
        let mut plain = Vec::new();
        loop {
            let mut wire = match self.socket.read(scratch) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => &scratch[..n],
                Err(e) if e.kind() == ErrorKind::WouldBlock => return self.flush(),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let Some(tls) = &mut self.tls else {
                self.take(wire, answers)?;
                continue;
            };
            plain.clear();
            while !wire.is_empty() {
                tls.read_tls(&mut wire)?;
                let state = tls.process_new_packets().map_err(io::Error::other)?;
                let before = plain.len();
                plain.resize(before + state.plaintext_bytes_to_read(), 0);
                tls.reader().read_exact(&mut plain[before..])?;
            }
            self.take(&plain, answers)?;
        }
    }

    /// Plaintext of requests: answers each that it completes.
    fn take(&mut self, mut plain: &[u8], answers: &Answers) -> io::Result<()> {
        loop {
            if self.body.is_none() {
                let before = self.request.len();
                self.request.extend_from_slice(plain);
                let Some(end) = memmem::find(&self.request, b"\r\n\r\n").map(|at| at + 4) else { return Ok(()) };
                self.request.truncate(end);
                self.body = Some((end, content_length(&self.request)?));
                plain = &plain[end - before..];
            }
            let Some((head, left)) = self.body else { return Ok(()) };
            let taken = left.min(plain.len());
            let looked = (head + LOOK_BYTES).saturating_sub(self.request.len()).min(taken);
            self.request.extend_from_slice(&plain[..looked]);
            plain = &plain[taken..];
            self.body = Some((head, left - taken));
            if taken < left {
                return Ok(());
            }
            self.answer(head, answers)?;
        }
    }

    fn answer(&mut self, head: usize, answers: &Answers) -> io::Result<()> {
        let body = &self.request[head..];
        let stream =
            [r#""stream":true"#, r#""stream": true"#].iter().any(|yes| memmem::find(body, yes.as_bytes()).is_some());
        let pace = number_after(body, b"pace_ms=").map(Duration::from_millis);
        self.releases = body == b"release";
        self.request.clear();
        self.body = None;
        match pace {
            _ if !stream => self.send(&answers.json),
            None => {
                self.send(&answers.first)?;
                (1..EVENTS).try_for_each(|_| self.send(&answers.content))?;
                self.send(&answers.end)
            }
            Some(pace) => {
                self.paced = Some(Paced { pace, is_released: false });
                self.beat_at = Some(Instant::now() + pace);
                self.send(&answers.first)
            }
        }
    }

    /// The next write of a paced stream.
    fn beat(&mut self, answers: &Answers) -> io::Result<()> {
        match self.paced.take_if(|paced| paced.is_released) {
            Some(_) => self.send(&answers.end),
            None => {
                self.beat_at = self.paced.as_ref().map(|paced| Instant::now() + paced.pace);
                self.send(&answers.content)
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(bytes)?,
            None => self.unsent.extend_from_slice(bytes),
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.as_ref().map_or(!self.unsent.is_empty(), |tls| tls.wants_write()) {
            let written = match &mut self.tls {
                Some(tls) => tls.write_tls(&mut self.socket),
                None => self.socket.write(&self.unsent),
            };
            match written {
                Ok(n) if self.tls.is_none() => drop(self.unsent.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => drop(other?),
            }
        }
        Ok(())
    }
}

/// The number that stands behind `name` in a message.
fn number_after(body: &[u8], name: &[u8]) -> Option<u64> {
    let digits = &body[memmem::find(body, name)? + name.len()..];
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

fn content_length(head: &[u8]) -> io::Result<usize> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(head).map_err(io::Error::other)?;
    let length = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|h| std::str::from_utf8(h.value).ok()?.parse().ok());
    length.ok_or_else(|| io::Error::other("a request without a length"))
}
