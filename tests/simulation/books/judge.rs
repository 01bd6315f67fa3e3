//! The judge of a finished run: the target's books against the budgets, and against the ledger.

use super::plan::Kind;
use super::watch::Watch;
use super::{Books, Ledgers, Truth};
use crate::scenario::Plan;
use openai_api_proxy::base::civil::month_of_day;
use openai_api_proxy::limit::budget::Period;
use openai_api_proxy::limit::overrides::Limits;
use openai_api_proxy::usage::record::{Outcome, Record, UsageSource};
use std::collections::BTreeMap;

/// Declares what is counted: a field for each, and their names.
macro_rules! counts {
    ($($(#[$about:meta])* $name:ident,)+) => {
        /// What was seen, of one run or of all.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Seen { $($(#[$about])* pub $name: usize,)+ }

        impl Seen {
            fn each(&self) -> Vec<(&'static str, usize)> {
                vec![$((stringify!($name), self.$name)),+]
            }

            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

counts! {
    /// Requests that the target took, and how the ledger has them.
    billed,
    reported,
    drained,
    estimated,
    unknown,
    aborted,
    /// The target broke them off.
    cut,
    interrupted,
    /// Refused because the budget is spent, and because others hold it or nobody knows.
    spent,
    held,
    /// Background responses, and those that a retrieval has set right.
    background,
    corrected,
    /// Responses of sessions in the books, without a record, and sessions that were ended.
    responses,
    unreported,
    dismissed,
    /// Days that the clock came back to, and turns in which something unknown was seen to be charged.
    returns,
    unknown_checked,
    /// Days and months whose budget is exceeded, within the promise; and so only because of sessions.
    exceeded,
    exceeded_by_sessions,
}

/// Sums over all seeds.
pub type Sums = Seen;

impl Sums {
    /// A run of many seeds that never saw one of these has tested nothing there.
    pub fn assert_everything_happened(&self) {
        let never: Vec<_> = self.each().into_iter().filter(|&(_, count)| count == 0).map(|(name, _)| name).collect();
        assert!(never.is_empty(), "never happened: {never:?}");
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let each: Vec<String> = self.each().into_iter().map(|(name, count)| format!("{name} {count}")).collect();
        write!(out, "{}", each.join(", "))
    }
}

/// A user's part of a day or month.
#[derive(Default)]
struct Account {
    spent: u64,
    /// The dearest answer to a request.
    dearest: u64,
    /// The same of each session; and all of them, where the clock has gone back to an earlier day: until the ledger's
    /// sums are here, nobody knows that one must end.
    of_sessions: BTreeMap<usize, u64>,
}

/// The target's books, by user and period.
#[derive(Default)]
struct Accounts<'p> {
    days: BTreeMap<(&'p str, i64), Account>,
    months: BTreeMap<(&'p str, i64), Account>,
    excuses_sessions: bool,
}

impl<'p> Accounts<'p> {
    /// Books an entry on the day that its record says, which is one on which it was asked for.
    fn book(&mut self, user: &'p str, record: Option<&Record>, entry: &Books, session: Option<usize>) {
        let day = record.map_or(entry.days.first().copied(), |record| Some(Period::of(record.started_at).day));
        let day = day.expect("it began on a day");
        assert!(entry.days.contains(&day), "{user}: it began on day {day}, and was asked for on {:?}", entry.days);
        let month = month_of_day(day);
        for account in [self.days.entry((user, day)).or_default(), self.months.entry((user, month)).or_default()] {
            account.spent += entry.cost;
            let dearest = session.map_or(&mut account.dearest, |number| account.of_sessions.entry(number).or_default());
            let adds_up = self.excuses_sessions && session.is_some();
            *dearest = if adds_up { *dearest + entry.cost } else { entry.cost.max(*dearest) };
        }
    }

    /// None is beyond its budget by more than is promised.
    fn judge(self, limits: &Limits, seen: &mut Seen) {
        let budgets = [("day", limits.day_nano_usd, self.days), ("month", limits.month_nano_usd, self.months)];
        for (what, budget, accounts) in budgets {
            let Some(budget) = budget else { continue };
            for ((user, at), Account { spent, dearest, of_sessions }) in accounts {
                let most = budget + dearest + of_sessions.values().sum::<u64>();
                assert!(spent <= most, "{user} has spent {spent} of {budget} in {what} {at}, {most} at most");
                seen.exceeded += usize::from(spent > budget);
                seen.exceeded_by_sessions += usize::from(spent > budget + dearest);
            }
        }
    }
}

pub fn judge(ledgers: &Ledgers, plan: &Plan, records: &[Record], watch: &Watch) -> Seen {
    let mut seen = Seen { returns: watch.returns, unknown_checked: watch.unknown_checked, ..Seen::default() };
    let mut accounts = Accounts { excuses_sessions: watch.steps_back, ..Accounts::default() };
    let whose = |user| if ledgers.of_all { "all together" } else { user };
    for (id, (request, truth)) in plan.requests.iter().zip(&ledgers.truths).enumerate() {
        seen.spent += usize::from(request.refused_as("insufficient_quota"));
        seen.held += usize::from(request.refused_as("rate_limit_exceeded"));
        let entry = &ledgers.requests[id];
        if entry.billed && truth.kind != Kind::Again {
            let mine: Vec<&Record> = records.iter().filter(|record| request.is_of(record)).collect();
            let record = judge_request(id, truth, &mine, &mut seen);
            accounts.book(whose(&request.user), Some(record), entry, None);
        }
    }
    for (number, session) in plan.sessions.iter().enumerate() {
        let (whole, parts): (Vec<&Record>, Vec<&Record>) =
            records.iter().filter(|record| session.is_of(record)).partition(|record| record.endpoint.is_session());
        for (index, entry) in ledgers.sessions[number].iter().filter(|entry| entry.billed).enumerate() {
            let part = parts.get(index).copied();
            accounts.book(whose(&session.user), part, entry, Some(number));
            seen.responses += 1;
            seen.unreported += usize::from(part.is_none());
            match part {
                Some(part) => assert_eq!(part.cost_nano_usd, Some(entry.cost), "session {number}: another cost"),
                None => {
                    let sources: Vec<_> = whole.iter().map(|record| record.usage_source).collect();
                    assert_eq!(sources, [UsageSource::Unknown], "session {number}: a response is in no record");
                }
            }
        }
        seen.dismissed += usize::from(session.got.len() > session.of_server(&session.got).0);
    }
    accounts.judge(&ledgers.limits, &mut seen);
    seen
}

/// A request that the target took: what the ledger says of it. Returned is its record.
fn judge_request<'r>(id: usize, truth: &Truth, mine: &[&'r Record], seen: &mut Seen) -> &'r Record {
    let records: Vec<&Record> = mine.iter().copied().filter(|record| record.is_request()).collect();
    let [record] = records[..] else { panic!("request {id} has {} records", records.len()) };
    let corrected = records.len() < mine.len();
    let cost = mine.iter().filter_map(|record| record.counted_nano_usd()).sum::<i128>();
    let cost = u64::try_from(cost).expect("a cost is not negative");
    match record.usage_source {
        UsageSource::Reported | UsageSource::Drained => {
            let counted = (record.usage.input_tokens, record.usage.output_tokens, cost);
            assert_eq!(counted, (truth.input, truth.output, truth.cost()), "request {id}: {record:?}");
        }
        UsageSource::Estimated | UsageSource::Unknown if corrected => {
            assert_eq!(cost, truth.cost(), "request {id} was set right: {record:?}");
        }
        UsageSource::Estimated => {
            let tokens = record.usage.input_tokens >= truth.input && record.usage.output_tokens >= truth.output;
            assert!(tokens && cost >= truth.cost(), "request {id} is estimated below {truth:?}: {record:?}");
        }
        UsageSource::Unknown => {}
        UsageSource::None | UsageSource::Correction => panic!("request {id} is in no sum: {truth:?}, {record:?}"),
    }
    let counts: [(&mut usize, bool); 10] = [
        (&mut seen.billed, true),
        (&mut seen.corrected, corrected),
        (&mut seen.reported, record.usage_source == UsageSource::Reported),
        (&mut seen.drained, record.usage_source == UsageSource::Drained),
        (&mut seen.estimated, record.usage_source == UsageSource::Estimated),
        (&mut seen.unknown, record.usage_source == UsageSource::Unknown),
        (&mut seen.aborted, record.outcome == Outcome::ClientAborted),
        (&mut seen.interrupted, record.outcome == Outcome::Interrupted),
        (&mut seen.cut, record.outcome == Outcome::UpstreamError),
        (&mut seen.background, truth.kind == Kind::Background),
    ];
    counts.into_iter().for_each(|(count, is_one)| *count += usize::from(is_one));
    record
}
