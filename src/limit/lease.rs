//! What the nodes of a fleet and their engine say to each other of an account: the words of a lease of amounts.
//!
//! All numbers are absolute, and each message of a lease has a higher number than the one before: a lost, doubled or
//! late message changes nothing. In: numbers. Out: numbers. Never: a decision, which is the [`purse`](super::purse)'s
//! on a node, and on the engine that of `src/fleet/schema/leases.sql`.

use super::bucket::Rate;
use super::levels::LimitLevel;
use std::fmt::Write;
use std::sync::Arc;

/// The largest capacity that decays, and so the largest limit of a minute that a fleet tells from none: the engine
/// counts 60,000 parts of each unit in 64 bits.
const DECAYING_MAX: u64 = 100_000_000_000;
/// The largest capacity that does not, nano-dollars: four billion dollars.
const LASTING_MAX: u64 = 4_000_000_000_000_000_000;

/// Messages of a process are numbered from its own number times this: above those of all before it.
pub const FIRST_SEQ: i64 = 1 << 40;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests of a minute.
    Requests,
    /// Tokens of a minute.
    Tokens,
    /// Requests in flight.
    Slots,
    /// Nano-dollars of a day or a month.
    Budget,
}

impl Kind {
    /// The letter that an account's name begins with.
    pub const fn letter(self) -> char {
        match self {
            Self::Requests => 'r',
            Self::Tokens => 't',
            Self::Slots => 'c',
            Self::Budget => 'b',
        }
    }

    /// True where what was taken flows back by itself.
    pub const fn decays(self) -> bool {
        matches!(self, Self::Requests | Self::Tokens)
    }

    /// True where what a node holds is void when it has not been heard of for a while. Money is not: what a node that
    /// is gone has spent is known when its ledger is back.
    pub const fn expires(self) -> bool {
        !matches!(self, Self::Budget)
    }
}

/// A limit as both sides reckon with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub kind: Kind,
    /// What may be out at once, units; at least 1.
    pub cap: i64,
    /// Units that flow back in a minute; 0 where none do.
    pub per_minute: i64,
}

impl Terms {
    /// A limit of requests or tokens a minute.
    pub fn of_rate(kind: Kind, rate: Rate) -> Self {
        debug_assert!(kind.decays());
        Self { kind, cap: units(rate.burst, DECAYING_MAX), per_minute: units(rate.per_minute, DECAYING_MAX) }
    }

    /// A limit of requests in flight, or a budget in nano-dollars.
    pub fn of_stock(kind: Kind, cap: u64) -> Self {
        debug_assert!(!kind.decays());
        Self { kind, cap: units(cap, LASTING_MAX), per_minute: 0 }
    }
}

/// So many units, or as many as are told from infinitely many.
fn units(count: u64, max: u64) -> i64 {
    count.min(max).cast_signed()
}

/// Writes the name of an account, in place of what was in `out`: the engine's key. `period` is empty, or the day or
/// month of a budget.
pub fn write_account(out: &mut String, kind: Kind, level: LimitLevel, period: &str, name: &str) {
    out.clear();
    // A string takes everything.
    let _ = write!(out, "{}:{}:{period}:{name}", kind.letter(), level.label());
}

/// What a node says of one account, and what it would like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub account: Arc<str>,
    pub terms: Terms,
    /// The lease: the number of its first message.
    pub lease: i64,
    /// No message of it has been answered: it may be new, and takes the place of an older one of this ledger.
    pub opens: bool,
    /// Higher than that of every message of this ledger before it: see [`FIRST_SEQ`].
    pub seq: i64,
    /// Taken by requests since the lease began; of a budget, all that this node's ledger has spent in the period.
    pub spent: i64,
    /// Given back to the engine since the lease began.
    pub returned: i64,
    /// Of `spent`, nano-dollars that requests in flight may cost.
    pub held: i64,
    /// What should be free here.
    pub want: i64,
    /// What must be: so much is granted, or nothing.
    pub need: i64,
    /// So much of `need` will do where nobody else has anything free or in flight.
    pub least: i64,
    /// Nothing is held, and the lease ends.
    pub closes: bool,
}

/// What comes of messages: see [`Answer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The engine has answered.
    Answers {
        /// By account, and the number of the message.
        answers: Vec<(Arc<str>, i64, Answer)>,
        /// Accounts of which others need what this ledger holds.
        recalled: Vec<String>,
        /// Nodes that live, this one included.
        nodes: i64,
    },
    /// It is out of reach: these messages get no answer.
    Nothing { asks: Vec<(Arc<str>, i64)> },
}

/// What the engine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Granted since the lease began; `None` where the engine knows of no such lease.
    pub granted: Option<i64>,
    /// What of the capacity nobody holds.
    pub available: i64,
    /// What others hold free or have in flight of it.
    pub others: i64,
    /// 0 where `need` was met, or `least` did; else milliseconds until it is worth asking again; below 0 where that
    /// depends on others.
    pub wait_ms: i64,
}
