//! The judge of a finished run: the target's books against the budgets, and against the ledger.

use super::plan::Kind;
use super::watch::Watch;
use super::{Books, Ledgers, Truth};
use crate::scenario::Plan;
use openai_api_proxy::limit::budget::Period;
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
    /// Budgets that are exceeded, within the promise; those of sessions.
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
    /// The dearest answer to a request, and of each session; of those all, where the clock has gone back to an earlier
    /// day: until the ledger's sums are here, nobody knows that one must end.
    dearest: u64,
    of_sessions: BTreeMap<usize, u64>,
}

type Accounts<'p> = BTreeMap<(&'p str, i64), Account>;

pub fn judge(ledgers: &Ledgers, plan: &Plan, records: &[Record], watch: &Watch) -> Seen {
    if std::env::var("SIM_SEED").is_ok() {
        for (id, (request, truth)) in plan.requests.iter().zip(&ledgers.truths).enumerate() {
            println!("{id} {} {:?} cost {} {:?} asked {} {:?} left {}", request.user, truth.kind, truth.cost(), ledgers.requests[id], request.asked_at, request.got.as_ref().map(|got| (got.status, got.ours.clone())), request.left);
        }
        for (session, entries) in plan.sessions.iter().zip(&ledgers.sessions) {
            println!("{} sent {} got {} {:?} {entries:?}", session.user, session.sent, session.got.len(), session.over);
        }
        for record in records {
            println!("{} at {} day {} {} {:?} {:?} cost {:?} {:?} {:?}us", record.seq, record.started_at, record.started_at / 86_400_000_000_000, record.user, record.endpoint, record.usage_source, record.counted_nano_usd(), record.outcome, record.duration_us);
        }
        println!("{:?}", ledgers.limits);
    }
    let mut seen = Seen { returns: watch.returns, unknown_checked: watch.unknown_checked, ..Seen::default() };
    let (mut days, mut months) = (Accounts::new(), Accounts::new());
    let mut book = |user, began: Option<&Record>, entry: &Books, session: Option<usize>| {
        let day = began.map_or(entry.days.first().copied(), |record| Some(Period::of(record.started_at).day));
        let day = day.expect("it began on a day");
        assert!(entry.days.contains(&day), "{user}: it began on day {day}, and was asked for on {:?}", entry.days);
        let month = openai_api_proxy::base::civil::month_of_day(day);
        for account in [days.entry((user, day)).or_default(), months.entry((user, month)).or_default()] {
            account.spent += entry.cost;
            let dearest = session.map_or(&mut account.dearest, |number| account.of_sessions.entry(number).or_default());
            let is_all_excused = watch.steps_back && session.is_some();
            *dearest = if is_all_excused { *dearest + entry.cost } else { entry.cost.max(*dearest) };
        }
    };
    for (id, (request, truth)) in plan.requests.iter().zip(&ledgers.truths).enumerate() {
        seen.spent += usize::from(request.refused_as("insufficient_quota"));
        seen.held += usize::from(request.refused_as("rate_limit_exceeded"));
        if ledgers.requests[id].billed && truth.kind != Kind::Again {
            let mine: Vec<&Record> = records.iter().filter(|record| request.is_of(record)).collect();
            let record = judge_request(id, truth, &mine, &mut seen);
            book(&request.user, Some(record), &ledgers.requests[id], None);
        }
    }
    for (number, session) in plan.sessions.iter().enumerate() {
        let of_it = |record: &&Record| session.is_of(record);
        let parts: Vec<&Record> =
            records.iter().filter(of_it).filter(|record| !record.endpoint.is_session()).collect();
        let whole = records.iter().filter(of_it).find(|record| record.endpoint.is_session());
        let billed = ledgers.sessions[number].iter().filter(|entry| entry.billed).enumerate();
        for (index, entry) in billed {
            book(&session.user, parts.get(index).copied(), entry, Some(number));
            seen.responses += 1;
            if let Some(part) = parts.get(index) {
                assert_eq!(part.cost_nano_usd, Some(entry.cost), "{number}: a response at another cost");
            } else {
                seen.unreported += 1;
                let whole = whole.unwrap_or_else(|| panic!("session {number} has no record"));
                let is_charged = whole.usage_source == UsageSource::Unknown;
                assert!(is_charged, "session {number}: a response is in no record, and it is {whole:?}");
            }
        }
        let told = session.got.len() > session.of_server(&session.got).0;
        seen.dismissed += usize::from(told);
    }
    let budgets = [("day", ledgers.limits.day_nano_usd, days), ("month", ledgers.limits.month_nano_usd, months)];
    for (what, budget, accounts) in budgets {
        let Some(budget) = budget else { continue };
        for ((user, at), account) in accounts {
            let of_sessions: u64 = account.of_sessions.values().sum();
            let (spent, most) = (account.spent, budget + account.dearest + of_sessions);
            assert!(spent <= most, "{user} has spent {spent} of {budget} in {what} {at}: {account:?}", account = (account.dearest, of_sessions));
            seen.exceeded += usize::from(spent > budget);
            seen.exceeded_by_sessions += usize::from(spent > budget + account.dearest);
        }
    }
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
