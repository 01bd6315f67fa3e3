//! Bodies that do not all fit: nobody is refused, nobody waits for ever, and the sum keeps its bound.

use crate::proxy::fixture::{act, at, proxy, send, settings, take};
use crate::proxy::{Conn, DownKey, Proxy, Settings, UpKey};
use proptest::prelude::*;

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
        assert!(proxy.buffered_bytes() <= (sent * 200 + 200).min(30_001), "{} bytes", proxy.buffered_bytes());
    }
    assert_eq!(proxy.buffered_bytes(), 30_001);
    let up = act(&mut proxy, at(0)).pop().expect("something to send");
    take(&mut proxy, at(0), Conn::Up(up));
    assert_eq!(proxy.buffered_bytes(), 0, "what is sent on is not held");
}

#[test]
fn who_is_paused_is_not_timed_and_goes_on_in_order() {
    let mut proxy = bounded(50_000);
    let keys: Vec<DownKey> = (0..4).map(|_| proxy.accepted(at(0))).collect();
    let request = request(BODY_MAX, false);
    // The first fits, the second is favoured, the others wait.
    let left: Vec<usize> = keys.iter().map(|&key| send(&mut proxy, at(0), key, &request[..39_000]).len()).collect();
    assert!(left[0] == 0 && left[1] == 0 && left[2] > 0 && left[3] > 0, "{left:?}");
    for now in (70..700).step_by(70) {
        proxy.expire(at(now));
        send(&mut proxy, at(now), keys[0], &[b'x'; 40]);
        send(&mut proxy, at(now), keys[1], &[b'x'; 40]);
    }
    assert_eq!([2, 3].map(|n| proxy.downs.get(keys[n]).is_some()), [true; 2], "they are not cut for our pause");
    let is_cut = |n: usize| proxy.downs.get(keys[n]).is_none_or(|down| down.exchange.is_none());
    assert!(is_cut(0) && is_cut(1), "those that trickle are");
    act(&mut proxy, at(700));
    assert_eq!([2, 3].map(|n| proxy.wants_read(Conn::Down(keys[n]))), [true, true], "and so there is room");
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
            prop_assert!(proxy.buffered_bytes() <= bound + BODY_MAX + EDIT_MAX, "{}", proxy.buffered_bytes());
            prop_assert_eq!(proxy.forgotten(), 0);
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
        step(&mut proxy, &mut clients, &mut to_flush, 0, 6);
        prop_assert_eq!(proxy.buffered_bytes(), 0, "all bodies are with the target, or gone");
    }
}
