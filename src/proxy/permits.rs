//! The queue to the ledger as the loop sees it: permits for the records still to come, the order of those under way,
//! and who waits for which commit.
//!
//! ```text
//!   reserve ──▶ permit ──submit──▶ under way, has a `seq` ──committed──▶ in the ledger: the permit is free again
//!                  └────release──▶ (free again)                 └──▶ whoever waits for this `seq` goes on
//! ```
//!
//! A request is admitted only with a permit for each record that it can have, so the queue is never full when a record
//! is due: what cannot be recorded is refused at the door, before it costs anything. A record under way keeps its
//! permit until it is committed.
//!
//! In: records, commits, and who waits. Out: the records that are to go over now, and who goes on. Never: an exchange,
//! a clock, a decision about an answer.

use super::ExchangeKey;
use super::group_commit::GroupCommit;
use crate::base::clock::Now;
use crate::usage::draft::Draft;
use crate::usage::record::{Journal, Record};
use std::collections::VecDeque;
use std::num::NonZeroU64;

/// Permits, records on their way to the ledger, and who waits for them.
#[derive(Default)]
pub struct Permits {
    /// Permits that there are.
    capacity: u64,
    /// The ledger will never commit what it is sent: no permit is given.
    closed: bool,
    /// Those held for records that are still to come.
    reserved: u64,
    /// `seq` of the last record that was submitted.
    submitted: u64,
    /// `seq` of the last record that is known to be committed.
    committed: u64,
    /// Records that are to go to the ledger.
    outgoing: Vec<Record>,
    group: GroupCommit,
    /// Who waits for the commit of which `seq`, in the order of `seq`; `None` for one who waits no more.
    waiting: VecDeque<(u64, Option<ExchangeKey>)>,
    /// How many of `waiting` are still waiting.
    waiting_count: usize,
    /// Who waits for a permit, in order.
    starved: VecDeque<ExchangeKey>,
    journal: JournalLines,
}

/// The lines of the journal among the records: they are no records, and are not counted as such.
#[derive(Default)]
struct JournalLines {
    /// Entries opened so far.
    opened: u64,
    /// `seq` of each line that is under way.
    under_way: VecDeque<u64>,
    /// How many are committed.
    committed: u64,
}

impl Permits {
    /// `capacity` records may be under way or still to come at one time.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity as u64, ..Self::default() }
    }

    /// Permits that nobody has.
    pub fn available(&self) -> u64 {
        let capacity = if self.closed { 0 } else { self.capacity };
        capacity.saturating_sub(self.reserved + self.under_way())
    }

    /// Gives no permit, or gives permits again: whether the ledger will ever commit what it is sent.
    pub fn set_closed(&mut self, closed: bool) {
        self.closed = closed;
    }

    /// Takes permits for records still to come; false, and none taken, where there are not as many.
    #[must_use]
    pub fn reserve(&mut self, count: u64) -> bool {
        let granted = count <= self.available();
        if granted {
            self.reserved += count;
        }
        granted
    }

    /// Gives permits back that are not needed, or that a submitted record has taken over.
    pub fn release(&mut self, count: u64) {
        debug_assert!(count <= self.reserved, "more permits are given back than were taken");
        self.reserved -= count;
    }

    /// Permits held for records that are still to come.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Records that are submitted and not known to be committed.
    pub fn under_way(&self) -> u64 {
        self.submitted - self.committed
    }

    /// `seq` of the last record that was submitted; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.submitted
    }

    /// The `seq` that the next line will have.
    pub fn next_seq(&self) -> u64 {
        self.submitted + 1
    }

    /// Sends a line on its way to the ledger; its `seq`.
    pub fn submit(&mut self, mut record: Record) -> u64 {
        record.seq = self.next_seq();
        self.submitted = record.seq;
        if !record.journal.is_record() {
            self.journal.under_way.push_back(record.seq);
        }
        self.outgoing.push(record);
        self.submitted
    }

    /// Opens an entry in the journal for a request that is about to be sent, by one of its permits. Its number goes
    /// into the draft; returned is its `seq`.
    pub fn open_entry(&mut self, draft: &mut Draft) -> u64 {
        self.journal.opened += 1;
        draft.entry = NonZeroU64::new(self.journal.opened);
        self.release(1);
        self.submit(Record { journal: Journal::Open(self.journal.opened), ..draft.clone().into() })
    }

    /// Takes an entry back whose request was not sent after all, by one of its permits.
    pub fn withdraw_entry(&mut self, entry: NonZeroU64) {
        self.release(1);
        self.submit(Record { journal: Journal::Withdraw(entry.get()), ..Record::default() });
    }

    /// The records that go to the ledger now, in order. Where they `may_gather`, some wait for others' records to share
    /// a commit, until [`Permits::due`] at the latest; `open` exchanges may still add theirs.
    pub fn take_outgoing(&mut self, now: Now, may_gather: bool, open: usize) -> Vec<Record> {
        let open = if may_gather { open.saturating_sub(self.waiting_count) } else { 0 };
        if self.outgoing.is_empty() || !self.group.is_due(now.mono, self.outgoing.len(), open) {
            return Vec::new();
        }
        std::mem::take(&mut self.outgoing)
    }

    /// When records that wait for others go over at the latest, monotonic nanoseconds; `None` where none wait.
    pub fn due(&self) -> Option<u64> {
        self.group.due()
    }

    /// True where no record waits to go over.
    pub fn all_taken(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Someone goes on when `seq` is committed: [`Permits::next_committed`] says so. `seq` is not lower than that of
    /// anybody who waits.
    pub fn await_commit(&mut self, seq: u64, who: ExchangeKey) {
        debug_assert!(self.waiting.back().is_none_or(|&(last, _)| last < seq), "commits are awaited in their order");
        self.waiting.push_back((seq, Some(who)));
        self.waiting_count += 1;
    }

    /// Whoever waits for this `seq` waits no more. O(log n): where the ledger is in trouble, everybody's wait may end
    /// at the same time.
    pub fn stop_waiting(&mut self, seq: u64) {
        if let Ok(at) = self.waiting.binary_search_by_key(&seq, |&(seq, _)| seq)
            && self.waiting[at].1.take().is_some()
        {
            self.waiting_count -= 1;
        }
        while self.waiting.pop_front_if(|(_, who)| who.is_none()).is_some() {}
    }

    /// Every record up to `upto` is in the ledger; returned is how many records that is, the journal's lines left out.
    pub fn committed(&mut self, upto: u64) -> u64 {
        self.committed = self.committed.max(upto);
        while self.journal.under_way.pop_front_if(|&mut seq| seq <= upto).is_some() {
            self.journal.committed += 1;
        }
        upto - self.journal.committed
    }

    /// The next one whose awaited record is committed.
    pub fn next_committed(&mut self) -> Option<ExchangeKey> {
        while let Some((_, who)) = self.waiting.pop_front_if(|&mut (seq, _)| seq <= self.committed) {
            if who.is_some() {
                self.waiting_count -= 1;
                return who;
            }
        }
        None
    }

    /// True where this exchange waits for a commit that is still to come. For tests of lost wake-ups.
    pub fn is_awaiting(&self, who: ExchangeKey) -> bool {
        self.waiting.iter().any(|&(seq, waiting)| waiting == Some(who) && seq > self.committed)
    }

    /// Someone waits for permits, behind those who wait already.
    pub fn await_permit(&mut self, who: ExchangeKey) {
        self.starved.push_back(who);
    }

    /// Someone waits for permits, before all others: there were not enough yet.
    pub fn await_permit_first(&mut self, who: ExchangeKey) {
        self.starved.push_front(who);
    }

    /// The first of those who wait for permits, who waits no more.
    pub fn next_starved(&mut self) -> Option<ExchangeKey> {
        self.starved.pop_front()
    }

    /// True where this exchange waits for a permit and none is left. For tests of lost wake-ups.
    pub fn is_starved(&self, who: ExchangeKey) -> bool {
        self.available() == 0 && self.starved.contains(&who)
    }
}

#[cfg(test)]
mod tests;
