//! Who comes in by the port: names, pages in a browser, and the administrator's token where it does not belong. Left to
//! others: keys (`keys`), what two parsers read differently (`smuggling`), the rules themselves (unit tests of `door`).

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;
use support::DEADLINE;
use support::client::{Client, Response};
use support::proxy::{Proxy, done};
use support::script::Reply;
use support::tools;
use support::upstream::Upstream;

const CHAT: &str = "/v1/chat/completions";
const KEY: (&str, &str) = ("OPENAI_API_KEY", "sk-operators");
const ADMIN: &str = "admin-0123456789";
const ANSWER: &str = r#"{"model":"gpt-4o","usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}"#;

fn upstream() -> Upstream {
    Upstream::plain(|_| Reply::json(ANSWER).steps())
}

/// One request with these lines, each behind a bar, and a body where it is a POST.
fn send(proxy: &Proxy, start: &str, lines: &str) -> Response {
    let body = if start.starts_with("POST") { "{}" } else { "" };
    let lines = lines.replace('|', "\r\n");
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let mut client = Client::connect(proxy.addr());
    client.send(format!("{start} HTTP/1.1\r\n{lines}\r\n{length}\r\n{body}"));
    client.response(start.split(' ').next().unwrap())
}

#[test]
fn only_names_of_this_machine_are_served_on_loopback() {
    let upstream = upstream();
    let proxy = Proxy::before(&upstream, &[KEY, ("ALLOWED_HOSTS", "box.example:8080, 192.0.2.7")]);
    for host in ["localhost", "127.0.0.1:8080", "[::1]", "app.localhost", "BOX.example", "192.0.2.7:1", "box"] {
        send(&proxy, "GET /usage", &format!("host: {host}")).expect(200);
        send(&proxy, &format!("POST {CHAT}"), &format!("host: {host}")).expect(200);
    }
    for host in ["rebind.evil.example:8080", "localhost.evil.example", "192.0.2.8", "[2001:db8::1]"] {
        for start in ["GET /usage", "GET /dashboard", "GET /metrics", "GET /healthz", "GET /", &format!("POST {CHAT}")]
        {
            let refused = send(&proxy, start, &format!("host: {host}"));
            refused.expect_proxy_error(421, "misdirected_request");
        }
    }
    assert_eq!(upstream.requests().len(), 7, "nothing else was relayed");
    let others = Proxy::before(&upstream, &[("HOST", "0.0.0.0")]);
    send(&others, "GET /usage", "host: any.example").expect(200);
    let named = Proxy::before(&upstream, &[("HOST", "0.0.0.0"), ("ALLOWED_HOSTS", "box.example")]);
    send(&named, "GET /usage", "host: any.example").expect_proxy_error(421, "misdirected_request");
    send(&named, "GET /usage", "host: box.example").expect(200);
}

#[test]
fn a_foreign_page_is_refused_and_a_listed_one_reads_our_errors() {
    let upstream = upstream();
    let listed = ("ALLOWED_ORIGINS", "https://app.example.com");
    let proxy = Proxy::before(&upstream, &[listed, ("CLIENT_AUTH", "keys"), KEY]);
    let post = format!("POST {CHAT}");
    for lines in [
        "origin: https://evil.example",
        "origin: null",
        "origin: http://localhost:1",
        "sec-fetch-site: cross-site",
        "sec-fetch-site: same-site",
        "sec-fetch-site: none|sec-fetch-mode: navigate",
    ] {
        send(&proxy, &post, &format!("host: localhost|{lines}")).expect_proxy_error(403, "foreign_origin");
    }
    let preflight = "access-control-request-method: POST|access-control-request-headers: authorization";
    let foreign = format!("host: localhost|origin: https://evil.example|{preflight}");
    send(&proxy, &format!("OPTIONS {CHAT}"), &foreign).expect_proxy_error(403, "foreign_origin");
    let origin = "host: localhost|origin: https://app.example.com";
    let answer = send(&proxy, &format!("OPTIONS {CHAT}"), &format!("{origin}|{preflight}")).expect(200);
    assert_eq!(answer.head.get("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(answer.head.get("access-control-allow-headers"), Some("authorization"));
    assert!(upstream.requests().is_empty(), "no preflight goes to the target");
    let refused = send(&proxy, &post, origin);
    assert_eq!(refused.head.get("access-control-allow-origin"), Some("https://app.example.com"));
    assert!(refused.head.get("access-control-expose-headers").is_some_and(|names| names.contains("x-proxy-error")));
    refused.expect_proxy_error(401, "invalid_client_key");
    assert_eq!(proxy.usage("user_id=anonymous")["totals"]["requests"], 0);
}

/// What the target says of other origins goes on as it is; where it says nothing, the listed page may read.
#[test]
fn a_listed_page_reads_the_targets_answers() {
    let upstream = Upstream::plain(|request| {
        let reply = Reply::json(ANSWER);
        let says = request.target.contains("says");
        if says { reply.field("access-control-allow-origin", "*").steps() } else { reply.steps() }
    });
    let proxy = Proxy::before(&upstream, &[("ALLOWED_ORIGINS", "https://app.example.com"), KEY]);
    for (path, allowed) in [("/v1/models", "https://app.example.com"), ("/v1/says", "*")] {
        let answer =
            send(&proxy, &format!("GET {path}"), "host: localhost|origin: https://app.example.com").expect(200);
        assert_eq!(answer.head.get("access-control-allow-origin"), Some(allowed));
    }
    let answer = send(&proxy, "GET /v1/models", "host: localhost").expect(200);
    assert_eq!(answer.head.get("access-control-allow-origin"), None);
}

#[test]
fn the_administrators_token_and_strange_methods_go_nowhere() {
    let upstream = upstream();
    let proxy = Proxy::before(&upstream, &[("ADMIN_TOKEN", ADMIN)]);
    let bearer = format!("host: localhost|authorization: Bearer {ADMIN}");
    for path in ["/v1/models", "/Usage", "/usage//", "/metrics2"] {
        send(&proxy, &format!("GET {path}"), &bearer).expect_proxy_error(400, "bad_request");
    }
    send(&proxy, "GET /usage/", &bearer).expect(200);
    send(&proxy, "TRACE /v1/models", "host: localhost").expect_proxy_error(405, "method_not_allowed");
    send(&proxy, "GET /robots.txt", "host: localhost").expect(200);
    for path in ["/favicon.ico", "/.well-known/appspecific/com.chrome.devtools.json", "/apple-touch-icon.png"] {
        send(&proxy, &format!("GET {path}"), "host: localhost").expect_proxy_error(404, "not_found");
    }
    let moved = send(&proxy, "GET /dashboard/", "host: localhost");
    assert_eq!((moved.head.status(), moved.head.get("location")), (303, Some("../dashboard")));
    assert!(upstream.requests().is_empty());
}

#[test]
fn without_a_token_holders_of_keys_read_their_own_beyond_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let key = done(folder.path(), "keys create u");
    let vars = [("PROXY_TARGET", "http://127.0.0.1:9"), ("CLIENT_AUTH", "keys"), ("HOST", "0.0.0.0"), KEY];
    let proxy = Proxy::start_in(folder, &vars);
    for path in ["/usage", "/dashboard", "/metrics"] {
        send(&proxy, &format!("GET {path}"), "host: localhost").expect_proxy_error(401, "unauthorized");
    }
    send(&proxy, "GET /usage", &format!("host: localhost|authorization: Bearer {}", key.trim())).expect(200);
    proxy.wait_for_log("no ADMIN_TOKEN");
}

/// What generates, and no more; and a user's own rule, which a running server follows.
#[test]
fn what_a_client_key_opens() {
    let upstream = upstream();
    let folder = tempfile::tempdir().unwrap();
    let keys = ["taro", "hana"].map(|user| done(folder.path(), &format!("keys create {user}")).trim().to_owned());
    let shown = done(folder.path(), "limits set taro --paths /v1/files,/v1/models/");
    assert!(
        shown.lines().nth(1).is_some_and(|row| row.split_whitespace().last() == Some("/v1/files,/v1/models")),
        "{shown}"
    );
    let target = upstream.url();
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &target), ("CLIENT_AUTH", "keys"), KEY]);
    let ask = |key: &str, start: &str| send(&proxy, start, &format!("host: localhost|authorization: Bearer {key}"));
    let chat = format!("POST {CHAT}");
    let opens = |start: &str| keys.each_ref().map(|key| ask(key, start).head.status());
    for (start, statuses) in [
        (&*chat, [403, 200]),
        ("GET /v1/models", [200, 200]),
        ("GET /v1/files", [200, 403]),
        ("POST /v1/files/x", [200, 403]),
        ("GET /v1/organization/admin_api_keys", [403, 403]),
        ("GET /v1/responses/resp_1/input_items", [403, 403]),
    ] {
        assert_eq!(opens(start), statuses, "{start}");
    }
    let refused = ask(&keys[0], &chat);
    refused.expect_proxy_error(403, "path_not_allowed");
    done(proxy.folder(), "limits clear taro");
    let start = Instant::now();
    while ask(&keys[0], &chat).head.status() != 200 {
        assert!(start.elapsed() < DEADLINE, "its rule is followed still");
    }
    ask(&keys[0], "GET /v1/files").expect_proxy_error(403, "path_not_allowed");
}

#[test]
fn an_account_beside_our_key_is_ours() {
    let upstream = upstream();
    let account = "host: localhost|openai-organization: org-theirs|OpenAI-Project: proj_theirs";
    let proxy = Proxy::before(&upstream, &[KEY, ("OPENAI_ORGANIZATION", "org-ours")]);
    send(&proxy, "GET /v1/models", account).expect(200);
    let proxy = Proxy::before(&upstream, &[]);
    send(&proxy, "GET /v1/models", account).expect(200);
    let seen = upstream.requests();
    let of = |nth: usize| ["openai-organization", "openai-project"].map(|name| seen[nth].head.get(name));
    assert_eq!(of(0), [Some("org-ours"), None]);
    assert_eq!(of(1), [Some("org-theirs"), Some("proj_theirs")]);
}

/// A page of the target's is none of ours; a stream is not gathered by a server in front.
#[test]
fn pages_are_sandboxed() {
    let upstream = Upstream::plain(|request| {
        let kind = match &*request.target {
            "/v1/page" => "text/html; charset=utf-8",
            "/v1/stream" => "text/event-stream",
            _ => "application/json",
        };
        Reply::new(200, "<script>1</script>").field("content-type", kind).steps()
    });
    let proxy = Proxy::before(&upstream, &[]);
    let page = send(&proxy, "GET /v1/page", "host: localhost").expect(200);
    assert_eq!(page.head.get("content-security-policy"), Some("sandbox"));
    let stream = send(&proxy, "GET /v1/stream", "host: localhost").expect(200);
    assert_eq!(stream.head.get("x-accel-buffering"), Some("no"));
    let json = send(&proxy, "GET /v1/json", "host: localhost").expect(200);
    assert_eq!(["content-security-policy", "x-accel-buffering"].map(|name| json.head.get(name)), [None, None]);
}

/// What a web page tries, at a proxy that lists nobody and at one that lists the page.
const PAGE: &str = r#"<!doctype html><script>
const json = JSON.stringify({model: 'gpt-4o', messages: []});
async function all(base) {
  const out = {};
  const put = async (name, get) => { try { out[name] = await get(); } catch (e) { out[name] = 'failed'; } };
  const text = async (path, options) => { const r = await fetch(base + path, options); return r.status + ' ' + await r.text(); };
  await put('simple', async () => { await fetch(base + '/v1/chat/completions', {method: 'POST', mode: 'no-cors', body: json}); return 'sent'; });
  await put('form', async () => { const f = new FormData(); f.append('model', 'gpt-image-1'); await fetch(base + '/v1/images/edits', {method: 'POST', mode: 'no-cors', body: f}); return 'sent'; });
  await put('read', () => text('/v1/chat/completions', {method: 'POST', headers: {'content-type': 'application/json'}, body: json}));
  await put('files', () => text('/v1/files'));
  await put('usage', () => text('/usage'));
  await put('image', () => new Promise((done, fail) => { const i = new Image(); i.onload = () => done('shown'); i.onerror = fail; i.src = base + '/v1/files'; }));
  await put('socket', () => new Promise((done, fail) => { const s = new WebSocket(base.replace('http', 'ws') + '/v1/realtime?model=gpt-realtime'); s.onopen = () => done('open'); s.onerror = fail; }));
  return out;
}
(async () => {
  const out = {shut: await all('http://127.0.0.1:SHUT'), open: await all('http://127.0.0.1:OPEN')};
  await fetch('/result', {method: 'POST', body: JSON.stringify(out)});
})();
</script>"#;

/// A page whose name has become this machine's: to the browser, the proxy is where it came from.
const REBOUND: &str = r#"<!doctype html><iframe src="http://rebind.test:SHUT/usage"></iframe><script>
(async () => {
  await new Promise(done => setTimeout(done, 500));
  await fetch('/result', {method: 'POST', body: JSON.stringify({frames: window.length})});
})();
</script>"#;

/// A server of pages, which hands on what a page finds out.
fn pages(page: impl Fn(&str) -> String + Send + Sync + 'static) -> (Upstream, Receiver<Value>) {
    let (tell, told): (Sender<Value>, _) = channel();
    let tell = std::sync::Mutex::new(tell);
    let server = Upstream::plain(move |request| match &*request.target {
        "/result" => {
            drop(tell.lock().unwrap().send(request.json()));
            Reply::new(200, "ok").steps()
        }
        path => Reply::new(200, page(path)).field("content-type", "text/html").steps(),
    });
    (server, told)
}

/// What a page finds out in a real browser, to which all these names are this machine's.
fn visit(url: &str, told: &Receiver<Value>) -> Option<Value> {
    let chromium = tools::find("chromium")?;
    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new(chromium)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg("--host-resolver-rules=MAP evil.test 127.0.0.1, MAP rebind.test 127.0.0.1")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(url)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let found = told.recv_timeout(DEADLINE);
    browser.kill().unwrap();
    browser.wait().unwrap();
    Some(found.expect("the page has told nothing"))
}

#[test]
fn a_page_in_a_browser_spends_nothing_and_reads_nothing() {
    let target = upstream();
    let shut = Proxy::before(&target, &[KEY]);
    let port = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let (shut_port, open_port) = (shut.addr().port().to_string(), port.clone());
    let (server, told) = pages(move |_| PAGE.replace("SHUT", &shut_port).replace("OPEN", open_port.get().unwrap()));
    let origin = format!("http://evil.test:{}", server.addr().port());
    let open = Proxy::before(&target, &[KEY, ("ALLOWED_ORIGINS", &origin)]);
    port.set(open.addr().port().to_string()).unwrap();
    let Some(found) = visit(&format!("{origin}/"), &told) else { return };
    let refused = &found["shut"];
    for name in ["read", "files", "usage", "image", "socket"] {
        assert_eq!(refused[name], "failed", "{found}");
    }
    assert_eq!(shut.usage("user_id=anonymous")["totals"]["requests"], 0, "not even what it cannot read");
    let read = found["open"]["read"].as_str().unwrap();
    assert!(read.starts_with("200 ") && read.contains("prompt_tokens"), "{found}");
    assert!(found["open"]["usage"].as_str().unwrap().starts_with("200 "), "{found}");
    assert!(target.requests().iter().all(|request| request.method != "OPTIONS"));
    assert!(target.requests().iter().all(|request| request.head.get("origin").is_some()), "of the listed page");
    assert_ne!(open.usage("user_id=anonymous")["totals"]["requests"], json!(0));
}

#[test]
fn a_name_that_is_led_here_shows_nothing() {
    let target = upstream();
    let proxy = Proxy::before(&target, &[KEY]);
    let port = proxy.addr().port().to_string();
    let (server, told) = pages(move |_| REBOUND.replace("SHUT", &port));
    let Some(_) = visit(&format!("http://evil.test:{}/", server.addr().port()), &told) else { return };
    // The browser has asked for it under that name, and has got none of it.
    let refused = proxy.metrics();
    assert!(refused[r#"openai_proxy_refused_total{reason="misdirected_request"}"#] >= 1.0, "{refused:?}");
    assert!(target.requests().is_empty());
}

#[test]
fn files_are_their_owners_alone_and_others_are_told_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let upstream = upstream();
    let vars = [("LEDGER_DURABILITY", "journaled"), ("INFLUXDB_URL", "http://127.0.0.1:9/write?db=d")];
    let proxy = Proxy::before(&upstream, &vars);
    send(&proxy, &format!("POST {CHAT}"), "host: localhost").expect(200);
    proxy.wait_for_log("influx export fails");
    let files: Vec<_> = std::fs::read_dir(proxy.folder()).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 5, "the ledger, and what lies beside it: {files:?}");
    for file in &files {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    std::fs::set_permissions(proxy.database(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let folder = proxy.into_folder();
    std::fs::write(folder.path().join(".env"), "").unwrap();
    let again = Proxy::start_in(folder, &[("PROXY_TARGET", &upstream.url())]);
    again.wait_for_log("usage.db");
    again.wait_for_log("path=.env");
}
