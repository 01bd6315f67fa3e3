//! Held bodies that are with the thread that reads the long ones.
//!
//! What such a body takes stays counted until the thread gives it back, whether its exchange is still there or not: who
//! sends one after the other and leaves gets no more memory than who stays.
//!
//! In: bodies to read. Out: work for the thread, and what came of it. Never: a look into a body.

use super::ExchangeKey;
use super::refusal::Refusal;
use super::request_body::{BodyRead, Unread};
use crate::base::work::LongWork;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

/// What came of a body.
pub type Outcome = Result<BodyRead, Refusal>;

/// One that is away.
pub struct Away {
    pub exchange: ExchangeKey,
    pub user: Arc<str>,
    /// Memory that it takes.
    pub bytes: usize,
    read: Receiver<Outcome>,
}

impl Away {
    /// What came of it; `None` where the thread has not read it.
    pub fn read(&self) -> Option<Outcome> {
        self.read.try_recv().ok()
    }
}

/// All that are away.
#[derive(Default)]
pub struct BodiesAway {
    away: BTreeMap<u64, Away>,
    last_ticket: u64,
}

impl BodiesAway {
    /// The work of reading an exchange's body, which takes so many bytes of memory.
    pub fn send(&mut self, exchange: ExchangeKey, user: Arc<str>, bytes: usize, body: Unread) -> LongWork {
        self.last_ticket += 1;
        let (sender, read) = channel();
        self.away.insert(self.last_ticket, Away { exchange, user: Arc::clone(&user), bytes, read });
        // Nobody may be there to take it: at a stop.
        let work = Box::new(move || drop(sender.send(body.read(|_, _| true))));
        LongWork { ticket: self.last_ticket, user, work }
    }

    /// The work with this ticket is done.
    pub fn take(&mut self, ticket: u64) -> Option<Away> {
        self.away.remove(&ticket)
    }

    /// All of them, at a stop.
    pub fn take_all(&mut self) -> impl Iterator<Item = Away> + use<> {
        std::mem::take(&mut self.away).into_values()
    }

    /// Memory of those whose exchange is gone, bytes.
    pub fn unclaimed(&self, is_there: impl Fn(ExchangeKey) -> bool) -> usize {
        self.away.values().filter(|away| !is_there(away.exchange)).map(|away| away.bytes).sum()
    }

    /// True where this exchange's body is away.
    pub fn has(&self, exchange: ExchangeKey) -> bool {
        self.away.values().any(|away| away.exchange == exchange)
    }
}
