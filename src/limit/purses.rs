//! All purses of a node, by their accounts, and the messages that they give rise to.
//!
//! In: what requests take, answers, `now`. Out: rooms, and messages. Bounded by the accounts that were used in the last
//! second, and by what an engine that is out of reach has not been told yet.

use super::lease::{Answer, Ask, FIRST_SEQ, Terms};
use super::purse::{Demand, Outage, Purse, Room};
use crate::base::clock::Now;
use crate::base::table::Table;
use std::collections::VecDeque;
use std::sync::Arc;

/// The purses of a node.
pub struct Purses {
    purses: Table<Arc<str>, Purse>,
    /// Each of them once.
    accounts: VecDeque<Arc<str>>,
    /// Those that requests wait for, since they were last asked for.
    wished: Vec<Arc<str>>,
    /// Of the last message.
    seq: i64,
    /// How long a lease lasts, nanoseconds.
    lasts: u64,
}

impl Purses {
    /// None, of a process with this number, which is higher than those of its ledger's processes before. A lease lasts
    /// so many nanoseconds.
    pub fn new(process: i64, lasts: u64) -> Self {
        let seq = process * FIRST_SEQ;
        Self { purses: Table::default(), accounts: VecDeque::new(), wished: Vec::new(), seq, lasts }
    }

    /// The purse of an account; a new one where there is none.
    pub fn purse(&mut self, account: &str, terms: Terms, now: Now) -> &mut Purse {
        if self.purses.get(account).is_none() {
            let account: Arc<str> = account.into();
            self.accounts.push_back(Arc::clone(&account));
            self.purses.insert(account, Purse::new(terms, now));
        }
        self.purses.get_mut(account).expect("it was put there")
    }

    /// Whether a request finds what it needs of an account.
    pub fn room(&mut self, account: &str, terms: Terms, demand: Demand, outage: Option<Outage>, now: Now) -> Room {
        let room = self.purse(account, terms, now).room(terms, demand, outage, now);
        if room == Room::Cold
            && let Some(account) = self.purses.get_key(account)
        {
            self.wished.push(Arc::clone(account));
        }
        room
    }

    /// The purse of an account, where there is one.
    pub fn get_mut(&mut self, account: &str) -> Option<&mut Purse> {
        self.purses.get_mut(account)
    }

    /// Adds the messages that requests wait for to `asks`.
    pub fn ask(&mut self, now: Now, asks: &mut Vec<Ask>) {
        for account in std::mem::take(&mut self.wished) {
            self.ask_for(&account, false, now, asks);
        }
    }

    /// Looks at every purse, once a beat: adds what is due to `asks`, and forgets those that hold nothing.
    pub fn beat(&mut self, now: Now, asks: &mut Vec<Ask>) {
        for _ in 0..self.accounts.len() {
            let Some(account) = self.accounts.pop_front() else { return };
            let Some(purse) = self.purses.get_mut(&account) else { continue };
            if purse.is_forgettable(now) {
                self.purses.remove(&account);
                continue;
            }
            purse.look();
            self.ask_for(&account, true, now, asks);
            self.accounts.push_back(account);
        }
        self.accounts.shrink_to(2 * self.accounts.len());
        self.purses.shrink_to(2 * self.accounts.len());
    }

    /// Gives all that is held back.
    pub fn return_all(&mut self, now: Now, asks: &mut Vec<Ask>) {
        for account in std::mem::take(&mut self.accounts) {
            if let Some(purse) = self.purses.get_mut(&account) {
                purse.recall();
            }
            self.ask_for(&account, true, now, asks);
            self.accounts.push_back(account);
        }
    }

    fn ask_for(&mut self, account: &Arc<str>, is_look: bool, now: Now, asks: &mut Vec<Ask>) {
        let ask = self.purses.get_mut(account).and_then(|purse| purse.ask(account, self.seq + 1, is_look, now));
        self.seq += i64::from(ask.is_some());
        asks.extend(ask);
    }

    /// The engine's answer to a message. Whoever waits may look again.
    pub fn answered(&mut self, account: &str, seq: i64, answer: Answer, now: Now) {
        let lasts = self.lasts;
        if let Some(purse) = self.purses.get_mut(account) {
            purse.answered(seq, answer, lasts, now);
        }
    }

    /// A message gets no answer. Whoever waits may look again.
    pub fn unanswered(&mut self, account: &str, seq: i64) {
        if let Some(purse) = self.purses.get_mut(account) {
            purse.unanswered(seq);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }
}
