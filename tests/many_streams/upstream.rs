//! The upstream of many streams: one loop, TLS, an answer that trickles for each request until all are told to end.

use super::{INTERVAL, LAST, Shared, event};
use crate::support::script::{Reply, chunk};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::{ServerConfig, ServerConnection};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const LISTENER: Token = Token(usize::MAX);

/// Starts the loop; gives its address, and in the end how many events each stream was sent.
pub fn start(config: ServerConfig, streams: usize, shared: Arc<Shared>) -> (SocketAddr, JoinHandle<Vec<usize>>) {
    let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    let poll = Poll::new().unwrap();
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).unwrap();
    let upstream =
        Upstream { listener, poll, config: Arc::new(config), peers: Vec::new(), sent: vec![0; streams], shared };
    (addr, thread::spawn(move || upstream.run()))
}

struct Upstream {
    listener: TcpListener,
    poll: Poll,
    config: Arc<ServerConfig>,
    /// By token; `None` once it is gone.
    peers: Vec<Option<Peer>>,
    sent: Vec<usize>,
    shared: Arc<Shared>,
}

struct Peer {
    socket: TcpStream,
    tls: ServerConnection,
    request: Vec<u8>,
    /// The stream that is being answered, and when its next event is due.
    stream: Option<(usize, Instant)>,
}

impl Upstream {
    fn run(mut self) -> Vec<usize> {
        let mut events = Events::with_capacity(1024);
        let mut looked = Instant::now();
        while !self.shared.stop.load(Ordering::SeqCst) {
            match self.poll.poll(&mut events, Some(Duration::from_millis(20))) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => other.unwrap(),
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    Token(index) => self.turn(index),
                }
            }
            if looked.elapsed() >= Duration::from_millis(20) {
                looked = Instant::now();
                self.trickle(looked);
            }
        }
        self.sent
    }

    fn accept(&mut self) {
        while let Ok((mut socket, _)) = self.listener.accept() {
            socket.set_nodelay(true).unwrap();
            let token = Token(self.peers.len());
            self.poll.registry().register(&mut socket, token, Interest::READABLE | Interest::WRITABLE).unwrap();
            let mut tls = ServerConnection::new(self.config.clone()).unwrap();
            tls.set_buffer_limit(None);
            self.peers.push(Some(Peer { socket, tls, request: Vec::new(), stream: None }));
        }
    }

    /// What a connection has to say.
    fn turn(&mut self, index: usize) {
        let Some(peer) = &mut self.peers[index] else { return };
        let outcome = peer.receive().and_then(|()| {
            if let Some(stream) = peer.stream_asked_for()? {
                peer.stream = Some((stream, Instant::now()));
                peer.send(&Reply::sse("").head())?;
            }
            peer.flush()
        });
        if let Err(error) = outcome {
            if let Some((stream, _)) = peer.stream {
                self.shared.fault(format!("the upstream loses stream {stream}: {error}"));
            }
            self.peers[index] = None;
        }
    }

    /// Sends what is due.
    fn trickle(&mut self, now: Instant) {
        let finish = self.shared.finish.load(Ordering::SeqCst);
        for peer in self.peers.iter_mut().flatten() {
            let Some((stream, due)) = peer.stream else { continue };
            let bytes = if finish {
                peer.stream = None;
                let last = LAST.map(|event| chunk(format!("{event}\n\n").as_bytes())).concat();
                [&last[..], b"0\r\n\r\n"].concat()
            } else if due <= now {
                peer.stream = Some((stream, now + INTERVAL));
                self.sent[stream] += 1;
                chunk(format!("{}\n\n", event(stream, self.sent[stream] - 1)).as_bytes())
            } else {
                continue;
            };
            if let Err(error) = peer.send(&bytes) {
                self.shared.fault(format!("the upstream cannot write stream {stream}: {error}"));
            }
        }
    }
}

impl Peer {
    fn receive(&mut self) -> io::Result<()> {
        loop {
            match self.tls.read_tls(&mut self.socket) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            let state = self.tls.process_new_packets().map_err(io::Error::other)?;
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            self.tls.reader().read_exact(&mut plain)?;
            self.request.extend_from_slice(&plain);
        }
    }

    /// The number in a whole request's target.
    fn stream_asked_for(&mut self) -> io::Result<Option<usize>> {
        let Some(end) = self.request.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let head = String::from_utf8_lossy(&self.request[..end]).into_owned();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if self.request.len() < end + 4 + length.unwrap_or(0) {
            return Ok(None);
        }
        self.request.clear();
        let number = head.split_once("?n=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        number.map(Some).ok_or_else(|| io::Error::other(format!("not a request of ours: {head}")))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(bytes)?;
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => drop(other?),
            }
        }
        Ok(())
    }
}
