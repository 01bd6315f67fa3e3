//! What a mock upstream does for one request: steps, and replies that turn into steps.

use super::rng::Rng;
use super::upstream::Tunnel;
use super::wire::Cut;
use std::sync::mpsc::{Receiver, Sender, channel};

/// One step of an answer.
pub enum Step {
    /// Writes these bytes at once.
    Send(Vec<u8>),
    /// Waits until the test opens the gate (or drops its handle).
    Wait(Receiver<()>),
    /// Tells the test that all before this is done.
    Tell(Sender<()>),
    /// Hands the connection over, whatever is spoken on it from now on. A peer that leaves is no failure, one that
    /// says what it must not is.
    Talk(Talk),
    /// Waits until the peer closes or resets the connection.
    AwaitClose,
    /// Ends what is sent properly: with close_notify where there is TLS. No request is read any more.
    Close,
    /// The same without close_notify.
    Cut,
    /// Resets the connection at once.
    Reset,
}

/// The upstream's part of a conversation that is not HTTP.
pub type Talk = Box<dyn FnOnce(&mut Tunnel) -> Result<(), Cut> + Send>;

/// A gate: the upstream waits at the step until the test sends (or drops) the handle.
pub fn gate() -> (Sender<()>, Step) {
    let (open, wait) = channel();
    (open, Step::Wait(wait))
}

/// A step that tells the test, and the test's end of it.
pub fn tell() -> (Receiver<()>, Step) {
    let (tell, told) = channel();
    (told, Step::Tell(tell))
}

/// How a reply's end is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Length,
    /// Chunks of this size at most.
    Chunked(usize),
    Close,
    /// No framing field at all: 204, 304.
    Nothing,
}

/// A response to send.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub ending: Ending,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, fields: Vec::new(), body: body.into(), ending: Ending::Length }
    }

    pub fn json(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200, body).field("content-type", "application/json")
    }

    /// An event stream, a chunk an event by default.
    pub fn sse(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200, body).field("content-type", "text/event-stream; charset=utf-8").ending(Ending::Chunked(1 << 20))
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }

    /// The head's bytes.
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Reason\r\n", self.status);
        for (name, value) in &self.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match self.ending {
            Ending::Length => head.push_str(&format!("content-length: {}\r\n", self.body.len())),
            Ending::Chunked(_) => head.push_str("transfer-encoding: chunked\r\n"),
            Ending::Close => head.push_str("connection: close\r\n"),
            Ending::Nothing => {}
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// The framed body's bytes.
    pub fn framed_body(&self) -> Vec<u8> {
        let Ending::Chunked(size) = self.ending else { return self.body.clone() };
        let mut framed = Vec::new();
        for part in self.body.chunks(size) {
            framed.extend_from_slice(&chunk(part));
        }
        framed.extend_from_slice(b"0\r\n\r\n");
        framed
    }

    /// The whole answer in one write.
    pub fn steps(&self) -> Vec<Step> {
        self.end(vec![Step::Send([self.head(), self.framed_body()].concat())])
    }

    /// The whole answer, cut at random places into `pieces` writes at most.
    pub fn steps_cut(&self, rng: &mut Rng, pieces: usize) -> Vec<Step> {
        let bytes = [self.head(), self.framed_body()].concat();
        self.end(rng.cut(&bytes, pieces).into_iter().map(|part| Step::Send(part.to_vec())).collect())
    }

    /// The head, then each of `events` as a chunk of its own, after a gate that only the test can open.
    pub fn steps_gated(&self, events: &[&[u8]]) -> (Vec<Sender<()>>, Vec<Step>) {
        let mut steps = vec![Step::Send(self.head())];
        let mut gates = Vec::new();
        for event in events {
            let (open, wait) = gate();
            gates.push(open);
            steps.extend([wait, Step::Send(chunk(event))]);
        }
        steps.push(Step::Send(b"0\r\n\r\n".to_vec()));
        (gates, steps)
    }

    fn end(&self, mut steps: Vec<Step>) -> Vec<Step> {
        if self.ending == Ending::Close {
            steps.push(Step::Close);
        }
        steps
    }
}

/// One chunk of a chunked body.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}
