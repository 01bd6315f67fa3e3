//! What is looked at while a run goes on: when the target begins with something, and that what it says of it, or does
//! not say, is charged at once.

use super::Ledgers;
use crate::scenario::Plan;
use crate::workers::FakeWorkers;
use crate::world::World;
use openai_api_proxy::limit::budget::Period;
use openai_api_proxy::proxy::Proxy;
use openai_api_proxy::usage::record::{Record, UsageSource};
use std::collections::{BTreeMap, BTreeSet};

impl Ledgers {
    /// Takes into the books what the target has begun with.
    pub fn follow(&mut self, world: &World, plan: &Plan) {
        let day = Period::of(world.unix()).day;
        for (entry, request) in self.requests.iter_mut().zip(&plan.requests) {
            if request.pipe.is_some() && !entry.billed {
                entry.days.insert(day);
                entry.billed = request.seen > 0;
            }
        }
        for (entries, session) in self.sessions.iter_mut().zip(&plan.sessions) {
            for (index, entry) in entries.iter_mut().enumerate() {
                let is_open = session.committed.0 <= index && session.committed.1 == 0;
                if session.sent >= entry.begun_at && (is_open || !entry.billed) {
                    entry.days.insert(day);
                }
                entry.billed |= session.read >= entry.begun_at;
            }
        }
    }
}

/// What is remembered from turn to turn.
#[derive(Default)]
pub struct Watch {
    /// Days on which the loop has looked at the clock, and how often it has come back to one.
    days: BTreeSet<i64>,
    day: Option<i64>,
    pub returns: usize,
    /// The clock has gone back to an earlier day.
    pub steps_back: bool,
    /// `seq` of the last record when the ledger's sums came last: what was unknown until then is in none.
    summed_seq: u64,
    was_known: bool,
    /// Turns in which something unknown was held against what is spent.
    pub unknown_checked: usize,
}

impl Watch {
    /// After a turn: what the limiter knows to be spent is no less than the ledger says; and of what nobody knows, no
    /// less than the truth, or all that there was.
    pub fn check(&mut self, proxy: &Proxy, workers: &FakeWorkers, world: &World, plan: &Plan, ledgers: &Ledgers) {
        let day = Period::of(world.unix()).day;
        if let Some(before) = self.day.replace(day).filter(|&before| before != day) {
            self.days.insert(before);
            self.returns += usize::from(self.days.contains(&day));
            self.steps_back |= day < before;
        }
        let given = || workers.committed.iter().chain(&workers.pending).filter(|record| record.journal.is_record());
        let last_seq = given().map(|record| record.seq).max().unwrap_or(0);
        let mut spent: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for record in given().filter(|record| Period::of(record.started_at).day == day) {
            let (least, unknown) = spent.entry(&record.user).or_default();
            let is_charged = record.seq > self.summed_seq && record.usage_source == UsageSource::Unknown;
            match &record.correction {
                Some(correction) => *least = least.saturating_sub(correction.less_nano_usd),
                None if record.may_repeat() => {}
                None if is_charged => *unknown += truth(record, plan, ledgers),
                None => *least += record.cost_nano_usd.unwrap_or(0),
            }
        }
        let mut is_known = false;
        for (user, (least, unknown)) in spent {
            let Some(known) = proxy.audit().spent(user) else { continue };
            is_known = true;
            if !self.was_known {
                continue;
            }
            assert!(known.day >= least, "{user} has spent {least}, and the proxy knows of {}", known.day);
            let budgets = [ledgers.limits.day_nano_usd, ledgers.limits.month_nano_usd];
            let budget = budgets.into_iter().flatten().min().expect("there is one");
            let least = (least + unknown).min(budget);
            assert!(known.month >= least, "{user}: what is unknown is not charged: {least}, {}", known.month);
            self.unknown_checked += usize::from(unknown > 0);
        }
        if is_known && !self.was_known {
            self.summed_seq = last_seq;
        }
        self.was_known = is_known;
    }
}

/// What a request truly costs; nothing for a session's part or a look at something.
fn truth(record: &Record, plan: &Plan, ledgers: &Ledgers) -> u64 {
    let request = plan.requests.iter().position(|request| request.again.is_none() && request.is_of(record));
    request.map_or(0, |id| ledgers.requests[id].cost)
}
