//! One answer of every kind that each endpoint gives, in the API's own shapes, with what it says of its usage.

use super::script::Reply;
use openai_api_proxy::usage::record::Usage;

/// What the ledger must say of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// It reports this usage.
    Reported(Usage),
    /// Something was consumed, and it does not say how much.
    Unknown,
    /// Nothing was consumed.
    Nothing,
    /// It reports this usage, which counts only if it has not been counted before.
    Once(Usage),
}

impl Counted {
    /// The usage that stands in the answer.
    pub fn usage(self) -> Option<Usage> {
        match self {
            Self::Reported(usage) | Self::Once(usage) => Some(usage),
            Self::Unknown | Self::Nothing => None,
        }
    }
}

/// An answer, and the request that it is for.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The endpoint as the ledger calls it, or what is asked for where it has no name of its own; then the kind.
    pub name: &'static str,
    pub method: &'static str,
    pub target: &'static str,
    pub status: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
    pub counted: Counted,
}

impl Answer {
    /// The endpoint's name in the ledger.
    pub fn endpoint(&self) -> &'static str {
        self.name.split(':').next().unwrap()
    }

    /// The reply, with fields that are easily lost.
    pub fn reply(&self) -> Reply {
        let reply = Reply::new(self.status, self.body.clone()).field("Content-Type", self.content_type);
        let reply = reply.field("Set-Cookie", "a=1; Path=/").field("set-cookie", "b=2").field("X-Odd", "  a  b  ");
        reply.field("X-Request-ID", "req_1").field("date", "Mon, 01 Jan 2024 00:00:00 GMT").field("x-empty", "")
    }
}

/// Five tokens in, seven out.
pub const FIVE_SEVEN: Usage = tokens(5, 7);

/// A usage of so many tokens, and no details.
pub const fn tokens(input_tokens: u64, output_tokens: u64) -> Usage {
    let total_tokens = input_tokens + output_tokens;
    Usage { input_tokens, output_tokens, total_tokens, ..Usage::NOTHING }
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream; charset=utf-8";
const LINES: &str = "application/x-ndjson";
const COMPLETION: &str = r#""usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}"#;
const RESPONSE: &str = r#""usage":{"input_tokens":5,"input_tokens_details":{"cached_tokens":2},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":12}"#;
const IN_RESPONSE: Usage = Usage { cached_input_tokens: 2, reasoning_tokens: 3, ..FIVE_SEVEN };
const IMAGE: &str = r#""usage":{"input_tokens":5,"input_tokens_details":{"text_tokens":1,"image_tokens":4},"output_tokens":7,"output_tokens_details":{"image_tokens":7,"text_tokens":0},"total_tokens":12}"#;
/// What speech puts out is audio, though its usage does not say so.
const SPOKEN: Usage = Usage { output_audio_tokens: 7, ..FIVE_SEVEN };
const IN_IMAGE: Usage = Usage { input_image_tokens: 4, output_image_tokens: 7, images: 1, ..FIVE_SEVEN };

fn post(name: &'static str, target: &'static str, body: impl Into<Vec<u8>>, counted: Counted) -> Answer {
    Answer { name, method: "POST", target, status: 200, content_type: JSON, body: body.into(), counted }
}

/// Events, one a line; a line end of the stream's own follows each part of one.
fn events(documents: &[&str], end: &str) -> Vec<u8> {
    let event = |document: &&str| match document.split_once('|') {
        Some((name, data)) => format!("event: {name}{end}data: {data}{end}{end}"),
        None => format!("data: {document}{end}{end}"),
    };
    documents.iter().map(event).collect::<String>().into_bytes()
}

/// All of them. Names are unique.
pub fn all() -> Vec<Answer> {
    [text(), audio(), images(), others(), retrievals(), errors()].concat()
}

fn text() -> Vec<Answer> {
    let created =
        r#"response.created|{"type":"response.created","response":{"id":"resp_1","usage":null},"sequence_number":0}"#;
    let delta =
        r#"response.output_text.delta|{"type":"response.output_text.delta","delta":"\"usage\":{","obfuscation":"x"}"#;
    let terminal = |kind: &str| {
        format!(
            r#"response.{kind}|{{"type":"response.{kind}","response":{{"id":"resp_1","model":"gpt-5",{RESPONSE}}}}}"#
        )
    };
    let stream = |kind: &str| events(&[created, delta, &terminal(kind)], "\n");
    let response = |name, kind| Answer {
        content_type: EVENTS,
        ..post(name, "/v1/responses", stream(kind), Counted::Reported(IN_RESPONSE))
    };
    vec![
        post(
            "chat/completions",
            "/v1/chat/completions",
            format!(
                "{{\n  \"id\": \"chatcmpl-1\",\n  \"model\": \"m\", \"choices\": [{{\"text\": \"\\\"usage\\\":null 日本\"}}],\n  {COMPLETION}\n}}\n"
            ),
            Counted::Reported(FIVE_SEVEN),
        ),
        post(
            "chat/completions: Azure",
            "//openai/deployments/d/chat/completions?api-version=2024-10-21",
            format!(r#"{{"prompt_filter_results":[{{"prompt_index":0}}],"model":"m",{COMPLETION}}}"#),
            Counted::Reported(FIVE_SEVEN),
        ),
        post(
            "completions",
            "/v1/completions",
            format!(r#"{{"object":"text_completion",{COMPLETION}}}"#),
            Counted::Reported(FIVE_SEVEN),
        ),
        post(
            "responses",
            "/v1/responses",
            format!(r#"{{"id":"resp_1","output":[{{"content":"\"usage\":"}}],{RESPONSE},"metadata":{{"usage":"9"}}}}"#),
            Counted::Reported(IN_RESPONSE),
        ),
        response("responses: stream", "completed"),
        response("responses: incomplete", "incomplete"),
        response("responses: failed", "failed"),
        post(
            "responses/compact",
            "/v1/responses/compact",
            format!(r#"{{"id":"resp_2","object":"response.compaction","output":[],{RESPONSE}}}"#),
            Counted::Reported(IN_RESPONSE),
        ),
        post(
            "embeddings",
            "/v1/embeddings",
            r#"{"object":"list","data":[{"embedding":[0.25,-1e-3]}],"model":"e","usage":{"prompt_tokens":12,"total_tokens":12}}"#,
            Counted::Reported(tokens(12, 0)),
        ),
        post(
            "moderations",
            "/v1/moderations",
            r#"{"id":"modr-1","model":"omni","results":[{"flagged":false}]}"#,
            Counted::Nothing,
        ),
    ]
}

fn audio() -> Vec<Answer> {
    let transcriptions = "/v1/audio/transcriptions";
    let spoken = r#""usage":{"type":"tokens","input_tokens":5,"input_token_details":{"text_tokens":0,"audio_tokens":5},"output_tokens":7,"total_tokens":12}"#;
    let in_spoken = Counted::Reported(Usage { input_audio_tokens: 5, ..FIVE_SEVEN });
    let seconds = Usage { audio_us: 7_500_000, ..tokens(0, 0) };
    let transcript = [
        r#"{"type":"transcript.text.delta","delta":"\"usage\":"}"#,
        &format!(r#"{{"type":"transcript.text.done","text":"a",{spoken}}}"#),
        "[DONE]",
    ];
    let speech = [
        r#"{"type":"speech.audio.delta","audio":"UklGRg=="}"#,
        r#"{"type":"speech.audio.done","usage":{"input_tokens":5,"output_tokens":7,"total_tokens":12}}"#,
    ];
    let plain = "text/plain; charset=utf-8";
    let binary: Vec<u8> = (0..=255).collect();
    vec![
        post("audio/transcriptions", transcriptions, format!(r#"{{"text":"a",{spoken}}}"#), in_spoken),
        post(
            "audio/transcriptions: verbose",
            transcriptions,
            r#"{"task":"transcribe","duration":7.5,"segments":[{"tokens":[1,2]}],"usage":{"type":"duration","seconds":7.5}}"#,
            Counted::Reported(seconds),
        ),
        Answer {
            content_type: plain,
            ..post("audio/transcriptions: text", transcriptions, "\"usage\":{}\r\n", Counted::Unknown)
        },
        Answer {
            content_type: EVENTS,
            ..post("audio/transcriptions: stream", transcriptions, events(&transcript, "\r\n"), in_spoken)
        },
        post("audio/translations", "/v1/audio/translations", r#"{"text":"a"}"#, Counted::Unknown),
        Answer { content_type: "audio/mpeg", ..post("audio/speech", "/v1/audio/speech", binary, Counted::Unknown) },
        Answer {
            content_type: EVENTS,
            ..post("audio/speech: stream", "/v1/audio/speech", events(&speech, "\r\n"), Counted::Reported(SPOKEN))
        },
    ]
}

fn images() -> Vec<Answer> {
    let whole = format!(r#"{{"created":1,"data":[{{"b64_json":"iVBORw0KGgo="}}],{IMAGE}}}"#);
    let stream = |kind: &str| {
        let partial = format!(r#"{kind}.partial_image|{{"type":"{kind}.partial_image","b64_json":"iVBORw0K"}}"#);
        let done = format!(r#"{kind}.completed|{{"type":"{kind}.completed","b64_json":"iVBORw0KGgo=",{IMAGE}}}"#);
        events(&[&partial, &done], "\n")
    };
    let counted = Counted::Reported(IN_IMAGE);
    let streamed = |name, target, kind| Answer { content_type: EVENTS, ..post(name, target, stream(kind), counted) };
    let (generations, edits) = ("/v1/images/generations", "/v1/images/edits");
    vec![
        post("images/generations", generations, whole.clone(), counted),
        streamed("images/generations: stream", generations, "image_generation"),
        post("images/edits", edits, whole.clone(), counted),
        streamed("images/edits: stream", edits, "image_edit"),
        post("images/variations", "/v1/images/variations", whole, counted),
    ]
}

fn others() -> Vec<Answer> {
    let runs = "/v1/threads/thread_1/runs";
    let run = |usage: &str| format!(r#"{{"id":"run_1","object":"thread.run","model":"m","usage":{usage}}}"#);
    let counts =
        r#"{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12,"prompt_token_details":{"cached_tokens":2}}"#;
    let step = r#"{"id":"step_1","object":"thread.run.step","usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#;
    let run_stream = [
        &format!("thread.run.created|{}", run("null")),
        &format!("thread.run.step.completed|{step}"),
        &format!("thread.run.completed|{}", run(counts)),
        "done|[DONE]",
    ];
    let message = r#"{"id":"msg_1","type":"message","model":"claude","content":[{"text":"\"usage\":"}],"usage":{"input_tokens":1,"cache_read_input_tokens":4,"output_tokens":7}}"#;
    let message_stream = [
        r#"message_start|{"type":"message_start","message":{"id":"msg_1","model":"claude","usage":{"input_tokens":1,"cache_read_input_tokens":4,"output_tokens":1}}}"#,
        r#"ping|{"type":"ping"}"#,
        r#"message_delta|{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7}}"#,
        r#"message_stop|{"type":"message_stop"}"#,
    ];
    let lines = "{\"model\":\"m\",\"message\":{\"content\":\"\\\"eval_count\\\":9\"},\"done\":false}\n\
        {\"model\":\"m\",\"done\":true,\"prompt_eval_count\":5,\"eval_count\":7,\"eval_duration\":1}\n";
    let in_run = Counted::Reported(Usage { cached_input_tokens: 2, ..FIVE_SEVEN });
    let in_message = Counted::Reported(Usage { cached_input_tokens: 4, ..FIVE_SEVEN });
    let counted = Counted::Reported(FIVE_SEVEN);
    vec![
        post("threads/runs: queued", runs, run("null"), Counted::Unknown),
        Answer {
            content_type: "text/event-stream",
            ..post("threads/runs: stream", runs, events(&run_stream, "\n"), in_run)
        },
        post("messages", "/v1/messages", message, in_message),
        Answer {
            content_type: EVENTS,
            ..post("messages: stream", "/v1/messages", events(&message_stream, "\n"), in_message)
        },
        Answer { content_type: LINES, ..post("api/chat", "/api/chat", lines, counted) },
        Answer { content_type: LINES, ..post("api/generate", "/api/generate", lines, counted) },
        post(
            "api/generate: whole",
            "/api/generate",
            r#"{"model":"m","done":true,"prompt_eval_count":5,"eval_count":7}"#,
            counted,
        ),
        post("other", "/v1/rerank", r#"{"results":[],"usage":{"prompt_tokens":5,"total_tokens":5}}"#, Counted::Unknown),
    ]
}

/// What was counted when it was created, read again.
fn retrievals() -> Vec<Answer> {
    let stream = format!(
        "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"id\":\"resp_8\",{RESPONSE}}}}}\n\n"
    );
    let whole = |id: &str| format!(r#"{{"id":"{id}","object":"response","status":"completed",{RESPONSE}}}"#);
    let once = Counted::Once(IN_RESPONSE);
    vec![
        Answer { method: "GET", ..post("GET response", "/v1/responses/resp_7", whole("resp_7"), once) },
        Answer {
            method: "GET",
            content_type: EVENTS,
            ..post("GET response: stream", "/v1/responses/resp_8?stream=true&starting_after=4", stream, once)
        },
        post("cancel response", "/v1/responses/resp_9/cancel", whole("resp_9"), once),
    ]
}

fn errors() -> Vec<Answer> {
    let wrong = r#"{"error":{"message":"no \"usage\":{","type":"invalid_request_error","param":null,"code":"x"}}"#;
    let chat = "/v1/chat/completions";
    let html = "<html>\r\n0\r\n\r\n</html>";
    let broken = r#"{"data":["#;
    let refused = r#"{"error":{"message":"no"},"usage":{"type":"duration","seconds":0}}"#;
    vec![
        Answer { status: 400, ..post("chat/completions: 400", chat, wrong, Counted::Nothing) },
        Answer { status: 401, ..post("responses: 401", "/v1/responses", wrong, Counted::Nothing) },
        Answer { status: 404, ..post("embeddings: 404", "/v1/embeddings", wrong, Counted::Nothing) },
        Answer { status: 429, ..post("images/edits: 429", "/v1/images/edits", wrong, Counted::Nothing) },
        Answer { status: 500, ..post("messages: 500", "/v1/messages", wrong, Counted::Nothing) },
        Answer {
            status: 503,
            content_type: "text/html",
            ..post("chat/completions: 503", chat, html, Counted::Nothing)
        },
        post("other: broken", "/v1/models", broken, Counted::Unknown),
        post("other: empty", "/v1/empty", "", Counted::Unknown),
        post("completions: broken", "/v1/completions", broken, Counted::Unknown),
        Answer { status: 502, ..post("completions: 502", "/v1/completions", "", Counted::Nothing) },
        Answer {
            status: 400,
            ..post("audio/transcriptions: 400", "/v1/audio/transcriptions", refused, Counted::Reported(tokens(0, 0)))
        },
    ]
}
