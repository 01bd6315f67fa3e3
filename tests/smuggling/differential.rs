//! Whatever we accept, as we write it again, is the same message to independent parsers: the requests that the upstream
//! gets and the responses that the client gets, from the tables of this folder and from a seed, are read by a strict
//! reader of the tests, by h11 and by llhttp, which have to agree on each method, target, status, field and byte, and
//! on where each message ends. Where a parser takes what was sent in the first place too, it has to read the same.
//!
//! `DIFFERENTIAL_CASES` says how many messages are generated for each direction (300), `TEST_SEED` where chance begins.

use super::parsers::{self, Message, Parser, Stream};
use super::recorder::{Peer, Record, Recorder};
use super::responses::{self, Relayed};
use super::spellings::{self, Spelling};
use super::support::proxy::{Proxy, scripted};
use super::support::rng::Rng;
use super::support::script::{Reply, Step};
use super::support::{self};
use super::{requests, support::upstream::SeenRequest};
use std::collections::BTreeMap;

const VARS: [(&str, &str); 1] = [("RATE_LIMIT_RPM", "0")];

fn generated(make: fn(&mut Rng) -> Spelling) -> (Rng, Vec<Spelling>) {
    let mut rng = Rng::from_env();
    let count = std::env::var("DIFFERENTIAL_CASES").map_or(300, |n| n.parse().expect("DIFFERENTIAL_CASES is a number"));
    let cases = (0..count).map(|_| make(&mut rng)).collect();
    (rng, cases)
}

/// The fields that pass through untouched in any case.
fn passed(fields: &[(String, String)]) -> Vec<(String, String)> {
    let passes = |name: &str| name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("x-"));
    let is_ours = |name: &str| matches!(name, "x-dropped" | "x-accel-buffering"); // of streams
    fields.iter().filter(|(name, _)| passes(name) && !is_ours(name)).cloned().collect()
}

/// Every parser reads the record as the strict reader does.
#[track_caller]
fn assert_agreement(parsers: &mut [Parser], record: &Record, methods: &[&str], ended: bool, name: &str) {
    for parser in parsers {
        let found = parser.read(&Stream { parts: &record.parts(), methods, ended });
        let found =
            found.unwrap_or_else(|e| panic!("{name}: {} says {e} of {}", parser.name, record.bytes.escape_ascii()));
        for (at, (found, expected)) in found.iter().zip(&record.messages).enumerate() {
            assert_eq!(found, expected, "{name}: message {at}, as {} reads it", parser.name);
        }
        assert_eq!(found.len(), record.messages.len(), "{name}: messages to {}", parser.name);
    }
}

/// A parser reads from what the client sent what we passed on.
#[track_caller]
fn assert_same(parser: &str, original: &Message, seen: &Message, bytes: &[u8]) {
    let (method, target) = original.start.split_once(' ').unwrap();
    // The scheme and the host of an absolute-form target are dropped (RFC 9112 §3.2.2).
    let path = match target.find("://").filter(|_| !target.starts_with('/')) {
        Some(scheme) => target[scheme + 3..].find('/').map_or("/", |slash| &target[scheme + 3 + slash..]),
        None => target,
    };
    assert_eq!(format!("{method} {path}"), seen.start, "{parser}: {}", bytes.escape_ascii());
    assert_eq!(original.body, seen.body, "{parser}: {}", bytes.escape_ascii());
}

/// Where a parser takes what the client sent, it reads what we passed on. How many took it.
fn compare_originals(parsers: &mut [Parser], sent: &[(Vec<u8>, Message)]) -> BTreeMap<&'static str, usize> {
    let mut taken = BTreeMap::new();
    for (bytes, seen) in sent {
        for parser in &mut *parsers {
            let Ok(read) = parser.read(&Stream { parts: &[bytes], methods: &[], ended: false }) else { continue };
            *taken.entry(parser.name).or_default() += 1;
            assert_same(parser.name, &read[0], seen, bytes);
        }
    }
    taken
}

#[test]
fn requests_are_the_same_to_all_parsers() {
    let Some(mut parsers) = parsers::start() else { return };
    let recorder = Recorder::start();
    let target = format!("http://{}", recorder.addr);
    let proxy = Proxy::start(&[("PROXY_TARGET", &target), VARS[0]]);
    let (mut rng, generated) = generated(spellings::request);
    let table: Vec<(&str, Vec<u8>)> = requests::accepted();
    let mut sent = Vec::new();
    for (name, bytes) in &table {
        let mut client = Peer::connect(proxy.addr());
        client.send(&[bytes]);
        assert_eq!(client.response("GET"), Ok(true), "{name}");
        sent.push((bytes.clone(), recorder.messages().last().unwrap().clone()));
        assert_eq!(recorder.messages().len(), sent.len(), "{name}");
    }
    for (nth, case) in generated.iter().enumerate() {
        let name = || format!("generated {nth}: {}", case.bytes.escape_ascii());
        let mut client = Peer::connect(proxy.addr());
        client.send(&rng.cut(&case.bytes, 5));
        assert_eq!(client.response(case.method), Ok(true), "{}", name());
        let answer = client.record().messages.pop().unwrap();
        assert_eq!(answer.start, "200", "{}: {answer:?}", name());
        let seen = recorder.messages().last().unwrap().clone();
        let found = Message { fields: passed(&seen.fields), ..seen.clone() };
        assert_eq!(found, Message { fields: passed(&case.means.fields), ..case.means.clone() }, "{}", name());
        sent.push((case.bytes.clone(), seen));
        assert_eq!(recorder.messages().len(), sent.len(), "{}", name());
    }
    for record in recorder.records().iter() {
        assert_agreement(&mut parsers, record, &[], false, "the upstream's connection");
    }
    let taken = compare_originals(&mut parsers, &sent);
    support::say(&format!(
        "{} requests of the table and {} generated ones are the same message to {}; as they were sent: {taken:?} of {}",
        table.len(),
        generated.len(),
        parsers.iter().map(|p| p.name).collect::<Vec<_>>().join(" and "),
        sent.len()
    ));
    assert!(taken.len() == parsers.len() && taken.values().all(|&n| n > sent.len() / 4), "{taken:?}");
}

/// What is legal but for a byte or two: whatever of it we accept, up to where we or a parser refuse it, is the same
/// requests to all, as it was sent and as we wrote it.
#[test]
fn what_is_nearly_legal_is_refused_or_the_same_to_all_parsers() {
    const LAST: &[u8] = b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let Some(mut parsers) = parsers::start() else { return };
    let recorder = Recorder::start();
    let target = format!("http://{}", recorder.addr);
    let timeouts = [("HEADER_TIMEOUT", "200ms"), ("IDLE_TIMEOUT", "200ms")]; // of what has no end any more
    let proxy = Proxy::start(&[("PROXY_TARGET", &target), timeouts[0], timeouts[1], VARS[0]]);
    let (mut rng, generated) = generated(spellings::request);
    let (mut accepted, mut compared) = (0, 0);
    for case in &generated {
        let bytes = [&spellings::damage(&mut rng, &case.bytes)[..], LAST].concat();
        let before = recorder.messages().len();
        let mut client = Peer::connect(proxy.addr());
        client.try_send(&bytes);
        let statuses = client.rest();
        let seen = recorder.messages()[before..].to_vec();
        assert!(seen.len() <= statuses.len(), "{statuses:?} for {seen:?} of {}", bytes.escape_ascii());
        accepted += seen.len();
        for parser in &mut parsers {
            // The recorder says 200. What the proxy refused, for its path say, never reached it.
            let originals = parser.requests(&bytes, 4).into_iter().zip(&statuses);
            let passed_on = originals.filter(|(_, status)| *status == "200").map(|(original, _)| original);
            for (original, seen) in passed_on.zip(&seen) {
                assert_same(parser.name, &original, seen, &bytes);
                compared += 1;
            }
        }
    }
    for (part, message) in recorder.records().iter().flat_map(|record| record.parts().into_iter().zip(&record.messages))
    {
        for parser in &mut parsers {
            match parser.read(&Stream { parts: &[part], methods: &[], ended: false }) {
                Ok(found) => assert_eq!(found, std::slice::from_ref(message), "{}", parser.name),
                // What was a body can begin a request now. To llhttp a method that is not its own is none.
                Err(e) if e.contains("INVALID_METHOD") && !spellings::METHODS.contains(&message.method()) => {}
                Err(e) => panic!("{} says {e} of {}", parser.name, part.escape_ascii()),
            }
        }
    }
    support::say(&format!(
        "{} damaged messages: {accepted} requests accepted, {compared} compared with what a parser reads of the same bytes",
        generated.len()
    ));
    assert!(accepted > 0 && compared > 0);
}

/// Answers `/N` with a response's bytes in their pieces; anything else well.
fn answer(cases: &[Relayed], request: &SeenRequest) -> Vec<Step> {
    let Ok(index) = request.target.trim_start_matches("/case/").parse::<usize>() else {
        return Reply::new(200, "next").steps();
    };
    cases[index].steps()
}

#[test]
fn responses_are_the_same_to_all_parsers() {
    let Some(mut parsers) = parsers::start() else { return };
    let (mut rng, generated) = generated(spellings::response);
    let mut cases = responses::relayed();
    let of_table = cases.len();
    for case in &generated {
        let pieces = rng.cut(&case.bytes, 5).into_iter().map(<[u8]>::to_vec).collect();
        cases.push(Relayed::new("generated", case.method, pieces, case.until_close));
    }
    let for_upstream = cases.clone();
    let (_upstream, proxy) = scripted(&VARS, move |request| answer(&for_upstream, request));
    let mut torn = 0;
    for (index, case) in cases.iter().enumerate() {
        let name = format!("{} ({index})", case.name);
        let mut client = Peer::connect(proxy.addr());
        client.send(&[format!("{} /case/{index} HTTP/1.1\r\nhost: a\r\n\r\n", case.method).as_bytes()]);
        if client.response(case.method) != Ok(true) {
            torn += 1;
            let bytes = client.record().bytes;
            for parser in &mut parsers {
                let read = parser.read(&Stream { parts: &[&bytes], methods: &[case.method], ended: true });
                assert!(read.is_err(), "{name}: torn, and whole to {}: {}", parser.name, bytes.escape_ascii());
            }
            continue;
        }
        let first = client.record().messages[0].clone();
        let closes =
            first.fields.iter().any(|(name, value)| name.eq_ignore_ascii_case("connection") && value == "close");
        if let Some(Spelling { means, .. }) = index.checked_sub(of_table).map(|nth| &generated[nth]) {
            let found = Message { fields: passed(&first.fields), ..first };
            assert_eq!(found, Message { fields: passed(&means.fields), ..means.clone() }, "{name}");
        }
        // The next one on the connection shows that nothing of the first is left over.
        let methods = if closes { vec![case.method] } else { vec![case.method, "GET"] };
        if !closes {
            client.send(&[b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n"]);
            assert_eq!(client.response("GET"), Ok(true), "{name}");
        }
        assert_agreement(&mut parsers, &client.record(), &methods, closes, &name);
    }
    support::say(&format!(
        "{of_table} responses of the table and {} generated ones are the same to {}; {torn} that are torn are whole to none",
        generated.len(),
        parsers.iter().map(|p| p.name).collect::<Vec<_>>().join(" and "),
    ));
    assert!(torn > 10 && torn < of_table, "{torn}");
}

/// The parsers would tell: what is left over, what is missing, and one message more than there should be.
#[test]
fn the_parsers_tell_what_is_wrong() {
    let Some(mut parsers) = parsers::start() else { return };
    const REQUEST: &[u8] = b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let left = |bytes: &[u8]| [bytes, b"\0"].concat();
    let (request, response, double) = (left(REQUEST), left(RESPONSE), [REQUEST, REQUEST].concat());
    let methods = ["GET", "POST"];
    for parser in &mut parsers {
        let mut read = |parts: &[&[u8]], methods: &[&str], ended| parser.read(&Stream { parts, methods, ended });
        assert_eq!(read(&[REQUEST, REQUEST], &[], false).unwrap()[1].body, b"a");
        assert!(read(&[&request, REQUEST], &[], false).is_err());
        assert!(read(&[&double], &[], false).is_err_and(|e| e.contains("left over")));
        let mut read = |parts: &[&[u8]], ended| parser.read(&Stream { parts, methods: &methods[..parts.len()], ended });
        assert_eq!(read(&[RESPONSE, RESPONSE], false).unwrap()[1].body, b"ok");
        assert!(read(&[&response, RESPONSE], false).is_err());
        assert!(read(&[&RESPONSE[..RESPONSE.len() - 1]], true).is_err());
    }
}
