//! WebSockets through the binary: recorded realtime sessions as real frames, handshakes that are accepted, refused or
//! none, sessions with many responses, and every way in which one ends. What passes is the very bytes that were sent,
//! in both directions, and the ledger holds what the frames reported.

#![allow(clippy::disallowed_methods)] // deadlines against hanging, pauses between looks

#[path = "realtime/dismissals.rs"]
mod dismissals;
#[path = "realtime/endings.rs"]
mod endings;
#[path = "realtime/handshakes.rs"]
mod handshakes;
#[path = "realtime/recorded.rs"]
mod recorded;
#[path = "realtime/sessions.rs"]
mod sessions;
mod support;

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use support::proxy::{Proxy, scripted};
use support::upstream::{Tunnel, Upstream};
use support::websocket::{self, Frame, Side, Socket};
use support::wire::Cut;

/// The same before an upstream that accepts every handshake and then talks as the server's side.
fn accepting(
    vars: &[(&str, &str)],
    talk: impl Fn(&mut Socket<&mut Tunnel>) -> Result<(), Cut> + Clone + Send + Sync + 'static,
) -> (Upstream, Proxy) {
    scripted(vars, move |request| {
        let talk = talk.clone();
        websocket::accept(request, move |tunnel| talk(&mut Socket::new(tunnel, Side::Server)))
    })
}

/// Answers the peer's close frame, and reads to it if it has not come yet.
fn close<S: Read + Write>(socket: &mut Socket<S>, code: u16) -> Result<(), Cut> {
    socket.send(&Frame::close(code, ""))?;
    while let Some(message) = socket.message()? {
        if message.opcode == websocket::CLOSE {
            break;
        }
    }
    Ok(())
}

/// Event of a realtime response that begins.
fn begun(id: &str) -> Value {
    json!({"type": "response.created", "event_id": "event_1",
        "response": {"object": "realtime.response", "id": id, "status": "in_progress", "usage": null}})
}

/// A realtime response's last event.
fn done(id: &str, usage: &Value) -> Value {
    json!({"type": "response.done", "event_id": "event_2",
        "response": {"object": "realtime.response", "id": id, "status": "completed", "output": [], "usage": usage}})
}

/// What a response reports: so many tokens in, half of them cached, and out.
fn tokens(input: u64, output: u64) -> Value {
    json!({"total_tokens": input + output, "input_tokens": input, "output_tokens": output,
        "input_token_details": {"text_tokens": 1, "audio_tokens": input - 1, "image_tokens": 0,
            "cached_tokens": input / 2, "cached_tokens_details": {"text_tokens": 0, "audio_tokens": input / 2}},
        "output_token_details": {"text_tokens": 1, "audio_tokens": output - 1}})
}

/// The user's rows in the order in which they were written, once there are so many: a client whose session is cut does
/// not wait for its record.
#[track_caller]
fn rows(proxy: &Proxy, user: &str, count: usize) -> Vec<Value> {
    let start = Instant::now();
    loop {
        let answer = proxy.usage(&format!("user_id={user}&limit=1000"));
        let mut rows = answer["data"].as_array().unwrap().clone();
        if rows.len() >= count {
            rows.reverse();
            assert_eq!(rows.len(), count, "{rows:#?}");
            return rows;
        }
        assert!(start.elapsed() < support::DEADLINE, "{} of {count} rows of {user}: {rows:#?}", rows.len());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// `endpoint status outcome usage_source` of each row.
fn summary(rows: &[Value]) -> Vec<String> {
    let of = |row: &Value| ["endpoint", "status", "outcome", "usage_source"].map(|name| row[name].clone());
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    rows.iter().map(|row| of(row).iter().map(plain).collect::<Vec<_>>().join(" ")).collect()
}
