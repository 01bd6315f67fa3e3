//! The log: a line for each request, in both formats; levels, also anew with SIGHUP; and that nobody waits for its
//! reader.
//!
//! The binary runs as a child. What is not tested here: that no secret gets in (tests/secrets.rs).

#![allow(clippy::disallowed_methods)] // waits for a child process

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::DEADLINE;
use support::client::{Client, get, post_json};
use support::proxy::{Proxy, command, scripted};
use support::script::{Reply, Step};

const ANSWER: &str = r#"{"model":"gpt-4o-mini","usage":{"prompt_tokens":8,"completion_tokens":9,"total_tokens":17}}"#;
const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"the-prompt-itself"}]}"#;

fn answering(vars: &[(&str, &str)]) -> (support::upstream::Upstream, Proxy) {
    scripted(vars, |_| Reply::json(ANSWER).field("x-request-id", "req_77").steps())
}

#[test]
fn a_request_is_a_line() {
    let (_upstream, proxy) = answering(&[]);
    post_json(proxy.addr(), CHAT, &[("x-user-id", "太郎 \"= \\")], BODY).expect(200);
    let line = proxy.wait_for_log("msg=request");
    let row = proxy.only_row("%E5%A4%AA%E9%83%8E%20%22%3D%20%5C");
    let start = r#" level=info msg=request user="太郎 \"= \\" model=gpt-4o-mini endpoint=chat/completions status=200 "#;
    let middle =
        "outcome=completed stream=false usage_source=reported input_tokens=8 cached_input_tokens=0 output_tokens=9 ";
    let cost = row["cost_nano_usd"].as_u64().unwrap();
    let priced = format!("cost_usd=0.{:0>9}", cost).trim_end_matches('0').to_owned() + " ";
    let milliseconds = row["duration_us"].as_u64().unwrap() as f64 / 1000.0;
    let duration = format!("duration_ms={milliseconds} ");
    for part in [start, middle, &priced, &duration, "first_byte_ms=", "request_id=req_77"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(line.starts_with("ts=20") && !line.contains("the-prompt"), "{line}");
}

#[test]
fn json_is_one_object_a_line() {
    let (_upstream, mut proxy) = answering(&[("LOG_FORMAT", "json")]);
    post_json(proxy.addr(), CHAT, &[("x-user-id", "\u{202e}太郎\u{9b}")], BODY).expect(400);
    post_json(proxy.addr(), CHAT, &[("x-user-id", "\u{202e}太郎")], BODY).expect(200);
    assert!(proxy.terminate().success());
    let lines: Vec<Value> = proxy
        .stderr()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let requests: Vec<_> = lines.iter().filter(|line| line["msg"] == "request").collect();
    assert_eq!(requests.len(), 1, "{lines:#?}");
    let request = requests[0];
    assert_eq!(request["user"], "\u{202e}太郎");
    assert_eq!((request["status"].as_u64(), request["output_tokens"].as_u64()), (Some(200), Some(9)));
    assert!(request["cost_usd"].as_f64().unwrap() > 0.0 && request["stream"] == false, "{request}");
    assert_eq!(lines.last().unwrap()["msg"], "stopped");
}

#[test]
fn levels_choose_and_sighup_changes_them() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = support::free_port();
    std::fs::write(folder.path().join(".env"), "LOG=info\n").unwrap();
    let target = format!("http://127.0.0.1:{nobody}");
    let mut proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &target)]);
    post_json(proxy.addr(), CHAT, &[], BODY).expect(502);
    let why = proxy.wait_for_log("upstream error");
    assert!(why.contains("level=warn") && why.contains("error=\"the upstream could not be connected"), "{why}");
    proxy.wait_for_log("msg=request");
    assert!(!proxy.stderr().contains("level=debug"));

    std::fs::write(proxy.folder().join(".env"), "LOG=trace\n").unwrap();
    proxy.signal(Signal::HUP);
    proxy.wait_for_log("variables=LOG");
    let start = Instant::now();
    while !proxy.stderr().contains("level=trace") {
        assert!(start.elapsed() < DEADLINE, "{}", proxy.stderr());
        post_json(proxy.addr(), CHAT, &[], BODY).expect(502);
    }
    proxy.wait_for_log("msg=\"connecting to the upstream\"");
    proxy.wait_for_log("msg=\"client gone\"");

    std::fs::write(proxy.folder().join(".env"), "LOG=error\n").unwrap();
    proxy.signal(Signal::HUP);
    assert!(proxy.terminate().success());
    assert!(!proxy.stderr().contains("msg=stopped"), "{}", proxy.stderr());
}

/// Who has set a wrong key reads why nothing works; the clients of all others cannot fill the log with it.
#[test]
fn a_refused_key_is_told_of_once() {
    for (vars, why) in
        [(&[][..], "the client sends its own key"), (&[("OPENAI_API_KEY", "sk-wrong")], "OPENAI_API_KEY is wrong")]
    {
        let (_upstream, mut proxy) = scripted(vars, |_| Reply::new(401, "{}").steps());
        for _ in 0..3 {
            post_json(proxy.addr(), CHAT, &[], BODY).expect(401);
        }
        let told = proxy.wait_for_log("the upstream refuses the key");
        assert!(told.contains("level=warn") && told.contains(why) && !told.contains("sk-wrong"), "{told}");
        assert!(proxy.terminate().success());
        assert_eq!(proxy.stderr().matches("refuses the key").count(), 1, "{}", proxy.stderr());
    }
}

/// The log says how far an answer had come when the upstream broke it off, or stopped.
#[test]
fn a_broken_answer_is_told_by_where_it_broke() {
    let length = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let of = |head: &str, more: &str| format!("{head}{more}");
    for (sent, stops, words) in [
        (String::new(), false, "closed the connection before it answered"),
        (of("HTTP/1.1 200 OK\r\n", "conten"), false, "closed the connection within its answer's head"),
        (of(length, ""), false, "closed the connection after its answer's head, in the middle of the body"),
        (of(chunked, "2\r\nab\r\n"), false, "closed the connection after its answer's head, in the middle of the body"),
        (of(chunked, "5\r\nab"), false, "closed the connection after its answer's head, within a chunk of the body"),
        (String::new(), true, "did not answer in time"),
        (of(chunked, "5\r\nab"), true, "did not go on in time, after its answer's head, within a chunk of the body"),
    ] {
        let timeout = if stops { "200ms" } else { "600s" };
        let (_upstream, proxy) = scripted(&[("RESPONSE_TIMEOUT", timeout)], move |_| {
            let end = if stops { Step::AwaitClose } else { Step::Close };
            vec![Step::Send(sent.clone().into_bytes()), end]
        });
        let mut client = Client::connect(proxy.addr());
        client.send(format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{BODY}", BODY.len()));
        let line = proxy.wait_for_log("upstream error");
        assert!(line.contains(&format!("error=\"the upstream {words}\"")), "{line}");
    }
}

/// As many lines as a pipe and the queue together do not hold, by far.
const REQUESTS: usize = 12_000;

#[test]
fn nobody_waits_for_a_reader_who_does_not_read() {
    let upstream = support::upstream::Upstream::plain(|_| Reply::json(ANSWER).steps());
    let folder = tempfile::tempdir().unwrap();
    // The port is found out from the ledger's side of things: nobody reads the line that tells it.
    let port = support::free_port();
    let (target, port) = (upstream.url(), port.to_string());
    let vars = [("PROXY_TARGET", target.as_str()), ("PORT", port.as_str()), ("RATE_LIMIT_RPM", "0")];
    let mut child = command(folder.path(), &vars).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let addr = format!("127.0.0.1:{port}").parse().unwrap();
    let start = Instant::now();
    while std::net::TcpStream::connect(addr).is_err() {
        assert!(start.elapsed() < DEADLINE, "it does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    let workers: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Client::connect(addr);
                for _ in 0..REQUESTS / 8 {
                    client.send_request("POST", CHAT, &[("content-type", "application/json")], BODY.as_bytes());
                    client.response("POST").expect(200);
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    let usage = get(addr, "/usage").expect(200).json();
    assert_eq!(usage["totals"]["requests"], REQUESTS, "every one is in the ledger");
    let metrics = get(addr, "/metrics").expect(200).text();
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("openai_proxy_log_lines_dropped_total ")).unwrap();
    let dropped: usize = dropped.parse().unwrap();
    assert!(dropped > 0 && dropped < REQUESTS, "{dropped}");

    // Once somebody reads, it is told how many are missing, and the log goes on.
    let (lines, read) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut text, mut piece) = (String::new(), [0; 4096]);
        while let Ok(count @ 1..) = stderr.read(&mut piece) {
            text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
            if text.contains("log lines dropped") {
                let _ = lines.send(());
            }
        }
        text
    });
    read.recv_timeout(DEADLINE).expect("what was dropped is told");
    let mut client = Client::connect(addr);
    client.send_request("POST", CHAT, &[("content-type", "application/json"), ("x-user-id", "late")], BODY.as_bytes());
    client.response("POST").expect(200);
    drop(client);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    let text = reader.join().unwrap();
    let told: usize = text
        .lines()
        .filter_map(|line| {
            line.split_once("log lines dropped, nobody read them in time\" lines=")?.1.parse::<usize>().ok()
        })
        .sum();
    assert_eq!(told, dropped);
    assert_eq!(text.matches("msg=request ").count() + dropped, REQUESTS + 1, "each is a line, or counted");
    assert!(text.contains("user=late") && text.contains("msg=stopped"));
}

#[test]
fn a_full_pipe_does_not_hold_up_the_end() {
    let upstream = support::upstream::Upstream::plain(|_| Reply::json(ANSWER).steps());
    let folder = tempfile::tempdir().unwrap();
    let port = support::free_port().to_string();
    let target = upstream.url();
    let vars = [("PROXY_TARGET", target.as_str()), ("PORT", port.as_str()), ("RATE_LIMIT_RPM", "0"), ("LOG", "trace")];
    let mut child = command(folder.path(), &vars).stderr(Stdio::piped()).spawn().unwrap();
    let _unread = child.stderr.take().unwrap();
    let addr = format!("127.0.0.1:{port}").parse().unwrap();
    let start = Instant::now();
    while std::net::TcpStream::connect(addr).is_err() {
        assert!(start.elapsed() < DEADLINE, "it does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    for _ in 0..1_000 {
        post_json(addr, CHAT, &[], BODY).expect(200);
    }
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < DEADLINE, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(child.wait().unwrap().success());
}
