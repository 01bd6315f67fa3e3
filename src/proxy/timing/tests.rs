//! Slow peers in every state: what is late is not waited for, what is slow but gets on is, and no trickle puts an end off.

use crate::local::Answer;
use crate::proxy::downstream::AfterReply;
use crate::proxy::fixture::{act, at, proxy, sent, settings, take};
use crate::proxy::{Action, Conn, DownKey, Proxy, Written};

const HOUR: u64 = 3600;
const CHAT: &str = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";

/// Sends `piece` every so many seconds for as long as it may; the second in which it ended, if it did in `until`.
fn cut_at(proxy: &mut Proxy, conn: Conn, piece: &[u8], every: u64, until: u64) -> Option<u64> {
    for now in (every..=until).step_by(every as usize) {
        proxy.expire(at(now));
        if is_gone(proxy, conn) {
            return Some(now);
        }
        proxy.received(at(now), conn, &mut piece.to_vec());
        act(proxy, at(now));
        let clients: Vec<DownKey> = proxy.downs.keys().collect();
        clients.into_iter().for_each(|key| _ = take(proxy, at(now), Conn::Down(key)));
    }
    None
}

/// True where it is closed, or has been told that it will be.
fn is_gone(proxy: &Proxy, conn: Conn) -> bool {
    match conn {
        Conn::Down(key) => proxy.downs.get(key).is_none_or(|down| !down.keeps_alive() && down.exchange.is_none()),
        Conn::Up(key) => proxy.ups.get(key).is_none(),
    }
}

fn client(proxy: &mut Proxy, bytes: &str) -> Conn {
    let conn = Conn::Down(proxy.accepted(at(0)));
    proxy.received(at(0), conn, &mut bytes.as_bytes().to_vec());
    conn
}

#[test]
fn a_trickled_head_has_its_time_and_no_more() {
    let mut proxy = proxy(settings());
    let conn = client(&mut proxy, "GET / HTTP/1.1\r\nx: ");
    proxy
        .downs
        .keys()
        .collect::<Vec<_>>()
        .into_iter()
        .for_each(|key| proxy.downs.get_mut(key).unwrap().after_reply = AfterReply::KeepAlive);
    assert_eq!(cut_at(&mut proxy, conn, b"y", 1, HOUR), Some(10));
}

#[test]
fn a_trickled_body_is_cut_and_a_slow_one_is_not() {
    for framing in ["content-length: 1000000\r\n\r\n", "transfer-encoding: chunked\r\n\r\nfffff\r\n"] {
        let mut proxy = proxy(settings());
        let conn = client(&mut proxy, &format!("{CHAT}{framing}"));
        assert_eq!(cut_at(&mut proxy, conn, b"y", 70, HOUR), Some(140), "a byte now and then: {framing}");
        let conn = client(&mut proxy, &format!("{CHAT}{framing}"));
        assert_eq!(cut_at(&mut proxy, conn, &[b'y'; 520], 1, 1_900), None, "520 bytes a second: {framing}");
        let conn = client(&mut proxy, &format!("{CHAT}{framing}"));
        assert_eq!(cut_at(&mut proxy, conn, &[b'y'; 60_000], 70, 1_000), None, "in bursts: {framing}");
    }
}

#[test]
fn a_refused_body_is_not_waited_for_either() {
    let mut settings = settings();
    settings.ledger_places = 0;
    let mut proxy = proxy(settings);
    let conn = client(&mut proxy, &format!("{CHAT}content-length: 100000\r\n\r\n"));
    let Conn::Down(key) = conn else { unreachable!() };
    take(&mut proxy, at(0), conn);
    let mut last = 0;
    for now in (70..HOUR).step_by(70) {
        proxy.expire(at(now));
        if proxy.downs.get(key).is_none() {
            break;
        }
        last = now;
        proxy.received(at(now), conn, &mut b"y".to_vec());
    }
    assert_eq!(last, 70);
}

/// A client with an answer of 60,000 bytes before it, of which it takes `count` every so many seconds; how many it got.
fn taken(count: usize, every: u64) -> usize {
    let mut proxy = proxy(settings());
    let conn = client(&mut proxy, "GET /usage HTTP/1.1\r\nhost: a\r\n\r\n");
    let asked = std::iter::from_fn(|| proxy.next_action()).find_map(|action| match action {
        Action::Ask { ticket, .. } => Some(ticket),
        _ => None,
    });
    let answer = Answer::new(200, "text/plain", vec![b'x'; 60_000]);
    proxy.answered(at(0), asked.expect("a question"), &answer);
    let (mut got, mut now) = (0, 0);
    while !proxy.downs.is_empty() && got < 60_000 && now < 10 * HOUR {
        let mut left = count;
        proxy.flush(at(now), conn, &mut |bytes| {
            let piece = bytes.len().min(std::mem::take(&mut left));
            got += piece;
            if piece == 0 { Written::Blocked } else { Written::Taken(piece) }
        });
        now += every;
        proxy.expire(at(now));
    }
    got
}

#[test]
fn an_answer_that_is_read_in_a_trickle_is_cut_and_one_that_is_read_slowly_is_not() {
    assert_eq!(taken(1, 70), 2);
    assert!(taken(500, 1) >= 60_000);
    assert!(taken(35_001, 70) >= 60_000);
}

const GET: &str = "GET /v1/x HTTP/1.1\r\nhost: a\r\n\r\n";

#[test]
fn a_response_head_has_its_time_from_its_first_byte() {
    let mut proxy = proxy(settings());
    let (_, up) = sent(&mut proxy, GET);
    let conn = Conn::Up(up);
    proxy.expire(at(599));
    proxy.received(at(599), conn, &mut b"HTTP/1.1 200 OK\r\n".to_vec());
    proxy.expire(at(1198));
    assert!(!is_gone(&proxy, conn), "it has only begun");
    proxy.received(at(1198), conn, &mut b"x".to_vec());
    proxy.expire(at(1199));
    assert!(is_gone(&proxy, conn), "a byte more is not a head");
}

#[test]
fn interim_responses_do_not_go_on_for_ever() {
    const INTERIM: &[u8] = b"HTTP/1.1 103 Early Hints\r\n\r\n";
    let mut proxy = proxy(settings());
    let (_, up) = sent(&mut proxy, GET);
    assert_eq!(cut_at(&mut proxy, Conn::Up(up), INTERIM, 1, HOUR), Some(66), "their number has a bound");
    let (_, up) = sent(&mut proxy, GET);
    let cut = cut_at(&mut proxy, Conn::Up(up), INTERIM, 500, 100 * HOUR);
    assert!(cut.is_some_and(|cut| cut < 5 * HOUR), "and their time: {cut:?}");
}

#[test]
fn a_response_that_trickles_is_cut_in_the_end_and_a_quiet_one_is_not() {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let stream = || {
        let mut proxy = proxy(settings());
        let (_, up) = sent(&mut proxy, GET);
        proxy.received(at(0), Conn::Up(up), &mut HEAD.to_vec());
        (proxy, Conn::Up(up))
    };
    let (mut proxy, conn) = stream();
    let cut = cut_at(&mut proxy, conn, b"y", 500, 100 * HOUR);
    assert!(cut.is_some_and(|cut| cut > 3 * HOUR && cut < 5 * HOUR), "{cut:?}");
    let (mut proxy, conn) = stream();
    assert_eq!(cut_at(&mut proxy, conn, b": keep-alive\n\n", 15, 24 * HOUR), None, "comments while a model thinks");
    let (mut proxy, conn) = stream();
    assert_eq!(cut_at(&mut proxy, conn, &[b'y'; 300], 599, 24 * HOUR), None, "an event every ten minutes");
    let (mut proxy, conn) = stream();
    assert_eq!(cut_at(&mut proxy, conn, &[b'y'; 300], 601, 24 * HOUR), Some(601), "silence");
}

/// A target that reads the request a byte at a time is one that trickles, too.
#[test]
fn a_request_that_is_read_in_a_trickle_is_given_up() {
    let mut proxy = proxy(settings());
    let key = proxy.accepted(at(0));
    let body = "x".repeat(50_000);
    let request = format!("{CHAT}content-length: 50000\r\n\r\n{body}");
    proxy.received(at(0), Conn::Down(key), &mut request.into_bytes());
    let up = act(&mut proxy, at(0)).pop().expect("something to send");
    let (mut now, mut left) = (0, 0);
    while proxy.ups.get(up).is_some() && now < 100 * HOUR {
        now += 500;
        left = 1;
        proxy.flush(at(now), Conn::Up(up), &mut |_| match std::mem::take(&mut left) {
            0 => Written::Blocked,
            count => Written::Taken(count),
        });
        proxy.expire(at(now));
    }
    assert!(left == 0 && now > 3 * HOUR && now < 5 * HOUR, "{now}");
}
