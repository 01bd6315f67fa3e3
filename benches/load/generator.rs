//! The clients of a run: a closed loop over a fixed number of connections, each with one request in flight.
//!
//! In: `ADDRESS CASE WARM_UP_MS MEASURE_MS PIDS`. Out: one line, a [`Measured`]. Every answer is checked: its status, its
//! length or its last event. Requests come from a thousand users in turn, as an SDK would send them. Never: a request to
//! anything but loopback.

use crate::report::Measured;
use crate::wire::{ResponseReader, TAIL_BYTES};
use crate::{CASES, Case, mock, process};
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const USERS: usize = 1000;
/// A run that meets this many errors is over.
const ERRORS_MAX: u64 = 100;

/// Generates load and prints what came back.
pub fn run(args: &[String]) -> Result<(), String> {
    let [address, case, warm_up, measure, pids] = args else { return Err("expects 5 arguments".into()) };
    let address: SocketAddr = address.parse().map_err(|e| format!("address: {e}"))?;
    let case = *CASES.iter().find(|known| known.name == case).ok_or("unknown case")?;
    let ms = |text: &String| text.parse().map(Duration::from_millis).map_err(|e| format!("milliseconds: {e}"));
    let pids: Vec<u32> = pids.split(',').filter_map(|pid| pid.parse().ok()).collect();
    assert!(address.ip().is_loopback(), "loopback only");
    println!("{}", Generator::new(address, case, pids)?.run(ms(warm_up)?, ms(measure)?)?);
    Ok(())
}

/// The requests of a case: one head a user, and the body that all share.
struct Requests {
    heads: Vec<Vec<u8>>,
    body: Vec<u8>,
}

impl Requests {
    fn new(address: SocketAddr, case: Case) -> Self {
        let streamed = if case.stream { r#""stream":true,"stream_options":{"include_usage":true},"# } else { "" };
        let before = format!(r#"{{"model":"gpt-4o-mini",{streamed}"messages":[{{"role":"user","content":""#);
        let after = r#""}],"max_tokens":128,"temperature":0.7}"#;
        let filling = "lorem ipsum dolor sit amet ".bytes().cycle();
        let mut body = before.into_bytes();
        let content = case.body_bytes.saturating_sub(body.len() + after.len());
        body.extend(filling.take(content));
        body.extend_from_slice(after.as_bytes());
        let length = body.len();
        let head = |user: usize| {
            format!(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nAccept: application/json\r\n\
                 User-Agent: OpenAI/Python 3.54.0\r\nAuthorization: Bearer sk-client-0123456789abcdef\r\n\
                 X-User-ID: user-{user:04}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
            )
        };
        Self { heads: (0..USERS).map(|user| head(user).into_bytes()).collect(), body }
    }
}

/// One connection and its request in flight.
struct Client {
    socket: TcpStream,
    user: usize,
    written: usize,
    sent_at: Instant,
    response: ResponseReader,
}

struct Generator {
    address: SocketAddr,
    case: Case,
    pids: Vec<u32>,
    requests: Requests,
    poll: Poll,
    clients: Vec<Client>,
    next_user: usize,
    measured: Measured,
    latencies_us: Vec<u64>,
}

impl Generator {
    fn new(address: SocketAddr, case: Case, pids: Vec<u32>) -> Result<Self, String> {
        Ok(Self {
            address,
            case,
            pids,
            requests: Requests::new(address, case),
            poll: Poll::new().map_err(|e| e.to_string())?,
            clients: Vec::new(),
            next_user: 0,
            measured: Measured::default(),
            latencies_us: Vec::new(),
        })
    }

    /// Warms up, measures, and says what was seen.
    fn run(mut self, warm_up: Duration, measure: Duration) -> Result<Measured, String> {
        for n in 0..self.case.concurrency {
            let client = self.connect(n)?;
            self.clients.push(client);
            self.send(n)?;
        }
        self.turns(Instant::now() + warm_up)?;
        self.latencies_us.clear();
        let (cpu_before, start) = (process::cpu_ns(&self.pids), Instant::now());
        self.turns(start + measure)?;
        let seconds = start.elapsed().as_secs_f64();
        let cpu_ns = process::cpu_ns(&self.pids).zip(cpu_before).map(|(after, before)| after - before);
        let rss_kib = process::rss_kib(&self.pids);
        self.latencies_us.sort_unstable();
        let quantile = |share: f64| {
            let rank = (self.latencies_us.len() as f64 * share).ceil() as usize;
            self.latencies_us.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        let (p50_us, p99_us, requests) = (quantile(0.50), quantile(0.99), self.latencies_us.len() as u64);
        Ok(Measured { requests, seconds, p50_us, p99_us, cpu_ns, rss_kib, ..self.measured })
    }

    /// Keeps every connection busy until `end`.
    fn turns(&mut self, end: Instant) -> Result<(), String> {
        let (mut events, mut scratch) = (Events::with_capacity(256), vec![0; 64 * 1024]);
        while self.measured.errors < ERRORS_MAX {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match self.poll.poll(&mut events, Some(left)) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(|e| e.to_string())?,
            }
            for event in &events {
                let n = event.token().0;
                match self.turn(event, &mut scratch) {
                    Ok(false) => {}
                    Ok(true) if !self.clients[n].response.closes => self.send(n)?,
                    Ok(true) => self.replace(n)?,
                    Err(fault) => {
                        if self.measured.errors == 0 {
                            self.measured.note = fault;
                        }
                        self.measured.errors += 1;
                        self.replace(n)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn connect(&self, n: usize) -> Result<Client, String> {
        let failed = |e| format!("cannot connect to {}: {e}", self.address);
        let socket = std::net::TcpStream::connect_timeout(&self.address, Duration::from_secs(5)).map_err(failed)?;
        socket.set_nodelay(true).and_then(|()| socket.set_nonblocking(true)).map_err(failed)?;
        let mut socket = TcpStream::from_std(socket);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(n), interest).map_err(failed)?;
        Ok(Client { socket, user: 0, written: 0, sent_at: Instant::now(), response: ResponseReader::new() })
    }

    /// A fresh connection in the place of one that is over, and its first request.
    fn replace(&mut self, n: usize) -> Result<(), String> {
        self.clients[n] = self.connect(n)?;
        self.send(n)
    }

    /// The next user's request on an idle connection.
    fn send(&mut self, n: usize) -> Result<(), String> {
        let client = &mut self.clients[n];
        client.response.reset();
        (client.user, client.written, client.sent_at) = (self.next_user, 0, Instant::now());
        self.next_user = (self.next_user + 1) % USERS;
        // An answer can be refused before its request is out: what the socket says then is read from it, not here.
        let _ = client.write(&self.requests);
        Ok(())
    }

    /// What a connection has to say: `Ok(true)` when its answer is whole and right.
    fn turn(&mut self, event: &Event, scratch: &mut [u8]) -> Result<bool, String> {
        let client = &mut self.clients[event.token().0];
        client.write(&self.requests)?;
        if !event.is_readable() {
            return Ok(false);
        }
        loop {
            match client.socket.read(scratch) {
                Ok(0) => return Err("the connection was closed before the answer's end".into()),
                Ok(n) => {
                    if client.response.feed(&scratch[..n])? {
                        client.judge(self.case)?;
                        self.latencies_us.push(client.sent_at.elapsed().as_micros() as u64);
                        return Ok(true);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
    }
}

impl Client {
    /// Writes what the socket takes of the rest of the request.
    fn write(&mut self, requests: &Requests) -> Result<(), String> {
        let head = &requests.heads[self.user];
        let total = head.len() + requests.body.len();
        while self.written < total {
            let head_left = &head[self.written.min(head.len())..];
            let body_left = &requests.body[self.written.saturating_sub(head.len())..];
            match self.socket.write_vectored(&[IoSlice::new(head_left), IoSlice::new(body_left)]) {
                Ok(n) => self.written += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(())
    }

    /// Is the complete answer the one that the mock gave?
    fn judge(&self, case: Case) -> Result<(), String> {
        let response = &self.response;
        if response.status != 200 {
            return Err(format!("status {}", response.status));
        }
        let right = match case.stream {
            true => response.tail.ends_with(&mock::STREAM_END[mock::STREAM_END.len().saturating_sub(TAIL_BYTES)..]),
            false => response.body_bytes == mock::COMPLETION.len() as u64,
        };
        if right { Ok(()) } else { Err(format!("a body of {} bytes that is not the mock's", response.body_bytes)) }
    }
}
