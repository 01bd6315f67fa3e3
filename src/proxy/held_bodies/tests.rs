//! Bodies that do not all fit: nobody is refused, nobody waits for ever, and the sum keeps its bound.

use crate::base::work::LongWork;
use crate::limit::bucket::Rate;
use crate::limit::overrides::Limits;
use crate::proxy::fixture::{act, at, proxy, send, settings, take};
use crate::proxy::{Action, Conn, DownKey, Proxy, Settings, UpKey};
use proptest::prelude::*;
use std::io::ErrorKind;

const BODY_MAX: usize = 40_000;
/// What an edit, or joining a short body to its head, may take in addition for a moment.
const EDIT_MAX: usize = 17 * 1024;

fn bounded(buffered_bytes_max: usize) -> Proxy {
    let body_bytes_max = BODY_MAX as u64;
    proxy(Settings { buffered_bytes_max, body_bytes_max, settled: false, ..settings() })
}

fn request(body_bytes: usize, chunked: bool) -> Vec<u8> {
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
    let body = "x".repeat(body_bytes);
    if chunked {
        return format!("{head}transfer-encoding: chunked\r\n\r\n{body_bytes:x}\r\n{body}\r\n0\r\n\r\n").into_bytes();
    }
    format!("{head}content-length: {body_bytes}\r\n\r\n{body}").into_bytes()
}

#[test]
fn a_body_takes_no_more_memory_than_it_has_bytes() {
    let mut proxy = bounded(1 << 20);
    let key = proxy.accepted(at(0));
    let request = request(30_001, false);
    for (sent, piece) in request.chunks(100).enumerate() {
        proxy.received(at(0), Conn::Down(key), &mut piece.to_vec());
        assert!(proxy.audit().held_bytes() <= (sent * 200 + 200).min(30_001), "{} bytes", proxy.audit().held_bytes());
    }
    assert_eq!(proxy.audit().held_bytes(), 30_001);
    let up = act(&mut proxy, at(0)).pop().expect("something to send");
    take(&mut proxy, at(0), Conn::Up(up));
    assert_eq!(proxy.audit().held_bytes(), 0, "what is sent on is not held");
}

/// Reading a long one is a thread's: what it takes is counted until the thread has done with it, whoever is still there.
#[test]
fn a_body_that_a_thread_reads_is_held_until_it_is_read() {
    let work = |proxy: &mut Proxy| {
        std::iter::from_fn(|| proxy.next_action())
            .filter_map(|action| if let Action::Work(work) = action { Some(work) } else { None })
            .collect::<Vec<_>>()
    };
    for leaves in [false, true] {
        let long_body_bytes = 30_000;
        let body_bytes_max = BODY_MAX as u64;
        let mut proxy = proxy(Settings { long_body_bytes, body_bytes_max, ..settings() });
        let short = proxy.accepted(at(0));
        send(&mut proxy, at(0), short, &request(29_999, false));
        assert!(work(&mut proxy).is_empty() && proxy.audit().slots().1 == 1, "it is on its way");
        proxy.failed(at(0), Conn::Down(short), ErrorKind::ConnectionReset);
        let key = proxy.accepted(at(0));
        send(&mut proxy, at(0), key, &request(30_000, false));
        let LongWork { ticket, work: read, .. } = work(&mut proxy).pop().expect("a thread reads it");
        assert_eq!((proxy.audit().held_bytes(), proxy.audit().slots().1, proxy.audit().forgotten()), (30_000, 0, 0));
        if leaves {
            proxy.failed(at(0), Conn::Down(key), ErrorKind::ConnectionReset);
            assert_eq!((proxy.audit().held_bytes(), proxy.audit().slots().2), (30_000, 0), "the thread has it still");
        }
        read();
        proxy.worked(at(0), ticket);
        let up = act(&mut proxy, at(0)).pop();
        assert_eq!(up.is_none(), leaves, "who stays is served");
        assert_eq!(proxy.audit().held_bytes(), if leaves { 0 } else { 30_000 });
        if let Some(up) = up {
            assert!(take(&mut proxy, at(0), Conn::Up(up)).ends_with(b"xxx"));
        }
    }
}

#[test]
fn who_is_paused_is_not_timed_and_goes_on_in_order() {
    let mut proxy = bounded(50_000);
    let keys: Vec<DownKey> = (0..4).map(|_| proxy.accepted(at(0))).collect();
    let request = request(BODY_MAX, false);
    // The first is whole, the second is favoured, the others wait.
    let sent = |n: usize| if n == 0 { request.len() } else { 39_000 };
    let left: Vec<usize> = (0..4).map(|n| send(&mut proxy, at(0), keys[n], &request[..sent(n)]).len()).collect();
    assert!(left[0] == 0 && left[1] == 0 && left[2] > 0 && left[3] > 0, "{left:?}");
    for now in 1..6 {
        proxy.expire(at(now));
    }
    let exchange = |proxy: &Proxy, n: usize| proxy.downs.get(keys[n]).and_then(|down| down.exchange);
    assert!((0..4).all(|n| exchange(&proxy, n).is_some()), "a moment's silence is nothing");
    proxy.expire(at(6));
    assert!(exchange(&proxy, 1).is_none(), "who falls silent while others starve is refused");
    assert!(take(&mut proxy, at(6), Conn::Down(keys[1])).starts_with(b"HTTP/1.1 503 "));
    act(&mut proxy, at(6));
    assert_eq!(send(&mut proxy, at(6), keys[2], &request[39_000 - left[2]..]).len(), 0, "the next one is favoured");
    assert_ne!(send(&mut proxy, at(6), keys[3], &request[39_000 - left[3]..]).len(), 0, "and the last one waits");
    let to_flush = act(&mut proxy, at(6));
    for now in (15..75).step_by(5) {
        proxy.expire(at(now));
    }
    assert!(exchange(&proxy, 0).is_some() && exchange(&proxy, 2).is_some(), "what is whole is not timed here");
    assert!(exchange(&proxy, 3).is_some() && !proxy.wants_read(Conn::Down(keys[3])), "nor is one that waits");
    to_flush.into_iter().for_each(|up| _ = take(&mut proxy, at(75), Conn::Up(up)));
    act(&mut proxy, at(75));
    assert!(proxy.wants_read(Conn::Down(keys[3])), "the last one goes on when the one before it is sent on");
}

fn request_of(user: &str) -> Vec<u8> {
    let request = String::from_utf8(request(BODY_MAX, false)).unwrap();
    request.replace("host: a\r\n", &format!("host: a\r\nx-user-id: {user}\r\n")).into_bytes()
}

#[test]
fn who_holds_more_than_half_waits_behind_others() {
    let mut proxy = bounded(80_500);
    let keys: Vec<DownKey> = (0..5).map(|_| proxy.accepted(at(0))).collect();
    let much = request_of("much");
    let left: Vec<usize> = keys[..4].iter().map(|&key| send(&mut proxy, at(0), key, &much[..39_000]).len()).collect();
    assert_eq!((&left[..3], left[3] > 0), (&[0; 3][..], true), "two fit, one is favoured, one waits");
    assert_ne!(send(&mut proxy, at(0), keys[4], &request_of("little")).len(), 0, "another user waits behind them");
    proxy.failed(at(0), Conn::Down(keys[2]), std::io::ErrorKind::ConnectionReset);
    act(&mut proxy, at(0));
    assert_eq!(keys[3..].iter().map(|&key| proxy.wants_read(Conn::Down(key))).collect::<Vec<_>>(), [false, true]);
    proxy.failed(at(0), Conn::Down(keys[4]), std::io::ErrorKind::ConnectionReset);
    act(&mut proxy, at(0));
    assert!(proxy.wants_read(Conn::Down(keys[3])), "who is alone takes all that there is");
}

#[test]
fn who_is_favoured_has_one_deadline_whatever_they_send() {
    for others_wait in [true, false] {
        let mut proxy = bounded(10_000);
        let keys: Vec<DownKey> = (0..2).map(|_| proxy.accepted(at(0))).collect();
        let request = request(BODY_MAX, false);
        send(&mut proxy, at(0), keys[0], &request[..30_000]);
        if others_wait {
            assert_ne!(send(&mut proxy, at(0), keys[1], &request).len(), 0);
        }
        // Always quick enough not to be the slowest, and never done.
        let mut rest = &request[30_000..];
        for now in 1..=10 {
            let (piece, after) = rest.split_at(rest.len() / 4);
            send(&mut proxy, at(now), keys[0], piece);
            rest = after;
            proxy.expire(at(now));
        }
        let is_there = proxy.downs.get(keys[0]).and_then(|down| down.exchange).is_some();
        assert_eq!(is_there, !others_wait);
        let told = take(&mut proxy, at(10), Conn::Down(keys[0]));
        assert_eq!(told.starts_with(b"HTTP/1.1 408 "), others_wait);
    }
}

#[test]
fn a_place_among_the_users_requests_is_taken_with_the_head() {
    let limits = Limits { concurrent: Some(2), requests: Some(Rate { per_minute: 3, burst: 3 }), ..Limits::default() };
    let mut proxy = proxy(Settings { limits, ..settings() });
    let request = request(1000, false);
    let keys: Vec<DownKey> = (0..3).map(|_| proxy.accepted(at(0))).collect();
    keys.iter().for_each(|&key| _ = send(&mut proxy, at(0), key, &request[..500]));
    let told = |proxy: &mut Proxy, n: usize| String::from_utf8(take(proxy, at(0), Conn::Down(keys[n]))).unwrap();
    assert!(told(&mut proxy, 2).contains("2 requests may be in flight"));
    assert_eq!(proxy.audit().reservations(), (2, 2));
    // What is given up has taken nothing, and what is completed takes one of three and no more.
    proxy.failed(at(0), Conn::Down(keys[0]), std::io::ErrorKind::ConnectionReset);
    send(&mut proxy, at(0), keys[1], &request[500..]);
    assert_eq!(proxy.audit().reservations(), (1, 1));
    let key = proxy.accepted(at(0));
    send(&mut proxy, at(0), key, &request);
    let key = proxy.accepted(at(0));
    send(&mut proxy, at(0), key, &request);
    let told = String::from_utf8(take(&mut proxy, at(0), Conn::Down(key))).unwrap();
    assert!(told.contains("x-ratelimit-remaining-requests: 1\r\n"), "{told}");
}

#[test]
fn who_was_favoured_for_a_body_of_nothing_lets_the_others_go_on() {
    let mut proxy = bounded(0);
    let keys: Vec<DownKey> = (0..2).map(|_| proxy.accepted(at(0))).collect();
    let empty = request(0, true);
    let empty = &empty[..empty.len() - b"0\r\n\r\n0\r\n\r\n".len()];
    assert_eq!(send(&mut proxy, at(0), keys[0], &[empty, b"0"].concat()).len(), 0);
    send(&mut proxy, at(0), keys[1], &request(BODY_MAX, false));
    assert!(!proxy.wants_read(Conn::Down(keys[1])), "it waits for the first");
    send(&mut proxy, at(0), keys[0], b"\r\n\r\n");
    act(&mut proxy, at(0));
    assert!(proxy.wants_read(Conn::Down(keys[1])));
}

/// One client among several: what it has not sent, and whether its body is answered.
struct Client {
    key: DownKey,
    rest: Vec<u8>,
}

fn step(proxy: &mut Proxy, clients: &mut [Client], to_flush: &mut Vec<UpKey>, who: usize, what: u8) {
    let client = &mut clients[who];
    match what {
        0..=4 => {
            let most = client.rest.len().min([1, 700, 5_000, 20_000, 100_000][usize::from(what)]);
            let left = send(proxy, at(0), client.key, &client.rest[..most]).len();
            client.rest.drain(..most - left);
        }
        5 => proxy.failed(at(0), Conn::Down(client.key), std::io::ErrorKind::ConnectionReset),
        6 => to_flush.drain(..).for_each(|up| _ = take(proxy, at(0), Conn::Up(up))),
        _ => {
            // All connections to the target break.
            to_flush.drain(..).for_each(|up| proxy.failed(at(0), Conn::Up(up), std::io::ErrorKind::ConnectionReset));
        }
    }
    to_flush.extend(act(proxy, at(0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever clients and target do: the sum keeps its bound, somebody can always go on, all end, nothing is left.
    #[test]
    fn the_sum_keeps_its_bound_and_everybody_ends(
        bound in prop::sample::select(vec![1_000usize, 20_000, 60_000, 200_000]),
        bodies in prop::collection::vec((0usize..BODY_MAX, any::<bool>()), 1..6),
        steps in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..120),
    ) {
        let mut proxy = bounded(bound);
        let mut to_flush = Vec::new();
        let mut clients: Vec<Client> = bodies.iter().map(|&(bytes, chunked)| {
            Client { key: proxy.accepted(at(0)), rest: request(bytes, chunked) }
        }).collect();
        let check = |proxy: &Proxy| {
            prop_assert!(proxy.audit().held_bytes() <= bound + BODY_MAX + EDIT_MAX, "{}", proxy.audit().held_bytes());
            prop_assert_eq!(proxy.audit().forgotten(), 0);
            Ok(())
        };
        for (who, what) in steps {
            step(&mut proxy, &mut clients, &mut to_flush, who.index(bodies.len()), what);
            check(&proxy)?;
        }
        let mut rounds = 0;
        while clients.iter().any(|client| !client.rest.is_empty() && proxy.downs.get(client.key).is_some()) {
            for who in 0..clients.len() {
                step(&mut proxy, &mut clients, &mut to_flush, who, 4);
                step(&mut proxy, &mut clients, &mut to_flush, who, 6);
                check(&proxy)?;
            }
            rounds += 1;
            prop_assert!(rounds < 100, "somebody waits for ever");
        }
        // What is sent on lets the next one go on, whose bytes were here already.
        for _ in 0..=clients.len() {
            step(&mut proxy, &mut clients, &mut to_flush, 0, 6);
        }
        prop_assert_eq!(proxy.audit().held_bytes(), 0, "all bodies are with the target, or gone");
    }
}
