//! HTTPS for clients with the binary: what is configured, shown, reloaded and asked of it, over real sockets.

#![allow(clippy::disallowed_methods)] // tests are the outside world

use super::support::ca::{Ca, Server};
use super::support::proxy::{Proxy, command};
use super::support::script::Reply;
use super::support::upstream::{Options, Upstream};
use super::support::{DEADLINE, client, free_port};
use super::world;
use rustix::process::Signal;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// Writes a pair of the authority's to a folder, as one of certbot's tools does: one file after the other.
fn write_pair(folder: &Path, ca: &Ca, server: Server) {
    let (chain, key) = ca.pair(&["localhost"], server);
    std::fs::write(folder.join("chain.pem"), chain).unwrap();
    std::fs::write(folder.join("key.pem"), key).unwrap();
}

const FILES: [(&str, &str); 2] = [("TLS_CERT_FILE", "chain.pem"), ("TLS_KEY_FILE", "key.pem")];

fn folder(server: Server) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_pair(folder.path(), &world().ca, server);
    folder
}

fn start(folder: TempDir, vars: &[(&str, &str)]) -> Proxy {
    Proxy::start_in(folder, &[&FILES[..], vars].concat())
}

fn trusting(ca: &Ca) -> Arc<ClientConfig> {
    Arc::new(ca.client(&[&TLS12, &TLS13]))
}

fn connect(addr: SocketAddr, config: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    let socket = TcpStream::connect_timeout(&addr, DEADLINE).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let client = ClientConnection::new(Arc::clone(config), "localhost".try_into().unwrap()).unwrap();
    StreamOwned::new(client, socket)
}

/// A request, and all that is answered until close_notify: an end without it is an error.
fn ask(addr: SocketAddr, config: &Arc<ClientConfig>, request: &[u8]) -> std::io::Result<String> {
    let mut stream = connect(addr, config);
    stream.write_all(request)?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn run(folder: &Path, argument: &str, vars: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = command(folder, &[&FILES[..], vars].concat());
    let output = command.arg(argument).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn clients_and_commands_are_served_and_a_drain_ends_it() {
    let upstream = Upstream::start(Options { tls: Some(world().usual.clone()), ..Options::default() }, |request| {
        assert_eq!(request.body.len(), if request.method == "POST" { 300_000 } else { 0 });
        Reply::new(200, vec![b'y'; 400_000]).steps()
    });
    let folder = folder(Server::Usual);
    std::fs::write(folder.path().join("ca.pem"), world().ca.pem()).unwrap();
    let target = format!("https://localhost:{}", upstream.addr().port());
    let mut proxy = start(folder, &[("PROXY_TARGET", &target), ("TLS_CA_FILE", "ca.pem")]);
    let config = trusting(&world().ca);
    let head = "POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 300000\r\nconnection: close\r\n\r\n";
    let answer = ask(proxy.addr(), &config, &[head.as_bytes(), &[b'x'; 300_000]].concat()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&"y".repeat(400_000)), "{} bytes", answer.len());
    let metrics = ask(proxy.addr(), &config, &String::from_utf8_lossy(GET).replace("healthz", "metrics").into_bytes());
    assert!(metrics.unwrap().contains("\nopenai_proxy_tls_certificate_expiry_timestamp_seconds "));
    let port = proxy.addr().port().to_string();
    for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
        let (status, said) = run(proxy.folder(), "healthcheck", &[("PORT", &port), ("HOST", host)]);
        assert_eq!((status, said.as_str()), (Some(0), ""));
    }
    let (_, said) =
        run(proxy.folder(), "check", &[("PORT", &port), ("PROXY_TARGET", &target), ("TLS_CA_FILE", "ca.pem")]);
    assert!(said.contains("is served by a proxy that answers") && said.contains("it is good until "), "{said}");
    let said = client::get(proxy.addr(), "/healthz").expect_proxy_error(400, "bad_request").text();
    assert!(said.contains("this port speaks HTTPS"), "{said}");
    let mut idle = connect(proxy.addr(), &config);
    idle.write_all(&String::from_utf8_lossy(GET).replace("close", "keep-alive").into_bytes()).unwrap();
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 1);
    assert!(proxy.terminate().success());
    idle.read_to_end(&mut Vec::new()).expect("close_notify");
}

/// Each of them has sent its hello before any is answered.
#[test]
fn two_thousand_handshakes_at_once() {
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit { current: getrlimit(Resource::Nofile).maximum, ..getrlimit(Resource::Nofile) },
    );
    let proxy = start(folder(Server::Usual), &[]);
    for config in [trusting(&world().ca), Arc::new(world().ca.client(&[&TLS12]))] {
        let mut clients: Vec<_> = (0..2_000).map(|_| connect(proxy.addr(), &config)).collect();
        for StreamOwned { conn, sock } in &mut clients {
            conn.write_tls(sock).unwrap();
        }
        for client in &mut clients {
            client.write_all(GET).unwrap();
        }
        for mut client in clients {
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        }
    }
}

/// Editors put it there.
#[test]
fn a_byte_order_mark_before_the_pair_is_read_over() {
    let folder = folder(Server::Usual);
    for (_, name) in FILES {
        let path = folder.path().join(name);
        std::fs::write(&path, ["\u{feff}", &std::fs::read_to_string(&path).unwrap()].concat()).unwrap();
    }
    let proxy = start(folder, &[]);
    assert!(ask(proxy.addr(), &trusting(&world().ca), GET).unwrap().starts_with("HTTP/1.1 200 "));
}

#[test]
fn the_pair_is_read_again_when_it_changes_and_a_bad_one_is_not_taken() {
    let proxy = start(folder(Server::Usual), &[("HEADER_TIMEOUT", "1h")]);
    let (before, other) = (trusting(&world().ca), Ca::new());
    let after = trusting(&other);
    let works = |config| ask(proxy.addr(), config, GET).is_ok_and(|text| text.starts_with("HTTP/1.1 200 "));
    assert!(works(&before) && !works(&after));
    let mut old = connect(proxy.addr(), &before);
    old.write_all(&GET[..10]).unwrap();

    std::fs::write(proxy.folder().join("key.pem"), other.pair(&["localhost"], Server::Usual).1).unwrap();
    proxy.wait_for_log("not the key of the first certificate");
    assert!(works(&before));
    write_pair(proxy.folder(), &other, Server::Expired);
    proxy.wait_for_log("the certificate has expired on 2002-01-01");
    assert!(works(&before));
    write_pair(proxy.folder(), &other, Server::Usual);
    proxy.wait_for_log("certificate read again");
    let start = Instant::now();
    while !works(&after) {
        assert!(start.elapsed() < DEADLINE, "the log says so, the port does not");
    }
    assert!(!works(&trusting(&world().ca)), "a client without a ticket sees the new one");
    // Who is connected stays so.
    old.write_all(&GET[10..]).unwrap();
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

/// Long before the next look at the files would find them settled.
#[test]
fn a_hangup_reads_the_pair_again() {
    let proxy = start(folder(Server::Usual), &[]);
    let other = Ca::new();
    write_pair(proxy.folder(), &other, Server::Usual);
    proxy.signal(Signal::HUP);
    proxy.wait_for_log("certificate read again");
    assert!(ask(proxy.addr(), &trusting(&other), GET).is_ok());
    std::fs::remove_file(proxy.folder().join("key.pem")).unwrap();
    proxy.signal(Signal::HUP);
    proxy.wait_for_log("certificate not taken, the one before stays");
    assert!(ask(proxy.addr(), &trusting(&other), GET).is_ok());
}

#[test]
fn an_expired_certificate_is_told_of() {
    let proxy = start(folder(Server::Expired), &[]);
    proxy.wait_for_log("has expired, clients refuse it");
    assert!(ask(proxy.addr(), &trusting(&world().ca), GET).is_err());
    let (status, said) = run(proxy.folder(), "check", &[("PROXY_TARGET", "http://127.0.0.1:9")]);
    assert_eq!(status, Some(1));
    assert!(said.contains("FAIL  certificate     it has expired on 2002-01-01T00:00:00Z"), "{said}");
}

#[test]
fn half_a_pair_or_a_wrong_one_is_a_mistake_with_a_name() {
    let folder = folder(Server::Usual);
    let (_, stranger) = world().ca.pair(&["localhost"], Server::Usual);
    std::fs::write(folder.path().join("stranger.pem"), stranger).unwrap();
    for (vars, told) in [
        ([("TLS_KEY_FILE", "")], "TLS_KEY_FILE: expected the key of TLS_CERT_FILE, got none"),
        ([("TLS_CERT_FILE", "")], "TLS_CERT_FILE: expected the certificate of TLS_KEY_FILE, got none"),
        ([("TLS_CERT_FILE", "none.pem")], "TLS_CERT_FILE: expected a readable PEM file, but none.pem: No such file"),
        ([("TLS_KEY_FILE", "stranger.pem")], "TLS_KEY_FILE: expected a readable PEM file, but stranger.pem: it is not"),
        ([("TLS_CERT_FILE", "key.pem")], "TLS_CERT_FILE: expected a readable PEM file, but key.pem: there is no BEGIN"),
    ] {
        let (status, said) = run(folder.path(), "check", &vars);
        assert_eq!(status, Some(2));
        assert!(said.contains(told), "{told}: {said}");
    }
}

/// Keys that cross the network in the clear are warned of, and how they do not.
#[test]
fn keys_without_tls_beyond_loopback_are_warned_of() {
    let vars = [("HOST", "0.0.0.0"), ("CLIENT_AUTH", "keys"), ("OPENAI_API_KEY", "sk-x")];
    let said = |files: &[(&str, &str)]| {
        let mut proxy = Proxy::start_in(folder(Server::Usual), &[files, &vars].concat());
        proxy.terminate();
        proxy.stderr()
    };
    assert!(said(&[]).contains("set TLS_CERT_FILE and TLS_KEY_FILE"));
    assert!(!said(&FILES).contains("TLS_CERT_FILE"));
}

/// The other mistake, over a socket: both sides know at once.
#[test]
fn a_hello_on_a_plain_port_ends_at_once() {
    let port = free_port().to_string();
    let proxy = Proxy::start(&[("PORT", &port), ("LOG", "debug"), ("HEADER_TIMEOUT", "1h")]);
    let error = ask(proxy.addr(), &trusting(&world().ca), GET).unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    proxy.wait_for_log("a client speaks TLS");
}
