//! No key gets out: not into a log line, whatever goes wrong, nor into an error, a metric, an answer about usage, the
//! ledger's files or a debug print. The binary runs at `LOG=trace` through success and every kind of failure; then
//! everything that it wrote or said itself is searched.

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use openai_api_proxy::base::buffer::Buffer;
use openai_api_proxy::config::Config;
use openai_api_proxy::http::head::{RequestHead, ResponseHead, storage};
use openai_api_proxy::proxy::downstream::Downstream;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use support::ca::{Ca, Server};
use support::client::{Client, get, post_json};
use support::proxy::{Proxy, command};
use support::script::{Ending, Reply, Step};
use support::upstream::{SeenRequest, Upstream};

/// The operator's key, a client's own in each of the places where clients put it, and a password in a URL.
const OPERATORS: &str = "sk-operator-4bXq9TzL";
const CLIENTS: &str = "sk-client-7mWd2RkP";
const IN_QUERY: &str = "sk-query-9cVn5HsJ";
const IN_FIELD: &str = "sk-field-3pYf8GqB";
const IN_BODY: &str = "sk-body-6tKe1ZxN";
const PASSWORD: &str = "hunter2-5sUo0LwC";
/// What all of them hold, without what tells them apart: a part of one would be found too.
const SECRETS: [&str; 6] = ["4bXq9TzL", "7mWd2RkP", "9cVn5HsJ", "3pYf8GqB", "6tKe1ZxN", "5sUo0LwC"];

/// A user's name, to show that what is searched is what was written.
const USER: &str = "somebody-visible";

fn holds(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

#[track_caller]
fn expect_no_secret(what: &str, bytes: &[u8]) {
    for secret in SECRETS {
        assert!(!holds(bytes, secret), "{what} holds {secret}:\n{}", String::from_utf8_lossy(bytes));
    }
}

fn fields<'a>(authorization: &'a str, extra: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let own = [("authorization", authorization), ("api-key", IN_FIELD), ("x-user-id", USER)];
    [&own[..], &[("content-type", "application/json")], extra].concat()
}

/// What goes wrong with the target, chosen by the path.
fn answer(request: &SeenRequest) -> Vec<Step> {
    let usage = r#"{"model":"m","usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#;
    let stream = format!("data: {usage}\n\ndata: [DONE]\n\n");
    let send = |text: &str| Step::Send(text.as_bytes().to_vec());
    match request.head.start.split([' ', '?']).nth(1).unwrap_or_default() {
        "/v1/chat/completions" => Reply::json(usage).steps(),
        "/v1/stream/chat/completions" => Reply::sse(stream).steps(),
        "/v1/close/models" => vec![Step::Close],
        "/v1/reset/models" => vec![Step::Reset],
        "/v1/garbage/models" => vec![send("not http at all\r\n\r\n"), Step::Close],
        "/v1/cut/models" => vec![send("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf"), Step::Close],
        "/v1/junk/models" => vec![send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokjunk"), Step::Close],
        "/v1/silent/models" => vec![Step::AwaitClose],
        "/v1/until-close/models" => Reply::new(200, "text").ending(Ending::Close).steps(),
        _ => Reply::new(401, r#"{"error":{"message":"no"}}"#).steps(),
    }
}

/// Everything that can be asked rightly or wrongly; what the proxy says of its own accord.
fn ask_everything(proxy: &Proxy) -> Vec<u8> {
    let mut said = Vec::new();
    let bearer = format!("Bearer {CLIENTS}");
    let query = format!("?api-key={IN_QUERY}");
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{IN_BODY}"}}]}}"#);
    let mut ask = |method: &str, path: &str, extra: &[(&str, &str)], body: &[u8]| {
        let target = format!("{path}{query}");
        let mut client = Client::connect(proxy.addr());
        client.send_request(method, &target, &fields(&bearer, extra), body);
        if let Ok(response) = client.try_response(method) {
            writeln!(&mut Text(&mut said), "{path}: {} {:?}", response.status, response.head.fields).unwrap();
            said.extend_from_slice(&response.body);
        }
    };
    for path in ["/v1/chat/completions", "/v1/stream/chat/completions", "/v1/none"] {
        ask("POST", path, &[], body.as_bytes());
    }
    for kind in ["close", "reset", "garbage", "cut", "junk", "silent", "until-close"] {
        ask("GET", &format!("/v1/{kind}/models"), &[], b"");
    }
    ask("POST", "/v1/chat/completions", &[], "x".repeat(20_000).as_bytes());
    ask("GET", "/v1/models", &[("expect", "a-miracle")], b"");
    ask("GET", "/v1/models", &[("x-user-id", "twice")], b"");
    for path in ["/usage", "/metrics", "/healthz", "/readyz", "/"] {
        ask("GET", path, &[], b"");
        ask("POST", path, &[], b"{}");
    }
    ask_wrongly(proxy, &bearer, &mut said);
    said
}

/// Requests that are not HTTP, or are left in the middle.
fn ask_wrongly(proxy: &Proxy, bearer: &str, said: &mut Vec<u8>) {
    let head =
        |line: &str| format!("{line}\r\nAuthorization: {bearer}\r\napi-key: {IN_FIELD}\r\nX-User-ID: {USER}\r\n");
    let line = format!("POST /v1/chat/completions?key={IN_QUERY} HTTP/1.1");
    let wrong = [
        format!("{}Host: a\r\nHost: b\r\n\r\n", head(&line)),
        format!("{}\r\n", head(&line)),
        format!("{}Host: a\nX: {IN_FIELD}\r\n\r\n", head(&line)),
        format!("{}Host: a\r\nAuthorization : {bearer}\r\n\r\n", head(&line)),
        format!("{}Host: a\r\nTransfer-Encoding: gzip\r\n\r\n", head(&line)),
        format!("{}Host: a\r\nTransfer-Encoding: chunked\r\n\r\n{IN_BODY}\r\n", head(&line)),
        format!("{}Host: a\r\n{}\r\n", head(&line), "X-Filler: y\r\n".repeat(200)),
        format!("{}Host: a\r\n\r\n", head(&format!("GET /{}?{IN_QUERY} HTTP/1.1", "l".repeat(70_000)))),
        format!("{}Host: a\r\n\r\n", head(&format!("CONNECT {IN_QUERY}:443 HTTP/1.1"))),
        format!("{bearer} {IN_FIELD}\r\n\r\n"),
        format!("{}Host: a\r\nContent-Length: 500\r\n\r\n{IN_BODY}", head(&line)), // never whole
        head(&line),                                                               // nor this head
    ];
    for bytes in wrong {
        let mut client = Client::connect(proxy.addr());
        client.send(&bytes);
        if let Ok(response) = client.try_response("POST") {
            said.extend_from_slice(&response.body);
            writeln!(&mut Text(said), "{:?}", response.head.fields).unwrap();
        }
    }
    let mut left = Client::connect(proxy.addr());
    left.send(format!("{}Host: a\r\nContent-Length: 500\r\n\r\n{IN_BODY}", head(&line)));
    left.reset();
}

/// Bytes to write text to.
struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// All files of a folder, as they lie on the disk.
fn files(folder: &Path) -> Vec<u8> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).flat_map(|path| std::fs::read(path).unwrap()).collect()
}

/// A proxy with these settings through everything; what it said and wrote is searched.
fn search(vars: &[(&str, &str)], sent_on: &str) {
    let upstream = Upstream::plain(answer);
    let common = [("LOG", "trace"), ("MAX_BODY_BYTES", "10000"), ("RESPONSE_TIMEOUT", "300ms")];
    let short = [("HEADER_TIMEOUT", "300ms"), ("IDLE_TIMEOUT", "300ms"), ("DRAIN_TIMEOUT", "300ms")];
    let mut proxy = Proxy::before(&upstream, &[&common[..], &short, vars].concat());
    let said = ask_everything(&proxy);
    assert!(said.len() > 5_000, "it was asked a lot");
    expect_no_secret("an answer", &said);
    for target in ["/metrics", "/usage?limit=1000", "/usage?user_id=somebody-visible&group_by=model"] {
        expect_no_secret(target, &get(proxy.addr(), target).expect(200).body);
    }
    let seen = upstream.requests();
    let carries = |request: &SeenRequest| request.head.fields.iter().any(|(_, value)| holds(value.as_bytes(), sent_on));
    assert!(seen.len() > 8 && seen.iter().all(carries), "the key that counts was sent on");
    assert!(proxy.terminate().success());
    expect_no_secret("its log", proxy.stderr().as_bytes());
    assert!(proxy.stderr().contains("msg=listening"), "{}", proxy.stderr());
    let written = files(proxy.folder());
    assert!(holds(&written, USER), "the ledger is what is searched");
    expect_no_secret("the ledger", &written);
}

#[test]
fn with_a_key_of_the_operators() {
    search(&[("OPENAI_API_KEY", OPERATORS)], OPERATORS);
}

#[test]
fn with_each_clients_own() {
    search(&[], CLIENTS);
}

#[test]
fn with_a_journal_and_a_limit() {
    search(&[("OPENAI_API_KEY", OPERATORS), ("LEDGER_DURABILITY", "journaled"), ("RATE_LIMIT_BURST", "12")], OPERATORS);
}

#[test]
fn when_the_target_cannot_be_trusted_or_reached() {
    let stranger = Upstream::tls(Ca::new().server(&["127.0.0.1"], Server::Usual), answer);
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let no_tls = format!("https://{}", plain.local_addr().unwrap());
    std::thread::spawn(move || {
        // It answers a handshake with something else, as often as it is asked, until the process ends.
        for mut connection in plain.incoming().flatten() {
            let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let nobody = support::free_port();
    let targets =
        [stranger.url(), no_tls, format!("http://127.0.0.1:{nobody}"), "http://no-such-host.invalid".to_owned()];
    for target in targets {
        let vars = [("PROXY_TARGET", target.as_str()), ("OPENAI_API_KEY", OPERATORS), ("LOG", "trace")];
        let mut proxy = Proxy::start(&[&vars[..], &[("CONNECT_TIMEOUT", "2s")]].concat());
        let bearer = format!("Bearer {CLIENTS}");
        let path = format!("/v1/chat/completions?api-key={IN_QUERY}");
        let refused = post_json(proxy.addr(), &path, &[("authorization", &bearer), ("api-key", IN_FIELD)], IN_BODY);
        assert!(refused.status >= 502, "{target}: {}", refused.status);
        expect_no_secret("an answer", &refused.body);
        assert!(proxy.terminate().success());
        expect_no_secret("its log", proxy.stderr().as_bytes());
        expect_no_secret("the ledger", &files(proxy.folder()));
    }
}

#[test]
fn from_a_file_that_is_read_again() {
    let upstream = Upstream::plain(answer);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, format!("{OPERATORS}\n")).unwrap();
    std::fs::write(folder.path().join("admin_token"), format!("{PASSWORD}\n")).unwrap();
    let (target, credentials) = (upstream.url(), folder.path().to_str().unwrap().to_owned());
    let vars = [("PROXY_TARGET", target.as_str()), ("OPENAI_API_KEY_FILE", file.to_str().unwrap()), ("LOG", "trace")];
    let vars = [&vars[..], &[("CREDENTIALS_DIRECTORY", &credentials)]].concat();
    let mut proxy = Proxy::start(&vars);
    let sent = |proxy: &Proxy| {
        get(proxy.addr(), "/v1/models");
        upstream.requests().last().unwrap().head.get("authorization").unwrap().to_owned()
    };
    assert_eq!(sent(&proxy), format!("Bearer {OPERATORS}"));
    get(proxy.addr(), "/usage").expect_proxy_error(401, "unauthorized");
    std::fs::write(&file, format!("{CLIENTS}\n")).unwrap();
    proxy.signal(rustix::process::Signal::HUP);
    assert!(proxy.wait_for_log("configuration changed").contains("OPENAI_API_KEY_FILE"));
    let start = std::time::Instant::now();
    while sent(&proxy) != format!("Bearer {CLIENTS}") {
        assert!(start.elapsed() < support::DEADLINE, "the old one is sent");
    }
    assert!(proxy.terminate().success());
    expect_no_secret("its log", proxy.stderr().as_bytes());
}

/// A start that fails: what it says of its settings.
fn refusal(vars: &[(&str, &str)], dotenv: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), dotenv).unwrap();
    let output = command(folder.path(), &[&[("LOG", "trace")], vars].concat()).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{vars:?}: {said}");
    said
}

#[test]
fn settings_that_are_refused() {
    let bearer = format!("Bearer {OPERATORS}");
    let url = format!("https://somebody:{PASSWORD}@127.0.0.1");
    let query = format!("https://127.0.0.1/v1?key={OPERATORS}");
    let database = format!("postgres://somebody:{PASSWORD}@127.0.0.1/d?sslmode=prefer");
    let (host, port) = ("somewhere", "PORT");
    let misplaced = ["LEDGER_WAIT", "MAX_CONNECTIONS", "LEDGER_DURABILITY", "RATE_LIMIT_RPM", "HOST", port];
    let mut all: Vec<Vec<(&str, &str)>> = misplaced.map(|name| vec![(name, OPERATORS)]).to_vec();
    all.extend([
        vec![("OPENAI_API_KEY", bearer.as_str())],
        vec![("OPENAI_API_KEY", OPERATORS), ("HOST", "0.0.0.0")],
        vec![("PROXY_TARGET", url.as_str())],
        vec![("PROXY_TARGET", query.as_str())],
        vec![("OPENAI_API_KEY", OPERATORS), ("ADMIN_TOKEN", PASSWORD), ("INFLUXDB_TOKEN", PASSWORD), (port, host)],
        vec![("INFLUXDB_URL", url.as_str()), ("INFLUXDB_PASSWORD", PASSWORD), (port, host)],
        vec![("FLEET_URL", url.as_str())],
        vec![("FLEET_URL", database.as_str())],
        vec![("OPENAI_ADMIN_KEY", OPERATORS), ("RECONCILE", "daily"), (port, host)],
        vec![("OPENAI_ADMIN_KEY", bearer.as_str()), (port, host)],
    ]);
    for vars in &all {
        let said = refusal(vars, b"");
        expect_no_secret(&format!("{vars:?}"), said.as_bytes());
        assert!(vars.iter().any(|(name, _)| said.contains(name)), "it names the variable: {said}");
    }
    let dotenvs = [
        format!("OPENAI_API_KEY {OPERATORS}\n").into_bytes(),
        format!("PORT=1\n{OPERATORS}\n").into_bytes(),
        format!("OPENAI_API_KEY=\"{OPERATORS}\n").into_bytes(),
        format!("PROXY_TARGET={url}\n").into_bytes(),
        [format!("OPENAI_API_KEY={OPERATORS}").as_bytes(), b"\xff\n"].concat(),
    ];
    for dotenv in dotenvs {
        expect_no_secret("a refusal of .env", refusal(&[], &dotenv).as_bytes());
    }
}

#[test]
fn debug_prints() {
    let head = format!(
        "POST /v1/models?key={IN_QUERY} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {CLIENTS}\r\napi-key: {IN_FIELD}\r\n\
         Content-Length: 1\r\n\r\n"
    );
    let mut room = storage();
    let printed = format!("{:#?}", RequestHead::parse(head.as_bytes(), &mut room).unwrap());
    assert!(printed.contains("/v1/models") && printed.contains("Authorization"), "{printed}");
    expect_no_secret("a request's head", printed.as_bytes());

    let head = format!("HTTP/1.1 200 OK\r\nset-cookie: {PASSWORD}\r\ncontent-length: 0\r\n\r\n");
    let mut room = storage();
    let printed = format!("{:#?}", ResponseHead::parse(head.as_bytes(), &mut room, false).unwrap());
    assert!(printed.contains("200") && printed.contains("set-cookie"), "{printed}");
    expect_no_secret("a response's head", printed.as_bytes());

    let mut input = Buffer::new();
    input.append(CLIENTS.as_bytes());
    let printed = format!("{:#?}", Downstream { input, ..Downstream::default() });
    // Printed as numbers, a key would still be one.
    assert!(printed.contains("18 bytes") && !printed.contains(&CLIENTS.as_bytes()[0].to_string()), "{printed}");

    let key = |name: &str| (name == "OPENAI_API_KEY").then(|| OsString::from(OPERATORS));
    let config = Config::load(&key, "").unwrap();
    assert_eq!(config.api_key.as_ref().unwrap().expose(), OPERATORS);
    expect_no_secret("the configuration", format!("{config:#?} {config:?}").as_bytes());
}
