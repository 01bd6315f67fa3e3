//! Each limit alone, and all of them over any interleaving of requests.

use super::*;
use crate::base::clock::{MILLISECOND, SECOND};
use crate::limit::bucket::Rate;
use crate::limit::budget::Spent;
use crate::limit::status::{BucketStatus, Limit};
use proptest::prelude::*;
use std::collections::VecDeque;

const RATE: Rate = Rate { per_minute: 600, burst: 3 };
const PLAIN: ReservationRequest = ReservationRequest { tokens: 0, guessed: false, money: None };

fn at(mono: u64) -> Now {
    Now { mono, unix: 1_800_000_000 * SECOND + mono }
}

fn of_user(user: &str, own: Overrides) -> Levels<Overrides> {
    let mut overrides = Levels::default();
    overrides.set(LimitLevel::User, user, own);
    overrides
}

fn requests(rate: Rate) -> Limiter {
    Limiter::new(Limits { requests: Some(rate), ..Limits::default() }, Limits::default())
}

fn tokens(per_minute: u64) -> Limiter {
    let limits = Limits { tokens: Some(Rate { per_minute, burst: per_minute }), ..Limits::default() };
    Limiter::new(limits, Limits::default())
}

/// Limits with a budget of which nothing is spent.
fn unspent(limits: Limits) -> Limiter {
    let mut limiter = Limiter::new(limits, Limits::default());
    load(&mut limiter, 0, &[]);
    limiter
}

/// The ledger's sums come, in which this process's records up to `upto_seq` are.
fn load(limiter: &mut Limiter, upto_seq: u64, users: &[(&str, Spent)]) {
    let period = limiter.wants_spending(at(0)).expect("somebody has a budget");
    let users = users.iter().map(|&(user, spent)| (user.into(), spent)).collect();
    limiter.load(SpendSums { period, upto_seq, users, ..SpendSums::default() }, at(0));
    assert_eq!(limiter.wants_spending(at(0)), None);
}

/// What the client says that a request costs at most.
fn money(nano_usd: u64) -> ReservationRequest {
    let money = Money { nano_usd, least_nano_usd: nano_usd, may_share: false };
    ReservationRequest { money: Some(money), ..PLAIN }
}

/// What it may cost at worst, where the client says nothing; or usually, where `may_share`.
fn guess(nano_usd: u64, may_share: bool) -> ReservationRequest {
    ReservationRequest { money: Some(Money { nano_usd, least_nano_usd: 0, may_share }), ..PLAIN }
}

fn request(tokens: u64) -> ReservationRequest {
    ReservationRequest { tokens, ..PLAIN }
}

#[test]
fn each_user_has_a_bucket_of_their_own() {
    let mut limiter = requests(RATE);
    let mut grants = Vec::new();
    for remaining in [2, 1, 0] {
        let name: Arc<str> = limiter.name("a");
        let (reservation, limit_status) = limiter.admit(&name, PLAIN, at(5)).unwrap();
        assert_eq!((&*name, limit_status.requests.unwrap().remaining), ("a", remaining));
        grants.push(reservation);
    }
    let refused = limiter.admit("a", PLAIN, at(5)).unwrap_err();
    assert_eq!((refused.limit, refused.retry_after), (Limit::Requests, Some(SECOND / 10)));
    assert_eq!(refused.limit_status.requests, Some(BucketStatus { limit: 3, remaining: 0, reset: 3 * SECOND / 10 }));
    assert_eq!(limiter.check("a", true, at(5)), Err(refused));
    assert!(limiter.admit("b", PLAIN, at(5)).is_ok(), "another user is not concerned");
    assert_eq!(limiter.outstanding(), (4, 0));
    limiter.withdraw("a", grants.pop().unwrap(), at(5));
    assert_eq!(limiter.check("a", true, at(5)), Ok(()), "what was withdrawn is there again");
    limiter.release("a", grants.pop().unwrap(), at(5));
    assert_eq!(limiter.outstanding(), (2, 0));
}

#[test]
fn no_limit_admits_everybody_and_remembers_nobody() {
    let mut limiter = Limiter::new(Limits::default(), Limits::default());
    for user in 0..1000 {
        let (reservation, limit_status) = limiter.admit(&*user.to_string(), request(u64::MAX), at(0)).unwrap();
        assert_eq!(limit_status, RateLimitStatus::default());
        limiter.release(&*user.to_string(), reservation, at(0));
    }
    assert_eq!((limiter.users(), limiter.sweep_due()), ((0, 0), None));
}

#[test]
fn users_with_full_buckets_are_evicted() {
    let mut limiter = requests(RATE);
    let (mut now, mut most) = (0, 0);
    for user in 0..100_000 {
        let name = limiter.name(&user.to_string());
        let (reservation, _) = limiter.admit(&name, PLAIN, at(now)).unwrap();
        limiter.release(&name, reservation, at(now));
        most = most.max(limiter.users().0);
        now += SECOND / 1000;
    }
    // One token flows in within 100 ms, in which 100 users ask: nobody has to be remembered beyond the few.
    assert!(most <= USERS_FEW + 1, "{most}");
    assert_eq!(limiter.users().0, limiter.accounts.eviction_queue.len());
    let (reservation, _) = limiter.admit("long", PLAIN, at(now)).unwrap();
    (0..2).for_each(|_| limiter.sweep(now + SECOND));
    assert_eq!(limiter.users().0, 1, "who has a request in flight is needed");
    limiter.release("long", reservation, at(now));
    limiter.sweep(now + SECOND);
    assert_eq!(limiter.users(), (0, 0));
}

#[test]
fn a_crowd_is_evicted_without_further_requests() {
    let mut limiter = requests(RATE);
    for user in 0..100_000 {
        let name = limiter.name(&user.to_string());
        let (reservation, _) = limiter.admit(&name, PLAIN, at(0)).unwrap();
        limiter.release(&name, reservation, at(0));
    }
    assert_eq!(limiter.users().0, 100_000);
    let mut last = 0;
    while let Some(due) = limiter.sweep_due() {
        assert!(due > last);
        last = due;
        limiter.sweep(due);
    }
    assert_eq!(limiter.users().0, USERS_FEW);
}

#[test]
fn tokens_are_reserved_and_settled_to_the_truth() {
    let mut limiter = tokens(100);
    let refused = limiter.admit("a", request(663), at(0)).unwrap_err();
    assert_eq!((refused.limit, refused.requested, refused.retry_after), (Limit::Tokens, 663, None));
    let name: Arc<str> = limiter.name("a");
    let (reservation, limit_status) = limiter.admit(&name, request(60), at(0)).unwrap();
    assert_eq!(limit_status.tokens.unwrap().remaining, 40);
    assert_eq!(limiter.admit("a", request(41), at(0)).unwrap_err().retry_after, Some(600 * MILLISECOND));
    limiter.charge(&name, Used { tokens: 10, ..Used::default() }, at(0));
    limiter.release("a", reservation, at(0));
    let (reservation, limit_status) = limiter.admit("a", request(90), at(0)).unwrap();
    assert_eq!(limit_status.tokens.unwrap().remaining, 0);
    limiter.charge(&name, Used { tokens: 150, ..Used::default() }, at(0));
    limiter.release("a", reservation, at(0));
    let refused = limiter.check("a", true, at(0)).unwrap_err();
    assert_eq!(refused.retry_after, Some(36_600 * MILLISECOND), "60 of debt are repaid first, and the one");
    assert!(limiter.admit("a", PLAIN, at(0)).is_ok(), "what needs no tokens does not wait for them");
}

#[test]
fn a_guess_is_cut_to_what_could_ever_be_there() {
    let mut limiter = tokens(100);
    let guess = ReservationRequest { tokens: 663, guessed: true, ..PLAIN };
    let (_reservation, limit_status) = limiter.admit("a", guess, at(0)).unwrap();
    assert_eq!(limit_status.tokens.unwrap().remaining, 0);
    assert_eq!(limiter.admit("a", guess, at(0)).unwrap_err().retry_after, Some(60 * SECOND));
}

#[test]
fn the_average_follows_outputs() {
    let mut limiter = tokens(1000);
    assert_eq!(limiter.average_output("a"), None);
    let name: Arc<str> = limiter.name("a");
    let (_reservation, _) = limiter.admit(&name, request(1), at(0)).unwrap();
    for (output, average) in [(80, 80), (160, 90), (0, 78)] {
        limiter.charge(&name, Used { output_tokens: Some(output), ..Used::default() }, at(0));
        assert_eq!(limiter.average_output("a"), Some(average));
    }
    assert_eq!(limiter.measures("a"), Measures { tokens: true, cost: false });
    assert_eq!(requests(RATE).measures("a"), Measures { tokens: false, cost: false });
}

#[test]
fn requests_in_flight_are_bounded() {
    let mut limiter = Limiter::new(Limits { concurrent: Some(2), ..Limits::default() }, Limits::default());
    let (first, _) = limiter.admit("a", PLAIN, at(0)).unwrap();
    let (_second, limit_status) = limiter.admit("a", PLAIN, at(0)).unwrap();
    assert_eq!(limit_status, RateLimitStatus::default());
    assert_eq!(limiter.admit("a", PLAIN, at(0)).unwrap_err().limit, Limit::Concurrent);
    limiter.release("a", first, at(0));
    assert!(limiter.admit("a", PLAIN, at(0)).is_ok());
}

#[test]
fn a_budget_counts_what_is_in_flight() {
    let mut limiter = unspent(Limits { day_nano_usd: Some(100), month_nano_usd: Some(150), ..Limits::default() });
    let name: Arc<str> = limiter.name("a");
    let (first, _) = limiter.admit(&name, money(70), at(0)).unwrap();
    let refused = limiter.admit("a", money(31), at(0)).unwrap_err();
    assert_eq!((refused.limit, refused.retry_after), (Limit::BudgetDay, Some(SECOND)), "it may fit once that is over");
    assert_eq!(limiter.admit("a", money(101), at(0)).unwrap_err().retry_after, None, "this never will");
    let (second, _) = limiter.admit("a", guess(1000, true), at(0)).unwrap();
    assert_eq!(limiter.outstanding(), (2, 100), "an average takes what is left");
    assert_eq!(limiter.check("a", true, at(0)).unwrap_err().retry_after, Some(SECOND));
    assert!(limiter.admit("a", PLAIN, at(0)).is_ok(), "what costs nothing is not refused for money");
    let cost = |nano_usd| Cost { seq: 1, started_at: at(0).unix, nano_usd };
    let used = |nano_usd| Used { cost: cost(nano_usd), ..Used::default() };
    limiter.charge(&name, used(60), at(0));
    limiter.release("a", first, at(0));
    limiter.charge(&name, used(40), at(0));
    limiter.release("a", second, at(0));
    let refused = limiter.check("a", true, at(0)).unwrap_err();
    assert_eq!((refused.limit, refused.requested, refused.retry_after), (Limit::BudgetDay, 0, None));
    let tomorrow = at(86_400 * SECOND);
    let refused = limiter.admit("a", money(51), tomorrow).unwrap_err();
    assert_eq!(refused.limit, Limit::BudgetMonth);
    assert!(limiter.admit("a", money(50), tomorrow).is_ok());
}

/// Without a maximum the worst is taken. One request may begin as long as anything is left, and only one.
#[test]
fn together_no_more_is_held_than_is_left() {
    let mut limiter = unspent(Limits { day_nano_usd: Some(100), ..Limits::default() });
    let name: Arc<str> = limiter.name("a");
    let (first, _) = limiter.admit(&name, guess(60, false), at(0)).unwrap();
    let refused = limiter.admit(&name, guess(41, false), at(0)).unwrap_err();
    assert_eq!((refused.limit, refused.retry_after), (Limit::BudgetDay, Some(SECOND)), "it could spend more");
    let (second, _) = limiter.admit(&name, guess(40, false), at(0)).unwrap();
    limiter.release("a", first, at(0));
    limiter.release("a", second, at(0));
    let used = Used { cost: Cost { seq: 1, started_at: at(0).unix, nano_usd: 99 }, ..Used::default() };
    limiter.charge(&name, used, at(0));
    let (last, _) = limiter.admit(&name, guess(u64::MAX, false), at(0)).expect("something is left");
    assert_eq!(limiter.outstanding(), (1, 1));
    assert!(limiter.admit(&name, guess(1, true), at(0)).is_err());
    // Nobody knows what it took: what it held is spent.
    limiter.forfeit(&name, last, Cost { seq: 2, started_at: at(0).unix, nano_usd: 0 }, at(0));
    let refused = limiter.admit(&name, guess(1, false), at(0)).unwrap_err();
    assert_eq!((refused.limit, refused.retry_after), (Limit::BudgetDay, None), "all is spent");
    assert!(limiter.admit(&name, PLAIN, at(0)).is_ok(), "what costs nothing is not refused for money");
}

/// Less was left of the day than it may cost; the month is told of all of it.
#[test]
fn what_nobody_knows_costs_its_worst_though_less_was_held() {
    let mut limiter = unspent(Limits { day_nano_usd: Some(100), month_nano_usd: Some(1000), ..Limits::default() });
    let name: Arc<str> = limiter.name("a");
    let (only, _) = limiter.admit(&name, guess(700, false), at(0)).unwrap();
    assert_eq!((only.nano_usd(), only.worst_nano_usd()), (100, 700));
    limiter.forfeit(&name, only, Cost { seq: 1, started_at: at(0).unix, nano_usd: 0 }, at(0));
    let tomorrow = at(86_400 * SECOND);
    let (next, _) = limiter.admit(&name, guess(100, false), tomorrow).unwrap();
    limiter.release("a", next, tomorrow);
    assert_eq!(limiter.spent(LimitLevel::User, "a").map(|spent| spent.month), Some(700));
}

/// One absurd number must not shut its user out for days.
#[test]
fn one_report_makes_no_more_debt_than_an_hour_repays() {
    let mut limiter = tokens(100);
    let name: Arc<str> = limiter.name("a");
    let (reservation, _) = limiter.admit(&name, request(1), at(0)).unwrap();
    limiter.charge(&name, Used { tokens: u64::MAX, ..Used::default() }, at(0));
    limiter.release("a", reservation, at(0));
    let refused = limiter.check("a", true, at(0)).unwrap_err();
    assert!(refused.retry_after.unwrap() <= 3600 * SECOND, "{refused:?}");
    assert!(limiter.check("a", true, at(3600 * SECOND)).is_ok());
}

#[test]
fn limits_change_for_the_next_request_only() {
    let mut limiter = requests(RATE);
    let name: Arc<str> = limiter.name("a");
    let (old, _) = limiter.admit(&name, PLAIN, at(0)).unwrap();
    let own = Overrides { rpm: Some(0), tpm: Some(50), ..Overrides::default() };
    limiter.set_overrides(of_user("a", own));
    let (reservation, limit_status) = limiter.admit("a", request(20), at(0)).unwrap();
    assert_eq!((limit_status.requests, limit_status.tokens.unwrap().remaining), (None, 30));
    limiter.charge(&name, Used { tokens: 20, ..Used::default() }, at(0));
    limiter.release("a", old, at(0));
    limiter.release("a", reservation, at(0));
    limiter.set_overrides(Levels::default());
    let (_reservation, limit_status) = limiter.admit("a", request(999), at(0)).unwrap();
    assert_eq!((limit_status.requests.unwrap().remaining, limit_status.tokens), (2, None), "a new bucket of requests");
    limiter.set_limits(Limits { day_nano_usd: Some(1), ..Limits::default() }, Limits::default());
    load(&mut limiter, 0, &[("a", Spent { day: 1, month: 1 })]);
    assert_eq!(limiter.admit("a", money(1), at(0)).unwrap_err().limit, Limit::BudgetDay);
    limiter.set_limits(Limits::default(), Limits::default());
    assert_eq!(limiter.users().1, 0, "spending is not followed for nobody");
}

/// A first budget is set, or the clock steps over midnight: until the ledger has said what is spent, only what costs
/// under a budget has to wait.
#[test]
fn a_budget_of_which_nobody_knows_what_is_spent_is_closed() {
    let mut limiter = requests(RATE);
    let money = money(1);
    assert_eq!((limiter.wants_spending(at(0)), limiter.check("a", true, at(0))), (None, Ok(())));
    let own = Overrides { day_nano_usd: Some(100), ..Overrides::default() };
    limiter.set_overrides(of_user("a", own));
    for (spent, seq) in [(99, 2), (100, 4)] {
        let refused = limiter.admit("a", money, at(0)).unwrap_err();
        assert_eq!((refused.limit, refused.retry_after), (Limit::BudgetUnknown, Some(SECOND)));
        assert_eq!(limiter.check("a", true, at(0)), Err(refused));
        let (reservation, _) = limiter.admit("a", PLAIN, at(0)).expect("what costs nothing is let through");
        limiter.withdraw("a", reservation, at(0));
        let (reservation, _) = limiter.admit("b", money, at(0)).expect("b has no budget");
        limiter.withdraw("b", reservation, at(0));
        // Charged while the sum is under way, and not in it.
        let cost = Cost { seq, started_at: at(0).unix, nano_usd: 1 };
        limiter.charge("a", Used { cost, ..Used::default() }, at(0));
        load(&mut limiter, seq - 1, &[("a", Spent { day: spent - 1, month: spent - 1 })]);
        let admitted = limiter.admit("a", money, at(0)).map_err(|refused| refused.limit);
        assert_eq!(admitted.as_ref().err(), (spent == 100).then_some(&Limit::BudgetDay));
        if let Ok((reservation, _)) = admitted {
            limiter.withdraw("a", reservation, at(0));
        }
        // Back over midnight: at(0) is 8 o'clock.
        let yesterday = Now { unix: at(0).unix - 9 * 3600 * SECOND, ..at(0) };
        assert_eq!(limiter.wants_spending(yesterday), Some(Period::of(yesterday.unix)));
    }
}

/// One step of a random life of requests.
#[derive(Clone, Debug)]
enum Step {
    Admit {
        user: usize,
        request: ReservationRequest,
    },
    /// The oldest in flight ends, having used this part of what it asked, in percent.
    Release {
        percent: u64,
    },
    Withdraw,
    Wait {
        mono: u64,
        unix_back: u64,
    },
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let money = (0u64..60, 0u64..30, any::<bool>()).prop_map(|(more, least_nano_usd, may_share)| Money {
        nano_usd: least_nano_usd + more,
        least_nano_usd,
        may_share,
    });
    let request = (0u64..400, proptest::option::of(money), any::<bool>())
        .prop_map(|(tokens, money, guessed)| ReservationRequest { tokens, money, guessed });
    prop_oneof![
        4 => (0usize..3, request).prop_map(|(user, request)| Step::Admit { user, request }),
        3 => (0u64..250).prop_map(|percent| Step::Release { percent }),
        1 => Just(Step::Withdraw),
        2 => (0u64..20 * SECOND, 0u64..SECOND).prop_map(|(mono, unix_back)| Step::Wait { mono, unix_back }),
        1 => Just(Step::Sweep),
    ]
}

proptest! {
    /// Whatever the interleaving: each user's reservations are those of the requests in flight, what was granted is
    /// within burst + rate × time and the excess of those that exceeded their estimates, money in flight and spent is
    /// within the budget and that excess, and in the end everything is given back.
    #[test]
    fn every_reservation_is_settled_once(steps in proptest::collection::vec(step(), 1..150)) {
        let (rpm, tpm) = (Rate { per_minute: 60, burst: 4 }, Rate { per_minute: 600, burst: 300 });
        let budget = 200;
        let limits = Limits {
            requests: Some(rpm), tokens: Some(tpm), concurrent: Some(3), day_nano_usd: Some(budget), month_nano_usd: None,
        };
        let names: [Arc<str>; 3] = ["a".into(), "b".into(), "c".into()];
        let mut limiter = unspent(limits);
        let mut now = at(0);
        let mut in_flight: VecDeque<(usize, ReservationRequest, Reservation)> = VecDeque::new();
        let (mut requests, mut used, mut spent, mut excess) = ([0u64; 3], [0u64; 3], [0u64; 3], [(0u64, 0u64); 3]);
        let mut steps = steps;
        steps.extend(std::iter::repeat_n(Step::Release { percent: 100 }, 9));
        for step in steps {
            match step {
                Step::Admit { user, request } => {
                    let before = limiter.outstanding();
                    match limiter.admit(&names[user], request, now) {
                        Ok((reservation, limit_status)) => {
                            prop_assert!(limit_status.requests.is_some() && limit_status.tokens.is_some());
                            requests[user] += 1;
                            in_flight.push_back((user, request, reservation));
                        }
                        Err(refused) => {
                            prop_assert_eq!(limiter.outstanding(), before, "refused, and took something");
                            prop_assert!(refused.limit.is_budget() || refused.retry_after != Some(0));
                        }
                    }
                }
                Step::Release { percent } => if let Some((user, request, reservation)) = in_flight.pop_front() {
                    let tokens = request.tokens * percent / 100;
                    let nano_usd = request.nano_usd() * percent / 100;
                    excess[user].0 += tokens.saturating_sub(reservation.tokens);
                    excess[user].1 += nano_usd.saturating_sub(reservation.nano_usd);
                    used[user] += tokens;
                    spent[user] += nano_usd;
                    let output_tokens = Some(tokens);
                    let cost = Cost { seq: 1, started_at: now.unix, nano_usd: nano_usd.cast_signed() };
                    let charged = Used { tokens, output_tokens, cost };
                    limiter.charge(&names[user], charged, now);
                    limiter.release(&names[user], reservation, now);
                },
                Step::Withdraw => if let Some((user, _, reservation)) = in_flight.pop_back() {
                    requests[user] -= 1;
                    limiter.withdraw(&names[user], reservation, now);
                },
                Step::Wait { mono, unix_back } => {
                    now = Now { mono: now.mono + mono, unix: now.unix + mono - unix_back.min(mono) };
                }
                Step::Sweep => limiter.sweep(now.mono),
            }
            let reserved: u64 = in_flight.iter().map(|(_, _, reservation)| reservation.nano_usd).sum();
            prop_assert_eq!(limiter.outstanding(), (in_flight.len() as u64, reserved));
            for user in 0..3 {
                let mine = || in_flight.iter().filter(|(owner, _, _)| *owner == user);
                prop_assert!(mine().count() <= 3);
                let earned = |rate: Rate| u128::from(now.mono) * u128::from(rate.per_minute) / (60 * u128::from(SECOND));
                prop_assert!(u128::from(requests[user]) <= u128::from(rpm.burst) + earned(rpm));
                let held: u64 = mine().map(|(_, _, reservation)| reservation.tokens).sum();
                let granted = u128::from(used[user] + held);
                prop_assert!(granted <= u128::from(tpm.burst + excess[user].0) + earned(tpm));
                let held: u64 = mine().map(|(_, _, reservation)| reservation.nano_usd).sum();
                prop_assert!(spent[user] + held <= budget + excess[user].1);
            }
        }
        prop_assert_eq!(limiter.outstanding(), (0, 0));
        limiter.sweep(now.mono + 86_400 * SECOND);
        prop_assert_eq!(limiter.users().0, 0);
    }
}

/// Limits of each level in a test, by small numbers, so that each of them refuses often.
fn limits_of_level(level: LimitLevel) -> Limits {
    let factor = [1, 2, 3][level as usize];
    let rate = |per_minute: u64, burst: u64| {
        Some(Rate {
            per_minute: per_minute * factor,
            burst: if level == LimitLevel::Team { per_minute * factor } else { burst * factor },
        })
    };
    Limits {
        requests: rate(60, 4),
        tokens: rate(600, 300),
        concurrent: Some([3, 4, 5][level as usize]),
        day_nano_usd: Some(200 * factor),
        month_nano_usd: Some([450, 700, 1_000][level as usize]),
    }
}

/// What is known of a request that is over or in flight, for the obvious model.
struct Taken {
    payer: Payer<'static>,
    at: Now,
    tokens: u64,
    nano_usd: u64,
}

/// What happened to an account's buckets, in order.
#[derive(Clone, Copy)]
enum Event {
    Requests(i128),
    Tokens(i128),
}

/// True for the longer wait; to wait for ever is longer than anything.
fn outlasts(one: Option<u64>, other: Option<u64>) -> bool {
    match (one, other) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(one), Some(other)) => one > other,
    }
}

/// The obvious model: everything that ever happened, summed up again for each question.
#[derive(Default)]
struct Model {
    events: Vec<(Payer<'static>, u64, Event)>,
    in_flight: Vec<Taken>,
    /// Who paid how much on which day.
    paid: Vec<(Payer<'static>, Period, u64)>,
}

impl Model {
    fn counts(level: LimitLevel, one: Payer<'_>, other: Payer<'_>) -> bool {
        match level {
            LimitLevel::User => one.user == other.user,
            LimitLevel::Team => one.team.is_some() && one.team == other.team,
            LimitLevel::Total => true,
        }
    }

    /// What a bucket holds, in parts of a token as small as a nanosecond's refill.
    fn level_of(&self, level: LimitLevel, payer: Payer<'_>, rate: Rate, is_tokens: bool, now: Now) -> i128 {
        let full = i128::from(rate.burst) * 60 * i128::from(SECOND);
        let (mut parts, mut at) = (full, 0);
        let mine = self.events.iter().filter(|(owner, ..)| Self::counts(level, *owner, payer));
        for (_, then, event) in mine {
            let change = match (event, is_tokens) {
                (Event::Requests(change), false) | (Event::Tokens(change), true) => *change,
                _ => continue,
            };
            parts = full.min(parts + i128::from(then - at) * i128::from(rate.per_minute));
            at = *then;
            let debt_max = i128::from(rate.per_minute) * 60;
            parts = full.min(parts + change.max(-debt_max) * 60 * i128::from(SECOND));
        }
        full.min(parts + i128::from(now.mono - at) * i128::from(rate.per_minute))
    }

    /// What a level would answer: what it lets a request hold, or the limit and the wait.
    fn ask(
        &self,
        level: LimitLevel,
        payer: Payer<'_>,
        request: &ReservationRequest,
        now: Now,
    ) -> Result<u64, (Limit, Option<u64>)> {
        let limits = limits_of_level(level);
        let mine = || self.in_flight.iter().filter(|taken| Self::counts(level, taken.payer, payer));
        if mine().count() >= limits.concurrent.unwrap() as usize {
            return Err((Limit::Concurrent, Some(SECOND)));
        }
        let mut may_hold = request.nano_usd();
        if let Some(money) = request.money {
            let reserved: u64 = mine().map(|taken| taken.nano_usd).sum();
            let present = Period::of(now.unix);
            let paid = |same: &dyn Fn(&Period) -> bool| -> u64 {
                let of_level =
                    self.paid.iter().filter(|(owner, period, _)| Self::counts(level, *owner, payer) && same(period));
                of_level.map(|(.., nano_usd)| nano_usd).sum()
            };
            for (limit, budget, spent) in [
                (Limit::BudgetDay, limits.day_nano_usd.unwrap(), paid(&|period| period.day == present.day)),
                (Limit::BudgetMonth, limits.month_nano_usd.unwrap(), paid(&|period| period.month == present.month)),
            ] {
                let left = budget.saturating_sub(spent);
                let free = left.saturating_sub(reserved);
                if left == 0 || left < money.least_nano_usd {
                    return Err((limit, None));
                }
                let alone = free > 0 && free >= money.least_nano_usd && (reserved == 0 || money.may_share);
                if money.nano_usd > free && !alone {
                    return Err((limit, Some(SECOND)));
                }
                may_hold = may_hold.min(free);
            }
        }
        let mut denied: Option<(Limit, Option<u64>)> = None;
        for (limit, rate, wanted) in
            [(Limit::Requests, limits.requests.unwrap(), 1), (Limit::Tokens, limits.tokens.unwrap(), request.tokens)]
        {
            let is_tokens = limit == Limit::Tokens;
            let missing =
                i128::from(wanted) * 60 * i128::from(SECOND) - self.level_of(level, payer, rate, is_tokens, now);
            if wanted > 0 && missing > 0 {
                let wait = (missing as u128).div_ceil(rate.per_minute.into()) as u64;
                let wait = (wanted <= rate.burst).then_some(wait);
                if denied.is_none_or(|(_, longest)| outlasts(wait, longest)) {
                    denied = Some((limit, wait));
                }
            }
        }
        denied.map_or(Ok(may_hold), Err)
    }

    /// What all three levels answer: what is held, or the level, the limit and the wait.
    fn admit(
        &self,
        payer: Payer<'_>,
        mut request: ReservationRequest,
        now: Now,
    ) -> Result<(u64, u64), (LimitLevel, Limit, Option<u64>)> {
        let levels: Vec<_> =
            LimitLevel::ALL.into_iter().filter(|level| *level != LimitLevel::Team || payer.team.is_some()).collect();
        if request.guessed {
            let burst = levels.iter().map(|&level| limits_of_level(level).tokens.unwrap().burst).min().unwrap();
            request.tokens = request.tokens.min(burst);
        }
        let answers: Vec<_> = levels.iter().map(|&level| (level, self.ask(level, payer, &request, now))).collect();
        let mut refusals =
            answers.iter().filter_map(|(level, answer)| answer.err().map(|(limit, wait)| (*level, limit, wait)));
        match refusals.next() {
            Some(first) => {
                Err(refusals.fold(first, |longest, one| if outlasts(one.2, longest.2) { one } else { longest }))
            }
            None => Ok((request.tokens, answers.iter().filter_map(|(_, answer)| answer.ok()).min().unwrap())),
        }
    }
}

const PAYERS: [Payer<'static>; 4] = [
    Payer { user: "a", team: Some("x") },
    Payer { user: "b", team: Some("x") },
    Payer { user: "c", team: None },
    Payer { user: "a", team: Some("y") }, // the same user with a key of another team
];

/// Users, two teams and everybody, each with all limits.
fn three_levels() -> Limiter {
    let mut limiter = Limiter::new(limits_of_level(LimitLevel::User), limits_of_level(LimitLevel::Total));
    let of_team = limits_of_level(LimitLevel::Team);
    let own = Overrides {
        rpm: of_team.requests.map(|rate| rate.per_minute),
        tpm: of_team.tokens.map(|rate| rate.per_minute),
        concurrent: of_team.concurrent,
        day_nano_usd: of_team.day_nano_usd,
        month_nano_usd: of_team.month_nano_usd,
    };
    let mut overrides = Levels::default();
    overrides.set(LimitLevel::Team, "x", own);
    overrides.set(LimitLevel::Team, "y", own);
    limiter.set_overrides(overrides);
    load(&mut limiter, 0, &[]);
    limiter
}

proptest! {
    /// At three levels, with the clock going on by up to days: what is granted, what is held, and which limit of which
    /// level refuses with which wait, is what a model says that sums everything up again.
    #[test]
    fn three_levels_answer_as_the_obvious_model_does(
        steps in proptest::collection::vec((step(), 0usize..4, 0u64..30), 1..120)
    ) {
        let mut limiter = three_levels();
        let mut model = Model::default();
        let mut now = at(0);
        let mut reservations: VecDeque<Reservation> = VecDeque::new();
        for (step, payer, days) in steps {
            match step {
                Step::Admit { request, .. } => {
                    let payer = PAYERS[payer];
                    let expected = model.admit(payer, request, now);
                    let found = limiter.admit(payer, request, now);
                    match found {
                        Ok((reservation, _)) => {
                            prop_assert_eq!(Ok((reservation.tokens, reservation.nano_usd)), expected);
                            model.events.push((payer, now.mono, Event::Requests(-1)));
                            model.events.push((payer, now.mono, Event::Tokens(-i128::from(reservation.tokens))));
                            let (tokens, nano_usd) = (reservation.tokens, reservation.nano_usd);
                            model.in_flight.push(Taken { payer, at: now, tokens, nano_usd });
                            reservations.push_back(reservation);
                        }
                        Err(refused) => {
                            prop_assert_eq!(Err((refused.level, refused.limit, refused.retry_after)), expected);
                        }
                    }
                }
                Step::Release { percent } => if let Some(reservation) = reservations.pop_front() {
                    let taken = model.in_flight.remove(0);
                    let (tokens, nano_usd) = (taken.tokens * percent / 100, taken.nano_usd * percent / 100);
                    let cost = Cost { seq: 1, started_at: taken.at.unix, nano_usd: nano_usd.cast_signed() };
                    limiter.charge(taken.payer, Used { tokens, output_tokens: None, cost }, now);
                    limiter.release(taken.payer, reservation, now);
                    model.events.push((taken.payer, now.mono, Event::Tokens(-i128::from(tokens))));
                    model.events.push((taken.payer, now.mono, Event::Tokens(taken.tokens.into())));
                    model.paid.push((taken.payer, Period::of(taken.at.unix), nano_usd));
                },
                Step::Withdraw => if let Some(reservation) = reservations.pop_back() {
                    let taken = model.in_flight.pop().unwrap();
                    limiter.withdraw(taken.payer, reservation, now);
                    model.events.push((taken.payer, now.mono, Event::Tokens(taken.tokens.into())));
                    model.events.push((taken.payer, now.mono, Event::Requests(1)));
                },
                Step::Wait { mono, .. } => {
                    // Now and then some days pass, within a month and over its end.
                    let days = if days < 3 { days } else { 0 };
                    now = Now { mono: now.mono + mono, unix: now.unix + mono + days * 86_400 * SECOND };
                }
                Step::Sweep => limiter.sweep(now.mono),
            }
            for level in LimitLevel::ALL {
                for payer in PAYERS {
                    let mine = model.in_flight.iter().filter(|taken| Model::counts(level, taken.payer, payer));
                    let held = mine.fold((0, 0), |sum, taken| (sum.0 + 1, sum.1 + taken.nano_usd));
                    let account = limiter.accounts.get(level, payer).map_or((0, 0), |account| account.outstanding());
                    prop_assert_eq!(account, held);
                }
            }
        }
    }
}

#[test]
fn a_spent_budget_is_told_of_the_widest_level_and_teams_are_forgotten_with_their_limits() {
    let mut limiter = three_levels();
    let payer = PAYERS[0];
    assert_eq!(limiter.spent_budget(payer, at(0)), None);
    let cost = |nano_usd| Cost { seq: 1, started_at: at(0).unix, nano_usd };
    for (nano_usd, level) in [(200, LimitLevel::User), (200, LimitLevel::Team), (200, LimitLevel::Total)] {
        limiter.charge(payer, Used { cost: cost(nano_usd), ..Used::default() }, at(0));
        let refused = limiter.spent_budget(payer, at(0)).unwrap();
        assert_eq!((refused.level, refused.limit, refused.left), (level, Limit::BudgetDay, 0));
    }
    assert_eq!(limiter.spent_budget("nobody", at(0)).unwrap().level, LimitLevel::Total);
    let mut limiter = three_levels();
    let (reservation, _) = limiter.admit(payer, PLAIN, at(0)).unwrap();
    assert_eq!((limiter.accounts.teams.len(), limiter.in_flight()), (1, 3));
    limiter.set_overrides(Levels::default());
    assert_eq!(limiter.accounts.teams.len(), 1, "it has a request in flight");
    limiter.release(payer, reservation, at(0));
    limiter.set_overrides(Levels::default());
    assert_eq!((limiter.accounts.teams.len(), limiter.outstanding()), (0, (0, 0)));
}

#[test]
fn a_teams_limits_change_for_its_next_request() {
    let mut limiter = three_levels();
    let payer = PAYERS[0];
    let (first, _) = limiter.admit(payer, PLAIN, at(0)).unwrap();
    let mut overrides = Levels::default();
    overrides.set(LimitLevel::Team, "x", Overrides { concurrent: Some(1), ..Overrides::default() });
    limiter.set_overrides(overrides);
    let refused = limiter.admit(payer, PLAIN, at(0)).unwrap_err();
    assert_eq!((refused.level, refused.limit), (LimitLevel::Team, Limit::Concurrent));
    limiter.set_overrides(Levels::default());
    let (second, _) = limiter.admit(payer, PLAIN, at(0)).expect("the team is not limited any more");
    assert_eq!((first.levels(), second.levels()), (3, 2));
    limiter.release(payer, second, at(0));
    limiter.release(payer, first, at(0));
    assert_eq!(limiter.in_flight(), 0);
}
