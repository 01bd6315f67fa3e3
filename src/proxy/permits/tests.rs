//! Permits and the order of commits, against the plain model: a list.

use super::Permits;
use crate::base::clock::Now;
use crate::base::slab::Key;
use crate::proxy::ExchangeKey;
use crate::usage::draft::Draft;
use crate::usage::record::{Journal, Record};
use proptest::prelude::*;

fn key(n: u64) -> ExchangeKey {
    Key::new(n as u32, 0)
}

fn released(permits: &mut Permits) -> Vec<ExchangeKey> {
    std::iter::from_fn(|| permits.next_committed()).collect()
}

#[test]
fn a_permit_is_held_until_its_record_is_committed() {
    let mut permits = Permits::new(2);
    assert!(permits.reserve(2) && !permits.reserve(1));
    assert_eq!(permits.submit(Record::default()), 1);
    permits.release(1);
    assert_eq!((permits.available(), permits.reserved(), permits.under_way()), (0, 1, 1));
    assert_eq!(permits.take_outgoing(Now::default(), false, 9).len(), 1);
    assert_eq!(permits.available(), 0, "it is on its way, no more");
    assert_eq!(permits.committed(1), 1);
    assert_eq!((permits.available(), permits.under_way()), (1, 0));
    permits.release(1);
    assert_eq!(permits.available(), 2, "given back unused");
}

#[test]
fn lines_of_the_journal_are_under_way_like_records_and_not_counted_as_such() {
    let mut permits = Permits::new(9);
    assert!(permits.reserve(4));
    let mut draft = Draft::default();
    assert_eq!(permits.open_entry(&mut draft), 1);
    let entry = draft.entry.expect("its number");
    assert_eq!(permits.submit(draft.into()), 2);
    permits.release(1);
    let mut withdrawn = Draft::default();
    assert_eq!(permits.open_entry(&mut withdrawn), 3);
    permits.withdraw_entry(withdrawn.entry.expect("another number"));
    let journal: Vec<_> = permits.take_outgoing(Now::default(), false, 0).iter().map(|line| line.journal).collect();
    assert_eq!(journal, [Journal::Open(1), Journal::Close(entry.get()), Journal::Open(2), Journal::Withdraw(2)]);
    assert_eq!(permits.reserved(), 0);
    assert_eq!(permits.committed(1), 0);
    assert_eq!(permits.committed(2), 1);
    assert_eq!(permits.committed(4), 1);
}

#[test]
fn who_waits_for_a_permit_waits_in_order() {
    let mut permits = Permits::new(1);
    assert!(permits.reserve(1));
    permits.await_permit(key(1));
    permits.await_permit(key(2));
    assert!(permits.is_starved(key(2)));
    assert_eq!(permits.next_starved(), Some(key(1)));
    permits.await_permit_first(key(1));
    assert_eq!(
        [permits.next_starved(), permits.next_starved(), permits.next_starved()],
        [Some(key(1)), Some(key(2)), None]
    );
}

/// Where the wait of everybody ends at once, in whatever order, nobody is looked for among all others: what is left
/// behind goes as soon as it is at the front.
#[test]
fn the_end_of_a_wait_leaves_nothing_behind() {
    let mut permits = Permits::new(1000);
    for n in 1..=1000 {
        permits.submit(Record::default());
        permits.await_commit(n, key(n));
    }
    for n in (2..=1000).rev() {
        permits.stop_waiting(n);
    }
    assert_eq!((permits.waiting_count, permits.waiting.len()), (1, 1000));
    permits.stop_waiting(1);
    permits.stop_waiting(1);
    assert_eq!((permits.waiting_count, permits.waiting.len()), (0, 0));
}

proptest! {
    /// Whoever waits goes on exactly once, in the order of the commits, unless the wait was given up.
    #[test]
    fn everybody_goes_on_once(steps in proptest::collection::vec((0u8..4, 0usize..20), 1..200)) {
        let mut permits = Permits::new(1000);
        let mut model: Vec<(u64, ExchangeKey)> = Vec::new();
        for (step, which) in steps {
            match step {
                0 | 1 => {
                    let seq = permits.submit(Record::default());
                    permits.await_commit(seq, key(seq));
                    model.push((seq, key(seq)));
                }
                2 if which < model.len() => {
                    let (seq, who) = model.remove(which);
                    prop_assert!(permits.is_awaiting(who));
                    permits.stop_waiting(seq);
                    prop_assert!(!permits.is_awaiting(who));
                }
                2 => permits.stop_waiting(u64::MAX),
                _ => {
                    let upto = (permits.committed + which as u64).min(permits.last_seq());
                    permits.committed(upto);
                    let expected: Vec<_> = model.iter().filter(|(seq, _)| *seq <= upto).map(|&(_, who)| who).collect();
                    model.retain(|&(seq, _)| seq > upto);
                    prop_assert_eq!(released(&mut permits), expected);
                }
            }
            prop_assert_eq!(permits.waiting_count, model.len());
        }
    }
}

/// The ledger is moved away while a session waits for its part's commit, and comes back: the commit tells of it first.
#[test]
fn who_waits_for_a_permit_goes_on_when_the_ledger_takes_records_again() {
    use crate::proxy::Conn;
    use crate::proxy::fixture::{act, at, proxy, sent, settings};
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut proxy = proxy(settings());
    let (_, up) = sent(&mut proxy, &format!("GET /v1/realtime?model=m HTTP/1.1\r\nhost: a\r\n{upgrade}"));
    let message = r#"{"type":"response.done","response":{"id":"r","usage":{"total_tokens":3,"input_tokens":3}}}"#;
    let mut bytes = format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}").into_bytes();
    bytes.extend_from_slice(&[0x81, u8::try_from(message.len()).expect("a short one")]);
    bytes.extend_from_slice(message.as_bytes());
    proxy.received(at(0), Conn::Up(up), &mut bytes);
    assert_eq!(proxy.take_records(at(0)).len(), 1);
    assert!(!proxy.wants_read(Conn::Up(up)), "its record is under way");
    proxy.ledger_state(at(2), Some("it was moved away".to_owned()), false);
    proxy.committed(at(2), 1, &[]);
    assert!(!proxy.wants_read(Conn::Up(up)), "there is no permit for the next part");
    proxy.ledger_state(at(2), None, true);
    act(&mut proxy, at(2));
    assert!(proxy.wants_read(Conn::Up(up)));
    assert_eq!(proxy.audit().forgotten(), 0);
}
