//! Recorded exchanges and WebSocket sessions with the real API, read from beside the project where they are, never copied into it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// One recorded exchange.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Its line in the file, from 1.
    pub line: usize,
    /// `POST /v1/chat/completions`, with ids left out.
    pub endpoint: String,
    pub method: String,
    /// The path as requested, with its query.
    pub path: String,
    pub request_fields: Vec<(String, String)>,
    pub request_body: Vec<u8>,
    pub status: u16,
    /// The fields that do not describe the framing of the recorded bytes.
    pub response_fields: Vec<(String, String)>,
    pub response_body: Vec<u8>,
    /// The response is a stream of events.
    pub streaming: bool,
    /// The usage that this exchange reported, as the API wrote it.
    pub usage: Option<Value>,
}

impl Exchange {
    /// The request's body as JSON.
    pub fn request_json(&self) -> Value {
        serde_json::from_slice(&self.request_body).unwrap()
    }
}

/// One recorded WebSocket session, of as many sockets as the client opened.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its line in the file, from 1.
    pub line: usize,
    /// `openai`, `azure`, `xai`, …
    pub provider: String,
    pub sockets: Vec<Socket>,
    /// What was reported, in order: the kind of event, the id of its response or item, the usage as the API wrote it.
    pub usages: Vec<(String, String, Value)>,
}

/// One connection of a session.
#[derive(Clone, Debug, Default)]
pub struct Socket {
    pub messages: Vec<Message>,
    /// Code and reason, where the server's close frame was recorded.
    pub closed: Option<(u16, String)>,
}

/// One message, as the JSON text that was recorded.
#[derive(Clone, Debug)]
pub struct Message {
    /// The client's; else the server's.
    pub sent: bool,
    pub text: String,
}

/// The exchanges of `../shared/recorded/FILE`, `None` where the file is not there.
pub fn read(file: &str) -> Option<Vec<Exchange>> {
    Some(lines(file)?.enumerate().map(|(i, line)| exchange(i + 1, &line)).collect())
}

/// The WebSocket sessions of a file there.
pub fn read_sessions(file: &str) -> Option<Vec<Session>> {
    Some(lines(file)?.enumerate().map(|(i, line)| session(i + 1, &line)).collect())
}

fn lines(file: &str) -> Option<impl Iterator<Item = String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/recorded").join(file);
    let lines = BufReader::new(flate2::read::GzDecoder::new(std::fs::File::open(path).ok()?)).lines();
    Some(lines.map(Result::unwrap))
}

fn session(line: usize, text: &str) -> Session {
    type Object = BTreeMap<String, Box<RawValue>>; // the recorded text, and with it the order of the members
    let value: Value = serde_json::from_str(text).unwrap();
    let raw: Object = serde_json::from_str(text).unwrap();
    let frames: Vec<Object> = serde_json::from_str(raw["frames"].get()).unwrap();
    let mut sockets = vec![Socket::default()];
    for (raw, frame) in frames.iter().zip(value["frames"].as_array().unwrap()) {
        let socket = sockets.last_mut().unwrap();
        if frame["kind"] == "close" {
            socket.closed = Some((frame["code"].as_u64().unwrap() as u16, text_of(&frame["reason"])));
            sockets.push(Socket::default());
            continue;
        }
        let text = raw["data"].get().to_owned();
        socket.messages.push(Message { sent: frame["dir"] == "sent", text });
    }
    let usage = |usage: &Value| (text_of(&usage["event"]), text_of(&usage["id"]), usage["usage"].clone());
    let usages = value["expected_usages"].as_array().unwrap().iter().map(usage).collect();
    Session { line, provider: text_of(&value["provider"]), sockets, usages }
}

fn exchange(line: usize, text: &str) -> Exchange {
    let value: Value = serde_json::from_str(text).unwrap();
    let (request, response) = (&value["request"], &value["response"]);
    let compressed = response["body_encoding"] == "gzip";
    let describes_framing = |name: &str| match name.to_ascii_lowercase().as_str() {
        "content-length" | "transfer-encoding" | "connection" | "keep-alive" => true,
        "content-encoding" => !compressed, // the recorder has decoded the body
        _ => false,
    };
    let mut response_fields = fields(&response["headers"]);
    response_fields.retain(|(name, _)| !describes_framing(name));
    Exchange {
        line,
        endpoint: text_of(&value["endpoint"]),
        method: text_of(&request["method"]),
        path: text_of(&request["path"]),
        request_fields: fields(&request["headers"]),
        request_body: bytes(&request["body_b64"]),
        status: response["status"].as_u64().unwrap() as u16,
        response_fields,
        response_body: bytes(&response["body_b64"]),
        streaming: value["streaming"] == true,
        usage: Some(value["expected_usage"].clone()).filter(Value::is_object),
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn bytes(value: &Value) -> Vec<u8> {
    value.as_str().map(|text| BASE64_STANDARD.decode(text).unwrap()).unwrap_or_default()
}

fn fields(value: &Value) -> Vec<(String, String)> {
    value.as_array().unwrap().iter().map(|pair| (text_of(&pair[0]), text_of(&pair[1]))).collect()
}
