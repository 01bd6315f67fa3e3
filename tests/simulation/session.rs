//! WebSocket sessions: what both sides of one will say, when they will stop, and what came of it.
//!
//! The server's side is frames with reports of usage among them, sent in turns that wait for so many of the client's
//! bytes; the client's side is any bytes, as the proxy does not read them. Each side may end as it should, or end early,
//! break off, or fall silent.

pub mod client;
pub mod judge;
pub mod server;

use crate::rng::Rng;
use crate::scenario::Got;
use openai_api_proxy::usage::record::{Endpoint, Record};

/// `x-sim` of the first session; what is below it are the other requests.
pub const FIRST_ID: usize = 1_000;

/// Why a session ends whose user's budget is spent: the code of the event, and the reason of the close frame.
const REASON: &[u8] = b"insufficient_quota";

/// A close frame: normal closure (RFC 6455 §7.4.1).
pub const GOODBYE: [u8; 4] = [0x88, 2, 0x03, 0xe8];

/// What a server does after so many bytes of its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Ends the connection.
    End(usize),
    Reset(usize),
    /// Sends no more, and waits for the other side to leave.
    Silence(usize),
}

impl Ending {
    pub fn at(self) -> usize {
        let (Self::End(at) | Self::Reset(at) | Self::Silence(at)) = self;
        at
    }
}

/// When a client leaves by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// Once its handshake is sent, without waiting for the answer.
    AtOnce,
    /// Once it has so many bytes of the server's side.
    Got(usize),
    /// Once it has said all.
    Said,
}

/// A message that says what was consumed.
pub struct Report {
    /// Bytes of the server's side up to its end.
    pub ends_at: usize,
    pub tokens: u64,
    /// When its last byte was sent.
    pub sent_at: Option<u64>,
    /// Its last byte left the proxy before its record was committed.
    pub let_go: bool,
}

/// How a session came to its end for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// It left.
    Left,
    /// The connection ended, as it should.
    Ended,
    /// It broke off.
    Cut,
    /// There was never a session.
    Refused,
}

/// One session of the run.
pub struct Session {
    pub user: String,
    /// What it is known by among the sessions of its user, where there may be several.
    pub model: Option<String>,
    /// The proxy reads it along.
    pub metered: bool,
    pub handshake: Vec<u8>,
    /// The target does not take up the WebSocket.
    pub refused: bool,
    pub says: Vec<u8>,
    /// How much of it the client says with its handshake.
    pub early: usize,
    pub answer: Vec<u8>,
    /// Before this byte of its answer, the server waits until it has so many of the client's.
    pub turns: Vec<(usize, usize)>,
    pub reports: Vec<Report>,
    /// Where in the answer a goodbye of the proxy's may stand: no message has begun, and no response is under way.
    pub rests: Vec<usize>,
    /// Its user has a budget, so that the proxy may end it.
    pub limited: bool,
    /// Where the client asks for each of the server's responses: once it has so many bytes of the answer, it says up to
    /// there. Empty where it says what it likes.
    pub asks: Vec<(usize, usize)>,
    pub ending: Ending,
    /// Once it has ended the connection, the server takes nothing any more.
    pub closes: bool,
    pub leaving: Option<Leaving>,
    pub leaves_by_reset: bool,
    /// Handshakes that the target took.
    pub seen: usize,
    /// Bytes of the answer that were sent.
    pub sent: usize,
    /// Bytes of it that the proxy has read.
    pub read: usize,
    /// The same when the server broke off.
    pub taken: usize,
    /// When the server ended the connection.
    pub ended_at: Option<u64>,
    pub heard: Vec<u8>,
    /// What the client has of the answer.
    pub got: Vec<u8>,
    /// Bytes of `says` that the client has sent.
    pub said: usize,
    pub switched: bool,
    /// The answer to the handshake, where it was another one.
    pub refusal: Option<Got>,
    pub over: Option<Over>,
    /// The connection ended before the session's record was committed.
    pub ended_early: bool,
    /// Records that are committed: of reports, and of the session itself.
    pub committed: (usize, usize),
}

impl Session {
    pub fn new(rng: &mut Rng, number: usize, fine: bool) -> Self {
        let metered = rng.below(5) > 0;
        let user = format!("session-{number}");
        let path = if metered { "/v1/realtime?model=m" } else { "/v1/socket" };
        let handshake = format!(
            "GET {path} HTTP/1.1\r\nHost: proxy\r\nX-User-ID: {user}\r\nx-sim: {}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            FIRST_ID + number
        );
        let (answer, reports, rests) = answer(rng, fine);
        let most = if fine { 300 } else { 200_000 };
        let says: Vec<u8> = (0..rng.below(most)).map(|n| (n * 7 + number) as u8).collect();
        let at = rng.below(answer.len() + 1);
        let ending = match rng.below(8) {
            0 => Ending::End(at),
            1 => Ending::Reset(at),
            2 => Ending::Silence(at),
            3 | 4 => Ending::Silence(answer.len()),
            _ => Ending::End(answer.len()),
        };
        let leaves = ending == Ending::Silence(answer.len()) || rng.below(4) == 0;
        let leaving = leaves.then(|| match rng.below(6) {
            0 => Leaving::AtOnce,
            1 | 2 => Leaving::Said,
            3 => Leaving::Got(answer.len()),
            _ => Leaving::Got(rng.below(answer.len() + 1)),
        });
        Self {
            user,
            model: None,
            metered,
            handshake: handshake.into_bytes(),
            refused: rng.below(12) == 0,
            early: if rng.below(4) == 0 { rng.below(says.len() + 1) } else { 0 },
            turns: turns(rng, answer.len(), says.len()),
            says,
            answer,
            reports: if metered { reports } else { Vec::new() },
            rests,
            limited: false,
            asks: Vec::new(),
            ending,
            closes: rng.coin(),
            leaving,
            leaves_by_reset: rng.below(3) == 0,
            seen: 0,
            sent: 0,
            read: 0,
            taken: 0,
            ended_at: None,
            heard: Vec::new(),
            got: Vec::new(),
            said: 0,
            switched: false,
            refusal: None,
            over: None,
            ended_early: false,
            committed: (0, 0),
        }
    }

    /// It is under a budget, and its client says frames: they are cut at a border where it ends.
    pub fn limit(&mut self, rng: &mut Rng) {
        self.limited = true;
        let mut says = Vec::new();
        while says.len() < self.says.len() {
            let most = [10, 1_000, 70_000][rng.below(3)].min(self.says.len());
            let bytes = rng.below(most);
            frame(&mut says, 0x81, &vec![b'x'; bytes], true);
        }
        self.says = says;
    }

    /// How many of these bytes, which have come behind the handshake's answer, are the server's; and whether the proxy's
    /// goodbye stands behind them.
    pub fn of_server(&self, bytes: &[u8]) -> (usize, bool) {
        let same = bytes.iter().zip(&self.answer).take_while(|(got, sent)| got == sent).count();
        if same == bytes.len() || !self.limited {
            return (same, false);
        }
        let rest = self.rests.iter().copied().filter(|&rest| rest <= same).max().expect("the beginning is one");
        (rest, true)
    }

    /// How many bytes its client may have said by now.
    pub fn may_say(&self) -> usize {
        let got = if self.asks.is_empty() { 0 } else { self.of_server(&self.got).0 };
        let next = self.asks.iter().position(|&(at, _)| got < at);
        match next {
            Some(0) => 0,
            Some(next) => self.asks[next - 1].1,
            None => self.says.len(),
        }
    }

    /// True for its record, and those of its parts.
    pub fn is_of(&self, record: &Record) -> bool {
        *record.user == *self.user
            && (self.model.is_none() || record.model_requested.as_deref() == self.model.as_deref())
    }

    /// A record of it is committed.
    pub fn commit(&mut self, record: &Record) {
        match record.endpoint {
            Endpoint::Realtime | Endpoint::RealtimeTranscription => self.committed.0 += 1,
            _ => self.committed.1 += 1,
        }
    }

    /// Of the answer, `left` bytes have left the proxy until a turn at `now`: every report among them is committed, or
    /// has waited long enough.
    pub fn check_left(&mut self, left: usize, now: u64, ledger_wait: u64) {
        let committed = self.committed.0;
        for (index, report) in self.reports.iter_mut().enumerate().skip(committed) {
            if report.ends_at > left || report.let_go {
                continue;
            }
            let waited = report.sent_at.map(|at| now.saturating_sub(at));
            let in_time = ledger_wait > 0 && waited.is_some_and(|waited| waited >= ledger_wait);
            assert!(in_time, "report {index} of {} left before its commit, after {waited:?} ns", self.user);
            report.let_go = true;
        }
    }
}

/// The server's side, and its reports.
fn answer(rng: &mut Rng, fine: bool) -> (Vec<u8>, Vec<Report>, Vec<usize>) {
    let mut out = Vec::new();
    let mut reports = Vec::new();
    let mut rests = vec![0];
    put(rng, &mut out, "{\"type\":\"session.created\",\"session\":{\"id\":\"sess_1\",\"model\":\"m-1\"}}");
    for number in 0..rng.below(8) {
        rests.push(out.len());
        let tokens = 1_000 * (number as u64 + 1) + rng.next() % 1_000;
        let usage = format!("{{\"input_tokens\":{tokens},\"output_tokens\":1,\"total_tokens\":{}}}", tokens + 1);
        let bytes = if fine { [1, 20, 200, 400] } else { [1, 200, 20_000, 150_000] }[rng.below(4)];
        let delta = format!("{{\"type\":\"response.delta\",\"delta\":\"{}\"}}", "x".repeat(rng.below(bytes)));
        let kind = rng.below(5);
        match kind {
            0 => put(rng, &mut out, &delta),
            1 => {
                let name = "conversation.item.input_audio_transcription.completed";
                put(rng, &mut out, &format!("{{\"type\":\"{name}\",\"item_id\":\"item_1\",\"usage\":{usage}}}"));
            }
            _ => {
                put(rng, &mut out, "{\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\"}}");
                if rng.coin() {
                    put(rng, &mut out, &delta);
                }
                let done =
                    format!("{{\"type\":\"response.done\",\"response\":{{\"id\":\"resp_1\",\"usage\":{usage}}}}}");
                put(rng, &mut out, &done);
            }
        }
        if kind > 0 {
            reports.push(Report { ends_at: out.len(), tokens, sent_at: None, let_go: false });
        }
    }
    rests.push(out.len());
    if rng.below(4) > 0 {
        out.extend(GOODBYE);
    }
    (out, reports, rests)
}

/// A text message, in one frame or two with a ping between.
pub fn put(rng: &mut Rng, out: &mut Vec<u8>, text: &str) {
    let at = if rng.below(4) == 0 { rng.below(text.len()) } else { 0 };
    let (first, rest) = text.as_bytes().split_at(at);
    if first.is_empty() {
        return frame(out, 0x81, rest, false);
    }
    frame(out, 0x01, first, false);
    frame(out, 0x89, b"ping", false);
    frame(out, 0x80, rest, false);
}

/// A frame; masked by zeros where it is a client's.
pub fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8], masked: bool) {
    let mask = u8::from(masked) << 7;
    out.push(first);
    match payload.len() {
        length @ 0..126 => out.push(mask | length as u8),
        length @ 126..65_536 => {
            out.push(mask | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(mask | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend([0; 4].iter().filter(|_| masked));
    out.extend_from_slice(payload);
}

/// Some places in the answer, each with what the client must have said before; both grow.
fn turns(rng: &mut Rng, answer: usize, says: usize) -> Vec<(usize, usize)> {
    let count = rng.below(4);
    let mut places: Vec<usize> = (0..count).map(|_| rng.below(answer + 1)).collect();
    let mut wanted: Vec<usize> = (0..count).map(|_| rng.below(says + 1)).collect();
    places.sort_unstable();
    wanted.sort_unstable();
    places.into_iter().zip(wanted).collect()
}
