//! Client keys and users' own limits: made by commands, followed by running servers, and never shown again. Left to
//! others: limits of everybody (`limits`, `quotas`), that no key gets out (`secrets`), the file (`ledger/policy`).

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use openai_api_proxy::local::humanize::day;
use serde_json::{Value, json};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use support::DEADLINE;
use support::api;
use support::client::{Client, Response};
use support::proxy::{Proxy, done, run};
use support::upstream::Upstream;
use support::websocket::{self, Frame, HANDSHAKE};

const CHAT: &str = "/v1/chat/completions";
const BODY: &[u8] = br#"{"model":"gpt-4o-mini","messages":[]}"#;

fn ask(proxy: &Proxy, fields: &[(&str, &str)]) -> Response {
    let fields = [&[("content-type", "application/json")], fields].concat();
    Client::connect(proxy.addr()).request("POST", CHAT, &fields, BODY)
}

fn with_key(proxy: &Proxy, key: &str) -> Response {
    ask(proxy, &[("authorization", &format!("Bearer {key}"))])
}

fn read(proxy: &Proxy, target: &str, secret: &str) -> Response {
    let authorization = format!("Bearer {secret}");
    Client::connect(proxy.addr()).request("GET", target, &[("authorization", &authorization)], b"")
}

/// Waits until the answer to the same request has this status; how it came there does not matter, that it does.
#[track_caller]
fn until(status: u16, ask: impl Fn() -> Response) {
    let start = Instant::now();
    while ask().head.status() != status {
        assert!(start.elapsed() < DEADLINE, "never {status}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn upstream() -> Upstream {
    Upstream::plain(|request| api::answer(request).steps())
}

#[test]
fn a_key_opens_for_its_user_and_goes_no_further() {
    let upstream = upstream();
    let folder = tempfile::tempdir().unwrap();
    let key = done(folder.path(), "keys create taro --name laptop").trim().to_owned();
    assert!(key.starts_with("oap_") && key.len() == 68, "{key}");
    let url = upstream.url();
    let vars = [("PROXY_TARGET", url.as_str()), ("CLIENT_AUTH", "keys"), ("OPENAI_API_KEY", "sk-real")];
    let mut proxy = Proxy::start_in(folder, &vars);
    ask(&proxy, &[("authorization", &format!("Bearer {key}")), ("x-user-id", "somebody")]).expect(200);
    ask(&proxy, &[("x-api-key", &key)]).expect(200);
    let wrong = format!("{}{}", &key[..key.len() - 1], if key.ends_with('0') { '1' } else { '0' });
    let refusals: Vec<Response> =
        [vec![], vec![("authorization", "Bearer sk-real")], vec![("api-key", wrong.as_str())]]
            .iter()
            .map(|fields| ask(&proxy, fields).expect_proxy_error(401, "invalid_client_key"))
            .collect();
    assert!(refusals.iter().all(|refusal| refusal.text() == refusals[0].text()), "every wrong key the same answer");
    for request in upstream.requests() {
        assert_eq!(request.head.get("authorization"), Some("Bearer sk-real"));
        assert!(request.head.get("x-api-key").is_none());
    }
    let usage = read(&proxy, "/usage?user_id=taro", &key).expect(200).json();
    assert_eq!((&usage["totals"]["requests"], &usage["data"][0]["key_id"]), (&json!(2), &json!(1)));
    assert!(proxy.terminate().success());
    for file in std::fs::read_dir(proxy.folder()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(key.len() - 4).any(|window| window == &key.as_bytes()[4..]), "the key is not kept");
    }
    assert!(!proxy.stderr().contains("oap_"));
    assert!(!proxy.stderr().contains("level=warn msg=\"CLIENT_AUTH"), "it has a key for the target");
}

/// A handshake that offers these subprotocols, with these fields.
fn handshake(proxy: &Proxy, offered: &str, fields: &[(&str, &str)]) -> Response {
    let fields = [&HANDSHAKE[..], &[("Sec-WebSocket-Protocol", offered)], fields].concat();
    Client::connect(proxy.addr()).request("GET", "/v1/realtime?model=gpt-realtime", &fields, b"")
}

/// Browsers can set no header for a WebSocket: their key is a subprotocol. It is one like any other: taken, checked,
/// replaced; and the one that the server chooses is among those that were offered.
#[test]
fn a_browsers_key_is_a_key() {
    const PLACE: &str = "openai-insecure-api-key.";
    let upstream = Upstream::plain(|request| {
        websocket::accept(request, |tunnel| {
            Ok(std::io::Write::write_all(tunnel, &Frame::close(1000, "").encode(None))?)
        })
    });
    let url = upstream.url();
    let target = ("PROXY_TARGET", url.as_str());
    let folder = tempfile::tempdir().unwrap();
    let key = done(folder.path(), "keys create taro").trim().to_owned();
    let own = ("OPENAI_API_KEY", "sk-real");
    let admin = ("ADMIN_TOKEN", "admin-0123456789");
    let mut proxy = Proxy::start_in(folder, &[target, own, admin, ("CLIENT_AUTH", "keys"), ("LOG", "trace")]);
    let offered = format!("realtime,{PLACE}{key} , openai-organization.org-1, openai-beta.realtime-v1");
    let bearer = format!("Bearer {key}");
    for fields in [&[][..], &[("authorization", bearer.as_str())], &[("authorization", "Basic eDp5")]] {
        let answer = handshake(&proxy, &offered, fields).expect(101);
        assert_eq!(answer.head.get("sec-websocket-protocol"), Some("realtime"));
    }
    handshake(&proxy, &format!("OpenAI-Insecure-Api-Key.{key}"), &[]).expect(101);
    let seen = upstream.requests();
    for seen in &seen {
        assert_eq!(seen.head.all("authorization"), ["Bearer sk-real"]);
        assert!(!format!("{:?}", seen.head).contains(&key), "{:?}", seen.head);
    }
    let protocols = |at: usize| seen[at].head.get("sec-websocket-protocol");
    let kept = "realtime, openai-organization.org-1, openai-beta.realtime-v1";
    assert_eq!([protocols(0), protocols(1), protocols(3)], [Some(kept), Some(kept), None]);

    for wrong in ["realtime", "realtime, openai-insecure-api-key.", "realtime, openai-insecure-api-key.sk-real"] {
        handshake(&proxy, wrong, &[]).expect_proxy_error(401, "invalid_client_key");
    }
    for (name, value) in [("authorization", "Bearer other"), ("api-key", "other")] {
        handshake(&proxy, &offered, &[(name, value)]).expect_proxy_error(400, "bad_request");
    }
    let twice = format!("{offered}, {PLACE}{key}x");
    handshake(&proxy, &twice, &[]).expect_proxy_error(400, "bad_request");
    assert_eq!(upstream.requests().len(), seen.len());
    let start = Instant::now();
    while read(&proxy, "/usage", admin.1).expect(200).json()["totals"]["requests"] != 4 {
        assert!(start.elapsed() < DEADLINE, "never four sessions");
    }
    assert!(proxy.terminate().success());
    assert!(!proxy.stderr().contains(&key[4..]), "it is in the log");

    // Where the proxy has a key, a client's is no more than a text; where it has none, it is its own to send.
    handshake(&Proxy::start(&[target, own]), "realtime, openai-insecure-api-key.sk-own", &[]).expect(101);
    handshake(&Proxy::start(&[target]), "realtime,openai-insecure-api-key.sk-own", &[]).expect(101);
    let seen = upstream.requests();
    let last = &seen[seen.len() - 2..];
    assert_eq!(last[0].head.get("sec-websocket-protocol"), Some("realtime"));
    assert_eq!(last[0].head.get("authorization"), Some("Bearer sk-real"));
    assert_eq!(last[1].head.get("sec-websocket-protocol"), Some("realtime,openai-insecure-api-key.sk-own"));
    assert_eq!(last[1].head.get("authorization"), None);
}

/// However much the holder of a key asks, the operator is answered.
#[test]
fn who_asks_too_often_for_their_usage_is_told_to_wait_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let [taro, hana] =
        ["taro", "hana"].map(|user| done(folder.path(), &format!("keys create {user}")).trim().to_owned());
    let upstream = upstream();
    let url = upstream.url();
    let vars = [("PROXY_TARGET", url.as_str()), ("CLIENT_AUTH", "keys"), ("ADMIN_TOKEN", "admin-0123456789")];
    let proxy = Proxy::start_in(folder, &vars);
    let refused = std::iter::repeat_with(|| read(&proxy, "/usage", &taro)).take(500).find(|found| found.status != 200);
    let refused = refused.expect("a bucket that is emptied").expect_proxy_error(429, "rate_limit_exceeded");
    assert_eq!(refused.head.get("retry-after"), Some("1"));
    for (target, key) in [("/usage", "admin-0123456789"), ("/metrics", "admin-0123456789"), ("/dashboard", &*hana)] {
        read(&proxy, target, key).expect(200);
    }
    with_key(&proxy, &taro).expect(200);
}

/// The ten first wrong keys are answered at once; a right one always is.
#[test]
fn who_guesses_keys_waits_for_the_answers() {
    let folder = tempfile::tempdir().unwrap();
    let key = done(folder.path(), "keys create taro").trim().to_owned();
    let upstream = upstream();
    let url = upstream.url();
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", url.as_str()), ("CLIENT_AUTH", "keys")]);
    let start = Instant::now();
    (0..13).for_each(|n| _ = with_key(&proxy, &format!("oap_{n}")).expect_proxy_error(401, "invalid_client_key"));
    assert!(start.elapsed().as_millis() >= 2 * 995, "at least two of them wait for a second each");
    with_key(&proxy, &key).expect(200);
}

#[test]
fn a_key_reads_its_own_users_usage_only() {
    let upstream = upstream();
    let folder = tempfile::tempdir().unwrap();
    let [taro, hana] =
        ["taro", "hana"].map(|user| done(folder.path(), &format!("keys create {user}")).trim().to_owned());
    let url = upstream.url();
    let vars = [("PROXY_TARGET", url.as_str()), ("CLIENT_AUTH", "keys"), ("ADMIN_TOKEN", "admin-0123456789")];
    let proxy = Proxy::start_in(folder, &vars);
    proxy.wait_for_log("CLIENT_AUTH=keys without OPENAI_API_KEY");
    for key in [&taro, &hana, &hana] {
        with_key(&proxy, key).expect(200);
    }
    let requests = |target: &str, key: &str| read(&proxy, target, key).expect(200).json()["totals"]["requests"].clone();
    assert_eq!((requests("/usage", &taro), requests("/usage?user_id=hana", &hana)), (json!(1), json!(2)));
    assert_eq!(requests("/usage", "admin-0123456789"), json!(3));
    read(&proxy, "/usage?user_id=hana", &taro).expect_proxy_error(403, "forbidden");
    read(&proxy, "/metrics", &taro).expect_proxy_error(403, "forbidden");
    read(&proxy, "/metrics", "admin-0123456789").expect(200);
    for target in ["/usage", "/metrics"] {
        read(&proxy, target, "guess").expect_proxy_error(401, "unauthorized");
        support::client::get(proxy.addr(), target).expect_proxy_error(401, "unauthorized");
    }
    support::client::get(proxy.addr(), "/healthz").expect(200);
}

/// By `/usage`, by the command and on the page: to the administrator of all, to a key's holder of their own.
#[test]
fn what_each_key_used_is_told_to_whom_it_concerns() {
    let upstream = upstream();
    let folder = tempfile::tempdir().unwrap();
    let make = |options: &str| done(folder.path(), &format!("keys create {options}")).trim().to_owned();
    let [laptop, phone, hana] =
        ["taro --name laptop --expires 2099-01-02", "taro --name phone", "hana --name <b>"].map(make);
    let (url, admin) = (upstream.url(), "admin-0123456789");
    let vars = [("PROXY_TARGET", url.as_str()), ("CLIENT_AUTH", "keys"), ("ADMIN_TOKEN", admin)];
    let proxy = Proxy::start_in(folder, &vars);
    for key in [&laptop, &laptop, &phone, &hana, &hana, &hana] {
        with_key(&proxy, key).expect(200);
    }
    done(proxy.folder(), "keys revoke 2");
    let today = day(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    let keys = |target: &str, key: &str| {
        let usage = read(&proxy, target, key).expect(200).json();
        let of = |bucket: &Value| ["key_id", "user_id", "key_name", "requests"].map(|name| bucket[name].clone());
        usage["buckets"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let [one, two, three] = [
        [json!(1), json!("taro"), json!("laptop"), json!(2)],
        [json!(2), json!("taro"), json!("phone"), json!(1)],
        [json!(3), json!("hana"), json!("<b>"), json!(3)],
    ];
    assert_eq!(keys("/usage?group_by=key", admin), [three, one.clone(), two.clone()]);
    assert_eq!(keys("/usage?group_by=key", &laptop), [one.clone(), two.clone()]);
    assert_eq!(keys("/usage?group_by=key&user_id=taro&from=1h", admin), [one, two]);
    assert!(keys("/usage?group_by=key&model=none", admin).is_empty());
    read(&proxy, "/usage?group_by=key&user_id=taro", &hana).expect_proxy_error(403, "forbidden");
    let refused = read(&proxy, "/usage?group_by=key&team=t", admin).expect_proxy_error(400, "bad_request");
    assert!(refused.text().contains("`team`: sums by key are not kept by team"), "{}", refused.text());

    let buckets = read(&proxy, "/usage?group_by=key", &laptop).expect(200).json()["buckets"].clone();
    assert_eq!((&buckets[0]["expires_at"], &buckets[0]["last_used"]), (&json!("2099-01-02T00:00:00Z"), &json!(today)));
    assert!(buckets[0]["revoked_at"].is_null() && buckets[1]["revoked_at"].is_string(), "{buckets}");
    let text = done(proxy.folder(), "usage --by key");
    let line = |of: &str| text.lines().find(|line| line.contains(of)).unwrap_or_else(|| panic!("{text}")).to_owned();
    assert!(line("laptop").contains(&format!("{today}  2099-01-02")), "{text}");
    assert!(line("phone").contains("revoked"), "{text}");
    assert_eq!(done(proxy.folder(), "usage --by key --format csv").lines().count(), 4);
    assert!(done(proxy.folder(), "usage --by month").contains(&format!("\n{} ", &today[..7])));

    let page = read(&proxy, "/dashboard", admin).expect(200).text();
    let table =
        page.split_once("<caption class=\"unseen\">By key").expect("a table").1.split_once("</table>").unwrap().0;
    for part in ["<bdi>laptop</bdi>", "2099-01-02", "revoked", &today, "user_id=hana", "&lt;b&gt;"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let own = read(&proxy, "/dashboard?range=24h", &laptop).expect(200).text();
    assert!(own.contains("<bdi>phone</bdi>") && !own.contains("hana"), "{own}");
    assert!(!read(&proxy, "/dashboard?team=t", admin).expect(200).text().contains("By key"));
}

#[test]
fn the_manual_is_for_whoever_may_see_anything() {
    let upstream = upstream();
    let folder = tempfile::tempdir().unwrap();
    let taro = done(folder.path(), "keys create taro").trim().to_owned();
    let url = upstream.url();
    let vars = [("PROXY_TARGET", url.as_str()), ("CLIENT_AUTH", "keys"), ("ADMIN_TOKEN", "admin-0123456789")];
    let proxy = Proxy::start_in(folder, &vars);
    for target in ["/help", "/help/", "/help/errors", "/help/nonsense"] {
        let status = |key| read(&proxy, target, key).status;
        let (known, unknown) = (status(&taro), status("guess"));
        assert_eq!(unknown, if target == "/help" { 303 } else { 401 }, "{target}");
        assert_eq!(
            known,
            match target {
                "/help" => 303,
                "/help/nonsense" => 404,
                _ => 200,
            },
            "{target}"
        );
        assert_eq!(status("admin-0123456789"), known, "{target}");
    }
    let page = read(&proxy, "/help/errors", &taro).expect(200).text();
    assert!(page.contains("<tr id=\"invalid_client_key\">"), "{page}");
    let near = read(&proxy, "/help/erors", &taro).expect_proxy_error(404, "not_found").text();
    assert!(near.contains("/help/errors is near"), "{near}");
    let many = (0..100).map(|_| read(&proxy, "/help/", &taro).status);
    assert!(many.into_iter().any(|status| status == 429), "a holder of a key asks at a pace");
}

#[test]
fn two_servers_on_one_ledger_follow_a_revocation() {
    let upstream = upstream();
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("usage.db");
    let url = upstream.url();
    let vars = [("PROXY_TARGET", url.as_str()), ("CLIENT_AUTH", "keys")];
    let one = Proxy::start_in(folder, &vars);
    let other = Proxy::start(&[&vars[..], &[("DATABASE_PATH", database.to_str().unwrap())]].concat());
    let created = done(one.folder(), "keys create taro");
    let key = created.trim();
    for proxy in [&one, &other] {
        until(200, || with_key(proxy, key));
    }
    assert!(done(one.folder(), "keys list").contains("valid"));
    done(one.folder(), "keys create hana");
    let keys: serde_json::Value = serde_json::from_str(&done(one.folder(), "keys list --format json")).unwrap();
    let today = day(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    assert_eq!((&keys[0]["last_used"], &keys[1]["last_used"]), (&json!(today), &json!(null)), "{keys}");
    assert!(done(one.folder(), "keys revoke 1").contains("revoked"));
    for proxy in [&one, &other] {
        until(401, || with_key(proxy, key));
    }
    assert!(done(one.folder(), "keys revoke 1").contains("before"));
    assert!(done(one.folder(), "keys list").contains("revoked"));
}

#[test]
fn a_users_own_limits_are_followed() {
    let upstream = upstream();
    let proxy = Proxy::before(&upstream, &[("RATE_LIMIT_RPM", "100")]);
    let limit = |user: &str| {
        let response = ask(&proxy, &[("x-user-id", user)]);
        response.head.get("x-ratelimit-limit-requests").map(str::to_owned)
    };
    assert_eq!(limit("taro").as_deref(), Some("100"));
    let shown = done(proxy.folder(), "limits set taro --rpm 7 --tpm 100000 --usd-month 2.50");
    assert!(
        shown
            .lines()
            .nth(1)
            .is_some_and(|row| row.split_whitespace().eq(["user", "taro", "7", "100000", "-", "-", "2.5", "-", "-"]))
    );
    let start = Instant::now();
    while limit("taro").as_deref() != Some("7") {
        assert!(start.elapsed() < DEADLINE);
    }
    assert_eq!(limit("hana").as_deref(), Some("100"), "nobody else is concerned");
    done(proxy.folder(), "limits set taro --rpm 0");
    let start = Instant::now();
    while limit("taro").is_some() {
        assert!(start.elapsed() < DEADLINE);
    }
    assert!(done(proxy.folder(), "limits list").contains("100000"), "what was not named stays");
    assert!(done(proxy.folder(), "limits clear taro").contains("any more"));
    until(200, || ask(&proxy, &[("x-user-id", "taro")]));
    assert!(!done(proxy.folder(), "limits list").contains("taro"));
}

#[test]
fn commands_help_succeed_and_fail_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (arguments, part) in
        [("--help", "Usage:"), ("keys --help", "keys create USER"), ("limits -h", "limits set   USER")]
    {
        assert!(done(path, arguments).contains(part), "{arguments}");
    }
    assert!(!path.join("usage.db").exists(), "help makes no ledger");
    assert!(done(path, "--version").starts_with("proxy-server "));
    for arguments in ["keys list", "limits list", "keys revoke 1", "limits clear taro"] {
        let output = run(path, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments}: {said}");
        assert!(said.contains("there is no ledger"), "{arguments}: {said}");
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "{arguments} makes no ledger");
    }
    done(path, "keys create 太郎 --expires 12h");
    done(path, "keys create taro --name old --expires 2200-01-31");
    assert_eq!(done(path, "keys list").lines().count(), 3);
    for (arguments, code, part) in [
        ("keys", 2, "expected keys create"),
        ("keys create", 2, "expected keys create"),
        ("keys create a b", 2, "expected keys create"),
        ("keys create a --expires", 2, "--expires"),
        ("keys create a --expires soon", 2, "soon"),
        ("keys create a --expires 2001-01-01", 2, "not in the future"),
        ("keys list --name x", 2, "keys create"),
        ("keys revoke x", 2, "\"x\""),
        ("keys revoke 99", 1, "no key 99"),
        ("keys --unknown", 2, "--unknown"),
        ("limits set taro", 2, "no limit is named"),
        ("limits set taro --rpm -1", 2, "-1"),
        ("limits set taro --usd-day 1e3", 2, "1e3"),
        ("limits set taro --paths v1/chat", 2, "v1/chat"),
        ("limits list --rpm 1", 2, "limits set"),
        ("limits frobnicate", 2, "expected limits set"),
        ("nothing", 2, "\"nothing\""),
    ] {
        let output = run(path, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        assert!(
            said.contains(part) && said.contains("proxy-server: ") && output.stdout.is_empty(),
            "{arguments}: {said}"
        );
    }
    std::fs::write(path.join("usage.db"), "this is not a ledger, whatever it is").unwrap();
    let output = run(path, "keys list");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not a SQLite database"));
}

/// What the lists show, for programs: `null` where there is nothing, and names as they are.
#[test]
fn lists_are_documents_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let document = |arguments: &str| {
        let said = run(path, arguments);
        assert!(said.status.success(), "{arguments}");
        serde_json::from_slice::<serde_json::Value>(&said.stdout).unwrap()
    };
    done(path, "keys create \u{592a}\u{90ce} --name \"a\" --expires 2200-01-31");
    assert_eq!(document("limits list --format json"), json!([]));
    done(path, "keys create taro");
    done(path, "keys revoke 2");
    let keys = document("keys list --format json");
    let shown = |at: usize, names: [&str; 4]| names.map(|name| keys[at][name].clone());
    let first = [json!(1), json!("\u{592a}\u{90ce}"), json!("\"a\""), json!("2200-01-31T00:00:00Z")];
    assert_eq!(shown(0, ["id", "user", "name", "expires_at"]), first);
    assert_eq!(shown(1, ["id", "name", "expires_at", "state"]), [json!(2), json!(null), json!(null), json!("revoked")]);
    assert_eq!((&keys[0]["state"], &keys[0]["revoked_at"]), (&json!("valid"), &json!(null)));
    for at in ["created_at", "revoked_at"] {
        assert!(keys[1][at].as_str().unwrap().ends_with('Z'), "{keys}");
    }
    assert!(!keys.to_string().contains("hash") && !keys.to_string().contains("oap_"), "{keys}");
    done(path, "limits set taro --rpm 60 --usd-month 0.000000001 --usd-day 0 --paths inference");
    let own = json!({"level": "user", "name": "taro", "models": null, "rpm": 60, "tpm": null, "concurrent": null, "usd_day": 0.0, "usd_month": 1e-9,
        "paths": "inference"});
    assert_eq!(document("limits list --format json"), json!([own]));
    assert_eq!(done(path, "limits list --format text"), done(path, "limits list"));
    for arguments in ["keys list --format csv", "keys revoke 1 --format json", "limits clear taro --format json"] {
        assert_eq!(run(path, arguments).status.code(), Some(2), "{arguments}");
    }
}

/// A ledger of an earlier version may be in use by an earlier server: what only reads leaves it as it is.
#[test]
fn what_lists_migrates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let earlier = rusqlite::Connection::open(&path).unwrap();
    earlier.execute_batch(include_str!("ledger/versions/2.sql")).unwrap();
    drop(earlier);
    let before = std::fs::read(&path).unwrap();
    for arguments in ["keys list", "limits list"] {
        let output = run(folder.path(), arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments}: {said}");
        assert!(said.contains("has schema version 2"), "{arguments}: {said}");
        assert!(std::fs::read(&path).unwrap() == before, "{arguments} changes it");
    }
}
