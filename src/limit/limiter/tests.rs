//! Each limit alone, and all of them over any interleaving of requests.

use super::*;
use crate::base::clock::SECOND;
use crate::limit::bucket::Rate;
use crate::limit::status::{BucketStatus, Limit};
use proptest::prelude::*;

const RATE: Rate = Rate { per_minute: 600, burst: 3 };
const PLAIN: ReservationRequest = ReservationRequest { tokens: 0, guessed: false, money: None };

fn at(mono: u64) -> Now {
    Now { mono, unix: 1_800_000_000 * SECOND + mono }
}

fn requests(rate: Rate) -> Limiter {
    Limiter::new(Limits { requests: Some(rate), ..Limits::default() })
}

fn tokens(per_minute: u64) -> Limiter {
    Limiter::new(Limits { tokens: Some(Rate { per_minute, burst: per_minute }), ..Limits::default() })
}

/// Limits with a budget of which nothing is spent.
fn unspent(limits: Limits) -> Limiter {
    let mut limiter = Limiter::new(limits);
    load(&mut limiter, 0, &[]);
    limiter
}

/// The ledger's sums come, in which this process's records up to `upto_seq` are.
fn load(limiter: &mut Limiter, upto_seq: u64, users: &[(&str, Spent)]) {
    let period = limiter.wants_spending(at(0)).expect("somebody has a budget");
    let users = users.iter().map(|&(user, spent)| (user.into(), spent)).collect();
    limiter.load(SpendByUser { period, upto_seq, next_day: None, users }, at(0));
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
    let refused = limiter.admit(&"a".into(), PLAIN, at(5)).unwrap_err();
    assert_eq!((refused.limit, refused.retry_after), (Limit::Requests, Some(SECOND / 10)));
    assert_eq!(refused.limit_status.requests, Some(BucketStatus { limit: 3, remaining: 0, reset: 3 * SECOND / 10 }));
    assert_eq!(limiter.check("a", true, at(5)), Err(refused));
    assert!(limiter.admit(&"b".into(), PLAIN, at(5)).is_ok(), "another user is not concerned");
    assert_eq!(limiter.outstanding(), (4, 0));
    limiter.withdraw("a", grants.pop().unwrap(), at(5));
    assert_eq!(limiter.check("a", true, at(5)), Ok(()), "what was withdrawn is there again");
    limiter.release("a", grants.pop().unwrap(), at(5));
    assert_eq!(limiter.outstanding(), (2, 0));
}

#[test]
fn no_limit_admits_everybody_and_remembers_nobody() {
    let mut limiter = Limiter::new(Limits::default());
    for user in 0..1000 {
        let (reservation, limit_status) = limiter.admit(&user.to_string().into(), request(u64::MAX), at(0)).unwrap();
        assert_eq!(limit_status, RateLimitStatus::default());
        limiter.release(&user.to_string(), reservation, at(0));
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
    assert_eq!(limiter.users().0, limiter.eviction_queue.len());
    let (reservation, _) = limiter.admit(&"long".into(), PLAIN, at(now)).unwrap();
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
    let refused = limiter.admit(&"a".into(), request(663), at(0)).unwrap_err();
    assert_eq!((refused.limit, refused.requested, refused.retry_after), (Limit::Tokens, 663, None));
    let name: Arc<str> = limiter.name("a");
    let (reservation, limit_status) = limiter.admit(&name, request(60), at(0)).unwrap();
    assert_eq!(limit_status.tokens.unwrap().remaining, 40);
    assert_eq!(limiter.admit(&"a".into(), request(41), at(0)).unwrap_err().retry_after, Some(600 * MILLISECOND));
    limiter.charge(&name, Used { tokens: 10, ..Used::default() }, at(0));
    limiter.release("a", reservation, at(0));
    let (reservation, limit_status) = limiter.admit(&"a".into(), request(90), at(0)).unwrap();
    assert_eq!(limit_status.tokens.unwrap().remaining, 0);
    limiter.charge(&name, Used { tokens: 150, ..Used::default() }, at(0));
    limiter.release("a", reservation, at(0));
    let refused = limiter.check("a", true, at(0)).unwrap_err();
    assert_eq!(refused.retry_after, Some(36_600 * MILLISECOND), "60 of debt are repaid first, and the one");
    assert!(limiter.admit(&"a".into(), PLAIN, at(0)).is_ok(), "what needs no tokens does not wait for them");
}

#[test]
fn a_guess_is_cut_to_what_could_ever_be_there() {
    let mut limiter = tokens(100);
    let guess = ReservationRequest { tokens: 663, guessed: true, ..PLAIN };
    let (_reservation, limit_status) = limiter.admit(&"a".into(), guess, at(0)).unwrap();
    assert_eq!(limit_status.tokens.unwrap().remaining, 0);
    assert_eq!(limiter.admit(&"a".into(), guess, at(0)).unwrap_err().retry_after, Some(60 * SECOND));
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
    let mut limiter = Limiter::new(Limits { concurrent: Some(2), ..Limits::default() });
    let (first, _) = limiter.admit(&"a".into(), PLAIN, at(0)).unwrap();
    let (_second, limit_status) = limiter.admit(&"a".into(), PLAIN, at(0)).unwrap();
    assert_eq!(limit_status, RateLimitStatus::default());
    assert_eq!(limiter.admit(&"a".into(), PLAIN, at(0)).unwrap_err().limit, Limit::Concurrent);
    limiter.release("a", first, at(0));
    assert!(limiter.admit(&"a".into(), PLAIN, at(0)).is_ok());
}

#[test]
fn a_budget_counts_what_is_in_flight() {
    let mut limiter = unspent(Limits { day_nano_usd: Some(100), month_nano_usd: Some(150), ..Limits::default() });
    let name: Arc<str> = limiter.name("a");
    let (first, _) = limiter.admit(&name, money(70), at(0)).unwrap();
    let refused = limiter.admit(&"a".into(), money(31), at(0)).unwrap_err();
    assert_eq!((refused.limit, refused.retry_after), (Limit::BudgetDay, Some(SECOND)), "it may fit once that is over");
    assert_eq!(limiter.admit(&"a".into(), money(101), at(0)).unwrap_err().retry_after, None, "this never will");
    let (second, _) = limiter.admit(&"a".into(), guess(1000, true), at(0)).unwrap();
    assert_eq!(limiter.outstanding(), (2, 100), "an average takes what is left");
    assert_eq!(limiter.check("a", true, at(0)).unwrap_err().retry_after, Some(SECOND));
    assert!(limiter.admit(&"a".into(), PLAIN, at(0)).is_ok(), "what costs nothing is not refused for money");
    let cost = |nano_usd| Cost { seq: 1, started_at: at(0).unix, nano_usd };
    let used = |nano_usd| Used { cost: cost(nano_usd), ..Used::default() };
    limiter.charge(&name, used(60), at(0));
    limiter.release("a", first, at(0));
    limiter.charge(&name, used(40), at(0));
    limiter.release("a", second, at(0));
    let refused = limiter.check("a", true, at(0)).unwrap_err();
    assert_eq!((refused.limit, refused.requested, refused.retry_after), (Limit::BudgetDay, 0, None));
    let tomorrow = at(86_400 * SECOND);
    let refused = limiter.admit(&"a".into(), money(51), tomorrow).unwrap_err();
    assert_eq!(refused.limit, Limit::BudgetMonth);
    assert!(limiter.admit(&"a".into(), money(50), tomorrow).is_ok());
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
    assert_eq!(limiter.spent("a").map(|spent| spent.month), Some(700));
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
    limiter.set_overrides([("a".into(), own)].into());
    let (reservation, limit_status) = limiter.admit(&"a".into(), request(20), at(0)).unwrap();
    assert_eq!((limit_status.requests, limit_status.tokens.unwrap().remaining), (None, 30));
    limiter.charge(&name, Used { tokens: 20, ..Used::default() }, at(0));
    limiter.release("a", old, at(0));
    limiter.release("a", reservation, at(0));
    limiter.set_overrides(BTreeMap::new());
    let (_reservation, limit_status) = limiter.admit(&"a".into(), request(999), at(0)).unwrap();
    assert_eq!((limit_status.requests.unwrap().remaining, limit_status.tokens), (2, None), "a new bucket of requests");
    limiter.set_limits(Limits { day_nano_usd: Some(1), ..Limits::default() });
    load(&mut limiter, 0, &[("a", Spent { day: 1, month: 1 })]);
    assert_eq!(limiter.admit(&"a".into(), money(1), at(0)).unwrap_err().limit, Limit::BudgetDay);
    limiter.set_limits(Limits::default());
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
    limiter.set_overrides([("a".into(), own)].into());
    for (spent, seq) in [(99, 2), (100, 4)] {
        let refused = limiter.admit(&"a".into(), money, at(0)).unwrap_err();
        assert_eq!((refused.limit, refused.retry_after), (Limit::BudgetUnknown, Some(SECOND)));
        assert_eq!(limiter.check("a", true, at(0)), Err(refused));
        let (reservation, _) = limiter.admit(&"a".into(), PLAIN, at(0)).expect("what costs nothing is let through");
        limiter.withdraw("a", reservation, at(0));
        let (reservation, _) = limiter.admit(&"b".into(), money, at(0)).expect("b has no budget");
        limiter.withdraw("b", reservation, at(0));
        // Charged while the sum is under way, and not in it.
        let cost = Cost { seq, started_at: at(0).unix, nano_usd: 1 };
        limiter.charge(&"a".into(), Used { cost, ..Used::default() }, at(0));
        load(&mut limiter, seq - 1, &[("a", Spent { day: spent - 1, month: spent - 1 })]);
        let admitted = limiter.admit(&"a".into(), money, at(0)).map_err(|refused| refused.limit);
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
