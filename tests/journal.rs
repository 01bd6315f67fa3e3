//! `LEDGER_DURABILITY=journaled` through the binary: no request reaches the target without a row, whatever happens to
//! the proxy; and no entry of a proxy that lives is taken for one of a dead one. Left to others: the same under load,
//! at instants that nobody chose (`ledger_crash`).

mod support;

use rusqlite::Connection;
use serde_json::json;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use support::DEADLINE;
use support::client::{Client, get, post_json};
use support::proxy::Proxy;
use support::script::{Reply, Step, gate};
use support::upstream::Upstream;

const CHAT: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}"#;
const TARGET: &str = "/v1/chat/completions";

/// An upstream that tells of each request and answers it when its gate is opened.
struct Held {
    upstream: Upstream,
    seen: Receiver<Sender<()>>,
}

fn held() -> Held {
    let (tell, seen) = channel();
    let tell = Mutex::new(tell);
    let upstream = Upstream::plain(move |_| {
        let (open, wait) = gate();
        tell.lock().unwrap().send(open).unwrap();
        let steps = Reply::json(r#"{"id":"c","model":"gpt-4o","usage":{"prompt_tokens":3,"completion_tokens":2}}"#);
        [wait].into_iter().chain(steps.steps()).collect::<Vec<Step>>()
    });
    Held { upstream, seen }
}

impl Held {
    fn proxy(&self, folder: tempfile::TempDir, more: &[(&str, &str)]) -> Proxy {
        let target = self.upstream.url();
        let vars = [("PROXY_TARGET", target.as_str()), ("LEDGER_DURABILITY", "journaled")];
        Proxy::start_in(folder, &[&vars[..], more].concat())
    }

    fn next(&self) -> Sender<()> {
        self.seen.recv_timeout(DEADLINE).expect("the request arrives")
    }
}

fn ask(proxy: &Proxy, user: &str) -> Client {
    let mut client = Client::connect(proxy.addr());
    let fields = [("content-type", "application/json"), ("x-user-id", user)];
    client.send_request("POST", TARGET, &fields, CHAT.as_bytes());
    client
}

/// Entries in the journal.
fn open_entries(database: &Path) -> i64 {
    let conn = Connection::open(database).unwrap();
    conn.query_row("SELECT count(*) FROM journal", [], |row| row.get(0)).unwrap()
}

/// Files beside the ledger by which its owners are known to live.
fn locks(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().contains("-open-")).count()
}

#[test]
fn a_request_that_was_open_at_a_kill_is_interrupted() {
    let held = held();
    let mut proxy = held.proxy(tempfile::tempdir().unwrap(), &[]);
    let mut whole = ask(&proxy, "ann");
    held.next().send(()).unwrap();
    whole.response("POST").expect(200);
    let _open = ask(&proxy, "bob");
    let _gate = held.next();
    assert_eq!(open_entries(&proxy.database()), 1, "the target has it, and so has the journal");
    proxy.kill();
    let mut proxy = held.proxy(proxy.into_folder(), &[]);
    let row = proxy.only_row("bob");
    assert_eq!((&row["outcome"], &row["usage_source"]), (&json!("interrupted"), &json!("unknown")));
    assert_eq!((&row["model_requested"], &row["endpoint"]), (&json!("gpt-4o"), &json!("chat/completions")));
    assert_eq!((&row["cost_nano_usd"], &row["status"]), (&json!(null), &json!(0)));
    assert_eq!(proxy.only_row("ann")["total_tokens"], 5);
    assert_eq!(open_entries(&proxy.database()), 0);
    assert_eq!(locks(proxy.folder()), 1, "the dead one's lock is gone");
    assert!(proxy.terminate().success());
    assert_eq!(locks(proxy.folder()), 0);
}

#[test]
fn a_client_that_leaves_closes_its_entry_with_a_record() {
    let held = held();
    let proxy = held.proxy(tempfile::tempdir().unwrap(), &[]);
    let client = ask(&proxy, "ann");
    let _gate = held.next();
    drop(client);
    while proxy.usage("user_id=ann")["totals"]["requests"] == 0 {
        std::thread::yield_now();
    }
    assert_eq!(proxy.only_row("ann")["outcome"], "client_aborted");
    assert_eq!(open_entries(&proxy.database()), 0);
}

/// What cannot be journaled is not sent; what was not sent leaves no entry.
#[test]
fn a_request_without_an_entry_is_refused_and_not_sent() {
    let held = held();
    let proxy = held.proxy(tempfile::tempdir().unwrap(), &[("LEDGER_WAIT", "100ms")]);
    let other = Connection::open(proxy.database()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let fields = [("x-user-id", "ann")];
    let refused = post_json(proxy.addr(), TARGET, &fields, CHAT).expect_proxy_error(503, "ledger_unavailable");
    assert_eq!(refused.head.get("connection"), Some("close"));
    assert!(held.upstream.requests().is_empty());
    other.execute_batch("ROLLBACK").unwrap();
    while get(proxy.addr(), "/readyz").status != 200 {
        std::thread::yield_now(); // the ledger tries again only after a pause
    }
    let mut client = ask(&proxy, "bob");
    held.next().send(()).unwrap();
    client.response("POST").expect(200);
    assert_eq!(open_entries(&proxy.database()), 0);
    assert_eq!(proxy.usage("")["totals"]["requests"], 1);
}

/// Two proxies on one file: the start of one leaves alone what the other has open.
#[test]
fn entries_of_a_proxy_that_lives_stay_open() {
    let held = held();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.db");
    let shared = [("DATABASE_PATH", path.to_str().unwrap())];
    let first = held.proxy(tempfile::tempdir().unwrap(), &shared);
    let mut client = ask(&first, "ann");
    let gate = held.next();
    let mut second = held.proxy(tempfile::tempdir().unwrap(), &shared);
    assert_eq!(open_entries(&path), 1);
    assert_eq!(second.usage("user_id=ann")["totals"]["requests"], 0);
    let _open = ask(&second, "bob");
    let _bobs_gate = held.next();
    second.kill();
    gate.send(()).unwrap();
    client.response("POST").expect(200);
    assert_eq!(first.usage("user_id=ann")["totals"]["input_tokens"], 3);
    let third = held.proxy(tempfile::tempdir().unwrap(), &shared);
    assert_eq!(third.only_row("bob")["outcome"], "interrupted");
    assert_eq!(open_entries(&path), 0);
}

/// A proxy that is killed while nothing is open leaves an empty lock: the next start takes it away, and none of another
/// proxy that lives.
#[test]
fn locks_of_the_dead_are_taken_away() {
    let held = held();
    let mut idle = held.proxy(tempfile::tempdir().unwrap(), &[]);
    let locks = |folder: &Path| {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("-open-")).collect::<Vec<_>>()
    };
    let first = locks(idle.folder());
    assert_eq!(first.len(), 1);
    idle.kill();
    let folder = idle.into_folder();
    assert_eq!(locks(folder.path()), first, "it could not take it away itself");
    let database = folder.path().join("usage.db");
    let second = held.proxy(folder, &[]);
    let mine = locks(second.folder());
    assert!(mine.len() == 1 && mine != first, "{mine:?}");
    let third = held.proxy(tempfile::tempdir().unwrap(), &[("DATABASE_PATH", database.to_str().unwrap())]);
    let both = locks(second.folder());
    assert!(both.len() == 2 && both.contains(&mine[0]), "{both:?}");
    drop(third);
}
