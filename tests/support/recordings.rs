//! Recorded exchanges with the real API, read from beside the project where they are, never copied into it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
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

/// The exchanges of `../shared/recorded/FILE`, `None` where the file is not there.
pub fn read(file: &str) -> Option<Vec<Exchange>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/recorded").join(file);
    let lines = BufReader::new(flate2::read::GzDecoder::new(std::fs::File::open(path).ok()?)).lines();
    Some(lines.enumerate().map(|(i, line)| exchange(i + 1, &line.unwrap())).collect())
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
