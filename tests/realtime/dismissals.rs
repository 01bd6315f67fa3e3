//! Sessions whose user's budget is spent or whose key is revoked: they end behind the running response, with the reason
//! in the API's own words, and in good order on both sides. Left to others: every instant and every cut (beside
//! `src/proxy/tunnel`).

use super::{accepting, begun, close, done, rows, summary, tokens};
use crate::support::DEADLINE;
use crate::support::client::Client;
use crate::support::proxy::{self, Proxy};
use crate::support::script::Reply;
use crate::support::upstream::{Tunnel, Upstream};
use crate::support::websocket::{self, CLOSE, ClientSocket, Frame, Side, Socket, TEXT};
use crate::support::wire::Cut;
use serde_json::{Value, json};
use std::sync::mpsc::{Receiver, Sender, channel};

const TARGET: &str = "/v1/realtime?model=gpt-realtime";
const FIELDS: [(&str, &str); 1] = [("x-user-id", "u")];
/// One answer costs more.
const BUDGET: (&str, &str) = ("BUDGET_USD_DAY", "0.0001");

/// What reaches the target: messages, and the close frame.
type Heard = Receiver<Frame>;

/// A target that sends what the test tells it to, and tells what it hears, to the client's close frame, which it
/// answers.
fn talk(socket: &mut Socket<&mut Tunnel>, heard: &Sender<Frame>) -> Result<(), Cut> {
    while let Some(message) = socket.message()? {
        let _ = heard.send(message.clone());
        match message.opcode {
            CLOSE => return socket.send(&message),
            _ => {
                let events: Vec<Value> = serde_json::from_slice(&message.payload).unwrap();
                for event in events {
                    socket.send_json(&event)?;
                }
            }
        }
    }
    Ok(())
}

fn session(vars: &[(&str, &str)]) -> (Upstream, Proxy, Heard) {
    let (heard, hears) = channel();
    let (upstream, proxy) = accepting(vars, move |socket| talk(socket, &heard));
    (upstream, proxy, hears)
}

/// The client reads the reason, then the close frame, answers it, and the connection ends.
#[track_caller]
fn expect_goodbye(client: &mut ClientSocket, code: &str) -> Value {
    let event = client.event();
    assert_eq!((&event["type"], &event["error"]["code"]), (&json!("error"), &json!(code)), "{event}");
    assert_eq!(client.message(), Ok(Some(Frame::close(1008, code))));
    client.send(&Frame::close(1008, "")).unwrap();
    assert_eq!(client.stream.expect_end(), Ok(()));
    event
}

#[test]
fn a_session_ends_behind_the_response_that_spends_the_budget() {
    for (target, name) in [(TARGET, "response.done"), ("/v1/responses", "response.completed")] {
        let (_upstream, proxy, hears) = session(&[BUDGET]);
        let mut client = websocket::connect(proxy.addr(), target, &FIELDS);
        let mut last = done("resp_1", &tokens(100, 50));
        last["type"] = json!(name);
        last["response"]["model"] = json!("gpt-realtime");
        let events = json!([begun("resp_1"), last]);
        client.send_json(&events).unwrap();
        assert_eq!([client.event(), client.event()], [begun("resp_1"), last]);
        // What a client would spend past it: another response, at once.
        let _ = client.send_json(&events);
        let event = expect_goodbye(&mut client, "insufficient_quota");
        assert!(event["event_id"].is_string() != (event["status"] == 429), "{event}");
        let heard: Vec<Frame> = hears.iter().take(2).collect();
        assert_eq!(heard, [Frame::text(events.to_string()), Frame::close(1008, "insufficient_quota")]);
        let rows = rows(&proxy, "u", 2);
        assert!(rows[0]["cost_nano_usd"].as_u64() > Some(100_000), "{rows:?}");
        assert!(summary(&rows)[1].ends_with("/session 101 completed none"), "{rows:?}");
        // And none begins any more.
        let fields: Vec<_> = websocket::HANDSHAKE.iter().chain(&FIELDS).copied().collect();
        Client::connect(proxy.addr()).request("GET", target, &fields, b"").expect(429);
    }
}

/// The user's other requests spend the budget: the idle session ends, without another word of its own.
#[test]
fn an_idle_session_ends_when_others_spend_its_budget() {
    let (heard, hears) = channel();
    let upstream = Upstream::plain(move |request| {
        let heard = heard.clone();
        match request.method.as_str() {
            "GET" => websocket::accept(request, move |tunnel| talk(&mut Socket::new(tunnel, Side::Server), &heard)),
            _ => Reply::json(
                r#"{"model":"gpt-4o","usage":{"prompt_tokens":1000,"completion_tokens":1000,"total_tokens":2000}}"#,
            )
            .steps(),
        }
    });
    // Else each would hold what a response may cost at most.
    let proxy = Proxy::before(&upstream, &[("BUDGET_USD_DAY", "0.001"), ("BUDGET_RESERVE", "average")]);
    let mut clients = [(); 3].map(|()| websocket::connect(proxy.addr(), TARGET, &FIELDS));
    let mut other = websocket::connect(proxy.addr(), TARGET, &[("x-user-id", "other")]);
    let fields = [FIELDS[0], ("content-type", "application/json")];
    let body = br#"{"model":"gpt-4o","max_tokens":9,"messages":[]}"#;
    Client::connect(proxy.addr()).request("POST", "/v1/chat/completions", &fields, body).expect(200);
    for client in &mut clients {
        expect_goodbye(client, "insufficient_quota");
    }
    let goodbye = Frame::close(1008, "insufficient_quota");
    assert_eq!(hears.iter().take(3).collect::<Vec<_>>(), [goodbye.clone(), goodbye.clone(), goodbye]);
    other.send_json(&json!([begun("resp_1")])).unwrap();
    assert_eq!(other.event(), begun("resp_1"), "another user's goes on");
    close(&mut other, 1000).unwrap();
}

#[test]
fn a_session_ends_with_its_key_behind_the_running_response() {
    let (heard, hears) = channel();
    let upstream = Upstream::plain(move |request| {
        let heard = heard.clone();
        websocket::accept(request, move |tunnel| {
            let mut socket = Socket::new(tunnel, Side::Server);
            let first = socket.message()?;
            socket.send_json(&begun("resp_1"))?;
            // Until the key is revoked: nothing of the client's comes any more, but for its answers to pings.
            socket.send(&Frame::new(websocket::PING, "still there?"))?;
            heard.send(first).unwrap();
            let next = socket.frame()?;
            assert_eq!(next, Some(Frame::new(websocket::PONG, "still there?")));
            heard.send(next).unwrap();
            socket.send_json(&done("resp_1", &tokens(10, 5)))?;
            let last = socket.message()?;
            heard.send(last.clone()).unwrap();
            last.map_or(Ok(()), |last| socket.send(&last))
        })
    });
    let folder = tempfile::tempdir().unwrap();
    let key = proxy::done(folder.path(), "keys create u").trim().to_owned();
    let url = upstream.url();
    let vars =
        [("PROXY_TARGET", url.as_str()), ("CLIENT_AUTH", "keys"), ("OPENAI_API_KEY", "sk-real"), ("LOG", "info")];
    let proxy = Proxy::start_in(folder, &vars);
    let authorization = format!("Bearer {key}");
    let mut client = websocket::connect(proxy.addr(), TARGET, &[("authorization", &authorization)]);
    client.send(&Frame::text("first")).unwrap();
    assert_eq!(client.event(), begun("resp_1"));
    assert_eq!(hears.recv_timeout(DEADLINE), Ok(Some(Frame::text("first"))));
    proxy::done(proxy.folder(), "keys revoke 1");
    proxy.wait_for_log("code=invalid_client_key");
    client.send(&Frame::text("another response, please")).unwrap();
    // Reading it answers the ping.
    assert_eq!(client.event(), done("resp_1", &tokens(10, 5)));
    expect_goodbye(&mut client, "invalid_client_key");
    assert_eq!(hears.recv_timeout(DEADLINE), Ok(Some(Frame::new(websocket::PONG, "still there?"))));
    assert_eq!(hears.recv_timeout(DEADLINE), Ok(Some(Frame::close(1008, "invalid_client_key"))));
}

/// A client that has not read anything for long and never answers the close frame, and a target that talks on.
#[test]
fn nobody_holds_a_dismissed_session_open() {
    let (upstream, proxy) = accepting(&[BUDGET], |socket| {
        let _ = socket.message()?;
        socket.send_json(&begun("resp_1"))?;
        socket.send_json(&done("resp_1", &tokens(100, 50)))?;
        // To the end of the connection, whatever is said.
        while socket.send(&Frame::new(TEXT, r#"{"type":"session.updated"}"#)).is_ok() {}
        Ok(())
    });
    let mut client = websocket::connect(proxy.addr(), TARGET, &FIELDS);
    client.send(&Frame::text("now")).unwrap();
    // It may have ended within a message.
    let rows = rows(&proxy, "u", 2);
    assert!(summary(&rows)[1].starts_with("realtime/session 101 completed "), "{rows:?}");
    proxy.wait_until_left();
    drop((client, upstream));
}

/// Each response's own start and duration, one after another and after an error.
#[test]
fn each_response_has_its_own_time() {
    let (_upstream, proxy, _hears) = session(&[]);
    let mut client = websocket::connect(proxy.addr(), "/v1/responses", &FIELDS);
    let lane = |mut event: Value, name: &str, lane: &str| {
        (event["type"], event["stream_id"]) = (json!(name), json!(lane));
        event
    };
    let steps = [
        lane(begun("resp_1"), "response.created", "a"),
        json!({"type": "error", "status": 400, "error": {"code": "x"}, "stream_id": "b"}),
        lane(begun("resp_2"), "response.created", "b"),
        json!({"type": "error", "status": 500, "error": {"code": "y"}, "stream_id": "b"}),
        lane(begun("resp_3"), "response.created", "b"),
        lane(done("resp_3", &tokens(10, 5)), "response.completed", "b"),
        lane(done("resp_1", &tokens(10, 5)), "response.completed", "a"),
    ];
    for step in &steps {
        client.send_json(&json!([step])).unwrap();
        assert_eq!(client.event(), *step);
    }
    close(&mut client, 1000).unwrap();
    let rows = rows(&proxy, "u", 3);
    let ids: Vec<_> = rows.iter().map(|row| row["response_id"].as_str().unwrap_or_default()).collect();
    assert_eq!(ids[..2], ["resp_3", "resp_1"]);
    let started = |row: &Value| row["started_at"].as_str().expect("a time").to_owned();
    let [third, first, whole] = [0, 1, 2].map(|at| &rows[at]);
    assert!(started(whole) <= started(first) && started(first) < started(third), "{rows:#?}");
    assert!(third["duration_us"].as_u64() < first["duration_us"].as_u64(), "{rows:#?}");
    assert_eq!(whole["usage_source"], "unknown", "resp_2 never said what it consumed");
}

/// What may have cost something and was never reported is not recorded as free.
#[test]
fn a_session_that_reports_nothing_is_free_only_where_nothing_happened() {
    let (_upstream, proxy, _hears) = session(&[]);
    let settled = json!({"type": "session.updated", "session": {"id": "sess_1", "model": "m"}});
    let heard = json!({"type": "conversation.item.input_audio_transcription.completed", "transcript": "hello"});
    let spoken = json!({"type": "session.output_audio.delta", "delta": "AAAA"});
    for (user, target, events, expected) in [
        ("idle", TARGET, json!([settled]), "none"),
        ("heard", "/v1/realtime?intent=transcription", json!([settled, heard]), "unknown"),
        ("translated", "/v1/realtime/translations?model=gpt-realtime-translate", json!([settled, spoken]), "unknown"),
    ] {
        let mut client = websocket::connect(proxy.addr(), target, &[("x-user-id", user)]);
        client.send_json(&events).unwrap();
        events.as_array().unwrap().iter().for_each(|event| assert_eq!(client.event(), *event));
        close(&mut client, 1000).unwrap();
        let rows = rows(&proxy, user, 1);
        assert_eq!(summary(&rows), [format!("realtime/session 101 completed {expected}")]);
        let cost = if expected == "none" { json!(0) } else { Value::Null };
        assert_eq!(rows[0]["cost_nano_usd"], cost, "{user}");
    }
}
