//! Targets that refuse to be asked for a stream's usage, and what asking changes in the stream of those that do not:
//! the client has what it would have had without us.

use super::support::client::{Client, Response, post_json};
use super::support::proxy::Proxy;
use super::support::script::{Ending, Reply, Step, gate, tell};
use super::support::upstream::{SeenRequest, Upstream};
use serde_json::{Value, json};

const PATH: &str = "/v1/chat/completions";
const CHUNK: &str = r#"data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"four words of text"}}]}"#;
const DONE: &str = "data: [DONE]";
const WARNING: &str = "refuses to be asked";
const REFUSAL: &str = r#"{"error":{"message":"Unrecognized request argument supplied: stream_options"}}"#;

fn stream() -> Reply {
    Reply::sse(format!("{CHUNK}\n\n{DONE}\n\n"))
}

fn asks(request: &SeenRequest) -> bool {
    request.json().get("stream_options").is_some()
}

fn ask(proxy: &Proxy, body: &Value) -> Response {
    post_json(proxy.addr(), PATH, &[], &body.to_string())
}

fn warned(mut proxy: Proxy) -> usize {
    proxy.terminate();
    proxy.stderr().matches(WARNING).count()
}

/// Servers that refuse the question (Azure's *On Your Data*, Databricks, older Mistral).
#[test]
fn a_refused_question_is_taken_back_and_not_asked_again() {
    let refusals = [
        Reply::new(400, REFUSAL),
        Reply::new(422, REFUSAL.replace("stream_options", "include_usage")).ending(Ending::Chunked(7)),
        Reply::new(400, REFUSAL).ending(Ending::Close),
    ];
    for refusal in refusals {
        let upstream = Upstream::plain(move |request| if asks(request) { refusal.steps() } else { stream().steps() });
        let proxy = Proxy::before(&upstream, &[]);
        let long = "long ".repeat(10_000);
        let bodies = [json!({"model": "m", "stream": true, "messages": []}), json!({"messages": long, "stream": true})];
        for (body, seen) in bodies.iter().zip([2, 5]) {
            for more in 0..2 {
                assert!(ask(&proxy, body).expect(200).body == stream().body);
                let requests = upstream.requests();
                assert_eq!(requests.len(), seen + more, "asked once, and not again");
                assert!(requests.last().unwrap().body == body.to_string().as_bytes(), "as its client wrote it");
            }
        }
        // A request that is refused for more than that is asked; so are those for another model, or with other members.
        ask(&proxy, &json!({"model": "other", "stream": true, "messages": []})).expect(200);
        ask(&proxy, &json!({"model": "m", "stream": true, "messages": [], "data_sources": []})).expect(200);
        assert_eq!(upstream.requests().len(), 10);
        let answer = proxy.usage("user_id=anonymous");
        let rows = answer["data"].as_array().unwrap();
        assert_eq!(rows.len(), 6, "what was sent twice is one request");
        assert!(rows.iter().all(|row| row["usage_source"] == "estimated" && row["status"] == 200), "{answer}");
        assert_eq!(warned(proxy), 4);
    }
}

#[test]
fn an_answer_that_refuses_something_else_is_the_clients() {
    let long = format!(r#"{{"stream_options":"{}"}}"#, "x".repeat(70_000));
    let answers = [
        Reply::new(400, r#"{"error":{"message":"no such model"}}"#),
        Reply::new(422, r#"{"error":{"message":"no"}}"#).ending(Ending::Chunked(3)),
        Reply::new(400, "no").ending(Ending::Close),
        Reply::new(400, ""),
        Reply::new(400, long),
        Reply::new(401, REFUSAL),
    ];
    for answer in answers {
        let reply = answer.clone();
        let upstream = Upstream::plain(move |_| reply.steps());
        let proxy = Proxy::before(&upstream, &[]);
        let got = ask(&proxy, &json!({"model": "m", "stream": true}));
        assert_eq!((got.head.status(), &got.body), (answer.status, &answer.body));
        assert_eq!(upstream.requests().len(), 1);
        assert_eq!(proxy.only_row("anonymous")["usage_source"], "none");
    }
}

/// Whoever can have a request refused could otherwise have others' streams go unreported.
#[test]
fn what_is_refused_without_the_question_too_is_not_remembered() {
    let upstream = Upstream::plain(|request| {
        let fails = request.json().get("fail").is_some();
        if fails { Reply::new(400, REFUSAL).steps() } else { stream().steps() }
    });
    let proxy = Proxy::before(&upstream, &[]);
    ask(&proxy, &json!({"model": "m", "stream": true, "fail": true})).expect(400);
    ask(&proxy, &json!({"model": "m", "stream": true, "fail": true})).expect(400);
    ask(&proxy, &json!({"model": "m", "stream": true})).expect(200);
    assert_eq!(upstream.requests().iter().map(asks).collect::<Vec<_>>(), [true, false, true, false, true]);
    assert_eq!(warned(proxy), 0);
}

/// The answer is held, its client goes: nothing is sent again for nobody.
#[test]
fn a_client_that_leaves_before_the_refusal_is_told_has_one_request() {
    let (told, tells) = tell();
    let (open, wait) = gate();
    let steps = std::sync::Mutex::new(Some((tells, wait)));
    let upstream = Upstream::plain(move |_| {
        let refusal = Reply::new(400, REFUSAL);
        let (tells, wait) = steps.lock().unwrap().take().expect("one request");
        vec![Step::Send(refusal.head()), tells, wait, Step::Send(refusal.framed_body())]
    });
    let proxy = Proxy::before(&upstream, &[("ON_CLIENT_ABORT", "drain")]);
    let mut client = Client::connect(proxy.addr());
    client.send_request("POST", PATH, &[], br#"{"model":"m","stream":true}"#);
    told.recv().unwrap();
    client.reset();
    proxy.wait_until_left();
    open.send(()).unwrap();
    assert_eq!(proxy.only_row("anonymous")["outcome"], "client_aborted");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn where_usage_is_never_asked_for_nothing_is_asked_and_nothing_taken_out() {
    // As a server sends it unasked, in the form that asking brings.
    let usage = r#"data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7}}"#;
    let body = format!("{CHUNK}\n\n{usage}\n\n{DONE}\n\n");
    let reply = Reply::sse(body.clone());
    let upstream = Upstream::plain(move |_| reply.steps());
    let proxy = Proxy::before(&upstream, &[("STREAM_USAGE", "never")]);
    let request = json!({"model": "m", "stream": true});
    assert!(ask(&proxy, &request).expect(200).body == body.as_bytes());
    assert_eq!(upstream.requests()[0].json(), request);
    let row = proxy.only_row("anonymous");
    assert_eq!((&row["usage_source"], &row["total_tokens"]), (&json!("reported"), &json!(12)));
}

/// llama.cpp's timings stand on the finish chunk where nobody asks, on the usage chunk where somebody does.
#[test]
fn what_asking_moves_to_the_usage_chunk_goes_back_where_it_was() {
    const FINISH: &str = r#"{"id":"c","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]"#;
    const TIMINGS: &str = r#""timings":{"predicted_n":3,"predicted_ms":16.2}"#;
    let ends = |asked: bool| {
        let usage = r#"{"id":"c","model":"m","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7}"#;
        let documents = if asked {
            vec![format!("{FINISH}}}"), format!("{usage},{TIMINGS}}}")]
        } else {
            vec![format!("{FINISH},{TIMINGS}}}")]
        };
        documents.iter().map(|document| format!("data: {document}\n\n")).collect::<String>()
    };
    let body = move |asked| format!("{CHUNK}\n\n{}{DONE}\n\n", ends(asked));
    for ending in [Ending::Length, Ending::Chunked(50), Ending::Chunked(1 << 20)] {
        let upstream = Upstream::plain(move |request| Reply::sse(body(asks(request))).ending(ending).steps());
        let proxy = Proxy::before(&upstream, &[]);
        let got = ask(&proxy, &json!({"model": "m", "stream": true})).expect(200);
        assert_eq!(got.text(), body(false));
        assert_eq!(proxy.only_row("anonymous")["total_tokens"], 12);
    }
    // They come one after the other: what came first is not held back for the other.
    let (open, wait) = gate();
    let wait = std::sync::Mutex::new(Some(wait));
    let upstream = Upstream::plain(move |_| {
        let reply = Reply::sse("").ending(Ending::Close);
        let whole = body(true);
        let (first, second) =
            whole.split_at(whole.find("data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[],").unwrap());
        let wait = wait.lock().unwrap().take().expect("one request");
        vec![Step::Send(reply.head()), Step::Send(first.into()), wait, Step::Send(second.into()), Step::Close]
    });
    let proxy = Proxy::before(&upstream, &[]);
    let mut client = Client::connect(proxy.addr());
    client.send_request("POST", PATH, &[], br#"{"model":"m","stream":true}"#);
    let head = client.head().unwrap().expect("an answer");
    let mut framing = super::support::client::response_framing("POST", &head).unwrap();
    let mut got = String::new();
    while !got.contains("stop") {
        got += std::str::from_utf8(&client.body_piece(&mut framing).unwrap().expect("more")).unwrap();
    }
    open.send(()).unwrap();
    while let Some(piece) = client.body_piece(&mut framing).unwrap() {
        got += std::str::from_utf8(&piece).unwrap();
    }
    let alone = format!(
        r#"data: {{"id":"c","model":"m","choices":[{{"index":0,"delta":{{}},"finish_reason":null}}],{TIMINGS}}}"#
    );
    assert_eq!(got, format!("{CHUNK}\n\ndata: {FINISH}}}\n\n{alone}\n\n{DONE}\n\n"));
}
