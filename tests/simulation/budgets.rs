//! A first budget in the middle of a run: the ledger's sums of what users have spent, and the judge of who was let
//! through and who was refused.
//!
//! The sum is made at one time and arrives at another; what settles between is for the proxy to add.

use crate::rng::Rng;
use crate::scenario::{Planned, SHARED};
use crate::world::EPOCH;
use openai_api_proxy::limit::budget::{Period, SpendSums, Spent};
use openai_api_proxy::limit::levels::LimitLevel;
use openai_api_proxy::limit::overrides::Overrides;
use openai_api_proxy::policy::{Policy, Rule};
use openai_api_proxy::price::PriceTable;
use openai_api_proxy::proxy::Proxy;
use openai_api_proxy::usage::record::Record;
use openai_api_proxy::worker::WorkerEvent;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Users who share requests, at most.
const USERS_MAX: usize = 3;

/// The ledger's part: it sets the budget, and sums up.
#[derive(Default)]
pub struct Budgets {
    /// Of each user in a month, nano-dollars, until it is set.
    to_set: Option<u64>,
    /// Who gets it.
    users: Vec<String>,
    /// By a team of their own.
    of_teams: bool,
    /// When it was set, and when a sum was last sent to the loop.
    pub set_at: Option<u64>,
    pub summed_at: Option<u64>,
    wanted: Option<Period>,
    /// Made, and on its way: nothing that is committed later overtakes it.
    pub sum: Option<SpendSums>,
}

/// A budget that some requests exceed: some users have spent it with one answer, some with none.
pub fn budget(rng: &mut Rng) -> u64 {
    [1, 1, 300_000, 1_500_000][rng.below(4)]
}

/// A thousand nano-dollars a token of the model that the target names.
pub fn prices() -> PriceTable {
    let price = r#"{"m-1":{"input_cost_per_token":1e-06,"output_cost_per_token":1e-06}}"#;
    PriceTable::parse(price).expect("a price")
}

/// Users who share requests.
pub fn users() -> Vec<String> {
    (0..USERS_MAX).map(|user| format!("{SHARED}{user}")).collect()
}

impl Budgets {
    pub fn new(budget: Option<u64>, of_teams: bool, users: Vec<String>) -> Self {
        Self { to_set: budget, of_teams, users, ..Self::default() }
    }

    /// Each user's team of one, whose budget it is, where these are of teams.
    pub fn teams(&self) -> BTreeMap<Box<str>, Arc<str>> {
        let users = self.users.iter().filter(|_| self.of_teams);
        users.map(|user| (user.as_str().into(), format!("team of {user}").into())).collect()
    }

    pub fn want(&mut self, period: Period) {
        self.wanted = Some(period);
    }

    /// True where a sum is to be made, or to arrive.
    pub fn are_busy(&self) -> bool {
        self.wanted.is_some() || self.sum.is_some()
    }

    /// One step; what the loop is told. `committed` are all records, `upto_seq` is of the last line; `settled` says that
    /// there are later ones.
    pub fn act(
        &mut self,
        rng: &mut Rng,
        now: u64,
        (committed, upto_seq, settled): (&[Record], u64, bool),
    ) -> Option<WorkerEvent> {
        if self.to_set.is_some() && rng.below(10) == 0 {
            self.set_at = Some(now);
            let limits = Overrides { month_nano_usd: self.to_set.take(), ..Overrides::default() };
            let mut policy = Policy { members: self.teams(), ..Policy::default() };
            for user in &self.users {
                let (level, name) = match policy.members.get(user.as_str()) {
                    Some(team) => (LimitLevel::Team, &**team),
                    None => (LimitLevel::User, user.as_str()),
                };
                policy.rules.set(level, name, Rule { limits, ..Rule::default() });
            }
            return Some(WorkerEvent::Policy(policy));
        }
        // Rather late, when something has settled since.
        if self.sum.is_some() && rng.below(if settled { 2 } else { 30 }) == 0 {
            self.summed_at = Some(now);
            return self.sum.take().map(WorkerEvent::SpendSums);
        }
        if self.sum.is_none() {
            self.sum = self.wanted.take().map(|period| sum(committed, period, upto_seq));
        }
        None
    }
}

fn sum(records: &[Record], period: Period, upto_seq: u64) -> SpendSums {
    let (mut users, mut teams) = (BTreeMap::<&str, Spent>::new(), BTreeMap::<&str, Spent>::new());
    let mut total = Spent::default();
    let mut next_day: Option<i64> = None;
    for record in records {
        let (began, cost) = (Period::of(record.started_at), record.counted_nano_usd().unwrap_or(0) as i64);
        let of_team = record.team.as_deref().map(|team| teams.entry(team).or_default());
        for spent in [Some(users.entry(&record.user).or_default()), of_team, Some(&mut total)].into_iter().flatten() {
            spent.day = spent.day.strict_add_signed(if began.day == period.day { cost } else { 0 });
            spent.month = spent.month.strict_add_signed(if began.month == period.month { cost } else { 0 });
        }
        if began.day > period.day && cost > 0 {
            next_day = Some(next_day.map_or(began.day, |day| day.min(began.day)));
        }
    }
    let named = |sums: BTreeMap<&str, Spent>| sums.into_iter().map(|(name, spent)| (name.into(), spent)).collect();
    SpendSums { period, upto_seq, next_day, users: named(users), teams: named(teams), total }
}

/// After a turn: where the proxy knows what a user has spent, it is no less than what the ledger was given.
pub fn check(proxy: &Proxy, given: &[&Record], at: u64) {
    let present = Period::of(EPOCH + at);
    for user in users() {
        let Some(known) = proxy.audit().spent(&user) else { continue };
        let mine = given.iter().filter(|record| *record.user == *user);
        let mine = mine.filter(|record| Period::of(record.started_at).month == present.month);
        let spent: u64 = mine.map(|record| record.cost_nano_usd.unwrap_or(0)).sum();
        assert!(known.month >= spent, "{user} has spent {spent}, and the proxy knows of {}", known.month);
    }
}

/// Judges the requests of one user; how many were refused because the budget was spent, and because nobody knew.
pub fn judge(user: &str, requests: &[&Planned], records: &[Record], budget: u64, ledger: &Budgets) -> (usize, usize) {
    let month = |mono: u64| Period::of(EPOCH.saturating_add(mono)).month;
    let began = |record: &Record| record.started_at - EPOCH;
    let ended = |record: &Record| began(record) + (record.duration_us + 1) * 1000;
    let spent = |at: u64, counts: &dyn Fn(&Record) -> bool| -> u64 {
        let mine = records.iter().filter(|record| *record.user == *user && month(began(record)) == month(at));
        // To a team counts only what came in when its user belonged to it.
        let mine = mine.filter(|record| !ledger.of_teams || record.team.is_some());
        // What has no certain cost has spent the most that it can be.
        let cost = |record: &Record| record.cost_nano_usd.or(record.at_most_nano_usd).unwrap_or(0);
        mine.filter(|record| counts(record)).map(cost).sum()
    };
    let (mut over, mut unknown) = (0, 0);
    for request in requests {
        let (asked_at, answered_at) = (request.asked_at, request.answered_at);
        if request.refused_as("insufficient_quota") {
            let most = spent(asked_at, &|record| ended(record) <= answered_at + 1000);
            // What nobody knows the use or the cost of has spent what it held: all that was left.
            let is_unknown = |record: &&Record| record.cost_nano_usd.is_none();
            let mut forfeits = records.iter().filter(|record| *record.user == *user).filter(is_unknown);
            let mut is_forfeited = || forfeits.any(|record| ended(record) <= answered_at + 1000);
            let is_over = most >= budget || month(asked_at) != month(answered_at) || is_forfeited();
            assert!(is_over, "{user} was refused, and had spent {most} of {budget}");
            over += 1;
        } else if request.refused_as("rate_limit_exceeded") {
            // The sum's arrival is the last turn in which it can have been unknown. Else another holds what is left.
            let is_unknown = ledger.summed_at.is_none_or(|at| asked_at <= at);
            let overlaps = |record: &Record| began(record) <= answered_at && asked_at <= ended(record);
            let is_held = || records.iter().any(|record| *record.user == *user && overlaps(record));
            assert!(is_unknown || is_held(), "{user}: the sums were here, and nobody held what was left");
            unknown += usize::from(is_unknown);
        }
        let Some(record) = records.iter().find(|record| request.is_of(record)) else { continue };
        let is_under = ledger.set_at.is_some_and(|at| at <= asked_at) && request.tokens > 0;
        if is_under && month(asked_at) == month(ended(record)) {
            let least = spent(asked_at, &|record| ended(record) <= asked_at);
            assert!(least < budget, "{user} was let through, and had spent {least} of {budget}");
        }
    }
    (over, unknown)
}
