//! The manual's configurations of servers in front, run by these servers: each event of a stream comes through before
//! the next is sent, a WebSocket opens, a large body gets in.
//!
//! What cannot be installed here (Traefik, Cloudflare) is not tried. Left to others: nginx as a client (`clients`), what
//! is believed of front servers (`door`), which headers of theirs go on (`relay`).

#![allow(clippy::disallowed_methods)] // waiting has an end

mod support;

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use support::api;
use support::client::{Client, request, response_framing};
use support::manual;
use support::proxy::Proxy;
use support::rng::Rng;
use support::script::{Reply, Step, chunk, gate};
use support::upstream::Upstream;
use support::websocket::{self, Frame, HANDSHAKE, Side, Socket};
use support::{DEADLINE, tools};

/// The domain in the manual.
const DOMAIN: &str = "openai.example.com";
const CHAT: &str = "/v1/chat/completions";
/// More than the megabyte that nginx lets in by itself.
const LARGE_BYTES: usize = 3 << 20;

/// The manual's block in this language.
fn block(language: &str) -> String {
    let found = manual::blocks_of("networks", language).into_iter().next();
    found.unwrap_or_else(|| panic!("no block of {language} in the manual"))
}

/// The block with another text in place of one that must be there.
fn with(block: &str, from: &str, to: &str) -> String {
    assert!(block.contains(from), "{from} is not in:\n{block}");
    block.replace(from, to)
}

/// A server in front; ended with its value.
struct FrontServer {
    child: Child,
    addr: SocketAddr,
}

impl FrontServer {
    fn start(mut command: Command, addr: SocketAddr) -> Self {
        let server = Self { child: command.spawn().unwrap(), addr };
        let start = Instant::now();
        while TcpStream::connect(addr).is_err() {
            assert!(start.elapsed() < DEADLINE, "it does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    /// A connection on which this is asked of the domain.
    fn ask(&self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Client {
        let bytes = request(method, target, fields, body);
        let head = format!("{method} {target} HTTP/1.1\r\nhost: ");
        let rest = bytes.strip_prefix(format!("{head}localhost").as_bytes()).expect("its host first");
        let mut client = Client::connect(self.addr);
        client.send([head.as_bytes(), DOMAIN.as_bytes(), rest].concat());
        client
    }
}

impl Drop for FrontServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_addr() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], support::free_port()))
}

fn nginx(program: &Path, folder: &Path, proxy: &Proxy) -> FrontServer {
    let addr = free_addr();
    let site = with(&block("nginx"), "127.0.0.1:8080", &proxy.addr().to_string());
    let site = with(&site, "listen 80;", &format!("listen {addr};"));
    let configuration = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr warn;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n\
           access_log off; client_body_temp_path body-temp; proxy_temp_path proxy-temp;\n\
           fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n{site}}}\n"
    );
    std::fs::write(folder.join("nginx.conf"), configuration).unwrap();
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    command.current_dir(folder).args(["-p", ".", "-e", "stderr", "-c", "nginx.conf"]);
    FrontServer::start(command, addr)
}

fn caddy(program: &Path, folder: &Path, proxy: &Proxy) -> FrontServer {
    let addr = free_addr();
    let site = with(&block("caddyfile"), "127.0.0.1:8080", &proxy.addr().to_string());
    // Without a certificate, which it would fetch for the domain.
    let site = with(&site, DOMAIN, &format!("http://{DOMAIN}:{}", addr.port()));
    let configuration = format!("{{\n\tadmin off\n\tauto_https off\n\tdefault_bind 127.0.0.1\n}}\n{site}");
    std::fs::write(folder.join("Caddyfile"), configuration).unwrap();
    let mut command = Command::new(program);
    command.current_dir(folder).args(["run", "--adapter", "caddyfile", "--config", "Caddyfile"]);
    command.env("HOME", folder).stderr(std::process::Stdio::null());
    FrontServer::start(command, addr)
}

/// A target whose first stream waits at a gate before each event but the first, and that answers all else at once.
fn target() -> (Upstream, std::sync::mpsc::Sender<()>) {
    let (open, wait) = gate();
    let wait = Mutex::new(Some(wait));
    let upstream = Upstream::plain(move |request| {
        if request.head.get("upgrade").is_some() {
            return websocket::accept(request, |tunnel| {
                Ok(std::io::Write::write_all(tunnel, &Frame::text("from the target").encode(None))?)
            });
        }
        match request.json()["stream"].as_bool() {
            Some(true) => vec![
                Step::Send([Reply::sse("").head(), chunk(b"data: first\n\n")].concat()),
                wait.lock().unwrap().take().expect("one stream"),
                Step::Send([chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat()),
            ],
            _ => api::answer(request).steps(),
        }
    });
    (upstream, open)
}

/// What clients need of a server in front.
fn lets_all_through(start: impl FnOnce(&Path, &Proxy) -> FrontServer) {
    let (upstream, open) = target();
    let vars = [("ALLOWED_HOSTS", DOMAIN), ("TRUSTED_PROXIES", "127.0.0.1"), ("LOG", "trace")];
    let proxy = Proxy::before(&upstream, &vars);
    let folder = tempfile::tempdir().unwrap();
    let front = start(folder.path(), &proxy);
    let json = [("content-type", "application/json")];

    let body = r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;
    let mut client = front.ask("POST", CHAT, &json, body.as_bytes());
    let head = client.head().unwrap().unwrap();
    assert_eq!(head.status(), 200);
    let mut framing = response_framing("POST", &head).unwrap();
    let mut received = Vec::new();
    while received.len() < b"data: first\n\n".len() {
        received.extend(client.body_piece(&mut framing).expect("the first event is held back").expect("it goes on"));
    }
    open.send(()).unwrap();
    while let Some(piece) = client.body_piece(&mut framing).unwrap() {
        received.extend(piece);
    }
    assert_eq!(String::from_utf8(received).unwrap(), "data: first\n\ndata: [DONE]\n\n");

    let large = format!("{{\"model\":\"gpt-4o\",\"messages\":[],\"x\":\"{}\"}}", "x".repeat(LARGE_BYTES));
    front.ask("POST", CHAT, &json, large.as_bytes()).response("POST").expect(200);

    let mut client = front.ask("GET", "/v1/realtime?model=gpt-realtime", &HANDSHAKE, b"");
    websocket::check_accepted(&client.response("GET").expect(101));
    let mut socket = Socket::new(client.into_wire(), Side::Client(Rng::new(0)));
    assert_eq!(socket.message().unwrap().unwrap().payload, b"from the target");
}

#[test]
fn nginx_lets_all_through() {
    let Some(program) = tools::find("nginx") else { return };
    lets_all_through(|folder, proxy| nginx(&program, folder, proxy));
}

#[test]
fn caddy_lets_all_through() {
    let Some(program) = tools::find("caddy") else { return };
    lets_all_through(|folder, proxy| caddy(&program, folder, proxy));
}
