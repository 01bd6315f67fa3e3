//! Independent parsers of HTTP/1.1 as child processes, each asked many times: Python's h11 and the parser inside Node
//! (llhttp). In: the bytes of a connection. Out: the messages that the parser found, or why it found none.

use super::support::tools;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// For a message that has no end.
const PATIENCE_MS: u64 = 5000;

/// A message as a parser reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Method and target, or the status.
    pub start: String,
    /// Names as sent and values without the space around them, in order.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    /// The method of a request.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }
}

/// The bytes of one connection, cut where its messages end for all we know.
pub struct Stream<'a> {
    pub parts: &'a [&'a [u8]],
    /// What each response answers; empty where the parts are requests.
    pub methods: &'a [&'a str],
    /// The peer has closed after all of it.
    pub ended: bool,
}

/// A running parser.
pub struct Parser {
    pub name: &'static str,
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// All parsers; `None`, said aloud, where one is not here.
pub fn start() -> Option<Vec<Parser>> {
    let h11 = tools::python("h11", "smuggling/h11_reader.py");
    let node = tools::node(None, "smuggling/llhttp_reader.mjs");
    let parser = |name, mut command: std::process::Command| {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Parser { name, child, to, from }
    };
    Some(vec![parser("h11", h11?), parser("llhttp", node?)])
}

impl Parser {
    /// Reads the stream: every message in it, and nothing left over.
    pub fn read(&mut self, stream: &Stream) -> Result<Vec<Message>, String> {
        match self.ask(stream, PATIENCE_MS) {
            (messages, None) => Ok(messages),
            (_, Some(error)) => Err(error),
        }
    }

    /// The requests at the beginning of these bytes, as far as the parser takes them.
    pub fn requests(&mut self, bytes: &[u8], most: usize) -> Vec<Message> {
        let parts: Vec<&[u8]> = [bytes].into_iter().chain(std::iter::repeat(&b""[..])).take(most).collect();
        self.ask(&Stream { parts: &parts, methods: &[], ended: false }, 5).0
    }

    fn ask(&mut self, stream: &Stream, patience_ms: u64) -> (Vec<Message>, Option<String>) {
        let parts: Vec<String> = stream.parts.iter().map(|part| BASE64.encode(part)).collect();
        let role = if stream.methods.is_empty() { "requests" } else { "responses" };
        let job = json!({"role": role, "parts": parts, "methods": stream.methods, "ended": stream.ended,
            "patience_ms": patience_ms});
        self.to.write_all(format!("{job}\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{}: {e}: {line:?}", self.name));
        (
            answer["messages"].as_array().unwrap().iter().map(message).collect(),
            answer["error"].as_str().map(str::to_owned),
        )
    }
}

impl Drop for Parser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn message(value: &Value) -> Message {
    let field = |pair: &Value| (text(&pair[0]), text(&pair[1]));
    Message {
        start: text(&value["start"]),
        fields: value["fields"].as_array().unwrap().iter().map(field).collect(),
        body: BASE64.decode(value["body"].as_str().unwrap()).unwrap(),
    }
}

/// Bytes that came as Latin-1.
fn text(value: &Value) -> String {
    let bytes: Vec<u8> = value.as_str().unwrap().chars().map(|c| u8::try_from(c).unwrap()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
