//! The clients of many streams: one loop, a connection and a request each, every byte of the answers looked at.

use super::{LAST, Shared, event};
use crate::support::client::request;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Streams that are asked for and have not begun: no more than a listener's backlog holds.
const BEGINNING_MAX: usize = 100;

/// Starts the loop; gives in the end how many events came on each stream.
pub fn start(addr: SocketAddr, streams: usize, shared: Arc<Shared>) -> JoinHandle<Vec<usize>> {
    thread::spawn(move || run(addr, streams, &shared))
}

fn run(addr: SocketAddr, streams: usize, shared: &Shared) -> Vec<usize> {
    let mut poll = Poll::new().unwrap();
    let mut clients: Vec<Client> = Vec::new();
    let (mut events, mut scratch) = (Events::with_capacity(1024), vec![0; 64 * 1024]);
    while !shared.stop.load(Ordering::SeqCst) {
        let begun = shared.begun.load(Ordering::SeqCst);
        while clients.len() < streams && clients.len() - begun < BEGINNING_MAX {
            let mut client = Client::new(addr, clients.len());
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut client.socket, Token(clients.len()), interest).unwrap();
            clients.push(client);
        }
        match poll.poll(&mut events, Some(Duration::from_millis(20))) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            other => other.unwrap(),
        }
        for event in &events {
            let client = &mut clients[event.token().0];
            if client.state == State::Over {
                continue;
            }
            if let Err(fault) = client.turn(&mut scratch, shared) {
                shared.fault(format!("stream {} after {} events: {fault}", client.stream, client.events));
                client.state = State::Over;
            }
        }
    }
    clients.iter().map(|client| client.events).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// The size of a chunk; not the first one follows the end of the one before.
    Size {
        first: bool,
    },
    /// So many bytes of a chunk are still to come.
    Data(usize),
    Over,
}

struct Client {
    stream: usize,
    socket: TcpStream,
    to_send: Vec<u8>,
    /// What came of head or framing and is not whole yet.
    framing: Vec<u8>,
    /// What came of an event and is not whole yet.
    text: Vec<u8>,
    state: State,
    events: usize,
    last: usize,
}

impl Client {
    fn new(addr: SocketAddr, stream: usize) -> Self {
        let target = format!("/v1/chat/completions?n={stream}");
        let body = br#"{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"messages":[]}"#;
        let to_send = request("POST", &target, &[("content-type", "application/json")], body);
        let socket = TcpStream::connect(addr).unwrap();
        let (framing, text) = (Vec::new(), Vec::new());
        Self { stream, socket, to_send, framing, text, state: State::Head, events: 0, last: 0 }
    }

    fn turn(&mut self, scratch: &mut [u8], shared: &Shared) -> Result<(), String> {
        while !self.to_send.is_empty() {
            match self.socket.write(&self.to_send) {
                Ok(n) => drop(self.to_send.drain(..n)),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                Err(e) => return Err(e.to_string()),
            }
        }
        loop {
            match self.socket.read(scratch) {
                Ok(0) => return Err("it is cut".into()),
                Ok(n) => self.take(&scratch[..n], shared)?,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
    }

    /// Bytes of the answer.
    fn take(&mut self, mut bytes: &[u8], shared: &Shared) -> Result<(), String> {
        while !bytes.is_empty() {
            match self.state {
                State::Over => return Err("more than the answer".into()),
                State::Data(left) => {
                    let (data, rest) = bytes.split_at(left.min(bytes.len()));
                    self.text.extend_from_slice(data);
                    let left = left - data.len();
                    (bytes, self.state) =
                        (rest, if left > 0 { State::Data(left) } else { State::Size { first: false } });
                    self.judge(shared)?;
                }
                State::Head | State::Size { .. } => {
                    self.framing.push(bytes[0]);
                    bytes = &bytes[1..];
                    self.frame(shared)?;
                }
            }
        }
        Ok(())
    }

    /// One more byte of the head, or of what is around a chunk.
    fn frame(&mut self, shared: &Shared) -> Result<(), String> {
        let text = String::from_utf8_lossy(&self.framing).into_owned();
        if self.state == State::Head {
            if text.ends_with("\r\n\r\n") {
                if !text.starts_with("HTTP/1.1 200 ") || !text.contains("\r\ntransfer-encoding: chunked\r\n") {
                    return Err(text);
                }
                self.framing.clear();
                self.state = State::Size { first: true };
            }
            return Ok(());
        }
        let line = match self.state {
            State::Size { first: false } => text.strip_prefix("\r\n"),
            _ => Some(text.as_str()),
        };
        let Some(size) = line.and_then(|line| line.strip_suffix("\r\n")) else { return Ok(()) };
        if size == "0\r\n" {
            self.state = State::Over;
            shared.whole.fetch_add(1, Ordering::SeqCst);
            return if self.last == LAST.len() && self.text.is_empty() {
                Ok(())
            } else {
                Err("it ends too soon".into())
            };
        }
        if size != "0" {
            let size = usize::from_str_radix(size, 16).map_err(|_| format!("not a chunk's size: {text:?}"))?;
            self.framing.clear();
            self.state = State::Data(size);
        }
        Ok(())
    }

    /// Every event that is whole must be the next one.
    fn judge(&mut self, shared: &Shared) -> Result<(), String> {
        while let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
            let came = String::from_utf8_lossy(&self.text[..end]).into_owned();
            self.text.drain(..end + 2);
            if self.last == 0 && came == event(self.stream, self.events) {
                self.events += 1;
                shared.begun.fetch_add(usize::from(self.events == 1), Ordering::SeqCst);
            } else if LAST.get(self.last) == Some(&came.as_str()) {
                self.last += 1;
            } else {
                return Err(format!("not the next event: {came}"));
            }
        }
        Ok(())
    }
}
