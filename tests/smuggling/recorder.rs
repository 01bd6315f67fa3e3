//! Both ends of the proxy, which keep each byte that came with where the messages in it ended: a strict reader's view,
//! for the others to agree with.

use super::parsers::Message;
use super::support::DEADLINE;
use super::support::client::response_framing;
use super::support::wire::{Cut, Framing, Head, Wire, framing};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// What came on one connection.
#[derive(Clone, Default)]
pub struct Record {
    pub bytes: Vec<u8>,
    pub messages: Vec<Message>,
    /// Where each message ends in the bytes.
    ends: Vec<usize>,
}

impl Record {
    /// Takes over what has come on a connection since the last time.
    fn take(&mut self, peer: &mut Peer) {
        self.bytes.extend_from_slice(&peer.wire.stream.bytes[self.bytes.len()..]);
        self.messages.append(&mut peer.record.messages);
        self.ends.append(&mut peer.record.ends);
    }

    /// The bytes of each message; what follows the last one belongs to it.
    pub fn parts(&self) -> Vec<&[u8]> {
        let mut starts = vec![0];
        starts.extend(&self.ends);
        let last = self.ends.len().saturating_sub(1);
        let end = |n: usize| if n == last { self.bytes.len() } else { self.ends[n] };
        (0..self.ends.len()).map(|n| &self.bytes[starts[n]..end(n)]).collect()
    }
}

/// A stream that keeps what is read of it.
struct Kept {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Read for Kept {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buf)?;
        self.bytes.extend_from_slice(&buf[..n]);
        Ok(n)
    }
}

/// One end of a connection.
pub struct Peer {
    wire: Wire<Kept>,
    record: Record,
}

impl Peer {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&addr, DEADLINE).unwrap())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE * 3)).unwrap();
        Self { wire: Wire::new(Kept { stream, bytes: Vec::new() }), record: Record::default() }
    }

    /// Sends bytes in these pieces.
    pub fn send(&mut self, pieces: &[&[u8]]) {
        for piece in pieces {
            self.wire.stream.stream.write_all(piece).unwrap();
        }
    }

    /// Reads responses to the end of the connection; the statuses of those that are whole.
    pub fn rest(mut self) -> Vec<String> {
        while self.response("GET") == Ok(true) {}
        self.record.messages.into_iter().map(|message| message.start).collect()
    }

    /// Sends bytes to a peer that may refuse them.
    pub fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.wire.stream.stream.write_all(bytes);
    }

    /// Reads a response; true where it is whole.
    pub fn response(&mut self, method: &str) -> Result<bool, Cut> {
        let head = loop {
            let head = self.wire.head()?.ok_or(Cut::Closed)?;
            if head.status() >= 200 {
                break head;
            }
        };
        let framing = response_framing(method, &head)?;
        let start = head.status().to_string();
        self.message(head, start, framing)
    }

    /// Reads a request; false at the end of the connection.
    fn request(&mut self) -> Result<bool, Cut> {
        let Some(head) = self.wire.head()? else { return Ok(false) };
        let framing = framing(&head, false, Framing::None)?;
        let Some(start) = head.start.strip_suffix(" HTTP/1.1").map(str::to_owned) else {
            return Err(Cut::Malformed(head.start));
        };
        self.message(head, start, framing)
    }

    fn message(&mut self, head: Head, start: String, framing: Framing) -> Result<bool, Cut> {
        let (body, cut) = self.wire.body(framing);
        if cut.is_none() {
            self.record.messages.push(Message { start, fields: head.fields, body });
            self.record.ends.push(self.wire.stream.bytes.len() - self.wire.rest().len());
        }
        Ok(cut.is_none())
    }

    /// What has come so far.
    pub fn record(&self) -> Record {
        Record { bytes: self.wire.stream.bytes.clone(), ..self.record.clone() }
    }
}

/// What the threads of a recorder fill.
type Shared<T> = Arc<Mutex<Vec<T>>>;

/// An upstream that answers everything with an empty 200.
pub struct Recorder {
    pub addr: SocketAddr,
    records: Shared<Record>,
    messages: Shared<Message>,
    failures: Shared<Cut>,
}

impl Recorder {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (records, messages, failures) = (Shared::default(), Shared::default(), Shared::default());
        let recorder = Self { addr, records: records.clone(), messages: messages.clone(), failures: failures.clone() };
        thread::spawn(move || {
            for (index, stream) in listener.incoming().enumerate() {
                let mut peer = Peer::over(stream.unwrap());
                records.lock().unwrap().push(Record::default());
                let (records, messages, failures) = (records.clone(), messages.clone(), failures.clone());
                thread::spawn(move || {
                    loop {
                        match peer.request() {
                            Ok(true) => {}
                            Err(cut @ Cut::Malformed(_)) => return failures.lock().unwrap().push(cut),
                            Ok(false) | Err(_) => return, // a request may be broken off
                        }
                        messages.lock().unwrap().extend(peer.record.messages.last().cloned());
                        records.lock().unwrap()[index].take(&mut peer);
                        peer.send(&[b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]);
                    }
                });
            }
        });
        recorder
    }

    /// What came on each connection. Panics where the strict reader found a fault.
    pub fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        assert_eq!(*self.failures.lock().unwrap(), []);
        self.records.lock().unwrap()
    }

    /// All messages in the order in which they came.
    pub fn messages(&self) -> MutexGuard<'_, Vec<Message>> {
        self.messages.lock().unwrap()
    }
}
