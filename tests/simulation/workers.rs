//! Fake workers: a ledger that commits when it likes, addresses that come late, answers to questions.

use crate::budgets::Budgets;
use crate::rng::Rng;
use crate::scenario::name_of;
use openai_api_proxy::base::work::LongWork;
use openai_api_proxy::limit::budget::Period;
use openai_api_proxy::local::Answer;
use openai_api_proxy::usage::record::{Correction, Journal, Record, Usage, UsageSource};
use openai_api_proxy::worker::query::Job;
use openai_api_proxy::worker::{WorkerEvent, Workers};
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

/// The port of the target's first address.
pub const FIRST_PORT: u16 = 1000;

/// What the workers have and owe.
#[derive(Default)]
pub struct FakeWorkers {
    /// Submitted, not committed.
    pub pending: VecDeque<Record>,
    pub committed: Vec<Record>,
    /// Lines committed, those of the journal included.
    lines: u64,
    /// Entries of the journal that are open.
    pub open: BTreeSet<u64>,
    /// Names of the requests that have been in the journal.
    pub journaled: BTreeSet<String>,
    replies: VecDeque<WorkerEvent>,
    tickets: VecDeque<u64>,
    /// Bodies to read.
    work: VecDeque<LongWork>,
    resolving: bool,
    /// How long the ledger may be in trouble, the longest of its pauses; 0 is never.
    stall_max: u64,
    /// It commits nothing until then.
    pub stalled_until: Option<u64>,
    /// The target resolves to so many addresses.
    addresses: u16,
    pub budgets: Budgets,
}

impl FakeWorkers {
    pub fn new(addresses: u16, stall_max: u64, budgets: Budgets) -> Self {
        Self { addresses, stall_max, budgets, ..Self::default() }
    }

    /// A line as the ledger takes it: a record, or an entry of the journal, which ends once. Returned is what it counts
    /// where it may repeat another.
    pub fn commit(&mut self, line: Record) -> Vec<Record> {
        self.lines += 1;
        assert_eq!(line.seq, self.lines, "lines are out of order");
        match line.journal {
            Journal::Off => {}
            Journal::Open(id) => {
                assert!(self.open.insert(id), "entry {id} is opened twice");
                self.journaled.insert(name_of(&line).to_owned());
            }
            Journal::Close(id) | Journal::Withdraw(id) => assert!(self.open.remove(&id), "entry {id} is not open"),
        }
        if !line.journal.is_record() {
            return Vec::new();
        }
        let counted = if line.may_repeat() { counted(&self.committed, &line) } else { Vec::new() };
        if counted.is_empty() {
            self.committed.push(line);
        }
        self.committed.extend(counted.iter().cloned());
        counted
    }

    /// One worker may act; false where none had anything to do.
    pub fn act(&mut self, rng: &mut Rng, now: u64) -> bool {
        self.stalled_until = self.stalled_until.filter(|&until| now < until);
        if self.budgets.sum.is_some() || self.pending.is_empty() {
            let records = (&self.committed[..], self.lines, !self.pending.is_empty());
            self.replies.extend(self.budgets.act(rng, now, records));
        }
        let may_commit = self.stalled_until.is_none() && self.budgets.sum.is_none();
        let commits = !self.pending.is_empty() && may_commit;
        match rng.below(4) {
            0 if commits && self.stall_max > 0 && rng.below(8) == 0 => {
                self.stalled_until = Some(now + self.stall_max / [1, 5, 100, 10_000][rng.below(4)]);
            }
            0 if commits => {
                let batch = 1 + rng.below(self.pending.len());
                let lines: Vec<Record> = self.pending.drain(..batch).collect();
                let upto = lines.last().map_or(0, |line| line.seq);
                let retrieved = lines.into_iter().flat_map(|line| self.commit(line)).collect();
                self.replies.push_back(WorkerEvent::Committed { upto, retrieved });
            }
            1 if !self.tickets.is_empty() => {
                let ticket = self.tickets.pop_front().expect("not empty");
                let answer = Answer::new(200, "text/plain", format!("answer {ticket}"));
                self.replies.push_back(WorkerEvent::Answered { ticket, answer });
            }
            3 if !self.work.is_empty() => {
                let LongWork { ticket, work, .. } = self.work.pop_front().expect("not empty");
                work();
                self.replies.push_back(WorkerEvent::Worked { ticket });
            }
            2 if self.resolving => {
                self.resolving = false;
                let address = |n| SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST_PORT + n));
                self.replies
                    .push_back(WorkerEvent::Resolved { addresses: Ok((0..self.addresses).map(address).collect()) });
            }
            _ => {}
        }
        let commits = !self.pending.is_empty() && self.stalled_until.is_none();
        let sums = self.budgets.are_busy() && (self.budgets.sum.is_some() || self.pending.is_empty());
        commits
            || sums
            || !(self.tickets.is_empty() && self.work.is_empty() && self.replies.is_empty())
            || self.resolving
    }

    pub fn stop(&mut self) {
        self.replies.push_back(WorkerEvent::Stop);
    }
}

/// What a record counts that may repeat one: itself where nothing is known under its id; nothing where that was
/// reported; and where it was estimated, or not known, a correction makes that the truth.
fn counted(committed: &[Record], record: &Record) -> Vec<Record> {
    let is_same = |before: &&Record| before.response_id.is_some() && before.response_id == record.response_id;
    let is_told = |before: &&Record| before.usage_source != UsageSource::None;
    let mut before = committed.iter().filter(is_same).filter(is_told);
    let Some(first) = before.next() else { return vec![record.clone()] };
    let (usage, usage_source) = (Usage::default(), UsageSource::None);
    let nothing = Record { usage, usage_source, cost_nano_usd: Some(0), ..record.clone() };
    if first.usage_source.is_report() || before.next().is_some() {
        return vec![nothing];
    }
    let (truth, estimate) = (record.cost_nano_usd.expect("it has a price"), first.cost_nano_usd.unwrap_or(0));
    let less = Correction {
        less: first.usage.excess_over(&record.usage),
        less_nano_usd: estimate.saturating_sub(truth),
        gives_price: first.cost_nano_usd.is_none(),
    };
    let correction = Record {
        seq: record.seq,
        usage_source: UsageSource::Correction,
        usage: record.usage.excess_over(&first.usage),
        cost_nano_usd: Some(truth.saturating_sub(estimate)),
        is_retrieval: true,
        correction: Some(Box::new(less)),
        ..first.clone()
    };
    vec![nothing, correction]
}

/// The loop's view of them.
#[derive(Clone)]
pub struct SharedWorkers(pub Rc<RefCell<FakeWorkers>>);

impl Workers for SharedWorkers {
    fn submit(&mut self, records: Vec<Record>) {
        self.0.borrow_mut().pending.extend(records);
    }

    fn ask(&mut self, job: Job) -> bool {
        let (Job::Usage { ticket, .. }
        | Job::Dashboard { ticket, .. }
        | Job::Admin { ticket, .. }
        | Job::Render { ticket, .. }) = job;
        let tickets = &mut self.0.borrow_mut().tickets;
        let has_room = tickets.len() < 2;
        if has_room {
            tickets.push_back(ticket);
        }
        has_room
    }

    fn work(&mut self, work: LongWork) {
        self.0.borrow_mut().work.push_back(work);
    }

    fn sum_spend_sums(&mut self, period: Period) {
        self.0.borrow_mut().budgets.want(period);
    }

    fn resolve(&mut self) {
        self.0.borrow_mut().resolving = true;
    }

    fn collect(&mut self, into: &mut Vec<WorkerEvent>) {
        into.extend(self.0.borrow_mut().replies.drain(..));
    }
}
