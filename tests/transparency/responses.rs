//! Responses, against the same upstream without a proxy between: status, headers in their order, body; however the
//! upstream cuts and frames them, and whatever is taken out again on the way.

use super::support::client::{Client, Response};
use super::support::proxy::Proxy;
use super::support::script::{Ending, Reply, Step, chunk, gate};
use super::support::upstream::{SeenRequest, Upstream};
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";
/// Headers of one connection: framing is the proxy's to choose.
const FRAMING: [&str; 4] = ["connection", "keep-alive", "transfer-encoding", "content-length"];

/// Everything of a response that must be the same, in the order and the letters in which it was sent.
pub fn essence(response: &Response) -> (String, Vec<(String, String)>, Vec<u8>) {
    assert_eq!(response.cut, None, "{:?}", response.head);
    let fields = response.head.fields.iter();
    let fields = fields.filter(|(name, _)| !FRAMING.contains(&name.to_ascii_lowercase().as_str()));
    // Of streams and pages, one line is ours.
    let ours = match response.head.get("content-type").and_then(|kind| kind.split(';').next()) {
        Some("text/event-stream") => ("x-accel-buffering", "no"),
        Some("text/html") => ("content-security-policy", "sandbox"),
        _ => ("", ""),
    };
    let fields = fields.filter(|(name, value)| (name.as_str(), value.as_str()) != ours).cloned();
    (response.head.start.clone(), fields.collect(), response.body.clone())
}

/// An answer of the upstream's, and the place where its body is cut in two.
pub struct Made {
    pub reply: Reply,
    pub cut: usize,
}

impl Made {
    /// The reply with its body in two pieces, each written for itself.
    pub fn steps(self) -> Vec<Step> {
        let (first, second) = self.reply.body.split_at(self.cut.min(self.reply.body.len()));
        let piece = |part: &[u8]| match self.reply.ending {
            Ending::Chunked(_) if part.is_empty() => Vec::new(),
            Ending::Chunked(_) => chunk(part),
            _ => part.to_vec(),
        };
        let last: &[u8] = if matches!(self.reply.ending, Ending::Chunked(_)) { b"0\r\n\r\n" } else { b"" };
        let mut steps = vec![
            Step::Send([self.reply.head(), piece(first)].concat()),
            Step::Send([&piece(second)[..], last].concat()),
        ];
        if self.reply.ending == Ending::Close {
            steps.push(Step::Close);
        }
        steps
    }
}

/// The number in a field of the request's.
pub fn number(request: &SeenRequest, name: &str) -> usize {
    request.head.get(name).map_or(0, |value| value.parse().unwrap())
}

/// How a stream is written: line ends.
const CRLF: usize = 1;
/// Comments and other fields among the events.
const COMMENTS: usize = 2;
/// The last event without its blank line.
const OPEN: usize = 4;
/// Usage before the choices of its chunk.
const FIRST: usize = 8;
/// Lone CR for a line end.
const CR: usize = 16;
/// Chunks without choices or with none but something else to say, as of audio, Azure's filters and moderation; some of
/// them behind the one with usage.
const ODD: usize = 32;
/// A byte order mark before all.
const MARK: usize = 64;

fn line_end(shape: usize) -> &'static str {
    match shape {
        shape if shape & CRLF > 0 => "\r\n",
        shape if shape & CR > 0 => "\r",
        _ => "\n",
    }
}

/// A stream of chunks as the API sends it in this shape: with usage, and `null` in all other chunks, where the request
/// asks for it.
fn events(asked: bool, shape: usize) -> String {
    let is = |bit| shape & bit > 0;
    let mut stream = if is(MARK) { "\u{feff}" } else { "" }.to_owned();
    let mut chunk = |members: &str| {
        if is(COMMENTS) {
            stream.push_str(": keep-alive\n\nevent: chunk\nid: 7\n");
        }
        stream.push_str(&match asked {
            true if is(FIRST) => format!("data: {{\"usage\":null,{members}}}\n\n"),
            true => format!("data: {{{members},\"usage\":null}}\n\n"),
            false => format!("data: {{{members}}}\n\n"),
        });
    };
    if is(ODD) {
        chunk(r#""choices":[],"prompt_filter_results":[{"prompt_index":0}]"#);
        chunk(r#""delta":{"audio":{"data":"UklG"}},"latency_checkpoint":{"usage":null}"#);
    }
    for text in ["", "\\\"usage\\\":null", "日本"] {
        chunk(&format!(r#""choices":[{{"delta":"{text}"}}]"#));
    }
    if asked {
        let counted = r#"{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}"#;
        stream.push_str(&format!("data: {{\"choices\":[],\"usage\":{counted}}}\n\n"));
    }
    let mut chunk = |members: &str| {
        let usage = if asked { ",\"usage\":null" } else { "" };
        stream.push_str(&format!("data: {{{members}{usage}}}\n\n"));
    };
    if is(ODD) {
        chunk(r#""delta":{"audio":{"expires_at":1741569952}}"#);
        chunk(r#""choices":[],"moderation":{"flagged":false}"#);
    }
    stream.push_str(if is(OPEN) { "data: [DONE]\n" } else { "data: [DONE]\n\n" });
    stream.replace('\n', line_end(shape))
}

/// The streaming API: the request says by fields of its own how the answer is to be written.
fn stream(request: &SeenRequest) -> Vec<Step> {
    let asked = request.json()["stream_options"]["include_usage"] == true;
    let body = events(asked, number(request, "x-shape"));
    let ending = match number(request, "x-ending") {
        0 => Ending::Chunked(1 << 20),
        1 => Ending::Close,
        _ => Ending::Length,
    };
    Made { reply: Reply::sse(body).ending(ending), cut: number(request, "x-cut") }.steps()
}

fn post(client: &mut Client, target: &str, fields: &[(&str, &str)], body: &str) -> Response {
    let json = [("content-type", "application/json")];
    client.request("POST", target, &[&json, fields].concat(), body.as_bytes())
}

/// The three ways not to ask for usage, and the one to ask.
const OPTIONS: [&str; 5] = [
    "",
    r#","stream_options":{"include_usage":false}"#,
    r#","stream_options":null"#,
    r#","stream_options":{"include_usage":null,"include_obfuscation":false}"#,
    r#","stream_options":{"include_usage":true}"#,
];

#[test]
fn streams_are_the_same_cut_at_every_byte_whoever_asked_for_usage() {
    let upstream = Upstream::plain(stream);
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("RATE_LIMIT_RPM", "0")]);
    let (mut direct, mut through) = (Client::connect(upstream.addr()), Client::connect(proxy.addr()));
    let mut requests = 0;
    let more = [CR, CR | COMMENTS, CR | OPEN, ODD, ODD | CRLF | COMMENTS, ODD | CR | FIRST, MARK, MARK | CRLF | ODD];
    for shape in (0..CR).chain(more) {
        for options in OPTIONS.iter().filter(|options| shape < CR || !options.contains("null")) {
            let target = if shape % 3 == 0 { "/v1/completions" } else { CHAT };
            let body = format!("{{\"model\":\"m\",\"stream\":true{options}}}");
            let shape = shape.to_string();
            let expected = essence(&post(&mut direct, target, &[("x-shape", &shape)], &body).expect(200));
            let asks = options.contains("true");
            assert_eq!(
                String::from_utf8_lossy(&expected.2).contains("prompt_tokens"),
                asks,
                "the upstream is faithful"
            );
            // What the proxy cuts is the stream with usage in it.
            for cut in 0..=events(true, shape.parse().unwrap()).len() {
                let fields = [("x-shape", shape.as_str()), ("x-cut", &cut.to_string())];
                let response = post(&mut through, target, &fields, &body).expect(200);
                assert!(essence(&response) == expected, "shape {shape}, cut at {cut}, {options}:\n{}", response.text());
                requests += 1;
            }
        }
    }
    let totals = &proxy.usage("")["totals"];
    assert_eq!(totals["requests"], json!(requests));
    assert_eq!(totals["input_tokens"], json!(5 * requests), "all are counted, asked for or not");
    assert_eq!(totals["output_tokens"], json!(7 * requests));
    println!("{requests} streams");
}

#[test]
fn streams_are_the_same_in_every_framing() {
    let upstream = Upstream::plain(stream);
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("RATE_LIMIT_RPM", "0")]);
    for ending in ["0", "1", "2"] {
        for options in OPTIONS {
            let body = format!("{{\"model\":\"m\",\"stream\":true{options}}}");
            let fields = [("x-ending", ending), ("x-shape", "2"), ("x-cut", "50")];
            let ask = |addr| post(&mut Client::connect(addr), CHAT, &fields, &body).expect(200);
            assert_eq!(essence(&ask(proxy.addr())), essence(&ask(upstream.addr())), "ending {ending}, {options}");
            // An older client knows no chunks.
            let mut old = Client::connect(proxy.addr());
            let head = format!("POST {CHAT} HTTP/1.0\r\ncontent-type: application/json\r\nx-ending: {ending}\r\n");
            old.send(format!("{head}x-shape: 2\r\nx-cut: 50\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
            let response = old.response("POST").expect(200);
            assert_eq!(response.head.get("transfer-encoding"), None);
            assert_eq!(essence(&response), essence(&ask(upstream.addr())), "to 1.0, ending {ending}, {options}");
        }
    }
}

/// Every event reaches the client before the upstream goes on, edited or not.
#[test]
fn no_event_waits_for_the_next() {
    let shapes = [0, CRLF, COMMENTS, COMMENTS | CRLF, CR, ODD];
    for (options, shape) in OPTIONS.iter().flat_map(|options| shapes.map(|shape| (options, shape))) {
        let blank = line_end(shape).repeat(2);
        let pieces = |asked| -> Vec<String> {
            events(asked, shape).split_inclusive(&blank).map(str::to_owned).collect::<Vec<_>>()
        };
        let asks = options.contains("true");
        let (open, wait): (Vec<_>, Vec<_>) = pieces(true).iter().map(|_| gate()).unzip();
        let waits = std::sync::Mutex::new(Some(wait));
        let sent = pieces(true);
        let upstream = Upstream::plain(move |_| {
            let mut steps = vec![Step::Send(Reply::sse("").head())];
            for (wait, piece) in waits.lock().unwrap().take().unwrap().into_iter().zip(&sent) {
                steps.extend([wait, Step::Send(chunk(piece.as_bytes()))]);
            }
            steps.push(Step::Send(b"0\r\n\r\n".to_vec()));
            steps
        });
        let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url())]);
        let mut client = Client::connect(proxy.addr());
        let body = format!("{{\"model\":\"m\",\"stream\":true{options}}}");
        client.send_request("POST", CHAT, &[("content-type", "application/json")], body.as_bytes());
        let head = client.head().unwrap().unwrap();
        let mut framing = super::support::client::response_framing("POST", &head).unwrap();
        let (mut received, mut expected) = (String::new(), String::new());
        let mut wanted = pieces(asks).into_iter();
        for (gate, piece) in open.into_iter().zip(pieces(true)) {
            gate.send(()).unwrap();
            if !asks && piece.contains("prompt_tokens") {
                continue; // taken out again
            }
            expected.push_str(&wanted.next().unwrap());
            while received.len() < expected.len() {
                let piece =
                    client.body_piece(&mut framing).expect("an event is held back").expect("the stream goes on");
                received.push_str(std::str::from_utf8(&piece).unwrap());
            }
            assert_eq!(received, expected, "{options}");
        }
        assert_eq!(client.body_piece(&mut framing), Ok(None));
    }
}

#[test]
fn answers_without_a_body_are_the_same() {
    let upstream = Upstream::plain(|request| match request.target.as_str() {
        "/none" => Reply::new(204, "").ending(Ending::Nothing).field("x-a", "1").steps(),
        "/same" => {
            let reply = Reply::new(304, "").ending(Ending::Nothing).field("etag", "\"x\"");
            reply.field("content-length", "99").steps()
        }
        // A HEAD's length is that of the body that a GET would have had.
        _ if request.method == "HEAD" => {
            let coding = if request.target == "/chunks" { "transfer-encoding: chunked" } else { "Content-Length: 12" };
            vec![Step::Send(format!("HTTP/1.1 200 Fine\r\n{coding}\r\nx-a: 1\r\n\r\n").into_bytes())]
        }
        _ => Reply::new(200, "next").steps(),
    });
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("RATE_LIMIT_RPM", "0")]);
    let (mut direct, mut through) = (Client::connect(upstream.addr()), Client::connect(proxy.addr()));
    for (method, target) in [
        ("GET", "/none"),
        ("DELETE", "/none"),
        ("GET", "/same"),
        ("HEAD", "/same"),
        ("HEAD", "/length"),
        ("HEAD", "/chunks"),
        ("HEAD", "/none"),
    ] {
        let (expected, response) =
            (direct.request(method, target, &[], b""), through.request(method, target, &[], b""));
        assert_eq!(essence(&response), essence(&expected), "{method} {target}");
        assert_eq!(response.head.get("content-length"), expected.head.get("content-length"), "{method} {target}");
        // The next answer on each connection is the next request's.
        assert_eq!(through.request("GET", "/next", &[], b"").expect(200).text(), "next");
        assert_eq!(direct.request("GET", "/next", &[], b"").expect(200).text(), "next");
    }
    assert_eq!(upstream.connections(), 2, "none of it costs the upstream's connection");
}

/// Requests that come all at once are answered one by one, in their order, each with its own.
#[test]
fn pipelined_answers_are_the_same() {
    let upstream = Upstream::plain(|request| {
        if request.target.starts_with("/v1/chat") {
            stream(request)
        } else {
            Reply::new(200, request.target.clone()).steps()
        }
    });
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("RATE_LIMIT_RPM", "0")]);
    let mut all = Vec::new();
    let body = r#"{"model":"m","stream":true}"#;
    for n in 0..40 {
        let (method, target) = if n % 3 == 0 { ("POST", CHAT.to_owned()) } else { ("GET", format!("/{n}")) };
        let body = if n % 3 == 0 { body.as_bytes() } else { b"" };
        all.extend(super::support::client::request(method, &target, &[("content-type", "application/json")], body));
    }
    let read = |addr| -> Vec<_> {
        let mut client = Client::connect(addr);
        client.send(&all);
        (0..40).map(|_| essence(&client.response("GET").expect(200))).collect()
    };
    let (expected, through) = (read(upstream.addr()), read(proxy.addr()));
    assert_eq!(through, expected);
    assert_eq!(proxy.usage("")["totals"]["requests"], json!(40));
}
