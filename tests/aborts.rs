//! Responses that do not come to their end: what is cancelled, what is read on, and how far the record can be trusted.
//! Left to others: what the client sees of a broken response (`faults`), sessions that end early (`realtime/endings`),
//! what a limit gets back (`quotas`).

mod support;

use serde_json::{Value, json};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender};
use support::client::{Client, response_framing};
use support::proxy::Proxy;
use support::script::{Ending, Reply, Step, chunk, gate, tell};
use support::upstream::Upstream;
use support::wire::Framing;
use support::{DEADLINE, api};

/// A request whose text has 28 bytes: the model's name, the role and the content.
const BODY: &[u8] = br#"{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Count to a hundred"}]}"#;
const INPUT_TOKENS: u64 = (6 + 4 + 18_u64).div_ceil(4);

fn event(content: &str) -> Vec<u8> {
    let data = json!({"model": "gpt-4o-2024-08-06", "choices": [{"delta": {"content": content}}]});
    chunk(format!("data: {data}\n\n").as_bytes())
}

/// The rest of a stream, usage included.
fn rest() -> Vec<u8> {
    let usage = json!({"choices": [], "usage": api::chat_usage()});
    [chunk(format!("data: {usage}\n\ndata: [DONE]\n\n").as_bytes()), b"0\r\n\r\n".to_vec()].concat()
}

/// A stream of three events whose client has read them; then comes what `steps` say.
struct Stream {
    _upstream: Upstream,
    proxy: Proxy,
    client: Client,
    framing: Framing,
}

fn stream(vars: &[(&str, &str)], then: Vec<Step>) -> Stream {
    let start = [Reply::sse("").head(), event("one "), event("two "), event("a whole sentence more")].concat();
    let steps = Mutex::new(Some([Step::Send(start)].into_iter().chain(then).collect()));
    let upstream = Upstream::plain(move |_| steps.lock().unwrap().take().expect("one request"));
    let target = upstream.url();
    let proxy = Proxy::start(&[&[("PROXY_TARGET", target.as_str())], vars].concat());
    let mut client = Client::connect(proxy.addr());
    let fields = [("x-user-id", "u"), ("content-type", "application/json")];
    client.send_request("POST", "/v1/chat/completions", &fields, BODY);
    let head = client.head().unwrap().unwrap();
    let framing = response_framing("POST", &head).unwrap();
    let mut stream = Stream { _upstream: upstream, proxy, client, framing };
    stream.read_until("sentence");
    stream
}

impl Stream {
    /// The client reads on until this has come.
    fn read_until(&mut self, text: &str) {
        let mut got = String::new();
        while !got.contains(text) {
            let piece = self.client.body_piece(&mut self.framing).unwrap().expect("the stream goes on");
            got.push_str(&String::from_utf8(piece).unwrap());
        }
    }

    /// The client leaves; returns once the proxy has noticed.
    fn leave(self) -> (Proxy, Upstream) {
        self.client.reset();
        self.proxy.wait_until_left();
        (self.proxy, self._upstream)
    }
}

fn closed_upstream() -> (Receiver<()>, Vec<Step>) {
    let (closed, tell) = tell();
    (closed, vec![Step::AwaitClose, tell])
}

fn gated(last: Step) -> (Sender<()>, Vec<Step>) {
    let (open, wait) = gate();
    (open, vec![wait, last])
}

/// 4, 4 and 21 bytes of output: 29, so 8 tokens.
fn assert_estimated(row: &Value, outcome: &str) {
    assert_eq!((&row["outcome"], &row["usage_source"]), (&json!(outcome), &json!("estimated")), "{row}");
    assert_eq!((&row["input_tokens"], &row["output_tokens"]), (&json!(INPUT_TOKENS), &json!(8)), "{row}");
    assert_eq!(row["total_tokens"], INPUT_TOKENS + 8);
    assert_eq!(row["model"], "gpt-4o-2024-08-06");
    // gpt-4o: 2.5 and 10 USD a million tokens.
    assert_eq!(row["cost_nano_usd"], INPUT_TOKENS * 2_500 + 8 * 10_000);
}

#[test]
fn cancel_ends_the_request_at_once_and_estimates() {
    let (closed, steps) = closed_upstream();
    let (proxy, _upstream) = stream(&[], steps).leave();
    closed.recv_timeout(DEADLINE).expect("the upstream's connection is closed");
    assert_estimated(&proxy.only_row("u"), "client_aborted");
}

#[test]
fn drain_reads_on_for_the_exact_usage() {
    let (open, steps) = gated(Step::Send(rest()));
    let (proxy, _upstream) = stream(&[("ON_CLIENT_ABORT", "drain")], steps).leave();
    assert_eq!(proxy.metrics()["openai_proxy_requests_in_flight"], 1.0, "it is read on");
    open.send(()).unwrap();
    let row = proxy.only_row("u");
    assert_eq!((&row["outcome"], &row["usage_source"]), (&json!("client_aborted"), &json!("drained")));
    assert_eq!(row["input_tokens"], api::chat_usage()["prompt_tokens"]);
    assert_eq!(row["output_tokens"], api::chat_usage()["completion_tokens"]);
    assert_eq!(row["status"], 200);
    assert_eq!(proxy.metrics()["openai_proxy_requests_in_flight"], 0.0);
}

/// Many clients close once they have the last event, and do not wait for the end of the body.
#[test]
fn who_has_the_last_event_and_closes_has_all() {
    for policy in ["cancel", "drain"] {
        let rest = rest();
        let (_open, wait) = gate();
        let last = Step::Send(rest[..rest.len() - b"0\r\n\r\n".len()].to_vec());
        let mut stream = stream(&[("ON_CLIENT_ABORT", policy)], vec![last, wait]);
        stream.read_until("[DONE]");
        let (proxy, _upstream) = stream.leave();
        let row = proxy.only_row("u");
        assert_eq!((&row["outcome"], &row["usage_source"]), (&json!("completed"), &json!("reported")), "{policy}");
        assert_eq!(proxy.usage("user_id=u")["totals"]["errors"], 0);
    }
}

#[test]
fn drain_gives_up_after_its_time_or_when_the_stream_breaks() {
    let (closed, steps) = closed_upstream();
    let (proxy, _upstream) = stream(&[("ON_CLIENT_ABORT", "drain"), ("DRAIN_MAX_SECONDS", "1")], steps).leave();
    closed.recv_timeout(DEADLINE).expect("the upstream's connection is closed in the end");
    assert_estimated(&proxy.only_row("u"), "client_aborted");

    let (open, steps) = gated(Step::Reset);
    let (proxy, _upstream) = stream(&[("ON_CLIENT_ABORT", "drain")], steps).leave();
    open.send(()).unwrap();
    assert_estimated(&proxy.only_row("u"), "client_aborted");
}

#[test]
fn a_stream_that_the_upstream_breaks_is_estimated() {
    let (open, steps) = gated(Step::Reset);
    let stream = stream(&[], steps);
    open.send(()).unwrap();
    assert_estimated(&stream.proxy.only_row("u"), "upstream_error");
}

/// Ollama's own API streams unless told not to.
#[test]
fn lines_that_nobody_had_to_ask_for_are_estimated_too() {
    let (open, wait) = gate();
    let steps = Mutex::new(Some(vec![
        Step::Send(Reply::new(200, "").field("content-type", "application/x-ndjson").ending(Ending::Chunked(1)).head()),
        Step::Send(chunk(b"{\"message\":{\"content\":\"a whole\"},\"done\":false}\n")),
        wait,
        Step::Reset,
    ]));
    let upstream = Upstream::plain(move |_| steps.lock().unwrap().take().expect("one request"));
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url())]);
    let mut client = Client::connect(proxy.addr());
    let fields = [("x-user-id", "u"), ("content-type", "application/json")];
    client.send_request("POST", "/api/chat", &fields, br#"{"model":"llama3","messages":[{"content":"Hello, you"}]}"#);
    let head = client.head().unwrap().unwrap();
    client.body_piece(&mut response_framing("POST", &head).unwrap()).unwrap().expect("a line");
    open.send(()).unwrap();
    let row = proxy.only_row("u");
    assert_eq!((&row["outcome"], &row["usage_source"]), (&json!("upstream_error"), &json!("estimated")), "{row}");
    // 6 and 10 bytes of text, 7 of content.
    assert_eq!((&row["input_tokens"], &row["output_tokens"]), (&json!(4), &json!(2)), "{row}");
}

#[test]
fn what_was_reported_before_the_end_is_not_estimated() {
    for usage in [api::chat_usage(), json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})] {
        let reported = chunk(format!("data: {}\n\n", json!({"choices": [], "usage": usage})).as_bytes());
        let (sent, tell) = tell();
        let (proxy, _upstream) = {
            let stream = stream(&[], vec![Step::Send(reported), tell, Step::AwaitClose]);
            sent.recv_timeout(DEADLINE).unwrap();
            // What was sent has been read once something sent after it has been answered: the scrape of `leave`.
            stream.proxy.metrics();
            stream.leave()
        };
        let row = proxy.only_row("u");
        assert_eq!((&row["outcome"], &row["usage_source"]), (&json!("client_aborted"), &json!("reported")), "{row}");
        assert_eq!(row["output_tokens"], usage["completion_tokens"], "an explicit zero stays zero");
    }
}
