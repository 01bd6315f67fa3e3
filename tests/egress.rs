//! The way out, through the binary: tunnels of a scripted proxy and of tinyproxy, what refuses them, what goes past them,
//! and that no credentials are told. Left to others: which values name a proxy or an exception (`src/config/egress.rs`),
//! the bytes of an answer (`src/proxy/egress_tunnel.rs`), proxies in pieces and in any order (`simulation`).

#![allow(clippy::disallowed_methods)] // waiting has an end

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use support::ca::{Ca, Server};
use support::client::{get, post_json};
use support::proxy::{Proxy, command};
use support::script::{Ending, Reply};
use support::tunnels::{Fate, Tunnels};
use support::upstream::Upstream;
use support::{DEADLINE, free_port, tools};

const OPEN: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
const CHAT: &str = "/v1/chat/completions";
/// `me:p@ss!`, as a variable has it, as it is, and as it goes out.
const SECRETS: [&str; 3] = ["p%40ss", "p@ss!", "bWU6cEBzcyE="];

/// The variable's value for a proxy there, with credentials.
fn url(addr: SocketAddr) -> String {
    format!("http://me:{}!@{addr}", SECRETS[0])
}

/// An API that only the proxy can find: no name of these is to be resolved here.
fn api() -> (Ca, Upstream) {
    let ca = Ca::new();
    let config = ca.server(&["target.invalid"], Server::Usual);
    (ca, Upstream::tls(config, |_| Reply::json(r#"{"model":"m","usage":{"prompt_tokens":3}}"#).steps()))
}

fn check(folder: &std::path::Path, vars: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = command(folder, vars).arg("check").stdout(Stdio::piped()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[track_caller]
fn assert_untold(text: &str) {
    assert!(SECRETS.iter().all(|secret| !text.contains(secret)), "{text}");
}

#[test]
fn a_tunnel_carries_tls_to_the_target_and_is_kept() {
    for fate in [
        Fate::Open(OPEN),
        Fate::Dribble("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 299 So be it\r\nContent-Length: 9\r\n\r\n"),
    ] {
        let (ca, upstream) = api();
        let tunnels = Tunnels::to(upstream.addr(), move |_| fate.clone());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        let by = url(tunnels.addr());
        let vars = [
            ("PROXY_TARGET", "https://target.invalid:8443/base"),
            ("TLS_CA_FILE", "ca.pem"),
            ("HTTPS_PROXY", by.as_str()),
            ("HTTP_PROXY", "http://nobody.invalid:1"),
            ("LOG", "trace"),
        ];
        let mut proxy = Proxy::start_in(folder, &vars);
        let row = |user| post_json(proxy.addr(), CHAT, &[("x-user-id", user)], "{}").expect(200);
        row("a");
        row("b");
        assert_eq!(proxy.only_row("b")["input_tokens"], 3);
        let asked = tunnels.asked();
        assert_eq!(asked.len(), 1, "the second request goes through the same tunnel");
        assert_eq!(asked[0].start, "CONNECT target.invalid:8443 HTTP/1.1");
        assert_eq!(asked[0].get("host"), Some("target.invalid:8443"));
        assert_eq!(asked[0].get("proxy-authorization"), Some(format!("Basic {}", SECRETS[2]).as_str()));
        let seen = upstream.requests();
        assert_eq!((seen.len(), seen[0].target.as_str()), (2, "/base/v1/chat/completions"));
        assert_eq!(seen[0].head.get("host"), Some("target.invalid:8443"));
        assert_eq!(seen[0].head.get("proxy-authorization"), None);
        let (status, said) = check(proxy.folder(), &vars);
        assert_eq!(status, Some(0), "{said}");
        let way = format!("target.invalid:8443 by the proxy http://{} (HTTPS_PROXY, with a user", tunnels.addr());
        assert!(said.contains(&way) && said.contains("target.invalid:8443 answers through 127.0.0.1"), "{said}");
        proxy.terminate();
        assert!(proxy.stderr().contains("by the proxy http://127.0.0.1"), "{}", proxy.stderr());
        assert_untold(&said);
        assert_untold(&proxy.stderr());
    }
}

#[test]
fn a_plain_target_is_reached_by_a_tunnel_too() {
    let upstream = Upstream::plain(|_| Reply::json("{}").steps());
    let tunnels = Tunnels::to(upstream.addr(), |_| Fate::Open(OPEN));
    // Without a scheme, in small letters, from the file.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), format!("http_proxy={}\n", tunnels.addr())).unwrap();
    let vars = [("PROXY_TARGET", "http://target.invalid"), ("HTTPS_PROXY", "http://nobody.invalid:1")];
    let proxy = Proxy::start_in(folder, &vars);
    post_json(proxy.addr(), CHAT, &[], r#"{"model":"m"}"#).expect(200);
    let asked = tunnels.asked();
    assert_eq!((asked.len(), asked[0].start.as_str()), (1, "CONNECT target.invalid:80 HTTP/1.1"));
    assert_eq!(asked[0].get("proxy-authorization"), None);
    let (status, said) = check(proxy.folder(), &vars);
    assert!(
        status == Some(0) && said.contains(&format!("by the proxy http://{} (HTTP_PROXY)", tunnels.addr())),
        "{said}"
    );
}

/// The client is told that it was the way out, and what can be done; nothing of the request has left.
#[test]
fn a_proxy_that_opens_no_tunnel_is_told() {
    let long = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(90) + &"c: d".repeat(9_000));
    for (fate, told) in [
        (Fate::Say("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n".to_owned()), "407: it wants another user"),
        (Fate::Say("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 2\r\n\r\nno".to_owned()), "with status 502"),
        (Fate::Say("HTTP/1.1 301 Moved\r\n\r\n".to_owned()), "with status 301"),
        (Fate::Say(String::new()), "closed the connection before it opened a tunnel"),
        (Fate::Say("HTTP/1.1 200 O".to_owned()), "closed the connection before it opened a tunnel"),
        (Fate::Say("SSH-2.0-OpenSSH_10\r\n\r\n".to_owned()), "is not HTTP"),
        (Fate::Say(long), "is not HTTP: the headers are too large"),
    ] {
        let (_, upstream) = api();
        let shown = format!("{fate:?}");
        let tunnels = Tunnels::to(upstream.addr(), move |_| fate.clone());
        let by = url(tunnels.addr());
        let vars = [("PROXY_TARGET", "https://target.invalid"), ("https_proxy", by.as_str()), ("LOG", "trace")];
        let mut proxy = Proxy::start(&vars);
        let answer = post_json(proxy.addr(), CHAT, &[("x-user-id", "a")], "{}");
        let message = answer.expect_proxy_error(502, "upstream_unreachable").json()["error"]["message"].to_string();
        assert!(message.contains("the proxy on the way out") && message.contains(told), "{shown}: {message}");
        assert_eq!(proxy.only_row("a")["outcome"], "upstream_error");
        get(proxy.addr(), "/readyz").expect(200);
        let errors: f64 =
            proxy.metrics().iter().filter(|(name, _)| name.contains("upstream_errors_total")).map(|it| it.1).sum();
        assert_eq!(errors, 1.0, "{shown}");
        let (status, said) = check(proxy.folder(), &vars);
        assert!(status == Some(1) && said.contains("FAIL  tls") && said.contains("look at HTTPS_PROXY"), "{said}");
        proxy.terminate();
        assert_untold(&(said + &proxy.stderr() + &message));
        assert_eq!(upstream.connections(), 0);
    }
}

#[test]
fn a_proxy_that_is_not_there_or_does_not_go_on_is_told() {
    let upstream = Upstream::plain(|_| Reply::json("{}").steps());
    let tunnels = Tunnels::to(upstream.addr(), |_| Fate::Hang("HTTP/1.1 200 OK\r\n"));
    let (hangs, gone) = (tunnels.addr().to_string(), format!("127.0.0.1:{}", free_port()));
    for (by, patience, status, code, told) in [
        (hangs.as_str(), "300ms", 504, "upstream_timeout", "opened no tunnel in time"),
        (gone.as_str(), "19s", 502, "upstream_unreachable", "the proxy on the way out could not be connected"),
        ("nobody.invalid:1", "19s", 502, "upstream_unreachable", "proxy on the way out could not be resolved"),
    ] {
        let vars = [("PROXY_TARGET", "http://target.invalid"), ("HTTP_PROXY", by), ("CONNECT_TIMEOUT", patience)];
        let proxy = Proxy::start(&vars);
        let answer = post_json(proxy.addr(), CHAT, &[], r#"{"model":"m"}"#).expect_proxy_error(status, code);
        assert!(answer.text().contains(told), "{by}: {}", answer.text());
    }
}

/// What comes together with the answer's head is the target's, and is not lost.
/// Each byte comes in time, and the answer never.
#[test]
fn check_gives_up_on_a_proxy_that_dribbles() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let by = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, start) = (listener.accept().unwrap().0, Instant::now());
        stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").unwrap();
        while start.elapsed() < DEADLINE && stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let vars = [("PROXY_TARGET", "https://target.invalid"), ("HTTPS_PROXY", &by), ("CONNECT_TIMEOUT", "500ms")];
    let (status, said) = check(folder.path(), &vars);
    assert_eq!(status, Some(1));
    assert!(said.contains("gave no answer: no answer within CONNECT_TIMEOUT"), "{said}");
}

#[test]
fn bytes_behind_the_head_come_from_the_target() {
    let nobody = "127.0.0.1:1".parse().unwrap();
    let tunnels = Tunnels::to(nobody, |_| Fate::Hang("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 408 Request Timeout\r\n\r\n"));
    let by = tunnels.addr().to_string();
    for (target, code, told) in [
        ("https://target.invalid", "upstream_unreachable", "does not seem to speak TLS"),
        ("http://target.invalid", "upstream_protocol", "bytes outside of a response"),
    ] {
        let proxy = Proxy::start(&[("PROXY_TARGET", target), ("HTTPS_PROXY", &by), ("HTTP_PROXY", &by)]);
        let answer = post_json(proxy.addr(), CHAT, &[], "{}").expect_proxy_error(502, code);
        assert!(answer.text().contains(told), "{}", answer.text());
    }
}

/// `127.1` is this machine's address for the resolver, and a name like any other for the configuration. This machine is
/// no exception, as curl has it: who has a server on it says so.
#[test]
fn what_is_exempt_goes_past_the_proxy() {
    let upstream = Upstream::plain(|_| Reply::json("{}").steps());
    let tunnels = Tunnels::to(upstream.addr(), |_| Fate::Open(OPEN));
    let (by, port) = (tunnels.addr().to_string(), upstream.addr().port());
    let (here, named) = (format!("http://127.0.0.1:{port}"), format!("http://127.1:{port}"));
    let with_port = format!("other.example, 127.1:{port}");
    for (target, no_proxy, way, count) in [
        (&here, "", "by the proxy", 1),
        (&here, "127.0.0.0/8", "directly: NO_PROXY exempts it from HTTP_PROXY", 0),
        (&named, "127.1", "directly: NO_PROXY exempts it from HTTP_PROXY", 0),
        (&named, &with_port, "directly: NO_PROXY exempts it from HTTP_PROXY", 0),
        (&named, "*", "directly: NO_PROXY exempts it from HTTP_PROXY", 0),
        (&named, "127.1:1,27.1,10.0.0.0/8", "by the proxy", 1),
    ] {
        let before = tunnels.asked().len();
        let vars = [("PROXY_TARGET", target.as_str()), ("HTTP_PROXY", &by), ("NO_PROXY", no_proxy)];
        let proxy = Proxy::start(&vars);
        post_json(proxy.addr(), CHAT, &[], r#"{"model":"m"}"#).expect(200);
        assert_eq!(tunnels.asked().len() - before, count, "{target} with {no_proxy:?}");
        proxy.wait_for_log(way);
        let (status, said) = check(proxy.folder(), &vars);
        assert!(status == Some(0) && said.contains(way), "{said}");
    }
}

/// The export, the fetched prices and the alerts take the way out that their own addresses ask for, also where one leads to another.
#[test]
fn whatever_else_calls_out_takes_the_way_out() {
    let moved = Arc::new(OnceLock::<String>::new());
    let to = moved.clone();
    let upstream = Upstream::plain(move |request| match request.target.as_str() {
        "/moved.json" => Reply::new(302, "").field("location", to.get().unwrap()).steps(),
        "/prices.json" => Reply::json(r#"{"mine": {"input_cost_per_token": 1e-6}}"#).steps(),
        target if target.starts_with("/write") => Reply::new(204, "").ending(Ending::Nothing).steps(),
        _ => Reply::json(r#"{"usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}}"#).steps(),
    });
    let tunnels = Tunnels::to(upstream.addr(), |_| Fate::Open(OPEN));
    let (by, folder) = (url(tunnels.addr()), tempfile::tempdir().unwrap());
    let (target, past) = (upstream.url(), format!("http://127.1:{}", upstream.addr().port()));
    let except = format!("127.0.0.1,{}", &past["http://".len()..]);
    moved.set(format!("{past}/prices.json")).unwrap();
    let fetched = |from: &str, influx: &str, told: &str| {
        let vars = [
            ("PROXY_TARGET", target.as_str()),
            ("HTTP_PROXY", by.as_str()),
            ("NO_PROXY", &except),
            ("PRICES_URL", from),
            ("INFLUXDB_URL", influx),
            ("INFLUXDB_DATABASE", "usage"),
            ("ALERT_WEBHOOK_URL", told),
            ("BUDGET_USD_DAY", "0.0000075"), // a request spends 90 % of it
            ("LOG", "trace"),
        ];
        let proxy = Proxy::start(&vars);
        proxy.wait_for_log("prices fetched");
        post_json(proxy.addr(), CHAT, &[], r#"{"model":"gpt-4o-mini","max_tokens":1}"#).expect(200);
        proxy.wait_for_log("budget alert sent");
        let start = Instant::now();
        while proxy.metrics()["openai_proxy_influx_lines_sent_total"] < 1.0 {
            assert!(start.elapsed() < DEADLINE, "nothing is exported: {}", proxy.stderr());
        }
        let (_, said) = check(folder.path(), &vars);
        assert_untold(&(said.clone() + &proxy.stderr()));
        said
    };
    let said = fetched("http://prices.invalid:81/moved.json", "http://influx.invalid", "http://told.invalid/a");
    assert!(
        said.contains("http://influx.invalid by the proxy") && said.contains("influx.invalid lets writes in"),
        "{said}"
    );
    let asked: Vec<String> = tunnels.asked().into_iter().map(|head| head.start).collect();
    for wanted in ["prices.invalid:81", "influx.invalid:80", "told.invalid:80"] {
        assert!(asked.contains(&format!("CONNECT {wanted} HTTP/1.1")), "{wanted}: {asked:?}");
    }
    assert!(!asked.iter().any(|start| start.contains("127.1")), "the redirect leads past the proxy: {asked:?}");
    assert_eq!(tunnels.asked()[0].get("proxy-authorization"), Some(format!("Basic {}", SECRETS[2]).as_str()));
    let said = fetched(&format!("{past}/prices.json"), &past, &past);
    assert!(said.contains(&format!("{past} directly: NO_PROXY exempts it")), "{said}");
    assert_eq!(tunnels.asked().len(), asked.len(), "none of them is for the proxy");
}

#[test]
fn mistakes_are_told_together_and_without_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let vars = [("HTTPS_PROXY", "socks5://me:p@ss!@h:1"), ("http_proxy", "http://me:p@ss!@h:x"), ("PORT", "x")];
    let output = command(folder.path(), &vars).stderr(Stdio::piped()).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("HTTPS_PROXY: expected http://") && told.contains("http_proxy: expected http://"), "{told}");
    assert!(told.contains("not over https or socks") && told.contains("PORT: expected"), "{told}");
    assert_untold(&told);
}

/// OpenSSL's variable is not ours.
#[test]
fn check_names_the_variable_that_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let upstream = Upstream::tls(ca.server(&["127.0.0.1"], Server::Usual), |_| Reply::json("{}").steps());
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, ca.pem()).unwrap();
    let (target, file) = (upstream.url(), file.to_str().unwrap());
    let (status, said) = check(folder.path(), &[("PROXY_TARGET", &target), ("SSL_CERT_FILE", file)]);
    assert!(status == Some(1) && said.contains("SSL_CERT_FILE is not read: TLS_CA_FILE names"), "{said}");
    let both = [("PROXY_TARGET", target.as_str()), ("SSL_CERT_FILE", file), ("TLS_CA_FILE", file)];
    let (status, said) = check(folder.path(), &both);
    assert!(status == Some(0) && !said.contains("SSL_CERT_FILE"), "{said}");
}

/// Debian's tinyproxy, which asks for a user and a password.
struct Tinyproxy {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Tinyproxy {
    fn start() -> Option<Self> {
        let program = tools::find("tinyproxy")?;
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let config = folder.path().join("tinyproxy.conf");
        let text = format!("Port {port}\nListen 127.0.0.1\nTimeout 60\nBasicAuth me secret\nMaxClients 20\n");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        let child = command.args(["-d", "-c"]).arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < DEADLINE, "tinyproxy does not listen");
        }
        Some(Self { child, port, _folder: folder })
    }
}

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tinyproxy_opens_tunnels() {
    let Some(tinyproxy) = Tinyproxy::start() else { return };
    let stream = "data: {\"choices\":[]}\n\n".repeat(500) + "data: [DONE]\n\n";
    let sent = stream.clone();
    let upstream = Upstream::plain(move |_| Reply::sse(sent.clone()).steps());
    let target = format!("http://127.1:{}", upstream.addr().port());
    let right = format!("http://me:secret@127.0.0.1:{}", tinyproxy.port);
    let proxy = Proxy::start(&[("PROXY_TARGET", &target), ("HTTP_PROXY", &right), ("RATE_LIMIT_RPM", "0")]);
    for _ in 0..20 {
        let body = post_json(proxy.addr(), CHAT, &[], r#"{"model":"m","stream":true}"#).expect(200).body;
        assert!(body == stream.as_bytes());
    }
    assert_eq!(upstream.connections(), 1, "the tunnel is kept");
    let wrong = right.replace("secret", "p@ss!");
    let vars = [("PROXY_TARGET", target.as_str()), ("HTTP_PROXY", &wrong)];
    let refused = Proxy::start(&vars);
    let answer =
        post_json(refused.addr(), CHAT, &[], r#"{"model":"m"}"#).expect_proxy_error(502, "upstream_unreachable");
    assert!(answer.text().contains("it wants another user and password"), "{}", answer.text());
    let gone = format!("http://127.1:{}", free_port());
    let (status, said) = check(refused.folder(), &[("PROXY_TARGET", &gone), ("HTTP_PROXY", &right)]);
    assert!(status == Some(1) && said.contains("refused the tunnel with status 5"), "{said}");
}
