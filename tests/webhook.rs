//! Who is told of budgets (`ALERT_WEBHOOK_URL`): one message that is taken for each threshold that a budget passes, at
//! each level, whatever becomes of the receiver, of the proxy and of the budget; and nothing of the address in a log.
//! Left to others: what a message says (beside `worker::budget_alerts`), the table (beside `ledger::alert_outbox`).

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use openai_api_proxy::ledger::database;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::client::post_json;
use support::proxy::{Proxy, done};
use support::script::{Reply, Step, gate};
use support::until;
use support::upstream::Upstream;

const CHAT: &str = "/v1/chat/completions";
const PATH: &str = "/services/hush-token?key=hush-key";
/// Ten thousand output tokens of gpt-4o-mini; one input token costs a quarter of one.
const BUDGET_USD: &str = "0.006";

/// What the receiver does with a message.
enum Mood {
    Answer(Reply),
    /// Says nothing for as long as the test keeps the gate.
    Hang(Step),
    Reset,
}

/// A receiver whose moods come in the order in which they are set, and that takes everything afterwards.
struct Webhook {
    server: Upstream,
    moods: Arc<Mutex<VecDeque<Mood>>>,
    taken: Arc<Mutex<Vec<Value>>>,
}

impl Webhook {
    fn new(moods: impl IntoIterator<Item = Mood>) -> Self {
        let moods: Arc<Mutex<VecDeque<Mood>>> = Arc::new(Mutex::new(moods.into_iter().collect()));
        let taken: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (next, all) = (Arc::clone(&moods), Arc::clone(&taken));
        let server = Upstream::plain(move |request| {
            assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", PATH));
            assert_eq!(request.head.get("content-type"), Some("application/json"));
            match next.lock().unwrap().pop_front() {
                Some(Mood::Answer(reply)) => reply.steps(),
                Some(Mood::Hang(step)) => vec![step, Step::Close],
                Some(Mood::Reset) => vec![Step::Reset],
                None => {
                    all.lock().unwrap().push(request.json());
                    Reply::new(200, "ok").steps()
                }
            }
        });
        Self { server, moods, taken }
    }

    fn url(&self) -> String {
        self.server.url() + PATH
    }

    /// Who was told of, and at which threshold.
    fn taken(&self) -> Vec<String> {
        let taken = self.taken.lock().unwrap();
        taken
            .iter()
            .map(|m| format!("{} {} {} {}", text(m, "level"), text(m, "name"), text(m, "period"), m["threshold"]))
            .collect()
    }

    #[track_caller]
    fn wait_for(&self, expected: &[&str]) {
        until(&format!("{expected:?} in {:?}", self.taken()), || self.taken().len() >= expected.len());
        let mut taken = self.taken();
        let mut expected = expected.to_vec();
        taken.sort_unstable();
        expected.sort_unstable();
        assert_eq!(taken, expected);
    }
}

fn text<'v>(message: &'v Value, field: &str) -> &'v str {
    message[field].as_str().unwrap_or_else(|| panic!("no {field} in {message}"))
}

/// Output tokens are what the request wants, whatever it has a limiter expect.
fn target() -> Upstream {
    Upstream::plain(|request| {
        let tokens = request.json()["user"].as_str().and_then(|tokens| tokens.parse::<u64>().ok()).unwrap();
        let usage = json!({"prompt_tokens": 4, "completion_tokens": tokens - 1, "total_tokens": tokens + 3});
        Reply::json(json!({"model": "gpt-4o-mini", "choices": [], "usage": usage}).to_string()).steps()
    })
}

/// Spends what so many output tokens cost, as soon as a budget that was just changed lets it.
#[track_caller]
fn spend(proxy: &Proxy, user: &str, tokens: u64) {
    let body = json!({"model": "gpt-4o-mini", "max_tokens": 1, "user": tokens.to_string()}).to_string();
    let is_let = || post_json(proxy.addr(), CHAT, &[("x-user-id", user)], &body).head.status() == 200;
    until(&format!("{user} may spend {tokens}"), is_let);
}

fn vars<'v>(target: &'v str, url: &'v str) -> Vec<(&'v str, &'v str)> {
    vec![("PROXY_TARGET", target), ("ALERT_WEBHOOK_URL", url), ("RATE_LIMIT_RPM", "0")]
}

/// Nothing of the address but its host is in the log.
#[track_caller]
fn assert_discreet(proxy: &Proxy, webhook: &Webhook) {
    let log = proxy.stderr();
    assert!(!log.contains("hush") && !log.contains("/services"), "{log}");
    assert!(log.contains(&webhook.server.url()), "{log}");
}

#[test]
fn each_level_and_period_is_told_once_at_each_threshold() {
    let (upstream, webhook) = (target(), Webhook::new([]));
    let (to, url) = (upstream.url(), webhook.url());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("url"), format!("{url}\n")).unwrap();
    for user in ["太郎", "hana"] {
        done(folder.path(), &format!("users set {user} --team x"));
    }
    done(folder.path(), "limits set --team x --usd-month 0.012");
    let mut vars = vars(&to, "url");
    vars[1].0 = "ALERT_WEBHOOK_URL_FILE";
    vars.extend([("BUDGET_USD_DAY", BUDGET_USD), ("TOTAL_BUDGET_USD_DAY", "0.024")]);
    let mut proxy = Proxy::start_in(folder, &vars);
    let mut expected = Vec::new();
    for (user, below, rest, told) in [
        ("太郎", 7_999, 1, "user 太郎 day 80"),
        ("太郎", 1_900, 100, "user 太郎 day 100"),
        ("hana", 5_999, 1, "team x month 80"),
        ("c", 7_999, 1, "user c day 80"),
        ("e", 7_900, 0, ""),
        ("d", 7_999, 1, "user d day 80"),
    ] {
        spend(&proxy, user, below);
        if rest > 0 {
            spend(&proxy, user, rest);
            expected.push(told);
        }
        if user == "d" {
            expected.push("total  day 80"); // 39,900 of 40,000 by then
        }
        webhook.wait_for(&expected);
    }
    spend(&proxy, "f", 100);
    expected.push("total  day 100");
    webhook.wait_for(&expected);
    let first = webhook.taken.lock().unwrap()[0].clone();
    let amounts = ["spent_usd", "budget_usd", "percent"].map(|field| first[field].as_f64().unwrap());
    assert_eq!(amounts, [0.0048, 0.006, 80.0]);
    assert!(text(&first, "text").starts_with("User `太郎` has spent 80 % of the budget for 2"), "{first}");
    assert!(proxy.terminate().success());
    assert_discreet(&proxy, &webhook);
    // Nor does a start say it again.
    let folder = proxy.into_folder();
    let proxy = Proxy::start_in(folder, &vars);
    done(proxy.folder(), "limits set --total --usd-day 0.0250");
    expected.push("total  day 80");
    webhook.wait_for(&expected);
    assert_eq!(webhook.server.requests().len(), expected.len());
}

#[test]
fn a_receiver_that_fails_in_every_way_takes_each_message_once() {
    let (open, hang) = gate();
    let status = |status| Mood::Answer(Reply::new(status, "hush"));
    let elsewhere = Mood::Answer(Reply::new(307, "").field("location", "/services/other"));
    let later = Mood::Answer(Reply::new(429, "").field("retry-after", "1"));
    let webhook = Webhook::new([status(500), elsewhere, later, Mood::Reset, status(404), Mood::Hang(hang)]);
    let upstream = target();
    let (to, url) = (upstream.url(), webhook.url());
    let mut vars = vars(&to, &url);
    vars.push(("BUDGET_USD_DAY", BUDGET_USD));
    let mut proxy = Proxy::start(&vars);
    spend(&proxy, "a", 8_000);
    until("it hangs", || webhook.moods.lock().unwrap().is_empty());
    assert_eq!(webhook.taken(), [""; 0]);
    // The loop goes on meanwhile, and more is noticed.
    spend(&proxy, "a", 2_000);
    spend(&proxy, "b", 8_000);
    drop(open);
    webhook.wait_for(&["user a day 80", "user a day 100", "user b day 80"]);
    assert_eq!(webhook.server.requests().len(), 9);
    let failing = proxy.wait_for_log("budget alerts cannot be sent");
    assert!(failing.contains("status 500"), "{failing}");
    proxy.wait_for_log("redirects are not followed");
    proxy.wait_for_log("budget alerts are sent again");
    assert!(proxy.terminate().success());
    assert_discreet(&proxy, &webhook);
}

#[test]
fn a_message_that_is_refused_keeps_no_other_from_its_receiver() {
    let webhook = Webhook::new([Mood::Answer(Reply::new(400, "no"))]);
    let upstream = target();
    let (to, url) = (upstream.url(), webhook.url());
    let mut vars = vars(&to, &url);
    vars.push(("BUDGET_USD_MONTH", BUDGET_USD));
    let proxy = Proxy::start(&vars);
    spend(&proxy, "a", 10_000);
    webhook.wait_for(&["user a month 100", "user a month 80"]);
    assert_eq!(
        webhook.taken(),
        ["user a month 100", "user a month 80"],
        "the one that was refused came first, and last"
    );
}

#[test]
fn what_was_noticed_is_told_after_kill_9() {
    let (open, hang) = gate();
    let webhook = Webhook::new([Mood::Hang(hang)]);
    let upstream = target();
    let (to, url) = (upstream.url(), webhook.url());
    let mut vars = vars(&to, &url);
    vars.push(("BUDGET_USD_DAY", BUDGET_USD));
    let proxy = Proxy::start(&vars);
    spend(&proxy, "a", 8_000);
    until("it hangs", || webhook.moods.lock().unwrap().is_empty());
    let folder = proxy.into_folder(); // killed
    drop(open);
    // The budget is another by now; what was noticed is told all the same.
    done(folder.path(), "limits set a --usd-day 1");
    let proxy = Proxy::start_in(folder, &vars);
    webhook.wait_for(&["user a day 80"]);
    // Else it may be sent again, as whoever takes it is told.
    let ledger = database::open_reader(&proxy.folder().join("usage.db")).unwrap();
    let unsent = "SELECT count(*) FROM alerts WHERE sent_at IS NULL";
    until("it is marked", || ledger.query_row(unsent, [], |row| row.get::<_, i64>(0)).unwrap() == 0);
    drop(ledger);
    // What passes while it is down is noticed by the next start.
    let folder = proxy.into_folder();
    let proxy = Proxy::start_in(folder, &vars[..1]);
    spend(&proxy, "b", 10_000);
    let folder = proxy.into_folder();
    let proxy = Proxy::start_in(folder, &vars);
    webhook.wait_for(&["user a day 80", "user b day 80", "user b day 100"]);
    drop(proxy);
}

#[test]
fn of_two_servers_on_one_file_one_speaks_and_the_other_takes_its_place() {
    let (open, hang) = gate();
    let webhook = Webhook::new([Mood::Hang(hang)]);
    let upstream = target();
    let (to, url) = (upstream.url(), webhook.url());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let mut vars = vars(&to, &url);
    vars.extend([("BUDGET_USD_DAY", BUDGET_USD), ("DATABASE_PATH", path.to_str().unwrap())]);
    let (mut first, second) = (Proxy::start(&vars), Proxy::start(&vars));
    spend(&first, "a", 4_000);
    spend(&second, "a", 4_000);
    until("it hangs", || webhook.moods.lock().unwrap().is_empty());
    spend(&second, "b", 8_000);
    // The other one looks meanwhile, and has nothing to send.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(webhook.taken(), [""; 0]);
    drop(open);
    webhook.wait_for(&["user a day 80", "user b day 80"]);
    first.kill();
    spend(&second, "a", 2_000);
    webhook.wait_for(&["user a day 80", "user a day 100", "user b day 80"]);
    let _third = Proxy::start(&vars);
    spend(&second, "b", 2_000);
    webhook.wait_for(&["user a day 80", "user a day 100", "user b day 80", "user b day 100"]);
}

#[test]
fn a_budget_that_is_changed_is_told_of_as_another() {
    let webhook = Webhook::new([]);
    let upstream = target();
    let (to, url) = (upstream.url(), webhook.url());
    let folder = tempfile::tempdir().unwrap();
    let dotenv = folder.path().join(".env");
    std::fs::write(&dotenv, "BUDGET_USD_DAY=1\n").unwrap();
    let proxy = Proxy::start_in(folder, &vars(&to, &url));
    let set = |budget: &str| done(proxy.folder(), &format!("limits set a --usd-day {budget}"));
    spend(&proxy, "a", 8_000);
    spend(&proxy, "b", 1_000);
    let mut expected = Vec::new();
    set(BUDGET_USD); // lowered, below what is spent already
    expected.push("user a day 80");
    webhook.wait_for(&expected);
    set("0.012"); // raised: 80 % of it is 9,600 more
    spend(&proxy, "a", 7_999);
    spend(&proxy, "a", 1);
    expected.push("user a day 80");
    webhook.wait_for(&expected);
    set("0"); // none
    spend(&proxy, "a", 10_000);
    set(BUDGET_USD); // the first again: that it passed 80 % is known
    expected.push("user a day 100");
    webhook.wait_for(&expected);
    std::fs::write(&dotenv, "BUDGET_USD_DAY=0.0006\n").unwrap();
    proxy.signal(Signal::HUP);
    expected.extend(["user b day 80", "user b day 100"]);
    webhook.wait_for(&expected);
}
