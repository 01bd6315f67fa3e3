//! The table of evasions: what a user with a budget may try so that a request is not counted, and what comes of it.

use super::target::Answer;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use serde_json::{Value, json};
use std::io::Write;

pub const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
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
    fn new(name: impl Into<String>, target: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
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
    fn comes(self, limited: Comes, free: Comes) -> Self {
        Self { limited, free, ..self }
    }

    fn fields(self, fields: &[(&'static str, &'static str)]) -> Self {
        Self { fields: fields.to_vec(), ..self }
    }

    fn edited(self) -> Self {
        Self { is_edited: true, ..self }
    }

    fn answered(self, answer: Answer) -> Self {
        Self { answer, ..self }
    }
}

/// A request with 28 bytes of text, and these members in place of its own or beside them.
fn body(members: Value) -> Vec<u8> {
    let mut body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "Count to a hundred"}]});
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    body.to_string().into_bytes()
}

fn stream() -> Vec<u8> {
    body(json!({"stream": true}))
}

/// Raw members behind those of a request.
fn raw(members: &str) -> Vec<u8> {
    let start = String::from_utf8(body(json!({}))).unwrap();
    format!("{},{members}}}", start.strip_suffix('}').unwrap()).into_bytes()
}

fn packed(coding: &str, body: &[u8]) -> Vec<u8> {
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
    let parts = [paths(), heads(), encodings(), bodies(), amounts(), prices(), answers(), endpoints()];
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
        streams("stream twice, true at last", r#""stream":false,"stream":true"#),
        Row::new("stream twice, false at last", CHAT, raw(r#""stream":true,"stream":false"#)),
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

fn amounts() -> Vec<Row> {
    let of = |name: &str, members: &str| Row::new(name, CHAT, raw(members));
    let completions = |name: &str, members: Value| Row::new(name, "/v1/completions", members.to_string());
    let instruct = "gpt-3.5-turbo-instruct";
    let numbers: Vec<u64> = (0..8_000).collect();
    let inputs = vec![numbers.clone(); 30];
    vec![
        of("n 20, 1,000 each", r#""n":20,"max_tokens":1000"#),
        of("n as a string", r#""n":"100","max_tokens":1000"#).comes(UNCLEAR, REPORTED),
        of("n as a float", r#""n":100.0,"max_tokens":1000"#).comes(UNCLEAR, REPORTED),
        of("n true", r#""n":true"#).comes(UNCLEAR, REPORTED),
        of("max_output_tokens on chat", r#""max_output_tokens":1"#),
        Row::new("max_tokens on responses", RESPONSES, raw(r#""max_tokens":1"#)),
        of("max_tokens 0", r#""max_tokens":0"#),
        of("max_tokens negative", r#""max_tokens":-1"#),
        of("max_tokens as a string", r#""max_tokens":"16000""#),
        of("max_tokens as a float", r#""max_tokens":1.6e4"#),
        of("max_tokens twice", r#""max_tokens":1,"max_tokens":16000"#),
        of("two maxima", r#""max_tokens":1,"max_completion_tokens":16000"#),
        completions("best_of 20", json!({"model": instruct, "prompt": "x", "best_of": 20, "n": 1, "max_tokens": 4000})),
        completions("100 prompts", json!({"model": instruct, "prompt": vec!["x"; 100], "max_tokens": 2000})),
        completions(
            "100 prompts of tokens",
            json!({"model": instruct, "prompt": vec![vec![1]; 100], "max_tokens": 2000}),
        ),
        of("long keys", &format!(r#""max_tokens":1,"tools":[{{"{}":1}}]"#, "a key ".repeat(30_000))),
        of("long text without a space", &format!(r#""max_tokens":1,"user":"{}""#, "a-word_".repeat(30_000))),
        Row::new(
            "embeddings of numbers",
            "/v1/embeddings",
            json!({"model": "text-embedding-3-large", "input": inputs}).to_string(),
        ),
        Row::new(
            "embeddings of many texts",
            "/v1/embeddings",
            json!({"model": "text-embedding-3-large", "input": vec!["four ".repeat(6_000); 30]}).to_string(),
        ),
        Row::new("10 images", "/v1/images/generations", r#"{"model":"gpt-image-1","prompt":"x","n":10}"#),
    ]
}

fn prices() -> Vec<Row> {
    let chat = |name: &str, members: Value| Row::new(name, CHAT, body(members));
    let responses = |name: &str, members: Value| Row::new(name, RESPONSES, body(members));
    let silent = Answer::Fixed(
        "application/json",
        r#"{"id":"run_1","object":"thread.run","status":"queued","usage":null}"#,
        200_000_000,
    );
    vec![
        chat("a name without a price", json!({"model": "alias"})).comes(UNMETERED, REPORTED),
        chat("a name with a space", json!({"model": "gpt-4o "})).comes(UNMETERED, REPORTED),
        chat("a name with a zero byte", json!({"model": "gpt-4o\0"})).comes(UNMETERED, REPORTED),
        chat("no name", json!({"model": null})).comes(UNMETERED, REPORTED),
        chat("service_tier scale", json!({"service_tier": "scale"})).comes(UNMETERED, REPORTED),
        chat("service_tier flex, which it has not", json!({"service_tier": "flex"})).comes(UNMETERED, REPORTED),
        chat("service_tier priority", json!({"service_tier": "priority"})),
        Row::new("a deployment", "/openai/deployments/d/chat/completions?api-version=1", body(json!({}))),
        chat("web_search_options", json!({"web_search_options": {}, "max_tokens": 16})),
        chat(
            "audio of before",
            json!({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}], "max_tokens": 16}),
        ),
        chat(
            "an image",
            json!({"messages": [{"content": [{"image_url": {"url": "https://a.test"}}]}], "max_tokens": 16}),
        ),
        responses("a tool at the target", json!({"tools": [{"type": "web_search"}], "max_output_tokens": 16})),
        responses("a tool that makes images", json!({"tools": [{"type": "image_generation"}]})),
        responses("previous_response_id", json!({"previous_response_id": "resp_0", "max_output_tokens": 16})),
        responses(
            "item_reference",
            json!({"input": [{"type": "item_reference", "id": "msg_1"}], "max_output_tokens": 16}),
        ),
        responses("an item by its id", json!({"input": [{"id": "msg_1"}], "max_output_tokens": 16})),
        responses("background", json!({"background": true})).comes(ESTIMATED, UNKNOWN),
        responses("background \"true\"", json!({"background": "true"})).comes(ESTIMATED, UNKNOWN),
        responses("background []", json!({"background": []})).comes(UNCLEAR, UNKNOWN),
        Row::new("a run of an assistant", "/v1/threads/t/runs", r#"{"assistant_id":"a"}"#)
            .answered(silent.clone())
            .comes(UNMETERED, UNKNOWN),
        Row::new("a run of a model", "/v1/threads/t/runs", r#"{"assistant_id":"a","model":"gpt-4o"}"#)
            .answered(silent.clone())
            .comes(UNKNOWN, UNKNOWN),
        Row::new("a run that goes on", "/v1/threads/t/runs/r/submit_tool_outputs", r#"{"tool_outputs":[]}"#)
            .answered(silent)
            .comes(UNMETERED, UNKNOWN),
    ]
}

fn answers() -> Vec<Row> {
    let streamed = |name: &str, answer: Answer| Row::new(name, CHAT, stream()).answered(answer).edited();
    let plain = |name: &str, answer: Answer| Row::new(name, CHAT, body(json!({}))).answered(answer);
    let zeros = Answer::Early(r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#);
    let ones = Answer::Early(r#"{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}"#);
    let leaving = |row: Row, free: Comes| Row { leaves: true, ..row }.comes(Comes::Through("drained"), free);
    vec![
        streamed("a stream called json", Answer::Called("application/json")),
        streamed("a stream called text", Answer::Called("text/plain")),
        streamed("a stream called octet-stream", Answer::Called("application/octet-stream")),
        streamed("a stream called nothing", Answer::Called("")),
        plain("json called a stream", Answer::Called("text/event-stream")),
        plain("json called html", Answer::Called("text/html")),
        plain("json called nothing", Answer::Called("")),
        plain("gzip that was not asked for", Answer::Gzip("gzip")),
        plain("gzip called br", Answer::Gzip("br")).comes(UNKNOWN, UNKNOWN),
        streamed("a gzip stream that was not asked for", Answer::Gzip("gzip")),
        streamed("a gzip stream called br", Answer::Gzip("br")).comes(UNKNOWN, UNKNOWN),
        streamed("a stream that never reports", Answer::Silent).comes(ESTIMATED, ESTIMATED),
        streamed("zeros at first, and a cut", zeros).comes(ESTIMATED, ESTIMATED),
        streamed("ones at first, and a cut", ones).comes(ESTIMATED, ESTIMATED),
        leaving(streamed("a stream that is left", Answer::Honest), ESTIMATED),
        leaving(plain("json that is left", Answer::Honest), UNKNOWN),
        leaving(Row::new("responses that are left", RESPONSES, stream()), ESTIMATED),
    ]
}

fn endpoints() -> Vec<Row> {
    const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=b");
    const USD: u64 = 200_000_000;
    let field = |(name, value): &(&str, &str)| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let form = |fields: &[(&str, &str)]| fields.iter().map(field).collect::<String>() + "--b--\r\n";
    let heard = |name: &str, path: &str, fields: &[(&str, &str)], kind: &'static str, text: &'static str, cost| {
        Row::new(name, path, form(fields)).fields(&[FORM]).answered(Answer::Fixed(kind, text, cost))
    };
    let silent = |name: &str, path: &str, text: &str| {
        let answer = Answer::Fixed("application/json", r#"{"id":"x_1","object":"x","status":"queued"}"#, USD);
        Row::new(name, path, text).answered(answer).comes(UNMETERED, UNKNOWN)
    };
    let words = "/v1/audio/transcriptions";
    let sound = Answer::Fixed("audio/mpeg", "ID3ID3", USD);
    // gpt-4o-mini-tts: 10 micro-dollars a token of sound.
    let spoken = "data: {\"type\":\"speech.audio.done\",\"usage\":{\"input_tokens\":0,\"output_tokens\":1000,\"total_tokens\":1000}}\n\n";
    let minute = r#"{"text":"hello","usage":{"type":"duration","seconds":60}}"#;
    let twenty = r#"{"text":"hello","usage":{"type":"duration","seconds":1200}}"#;
    let disposition = "Content-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"";
    let sound_file = format!("--b\r\n{disposition}\r\n\r\n{}\r\n--b--", "sound".repeat(200_000));
    let whisper = ("model", "whisper-1");
    vec![
        silent("videos", "/v1/videos", r#"{"model":"sora-2-pro","prompt":"x"}"#),
        // What it costs, its retrievals say.
        silent("batches", "/v1/batches", r#"{"input_file_id":"f","endpoint":"/v1/chat/completions"}"#)
            .answered(Answer::Fixed("application/json", r#"{"id":"batch_1","object":"batch","usage":null}"#, 0))
            .comes(UNMETERED, Comes::Through("none")),
        silent("evals runs", "/v1/evals/e/runs", "{}"),
        silent("fine-tuning", "/v1/fine_tuning/jobs", r#"{"model":"gpt-4o"}"#),
        silent("client secrets", "/v1/realtime/client_secrets", "{}"),
        silent("realtime calls", "/v1/realtime/calls", "v=0"),
        silent("containers", "/v1/containers", "{}"),
        silent("an unknown path", "/v1/rerank", "{}"),
        silent("an unknown path behind a free one", "/v1/files/x/rerank", "{}"),
        Row::new("speech as a file", "/v1/audio/speech", r#"{"model":"gpt-4o-mini-tts","input":"x"}"#)
            .answered(sound.clone())
            .comes(UNMETERED, UNKNOWN),
        Row::new(
            "speech as a file, called sse by mistake",
            "/v1/audio/speech",
            r#"{"model":"gpt-4o-mini-tts","stream_format":["sse"]}"#,
        )
        .answered(sound)
        .comes(UNMETERED, UNKNOWN),
        Row::new(
            "speech as events",
            "/v1/audio/speech",
            r#"{"model":"gpt-4o-mini-tts","input":"x","stream_format":"sse"}"#,
        )
        .answered(Answer::Fixed("text/event-stream", spoken, 10_000_000)),
        Row::new("a form, compressed", words, packed("gzip", form(&[whisper]).as_bytes()))
            .fields(&[FORM, ("content-encoding", "gzip")])
            .answered(Answer::Fixed("application/json", minute, 6_000_000))
            .comes(UNCLEAR, REPORTED),
        Row::new("twenty minutes", words, form(&[whisper]).replace("--b--", &sound_file))
            .fields(&[FORM])
            .answered(Answer::Fixed("application/json", twenty, 120_000_000)),
        Row { method: "GET", ..Row::new("an unknown socket", "/v1/socket?model=gpt-4o-mini", "") }
            .fields(&[
                ("upgrade", "websocket"),
                ("connection", "upgrade"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "x"),
            ])
            .answered(Answer::Fixed("text/plain", "", USD))
            .comes(UNMETERED, UNKNOWN),
        heard("a transcription", words, &[whisper], "application/json", minute, 6_000_000),
        heard(
            "a transcription as text",
            words,
            &[whisper, ("response_format", "text")],
            "text/plain",
            "hello",
            6_000_000,
        )
        .comes(UNMETERED, UNKNOWN),
        heard("a transcription as srt", words, &[("response_format", "srt"), whisper], "text/plain", "1\n", 6_000_000)
            .comes(UNMETERED, UNKNOWN),
        heard(
            "a transcription as json and text",
            words,
            &[whisper, ("response_format", "json"), ("response_format", "text")],
            "text/plain",
            "hello",
            6_000_000,
        )
        .comes(UNMETERED, UNKNOWN),
        heard(
            "a translation",
            "/v1/audio/translations",
            &[whisper],
            "application/json",
            "{\"text\":\"hello\"}",
            6_000_000,
        )
        .comes(UNMETERED, UNKNOWN),
    ]
}
