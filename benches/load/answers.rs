//! The bytes of the mock's answers: a plain completion, and a streamed one in the pieces in which it is written.
//!
//! In: nothing. Out: HTTP messages, and how long their bodies are, for who checks them. Never: an answer that differs
//! from one request to the next.

/// The JSON answer's body.
pub const COMPLETION: &str = concat!(
    r#"{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion","created":1741569952,"#,
    r#""model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"The quick brown fox jumps "#,
    r#"over the lazy dog near the river bank while the morning sun rises slowly above the hills.","refusal":null},"#,
    r#""logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":32,"total_tokens":51,"#,
    r#""prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}},"#,
    r#""service_tier":"default","system_fingerprint":"fp_abc123"}"#
);
/// How a streamed answer's body ends.
pub const STREAM_END: &str = "data: [DONE]\n\n";

const TOKEN: &str = r#"[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}],"usage":null"#;
const STOP: &str = r#"[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null"#;
const USAGE: &str = r#"[],"usage":{"prompt_tokens":19,"completion_tokens":20,"total_tokens":39}"#;

/// Both answers, made once.
pub struct Answers {
    pub json: Vec<u8>,
    /// A stream's head and first content chunk, one write.
    pub first: Vec<u8>,
    /// Every other content chunk.
    pub content: Vec<u8>,
    /// All that comes after the last.
    pub end: Vec<u8>,
}

impl Answers {
    pub fn new() -> Self {
        let json = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_0123456789abcdef\r\n\
             Content-Length: {}\r\n\r\n{COMPLETION}",
            COMPLETION.len()
        );
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
                    x-request-id: req_0123456789abcdef\r\nTransfer-Encoding: chunked\r\n\r\n";
        let content = chunk(&event(TOKEN));
        let first = [head.as_bytes(), &content].concat();
        let end = [chunk(&event(STOP)), chunk(&event(USAGE)), chunk(STREAM_END), b"0\r\n\r\n".to_vec()].concat();
        Self { json: json.into_bytes(), first, content, end }
    }
}

/// Length of a streamed answer's body, its framing not counted: of its end, and of each content chunk.
pub fn stream_bytes() -> (u64, u64) {
    let end = event(STOP).len() + event(USAGE).len() + STREAM_END.len();
    (end as u64, event(TOKEN).len() as u64)
}

fn event(choices: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion.chunk\",\
         \"created\":1741569952,\"model\":\"gpt-4o-mini\",\"system_fingerprint\":\"fp_abc123\",\"choices\":{choices}}}\n\n"
    )
}

fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}
