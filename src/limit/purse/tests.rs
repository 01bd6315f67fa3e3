//! Each rule of a purse alone, and all of them over any order of requests, looks and answers.

use super::*;
use crate::limit::lease::{Answer, Ask};
use proptest::prelude::*;
use std::sync::Arc;

const LASTS: u64 = 10 * SECOND;

fn at(mono: u64) -> Now {
    Now { mono, unix: mono + 1_000 * SECOND }
}

fn rate(cap: u64) -> Terms {
    Terms::of_rate(Kind::Tokens, Rate { per_minute: cap, burst: cap })
}

/// A purse, and what its engine would answer: all that is asked for.
struct Pair {
    purse: Purse,
    terms: Terms,
    account: Arc<str>,
    seq: i64,
}

impl Pair {
    fn new(terms: Terms) -> Self {
        Self { purse: Purse::new(terms, at(0)), terms, account: "x".into(), seq: 0 }
    }

    fn room(&mut self, need: i64, now: Now) -> Room {
        self.purse.room(self.terms, Demand::all(need), None, now)
    }

    fn ask(&mut self, is_look: bool, now: Now) -> Option<Ask> {
        self.seq += 1;
        self.purse.ask(&self.account, self.seq, is_look, now)
    }

    fn grant(&mut self, ask: &Ask, extra: i64, now: Now) {
        let lack = (ask.need - (self.purse.granted - ask.spent - ask.returned)).max(0);
        let answer = Answer { granted: Some(self.purse.granted + lack + extra), available: 7, others: 0, wait_ms: 0 };
        self.purse.answered(ask.seq, answer, LASTS, now);
    }

    /// One that holds so much.
    fn holding(terms: Terms, units: i64, now: Now) -> Self {
        let mut pair = Self::new(terms);
        assert_eq!(pair.room(1, now), Room::Cold);
        let ask = pair.ask(false, now).expect("somebody waits");
        pair.grant(&ask, units - 1, now);
        pair
    }
}

#[test]
fn a_cold_purse_is_asked_for_once_and_nobody_overtakes_who_waits() {
    let mut pair = Pair::new(rate(600));
    assert_eq!(pair.room(5, at(0)), Room::Cold);
    assert_eq!(pair.room(1, at(0)), Room::Cold);
    let ask = pair.ask(false, at(0)).unwrap();
    assert_eq!((ask.need, ask.want, ask.opens, ask.spent), (5, 6, true, 0));
    assert_eq!(pair.ask(true, at(SECOND / 2)), None, "one message at a time");
    pair.grant(&ask, 0, at(SECOND / 2));
    assert_eq!(pair.room(5, at(SECOND / 2)), Room::Enough(5));
    pair.purse.take(5, at(SECOND / 2));
    assert_eq!(pair.room(1, at(SECOND / 2)), Room::Cold);
}

#[test]
fn a_lease_is_void_before_it_ends_on_the_engine_by_either_clock() {
    let mut pair = Pair::holding(rate(600), 100, at(0));
    let last = LASTS - LASTS / 500 - 1;
    assert_eq!(pair.room(1, at(last)), Room::Enough(1));
    assert_eq!(pair.room(1, Now { mono: last, unix: at(last + 1).unix }), Room::Cold);
    assert_eq!((pair.purse.free(), pair.purse.returned), (0, 100), "it is given back, not spent");
    let ask = pair.ask(false, at(last)).unwrap();
    assert_eq!((ask.returned, ask.lease, ask.opens), (100, 1, false), "the lease goes on");
}

#[test]
fn what_an_answer_takes_too_long_to_bring_is_void_when_it_comes() {
    let mut pair = Pair::new(rate(600));
    pair.room(1, at(0));
    let ask = pair.ask(false, at(0)).unwrap();
    pair.grant(&ask, 9, at(LASTS));
    assert_eq!(pair.purse.free(), 0);
}

#[test]
fn what_the_engine_takes_for_spent_is_given_back_to_it_and_not_spent_again() {
    let mut pair = Pair::holding(rate(600), 10, at(0));
    pair.purse.take(8, at(0));
    pair.purse.give_back(3);
    assert_eq!(pair.purse.free(), 5, "nobody was told that it was spent");
    pair.ask(true, at(7 * SECOND)).unwrap();
    pair.purse.give_back(2);
    assert_eq!((pair.purse.free() <= pair.purse.counted, pair.purse.returned > 0), (true, true));
}

#[test]
fn a_debt_that_is_paid_while_it_is_told_is_not_spent_again() {
    let mut pair = Pair::holding(rate(600), 10, at(0));
    pair.purse.take(10, at(0));
    pair.purse.charge(4, at(0));
    let ask = pair.ask(true, at(BEAT)).unwrap();
    pair.purse.give_back(9);
    let answer = Answer { granted: Some(14), available: 0, others: 0, wait_ms: 0 };
    pair.purse.answered(ask.seq, answer, LASTS, at(BEAT));
    assert_eq!((pair.purse.free(), pair.purse.returned), (0, 9));
}

#[test]
fn a_lease_that_the_engine_has_forgotten_begins_anew_with_what_was_spent() {
    for (terms, expected) in [(rate(600), 600), (Terms::of_stock(Kind::Budget, 5_000), 800)] {
        let mut pair = Pair::holding(terms, 900, at(0));
        match terms.kind {
            Kind::Budget => pair.purse.set_spent(800, 0),
            _ => pair.purse.take(800, at(0)),
        }
        let ask = pair.ask(true, at(7 * SECOND)).unwrap();
        pair.purse.answered(
            ask.seq,
            Answer { granted: None, available: 0, others: 0, wait_ms: 0 },
            LASTS,
            at(7 * SECOND),
        );
        let ask = pair.ask(true, at(7 * SECOND)).unwrap();
        assert_eq!((ask.lease, ask.spent, ask.returned), (ask.seq, expected, 0));
    }
}

#[test]
fn a_message_that_begins_a_lease_and_is_not_answered_is_sent_again_as_the_same_lease() {
    let mut pair = Pair::new(rate(600));
    pair.purse.give_back(3);
    let first = pair.ask(true, at(0)).unwrap();
    assert!(pair.purse.unanswered(first.seq));
    let again = pair.ask(true, at(BEAT)).unwrap();
    assert_eq!((again.lease, again.opens, again.returned), (first.lease, true, 3));
    assert!(again.seq > first.seq);
}

#[test]
fn an_idle_purse_is_returned_and_forgotten_and_a_recalled_one_at_the_next_look() {
    let mut pair = Pair::holding(rate(600), 10, at(0));
    pair.purse.recall();
    let ask = pair.ask(true, at(BEAT)).unwrap();
    assert_eq!((ask.returned, ask.closes), (10, true));
    pair.purse.answered(ask.seq, Answer { granted: Some(10), available: 9, others: 0, wait_ms: 0 }, LASTS, at(BEAT));
    assert!(!pair.purse.is_forgettable(at(BEAT)) && pair.purse.is_forgettable(at(SECOND)));
    let mut pair = Pair::holding(rate(600), 10, at(0));
    assert!(pair.ask(true, at(SECOND)).unwrap().closes);
}

#[test]
fn the_last_of_a_budget_is_for_one_request_alone() {
    let terms = Terms::of_stock(Kind::Budget, 100);
    let demand = Demand { need: 50, least: 1, may_share: false };
    let mut pair = Pair::new(terms);
    assert_eq!(pair.purse.room(terms, demand, None, at(0)), Room::Cold);
    let ask = pair.ask(false, at(0)).unwrap();
    assert_eq!((ask.need, ask.least), (50, 1));
    let last = |wait_ms| Answer { granted: Some(20), available: 0, others: 0, wait_ms };
    let mut refused = pair.purse.clone();
    refused.answered(ask.seq, last(-1), LASTS, at(0));
    assert!(matches!(refused.room(terms, demand, None, at(0)), Room::Refused(_)), "others have some of it");
    pair.purse.answered(ask.seq, last(0), LASTS, at(0));
    assert_eq!(pair.purse.room(terms, demand, None, at(0)), Room::Enough(20));
    pair.purse.set_spent(20, 20);
    assert_eq!(pair.purse.room(terms, demand, None, at(0)), Room::Cold);
    assert_eq!(pair.ask(false, at(0)).unwrap().least, 50, "while that is in flight all is needed");
}

#[test]
fn an_outage_is_what_the_operator_says() {
    let out = |policy| Some(Outage { policy, nodes: 3 });
    let mut pair = Pair::holding(rate(600), 10, at(0));
    let (one, five) = (Demand::all(1), Demand::all(5));
    assert_eq!(pair.purse.room(pair.terms, five, out(OnOutage::Closed), at(0)), Room::Enough(5), "it holds that");
    let now = at(LASTS);
    assert_eq!(pair.purse.room(pair.terms, one, out(OnOutage::Closed), now), Room::OutOfReach);
    assert_eq!(pair.purse.room(pair.terms, one, out(OnOutage::Open), now), Room::Enough(1));
    // 600 a minute of three nodes: 10 in three seconds; it begins empty.
    assert!(matches!(pair.purse.room(pair.terms, one, out(OnOutage::Share), now), Room::Refused(_)));
    let later = at(LASTS + 3 * SECOND);
    assert_eq!(pair.purse.room(pair.terms, Demand::all(10), out(OnOutage::Share), later), Room::Enough(10));
    pair.purse.take(10, later);
    assert!(matches!(pair.purse.room(pair.terms, one, out(OnOutage::Share), later), Room::Refused(_)));
    assert_eq!(pair.purse.free(), -10, "a debt");
    let slots = Terms::of_stock(Kind::Slots, 7);
    let mut purse = Purse::new(slots, now);
    purse.set_spent(1, 1);
    assert_eq!(purse.room(slots, one, out(OnOutage::Share), now), Room::Enough(1));
    purse.set_spent(2, 2);
    assert!(matches!(purse.room(slots, one, out(OnOutage::Share), now), Room::Refused(_)));
}

proptest! {
    /// Whatever happens: what is let through was free, what is free the engine counts, no number goes back.
    #[test]
    fn nothing_is_spent_that_was_not_granted(steps in proptest::collection::vec((0u8..8, 0i64..40, 0u64..900), 1..200)) {
        let mut pair = Pair::new(rate(100));
        let (mut now, mut taken, mut open) = (0, 0, None::<Ask>);
        for (what, units, wait) in steps {
            now += wait * MILLISECOND;
            let time = at(now);
            match what {
                0..3 => if let Room::Enough(units) = pair.room(units, time) {
                    prop_assert!(units <= pair.purse.free().max(0));
                    pair.purse.take(units, time);
                    taken += units;
                },
                3 => {
                    pair.purse.give_back(units.min(taken));
                    taken -= units.min(taken);
                }
                4 => pair.purse.charge(units, time),
                5 => if let Some(ask) = pair.ask(true, time) {
                    let is_next = open.as_ref().is_none_or(|last| {
                        last.lease != ask.lease || ask.returned >= last.returned && ask.seq > last.seq
                    });
                    prop_assert!(is_next, "{:?} after {:?}", ask, open);
                    open = Some(ask);
                },
                6 => if let Some(ask) = &open {
                    let granted = if pair.purse.is_open && pair.purse.lease == ask.lease { pair.purse.granted } else { 0 };
                    let debt = (ask.spent + ask.returned - granted).max(0);
                    let answer = Answer { granted: Some(granted + debt + units), available: 0, others: 0, wait_ms: units % 2 };
                    pair.purse.answered(ask.seq, answer, LASTS, time);
                },
                _ => {
                    pair.purse.look();
                    pair.purse.recall();
                }
            }
            let purse = &pair.purse;
            prop_assert!(purse.free() <= purse.counted.max(0), "{:?}", purse);
        }
    }
}
