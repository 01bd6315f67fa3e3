//! Spending against the rows of a ledger, whatever the clock does and whenever the sums come.

use super::*;
use crate::base::civil::days_from_civil;
use proptest::prelude::*;

fn at(month: u64, day: u64, hour: u64) -> u64 {
    days_from_civil(2026, month, day) as u64 * DAY + hour * DAY / 24
}

/// The rows of a ledger, and the process that charges them.
#[derive(Default)]
struct World {
    spending: Spending,
    rows: Vec<(Arc<str>, Cost)>,
}

impl World {
    /// Followed, and known to be nothing until now.
    fn known(now: u64) -> Self {
        let mut world = Self::default();
        world.spending.follow(true);
        world.load(now);
        world
    }

    fn charge(&mut self, user: &str, started_at: u64, nano_usd: i64, now: u64) {
        let cost = Cost { seq: self.rows.len() as u64 + 1, started_at, nano_usd };
        self.rows.push((user.into(), cost));
        self.spending.charge(user.into(), cost, now);
    }

    /// What a user has spent, by the first rows.
    fn spent(&self, rows: usize, user: &str, now: u64) -> Spent {
        let present = Period::of(now);
        let mine = || self.rows[..rows].iter().filter(|(owner, _)| **owner == *user).map(|(_, cost)| cost);
        let sum = |counts: &dyn Fn(Period) -> bool| {
            mine().filter(|cost| counts(Period::of(cost.started_at))).map(|cost| cost.nano_usd.unsigned_abs()).sum()
        };
        Spent { day: sum(&|began| began.day == present.day), month: sum(&|began| began.month == present.month) }
    }

    /// The ledger's sums of its first rows.
    fn sums(&self, rows: usize, now: u64) -> SpendSums {
        let period = Period::of(now);
        let later = |(_, cost): &(Arc<str>, Cost)| {
            Some(day_of(cost.started_at)).filter(|&day| day > period.day && cost.nano_usd > 0)
        };
        let users = USERS.map(|user| (Arc::from(user), self.spent(rows, user, now)));
        SpendSums {
            period,
            upto_seq: rows as u64,
            next_day: self.rows[..rows].iter().filter_map(later).min(),
            users: users.into_iter().filter(|(_, spent)| *spent != Spent::default()).collect(),
            ..SpendSums::default()
        }
    }

    /// The ledger is asked, and its answer arrives at once.
    fn load(&mut self, now: u64) {
        assert_eq!(self.spending.wants(now), Some(Period::of(now)));
        self.spending.load(self.sums(self.rows.len(), now), now);
        assert_eq!(self.spending.wants(now), None);
    }

    fn expect(&mut self, now: u64, spent: Spent) {
        assert_eq!(
            (self.spending.of(LimitLevel::User, "a".into(), now), self.spent(self.rows.len(), "a", now)),
            (Some(spent), spent)
        );
    }
}

const USERS: [&str; 2] = ["a", "b"];

#[test]
fn a_day_and_a_month_begin_with_nothing_and_without_a_question() {
    let mut world = World::known(at(1, 30, 1));
    world.charge("a", at(1, 30, 1), 5, at(1, 30, 1));
    world.charge("a", at(1, 30, 23), 2, at(1, 30, 23));
    world.expect(at(1, 30, 23), Spent { day: 7, month: 7 });
    world.expect(at(1, 31, 0), Spent { day: 0, month: 7 });
    world.charge("a", at(1, 30, 23), 3, at(1, 31, 0));
    world.charge("a", at(1, 31, 0), 1, at(1, 31, 0));
    world.expect(at(1, 31, 1), Spent { day: 1, month: 11 }); // what began yesterday is yesterday's
    world.expect(at(2, 1, 0), Spent::default());
    world.charge("a", at(1, 31, 23), 9, at(2, 1, 0));
    world.expect(at(2, 1, 0), Spent::default());
    assert_eq!(world.spending.users(), 0, "nobody has spent anything this month");
}

#[test]
fn a_correction_gives_back_in_the_day_in_which_the_request_began() {
    let (yesterday, today) = (at(3, 2, 9), at(3, 3, 9));
    let mut world = World::known(yesterday);
    world.charge("a", yesterday, 50, yesterday);
    world.charge("a", today, 7, today);
    world.charge("a", yesterday, -40, today);
    assert_eq!(world.spending.of(LimitLevel::User, "a".into(), today), Some(Spent { day: 7, month: 17 }));
    world.charge("a", today, -5, today);
    assert_eq!(world.spending.of(LimitLevel::User, "a".into(), today), Some(Spent { day: 2, month: 12 }));
    // More than is known of, as where another process has charged it: never below nothing.
    world.charge("a", today, -100, today);
    assert_eq!(world.spending.of(LimitLevel::User, "a".into(), today), Some(Spent::default()));
}

#[test]
fn one_look_at_a_clock_that_was_ahead_opens_no_budget() {
    let mut world = World::known(at(3, 1, 0));
    world.charge("a", at(3, 1, 0), 5, at(3, 1, 0));
    for days_ahead in [1, 40, 400] {
        let ahead = at(3, 1, 0) + days_ahead * DAY;
        if world.spending.wants(ahead).is_some() {
            world.load(ahead); // it was ahead before, by less
        }
        world.charge("a", ahead, 2, ahead);
        world.expect(ahead, Spent { day: 2, month: if days_ahead == 1 { 7 } else { 2 } });
        assert_eq!(
            world.spending.of(LimitLevel::User, "a".into(), at(3, 1, 1)),
            None,
            "what was spent today is asked for, not taken for zero"
        );
        world.charge("a", at(3, 1, 1), 7, at(3, 1, 1));
        world.load(at(3, 1, 1));
        world.charge("a", at(3, 1, 1), 7, at(3, 1, 1));
        let spent = world.spent(world.rows.len(), "a", at(3, 1, 1));
        world.expect(at(3, 1, 1), spent);
    }
    world.expect(at(3, 1, 2), Spent { day: 47, month: 49 });
}

#[test]
fn a_day_that_was_used_too_early_is_asked_for_when_it_comes() {
    let mut world = World::known(at(3, 1, 0));
    world.charge("a", at(3, 3, 0), 4, at(3, 1, 0)); // the clock went back while the request was under way
    world.expect(at(3, 1, 0), Spent { day: 0, month: 4 });
    world.expect(at(3, 2, 0), Spent { day: 0, month: 4 });
    assert_eq!(world.spending.of(LimitLevel::User, "a".into(), at(3, 3, 0)), None);
    let mut before = World { rows: world.rows.clone(), ..World::default() };
    before.spending.follow(true);
    before.load(at(2, 27, 0));
    before.expect(at(2, 28, 0), Spent::default());
    assert_eq!(
        before.spending.of(LimitLevel::User, "a".into(), at(3, 1, 0)),
        None,
        "not that day, but its month was used"
    );
    world.load(at(3, 3, 0));
    world.expect(at(3, 3, 0), Spent { day: 4, month: 4 });
    // The same where only the ledger knows: the process began after the clock was mended.
    let mut later = World { rows: world.rows, ..World::default() };
    later.spending.follow(true);
    later.load(at(3, 2, 0));
    later.expect(at(3, 2, 0), Spent { day: 0, month: 4 });
    assert_eq!(later.spending.of(LimitLevel::User, "a".into(), at(3, 3, 0)), None);
}

#[test]
fn a_clock_that_steps_back_gives_nothing_twice() {
    let mut world = World::known(at(2, 28, 23));
    world.charge("a", at(2, 28, 23), 3, at(2, 28, 23));
    world.charge("a", at(3, 1, 0), 5, at(3, 1, 0));
    assert_eq!(world.spending.of(LimitLevel::User, "a".into(), at(2, 28, 23)), None);
    world.load(at(2, 28, 23));
    world.expect(at(2, 28, 23), Spent { day: 3, month: 3 });
    assert_eq!(world.spending.of(LimitLevel::User, "a".into(), at(3, 1, 0)), None, "something is spent there already");
    world.load(at(3, 1, 0));
    world.expect(at(3, 1, 0), Spent { day: 5, month: 5 });
}

/// It is in no sum of the ledger's: not in those that are asked for because the clock has gone back, either.
#[test]
fn what_is_forfeited_stays_spent_whatever_sums_come() {
    let (now, later) = (at(2, 27, 23), at(2, 28, 0));
    let mut world = World::known(now);
    let cost = |nano_usd, started_at| Cost { seq: 0, started_at, nano_usd };
    world.charge("a", now, 3, now);
    world.spending.forfeit("a".into(), cost(5, now), now);
    world.spending.forfeit("a".into(), cost(7, later), later);
    assert_eq!(world.spending.of(LimitLevel::User, "a".into(), later), Some(Spent { day: 7, month: 15 }));
    assert_eq!(world.spending.of(LimitLevel::User, "a".into(), now), None);
    world.spending.forfeit("a".into(), cost(1, now), now);
    world.load(now);
    assert_eq!(world.spending.of(LimitLevel::User, "a".into(), now), Some(Spent { day: 9, month: 16 }));
    world.load(later);
    assert_eq!(world.spending.of(LimitLevel::User, "a".into(), later), Some(Spent { day: 7, month: 16 }));
}

#[test]
fn what_settles_while_the_sum_is_on_its_way_is_charged_once() {
    let now = at(5, 5, 5);
    let mut world = World::default();
    world.charge("a", now, 1, now); // nobody has a budget
    world.spending.follow(true);
    assert_eq!(world.spending.of(LimitLevel::User, "a".into(), now), None);
    world.charge("a", now, 2, now);
    let sums = world.sums(2, now);
    world.charge("a", now, 4, now);
    world.charge("b", now, 8, now);
    world.spending.load(world.sums(0, now), now);
    assert_eq!(
        world.spending.of(LimitLevel::User, "a".into(), now),
        None,
        "a sum without the first charge, which nobody has kept"
    );
    world.spending.load(world.sums(2, now - DAY), now);
    assert_eq!(world.spending.of(LimitLevel::User, "a".into(), now), None, "yesterday's");
    world.spending.load(sums, now);
    world.expect(now, Spent { day: 7, month: 7 });
    assert_eq!(world.spending.of(LimitLevel::User, "b".into(), now), Some(Spent { day: 8, month: 8 }));
    world.spending.load(world.sums(4, now), now);
    world.expect(now, Spent { day: 7, month: 7 }); // nobody has asked for that
    world.spending.follow(false);
    assert_eq!((world.spending.users(), world.spending.wants(now)), (0, None));
}

#[test]
fn charges_are_kept_only_until_their_commit() {
    let now = at(5, 5, 5);
    let mut world = World::default();
    world.spending.follow(true);
    for _ in 0..1000 {
        world.charge("a", now, 1, now);
        world.spending.committed(world.rows.len() as u64 - 1);
        assert_eq!(world.spending.uncommitted.len(), 1);
    }
    world.spending.load(world.sums(998, now), now);
    assert_eq!(world.spending.of(LimitLevel::User, "a".into(), now), None, "it came before what is committed by now");
    world.spending.load(world.sums(999, now), now);
    world.expect(now, Spent { day: 1000, month: 1000 });
}

/// One step of a random life.
#[derive(Clone, Debug)]
enum Step {
    /// A request that began so many days ago, by the clock then, settles.
    Charge { user: usize, days_ago: i64, nano_usd: i64 },
    /// The clock is set.
    Clock { days: i64 },
    /// The ledger commits so many of the records that wait, in percent.
    Commit { percent: usize },
    /// The ledger sums up what it has, for the period that is wanted.
    Sum,
    /// The oldest sum arrives.
    Arrive,
    /// Somebody has a budget, or nobody.
    Follow(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..2, -2i64..3, 0i64..10)
            .prop_map(|(user, days_ago, nano_usd)| Step::Charge { user, days_ago, nano_usd }),
        2 => (-40i64..45).prop_map(|days| Step::Clock { days: days / 10 * days.abs() / 10 }),
        3 => (0usize..101).prop_map(|percent| Step::Commit { percent }),
        3 => Just(Step::Sum),
        3 => Just(Step::Arrive),
        1 => any::<bool>().prop_map(Step::Follow),
    ]
}

proptest! {
    /// Whatever the clock does and whenever sums are made and come: what is known is exactly what the rows say, what is
    /// not known is wanted, and is known once the ledger has committed all and answered.
    #[test]
    fn what_is_known_is_the_sum_of_all_rows(steps in proptest::collection::vec(step(), 1..200)) {
        let mut world = World::default();
        let (mut day, mut committed, mut followed) = (days_from_civil(2026, 3, 1), 0, false);
        let mut sums: VecDeque<(usize, SpendSums)> = VecDeque::new();
        let end = [Step::Follow(true), Step::Commit { percent: 100 }];
        let drained = (0..2000).flat_map(|_| [Step::Sum, Step::Arrive]);
        for step in steps.into_iter().chain(end).chain(drained.take(410)) {
            let now = day as u64 * DAY + 5;
            match step {
                Step::Charge { user, days_ago, nano_usd } => {
                    world.charge(USERS[user], (day - days_ago) as u64 * DAY, nano_usd, now);
                }
                Step::Clock { days } => day += days,
                Step::Commit { percent } => committed += (world.rows.len() - committed) * percent / 100,
                Step::Sum => if world.spending.wants(now).is_some() {
                    sums.push_back((committed, world.sums(committed, now)));
                },
                Step::Arrive => if let Some((committed_then, sum)) = sums.pop_front() {
                    world.spending.committed(committed_then as u64); // the ledger has said so before
                    world.spending.load(sum, now);
                },
                Step::Follow(wanted) => {
                    followed = wanted;
                    world.spending.follow(wanted);
                }
            }
            let now = day as u64 * DAY + 5;
            for user in USERS {
                let known = world.spending.of(LimitLevel::User, user.into(), now);
                prop_assert_eq!(known.is_none() && followed, world.spending.wants(now).is_some());
                if let Some(known) = known {
                    prop_assert_eq!(known, world.spent(world.rows.len(), user, now));
                }
            }
        }
        prop_assert_eq!(world.spending.wants(day as u64 * DAY + 5), None);
    }
}
