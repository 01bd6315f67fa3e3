//! What a node of a fleet holds of one account: an amount that its engine has granted, and that requests take from at
//! once.
//!
//! ```text
//!   None ─request→ Asking ─grant→ Held ─less than half of what is wanted, or old→ Renewing (serves) ─answer→ Held
//!   Held ─idle, recalled→ Returning ─answer→ None
//!   Asking ─refused→ Refused, until its wait is over
//!   Held ─void→ Cut ─any answer→ Held (what was spent meanwhile arrives as a debt)
//!   the engine knows no such lease → a new one, which what was spent is a debt of
//! ```
//!
//! `free = granted − spent − returned`. What keeps the sum over all nodes within the limit:
//!
//! 1. Only what was granted is spent.
//! 2. The engine counts as taken what nodes hold free, so a free amount never flows back while it is held. Of what
//!    decays, `free ≤ counted`, that is what the engine holds as free here: a request that gives back more of it than
//!    that gives it back to the engine, where the decay of it has gone on.
//! 3. A lease is void on the node before it is on the engine: 0.2 % of its time earlier, from when it was asked for, by
//!    the clock that is further on. One of them goes on while the machine sleeps.
//! 4. What is spent beyond a grant (an answer that was larger than expected, an outage) is a debt: always granted.
//!
//! In: what requests take and give back, answers, `now`. Out: whether there is room, and what to ask. Never: a clock, a
//! name, another purse.

use super::bucket::{Bucket, Rate};
use super::lease::{Kind, Terms};
use super::status::BucketStatus;
use crate::base::clock::{MILLISECOND, Now, SECOND};

/// Time between two looks at a purse.
pub const BEAT: u64 = 250 * MILLISECOND;
/// What nobody has used for so long goes back.
const IDLE: u64 = SECOND;
/// An answer that takes longer does not come.
const ANSWER_MAX: u64 = SECOND;
/// A refusal stands for so long at most before the engine is asked again, milliseconds.
const REFUSED_MS_MAX: i64 = 1_000;
/// And for so long where it depends on others.
const UNCERTAIN_MS: i64 = 250;
/// What one account may be in debt, minutes of its rate: one absurd report shuts nobody out for days.
const DEBT_MINUTES_MAX: i64 = 60;
/// Parts of a unit in which averages are kept.
const AVERAGE_PARTS: i64 = 16;

/// What a request takes of one account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    pub need: i64,
    /// So much will do where it is the last of the account: nobody else has any of it.
    pub least: i64,
    /// So much will do also beside others.
    pub may_share: bool,
}

impl Demand {
    /// All of it, or nothing.
    pub fn all(need: i64) -> Self {
        Self { need, least: need, may_share: false }
    }

    /// What must be free, whoever else has some.
    fn floor(self) -> i64 {
        if self.may_share { self.least.clamp(1, self.need) } else { self.need }
    }
}

/// What an engine that is out of reach means for requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOutage {
    /// Each node lets through its share of the limit; of a budget, what it holds.
    #[default]
    Share,
    /// What a node holds, and nothing else that is limited, is let through.
    Closed,
    /// All is let through, and counts as a debt.
    Open,
}

/// The engine is out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    pub policy: OnOutage,
    /// Nodes that were there when it was last seen, at least 1.
    pub nodes: i64,
}

/// Whether a request may take what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// So much, which is all that was needed but for the last of a budget.
    Enough(i64),
    /// The engine is to be asked.
    Cold,
    /// The limit is reached; nanoseconds until it is worth trying again.
    Refused(u64),
    /// The engine cannot be asked.
    OutOfReach,
}

/// A node's part of one account.
#[derive(Clone, Debug)]
pub struct Purse {
    terms: Terms,
    granted: i64,
    /// Taken by requests.
    spent: i64,
    /// Given back to the engine.
    returned: i64,
    /// Of slots and money: of `spent`, what requests in flight may give back.
    held: i64,
    /// Of what decays: the engine takes so much to be free here, or more.
    counted: i64,
    /// The number of the lease; 0 where none was asked for.
    lease: i64,
    /// The engine has answered a message of it.
    is_open: bool,
    /// `spent` and `returned` as the engine was last told.
    told: (i64, i64),
    asked: Option<Asked>,
    wish: Wish,
    void_at: Now,
    renew_at: u64,
    refused: Option<Refused>,
    /// What is free is the last of a budget.
    is_last: bool,
    is_recalled: bool,
    /// What of the capacity nobody had, as the engine last said, and what others may give back.
    available: i64,
    others: i64,
    /// Since the last look: what requests took; of slots and money, the most that was held at once.
    recent: i64,
    /// The moving average of that, in parts of a unit.
    average: i64,
    used_at: u64,
    /// While the engine is out of reach: this node's share of what flows in.
    share: Option<Share>,
}

/// A message that is not answered.
#[derive(Clone, Copy, Debug)]
struct Asked {
    seq: i64,
    need: i64,
    closes: bool,
    at: Now,
}

/// What requests wait for: the first of them, and all together.
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    need: i64,
    least: i64,
    total: i64,
}

/// The engine has refused so much more than was free here.
#[derive(Clone, Copy, Debug)]
struct Refused {
    lack: i64,
    until: u64,
}

/// One node's share of a bucket: a whole bucket, of which each takes as many times as much as there are nodes.
#[derive(Clone, Copy, Debug)]
struct Share {
    bucket: Bucket,
    rate: Rate,
    nodes: u64,
}

impl Share {
    fn of_all(&self, units: i64) -> u64 {
        units.unsigned_abs().saturating_mul(self.nodes)
    }
}

impl Purse {
    /// One that holds nothing.
    pub fn new(terms: Terms, now: Now) -> Self {
        Self {
            terms,
            granted: 0,
            spent: 0,
            returned: 0,
            held: 0,
            counted: 0,
            lease: 0,
            is_open: false,
            told: (0, 0),
            asked: None,
            wish: Wish::default(),
            void_at: Now::default(),
            renew_at: 0,
            refused: None,
            is_last: false,
            is_recalled: false,
            available: 0,
            others: 0,
            recent: 0,
            average: 0,
            used_at: now.mono,
            share: None,
        }
    }

    /// What may be taken at once; below 0 a debt.
    pub fn free(&self) -> i64 {
        self.granted - self.spent - self.returned
    }

    /// Whether a request finds what it needs. Who finds it cold waits for an answer, and nobody overtakes them.
    pub fn room(&mut self, terms: Terms, demand: Demand, outage: Option<Outage>, now: Now) -> Room {
        self.terms = terms;
        self.used_at = now.mono;
        self.give_up_void(now);
        if demand.need <= 0 {
            return Room::Enough(0);
        }
        let (free, floor) = (self.free(), demand.floor());
        let is_next = self.wish.need == 0 || outage.is_some();
        let is_last = self.is_last && self.held == 0 && free >= demand.least.max(1);
        if is_next && (free >= floor || is_last) {
            return Room::Enough(free.min(demand.need));
        }
        if let Some(refused) = self.refused.filter(|refused| now.mono < refused.until)
            && floor - free.max(0) >= refused.lack
        {
            return Room::Refused(refused.until - now.mono);
        }
        match outage {
            Some(outage) => self.room_without_engine(demand.need, outage, now),
            None => {
                self.wish_for(demand);
                Room::Cold
            }
        }
    }

    fn wish_for(&mut self, demand: Demand) {
        if self.wish.need == 0 {
            let floor = demand.floor();
            // While other requests of this node's are in flight it is not the last of it.
            let least = if self.held == 0 { demand.least.max(1) } else { floor };
            (self.wish.need, self.wish.least) = (floor, least.min(floor));
        }
        self.wish.total = self.wish.total.saturating_add(demand.need);
    }

    fn room_without_engine(&mut self, need: i64, outage: Outage, now: Now) -> Room {
        match (outage.policy, self.terms.kind) {
            (OnOutage::Open, _) => Room::Enough(need),
            (OnOutage::Share, Kind::Slots) if self.spent + need <= self.terms.cap / outage.nodes => Room::Enough(need),
            (OnOutage::Share, Kind::Slots) => Room::Refused(UNCERTAIN_MS.unsigned_abs() * MILLISECOND),
            (OnOutage::Share, Kind::Requests | Kind::Tokens) => self.share_room(need, outage.nodes, now),
            (OnOutage::Closed, _) | (OnOutage::Share, Kind::Budget) => Room::OutOfReach,
        }
    }

    /// A share begins empty, and what was held is given up for it: what came in until now is in the purses of others.
    fn share_room(&mut self, need: i64, nodes: i64, now: Now) -> Room {
        self.give_up();
        let Terms { cap, per_minute, .. } = self.terms;
        // One request at a time goes through, however small the share.
        let rate = Rate { per_minute: per_minute.unsigned_abs(), burst: cap.max(nodes).unsigned_abs() };
        let nodes = nodes.unsigned_abs();
        let share = self.share.get_or_insert(Share { bucket: Bucket::empty(now.mono), rate, nodes });
        match share.bucket.has(share.rate, now.mono, share.of_all(need)) {
            Ok(()) => Room::Enough(need),
            Err(wait) => Room::Refused(wait),
        }
    }

    /// A request takes so much of what decays, which there was room for.
    pub fn take(&mut self, units: i64, now: Now) {
        if let Some(share) = &mut self.share {
            let of_all = share.of_all(units);
            share.bucket.take(share.rate, now.mono, of_all);
        }
        self.charge(units, now);
        self.recent = self.recent.saturating_add(units);
    }

    /// So much was used beyond what was taken; a debt where it is not here.
    pub fn charge(&mut self, units: i64, now: Now) {
        self.used_at = now.mono;
        let debt_max = self.terms.per_minute.saturating_mul(DEBT_MINUTES_MAX);
        let spent_max = (self.granted - self.returned).saturating_add(debt_max);
        self.spent = self.spent.saturating_add(units).min(spent_max.max(self.spent));
    }

    /// A request used less than it took.
    pub fn give_back(&mut self, units: i64) {
        self.spent -= units;
        self.return_uncounted();
    }

    /// What the engine does not count as free here has flowed back meanwhile: it is not spent again.
    fn return_uncounted(&mut self) {
        if self.terms.kind.decays() {
            self.returned += (self.free() - self.counted).max(0);
        }
    }

    /// What is spent of slots or money now, and how much of that requests in flight may still give back.
    pub fn set_spent(&mut self, spent: i64, held: i64) {
        debug_assert!(!self.terms.kind.decays());
        self.is_last &= held == 0;
        (self.spent, self.held) = (spent, held);
        self.recent = self.recent.max(held);
    }

    /// What is left of a budget, with what others may yet give back, as of the last answer; `None` before the first.
    pub fn left(&self) -> Option<i64> {
        self.is_open.then(|| (self.available + self.others + self.free() + self.held).max(0))
    }

    /// The state of a limit of a minute, as headers tell it: as fresh as the last answer.
    pub fn status(&self) -> BucketStatus {
        let Terms { cap, per_minute, .. } = self.terms;
        let remaining = (self.available + self.free()).clamp(0, cap);
        let missing = i128::from(cap - remaining) * i128::from(60 * SECOND) / i128::from(per_minute.max(1));
        let reset = u64::try_from(missing).unwrap_or(u64::MAX);
        BucketStatus { limit: cap.unsigned_abs(), remaining: remaining.unsigned_abs(), reset }
    }

    /// A lease that may have expired is not spent from.
    fn give_up_void(&mut self, now: Now) {
        let is_void = now.mono >= self.void_at.mono || now.unix >= self.void_at.unix;
        if is_void && self.terms.kind.expires() {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.returned += self.free().max(0);
        self.counted = 0;
    }

    /// Looks at what was taken since the last look.
    pub fn look(&mut self) {
        let parts = self.recent.saturating_mul(AVERAGE_PARTS);
        self.average += (parts - self.average) / 10 * 3;
        self.recent = self.held;
    }

    /// True where a new purse would do as well.
    pub fn is_forgettable(&self, now: Now) -> bool {
        if self.asked.is_some() || self.wish.need > 0 || now.mono < self.used_at + IDLE {
            return false;
        }
        let idle = i128::from(now.mono - self.used_at);
        match self.terms.kind {
            // Without an engine: what was spent would have flowed back by itself.
            Kind::Requests | Kind::Tokens if !self.is_open => {
                i128::from(self.spent) * i128::from(60 * SECOND) <= idle * i128::from(self.terms.per_minute)
                    && self.spent >= 0
            }
            Kind::Slots => !self.is_open && self.spent == 0,
            // The next one begins with what its ledger has spent.
            Kind::Budget => {
                let is_told = self.is_open && self.told == (self.spent, self.returned);
                self.held == 0 && (is_told && self.free() == 0 || self.spent == 0 && !self.is_open)
            }
            Kind::Requests | Kind::Tokens => false,
        }
    }
}

mod messages;

#[cfg(test)]
mod tests;
