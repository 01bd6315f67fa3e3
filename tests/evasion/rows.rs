//! The table of evasions: what a user with a budget may try so that a request is not counted, and what comes of it. Here
//! by how it is spelled, in `costs` by what it makes the target do.

use super::target::Answer;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use serde_json::{Value, json};
use std::io::Write;

pub const CHAT: &str = "/v1/chat/completions";
pub const RESPONSES: &str = "/v1/responses";
/// Larger than MAX_BODY_BYTES of the proxies that the table is tried on.
pub const BOMB_BYTES: usize = 3 << 20;

/// What comes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comes {
    /// It passes, and its record has this `usage_source`.
    Through(&'static str),
    /// Status and code.
    Refused(u16, &'static str),
}

pub const UNCLEAR: Comes = Comes::Refused(400, "bad_request");
pub const UNMETERED: Comes = Comes::Refused(403, "unmetered");
pub const CODED: Comes = Comes::Refused(415, "unsupported_media_type");
pub const REPORTED: Comes = Comes::Through("reported");
pub const ESTIMATED: Comes = Comes::Through("estimated");
pub const UNKNOWN: Comes = Comes::Through("unknown");

/// One evasion.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub method: &'static str,
    pub target: String,
    pub fields: Vec<(&'static str, &'static str)>,
    pub body: Vec<u8>,
    pub answer: Answer,
    /// The client leaves when the first half of the answer is there.
    pub leaves: bool,
    /// Sent on with one of the two edits, or decoded.
    pub is_edited: bool,
    /// With a budget, and without one.
    pub limited: Comes,
    pub free: Comes,
}

impl Row {
    pub fn new(name: impl Into<String>, target: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.into(),
            method: "POST",
            target: target.into(),
            fields: vec![("content-type", "application/json")],
            body: body.into(),
            answer: Answer::Honest,
            leaves: false,
            is_edited: false,
            limited: REPORTED,
            free: REPORTED,
        }
    }

    /// What comes of it with a budget, and without.
    pub fn comes(self, limited: Comes, free: Comes) -> Self {
        Self { limited, free, ..self }
    }

    pub fn fields(self, fields: &[(&'static str, &'static str)]) -> Self {
        Self { fields: fields.to_vec(), ..self }
    }

    pub fn edited(self) -> Self {
        Self { is_edited: true, ..self }
    }

    pub fn answered(self, answer: Answer) -> Self {
        Self { answer, ..self }
    }
}

/// A request with 28 bytes of text, and these members in place of its own or beside them.
pub fn body(members: Value) -> Vec<u8> {
    let mut body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "Count to a hundred"}]});
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    body.to_string().into_bytes()
}

pub fn stream() -> Vec<u8> {
    body(json!({"stream": true}))
}

/// Raw members behind those of a request.
pub fn raw(members: &str) -> Vec<u8> {
    let start = String::from_utf8(body(json!({}))).unwrap();
    format!("{},{members}}}", start.strip_suffix('}').unwrap()).into_bytes()
}

pub fn packed(coding: &str, body: &[u8]) -> Vec<u8> {
    let level = Compression::fast();
    match coding {
        "gzip" => {
            let mut to = GzEncoder::new(Vec::new(), level);
            to.write_all(body).and_then(|()| to.finish()).unwrap()
        }
        "zlib" => {
            let mut to = ZlibEncoder::new(Vec::new(), level);
            to.write_all(body).and_then(|()| to.finish()).unwrap()
        }
        _ => {
            let mut to = DeflateEncoder::new(Vec::new(), level);
            to.write_all(body).and_then(|()| to.finish()).unwrap()
        }
    }
}

/// All of them. Each has a user of its name.
pub fn all() -> Vec<Row> {
    let parts = [paths(), heads(), encodings(), bodies(), super::costs::all()];
    parts.into_iter().flatten().collect()
}

fn paths() -> Vec<Row> {
    let known = [
        CHAT,
        "/v1/%63hat/completions",
        "/v1/chat/completion%73?a=b",
        "/V1/Chat/Completions",
        "/v1//chat///completions//",
        "/v1/chat;x=1/completions",
        "/v1/chat/completions;jsessionid=1",
        "/v1/chat/completions%3bx",
        "/v1/chat/completions%20",
        "/v1/chat./completions.",
        "/v1/chat/completions.json",
        "/v1/chat/completions%2ejson",
        "/gateway/%e5%A4%AA/chat/completions",
    ];
    let malformed = [
        "/v1/x/../chat/completions",
        "/v1/chat/completions/.",
        "/v1/chat/completions/%2e",
        "/v1/chat/completions/x/..",
        "/v1/..;/v1/chat/completions",
        "/v1/chat%2fcompletions",
        "/v1/chat%5Ccompletions",
        "/v1/chat\\completions",
        "/v1/%2563hat/completions",
        "/v1/chat/completions%00",
        "/v1/chat/completions%23",
        "/v1/chat/completions%zz",
    ];
    let known = known.iter().map(|path| Row::new(format!("path {path}"), *path, body(json!({}))));
    let malformed =
        malformed.iter().map(|path| Row::new(format!("path {path}"), *path, body(json!({}))).comes(UNCLEAR, UNCLEAR));
    known.chain(malformed).collect()
}

fn heads() -> Vec<Row> {
    const JSON: (&str, &str) = ("content-type", "application/json");
    let with =
        |name: &str, fields: &[(&'static str, &'static str)]| Row::new(name, CHAT, stream()).fields(fields).edited();
    let polyglot = r#"{"model":"gpt-4o","x":"+ACI-,+ACI-stream+ACI-:true,+ACI-y+ACI-:+ACI-"}"#;
    let mut rows = vec![
        Row { method: "post", ..Row::new("method post", CHAT, stream()) }.comes(UNCLEAR, UNCLEAR),
        Row { method: "Post", ..Row::new("method Post", CHAT, stream()) }.comes(UNCLEAR, UNCLEAR),
        with("text/plain", &[("content-type", "text/plain")]),
        with("no content-type", &[]),
        with("content-type twice", &[JSON, JSON]),
        with("two content-types", &[JSON, ("content-type", "text/plain")]),
        with("octet-stream", &[("content-type", "application/octet-stream")]),
        with("multipart on chat", &[("content-type", "multipart/form-data; boundary=b")]),
        with("content-encoding identity", &[JSON, ("content-encoding", "identity")]),
        with("charset utf-8", &[("content-type", "application/json; charset=\"UTF-8\"")]),
    ];
    for charset in ["application/json; charset=utf-7", "text/plain;x=y; Charset = \"UTF-7\""] {
        let row = Row::new(format!("charset {charset}"), CHAT, polyglot).fields(&[("content-type", charset)]);
        rows.push(row.answered(Answer::Thought).comes(CODED, ESTIMATED));
    }
    rows
}

fn encodings() -> Vec<Row> {
    let coded = |name: &str, coding: &'static str, body: Vec<u8>| {
        Row::new(name, CHAT, body).fields(&[("content-encoding", coding)])
    };
    let zip = || packed("gzip", &stream());
    let wide = |of: fn(u16) -> [u8; 2], mark: &[u8]| {
        let text = String::from_utf8(stream()).unwrap();
        [mark.to_vec(), text.encode_utf16().flat_map(of).collect()].concat()
    };
    let bomb = [stream(), vec![b' '; BOMB_BYTES]].concat();
    let plain =
        |name: &str, body: Vec<u8>| Row::new(name, CHAT, body).answered(Answer::Thought).comes(UNCLEAR, ESTIMATED);
    vec![
        coded("gzip", "gzip", zip()).edited(),
        coded("x-gzip", "X-GZIP", zip()).edited(),
        coded("gzip of two members", "gzip", [zip(), packed("gzip", b" ")].concat()).edited(),
        coded("deflate, raw", "deflate", packed("raw", &stream())).edited(),
        coded("deflate, zlib", "deflate", packed("zlib", &stream())).edited(),
        coded("br, that is none", "br", stream()).comes(CODED, ESTIMATED),
        coded("zstd, that is none", "zstd", stream()).comes(UNCLEAR, ESTIMATED),
        coded("gzip twice", "gzip, gzip", packed("gzip", &zip())).comes(CODED, ESTIMATED),
        coded("gzip, corrupt", "gzip", zip()[..zip().len() - 4].to_vec()).comes(UNCLEAR, ESTIMATED),
        coded("gzip with a tail", "gzip", [zip(), b"tail".to_vec()].concat()).comes(UNCLEAR, ESTIMATED),
        coded("gzip, a bomb", "gzip", packed("gzip", &bomb)).comes(Comes::Refused(413, "body_too_large"), ESTIMATED),
        Row::new("byte order mark", CHAT, [b"\xef\xbb\xbf".to_vec(), stream()].concat()).edited(),
        plain("two byte order marks", [b"\xef\xbb\xbf\xef\xbb\xbf".to_vec(), stream()].concat()),
        plain("utf-16le", wide(u16::to_le_bytes, b"")),
        plain("utf-16be", wide(u16::to_be_bytes, b"")),
        plain("utf-16le with a mark", wide(u16::to_le_bytes, b"\xff\xfe")),
        plain("utf-16be with a mark", wide(u16::to_be_bytes, b"\xfe\xff")),
        plain("invalid utf-8", [stream()[..20].to_vec(), vec![0xff], stream()[20..].to_vec()].concat())
            .comes(UNCLEAR, REPORTED)
            .edited(),
    ]
}

fn bodies() -> Vec<Row> {
    let deep = |levels: usize| {
        let schema = format!("{}{{}}{}", "{\"not\":".repeat(levels), "}".repeat(levels));
        raw(&format!(
            r#""tools":[{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}],"stream":true"#
        ))
    };
    let padded = |spaces: usize| {
        raw(&format!(r#""stream":true,"stream_options":{{"include_usage":false{}}}"#, " ".repeat(spaces)))
    };
    let streams = |name: &str, members: &str| Row::new(name, CHAT, raw(members)).edited();
    let unclear = |name: &str, body: Vec<u8>, free: Comes| {
        Row::new(name, CHAT, body).answered(Answer::Thought).comes(UNCLEAR, free)
    };
    let single = String::from_utf8(stream()).unwrap().replace('"', "'").into_bytes();
    vec![
        Row::new("nested 130 deep", CHAT, deep(130)).edited(),
        Row::new("nested 1000 deep", CHAT, deep(1000)).edited(),
        Row::new("stream_options padded", CHAT, padded(5_000)).edited(),
        Row::new("stream_options of a megabyte", CHAT, padded(1_000_000)).edited(),
        streams("stream_options null", r#""stream":true,"stream_options":null"#),
        streams(
            "include_usage twice",
            r#""stream":true,"stream_options":{"include_usage":true,"include_usage":false}"#,
        ),
        streams("include_usage escaped", r#""stream":true,"stream_options":{"include\u005fusage":false}"#),
        unclear("stream_options no object", raw(r#""stream":true,"stream_options":[]"#), ESTIMATED),
        unclear("stream_options a number", raw(r#""stream":true,"stream_options":0"#), ESTIMATED),
        unclear(
            "include_usage in capitals",
            raw(r#""stream":true,"stream_options":{"include_usagE":false}"#),
            ESTIMATED,
        )
        .edited(),
        streams("stream 1", r#""stream":1"#),
        streams("stream -0.5", r#""stream":-0.5"#),
        streams("stream \"true\"", r#""stream":"true""#),
        streams("stream \"yes\"", r#""stream":"yes""#),
        unclear("stream \"false\"", raw(r#""stream":"false""#), REPORTED),
        unclear("stream []", raw(r#""stream":[]"#), ESTIMATED),
        unclear("stream {}", raw(r#""stream":{}"#), ESTIMATED),
        streams("stream twice, true at last", r#""stream":false,"stream":true"#).comes(UNCLEAR, REPORTED),
        Row::new("stream twice, false at last", CHAT, raw(r#""stream":true,"stream":false"#)).comes(UNCLEAR, REPORTED),
        streams("an escaped key", r#""str\u0065am":true"#),
        unclear("a key in capitals", raw(r#""Stream":true"#), ESTIMATED),
        unclear("a key with a long s", raw(r#""ſtream":true"#), ESTIMATED),
        unclear("a key with a long s, escaped", raw(r#""\u017ftream":true"#), ESTIMATED),
        unclear("single quotes", single, ESTIMATED),
        unclear("something behind", [stream(), b"}".to_vec()].concat(), ESTIMATED),
        unclear("two documents", [stream(), stream()].concat(), ESTIMATED),
        unclear("something before", [b"x".to_vec(), stream()].concat(), ESTIMATED),
        unclear("an array around it", [b"[".to_vec(), stream(), b"]".to_vec()].concat(), ESTIMATED),
        unclear("NaN", raw(r#""temperature":NaN,"stream":true"#), REPORTED).edited(),
    ]
}
