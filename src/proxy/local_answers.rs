//! Answers to local requests: who waits for which, and how many bytes of them wait for their clients.
//!
//! An answer from the ledger is whole in memory: it may not be read out of the database as its client takes it, for a
//! read transaction that lasts keeps the log from starting over. Each is bounded (see `reporting`), the questions
//! under way are, and so are all answers together that wait for their clients: [`ANSWER_BYTES_MAX`].
//!
//! In: clients that ask, answers' sizes. Out: tickets, and whether an answer may be put out. Never: an answer's
//! content.

use super::downstream::AnswerBytes;
use super::{DownKey, HIGH_WATERMARK};
use crate::http::reply::Fault;
use crate::local::Answer;
use std::collections::BTreeMap;

/// Bytes of all large answers together that may wait for clients who take their time; beyond, a question is refused.
/// Those of up to [`HIGH_WATERMARK`] are not counted: there are as many as connections.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Of these, the bytes of answers to holders of keys about themselves: whoever may read everything has the rest.
const OWN_BYTES_MAX: usize = ANSWER_BYTES_MAX / 2;

/// Questions that are under way, and large answers that wait for their clients.
#[derive(Default)]
pub struct LocalAnswers {
    asked: BTreeMap<u64, DownKey>,
    last_ticket: u64,
    /// What waits for its clients.
    waiting: AnswerBytes,
}

impl LocalAnswers {
    /// A client asks something that a thread answers; the ticket by which the answer comes.
    pub fn ask(&mut self, client: DownKey) -> u64 {
        self.last_ticket += 1;
        self.asked.insert(self.last_ticket, client);
        self.last_ticket
    }

    /// The answer to this ticket has come: whose it is.
    pub fn answered(&mut self, ticket: u64) -> Option<DownKey> {
        self.asked.remove(&ticket)
    }

    /// Takes room for an answer of this length until its client has taken it: what is counted for it, nothing for a
    /// small one; `None` where too much waits already. `is_own` says that it is about its asker, who sees nobody else.
    pub fn take_room(&mut self, length: usize, is_own: bool) -> Option<AnswerBytes> {
        let all = if length <= HIGH_WATERMARK { 0 } else { length };
        let counted = AnswerBytes { all, own: if is_own { all } else { 0 } };
        let mut waiting = self.waiting;
        waiting.add(counted);
        if all > 0 && (waiting.all > ANSWER_BYTES_MAX || is_own && waiting.own > OWN_BYTES_MAX) {
            return None;
        }
        self.waiting = waiting;
        Some(counted)
    }

    /// Gives the room of answers back that their client has taken, or never will.
    pub fn give_room_back(&mut self, counted: AnswerBytes) {
        let AnswerBytes { all, own } = self.waiting;
        self.waiting = AnswerBytes { all: all - counted.all, own: own - counted.own };
    }
}

/// The answer to a question that cannot be taken now.
pub fn overloaded(message: &str) -> Answer {
    Answer::error(Fault::Overloaded, message, None)
}

/// An answer in words.
pub fn text(status: u16, body: &str) -> Answer {
    Answer::new(status, "text/plain; charset=utf-8", body)
}

#[cfg(test)]
mod tests;
