//! What a request takes of its user's limits, step by step, and how it is given back.

use crate::base::clock::{Now, SECOND};
use crate::limit::bucket::Rate;
use crate::limit::budget::SpendSums;
use crate::limit::overrides::Limits;
use crate::proxy::fixture::{act, at, proxy, sent, settings, take};
use crate::proxy::{Conn, Proxy, Settings};
use std::io::ErrorKind;

const REQUEST: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-user-id: u\r\n\
                       content-type: application/json\r\ncontent-length: 14\r\n\r\n{\"max_tokens\":";

fn limited(journaled: bool) -> Proxy {
    let rate = |per_minute| Some(Rate { per_minute, burst: per_minute });
    let limits = Limits { requests: rate(2), tokens: rate(1000), concurrent: Some(1), ..Limits::default() };
    proxy(Settings { limits, journaled, ..settings() })
}

/// A request that may take so many tokens, and is not JSON's only in that it names no model.
fn request(tokens: u64) -> String {
    let body = format!("{{\"max_tokens\":{tokens}}}");
    REQUEST.replace("content-length: 14", &format!("content-length: {}", body.len())).replace("{\"max_tokens\":", &body)
}

/// What the client is sent in answer to a request.
fn answer(proxy: &mut Proxy, seconds: u64, request: &str) -> String {
    let key = proxy.accepted(at(seconds));
    proxy.received(at(seconds), Conn::Down(key), &mut request.as_bytes().to_vec());
    act(proxy, at(seconds));
    let answer = take(proxy, at(seconds), Conn::Down(key));
    proxy.failed(at(seconds), Conn::Down(key), ErrorKind::ConnectionReset);
    act(proxy, at(seconds));
    String::from_utf8(answer).unwrap()
}

#[test]
fn whoever_leaves_before_the_entry_is_written_takes_nothing() {
    let mut proxy = limited(true);
    let key = proxy.accepted(at(0));
    proxy.received(at(0), Conn::Down(key), &mut request(1000).into_bytes());
    act(&mut proxy, at(0));
    assert_eq!(proxy.audit().reservations(), (1, 1), "it waits for its entry in the journal");
    assert!(answer(&mut proxy, 0, &request(1)).contains("in flight at once"));
    proxy.failed(at(0), Conn::Down(key), ErrorKind::ConnectionReset);
    assert_eq!(proxy.audit().reservations(), (0, 0));
    for _ in 0..2 {
        // All of both buckets is there again: the refusal is by none of them.
        assert_eq!(answer(&mut proxy, 0, &request(1000)), "", "it waits for its entry");
        assert_eq!(proxy.audit().reservations(), (0, 0));
    }
}

#[test]
fn a_whole_answer_settles_to_what_it_used() {
    let mut proxy = limited(false);
    let (down, up) = sent(&mut proxy, &request(900));
    assert!(answer(&mut proxy, 0, &request(1)).contains("429"));
    let body = r#"{"usage":{"prompt_tokens":5,"completion_tokens":10,"total_tokens":15}}"#;
    let response =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    proxy.received(at(0), Conn::Up(up), &mut response.into_bytes());
    assert_eq!(proxy.audit().reservations(), (0, 0), "the answer is complete, though it waits for the commit");
    proxy.committed(at(0), 1, &[]);
    act(&mut proxy, at(0));
    let head = String::from_utf8(take(&mut proxy, at(0), Conn::Down(down))).unwrap();
    assert!(head.contains("x-ratelimit-remaining-requests: 1\r\n"), "{head}");
    assert!(head.contains("x-ratelimit-remaining-tokens: 100\r\n"), "{head}");
    // 985 are left, and the last request.
    assert!(answer(&mut proxy, 0, &request(986)).contains("tokens"));
    assert_eq!(answer(&mut proxy, 0, &request(985)), "");
}

/// A body may come on another day than its head: it is that day's budget that lets the request through.
#[test]
fn a_request_is_spent_on_the_day_that_lets_it_through() {
    const DAY: u64 = 86_400;
    let limits = Limits { day_nano_usd: Some(1_000_000_000), ..Limits::default() };
    let instant = |seconds: u64| Now { unix: seconds * SECOND, ..at(seconds) };
    for (comes_at, started_at) in [(DAY - 1, DAY - 10), (DAY + 1, DAY + 1)] {
        let mut proxy = proxy(Settings { limits, ..settings() });
        let period = proxy.wants_spend_sums(instant(DAY - 20)).expect("there is a budget");
        proxy.set_spend_sums(instant(DAY - 20), SpendSums { period, ..SpendSums::default() });
        let request = request(10).replace('{', "{\"model\":\"gpt-4o\",").replace("length: 17", "length: 34");
        let (before, last) = request.split_at(request.len() - 1);
        let key = proxy.accepted(instant(DAY - 10));
        proxy.received(instant(DAY - 10), Conn::Down(key), &mut before.as_bytes().to_vec());
        proxy.received(instant(comes_at), Conn::Down(key), &mut last.as_bytes().to_vec());
        let up = act(&mut proxy, instant(comes_at)).pop().expect("it is let through");
        take(&mut proxy, instant(comes_at), Conn::Up(up));
        proxy.failed(instant(comes_at), Conn::Up(up), ErrorKind::ConnectionReset);
        proxy.abort(instant(comes_at));
        let records = proxy.take_records(instant(comes_at + 1));
        assert_eq!(records.iter().map(|record| record.started_at).collect::<Vec<_>>(), [started_at * SECOND]);
    }
}

/// A fee for each search that the target makes is no less money than tokens.
#[test]
fn the_fees_of_tools_are_reserved() {
    let limits = Limits { day_nano_usd: Some(450_000_000), ..Limits::default() };
    for (members, both) in [("", false), (r#","max_tool_calls":1"#, true)] {
        let mut proxy = proxy(Settings { limits, ..settings() });
        let period = proxy.wants_spend_sums(at(0)).expect("there is a budget");
        proxy.set_spend_sums(at(0), SpendSums { period, ..SpendSums::default() });
        let body =
            format!(r#"{{"model":"gpt-5-mini","max_output_tokens":1,"tools":[{{"type":"web_search"}}]{members}}}"#);
        let request = format!(
            "POST /v1/responses HTTP/1.1\r\nhost: a\r\nx-user-id: u\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        sent(&mut proxy, &request);
        assert_eq!(answer(&mut proxy, 0, &request).is_empty(), both, "{members}");
    }
}

#[test]
fn what_a_broken_answer_used_nobody_knows() {
    let mut proxy = limited(false);
    let (_, up) = sent(&mut proxy, &request(900));
    proxy.failed(at(0), Conn::Up(up), ErrorKind::ConnectionReset);
    act(&mut proxy, at(0));
    assert_eq!(proxy.audit().reservations(), (0, 0));
    let refused = answer(&mut proxy, 0, &request(101));
    assert!(refused.contains("retry-after-ms: 60\r\n"), "100 are left, one flows in within 60 ms: {refused}");
    assert_eq!(answer(&mut proxy, 1, &request(101)), "");
}
