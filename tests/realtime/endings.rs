//! How sessions end: in good order, by either side's leaving, by a signal; and a client that does not read.

use super::{accepting, begun, close, done, rows, scripted, summary, tokens};
use crate::support::DEADLINE;
use crate::support::client::get;
use crate::support::proxy::Proxy;
use crate::support::rng::Rng;
use crate::support::script::{Step, gate, tell};
use crate::support::upstream::Upstream;
use crate::support::websocket::{self, ClientSocket, Frame, Side, Socket, TEXT, switching_protocols};
use crate::support::wire::Cut;
use rustix::net::sockopt::set_socket_linger;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TARGET: &str = "/v1/realtime?model=gpt-realtime";
const FIELDS: [(&str, &str); 1] = [("x-user-id", "u")];

/// A session in which these events have reached the client; then comes what `steps` say.
struct Session {
    upstream: Upstream,
    proxy: Proxy,
    client: ClientSocket,
}

fn session(vars: &[(&str, &str)], events: &[Value], then: Vec<Step>) -> Session {
    let frames: Vec<u8> = events.iter().flat_map(|event| Frame::text(event.to_string()).encode(None)).collect();
    let then = Mutex::new(Some(then));
    let (upstream, proxy) = scripted(vars, move |request| {
        let head = [switching_protocols(request), frames.clone()].concat();
        [Step::Send(head)].into_iter().chain(then.lock().unwrap().take().expect("one session")).collect()
    });
    let mut client = websocket::connect(proxy.addr(), TARGET, &FIELDS);
    for event in events {
        assert_eq!(client.event(), *event);
    }
    Session { upstream, proxy, client }
}

impl Session {
    /// Leaves without a word; returns once the proxy has noticed.
    fn leave(self) -> (Upstream, Proxy) {
        set_socket_linger(&self.client.stream.stream, Some(Duration::ZERO)).unwrap();
        drop(self.client);
        self.proxy.wait_until_left();
        (self.upstream, self.proxy)
    }

    /// The rows after a restart.
    fn rows_afterwards(self, count: usize) -> Vec<String> {
        let target = self.upstream.url();
        let proxy = Proxy::start_in(self.proxy.into_folder(), &[("PROXY_TARGET", &target)]);
        summary(&rows(&proxy, "u", count))
    }
}

fn frame(frame: &Frame) -> Step {
    Step::Send(frame.encode(None))
}

#[test]
fn a_client_that_leaves_in_mid_response_leaves_it_unknown() {
    let (closed, told) = tell();
    let whole = done("resp_1", &tokens(10, 5));
    let session = session(&[], &[begun("resp_1"), whole, begun("resp_2")], vec![Step::AwaitClose, told]);
    let (_upstream, proxy) = session.leave();
    closed.recv_timeout(DEADLINE).expect("the upstream's connection is closed");
    let rows = summary(&rows(&proxy, "u", 2));
    assert_eq!(rows[1], "realtime/session 101 client_aborted unknown");
    assert!(rows[0].starts_with("realtime ") && rows[0].ends_with(" reported"), "{rows:?}");
}

#[test]
fn a_client_that_leaves_between_responses_leaves_nothing_open() {
    let (closed, told) = tell();
    let events = [begun("resp_1"), done("resp_1", &tokens(10, 5))];
    let (_upstream, proxy) = session(&[], &events, vec![Step::AwaitClose, told]).leave();
    closed.recv_timeout(DEADLINE).expect("the upstream's connection is closed");
    assert_eq!(summary(&rows(&proxy, "u", 2))[1], "realtime/session 101 completed none");
    assert_eq!(proxy.usage("user_id=u")["totals"]["errors"], 0);
}

/// codex drops its connection without a word when it has all. Each response has the model that its frame names; what was
/// asked for and not begun is neither complete nor free.
#[test]
fn a_client_that_has_all_may_drop_its_connection() {
    let create = |model: &str| json!({"type": "response.create", "model": model, "input": [], "stream": true});
    for (asks_more, ending) in [(false, "completed none"), (true, "client_aborted unknown")] {
        for resets in [false, true] {
            let (_upstream, proxy) = accepting(&[], |socket| {
                for n in 1..=2 {
                    let asked: Value = serde_json::from_slice(&socket.message()?.expect("a message").payload).unwrap();
                    let (id, model) = (format!("resp_{n}"), asked["model"].as_str().unwrap());
                    let response = json!({"id": id, "model": format!("{model}-2025-08-07"), "usage": null});
                    socket.send_json(&json!({"type": "response.created", "response": response}))?;
                    let mut done = json!({"type": "response.completed", "response": response});
                    done["response"]["usage"] = tokens(10, n);
                    socket.send_json(&done)?;
                }
                while socket.message()?.is_some() {}
                Ok(())
            });
            let mut client = websocket::connect(proxy.addr(), "/v1/responses", &FIELDS);
            for model in ["gpt-5-mini", "gpt-5"] {
                client.send_json(&create(model)).unwrap();
                assert_eq!(client.event()["type"], "response.created");
                assert_eq!(client.event()["type"], "response.completed");
            }
            if asks_more {
                client.send_json(&create("gpt-5")).unwrap();
            }
            if resets {
                get(proxy.addr(), "/healthz").expect(200); // what was said has been read
                set_socket_linger(&client.stream.stream, Some(Duration::ZERO)).unwrap();
            }
            drop(client);
            let rows = rows(&proxy, "u", 3);
            assert_eq!(summary(&rows)[2], format!("responses/session 101 {ending}"), "{resets}");
            let names: Vec<_> = rows.iter().map(|row| [&row["model_requested"], &row["model"]]).collect();
            assert_eq!(names[..2], [["gpt-5-mini", "gpt-5-mini-2025-08-07"], ["gpt-5", "gpt-5-2025-08-07"]]);
            assert_eq!(proxy.usage("user_id=u")["totals"]["errors"], u64::from(asks_more));
        }
    }
}

/// While the ledger is stuck, what follows a report waits unread; a client that leaves then leaves it uncounted, and the
/// session says so.
#[test]
fn what_had_to_wait_when_its_client_left_is_owned_up_to() {
    let (_upstream, proxy) = accepting(&[("LEDGER_WAIT", "0")], |socket| {
        assert_eq!(socket.message()?, Some(Frame::text("now")));
        let burst = [done("resp_1", &tokens(10, 5)), done("resp_2", &tokens(20, 6))];
        let frames: Vec<u8> = burst.iter().flat_map(|event| Frame::text(event.to_string()).encode(None)).collect();
        socket.stream.write_all(&frames)?;
        assert_eq!(socket.message()?, None);
        Ok(())
    });
    let mut client = websocket::connect(proxy.addr(), TARGET, &FIELDS);
    let stuck = rusqlite::Connection::open(proxy.database()).unwrap();
    stuck.execute_batch("BEGIN IMMEDIATE").unwrap();
    client.send(&Frame::text("now")).unwrap();
    let first = Frame::text(done("resp_1", &tokens(10, 5)).to_string()).encode(None);
    let mut received = vec![0; first.len() - 1];
    client.stream.stream.read_exact(&mut received).unwrap();
    assert!(received == first[..first.len() - 1], "all but the last byte, which waits for the commit");
    drop(client);
    while proxy.metrics()["openai_proxy_connections{side=\"upstream\"}"] > 0.0 {
        std::thread::yield_now();
    }
    stuck.execute_batch("ROLLBACK").unwrap();
    let rows = rows(&proxy, "u", 2);
    assert_eq!(summary(&rows), ["realtime 101 completed reported", "realtime/session 101 client_aborted unknown"]);
}

#[test]
fn a_session_that_the_server_closes_is_complete() {
    let (open, wait) = gate();
    let steps = vec![wait, frame(&Frame::close(1001, "session expired")), Step::Close];
    let mut session = session(&[], &[begun("resp_1"), done("resp_1", &tokens(10, 5))], steps);
    open.send(()).unwrap();
    assert_eq!(session.client.message(), Ok(Some(Frame::close(1001, "session expired"))));
    assert_eq!(session.client.stream.expect_end(), Ok(()));
    assert_eq!(summary(&rows(&session.proxy, "u", 2))[1], "realtime/session 101 completed none");
}

#[test]
fn a_session_that_the_server_breaks_off_is_its_error() {
    for ending in [Step::Reset, Step::Close] {
        let (open, wait) = gate();
        // In the middle of a frame: not even its length has come whole.
        let part = Step::Send(vec![0x81, 0x7e, 0x01]);
        let mut session = session(&[], &[begun("resp_1")], vec![wait, part, ending]);
        open.send(()).unwrap();
        assert!(matches!(session.client.message(), Err(Cut::Closed | Cut::Reset)));
        assert_eq!(summary(&rows(&session.proxy, "u", 1)), ["realtime/session 101 upstream_error unknown"]);
    }
}

/// Closing and half-closing look the same, and the server may be at work for money: the client is taken to be gone. What
/// it said last is still passed on.
#[test]
fn a_client_that_stops_sending_is_gone_with_its_last_words_said() {
    let (heard, hears) = channel();
    let (_upstream, proxy) = accepting(&[], move |socket| {
        heard.send((socket.message()?, socket.message())).unwrap();
        Ok(())
    });
    let mut socket = websocket::connect(proxy.addr(), TARGET, &FIELDS);
    socket.send(&Frame::text("last words")).unwrap();
    socket.stream.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(hears.recv_timeout(DEADLINE).unwrap(), (Some(Frame::text("last words")), Ok(None)));
    assert_eq!(summary(&rows(&proxy, "u", 1)), ["realtime/session 101 completed none"]);
}

/// With `drain`, a response that is under way when its client leaves is read to its end.
#[test]
fn a_response_in_flight_is_drained() {
    let ((open, wait), (closed, told)) = (gate(), tell());
    let report = frame(&Frame::text(done("resp_1", &tokens(10, 5)).to_string()));
    let steps = vec![wait, report, Step::AwaitClose, told];
    let (_upstream, proxy) = session(&[("ON_CLIENT_ABORT", "drain")], &[begun("resp_1")], steps).leave();
    open.send(()).unwrap();
    closed.recv_timeout(DEADLINE).expect("nothing is left to read on for");
    let rows = rows(&proxy, "u", 2);
    assert_eq!(summary(&rows), ["realtime 101 completed drained", "realtime/session 101 client_aborted none"]);
    assert_eq!(rows[0]["output_tokens"], 5);
}

/// More than all sockets between can hold.
const FLOOD_BYTES: usize = 96 << 20;
/// What the proxy may grow by while it holds the upstream back.
const GROWTH_BYTES_MAX: f64 = (8 << 20) as f64;

#[test]
fn a_slow_client_holds_the_server_back_and_loses_nothing() {
    let sent = Arc::new(AtomicUsize::new(0));
    let for_upstream = sent.clone();
    let report = done("resp_1", &tokens(10, 5));
    let last = report.clone();
    let (_upstream, proxy) = accepting(&[], move |socket| {
        let (mut rng, mut n) = (Rng::new(7), 0);
        while for_upstream.load(Ordering::SeqCst) < FLOOD_BYTES {
            let bytes = Frame::text(delta(n, &mut rng)).encode(None);
            socket.stream.write_all(&bytes)?;
            for_upstream.fetch_add(bytes.len(), Ordering::SeqCst);
            n += 1;
        }
        socket.send_json(&last)?;
        close(socket, 1000)
    });
    let memory = |proxy: &Proxy| proxy.metrics()["process_resident_memory_bytes"];
    let mut client = websocket::connect(proxy.addr(), TARGET, &FIELDS);
    let before = memory(&proxy);

    // Until nothing moves: too short a look makes the test lenient, never wrong.
    let mut seen = usize::MAX;
    while std::mem::replace(&mut seen, sent.load(Ordering::SeqCst)) != seen || seen == 0 {
        std::thread::sleep(Duration::from_millis(300));
        get(proxy.addr(), "/healthz").expect(200);
    }
    assert!(seen < FLOOD_BYTES, "nothing holds the server back");
    let grown = memory(&proxy) - before;
    assert!(grown < GROWTH_BYTES_MAX, "{seen} bytes on their way, {grown} of them in memory");

    let (mut rng, mut n) = (Rng::new(7), 0);
    loop {
        let message = client.message().unwrap().expect("a close frame comes before the end");
        if message == Frame::text(report.to_string()) {
            break;
        }
        assert!(message.opcode == TEXT && message.payload == delta(n, &mut rng).as_bytes(), "message {n} is another");
        n += 1;
    }
    close(&mut client, 1000).unwrap();
    assert_eq!(client.stream.expect_end(), Ok(()));
    let grown = memory(&proxy) - before;
    assert!(grown < GROWTH_BYTES_MAX, "{FLOOD_BYTES} bytes passed, {grown} of them stayed");
    assert_eq!(rows(&proxy, "u", 2)[0]["output_tokens"], 5);
}

/// An event of up to 256 KiB, the same for the same number and seed.
fn delta(n: usize, rng: &mut Rng) -> String {
    let length = rng.below(256 << 10);
    let fill = char::from(b'a' + (rng.below(26)) as u8);
    format!(
        "{{\"type\":\"response.output_audio.delta\",\"n\":{n},\"delta\":\"{}\"}}",
        String::from(fill).repeat(length)
    )
}

#[test]
fn a_slow_server_holds_the_client_back_and_loses_nothing() {
    let (open, wait) = gate();
    let wait = Mutex::new(Some(wait));
    let (_upstream, proxy) = scripted(&[], move |request| {
        let talk: crate::support::script::Talk = Box::new(|tunnel| {
            let (mut socket, mut rng, mut n) = (Socket::new(tunnel, Side::Server), Rng::new(9), 0);
            while let Some(message) = socket.message()? {
                if message.opcode == websocket::CLOSE {
                    return socket.send(&message);
                }
                assert!(message.payload == delta(n, &mut rng).as_bytes(), "message {n} is another");
                n += 1;
            }
            Err(Cut::Closed)
        });
        let wait = wait.lock().unwrap().take().expect("one session");
        vec![Step::Send(switching_protocols(request)), wait, Step::Talk(talk), Step::Close]
    });
    let client = websocket::connect(proxy.addr(), TARGET, &FIELDS);
    let before = proxy.metrics()["process_resident_memory_bytes"];
    let sent = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let sent = &sent;
        let talk = scope.spawn(move || {
            let (mut client, mut rng, mut n) = (client, Rng::new(9), 0);
            while sent.load(Ordering::SeqCst) < FLOOD_BYTES {
                let text = delta(n, &mut rng);
                sent.fetch_add(text.len(), Ordering::SeqCst);
                client.send(&Frame::text(text)).unwrap();
                n += 1;
            }
            close(&mut client, 1000).unwrap();
            assert_eq!(client.stream.expect_end(), Ok(()));
        });
        let mut seen = usize::MAX;
        while std::mem::replace(&mut seen, sent.load(Ordering::SeqCst)) != seen || seen == 0 {
            std::thread::sleep(Duration::from_millis(300));
        }
        assert!(seen < FLOOD_BYTES, "nothing holds the client back");
        let grown = proxy.metrics()["process_resident_memory_bytes"] - before;
        assert!(grown < GROWTH_BYTES_MAX, "{seen} bytes on their way, {grown} of them in memory");
        open.send(()).unwrap();
        talk.join().unwrap();
    });
    assert_eq!(summary(&rows(&proxy, "u", 1)), ["realtime/session 101 completed none"]);
}

#[test]
fn a_session_may_finish_after_sigterm() {
    let (open, wait) = gate();
    let report = done("resp_1", &tokens(10, 5));
    let steps = vec![wait, frame(&Frame::text(report.to_string())), frame(&Frame::close(1000, "")), Step::Close];
    let mut session = session(&[], &[begun("resp_1")], steps);
    session.proxy.signal(Signal::TERM);
    session.proxy.wait_for_log("draining");
    open.send(()).unwrap();
    assert_eq!(session.client.event(), report);
    assert_eq!(session.client.message(), Ok(Some(Frame::close(1000, ""))));
    assert_eq!(session.client.stream.expect_end(), Ok(()));
    assert!(session.proxy.wait().success());
    let rows = session.rows_afterwards(2);
    assert!(rows[0].ends_with(" reported") && rows[1] == "realtime/session 101 completed none", "{rows:?}");
}

#[test]
fn a_session_that_does_not_finish_is_interrupted() {
    let whole = done("resp_1", &tokens(10, 5));
    let events = [begun("resp_1"), whole, begun("resp_2")];
    let mut session = session(&[("DRAIN_TIMEOUT", "200ms")], &events, vec![Step::AwaitClose]);
    session.proxy.terminate();
    assert!(!matches!(session.client.message(), Ok(Some(_))), "nothing is made up for the client");
    let rows = session.rows_afterwards(2);
    assert!(rows[0].ends_with(" reported") && rows[1] == "realtime/session 101 interrupted unknown", "{rows:?}");
}
