//! Sessions whose server is scripted: what is counted of many responses, of lanes that interleave, of large frames, and
//! when it is in the ledger.

use super::{accepting, begun, close, done, rows, summary, tokens};
use crate::support::rng::Rng;
use crate::support::usage::columns;
use crate::support::websocket::{self, BINARY, Frame, Side};
use crate::support::wire::Cut;
use serde_json::{Value, json};
use std::net::SocketAddr;

const TARGET: &str = "/v1/realtime?model=gpt-realtime";

/// Opens a socket and reads all events to the server's close frame, which it answers; the texts as they came.
fn read_all(addr: SocketAddr, target: &str) -> Vec<String> {
    let mut socket = websocket::connect(addr, target, &[("x-user-id", "u")]);
    let mut texts = Vec::new();
    loop {
        let message = socket.message().unwrap().expect("a close frame comes before the end");
        if message.opcode == websocket::CLOSE {
            socket.send(&message).unwrap();
            assert_eq!(socket.stream.expect_end(), Ok(()));
            return texts;
        }
        texts.push(String::from_utf8(message.payload).unwrap());
    }
}

/// Serves these events, and holds what the client receives of them against what was sent.
fn serve(vars: &[(&str, &str)], target: &str, events: &[Value]) -> crate::support::proxy::Proxy {
    let for_upstream = events.to_vec();
    let (_upstream, proxy) = accepting(vars, move |socket| {
        for event in &for_upstream {
            socket.send_json(event)?;
        }
        close(socket, 1000)
    });
    let expected: Vec<_> = events.iter().map(Value::to_string).collect();
    assert!(read_all(proxy.addr(), target) == expected);
    proxy
}

#[track_caller]
fn assert_counts(row: &Value, usage: &Value) {
    for (name, expected) in columns(usage) {
        assert_eq!(row[name], json!(expected), "{name} in {row}");
    }
}

/// An event of the Responses API on a socket; on the default lane it does not name one.
fn lane(kind: &str, lane: Option<&str>, id: &str, usage: Value) -> Value {
    let mut event = json!({"type": format!("response.{kind}"), "sequence_number": 1,
        "response": {"id": id, "object": "response", "model": "gpt-4.1-2025-04-14", "status": kind, "output": [],
            "service_tier": "default", "usage": usage}});
    if let Some(lane) = lane {
        event["stream_id"] = json!(lane);
    }
    event
}

fn usage(input: u64, output: u64) -> Value {
    json!({"input_tokens": input, "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": output, "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": input + output})
}

#[test]
fn each_response_of_interleaved_lanes_is_counted() {
    let delta = |lane: Option<&str>| {
        let mut event = json!({"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0,
            "delta": "{\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":1}}}"});
        if let Some(lane) = lane {
            event["stream_id"] = json!(lane);
        }
        event
    };
    let proxy = serve(
        &[],
        "/v1/responses",
        &[
            lane("created", Some("a"), "resp_a", Value::Null),
            lane("created", Some("b"), "resp_b", Value::Null),
            delta(Some("a")),
            lane("created", None, "resp_c", Value::Null),
            delta(Some("b")),
            lane("completed", Some("b"), "resp_b", usage(20, 4)),
            delta(None),
            lane("incomplete", None, "resp_c", usage(30, 5)), // steered: its successor was not asked for
            lane("created", None, "resp_d", Value::Null),
            lane("completed", Some("a"), "resp_a", usage(10, 3)),
            lane("failed", None, "resp_d", usage(40, 6)),
        ],
    );
    let rows = rows(&proxy, "u", 5);
    assert_eq!(summary(&rows)[4], "responses/session 101 completed none");
    for (row, (id, input, output)) in rows.iter().zip([("b", 20, 4), ("c", 30, 5), ("a", 10, 3), ("d", 40, 6)]) {
        assert_eq!((&row["endpoint"], &row["usage_source"]), (&json!("responses"), &json!("reported")), "{row}");
        assert_eq!(row["response_id"], format!("resp_{id}"));
        assert_eq!(row["model"], "gpt-4.1-2025-04-14");
        assert_counts(row, &usage(input, output));
        // gpt-4.1: 2 USD a million tokens, a quarter of it for cached ones, 8 USD for the output.
        assert_eq!(row["cost_nano_usd"], (input - 2) * 2_000 + 2 * 500 + output * 8_000, "{row}");
    }
}

#[test]
fn only_what_stands_in_its_place_is_a_report() {
    let fake = json!({"input_tokens": 7, "output_tokens": 7, "total_tokens": 14});
    let proxy = serve(
        &[],
        TARGET,
        &[
            json!({"type": "session.created", "session": {"id": "sess_1", "model": "gpt-realtime-2025-08-28", "usage": fake}}),
            json!({"type": "response.output_text.delta", "delta": "x", "usage": fake, "response": {"usage": fake}}),
            json!({"type": "conversation.item.input_audio_transcription.delta", "item_id": "item_1", "usage": fake}),
            json!({"type": "rate_limits.updated", "rate_limits": [{"name": "tokens", "usage": fake}]}),
            json!({"nested": {"type": "response.done", "response": {"usage": fake}}}),
            json!([{"type": "response.done", "response": {"usage": fake}}]),
            json!({"type": "error", "error": {"message": "\"response.done\"", "usage": fake}}),
        ],
    );
    assert_eq!(summary(&rows(&proxy, "u", 1)), ["realtime/session 101 completed unknown"]);
}

#[test]
fn a_transcription_is_counted_beside_its_response() {
    let transcription = |item: &str, usage: Value| {
        json!({"type": "conversation.item.input_audio_transcription.completed", "event_id": "event_1", "item_id": item,
            "content_index": 0, "transcript": "Hello", "usage": usage})
    };
    let by_tokens = json!({"type": "tokens", "input_tokens": 26, "output_tokens": 9, "total_tokens": 35,
        "input_token_details": {"text_tokens": 0, "audio_tokens": 26}});
    let by_duration = json!({"type": "duration", "seconds": 3});
    let proxy = serve(
        &[],
        TARGET,
        &[
            begun("resp_1"),
            transcription("item_1", by_tokens.clone()),
            done("resp_1", &tokens(40, 10)),
            transcription("item_2", by_duration.clone()),
        ],
    );
    let rows = rows(&proxy, "u", 4);
    let endpoints: Vec<_> = rows.iter().map(|row| row["endpoint"].as_str().unwrap()).collect();
    assert_eq!(endpoints, ["realtime/transcription", "realtime", "realtime/transcription", "realtime/session"]);
    for (row, usage) in rows.iter().zip([&by_tokens, &tokens(40, 10), &by_duration]) {
        assert_counts(row, usage);
    }
}

/// A session that is billed by its length says so as often as it likes, always the sum.
#[test]
fn a_live_session_reports_its_seconds_once() {
    let so_far = |seconds: u64| json!({"type": "session.usage.updated", "usage": {"seconds": seconds}});
    let closed = json!({"type": "session.closed", "usage": {"seconds": 31}});
    let proxy = serve(&[], "/v1/live/sessions", &[so_far(10), so_far(20), so_far(30), closed]);
    let rows = rows(&proxy, "u", 1);
    assert_eq!(summary(&rows), ["live/session 101 completed reported"]);
    assert_eq!(rows[0]["audio_seconds"], 31);
}

/// 3 MiB of audio in one frame, and a report behind 2 MiB of its own output.
#[test]
fn frames_may_exceed_a_mebibyte() {
    let mut whole = done("resp_1", &tokens(50, 20));
    whole["response"]["output"] = json!([{"content": [{"text": "long \u{3042}".repeat(256 << 10)}]}]);
    let audio = json!({"type": "response.output_audio.delta", "delta": "QUJD".repeat(768 << 10)});
    let proxy = serve(&[], TARGET, &[begun("resp_1"), audio, whole]);
    let rows = rows(&proxy, "u", 2);
    assert_eq!(summary(&rows)[1], "realtime/session 101 completed none");
    assert_counts(&rows[0], &tokens(50, 20));
}

/// Binary messages and the client's own are relayed, not read.
#[test]
fn only_the_servers_texts_are_read() {
    let report = done("resp_1", &tokens(50, 20)).to_string();
    let for_upstream = report.clone();
    let (_upstream, proxy) = accepting(&[], move |socket| {
        while let Some(message) = socket.message()? {
            if message.opcode == websocket::CLOSE {
                return socket.send(&message);
            }
            assert_eq!(message, Frame::text(for_upstream.clone()));
            socket.send(&Frame::new(BINARY, for_upstream.clone()))?;
        }
        Err(Cut::Closed)
    });
    let mut socket = websocket::connect(proxy.addr(), TARGET, &[("x-user-id", "u")]);
    for _ in 0..3 {
        socket.send(&Frame::text(report.clone())).unwrap();
        assert_eq!(socket.message(), Ok(Some(Frame::new(BINARY, report.clone()))));
    }
    close(&mut socket, 1000).unwrap();
    // What it was cannot be told.
    assert_eq!(summary(&rows(&proxy, "u", 1)), ["realtime/session 101 completed unknown"]);
}

/// With `settled`, who has read a `response.done` to its last byte has its record, whatever happens then; with
/// `relaxed` it comes soon after. The session goes on meanwhile.
#[test]
fn a_report_that_was_read_is_in_the_ledger() {
    let conversation = |socket: &mut websocket::Socket<&mut crate::support::upstream::Tunnel>| {
        while let Some(message) = socket.message()? {
            let n = String::from_utf8(message.payload).unwrap().parse::<u64>().unwrap();
            let mut rng = Rng::new(n);
            let event = done(&format!("resp_{n}"), &tokens(10 + n, n));
            let bytes = Side::Server.encode_in_fragments(&Frame::text(event.to_string()), &mut rng);
            std::io::Write::write_all(&mut socket.stream, &bytes)?;
        }
        Ok(())
    };
    for durability in ["settled", "relaxed"] {
        let (upstream, proxy) = accepting(&[("LEDGER_DURABILITY", durability)], conversation);
        let mut socket = websocket::connect(proxy.addr(), TARGET, &[("x-user-id", "u")]);
        for n in 1..=20_u64 {
            socket.send(&Frame::text(n.to_string())).unwrap();
            assert_eq!(socket.event(), done(&format!("resp_{n}"), &tokens(10 + n, n)));
            if durability == "settled" {
                let totals = &proxy.usage("user_id=u")["totals"];
                assert_eq!((&totals["requests"], &totals["output_tokens"]), (&json!(n), &json!(n * (n + 1) / 2)));
            }
        }
        let proxy = if durability == "settled" {
            let target = upstream.url();
            crate::support::proxy::Proxy::start_in(proxy.into_folder(), &[("PROXY_TARGET", &target)]) // kill -9
        } else {
            proxy
        };
        let rows = rows(&proxy, "u", 20);
        for (row, n) in rows.iter().zip(1..) {
            assert_counts(row, &tokens(10 + n, n));
        }
    }
}
