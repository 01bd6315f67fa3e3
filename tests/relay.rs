//! How messages pass through the binary: every framing, both ways, as soon as it comes, over connections that are kept.
//! Left to others: that answers are the same as without a proxy, byte for byte (`transparency`), breaches of HTTP
//! (`smuggling`), what goes wrong (`faults`), WebSockets (`realtime`), other people's clients (`clients`, `sdk`).

mod support;

use serde_json::{Value, json};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use support::ca::{Ca, Server};
use support::client::{Client, get, post_json, request, response_framing};
use support::proxy::{Proxy, scripted};
use support::script::{Ending, Reply, Step, chunk};
use support::upstream::{Options, SeenRequest, Upstream};
use support::{DEADLINE, api};

const CHAT: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}"#;

/// An upstream that answers every request with its own body, and the proxy before it.
fn echo() -> (Upstream, Proxy) {
    let upstream = Upstream::plain(|request| Reply::new(200, request.body.clone()).steps());
    let proxy = Proxy::before(&upstream, &[]);
    (upstream, proxy)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i ^ (i >> 8) ^ (i >> 15)) as u8).collect()
}

#[test]
fn a_chat_over_tls_is_answered_and_counted() {
    let ca = Ca::new();
    let config = ca.server(&["localhost", "127.0.0.1"], Server::Usual);
    let upstream = Upstream::tls(config, |request| api::answer(request).steps());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    // By name, as of a real target: the certificate names it, and an address of it that does not listen is passed over.
    let target = upstream.url().replace("127.0.0.1", "localhost");
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &target), ("TLS_CA_FILE", "ca.pem")]);
    let fields = [("X-User-ID", "user123"), ("authorization", "Bearer sk-of-the-client")];
    let response = post_json(proxy.addr(), "/v1/chat/completions", &fields, CHAT).expect(200);
    assert_eq!(response.json()["usage"], api::chat_usage());

    let seen = &upstream.requests()[0];
    assert_eq!(seen.body, CHAT.as_bytes());
    assert_eq!(seen.head.get("authorization"), Some("Bearer sk-of-the-client"));
    assert_eq!(seen.head.get("x-user-id"), None);
    let usage = proxy.usage("user_id=user123");
    assert_eq!(usage["totals"]["input_tokens"], api::chat_usage()["prompt_tokens"]);
    assert_eq!(usage["totals"]["output_tokens"], api::chat_usage()["completion_tokens"]);
    let metrics = proxy.metrics();
    for (kind, tokens) in [("input", 19.0), ("cached_input", 4.0), ("output", 10.0), ("reasoning", 3.0)] {
        let of_kind = |name: &&String| {
            let label = |text: &str| name.contains(text);
            label("openai_proxy_tokens_total{") && label("user=\"user123\"") && label(&format!("type=\"{kind}\""))
        };
        let sum: f64 = metrics.iter().filter(|(name, _)| of_kind(name)).map(|(_, value)| value).sum();
        assert_eq!(sum, tokens, "{kind}");
    }
}

/// Opens one gate after the other, and waits for each event before the next may be sent.
fn each_event_before_the_next(request_body: &str, target: &str, sent: &[&str], seen: &[&str]) {
    let events: Vec<&[u8]> = sent.iter().map(|event| event.as_bytes()).collect();
    let (gates, steps) = Reply::sse("").steps_gated(&events);
    let steps = Mutex::new(Some(steps));
    let (_upstream, proxy) = scripted(&[], move |_| steps.lock().unwrap().take().unwrap());
    let mut client = Client::connect(proxy.addr());
    client.send_request("POST", target, &[("content-type", "application/json")], request_body.as_bytes());
    let head = client.head().unwrap().unwrap();
    let mut framing = response_framing("POST", &head).unwrap();
    for (gate, expected) in gates.iter().zip(seen) {
        gate.send(()).unwrap();
        let mut got = Vec::new();
        while got.len() < expected.len() {
            got.extend(client.body_piece(&mut framing).unwrap().expect("the stream goes on"));
        }
        assert_eq!(String::from_utf8(got).unwrap(), *expected);
    }
    assert_eq!(client.body_piece(&mut framing), Ok(None));
}

#[test]
fn events_pass_as_they_come_even_in_halves() {
    let sent = [
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\"}}\n\n",
        "event: response.output_text.delta\ndata: {\"type\":\"response.outp",
        "ut_text.delta\",\"delta\":\"x\"}\n",
        "\n",
        ": a comment\n\n",
        "event: response.completed\r\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":null}}\r\n\r\n",
    ];
    each_event_before_the_next(r#"{"model":"gpt-4.1","stream":true}"#, "/v1/responses", &sent, &sent);
}

#[test]
fn edited_events_pass_as_they_come() {
    let chunk = |usage: &str| {
        let text = r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":"x"}}]USAGE}"#;
        text.replace("USAGE", usage) + "\n\n"
    };
    let (plain, edited) = (chunk(""), chunk(r#","usage":null"#));
    let done = "data: [DONE]\n\n";
    let sent = [&*edited, &edited, &edited, done];
    let body = r#"{"model":"gpt-4o","messages":[],"stream":true}"#;
    each_event_before_the_next(body, "/v1/chat/completions", &sent, &[&plain, &plain, &plain, done]);
}

/// A name in the encoding of RFC 8187, which a client can send that sends ASCII only. However its header is spelt, and
/// whatever `Connection` says of it, it counts and stays here.
#[test]
fn an_encoded_name_is_the_same_user() {
    let (upstream, proxy) = scripted(&[], |request| api::answer(request).steps());
    for fields in [
        &[("X-User-ID*", "UTF-8''%E5%A4%AA%E9%83%8E")][..],
        &[("x-uSER-id*", "utf-8'ja'%e5%a4%aa%e9%83%8e"), ("connection", "X-User-ID*, x-user-id")],
        &[("x-user-id", "太郎"), ("connection", "X-User-ID")],
    ] {
        post_json(proxy.addr(), "/v1/chat/completions", fields, CHAT).expect(200);
    }
    for seen in upstream.requests() {
        assert!(seen.head.fields.iter().all(|(name, _)| !name.to_lowercase().starts_with("x-user-id")), "{seen:?}");
    }
    assert_eq!(proxy.usage("user_id=%E5%A4%AA%E9%83%8E")["totals"]["requests"], 3);
    assert_eq!(proxy.usage("user_id=anonymous")["totals"]["requests"], 0);
}

#[test]
fn heads_are_edited_as_promised_and_not_else() {
    let (upstream, proxy) = scripted(&[("OPENAI_API_KEY", "sk-of-the-operator")], |_| {
        let reply = Reply::new(200, "ok").field("Set-Cookie", "a=1").field("set-cookie", "b=2");
        let reply = reply.field("Keep-Alive", "timeout=5").field("X-Hop", "1").field("Connection", "x-hop");
        reply.field("X-Odd", "  spaces inside \"and\" quotes ").field("date", "Tue, 01 Jan 2030 00:00:00 GMT").steps()
    });
    let fields = [
        ("X-First", "1"),
        ("Authorization", "Bearer sk-of-the-client"),
        ("connection", "X-Mine, authorization, content-length, host, keep-alive"),
        ("x-mine", "dropped"),
        ("keep-alive", "timeout=1"),
        ("te", "trailers"),
        ("proxy-connection", "keep-alive"),
        ("X-USER-ID", "太郎"),
        ("x-twice", "a"),
        ("X-Twice", "b"),
        ("x-last", "z"),
    ];
    let response = Client::connect(proxy.addr()).request("POST", "/v1/any?q=%20a&b", &fields, b"body").expect(200);
    let seen = &upstream.requests()[0];
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str(), &seen.body[..]),
        ("POST", "/v1/any?q=%20a&b", &b"body"[..])
    );
    assert_eq!(seen.head.get("host"), Some(upstream.addr().to_string().as_str()));
    assert_eq!(seen.head.get("authorization"), Some("Bearer sk-of-the-operator"));
    for gone in ["connection", "x-mine", "keep-alive", "te", "proxy-connection", "x-user-id"] {
        assert_eq!(seen.head.all(gone), Vec::<&str>::new(), "{gone}");
    }
    let kept: Vec<_> = seen.head.fields.iter().filter(|(n, _)| n.to_lowercase().starts_with("x-")).cloned().collect();
    let expected = [("X-First", "1"), ("x-twice", "a"), ("X-Twice", "b"), ("x-last", "z")];
    assert_eq!(kept, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));

    assert_eq!(response.head.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(response.head.get("x-odd"), Some("spaces inside \"and\" quotes"));
    assert_eq!(response.head.all("date"), ["Tue, 01 Jan 2030 00:00:00 GMT"]);
    for gone in ["keep-alive", "x-hop"] {
        assert_eq!(response.head.get(gone), None, "{gone}");
    }
    assert_eq!(proxy.usage("user_id=%E5%A4%AA%E9%83%8E")["totals"]["requests"], 1);
}

#[test]
fn a_response_that_is_read_comes_in_a_coding_that_can_be_read() {
    let (upstream, proxy) = scripted(&[], |request| api::answer(request).steps());
    for accepted in ["gzip, deflate, br, zstd", "br"] {
        post_json(proxy.addr(), "/v1/chat/completions", &[("accept-encoding", accepted)], CHAT).expect(200);
    }
    let seen = upstream.requests();
    assert_eq!(seen[0].head.get("accept-encoding"), Some("gzip"));
    assert!(matches!(seen[1].head.get("accept-encoding"), None | Some("identity")), "{:?}", seen[1].head);
    // A compressed stream could not have its traces of our asking removed; one whose client asked itself may be.
    for (options, coding) in [("", "identity"), (r#","stream_options":{"include_usage":true}"#, "gzip")] {
        let body = format!("{{\"model\":\"gpt-4o\",\"stream\":true{options}}}");
        post_json(proxy.addr(), "/v1/chat/completions", &[("accept-encoding", "gzip")], &body).expect(200);
        assert_eq!(upstream.requests().last().unwrap().head.get("accept-encoding"), Some(coding));
    }
}

#[test]
fn connections_are_kept_on_both_sides() {
    let (upstream, proxy) = echo();
    let mut client = Client::connect(proxy.addr());
    for n in 0..20 {
        let body = pattern(n * 100);
        assert_eq!(client.request("POST", "/v1/x", &[], &body).expect(200).body, body);
    }
    assert_eq!(get(proxy.addr(), "/v1/y").expect(200).body, b"");
    assert_eq!((upstream.requests().len(), upstream.connections()), (21, 1));
    let answer = client.request("GET", "/v1/x", &[("connection", "close")], b"").expect(200);
    assert_eq!(answer.head.get("connection").map(str::to_lowercase).as_deref(), Some("close"));
    assert_eq!(client.expect_end(), Ok(()));
}

#[test]
fn tls_sessions_are_resumed() {
    let ca = Ca::new();
    let config = ca.server(&["127.0.0.1"], Server::Usual);
    let upstream = Upstream::tls(config, |_| Reply::new(200, "x").ending(Ending::Close).steps());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &upstream.url()), ("TLS_CA_FILE", "ca.pem")]);
    for _ in 0..3 {
        assert_eq!(get(proxy.addr(), "/v1/x").expect(200).body, b"x");
    }
    assert_eq!((upstream.connections(), upstream.resumed()), (3, 2));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (upstream, proxy) = echo();
    let mut client = Client::connect(proxy.addr());
    let mut bytes = Vec::new();
    for n in 0..10 {
        bytes.extend(request("POST", "/v1/x", &[], format!("body {n}").as_bytes()));
        bytes.extend(request("GET", "/healthz", &[], b""));
    }
    client.send(bytes);
    for n in 0..10 {
        assert_eq!(client.response("POST").expect(200).text(), format!("body {n}"));
        client.response("GET").expect(200);
    }
    assert_eq!(upstream.requests().len(), 10);
}

#[test]
fn chunked_uploads_arrive_whole() {
    let (upstream, proxy) = echo();
    let body = pattern(300_000);
    let mut bytes = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    bytes.extend(b"5;name=value\r\nhello\r\n");
    body.chunks(7777).for_each(|part| bytes.extend(chunk(part)));
    bytes.extend(b"000\r\nX-Trailer: dropped\r\n\r\n");
    let mut client = Client::connect(proxy.addr());
    for round in 0..2 {
        // The second time in small pieces, and on the same connection.
        bytes.chunks(if round == 0 { usize::MAX } else { 1000 }).for_each(|piece| client.send(piece));
        assert!(client.response("POST").expect(200).body == [b"hello", &body[..]].concat());
    }
    assert!(upstream.requests().iter().all(|seen| seen.head.get("trailer").is_none()));
}

#[test]
fn a_read_may_end_anywhere_in_a_request() {
    let (_upstream, proxy) = echo();
    let mut ticker = Client::connect(proxy.addr());
    let body = b"{\"model\":\"a model\",\"input\":\"x\"}".to_vec();
    for kind in ["application/json", "application/octet-stream"] {
        let mut bytes = format!("POST /v1/responses HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\n").into_bytes();
        bytes.extend(b"transfer-encoding: chunked\r\n\r\n");
        body.chunks(11).for_each(|part| bytes.extend(chunk(part)));
        bytes.extend(b"0\r\nx-trailer: dropped\r\n\r\n");
        let mut client = Client::connect(proxy.addr());
        for byte in bytes {
            client.send([byte]);
            // An answer on another connection says that the loop has been round, and has read this byte by itself.
            ticker.request("GET", "/healthz", &[], b"").expect(200);
        }
        assert_eq!(client.response("POST").expect(200).text(), String::from_utf8_lossy(&body), "{kind}");
    }
}

#[test]
fn megabytes_pass_both_ways() {
    let (_upstream, proxy) = echo();
    let body = pattern(20 << 20);
    let mut client = Client::connect(proxy.addr());
    let fields = [("content-type", "multipart/form-data; boundary=x")];
    for method in ["POST", "PUT"] {
        assert!(client.request(method, "/v1/files", &fields, &body).expect(200).body == body);
    }
}

#[test]
fn unknown_bodies_stream_through() {
    let (saw, seen) = channel();
    let saw = Mutex::new(saw);
    let early = move |_: &SeenRequest| {
        saw.lock().unwrap().send(()).unwrap();
        None
    };
    let options = Options { early: Some(Box::new(early)), ..Options::default() };
    let upstream = Upstream::start(options, |request| Reply::new(200, request.body.clone()).steps());
    let proxy = Proxy::before(&upstream, &[]);
    let mut client = Client::connect(proxy.addr());
    client.send("POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-type: multipart/form-data; boundary=b\r\n");
    client.send("content-length: 10\r\n\r\n01234");
    seen.recv_timeout(DEADLINE).expect("the upstream has the head before the client has sent the body");
    client.send("56789");
    assert_eq!(client.response("POST").expect(200).body, b"0123456789");
}

#[test]
fn expect_continue_is_answered_before_the_body_is_sent() {
    let (_upstream, proxy) = echo();
    let mut client = Client::connect(proxy.addr());
    for kind in ["application/json", "application/octet-stream"] {
        client.send(format!("POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\nexpect: 100-continue\r\n"));
        client.send("content-length: 2\r\n\r\n");
        assert_eq!(client.head().unwrap().unwrap().status(), 100, "{kind}");
        client.send("{}");
        let response = client.response("POST").expect(200);
        assert_eq!((response.body, response.interim), (b"{}".to_vec(), vec![]), "{kind}");
    }
    client.send("POST /v1/x HTTP/1.1\r\nhost: a\r\nexpect: a-miracle\r\ncontent-length: 2\r\n\r\n");
    client.response("POST").expect(417);
}

#[test]
fn responses_without_a_body_end_where_they_should() {
    let (upstream, proxy) = scripted(&[], |request| match (request.method.as_str(), request.target.as_str()) {
        ("HEAD", _) => Reply::new(200, "").ending(Ending::Nothing).field("content-length", "1234").steps(),
        (_, "/204") => Reply::new(204, "").ending(Ending::Nothing).steps(),
        (_, "/304") => Reply::new(304, "").ending(Ending::Nothing).field("etag", "\"x\"").steps(),
        (_, "/empty") => Reply::new(200, "").steps(),
        _ => Reply::new(200, "").ending(Ending::Chunked(1)).steps(),
    });
    let mut client = Client::connect(proxy.addr());
    for round in 0..2 {
        let response = client.request("HEAD", "/v1/models", &[], b"").expect(200);
        assert!(matches!(response.head.get("content-length"), None | Some("1234")), "{:?}", response.head);
        client.request("DELETE", "/204", &[], b"").expect(204);
        assert_eq!(client.request("GET", "/304", &[], b"").expect(304).head.get("etag"), Some("\"x\""));
        for target in ["/empty", "/chunked"] {
            assert_eq!(client.request("GET", target, &[], b"").expect(200).body, b"", "{round} {target}");
        }
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn interim_responses_do_not_end_the_exchange() {
    let (_upstream, proxy) = scripted(&[], |_| {
        let mut steps =
            vec![Step::Send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n".to_vec())];
        steps.push(Step::Send(b"HTTP/1.1 102 Processing\r\n\r\n".to_vec()));
        steps.extend(Reply::json("{}").steps());
        steps
    });
    let mut client = Client::connect(proxy.addr());
    for _ in 0..2 {
        assert_eq!(client.request("POST", "/v1/x", &[], b"a").expect(200).body, b"{}");
    }
}

#[test]
fn a_response_until_close_is_whole_for_the_client() {
    let body = pattern(100_000);
    let for_upstream = body.clone();
    let answer = move |_: &SeenRequest| Reply::new(200, for_upstream.clone()).ending(Ending::Close).steps();
    let (upstream, proxy) = scripted(&[], answer);
    let mut client = Client::connect(proxy.addr());
    for _ in 0..2 {
        let response = client.request("GET", "/v1/x", &[], b"").expect(200);
        assert!(response.body == body);
        assert_eq!(response.head.all("transfer-encoding"), ["chunked"], "an end that can be told from a cut");
    }
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn http_1_0_clients_are_served() {
    for ending in [Ending::Length, Ending::Chunked(3), Ending::Close] {
        let (upstream, proxy) = scripted(&[], move |_| Reply::new(200, "a long body").ending(ending).steps());
        let mut client = Client::connect(proxy.addr());
        client.send("POST /v1/x HTTP/1.0\r\ncontent-length: 2\r\n\r\nab");
        let response = client.response("POST").expect(200);
        assert_eq!(response.body, b"a long body");
        assert_eq!(response.head.get("transfer-encoding"), None, "no chunks for HTTP/1.0");
        assert_eq!(client.expect_end(), Ok(()));
        assert_eq!(upstream.requests()[0].body, b"ab");
    }
}

#[test]
fn json_is_edited_only_where_it_must_be() {
    let (upstream, proxy) = scripted(&[("MODEL_NAME", "gpt-4.1-mini")], |request| api::answer(request).steps());
    let sent = [
        // A model is put in, the rest is kept byte for byte.
        ("/v1/chat/completions", "{ \"messages\" : [ ] , \"n\":1.0e0 }\n"),
        ("/v1/chat/completions", "{}"),
        // Nothing is missing, so nothing is touched, however it is written.
        ("/v1/chat/completions", "{ \"m\\u006fdel\" : \"x\" , \"messages\":[{\"model\":1}] }"),
        ("/v1/chat/completions", "{\"model\":\"x\",\"stream\":false}"),
        ("/v1/responses", "{\"model\":\"x\",\"stream\":true}"),
    ];
    for (target, body) in sent {
        post_json(proxy.addr(), target, &[], body).expect(200);
    }
    let seen = upstream.requests();
    for (request, (_, body)) in seen.iter().zip(&sent[..2]) {
        let mut expected: Value = serde_json::from_str(body).unwrap();
        assert_eq!(request.json()["model"], "gpt-4.1-mini");
        expected["model"] = json!("gpt-4.1-mini");
        assert_eq!(request.json(), expected);
    }
    assert!(String::from_utf8_lossy(&seen[0].body).contains("\"messages\" : [ ] , \"n\":1.0e0 }\n"), "bytes are kept");
    for (request, (_, body)) in seen.iter().zip(sent).skip(2) {
        assert_eq!(request.body, body.as_bytes());
    }
}

#[test]
fn usage_is_asked_for_and_its_traces_are_removed() {
    let (upstream, proxy) = scripted(&[], |request| api::answer(request).steps());
    let direct = |options: &str, target: &str| {
        let body = format!("{{\"model\":\"gpt-4o\",\"stream\":true{options}}}");
        let fields = [("X-User-ID", "streamer")];
        (post_json(upstream.addr(), target, &fields, &body), post_json(proxy.addr(), target, &fields, &body))
    };
    let (yes, no) = (r#","stream_options":{"include_usage":true}"#, r#","stream_options":{"include_usage":false}"#);
    let other = r#","stream_options":{"include_obfuscation":true}"#;
    for target in ["/v1/chat/completions", "/v1/completions"] {
        for options in ["", yes, no, other] {
            let (direct, through) = direct(options, target);
            assert_eq!(through.expect(200).text(), direct.expect(200).text(), "{target} {options}");
        }
    }
    let of = |usage: Value, name: &str| usage[name].as_u64().unwrap() * 4;
    let sum = |name| of(api::chat_usage(), name) + of(api::completion_usage(), name);
    let totals = &proxy.usage("user_id=streamer")["totals"];
    assert_eq!(totals["requests"], 8);
    assert_eq!(totals["input_tokens"], sum("prompt_tokens"));
    assert_eq!(totals["output_tokens"], sum("completion_tokens"));
}

#[test]
fn a_target_may_have_a_path() {
    let upstream = Upstream::plain(|_| Reply::new(200, "").steps());
    for prefix in ["/gateway/openai", "/gateway/openai/"] {
        let proxy = Proxy::start(&[("PROXY_TARGET", &format!("{}{prefix}", upstream.url()))]);
        get(proxy.addr(), "/v1/models?a=b").expect(200);
        get(proxy.addr(), "/v1/%2e%2e/../admin").expect(400);
    }
    assert!(upstream.requests().iter().all(|seen| seen.target == "/gateway/openai/v1/models?a=b"));
}

#[test]
fn a_path_that_could_be_another_is_refused_and_any_other_arrives_as_it_came() {
    let upstream = Upstream::plain(|_| Reply::new(200, "").steps());
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url())]);
    let sent = ["/V1//%63hat;x/completions/", "/v1/models/a%20b?c=/../%2f", "/files./x..y"];
    for target in sent {
        get(proxy.addr(), target).expect(200);
    }
    for target in ["/v1/x/../files", "/v1/..;x/files", "/v1/%2e/files", "/v1\\files", "/v1%2ffiles", "/v1/%252e%252e"] {
        let refused = get(proxy.addr(), target).expect(400);
        assert_eq!(refused.head.get("x-proxy-error"), Some("bad_request"), "{target}");
        assert!(refused.head.get("date").is_some_and(|date| date.ends_with(" GMT")), "our own answers are dated");
    }
    let mut client = Client::connect(proxy.addr());
    for (method, target) in [("post", "/v1/embeddings"), ("Get", "/metrics")] {
        let refused = client.request(method, target, &[], b"{}").expect(400);
        assert_eq!(refused.head.get("x-proxy-error"), Some("bad_request"), "{method}");
    }
    assert!(upstream.requests().iter().map(|seen| seen.target.as_str()).eq(sent));
}

#[test]
fn many_clients_at_once_get_their_own_answers() {
    let (_upstream, proxy) = echo();
    let addr = proxy.addr();
    let threads: Vec<_> = (0..32u32)
        .map(|n| {
            std::thread::spawn(move || {
                let mut client = Client::connect(addr);
                let user = format!("user-{n}");
                for round in 0..20u32 {
                    let body = [n.to_be_bytes(), round.to_be_bytes()].concat().repeat(1 + (n * round) as usize);
                    let response = client.request("POST", "/v1/x", &[("x-user-id", &user)], &body).expect(200);
                    assert!(response.body == body);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(proxy.usage("")["totals"]["requests"], 32 * 20);
    assert_eq!(proxy.usage("user_id=user-7")["totals"]["requests"], 20);
}

#[test]
fn a_slow_client_does_not_hold_up_another() {
    let body = Arc::new(pattern(32 << 20));
    let for_upstream = body.clone();
    let (_upstream, proxy) = scripted(&[], move |request| {
        if request.target == "/big" {
            Reply::new(200, for_upstream.to_vec()).steps()
        } else {
            Reply::new(200, "").steps()
        }
    });
    let mut slow = Client::connect(proxy.addr());
    slow.send_request("GET", "/big", &[], b"");
    let head = slow.head().unwrap().unwrap();
    assert_eq!(head.status(), 200);
    for _ in 0..50 {
        get(proxy.addr(), "/small").expect(200);
    }
    let mut framing = response_framing("GET", &head).unwrap();
    let mut got = Vec::new();
    while let Some(piece) = slow.body_piece(&mut framing).unwrap() {
        got.extend(piece);
    }
    assert!(got == *body);
}
