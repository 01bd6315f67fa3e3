//! Against a server in the test that fails in every way that servers do.

use super::account::{append, of_ledger, wait_for_metric, wait_until_exported};
use super::fake::{lines, server, taken};
use super::support::ca::{Ca, Server::Usual};
use super::support::client::post_json;
use super::support::proxy::Proxy;
use super::support::script::{Reply, Step};
use super::support::upstream::Upstream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const DATABASE: (&str, &str) = ("INFLUXDB_DATABASE", "usage");

/// A folder with a ledger of so many records.
fn ledger(records: usize, seed: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    append(&folder.path().join("usage.db"), records, seed);
    folder
}

/// A proxy that exports there.
fn exporting(folder: tempfile::TempDir, influx: &Upstream, vars: &[(&str, &str)]) -> Proxy {
    let url = influx.url();
    Proxy::start_in(folder, &[&[("INFLUXDB_URL", url.as_str())], vars].concat())
}

#[test]
fn the_history_and_what_is_new_are_exported() {
    let (influx, store) = server(|_, _| None);
    let upstream = Upstream::plain(|_| Reply::json(r#"{"model":"m","usage":{"prompt_tokens":3}}"#).steps());
    let (target, url) = (upstream.url(), influx.url());
    let vars = [
        ("PROXY_TARGET", target.as_str()),
        ("INFLUXDB_URL", url.as_str()),
        ("INFLUXDB_BUCKET", "a b"),
        ("INFLUXDB_ORG", "o"),
        ("INFLUXDB_TOKEN", "secret=="),
    ];
    let mut proxy = Proxy::start_in(ledger(12_000, 1), &vars);
    for user in ["太郎", "x,y= \\", "%41"] {
        post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", user)], "{}").expect(200);
    }
    wait_until_exported(&proxy);
    let expected = of_ledger(&proxy.database());
    assert_eq!(expected.values().map(|sums| sums[0]).sum::<i64>(), 12_003);
    assert_eq!(store.account(), expected);
    wait_for_metric(&proxy, "openai_proxy_influx_lag_seconds", |lag| lag == 0.0);
    let metrics = proxy.metrics();
    for (name, value) in [("up", 1.0), ("lag_records", 0.0), ("lines_sent_total", 12_003.0), ("failures_total", 0.0)] {
        assert_eq!(metrics[&format!("openai_proxy_influx_{name}")], value, "{name}");
    }
    let seen = influx.requests();
    assert!(seen.iter().all(|request| request.target == "/api/v2/write?bucket=a%20b&org=o&precision=ns"));
    assert!(seen.iter().all(|request| request.head.get("authorization") == Some("Token secret==")));
    assert!(proxy.terminate().success());
    assert!(!proxy.stderr().contains("secret"), "{}", proxy.stderr());
}

#[test]
fn without_backfill_the_export_begins_at_the_first_start() {
    let (influx, store) = server(|_, _| None);
    let vars = [DATABASE, ("INFLUXDB_BACKFILL", "false")];
    let proxy = exporting(ledger(300, 2), &influx, &vars);
    let before = of_ledger(&proxy.database());
    append(&proxy.database(), 50, 3);
    wait_until_exported(&proxy);
    // Not what is there at a later start.
    let folder = proxy.into_folder();
    append(&folder.path().join("usage.db"), 50, 4);
    let proxy = exporting(folder, &influx, &vars);
    wait_until_exported(&proxy);
    let mut account = store.account();
    for (names, sums) in before {
        let exported = account.entry(names).or_default();
        exported.iter_mut().zip(sums).for_each(|(exported, before)| *exported += before);
    }
    assert_eq!(account, of_ledger(&proxy.database()));
}

/// One after the other: errors, a pause asked for, a wrong password, a reset, an answer that is cut, one that never comes.
/// What a server took without saying so is there once.
#[test]
fn a_server_that_fails_in_every_way_has_everything_once_in_the_end() {
    let (influx, store) = server(|nth, _| match nth {
        0 => Some(Reply::new(500, "oops").steps()),
        2 => Some(Reply::new(429, "slow down").field("retry-after", "1").steps()),
        3 => Some(Reply::new(401, "who?").steps()),
        5 => Some(vec![Step::Reset]),
        6 => Some(vec![Step::Send(b"HTTP/1.1 204 No Con".to_vec()), Step::Cut]),
        8 => Some(Reply::new(307, "").field("location", "http://127.0.0.1:1/").steps()),
        _ => None,
    });
    let proxy = exporting(ledger(20_000, 5), &influx, &[DATABASE]);
    wait_until_exported(&proxy);
    assert_eq!(store.account(), of_ledger(&proxy.database()));
    for told in ["500 oops", "429 slow down", "401 who?", "influx export works again"] {
        proxy.wait_for_log(told);
    }
    let metrics = proxy.metrics();
    assert_eq!(metrics["openai_proxy_influx_failures_total"], 6.0);
    assert_eq!(metrics["openai_proxy_influx_lines_refused_total"], 0.0);
}

#[test]
fn the_pause_that_a_server_asks_for_is_made() {
    let times = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = times.clone();
    let (influx, _) = server(move |nth, _| {
        noted.lock().unwrap().push(Instant::now());
        (nth == 0).then(|| Reply::new(503, "").field("retry-after", "3").steps())
    });
    let proxy = exporting(ledger(1, 6), &influx, &[DATABASE]);
    wait_until_exported(&proxy);
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 2);
    assert!(times[1] - times[0] >= Duration::from_secs(3));
}

/// The poison is in the middle of full batches, and is passed over; everything else is there.
#[test]
fn a_line_that_the_server_refuses_is_set_aside_alone() {
    let (influx, store) = server(|_, request| {
        // Every 2,500th record or so: all whose input is of this number.
        let is_poison = |line: &str| line.contains(",output_tokens=1234i,") || line.contains(",output_tokens=4321i,");
        lines(request).lines().any(is_poison).then(|| Reply::new(400, "unable to parse").steps())
    });
    let proxy = exporting(ledger(12_000, 7), &influx, &[DATABASE]);
    wait_until_exported(&proxy);
    let conn = super::support::rows::reader(&proxy.database());
    let mut statement = conn.prepare("SELECT id FROM records WHERE output_tokens IN (1234, 4321)").unwrap();
    let poison: Vec<i64> = statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert!(!poison.is_empty(), "another seed, please");
    for id in &poison {
        proxy.wait_for_log(&format!(" record={id} error=\"400 unable to parse\""));
    }
    assert_eq!(proxy.metrics()["openai_proxy_influx_lines_refused_total"], poison.len() as f64);
    let points: i64 = store.account().values().map(|sums| sums[0]).sum();
    assert_eq!(points, 12_000 - poison.len() as i64);
}

/// A wrong path, or something else that answers 400 to everything, costs no record.
#[test]
fn a_server_that_refuses_everything_loses_nothing() {
    let (influx, store) = server(|nth, _| (nth < 150).then(|| Reply::new(400, "what?").steps()));
    let proxy = exporting(ledger(40, 8), &influx, &[DATABASE]);
    proxy.wait_for_log("it refuses every line: 400 what?");
    wait_until_exported(&proxy);
    assert_eq!(store.account(), of_ledger(&proxy.database()));
    assert_eq!(proxy.metrics()["openai_proxy_influx_lines_refused_total"], 0.0);
}

/// Neither a request of a client nor the end of the proxy waits for a server that does not answer.
#[test]
fn a_server_that_hangs_holds_nothing_up() {
    let (influx, _) = server(|_, _| Some(vec![Step::AwaitClose]));
    let upstream = Upstream::plain(|_| Reply::json("{}").steps());
    let target = upstream.url();
    let mut proxy = exporting(ledger(100, 9), &influx, &[DATABASE, ("PROXY_TARGET", target.as_str())]);
    wait_for_metric(&proxy, "openai_proxy_influx_lag_records", |lag| lag == 100.0);
    post_json(proxy.addr(), "/v1/chat/completions", &[], "{}").expect(200);
    assert_eq!(proxy.usage("")["totals"]["requests"], 101);
    assert!(proxy.metrics()["openai_proxy_influx_lag_seconds"] > 3600.0, "its oldest record is two hours old");
    assert!(proxy.terminate().success());
}

/// Killed at any instant, and started again, over and over.
#[test]
fn a_proxy_that_is_killed_goes_on_where_it_was() {
    let (influx, store) = server(|nth, _| (nth % 3 == 2).then(|| vec![Step::Reset]));
    let mut folder = ledger(20_000, 10);
    for _ in 0..4 {
        let proxy = exporting(folder, &influx, &[DATABASE]);
        let sent = influx.requests().len();
        let start = Instant::now();
        while influx.requests().len() <= sent && start.elapsed() < super::support::DEADLINE {
            std::thread::yield_now();
        }
        folder = proxy.into_folder();
    }
    let proxy = exporting(folder, &influx, &[DATABASE]);
    wait_until_exported(&proxy);
    assert_eq!(store.account(), of_ledger(&proxy.database()));
}

/// What is not exported is not pruned, and goes once it is.
#[test]
fn rows_that_are_not_exported_are_kept() {
    let works = Arc::new(AtomicBool::new(false));
    let switch = works.clone();
    let (influx, store) = server(move |_, _| (!switch.load(Ordering::SeqCst)).then(|| Reply::new(503, "").steps()));
    let folder = ledger(500, 11);
    let conn = rusqlite::Connection::open(folder.path().join("usage.db")).unwrap();
    conn.execute("UPDATE records SET started_at = started_at - 172800000000000", []).unwrap();
    let wait_for = |sql: &str| {
        let start = Instant::now();
        while !conn.query_row(sql, [], |row| row.get::<_, bool>(0)).unwrap() {
            assert!(start.elapsed() < super::support::DEADLINE, "not yet: {sql}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let vars = [DATABASE, ("RETENTION_DAYS", "1")];
    let proxy = exporting(folder, &influx, &vars);
    let expected = of_ledger(&proxy.database());
    wait_for("SELECT min(record_id) = 500 FROM marks WHERE name IN ('fold', 'counted')");
    // A start looks for old rows at once, a proxy that runs once a minute.
    let proxy = exporting(proxy.into_folder(), &influx, &vars);
    wait_for_metric(&proxy, "openai_proxy_influx_failures_total", |failures| failures >= 3.0);
    assert_eq!(of_ledger(&proxy.database()), expected);
    works.store(true, Ordering::SeqCst);
    wait_until_exported(&proxy);
    assert_eq!(store.account(), expected);
    let _proxy = exporting(proxy.into_folder(), &influx, &vars);
    wait_for("SELECT count(*) = 0 FROM records");
}

/// Two proxies with one ledger: every record is sent once, and where the one that sends is killed the other goes on.
#[test]
fn of_two_proxies_one_exports() {
    let (influx, store) = server(|_, _| None);
    let mut first = exporting(ledger(12_000, 12), &influx, &[DATABASE]);
    let (database, url) = (first.database(), influx.url());
    let vars = [("DATABASE_PATH", database.to_str().unwrap()), ("INFLUXDB_URL", url.as_str()), DATABASE];
    let second = Proxy::start(&vars);
    wait_until_exported(&first);
    let sent = |proxy: &Proxy| proxy.metrics()["openai_proxy_influx_lines_sent_total"];
    // One of them exports, and the cursor moves a moment before its number.
    let exporter = if sent(&first) > 0.0 { &first } else { &second };
    wait_for_metric(exporter, "openai_proxy_influx_lines_sent_total", |sent| sent >= 12_000.0);
    assert_eq!(sent(&first) + sent(&second), 12_000.0);
    first.kill();
    append(&database, 1_000, 13);
    wait_until_exported(&first);
    assert_eq!(store.account(), of_ledger(&database));
    wait_for_metric(&second, "openai_proxy_influx_lines_sent_total", |sent| sent >= 1_000.0);
}

/// TLS is spoken, and a certificate that nobody vouches for is not taken.
#[test]
fn a_server_that_cannot_be_trusted_gets_nothing() {
    let influx = Upstream::tls(Ca::new().server(&["127.0.0.1"], Usual), |_| taken());
    let proxy = exporting(ledger(1, 14), &influx, &[DATABASE]);
    let why = proxy.wait_for_log("influx export fails");
    assert_eq!(influx.requests().len(), 0);
    assert!(why.contains("certificate"), "{why}");
}

/// A server that shows a certificate of a private authority's.
#[test]
fn a_private_authority_is_trusted_for_the_export() {
    let (mine, others) = (Ca::new(), Ca::new());
    let influx = Upstream::tls(mine.server(&["127.0.0.1"], Usual), |_| taken());
    for (authority, is_trusted) in [(Some(&mine), true), (Some(&others), false), (None, false)] {
        let folder = ledger(3, 8);
        let file = folder.path().join("influx-ca.pem");
        std::fs::write(&file, authority.unwrap_or(&mine).pem()).unwrap();
        let before = influx.requests().len();
        let own = [("INFLUXDB_CA_FILE", file.to_str().unwrap()), DATABASE];
        let proxy = exporting(folder, &influx, if authority.is_some() { &own } else { &own[1..] });
        if is_trusted {
            wait_until_exported(&proxy);
            assert!(influx.requests().len() > before);
        } else {
            let told = proxy.wait_for_log("influx export fails");
            assert!(told.contains("UnknownIssuer"), "{told}");
            assert_eq!(influx.requests().len(), before);
        }
    }
}
