//! The kinds of requests of a soak, and what the upstream does with each. The kind is the user, so that each has an
//! account of its own.

use super::clients::Account;
use crate::support::script::{Ending, Reply, Step, chunk};
use crate::support::upstream::SeenRequest;
use crate::support::websocket::{self, Side, Socket};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An answer in one piece.
    Plain,
    /// A stream that is edited on its way: usage is asked for.
    Stream,
    /// A large stream whose reader takes its time.
    SlowReader,
    /// A body that streams through, and comes back.
    Upload,
    /// Two requests in one write.
    Pipelined,
    /// 4xx and 5xx of the upstream.
    Failing,
    /// The upstream resets before it answers.
    ResetBefore,
    /// The upstream resets within the head.
    ResetWithin,
    /// The upstream resets in the middle of a chunk.
    ResetAfter,
    /// The upstream ends in the middle of a chunk.
    CutInChunk,
    /// The upstream never answers.
    Silent,
    /// The upstream answers before it has read the request.
    Early,
    /// The upstream sends interim answers first, and junk after the message.
    Junk,
    /// The upstream closes a connection that it said it would keep.
    Hangup,
    /// The client leaves before there is an answer.
    LeavesBefore,
    /// The client leaves in the middle of a stream.
    LeavesWithin,
    /// The client leaves with its request half sent: nothing was asked.
    Half,
    /// Requests that are refused.
    Refused,
    /// A session with some responses.
    Session,
}

impl Kind {
    pub const ALL: [Self; 19] = [
        Self::Plain,
        Self::Stream,
        Self::SlowReader,
        Self::Upload,
        Self::Pipelined,
        Self::Failing,
        Self::ResetBefore,
        Self::ResetWithin,
        Self::ResetAfter,
        Self::CutInChunk,
        Self::Silent,
        Self::Early,
        Self::Junk,
        Self::Hangup,
        Self::LeavesBefore,
        Self::LeavesWithin,
        Self::Half,
        Self::Refused,
        Self::Session,
    ];

    /// The user's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Stream => "stream",
            Self::SlowReader => "slow reader",
            Self::Upload => "upload",
            Self::Pipelined => "pipelined",
            Self::Failing => "failing",
            Self::ResetBefore => "reset before the head",
            Self::ResetWithin => "reset within the head",
            Self::ResetAfter => "reset after the head",
            Self::CutInChunk => "cut in a chunk",
            Self::Silent => "silent",
            Self::Early => "early answer",
            Self::Junk => "junk after the message",
            Self::Hangup => "hangup",
            Self::LeavesBefore => "leaves before the answer",
            Self::LeavesWithin => "leaves within the answer",
            Self::Half => "half a request",
            Self::Refused => "refused",
            Self::Session => "session",
        }
    }

    /// The whole request with this number.
    pub fn request(self, n: u64) -> Vec<u8> {
        let stream = matches!(self, Self::Stream | Self::SlowReader | Self::LeavesWithin | Self::ResetAfter);
        let body = json!({"model": "gpt-4o-mini", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]});
        let fields = [("content-type", "application/json"), ("x-user-id", self.name())];
        let (path, body) = match self {
            Self::Upload | Self::Early => ("/v1/files", vec![b'x'; 200_000]),
            _ => ("/v1/chat/completions", body.to_string().into_bytes()),
        };
        crate::support::client::request("POST", &self.target(path, n), &fields, &body)
    }

    /// A target that tells the upstream what to do.
    pub fn target(self, path: &str, n: u64) -> String {
        let place = Self::ALL.iter().position(|kind| *kind == self).expect("one of all");
        format!("{path}?kind={place}&n={n}")
    }
}

/// Kind and number of a request.
fn read(request: &SeenRequest) -> (Kind, u64) {
    let (_, query) = request.target.split_once("?kind=").expect("a request of ours");
    let (kind, n) = query.split_once("&n=").expect("a request of ours");
    (Kind::ALL[kind.parse::<usize>().unwrap()], n.parse().unwrap())
}

/// What is done when only the head is there.
pub fn early(request: &SeenRequest, account: &Account) -> Option<Vec<Step>> {
    let (kind, n) = read(request);
    match kind {
        Kind::LeavesBefore => account.note_seen(n),
        Kind::Early => return Some(Reply::new(413, "too large, says the upstream").steps()),
        _ => {}
    }
    None
}

/// What is done with a whole request.
pub fn answer(request: &SeenRequest) -> Vec<Step> {
    let (kind, n) = read(request);
    let body = plain(n);
    let whole = |body: &str| Reply::json(body).steps();
    let begun = [Reply::sse("").head(), word(n)].concat();
    match kind {
        Kind::Plain | Kind::Pipelined => whole(&body),
        Kind::Upload => Reply::new(200, request.body.clone()).ending(Ending::Chunked(7000)).steps(),
        Kind::Stream => vec![Step::Send(begun), Step::Send(word(n)), Step::Send(last(n))],
        Kind::SlowReader => {
            let words = word(n).repeat(WORDS_OF_A_LARGE_STREAM);
            vec![Step::Send(Reply::sse("").head()), Step::Send(words), Step::Send(last(n))]
        }
        Kind::Failing => {
            let mut reply = Reply::json(r#"{"error":{"message":"No.","type":"invalid_request_error","code":null}}"#);
            reply.status = [400, 404, 429, 500, 503][n as usize % 5];
            reply.steps()
        }
        Kind::ResetBefore => vec![Step::Reset],
        Kind::ResetWithin => vec![Step::Send(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()), Step::Reset],
        Kind::ResetAfter => vec![Step::Send(begun), Step::Send(b"ff\r\ndata: {".to_vec()), Step::Reset],
        Kind::CutInChunk => vec![Step::Send(begun), Step::Send(b"ff\r\ndata: {".to_vec()), Step::Cut],
        Kind::Silent | Kind::LeavesBefore => vec![Step::AwaitClose],
        Kind::LeavesWithin => vec![Step::Send(begun), Step::AwaitClose],
        Kind::Junk => {
            let interim = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(5);
            let reply = Reply::json(body);
            vec![Step::Send([interim, reply.head(), reply.framed_body(), b"HTTP/1.1 200 OK\r\n\r\n".to_vec()].concat())]
        }
        Kind::Hangup => whole(&body).into_iter().chain([Step::Cut]).collect(),
        Kind::Session => session(request, n),
        Kind::Early | Kind::Half | Kind::Refused => panic!("{} never comes as far", kind.name()),
    }
}

/// More bytes than what the proxy holds for a client.
pub const WORDS_OF_A_LARGE_STREAM: usize = 4000;

fn usage(n: u64) -> Value {
    json!({"prompt_tokens": 10 + n % 7, "completion_tokens": 2, "total_tokens": 12 + n % 7})
}

fn id(n: u64, part: usize) -> String {
    format!("r-{n}-{part}")
}

fn plain(n: u64) -> String {
    let choices = json!([{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]);
    json!({"id": id(n, 0), "model": "gpt-4o-mini-2024-07-18", "choices": choices, "usage": usage(n)}).to_string()
}

fn event(n: u64, choices: Value, usage: Value) -> Vec<u8> {
    let event = json!({"id": id(n, 0), "object": "chat.completion.chunk", "model": "gpt-4o-mini-2024-07-18",
        "choices": choices, "usage": usage});
    chunk(format!("data: {event}\n\n").as_bytes())
}

fn word(n: u64) -> Vec<u8> {
    event(n, json!([{"index": 0, "delta": {"content": "Hi"}, "finish_reason": null}]), Value::Null)
}

fn last(n: u64) -> Vec<u8> {
    [event(n, json!([]), usage(n)), chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat()
}

fn session(request: &SeenRequest, n: u64) -> Vec<Step> {
    websocket::accept(request, move |tunnel| {
        let mut socket = Socket::new(tunnel, Side::Server);
        for part in 1.. {
            match socket.message()? {
                Some(message) if message.opcode == websocket::CLOSE => return socket.send(&message),
                Some(_) => {
                    socket.send_json(&json!({"type": "response.done", "response": {"object": "realtime.response",
                    "id": id(n, part), "status": "completed", "output": [],
                    "usage": {"total_tokens": 5, "input_tokens": 3, "output_tokens": 2}}}))?
                }
                None => return Ok(()),
            }
        }
        Ok(())
    })
}
