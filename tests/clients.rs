//! HTTP clients that others wrote, unchanged, through the proxy: curl, wrk, Python's httpx, requests and aiohttp, Node's
//! undici, fetch and `http`, and nginx as a proxy before ours. Each over a kept connection: small and large bodies both
//! ways, by length and chunked, `Expect: 100-continue`, HEAD, 204 and an error. What a client gets is compared by its
//! hash, and so is what the upstream got; each request has its record.
//!
//! Needs `HTTP_PYTHON` (a Python with these packages) and `HTTP_NODE_MODULES` (a folder whose `node_modules` holds
//! undici); CI installs all. codex, and the official Python client's own tests, run where `CLIENT_SUITES=1`.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // tests are the outside world

#[path = "clients/codex.rs"]
mod codex;
#[path = "clients/counted.rs"]
mod counted;
#[path = "clients/suites.rs"]
mod suites;
mod support;

use counted::Counted;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;
use support::client::Client;
use support::proxy::Proxy;
use support::script::{Ending, Reply, Step};
use support::upstream::{SeenRequest, Upstream};
use support::{DEADLINE, tools};

const LARGE_BYTES: usize = 3_000_000;
const SMALL: &[u8] = br#"{"model":"m","input":"x"}"#;

/// No two pieces of it are alike.
fn large() -> Vec<u8> {
    (0..LARGE_BYTES as u32).map(|i| (i ^ (i >> 8) ^ (i >> 15)) as u8).collect()
}

fn hash(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(request: &SeenRequest) -> Vec<Step> {
    let body = || request.body.clone();
    match (request.method.as_str(), request.target.as_str()) {
        ("HEAD", "/v1/models/large") => vec![Step::Send(Reply::new(200, large()).head())],
        ("GET", "/v1/models/large") => Reply::new(200, large()).ending(Ending::Chunked(7000)).steps(),
        (_, "/v1/files") => Reply::new(200, body()).ending(Ending::Chunked(5000)).steps(),
        (_, "/v1/embeddings") => Reply::new(200, body()).steps(),
        ("DELETE", _) => Reply::new(204, "").ending(Ending::Nothing).steps(),
        (_, "/v1/missing") => Reply::new(404, "missing").steps(),
        (_, target) => Reply::new(200, target).steps(),
    }
}

/// A call, what its answer must be, and what the upstream must have got.
struct Call {
    name: String,
    method: &'static str,
    path: String,
    chunked: bool,
    expects: bool,
    sent: Vec<u8>,
    status: u16,
    got: Vec<u8>,
}

fn calls() -> Vec<Call> {
    let call = |name: &str, method, path: &str, sent: Vec<u8>, status, got: Vec<u8>| {
        let (chunked, expects) = (name.starts_with("chunked"), name.starts_with("expect"));
        Call { name: name.to_owned(), method, path: path.to_owned(), chunked, expects, sent, status, got }
    };
    let kept = |n| {
        let path = format!("/v1/models/{n}");
        call(&format!("kept {n}"), "GET", &path, Vec::new(), 200, path.clone().into_bytes())
    };
    let echo = |name, path, body: Vec<u8>| call(name, "POST", path, body.clone(), 200, body);
    let mut calls: Vec<Call> = (0..3).map(kept).collect();
    calls.extend([
        echo("small", "/v1/embeddings", SMALL.to_vec()),
        echo("length", "/v1/embeddings", large()),
        echo("chunked", "/v1/files", large()),
        echo("chunked json", "/v1/embeddings", large()),
        echo("expect", "/v1/embeddings", large()),
        echo("expect streamed", "/v1/files", large()),
        call("head", "HEAD", "/v1/models/large", Vec::new(), 200, Vec::new()),
        call("large", "GET", "/v1/models/large", Vec::new(), 200, large()),
        call("nothing", "DELETE", "/v1/models/0", Vec::new(), 204, Vec::new()),
        call("missing", "GET", "/v1/missing", Vec::new(), 404, b"missing".to_vec()),
    ]);
    calls
}

/// What a client's results must be.
fn expected() -> Value {
    let result = |call: &Call| {
        let length = (call.method == "HEAD").then(|| LARGE_BYTES.to_string());
        json!([call.name, call.status, hash(&call.got), length])
    };
    calls().iter().map(result).collect()
}

/// Upstream, proxy, and the way to it.
struct Setup {
    upstream: Upstream,
    proxy: Proxy,
    way: Counted,
}

fn setup() -> Setup {
    let upstream = Upstream::plain(answer);
    let proxy = Proxy::before(&upstream, &[("RATE_LIMIT_RPM", "0")]);
    std::fs::write(proxy.folder().join("body"), large()).unwrap();
    let way = Counted::before(proxy.addr());
    Setup { upstream, proxy, way }
}

impl Setup {
    /// The upstream got what was sent, all came on so many connections, and each request has its record.
    #[track_caller]
    fn assert_passed(&self, connections: usize) {
        let calls = calls();
        let seen = self.upstream.requests();
        assert_eq!(seen.len(), calls.len());
        for (seen, call) in seen.iter().zip(&calls) {
            assert_eq!((seen.method.as_str(), &seen.target), (call.method, &call.path), "{}", call.name);
            assert_eq!(hash(&seen.body), hash(&call.sent), "{}", call.name);
            // What streams through is framed as it was; what was held has a length.
            let streams = call.chunked && call.path == "/v1/files";
            assert_eq!(seen.head.get("transfer-encoding"), streams.then_some("chunked"), "{}", call.name);
            assert_eq!(seen.head.get("expect"), None);
        }
        assert_eq!(self.way.connections(), connections, "connections, where one can be kept");
        let totals = &self.proxy.usage("user_id=anonymous")["totals"];
        assert_eq!((&totals["requests"], &totals["errors"]), (&json!(calls.len()), &json!(1)));
    }
}

/// Makes all calls by a script's client.
fn script(command: Option<Command>, client: &str) {
    let Some(mut command) = command else { return };
    let setup = setup();
    let output = command.arg(client).arg(setup.way.url()).arg(setup.proxy.folder().join("body")).output().unwrap();
    assert!(output.status.success(), "{client}: {}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results, expected(), "{client}");
    // undici drops a connection after HEAD: it trusts no server to send no body then.
    setup.assert_passed(if matches!(client, "undici" | "fetch") { 2 } else { 1 });
}

#[test]
fn httpx() {
    script(tools::python("httpx", "clients/calls.py"), "httpx");
}

#[test]
fn requests() {
    script(tools::python("requests", "clients/calls.py"), "requests");
}

#[test]
fn aiohttp() {
    script(tools::python("aiohttp", "clients/calls.py"), "aiohttp");
}

#[test]
fn undici() {
    script(tools::node(Some("undici"), "clients/calls.mjs"), "undici");
}

#[test]
fn undici_fetch() {
    script(tools::node(Some("undici"), "clients/calls.mjs"), "fetch");
}

#[test]
fn node_http() {
    script(tools::node(None, "clients/calls.mjs"), "http");
}

/// One invocation, so that curl keeps its connection.
#[test]
fn curl() {
    let Some(curl) = tools::find("curl") else { return };
    let setup = setup();
    let (folder, calls) = (setup.proxy.folder(), calls());
    let mut command = Command::new(curl);
    command.current_dir(folder);
    for (n, call) in calls.iter().enumerate() {
        command.args(["-q", "-sS", "--max-time", "60"]).args(["-o", &format!("got-{n}"), "-D", &format!("head-{n}")]);
        command.args(["-w", "%{http_code} %{num_connects} %header{content-length}\n"]);
        match call.method {
            "HEAD" => drop(command.arg("-I")),
            method => drop(command.args(["-X", method])),
        }
        if !call.sent.is_empty() {
            let body = if call.sent == SMALL { std::str::from_utf8(SMALL).unwrap() } else { "@body" };
            command.args(["-H", "content-type: application/json", "--data-binary", body]);
            command.args(["-H", if call.expects { "expect: 100-continue" } else { "expect:" }]);
        }
        if call.chunked {
            command.args(["-H", "transfer-encoding: chunked"]);
        }
        command.arg(format!("{}{}", setup.way.url(), call.path)).arg("--next");
    }
    let output = command.args(["-q", "-sS", "-o", "end", "-w", ""]).arg(setup.way.url() + "/healthz").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().count(), calls.len(), "{lines}");
    for ((n, call), line) in calls.iter().enumerate().zip(lines.lines()) {
        let head = std::fs::read_to_string(folder.join(format!("head-{n}"))).unwrap();
        assert_eq!(head.starts_with("HTTP/1.1 100 "), call.expects, "{}: {head}", call.name);
        let connects = u32::from(n == 0);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or_default();
        let expected = format!("{} {connects} {length}", call.status);
        assert_eq!(line.trim_end(), expected.trim_end(), "{}", call.name);
        let got = std::fs::read(folder.join(format!("got-{n}"))).unwrap_or_default();
        if call.method == "HEAD" {
            assert_eq!(length, LARGE_BYTES.to_string());
        } else {
            assert_eq!(hash(&got), hash(&call.got), "{}", call.name);
        }
    }
    setup.assert_passed(1);
}

/// A server that ends with its value.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts nginx without workers of its own, as a proxy to this address; where it listens.
fn nginx(program: &Path, folder: &Path, to: &str) -> (Nginx, std::net::SocketAddr) {
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], support::free_port()));
    let configuration = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr warn;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n\
           access_log off; client_max_body_size 100m; client_body_temp_path body-temp; proxy_temp_path proxy-temp;\n\
           fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
           upstream ours {{ server {to}; keepalive 4; }}\n\
           server {{\n\
             listen {addr};\n\
             location / {{\n\
               proxy_pass http://ours; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
               proxy_request_buffering off; proxy_buffering off;\n\
             }}\n\
           }}\n\
         }}\n"
    );
    std::fs::write(folder.join("nginx.conf"), configuration).unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    let child = command.current_dir(folder).args(["-p", ".", "-e", "stderr", "-c", "nginx.conf"]).spawn().unwrap();
    let nginx = Nginx(child);
    let start = Instant::now();
    while std::net::TcpStream::connect(addr).is_err() {
        assert!(start.elapsed() < DEADLINE, "nginx does not listen");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    (nginx, addr)
}

#[test]
fn nginx_as_a_client() {
    let Some(program) = tools::find("nginx") else { return };
    let setup = setup();
    let folder = tempfile::tempdir().unwrap();
    let (_nginx, addr) = nginx(&program, folder.path(), &setup.way.addr.to_string());
    let mut client = Client::connect(addr);
    for call in calls() {
        let mut lines = format!("{} {} HTTP/1.1\r\nhost: a\r\n", call.method, call.path);
        if call.expects {
            lines.push_str("expect: 100-continue\r\n");
        }
        if call.sent.len() == SMALL.len() || call.path == "/v1/embeddings" {
            lines.push_str("content-type: application/json\r\n");
        }
        if call.chunked {
            let chunks = Reply::new(200, call.sent).ending(Ending::Chunked(9000)).framed_body();
            client.send([format!("{lines}transfer-encoding: chunked\r\n\r\n").as_bytes(), &chunks].concat());
        } else {
            let length =
                if call.sent.is_empty() { String::new() } else { format!("content-length: {}\r\n", call.sent.len()) };
            client.send([format!("{lines}{length}\r\n").as_bytes(), &call.sent].concat());
        }
        let response = client.response(call.method).expect(call.status);
        assert_eq!(hash(&response.body), hash(&call.got), "{}", call.name);
        if call.method == "HEAD" {
            assert_eq!(response.head.get("content-length"), Some(LARGE_BYTES.to_string().as_str()));
        }
    }
    setup.assert_passed(1);
}

/// Its requests are complete and counted, but for those in flight when it stops.
#[test]
fn wrk() {
    let Some(wrk) = tools::find("wrk") else { return };
    const CONNECTIONS: u64 = 16;
    let setup = setup();
    let lua = "wrk.method = 'POST'; wrk.body = '{\"model\":\"m\"}'; wrk.headers['content-type'] = 'application/json'";
    std::fs::write(setup.proxy.folder().join("post.lua"), lua).unwrap();
    let mut finished = 0;
    for more in [&["/v1/models/0"][..], &["/v1/models/large"], &["-s", "post.lua", "/v1/embeddings"]] {
        let (path, options) = more.split_last().unwrap();
        let mut command = Command::new(&wrk);
        command.current_dir(setup.proxy.folder()).args([
            "-t1",
            &format!("-c{CONNECTIONS}"),
            "-d1s",
            "--timeout",
            "30s",
        ]);
        let output = command.args(options).arg(format!("{}{path}", setup.proxy.url())).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
        let count = said.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<u64>().ok());
        finished += count.unwrap_or_else(|| panic!("{said}"));
    }
    setup.proxy.wait_until_left();
    let totals = &setup.proxy.usage("user_id=anonymous")["totals"];
    let counted = totals["requests"].as_u64().unwrap();
    assert!(
        finished > 0 && (finished..=finished + 3 * CONNECTIONS).contains(&counted),
        "{counted} counted, {finished} by wrk"
    );
    support::say(&format!("wrk: {finished} requests finished, {counted} counted"));
}
