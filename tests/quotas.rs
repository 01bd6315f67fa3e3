//! Every limit of a user under 200 requests at once: exactly as many pass as it allows, whoever gives up meanwhile, and
//! what was reserved comes back on every way out. Left to others: what a refusal and an answer say, and requests one by
//! one (`limits`), limits of one user's own (`keys`), the arithmetic of buckets and budgets (beside `src/limit`).
//!
//! The target answers only when all requests are decided, so that the counts do not depend on who is fast. A budget is
//! closed until it is known what is spent of it.

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};
use support::DEADLINE;
use support::client::{Client, Response, post_json};
use support::gate::Held;
use support::proxy::{Proxy, done};

const CHAT: &str = "/v1/chat/completions";
/// Requests at once.
const CROWD: usize = 200;

/// A request that may take so many tokens: one for the model's eleven letters would be three, so it has a short one.
fn body(tokens: u64, stream: bool) -> String {
    json!({"model": "m", "max_tokens": tokens - 1, "stream": stream}).to_string()
}

/// Sends it for one user by as many clients as there are bodies; those that are admitted wait in the target.
fn crowd(proxy: &Proxy, bodies: &[String]) -> Vec<Client> {
    let send = |body: &String| {
        let mut client = Client::connect(proxy.addr());
        client.send_request("POST", CHAT, &[("x-user-id", "u"), ("content-type", "application/json")], body.as_bytes());
        client
    };
    bodies.iter().map(send).collect()
}

/// Waits until the proxy has refused so many.
fn wait_for_refusals(proxy: &Proxy, limit: &str, count: usize) {
    let start = Instant::now();
    let sample = format!("openai_proxy_rate_limited_total{{user=\"u\",level=\"user\",limit=\"{limit}\"}}");
    loop {
        let refused = proxy.metrics().get(&sample).copied().unwrap_or(0.0);
        if refused == count as f64 {
            return;
        }
        assert!(start.elapsed() < DEADLINE && refused < count as f64, "{refused} refused by {limit}, not {count}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn answers(clients: Vec<Client>) -> BTreeMap<u16, Vec<Response>> {
    let mut by_status: BTreeMap<u16, Vec<Response>> = BTreeMap::new();
    for mut client in clients {
        let response = client.response("POST");
        by_status.entry(response.head.status()).or_default().push(response);
    }
    by_status
}

/// A crowd under one limit: `allowed` reach the target while all are there, and as many again when they have ended.
fn exactly(vars: &[(&str, &str)], limit: &str, tokens: u64, allowed: usize) -> Proxy {
    let held = Held::new();
    let proxy = held.proxy(vars);
    for round in 1..=2 {
        held.gate.set(false);
        let bodies: Vec<String> = (0..CROWD).map(|n| body(tokens, n % 2 == 0)).collect();
        let clients = crowd(&proxy, &bodies);
        wait_for_refusals(&proxy, limit, round * (CROWD - allowed));
        held.gate.wait_for(round * allowed);
        held.gate.set(true);
        let answers = answers(clients);
        assert_eq!((answers[&200].len(), answers[&429].len()), (allowed, CROWD - allowed));
        for refused in &answers[&429] {
            assert!(refused.head.get("retry-after-ms").is_some(), "waiting helps");
        }
        let requests = &proxy.usage("user_id=u")["totals"]["requests"];
        assert_eq!(*requests, json!(round * allowed), "what was refused left no record");
    }
    proxy
}

#[test]
fn requests_in_flight_are_exactly_as_many_as_allowed() {
    let proxy = exactly(&[("MAX_CONCURRENT_PER_USER", "7")], "concurrent", 10, 7);
    assert!(post_json(proxy.addr(), CHAT, &[("x-user-id", "u")], "{}").head.get("x-ratelimit-limit-tokens").is_none());
}

/// 20,000 of 60,000 a minute each: the fourth would fit in 20 seconds. What they used is so little that three fit again.
#[test]
fn tokens_are_reserved_before_they_are_spent() {
    let proxy = exactly(&[("RATE_LIMIT_TPM", "60000")], "tokens", 19_000, 3);
    let response = post_json(proxy.addr(), CHAT, &[("x-user-id", "u")], &body(1000, true));
    let header = |name: &str| response.head.get(name).expect(name).to_owned();
    assert_eq!(header("x-ratelimit-limit-tokens"), "60000");
    let remaining: u64 = header("x-ratelimit-remaining-tokens").parse().unwrap();
    assert!(
        (58_900..=59_000).contains(&remaining),
        "{remaining}: after this request's own 1000, six of 10 are paid off"
    );
    let refused = post_json(proxy.addr(), CHAT, &[("x-user-id", "u")], &body(60_001, false));
    assert_eq!(refused.head.get("x-should-retry"), Some("false"), "it can never fit");
    refused.expect_proxy_error(429, "rate_limit_exceeded");
}

/// gpt-4o-mini: 600 nano-dollars a token put out. Three tokens in at 150 and 1,000 out are 600,450.
#[test]
fn a_budget_is_not_overrun_by_requests_at_once() {
    let held = Held::new();
    let proxy = held.proxy(&[("BUDGET_USD_MONTH", "0.0031")]);
    let body = json!({"model": "gpt-4o-mini", "max_tokens": 1000}).to_string();
    let clients = crowd(&proxy, &vec![body; CROWD]);
    wait_for_refusals(&proxy, "budget_month", CROWD - 5);
    held.gate.wait_for(5);
    held.gate.set(true);
    let answers = answers(clients);
    assert_eq!(answers[&200].len(), 5, "3,002,250 of 3,100,000");
    assert!(answers[&429].iter().all(|refused| refused.head.get("retry-after").is_some()), "it was not spent yet");
}

#[test]
fn a_spent_budget_stays_spent_over_a_restart() {
    let held = Held::new();
    held.gate.set(true);
    // 4 in and 6 out are 4,200 nano-dollars: the third overruns what two leave, by less than itself.
    let vars = [("BUDGET_USD_MONTH", "0.00001"), ("RATE_LIMIT_RPM", "0")];
    let mut proxy = held.proxy(&vars);
    let ask = |proxy: &Proxy, user: &str| {
        let body = r#"{"model":"gpt-4o-mini","messages":[]}"#;
        post_json(proxy.addr(), CHAT, &[("x-user-id", user)], body)
    };
    for _ in 0..3 {
        ask(&proxy, "u").expect(200);
    }
    for restart in [false, true] {
        if restart {
            proxy.kill();
            let url = held.upstream.url();
            proxy = Proxy::start_in(proxy.into_folder(), &[&[("PROXY_TARGET", url.as_str())][..], &vars].concat());
        }
        let refused = ask(&proxy, "u");
        assert_eq!(refused.head.get("x-should-retry"), Some("false"));
        refused.expect_proxy_error(429, "insufficient_quota");
        assert_eq!(proxy.usage("user_id=u")["totals"]["cost_usd"], json!(0.0000126));
    }
    ask(&proxy, "other").expect(200);
}

/// The first budget comes while another process holds the ledger's file, so that nobody can say what is spent of it:
/// what costs waits for that, and who has no budget does not. Then everything counts that was answered before, also
/// what the ledger had not written when it was asked.
#[test]
fn a_first_budget_is_closed_until_the_ledger_says_what_is_spent() {
    let held = Held::new();
    held.gate.set(true);
    let folder = tempfile::tempdir().unwrap();
    let dotenv = folder.path().join(".env");
    let settings = "RATE_LIMIT_RPM=0\nLEDGER_WAIT=1ms\n";
    std::fs::write(&dotenv, settings).unwrap();
    done(folder.path(), "limits set free --usd-month 0");
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &held.upstream.url())]);
    let ask = |user: &str| {
        let body = r#"{"model":"gpt-4o-mini","messages":[],"max_tokens":1}"#;
        post_json(proxy.addr(), CHAT, &[("x-user-id", user)], body)
    };
    // 4 in and 6 out are 4,200 nano-dollars; the second is not committed when the budget comes.
    ask("u").expect(200);
    let intruder = Connection::open(proxy.database()).unwrap();
    intruder.execute_batch("BEGIN IMMEDIATE").unwrap();
    ask("u").expect(200);
    std::fs::write(&dotenv, format!("{settings}BUDGET_USD_MONTH=0.000005\n")).unwrap();
    proxy.signal(Signal::HUP);
    let start = Instant::now();
    while ask("new").status == 200 {
        assert!(start.elapsed() < DEADLINE, "a budget is open of which nobody knows what is spent");
    }
    for user in ["u", "new"] {
        let refused = ask(user).expect_proxy_error(429, "rate_limit_exceeded");
        assert_eq!(refused.head.get("retry-after"), Some("1"));
        assert!(refused.text().contains("still being summed up"), "{}", refused.text());
    }
    ask("free").expect(200);
    drop(intruder);
    while ask("u").head.get("x-should-retry") != Some("false") {
        assert!(start.elapsed() < DEADLINE, "the ledger's sums do not come");
    }
    ask("u").expect_proxy_error(429, "insufficient_quota");
    assert_eq!(proxy.usage("user_id=u")["totals"]["cost_usd"], json!(0.0000084));
    assert!(
        proxy.metrics()["openai_proxy_rate_limited_total{user=\"u\",level=\"user\",limit=\"budget_unknown\"}"] >= 1.0
    );
}

/// Half of those who were admitted go away while the target is at work: what they held is free again.
#[test]
fn who_goes_away_gives_back() {
    let held = Held::new();
    let proxy = held.proxy(&[("MAX_CONCURRENT_PER_USER", "50"), ("RATE_LIMIT_RPM", "1"), ("RATE_LIMIT_BURST", "70")]);
    let bodies: Vec<String> = (0..CROWD).map(|n| body(10, n % 3 == 0)).collect();
    let clients = crowd(&proxy, &bodies);
    wait_for_refusals(&proxy, "concurrent", CROWD - 50);
    held.gate.wait_for(50);
    // Of each status about half go: who is where, only the answers tell, and those admitted have none yet.
    let (gone, stay): (Vec<_>, Vec<_>) = clients.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    gone.into_iter().for_each(|(_, client)| client.reset());
    held.gate.set(true);
    let answers = answers(stay.into_iter().map(|(_, client)| client).collect());
    assert_eq!(answers.values().map(Vec::len).sum::<usize>(), CROWD / 2);
    proxy.wait_until_left();
    // 50 of 70 requests are taken, by whoever went too; none is in flight.
    held.gate.set(false);
    let clients = crowd(&proxy, &bodies);
    wait_for_refusals(&proxy, "requests", CROWD - 20);
    held.gate.wait_for(70);
    held.gate.set(true);
    assert_eq!(self::answers(clients)[&200].len(), 20);
}

/// The same for money and tokens: of those who went nobody knows what they used, so their tokens stay taken, and their
/// money, which the ledger does not count, is free again.
#[test]
fn who_goes_away_gives_back_what_is_not_known_to_be_used() {
    let held = Held::new();
    let vars = [("BUDGET_USD_MONTH", "0.0031"), ("RATE_LIMIT_TPM", "60000")];
    let proxy = held.proxy(&vars);
    let body = |tokens: u64| json!({"model": "gpt-4o-mini", "max_tokens": tokens}).to_string();
    for round in 1..=2 {
        held.gate.set(false);
        let clients = crowd(&proxy, &vec![body(1000); CROWD]);
        wait_for_refusals(&proxy, "budget_month", round * (CROWD - 5));
        held.gate.wait_for(round * 5);
        let (gone, stay): (Vec<_>, Vec<_>) = clients.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
        gone.into_iter().for_each(|(_, client)| client.reset());
        held.gate.set(true);
        answers(stay.into_iter().map(|(_, client)| client).collect());
        proxy.wait_until_left();
    }
    // Ten were admitted. Each has used 10 of its tokens, or, where it went, all 1,003.
    let left = post_json(proxy.addr(), CHAT, &[("x-user-id", "u")], &body(1000));
    let remaining: u64 = left.head.get("x-ratelimit-remaining-tokens").expect("the user's status").parse().unwrap();
    let aborted =
        proxy.usage("user_id=u")["data"].as_array().unwrap().iter().filter(|row| row["outcome"] != "completed").count();
    let used = (10 - aborted as u64) * 10 + aborted as u64 * 1003 + 1003;
    assert!(remaining >= 60_000 - used, "{remaining}, with {aborted} gone");
    left.expect(200);
}

/// A stream carries its user's rate limit status like any other answer, and a session does in its handshake.
#[test]
fn streams_tell_the_status_after_their_reservation() {
    let held = Held::new();
    held.gate.set(true);
    let proxy = held.proxy(&[("RATE_LIMIT_RPM", "1"), ("RATE_LIMIT_BURST", "9"), ("RATE_LIMIT_TPM", "1000")]);
    let response = post_json(proxy.addr(), CHAT, &[("x-user-id", "u")], &body(600, true)).expect(200);
    let header = |name: &str| response.head.get(name).expect(name).to_owned();
    assert_eq!(header("x-ratelimit-remaining-requests"), "8");
    assert_eq!(header("x-ratelimit-remaining-tokens"), "400");
    assert_eq!((header("x-ratelimit-limit-tokens"), header("x-ratelimit-reset-tokens")), ("1000".into(), "36s".into()));
}

/// SIGHUP: limits and the token change without a restart, a mistake changes nothing.
#[test]
fn the_configuration_is_read_again_on_sighup() {
    let held = Held::new();
    held.gate.set(true);
    let folder = tempfile::tempdir().unwrap();
    let dotenv = folder.path().join(".env");
    std::fs::write(&dotenv, "RATE_LIMIT_RPM=0\n").unwrap();
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &held.upstream.url())]);
    let ask = || post_json(proxy.addr(), CHAT, &[("x-user-id", "u")], &body(10, false));
    assert!(ask().head.get("x-ratelimit-limit-requests").is_none());
    std::fs::write(&dotenv, "RATE_LIMIT_RPM=5\nADMIN_TOKEN=two words\n").unwrap();
    proxy.signal(Signal::HUP);
    proxy.wait_for_log("nothing has changed");
    assert!(ask().head.get("x-ratelimit-limit-requests").is_none());
    std::fs::write(&dotenv, "RATE_LIMIT_RPM=5\nADMIN_TOKEN=word-0123456789-word\nIDLE_TIMEOUT=9s\n").unwrap();
    proxy.signal(Signal::HUP);
    proxy.wait_for_log("need a restart");
    let start = Instant::now();
    while ask().head.get("x-ratelimit-limit-requests") != Some("5") {
        assert!(start.elapsed() < DEADLINE);
    }
    let answer = support::client::get(proxy.addr(), "/usage");
    assert!(answer.head.get("www-authenticate").is_some_and(|challenge| challenge.starts_with("Basic ")));
    answer.expect_proxy_error(401, "unauthorized");
    assert!(!proxy.stderr().contains("word\""), "{}", proxy.stderr());
    let usage: Value = {
        let mut client = Client::connect(proxy.addr());
        client.request("GET", "/usage", &[("authorization", "Bearer word-0123456789-word")], b"").expect(200).json()
    };
    assert!(usage["totals"]["requests"].as_u64().is_some_and(|requests| requests >= 3));
}
