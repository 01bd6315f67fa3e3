//! Rules of the engine that chance seldom shows, on its model.

use crate::engine::Engine;
use openai_api_proxy::limit::bucket::Rate;
use openai_api_proxy::limit::lease::{Answer, Ask, Kind, Terms};

const LASTS: i64 = 10_000;
const CAP: u64 = 100;

/// The first message of a ledger's lease, which needs so much.
fn first(need: i64) -> Ask {
    let terms = Terms::of_rate(Kind::Tokens, Rate { per_minute: 60, burst: CAP });
    Ask {
        account: "t:user::u".into(),
        terms,
        lease: 1,
        opens: true,
        seq: 1,
        spent: 0,
        returned: 0,
        held: 0,
        want: need,
        need,
        least: need,
        closes: false,
    }
}

fn tell(engine: &mut Engine, now: i64, ledger: i64, ask: &Ask) -> Answer {
    engine.exchange(now, LASTS, ledger, std::slice::from_ref(ask)).0[0]
}

#[test]
fn what_comes_back_of_an_expired_lease_is_not_credited() {
    let mut engine = Engine::default();
    let mine = first(50);
    assert_eq!(tell(&mut engine, 0, 1, &mine).granted, Some(50));
    // The other node takes the rest, and later what has flowed back since the lease expired.
    let other = first(50);
    assert_eq!(tell(&mut engine, 0, 2, &other).granted, Some(50));
    let spent = Ask { opens: false, seq: 2, spent: 50, need: 20, want: 20, least: 20, ..other };
    assert_eq!(tell(&mut engine, 20_000, 2, &spent).granted, Some(70));
    let back = Ask { opens: false, seq: 2, returned: 50, need: 0, want: 0, least: 0, ..mine };
    let answer = tell(&mut engine, 20_001, 1, &back);
    assert_eq!((answer.granted, answer.available), (Some(50), 0), "all is in use");
}

#[test]
fn a_message_of_a_lease_that_has_ended_counts_once() {
    let mut engine = Engine::default();
    let other = first(90);
    tell(&mut engine, 0, 2, &other);
    tell(&mut engine, 0, 2, &Ask { opens: false, seq: 2, spent: 90, need: 0, want: 0, least: 0, ..other });
    // It gives back what was taken under a lease before it, and ends.
    let back = Ask { spent: -30, returned: 30, ..first(0) };
    assert_eq!(tell(&mut engine, 1, 1, &back).available, 40);
    let end = Ask { opens: false, seq: 2, closes: true, ..back.clone() };
    assert_eq!(tell(&mut engine, 2, 1, &end).available, 40);
    assert_eq!(tell(&mut engine, 3, 1, &back).available, 40, "the first message again");
    assert_eq!(tell(&mut engine, 4, 1, &end).available, 40);
}

#[test]
fn an_engine_that_was_emptied_grants_nothing_for_a_time() {
    let mut engine = Engine::default();
    engine.quiet_until = 5_000;
    let answer = tell(&mut engine, 1_000, 1, &first(10));
    assert_eq!((answer.granted, answer.wait_ms), (Some(0), 4_000));
    let debt = Ask { opens: false, seq: 2, spent: 30, need: 0, want: 0, least: 0, ..first(0) };
    assert_eq!(tell(&mut engine, 1_000, 1, &debt).granted, Some(30), "but debts");
    assert_eq!(tell(&mut engine, 5_000, 2, &first(10)).granted, Some(10));
}

#[test]
fn what_an_expired_lease_held_is_not_held_on() {
    let mut engine = Engine::default();
    let mine = first(50);
    assert_eq!(tell(&mut engine, 0, 1, &mine).granted, Some(50), "an answer that is lost");
    tell(&mut engine, 20_000, 2, &first(10));
    let again = Ask { seq: 2, need: 0, want: 0, least: 0, ..mine };
    assert_eq!(tell(&mut engine, 20_001, 1, &again).granted, Some(0));
}
