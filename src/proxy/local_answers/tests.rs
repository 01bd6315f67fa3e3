//! Large answers: how many may wait for their clients.

use super::ANSWER_BYTES_MAX;
use crate::base::clock::Now;
use crate::local::Answer;
use crate::proxy::{Action, Conn, DownKey, Proxy, Settings, Written, fixture};

const LARGE: usize = ANSWER_BYTES_MAX / 3;

/// A client asks, and the answer comes.
fn ask(proxy: &mut Proxy, key: DownKey, method: &str, bytes: usize) {
    let mut request = format!("{method} /usage HTTP/1.1\r\nhost: a\r\n\r\n").into_bytes();
    proxy.received(Now::default(), Conn::Down(key), &mut request);
    let ticket = std::iter::from_fn(|| proxy.next_action()).find_map(|action| match action {
        Action::Ask { ticket, .. } => Some(ticket),
        _ => None,
    });
    let answer = Answer::new(200, "application/json", vec![b' '; bytes]);
    proxy.answered(Now::default(), ticket.expect("a question"), &answer);
}

/// The client takes all that waits for it; the status of what it is.
fn take(proxy: &mut Proxy, key: DownKey) -> String {
    let mut taken = Vec::new();
    proxy.flush(Now::default(), Conn::Down(key), &mut |bytes| {
        taken.extend_from_slice(bytes);
        Written::Taken(bytes.len())
    });
    String::from_utf8_lossy(&taken[9..12]).into_owned()
}

#[test]
fn large_answers_are_bounded_all_together() {
    let mut proxy = fixture::proxy(fixture::settings());
    let keys: Vec<DownKey> = (0..6).map(|_| proxy.accepted(Now::default())).collect();
    for key in &keys[..4] {
        ask(&mut proxy, *key, "GET", LARGE);
    }
    assert_eq!(take(&mut proxy, keys[3]), "503", "three wait already");
    ask(&mut proxy, keys[3], "GET", 1000);
    assert_eq!(take(&mut proxy, keys[3]), "200", "a small one");
    ask(&mut proxy, keys[3], "HEAD", LARGE);
    assert_eq!(take(&mut proxy, keys[3]), "200", "one without a body");

    // One is taken, one client goes: there is room for two.
    assert_eq!(take(&mut proxy, keys[0]), "200");
    proxy.failed(Now::default(), Conn::Down(keys[1]), std::io::ErrorKind::ConnectionReset);
    for key in &keys[3..] {
        ask(&mut proxy, *key, "GET", LARGE);
    }
    assert_eq!([3, 4, 5].map(|n| take(&mut proxy, keys[n])), ["200", "200", "503"]);
    assert_eq!(take(&mut proxy, keys[2]), "200");
    assert_eq!(proxy.local_answers.waiting, Default::default());
}

/// Where the ledger's queue is full, requests are refused from that moment on, before the ledger itself says that it
/// fails.
#[test]
fn a_proxy_that_refuses_requests_is_not_ready() {
    for (journaled, places) in [(false, 1), (true, 2)] {
        let status = [places, places - 1].map(|ledger_places| {
            let mut proxy = fixture::proxy(Settings { ledger_places, journaled, ..fixture::settings() });
            let key = proxy.accepted(Now::default());
            proxy.received(Now::default(), Conn::Down(key), &mut b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n".to_vec());
            take(&mut proxy, key)
        });
        assert_eq!(status, ["200", "503"], "journaled: {journaled}");
    }
}

#[test]
fn holders_of_keys_take_half_of_the_room_and_leave_the_rest() {
    let mut answers = super::LocalAnswers::default();
    let quarter = super::ANSWER_BYTES_MAX / 4;
    let own = [(); 3].map(|()| answers.take_room(quarter, true));
    assert!(own[1].is_some() && own[2].is_none());
    let others = [(); 3].map(|()| answers.take_room(quarter, false));
    assert!(others[1].is_some() && others[2].is_none());
    own.into_iter().chain(others).flatten().for_each(|counted| answers.give_room_back(counted));
    assert_eq!(answers.waiting, Default::default());
}
