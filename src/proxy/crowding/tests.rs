//! Who goes for another one, and who stays; and how wrong keys are answered.

use crate::access::{Hash, Key};
use crate::base::network::Network;
use crate::http::forwarded_for::TrustedProxies;
use crate::policy::Policy;
use crate::proxy::fixture::{act, at, proxy, send, settings, take};
use crate::proxy::{Conn, DownKey, Proxy, Settings};
use std::net::IpAddr;

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n";

fn served(proxy: &mut Proxy, now: u64) -> DownKey {
    let key = proxy.accepted(at(now));
    send(proxy, at(now), key, HEALTH);
    assert!(take(proxy, at(now), Conn::Down(key)).starts_with(b"HTTP/1.1 200 "));
    key
}

#[test]
fn the_idlest_makes_room_and_who_is_served_stays() {
    let mut proxy = proxy(Settings { connections_max: 4, ..settings() });
    let busy = proxy.accepted(at(0));
    send(&mut proxy, at(0), busy, b"POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n");
    let silent = proxy.accepted(at(0));
    assert!(!proxy.make_room(at(0)), "there is room");
    let [older, newer] = [1, 2].map(|now| served(&mut proxy, now));
    assert_eq!(proxy.accepts_at(), Some(0));
    for gone in [older, newer, silent] {
        assert!(proxy.make_room(at(3)));
        assert!(proxy.downs.get(gone).is_none());
        assert!(!proxy.make_room(at(3)), "one is enough");
        let next = proxy.accepted(at(3));
        send(&mut proxy, at(3), next, b"POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n");
    }
    assert!(!proxy.make_room(at(3)) && proxy.downs.get(busy).is_some(), "nobody is idle");
    assert_eq!(proxy.accepts_at(), Some(at(5).mono), "the next one is told, later");
}

#[test]
fn a_head_has_a_second_before_it_makes_room() {
    let mut proxy = proxy(Settings { connections_max: 1, ..settings() });
    let key = proxy.accepted(at(7));
    send(&mut proxy, at(7), key, b"GET / HTTP/1.1\r\n");
    assert!(!proxy.make_room(at(7)));
    assert_eq!(proxy.accepts_at(), Some(at(8).mono));
    assert!(proxy.make_room(at(8)));
}

#[test]
fn who_guesses_keys_waits_for_each_answer_and_holders_of_keys_do_not() {
    let mut proxy = proxy(Settings { keys_only: true, admin: Some(Hash::of(b"admin")), ..settings() });
    let key = Key { id: 1, user: "u".into(), team: None, hash: Hash::of(b"oap_right"), expires_at: None };
    proxy.set_policy(at(0), Policy { keys: vec![key], ..Policy::default() });
    let ask = |proxy: &mut Proxy, line: &str| {
        let key = proxy.accepted(at(0));
        assert!(proxy.comes_from(at(0), key, IpAddr::from([10, 0, 0, 1])));
        send(proxy, at(0), key, format!("GET /v1/models HTTP/1.1\r\nhost: a\r\n{line}\r\n").as_bytes());
        key
    };
    let told = |proxy: &mut Proxy, now: u64, key| String::from_utf8(take(proxy, at(now), Conn::Down(key))).unwrap();
    for n in 0..10 {
        let key = ask(&mut proxy, &format!("authorization: Bearer oap_{n}\r\n"));
        let told = told(&mut proxy, 0, key);
        assert!(told.starts_with("HTTP/1.1 401 ") && told.contains("connection: close\r\n"), "{told}");
    }
    let late = ask(&mut proxy, "x-api-key: oap_11\r\n");
    send(&mut proxy, at(0), late, HEALTH);
    assert_eq!(told(&mut proxy, 0, late), "", "it waits, with all that follows");
    let stranger = ask(&mut proxy, "");
    assert!(told(&mut proxy, 0, stranger).starts_with("HTTP/1.1 401 "), "no key is no guess");
    ask(&mut proxy, "authorization: Bearer oap_right\r\n");
    assert_eq!(act(&mut proxy, at(0)).len(), 1, "a right one is relayed at once");
    proxy.expire(at(1));
    let told = told(&mut proxy, 1, late);
    assert!(told.starts_with("HTTP/1.1 401 ") && told.matches("HTTP/1.1").count() == 1, "{told}");
}

#[test]
fn wrong_keys_count_by_the_address_that_a_trusted_proxy_forwards_and_nobody_elses() {
    let trusted_proxies = TrustedProxies(vec![Network::parse("10.0.0.0/8").unwrap()]);
    let mut proxy = proxy(Settings { keys_only: true, trusted_proxies, ..settings() });
    let mut is_told = |from: [u8; 4], forwarded: &str| {
        let key = proxy.accepted(at(0));
        assert!(proxy.comes_from(at(0), key, IpAddr::from(from)));
        let lines = format!("x-api-key: oap_wrong\r\nx-forwarded-for: {forwarded}\r\n");
        send(&mut proxy, at(0), key, format!("GET /v1/models HTTP/1.1\r\nhost: a\r\n{lines}\r\n").as_bytes());
        !take(&mut proxy, at(0), Conn::Down(key)).is_empty()
    };
    let trusted = [10, 0, 0, 1];
    assert!((0..10).all(|n| is_told(trusted, &format!("203.0.113.{n}, 192.0.2.1"))));
    assert!(!is_told(trusted, "203.0.113.99, 192.0.2.1"), "what the client claims before it does not count");
    assert!(is_told(trusted, "192.0.2.2"), "another client of the same proxy does not wait");
    assert!((0..10).all(|_| is_told(trusted, "unknown")));
    assert!(!is_told(trusted, "hidden"), "those without an address are one");
    let stranger = [203, 0, 113, 7];
    assert!((0..10).all(|n| is_told(stranger, &format!("192.0.2.{}", 10 + n))));
    assert!(!is_told(stranger, "192.0.2.99"), "a stranger gains nothing by the header");
    assert!(is_told(trusted, "192.0.2.10"), "nor does anybody wait for it");
}
