//! A target with several addresses: who is connected to when, whose connection an exchange gets, and that no attempt is
//! left on any way out.

use crate::base::clock::{MILLISECOND, Now};
use crate::http::reply::Fault;
use crate::proxy::fixture::{at, proxy, settings, take};
use crate::proxy::{Action, Conn, DownKey, Proxy, UpKey, Written};
use crate::tls::Connector;
use std::io::ErrorKind;

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
