//! Nothing is spent uncounted: each spelling that could hide a request from what is counted, over path, method, head,
//! body, answer and endpoint, against a target that takes everything and keeps books of what that truly costs. Under a
//! budget the books never exceed it by more than one request, asked one after another or all at once; without one,
//! everything passes as it came, and nothing that costs is recorded as free.
//!
//! Left to others: the arithmetic of a reservation (beside `src/limit` and `src/price`), limits of other kinds (`quotas`),
//! how a request is read, rule by rule (beside `src/usage` and `src/proxy`).

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

#[path = "evasion/costs.rs"]
mod costs;
#[path = "evasion/readers.rs"]
mod readers;
#[path = "evasion/rows.rs"]
mod rows;
#[path = "evasion/target.rs"]
mod target;

use rows::{BOMB_BYTES, CHAT, Comes, Row};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::DEADLINE;
use support::client::{Client, Response, response_framing};
use support::proxy::Proxy;
use support::upstream::Upstream;
use target::{Answer, Asked, Books};

/// 0.50 USD; a plain request costs 0.1638.
const BUDGET: u64 = 500_000_000;
const LIMITED: &[(&str, &str)] = &[("BUDGET_USD_DAY", "0.50")];
/// Requests of a row one after another, and at once.
const TIMES: usize = 5;
const CROWD: usize = 30;

/// The target and a proxy before it.
struct World {
    proxy: Proxy,
    books: Arc<Books>,
    _upstream: Upstream,
}

/// What is on the ledger of a user.
#[derive(Debug, Default)]
struct Counted {
    sources: Vec<String>,
    tokens: u64,
    /// `None` where the cost of one is not known.
    nano_usd: Option<u64>,
}

impl World {
    fn new(rows: &[Row], vars: &[(&str, &str)]) -> Self {
        let answers: BTreeMap<String, (Answer, bool)> =
            (0..).zip(rows).map(|(n, row)| (user(n), (row.answer.clone(), row.leaves))).collect();
        let (upstream, books) =
            target::start(move |user| answers.get(user).cloned().unwrap_or((Answer::Honest, false)));
        let body_max = (BOMB_BYTES - (1 << 20)).to_string();
        let fixed = [("RATE_LIMIT_RPM", "0"), ("MAX_BODY_BYTES", body_max.as_str())];
        let proxy = Proxy::before(&upstream, &[&fixed, vars].concat());
        Self { proxy, books, _upstream: upstream }
    }

    /// Sends a row once; the answer is the first half of it where the client leaves.
    fn ask(&self, user: &str, row: &Row) -> Response {
        let mut client = Client::connect(self.proxy.addr());
        client.send(bytes(user, row));
        if !row.leaves {
            return client.response("POST");
        }
        let head = client.head().unwrap().unwrap();
        let mut framing = response_framing("POST", &head).unwrap();
        let piece = client.body_piece(&mut framing).unwrap();
        let response =
            Response { interim: Vec::new(), status: head.status(), head, body: piece.unwrap_or_default(), cut: None };
        if response.status == 200 {
            client.reset();
            self.proxy.wait_until_left();
            self.books.lock().begun.clear(); // opens the gates
            self.wait_until_settled();
        }
        response
    }

    fn wait_until_settled(&self) {
        let start = Instant::now();
        while self.proxy.metrics()["openai_proxy_requests_in_flight"] > 0.0 {
            assert!(start.elapsed() < DEADLINE, "a request does not end");
        }
    }

    /// What the ledger has of a user, once it has so many records.
    fn counted(&self, user: &str, records: usize) -> Counted {
        let start = Instant::now();
        loop {
            let usage = self.proxy.usage(&format!("user_id={user}&limit=1000"));
            if usage["totals"]["requests"] == json!(records) {
                let rows = usage["data"].as_array().unwrap();
                let costs = rows.iter().map(|row| row["cost_nano_usd"].as_u64());
                return Counted {
                    sources: rows.iter().map(|row| row["usage_source"].as_str().unwrap().to_owned()).collect(),
                    tokens: usage["totals"]["total_tokens"].as_u64().unwrap(),
                    nano_usd: costs.sum(),
                };
            }
            assert!(start.elapsed() < DEADLINE, "{user}: {records} records, not {usage}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What a user truly spent, and the dearest of it, nano-dollars.
    fn spent(&self, user: &str) -> (u64, u64) {
        let state = self.books.lock();
        let spent = state.spent.get(user).map(Vec::as_slice).unwrap_or_default();
        (spent.iter().sum(), spent.iter().copied().max().unwrap_or(0))
    }

    /// Sends requests at once; each is decided before any is answered. How many got a 200.
    fn crowd(&self, requests: &[Vec<u8>]) -> usize {
        let (refused, passed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (refused_here, passed_here) = (&refused, &passed);
        self.books.hold(true);
        thread::scope(|scope| {
            for request in requests {
                scope.spawn(move || {
                    let mut client = Client::connect(self.proxy.addr());
                    client.send(request);
                    // One that is cut by the target has passed as well.
                    let is_refused = client.try_response("POST").is_ok_and(|response| response.status >= 400);
                    let counter = if is_refused { refused_here } else { passed_here };
                    counter.fetch_add(1, Ordering::SeqCst);
                });
            }
            let start = Instant::now();
            while self.books.lock().waiting + refused.load(Ordering::SeqCst) < requests.len() {
                assert!(start.elapsed() < DEADLINE, "not all are decided");
                thread::sleep(Duration::from_millis(2));
            }
            self.books.hold(false);
        });
        self.wait_until_settled();
        passed.into_inner()
    }
}

fn user(row: usize) -> String {
    format!("row-{row}")
}

/// A row's request by a user.
fn bytes(user: &str, row: &Row) -> Vec<u8> {
    let mut head =
        format!("{} {} HTTP/1.1\r\nhost: localhost\r\nx-user-id: {user}\r\nx-row: {user}\r\n", row.method, row.target);
    for (name, value) in &row.fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", row.body.len()));
    [head.as_bytes(), &row.body].concat()
}

/// What came of a request: its status, and the proxy's own code.
fn came(response: &Response) -> (u16, String) {
    (response.status, response.head.get("x-proxy-error").unwrap_or_default().to_owned())
}

fn none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// A row asked several times in turn: what is wrong with it.
fn in_turn(world: &World, user: &str, row: &Row, comes: Comes) -> Vec<String> {
    let came: Vec<_> = (0..TIMES).map(|_| came(&world.ask(user, row))).collect();
    let passed = came.iter().filter(|(status, _)| *status == 200).count();
    let (spent, dearest) = world.spent(user);
    let tokens = world.books.lock().tokens.get(user).copied().unwrap_or(0);
    let counted = world.counted(user, passed);
    let mut found = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            found.push(format!("{}: {what}: {came:?}, {counted:?}, truly {spent} nano-dollars", row.name));
        }
    };
    must(spent <= BUDGET + dearest, "more was spent than the budget and one request");
    match comes {
        Comes::Refused(status, code) => {
            must(
                came.iter().all(|came| *came == (status, code.to_owned())),
                &format!("not refused with {status} {code}"),
            );
        }
        Comes::Through(source) => {
            must(came[0].0 == 200, "it does not pass");
            let is_refusal = |came: &(u16, String)| came.0 == 200 || came.0 == 429;
            must(came.iter().all(is_refusal), "refused otherwise than for the budget");
            must(counted.sources.iter().all(|found| found == source), &format!("not {source}"));
            let is_exact = counted.nano_usd == Some(spent) && (tokens == 0 || counted.tokens == tokens);
            // An estimate is no more than what was held, which is all that was left of the budget.
            let is_enough = counted.nano_usd.is_none_or(|nano_usd| nano_usd >= spent.min(BUDGET));
            must(if matches!(source, "reported" | "drained") { is_exact } else { is_enough }, "not what it costs");
        }
    }
    found
}

#[test]
fn under_a_budget_no_spelling_spends_more_than_it_and_one_request() {
    let rows = rows::all();
    let world = World::new(&rows, LIMITED);
    let found: Vec<_> = (0..).zip(&rows).flat_map(|(n, row)| in_turn(&world, &user(n), row, row.limited)).collect();
    none(&found);
}

/// The target holds its answers back until all are decided.
#[test]
fn nor_does_any_at_once() {
    let rows = rows::all();
    let world = World::new(&rows, LIMITED);
    let mut found = Vec::new();
    for (n, row) in (0..).zip(&rows) {
        if row.leaves || !matches!(row.limited, Comes::Through(_)) {
            continue;
        }
        let passed = world.crowd(&vec![bytes(&user(n), row); CROWD]);
        let (spent, dearest) = world.spent(&user(n));
        if passed == 0 || spent > BUDGET + dearest {
            found.push(format!("{}: {passed} of {CROWD} passed, truly {spent} nano-dollars", row.name));
        }
    }
    none(&found);
}

/// What a target makes of what came through must be what it would make of it alone.
#[test]
fn without_a_budget_all_passes_as_it_came_and_nothing_that_costs_is_free() {
    let rows = rows::all();
    let world = World::new(&rows, &[]);
    let mut found = Vec::new();
    for (n, row) in (0..).zip(&rows) {
        let response = world.ask(&user(n), row);
        let mut must = |holds: bool, what: String| {
            if !holds {
                found.push(format!("{}: {what}", row.name));
            }
        };
        let Comes::Through(source) = row.free else {
            must(
                matches!(row.free, Comes::Refused(status, code) if came(&response) == (status, code.into())),
                format!("{:?}", came(&response)),
            );
            continue;
        };
        let (spent, _) = world.spent(&user(n));
        let arrived = world.books.lock().last.clone();
        must(response.status == 200, format!("it does not pass: {:?}", came(&response)));
        must(arrived.0 == row.target, format!("its target has changed: {:?}", arrived.0));
        must((arrived.1 == row.body) != row.is_edited, "its body is not what it should be".into());
        if !row.leaves {
            let asked = Asked { method: row.method, target: &row.target, fields: row.fields.clone(), body: &row.body };
            let alone = target::serve(&asked, &row.answer).reply;
            // One that calls itself what it is not cannot be edited.
            let expected = match row.answer {
                Answer::Gzip("gzip") if row.is_edited => target::unpacked(&alone.body),
                _ => alone.body,
            };
            let is_same = response.body == expected || row.answer == Answer::Gzip("br");
            must(is_same, format!("another answer: {:.300}", response.text()));
        }
        let counted = world.counted(&user(n), 1);
        must(counted.sources == [source], format!("{:?}, not {source}", counted.sources));
        must(
            counted.nano_usd != Some(0) || spent == 0 || source == "none",
            format!("it cost {spent}, recorded as free"),
        );
        must(
            source != "reported" || counted.nano_usd.is_none_or(|nano_usd| nano_usd == spent),
            format!("{:?}, it cost {spent}", counted.nano_usd),
        );
    }
    none(&found);
}

/// What the operator can choose: requests that nobody can meter pass, and are not recorded as free; the rest stays.
#[test]
fn unmetered_requests_pass_where_the_operator_says_so() {
    let rows = rows::all();
    let vars = [("UNMETERED", "allow"), ("BUDGET_RESERVE", "average"), ("ON_CLIENT_ABORT", "drain")];
    let world = World::new(&rows, &[LIMITED, &vars].concat());
    let mut found = Vec::new();
    for (n, row) in (0..).zip(&rows) {
        let came = came(&world.ask(&user(n), row));
        let comes = if row.limited == rows::UNMETERED { row.free } else { row.limited };
        let is_right = match comes {
            Comes::Refused(status, code) => came == (status, code.into()),
            Comes::Through(source) => came.0 == 200 && world.counted(&user(n), 1).sources == [source],
        };
        if !is_right {
            found.push(format!("{}: {came:?}, not {comes:?}", row.name));
        }
    }
    none(&found);
}

/// Who leaves an answer that is cancelled is charged for what it may have become.
#[test]
fn leaving_early_spends_no_more_where_answers_are_cancelled() {
    let rows: Vec<Row> = rows::all().into_iter().filter(|row| row.leaves).collect();
    assert!(!rows.is_empty());
    let world = World::new(&rows, &[LIMITED, &[("ON_CLIENT_ABORT", "cancel")]].concat());
    let found: Vec<_> = (0..).zip(&rows).flat_map(|(n, row)| in_turn(&world, &user(n), row, rows::ESTIMATED)).collect();
    none(&found);
}

/// 500 at once against 1 USD, wave after wave until nothing passes: each answer has 16,000 tokens, or all that its model
/// can put out.
#[test]
fn five_hundred_at_once_spend_the_budget_and_one_answer_at_most() {
    let one_usd = ("BUDGET_USD_DAY", "1");
    let request = |members: &str| {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"Count"}}],{members}}}"#);
        let head = "x-user-id: u\r\nx-row: u\r\ncontent-type: application/json";
        let length = body.len();
        format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}")
            .into_bytes()
    };
    let allow = ("UNMETERED", "allow");
    for (what, vars, primed, members, passes) in [
        ("no maximum", &[one_usd][..], 0, r#""model":"gpt-4o""#, 6),
        ("a stated maximum", &[one_usd], 0, r#""model":"gpt-4o","max_tokens":16000"#, 6),
        ("a primed average", &[one_usd], 30, r#""model":"gpt-4o""#, 6),
        ("no price", &[one_usd], 0, r#""model":"alias","max_tokens":16000"#, 0),
        ("no price, and allowed", &[one_usd, allow], 0, r#""model":"alias","max_tokens":16000"#, 1),
    ] {
        let world = World::new(&[], vars);
        for _ in 0..primed {
            let mut client = Client::connect(world.proxy.addr());
            client.send(request(r#""model":"gpt-4o","max_tokens":1"#));
            client.response("POST").expect(200);
        }
        let mut passed = world.crowd(&vec![request(members); 500]);
        assert_eq!(passed, passes, "{what}");
        while passed > 0 {
            passed = world.crowd(&vec![request(members); CROWD]);
        }
        let (spent, dearest) = world.spent("u");
        assert!(spent <= 1_000_000_000 + dearest, "{what}: {spent}");
        assert!(spent > 900_000_000 || passes == 0, "{what}: a budget that cannot be used: {spent}");
    }
}
