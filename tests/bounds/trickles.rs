//! One byte now and then, in each phase and both directions: it ends in a cut, however long the peer would go on.

use super::support::DEADLINE;
use super::support::client::Client;
use super::support::proxy::{Proxy, scripted};
use super::support::script::{Reply, Step, Talk};
use super::support::upstream::Upstream;
use super::support::wire::Cut;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Shorter than every timeout here, so that each byte comes in time.
const PAUSE: Duration = Duration::from_millis(40);

/// Times that pass quickly; the response's is the one that a trickle may have many times over.
const QUICK: [(&str, &str); 4] =
    [("HEADER_TIMEOUT", "300ms"), ("IDLE_TIMEOUT", "300ms"), ("RESPONSE_TIMEOUT", "10m"), ("CONNECT_TIMEOUT", "300ms")];

/// Writes a byte at a time until the peer has ended, for whatever reason. Panics where it never does.
#[track_caller]
fn trickle(stream: &mut (impl Write + Read), bytes: &[u8]) {
    let start = Instant::now();
    for byte in bytes.iter().cycle() {
        thread::sleep(PAUSE);
        if stream.write_all(&[*byte]).and_then(|()| stream.flush()).is_err() {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "it is waited for for ever");
    }
}

/// A client that has sent `start`, and then a byte of `rest` again and again; what it was told.
#[track_caller]
fn told(proxy: &Proxy, start: &str, rest: &[u8]) -> u16 {
    let mut client = Client::connect(proxy.addr());
    client.send(start);
    let mut wire = client.into_wire();
    let writer = wire.stream.try_clone().unwrap();
    let writing = thread::spawn({
        let rest = rest.to_vec();
        move || trickle(&mut { writer }, &rest)
    });
    let status = match wire.head() {
        Ok(Some(head)) => head.status(),
        _ => 0,
    };
    while matches!(wire.read(&mut [0; 4096]), Ok(1..)) {}
    // Our side of the connection is closed; writing on must fail.
    drop(wire);
    writing.join().expect("the connection ends");
    status
}

const JSON: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
const FILE: &str = "POST /v1/files HTTP/1.1\r\nhost: a\r\n";
const LENGTH: &str = "content-length: 100000\r\n\r\n";
const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";

#[test]
fn a_client_that_trickles_is_cut_in_every_phase() {
    let (upstream, proxy) = scripted(&QUICK, |_| Reply::new(200, "ok").steps());
    let cases: [(&str, String, &[u8], u16); 12] = [
        ("a request line", "GET /".to_owned(), b"a", 408),
        ("an empty line before it", "\r\n".to_owned(), b"G", 408),
        ("a head", "GET / HTTP/1.1\r\nhost: a\r\n".to_owned(), b"x: y\r\n", 408),
        ("a second head", "GET /x HTTP/1.1\r\nhost: a\r\n\r\nGET /x HTTP/1.1\r\n".to_owned(), b"x: y\r\n", 200),
        ("a held body by length", format!("{JSON}{LENGTH}"), b"x", 408),
        ("a held body in chunks", format!("{JSON}{CHUNKED}fffff\r\n"), b"x", 408),
        ("small chunks", format!("{JSON}{CHUNKED}"), b"1\r\nx\r\n", 408),
        ("a chunk's extension", format!("{JSON}{CHUNKED}1;"), b"x", 408),
        ("a trailer", format!("{JSON}{CHUNKED}1\r\nx\r\n0\r\n"), b"x: y\r\n", 408),
        ("a body that streams through", format!("{FILE}{LENGTH}"), b"x", 408),
        ("the same in chunks", format!("{FILE}{CHUNKED}"), b"1\r\nx\r\n", 408),
        ("a body that nobody wants", format!("GET /metrics HTTP/1.1\r\nhost: a\r\n{LENGTH}"), b"x", 400),
    ];
    thread::scope(|scope| {
        for (name, start, rest, status) in &cases {
            let proxy = &proxy;
            scope.spawn(move || assert_eq!(told(proxy, start, rest), *status, "{name}"));
        }
    });
    let held = upstream.requests().iter().filter(|request| request.target.contains("chat")).count();
    assert_eq!(held, 0, "what was never whole was never sent");
}

/// A goodbye is said, and whoever goes on sending is not listened to for ever.
#[test]
fn a_client_that_sends_on_after_its_error_is_cut() {
    let (_upstream, proxy) = scripted(&[], |_| Reply::new(200, "ok").steps());
    assert_eq!(told(&proxy, "nonsense\r\n\r\n", b"x"), 400);
}

#[test]
fn a_client_that_reads_in_a_trickle_is_cut() {
    const FLOOD_BYTES: usize = 64 << 20;
    let (_upstream, proxy) = scripted(&QUICK, |_| Reply::new(200, vec![b'x'; FLOOD_BYTES]).steps());
    let mut client = Client::connect(proxy.addr());
    client.send_request("GET", "/v1/files/1/content", &[("x-user-id", "u")], b"");
    let mut stream = client.into_wire().stream;
    let start = Instant::now();
    loop {
        thread::sleep(PAUSE);
        // Until the record is there, the exchange is still going on.
        assert!(matches!(stream.read(&mut [0; 1]), Ok(1)), "what has been sent can be read");
        if proxy.usage("user_id=u")["totals"]["requests"] == 1 {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "it is waited for for ever");
    }
    assert_eq!(proxy.only_row("u")["outcome"], "client_aborted");
}

fn trickling(start: &'static str, rest: &'static [u8]) -> Vec<Step> {
    let talk: Talk = Box::new(move |wire| {
        trickle(wire, rest);
        Ok(())
    });
    vec![Step::Send(start.as_bytes().to_vec()), Step::Talk(talk), Step::Close]
}

#[test]
fn an_upstream_whose_head_trickles_is_given_up() {
    let (_upstream, proxy) = scripted(&[("RESPONSE_TIMEOUT", "300ms")], |request| match request.target.as_str() {
        "/line" => trickling("", b"HTTP/1.1 200 OOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOO"),
        _ => trickling("HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
    });
    for target in ["/line", "/head"] {
        let response = Client::connect(proxy.addr()).request("GET", target, &[], b"");
        response.expect_proxy_error(504, "upstream_timeout");
    }
}

#[test]
fn an_upstream_whose_body_trickles_is_given_up_in_the_end() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let (_upstream, proxy) = scripted(&[("RESPONSE_TIMEOUT", "100ms")], move |request| match request.target.as_str() {
        "/length" => trickling("HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n", b"x"),
        "/close" => trickling("HTTP/1.1 200 OK\r\n\r\n", b"x"),
        "/interim" => trickling("", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        _ => trickling(chunked, b"1\r\nx\r\n"),
    });
    thread::scope(|scope| {
        for target in ["/length", "/close", "/chunks", "/interim"] {
            let addr = proxy.addr();
            scope.spawn(move || {
                let response = Client::connect(addr).request("GET", target, &[], b"");
                match target {
                    "/interim" => _ = response.expect_proxy_error(504, "upstream_timeout"),
                    _ => {
                        assert!(matches!(response.cut, Some(Cut::Closed | Cut::Reset)), "{target}: {:?}", response.cut)
                    }
                }
            });
        }
    });
}

#[test]
fn an_upstream_that_shakes_hands_in_a_trickle_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("https://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // The head of a handshake record, the rest of which takes its time.
        stream.write_all(&[22, 3, 3, 0x10, 0]).unwrap();
        trickle(&mut stream, &[2, 0, 0x0f, 0xfc]);
    });
    let proxy = Proxy::start(&[&[("PROXY_TARGET", &*target)], &QUICK[..]].concat());
    let response = Client::connect(proxy.addr()).request("GET", "/v1/models", &[], b"");
    response.expect_proxy_error(504, "upstream_timeout");
    server.join().unwrap();
}

/// A trickle is told from a stream that is slow: one event now and then, for much longer than every timeout.
#[test]
fn a_quiet_stream_is_not_cut() {
    const EVENTS: usize = 60;
    let (_upstream, proxy) = scripted(&[("RESPONSE_TIMEOUT", "2s"), ("IDLE_TIMEOUT", "300ms")], |_| {
        let talk: Talk = Box::new(|wire| {
            for n in 0..EVENTS {
                thread::sleep(PAUSE);
                wire.write_all(&super::support::script::chunk(format!("data: {n}\n\n").as_bytes()))?;
            }
            Ok(wire.write_all(b"0\r\n\r\n")?)
        });
        vec![Step::Send(Reply::sse("").head()), Step::Talk(talk), Step::Close]
    });
    let text = Client::connect(proxy.addr()).request("GET", "/v1/responses/resp_1", &[], b"").expect(200).text();
    assert_eq!(text.matches("data: ").count(), EVENTS);
}

/// A connection that says nothing at all, from its first moment and between two requests.
#[test]
fn silence_is_cut_as_well() {
    let (_upstream, proxy): (Upstream, Proxy) = scripted(&QUICK, |_| Reply::new(200, "ok").steps());
    let mut silent = TcpStream::connect(proxy.addr()).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(matches!(silent.read(&mut [0; 1]), Ok(0)));
    let mut idle = Client::connect(proxy.addr());
    idle.request("GET", "/v1/models", &[], b"").expect(200);
    assert_eq!(idle.expect_end(), Ok(()));
}
