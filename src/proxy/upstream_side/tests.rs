//! A target with several addresses: who is connected to when, whose connection an exchange gets, and that no attempt is
//! left on any way out. Compressed answers, of which a turn decodes its share.

use crate::base::clock::{MILLISECOND, Now};
use crate::http::reply::Fault;
use crate::proxy::fixture::{act, at, proxy, sent, settings, take};
use crate::proxy::{Action, Conn, DownKey, Proxy, UpKey, Written};
use crate::tls::Connector;
use crate::usage::record::UsageSource;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{ErrorKind, Write};

const GET: &str = "GET /v1/x HTTP/1.1\r\nhost: a\r\n\r\n";

fn ms(milliseconds: u64) -> Now {
    Now { mono: milliseconds * MILLISECOND, unix: 0 }
}

/// A proxy whose target has so many addresses, 127.0.0.1:1 and on.
fn before(count: u16) -> Proxy {
    let mut proxy = proxy(settings());
    proxy.resolved(at(0), Ok((1..=count).map(|port| ([127, 0, 0, 1], port).into()).collect()));
    proxy
}

fn client(proxy: &mut Proxy, now: Now) -> DownKey {
    let key = proxy.accepted(now);
    proxy.received(now, Conn::Down(key), &mut GET.as_bytes().to_vec());
    key
}

/// The attempts to connect that the proxy asks for now, by their ports; and the connections that it closes.
fn asked(proxy: &mut Proxy) -> (Vec<(u16, UpKey)>, Vec<UpKey>) {
    let (mut begun, mut closed) = (Vec::new(), Vec::new());
    while let Some(action) = proxy.next_action() {
        match action {
            Action::Connect { up, address } => begun.push((address.port(), up)),
            Action::Close { conn: Conn::Up(up), .. } => closed.push(up),
            _ => {}
        }
    }
    assert_eq!(proxy.audit().stray_connections(), 0);
    (begun, closed)
}

#[test]
fn the_first_to_connect_carries_the_request_and_the_others_are_closed() {
    for winner in 0..2 {
        let mut proxy = before(3);
        client(&mut proxy, at(0));
        let (first, _) = asked(&mut proxy);
        proxy.expire(ms(249));
        assert_eq!(asked(&mut proxy), (vec![], vec![]), "it has its time");
        proxy.expire(ms(250));
        let (second, closed) = asked(&mut proxy);
        assert_eq!((first[0].0, second[0].0, closed), (1, 2, vec![]), "the next one beside it");
        let attempts = [first[0].1, second[0].1];
        proxy.connected(ms(300), attempts[winner]);
        assert_eq!(asked(&mut proxy), (vec![], vec![attempts[1 - winner]]));
        assert!(take(&mut proxy, ms(300), Conn::Up(attempts[winner])).starts_with(b"GET /v1/x"));
        proxy.connected(ms(300), attempts[1 - winner]); // an event on its way
        assert_eq!(proxy.audit().slots(), (1, 1, 1));
        // The next one begins with the address that has answered, where the first has not.
        client(&mut proxy, ms(301));
        assert_eq!(asked(&mut proxy).0[0].0, winner as u16 + 1);
    }
}

#[test]
fn each_address_has_all_of_its_time_and_a_race_has_one_end() {
    let mut proxy = before(2);
    let down = client(&mut proxy, at(0));
    let (first, _) = asked(&mut proxy);
    proxy.expire(ms(250));
    let (second, _) = asked(&mut proxy);
    proxy.expire(ms(9_999));
    assert_eq!(asked(&mut proxy), (vec![], vec![]));
    proxy.expire(at(10));
    assert_eq!(asked(&mut proxy), (vec![], vec![first[0].1]), "the other one goes on");
    proxy.expire(ms(10_249));
    assert_eq!(asked(&mut proxy), (vec![], vec![]));
    proxy.expire(ms(10_250));
    assert_eq!(asked(&mut proxy), (vec![], vec![second[0].1]));
    proxy.take_records(ms(10_250));
    proxy.committed(ms(10_250), 1, &[]);
    let told = String::from_utf8(take(&mut proxy, ms(10_250), Conn::Down(down))).expect("text");
    assert!(told.contains(Fault::UpstreamTimeout.code()), "{told}");
}

#[test]
fn a_handshake_has_its_own_time() {
    let mut proxy = before(1);
    proxy.settings.tls = Some(Connector::new("target", None).expect("a connector"));
    client(&mut proxy, at(0));
    let (first, _) = asked(&mut proxy);
    proxy.expire(at(9));
    proxy.connected(at(9), first[0].1);
    assert!(!take(&mut proxy, at(9), Conn::Up(first[0].1)).is_empty(), "the client speaks first");
    proxy.expire(ms(18_999));
    assert_eq!(asked(&mut proxy), (vec![], vec![]));
    proxy.expire(at(19));
    assert_eq!(asked(&mut proxy), (vec![], vec![first[0].1]));
}

/// A connection that breaks before it is the target's takes nothing of the request with it.
#[test]
fn a_body_that_streams_waits_for_the_tunnel_that_carries_it() {
    const CONNECT: &[u8] = b"CONNECT target:80 HTTP/1.1\r\n\r\n";
    let mut proxy = before(2);
    proxy.settings.egress = Some(CONNECT.to_vec());
    let down = proxy.accepted(at(0));
    let request = b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\nbody";
    proxy.received(at(0), Conn::Down(down), &mut request.to_vec());
    let first = asked(&mut proxy).0[0].1;
    proxy.connected(at(0), first);
    proxy.flush(at(0), Conn::Up(first), &mut |_| Written::Broken(ErrorKind::BrokenPipe));
    proxy.looked(at(0), first);
    let (begun, closed) = asked(&mut proxy);
    assert_eq!((begun[0].0, closed), (2, vec![first]), "the next address is tried");
    let second = begun[0].1;
    proxy.connected(at(0), second);
    assert_eq!(take(&mut proxy, at(0), Conn::Up(second)), CONNECT);
    for piece in [&b"HTTP/1.1 200 "[..], b"OK\r\n\r"] {
        proxy.received(at(0), Conn::Up(second), &mut piece.to_vec());
        assert!(take(&mut proxy, at(0), Conn::Up(second)).is_empty(), "there is no tunnel yet");
    }
    proxy.received(at(0), Conn::Up(second), &mut b"\n".to_vec());
    assert!(take(&mut proxy, at(0), Conn::Up(second)).ends_with(b"\r\n\r\nbody"));
}

#[test]
fn no_attempt_is_left_on_any_way_out() {
    type Out = fn(&mut Proxy, DownKey);
    let ways: [Out; 3] = [
        |proxy, down| proxy.failed(ms(600), Conn::Down(down), std::io::ErrorKind::ConnectionReset),
        |proxy, _| {
            proxy.drain(ms(600));
            proxy.abort(ms(600));
        },
        |proxy, _| (1..20).for_each(|seconds| proxy.expire(at(seconds))),
    ];
    for way in ways {
        let mut proxy = before(5);
        let down = client(&mut proxy, at(0));
        let mut begun: Vec<UpKey> = Vec::new();
        for now in [0, 250, 500] {
            proxy.expire(ms(now));
            begun.extend(asked(&mut proxy).0.iter().map(|&(_, up)| up));
        }
        assert_eq!(begun.len(), 3);
        way(&mut proxy, down);
        let mut closed = Vec::new();
        loop {
            let (more, closed_now) = asked(&mut proxy);
            closed.extend(closed_now);
            begun.extend(more.iter().map(|&(_, up)| up));
            let Some(due) = proxy.next_deadline().filter(|_| proxy.audit().slots().1 > 0) else { break };
            proxy.expire(Now { mono: due, unix: 0 });
        }
        assert_eq!((proxy.audit().slots().1, proxy.dialer.attempts()), (0, 0));
        assert!(begun.iter().all(|up| closed.contains(up)) && closed.len() == begun.len());
    }
}

/// A proxy with an answer on its way that is compressed, ends with its connection, and whose first bytes have come.
fn answered(content_type: &str, body: &[u8]) -> (Proxy, DownKey, UpKey) {
    let mut proxy = proxy(settings());
    let body_asked = r#"{"model":"m","stream":true}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body_asked}",
        body_asked.len()
    );
    let (down, up) = sent(&mut proxy, &request);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n").into_bytes();
    answer.extend_from_slice(b"content-encoding: gzip\r\nconnection: close\r\n\r\n");
    answer.extend_from_slice(&encoder.finish().unwrap());
    assert!(answer.len() < 64 * 1024, "it comes at once: {}", answer.len());
    proxy.received(at(0), Conn::Up(up), &mut answer);
    proxy.ended(at(0), Conn::Up(up));
    act(&mut proxy, at(0));
    (proxy, down, up)
}

/// What a few bytes become takes as many turns as it needs, and everybody else has theirs meanwhile.
#[test]
fn no_turn_decodes_more_than_its_share() {
    let usage = r#"{"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#;
    let (spaces, events) = (" ".repeat(1 << 24), ": nothing\n\n".repeat(1 << 20));
    for (content_type, body) in [
        ("application/json", format!("{spaces}{usage}")),
        ("text/event-stream", format!("{events}data: {usage}\n\ndata: [DONE]\n\n")),
    ] {
        let (mut proxy, down, up) = answered(content_type, body.as_bytes());
        let mut out = take(&mut proxy, at(0), Conn::Down(down)).len();
        act(&mut proxy, at(0));
        let (mut turns, mut out_max) = (0, 0);
        while !proxy.wants_read(Conn::Up(up)) && proxy.audit().slots().1 > 0 {
            assert_eq!(proxy.next_deadline(), Some(0), "it is forgotten");
            proxy.expire(at(0));
            act(&mut proxy, at(0));
            out_max = out_max.max(proxy.audit().waiting_max().to_client);
            out += take(&mut proxy, at(0), Conn::Down(down)).len();
            act(&mut proxy, at(0));
            turns += 1;
            assert!(turns < 10_000, "a turn in which nothing happens");
        }
        assert!(turns > 40, "{content_type}: {turns}");
        assert!(out_max < 1 << 20, "{content_type}: {out_max} bytes waited for the client");
        let record = proxy.take_records(at(1)).pop().expect("it has ended");
        assert_eq!((record.usage.total_tokens, record.usage_source), (7, UsageSource::Reported), "{content_type}");
        out += proxy.audit().waiting_max().to_client;
        assert!(out as u64 > record.response_bytes, "{content_type}: {out}");
    }
}

/// An edited stream grows as it is decoded: it waits for a client that does not keep up, and goes on with it.
#[test]
fn decoding_waits_for_a_slow_client() {
    let event = "data: {\"choices\":[]}\n\n";
    let (mut proxy, down, _) = answered("text/event-stream", event.repeat(1 << 17).as_bytes());
    for _ in 0..100 {
        proxy.expire(at(0));
        act(&mut proxy, at(0));
    }
    assert_eq!(proxy.next_deadline().filter(|due| *due == 0), None, "the loop is busy with nothing");
    let waiting = proxy.audit().waiting_max().to_client;
    assert!((64 << 10..1 << 20).contains(&waiting), "{waiting}");
    let mut out = 0;
    while proxy.audit().slots().1 > 0 {
        out += take(&mut proxy, at(0), Conn::Down(down)).len();
        act(&mut proxy, at(0));
        assert_eq!(proxy.next_deadline(), Some(0), "who keeps up is read on for");
        proxy.expire(at(0));
    }
    out += proxy.audit().waiting_max().to_client;
    assert!(out > event.len() << 17, "{out}");
}
