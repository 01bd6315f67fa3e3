//! A model of the engine: the rules of `src/fleet/schema/leases.sql`, in memory.

use openai_api_proxy::limit::lease::{Answer, Ask, Kind};
use std::collections::{BTreeMap, BTreeSet};

/// An expired lease is forgotten after so many milliseconds.
const FORGOTTEN_AFTER: i64 = 3_600_000;
const USED_MAX: i64 = 4_000_000_000_000_000_000;

#[derive(Clone, Debug, Default)]
pub struct Lease {
    pub lease: i64,
    pub seq: i64,
    pub granted: i64,
    pub spent: i64,
    pub returned: i64,
    held: i64,
    expires: i64,
    pub expired: bool,
}

impl Lease {
    fn free(&self) -> i64 {
        (self.granted - self.spent - self.returned).max(0)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Account {
    /// In parts.
    pub used: i64,
    at: i64,
    pub leases: BTreeMap<i64, Lease>,
}

/// What the leases of others come to.
#[derive(Default)]
struct Others {
    free: i64,
    busy: i64,
    lives: i64,
}

#[derive(Clone, Debug, Default)]
pub struct Engine {
    pub accounts: BTreeMap<String, Account>,
    recalls: BTreeSet<(i64, String)>,
    /// Nothing is granted until then.
    pub quiet_until: i64,
    /// All that was ever granted.
    pub granted: i64,
}

fn parts(rate: i64) -> i64 {
    if rate > 0 { 60_000 } else { 1 }
}

impl Account {
    /// Time has passed: leases of others expire, and what was used flows back.
    fn follow_clock(&mut self, kind: Kind, rate: i64, ledger: i64, now: i64) -> Others {
        let mut others = Others::default();
        let used = &mut self.used;
        self.leases.retain(|&of, lease| {
            if of == ledger {
                return true;
            }
            if kind.expires() && !lease.expired && lease.expires < now {
                lease.expired = true;
                if kind == Kind::Slots {
                    *used -= lease.granted - lease.returned;
                }
            }
            if !lease.expired {
                others.free += lease.free();
                others.busy += lease.free() + lease.held;
                others.lives += i64::from(lease.expires >= now);
            }
            !lease.expired || lease.expires + FORGOTTEN_AFTER >= now
        });
        if rate > 0 && now > self.at && self.used > 0 {
            self.used -= rate * (now - self.at).min(self.used / rate + 1);
        }
        self.at = now;
        others
    }

    /// The lease that a message is of; `None` where there is none such.
    fn lease(&mut self, ask: &Ask, ledger: i64, others: &Others, now: i64) -> Option<Lease> {
        let kind = ask.terms.kind;
        let new = Lease { lease: ask.lease, expires: now, ..Lease::default() };
        match self.leases.get(&ledger) {
            None => ask.opens.then_some(new),
            Some(old) if ask.opens && ask.lease > old.lease => {
                match kind {
                    Kind::Budget => self.used -= old.granted - old.returned,
                    Kind::Slots if !old.expired => self.used -= old.granted - old.returned,
                    Kind::Requests | Kind::Tokens if !old.expired => {
                        self.used = self.used.max((others.free + old.free()) * parts(ask.terms.per_minute));
                    }
                    _ => {}
                }
                Some(new)
            }
            Some(old) => (old.lease == ask.lease).then(|| old.clone()),
        }
    }

    /// Takes over what a message says.
    fn hear(&mut self, lease: &mut Lease, ask: &Ask, others: &Others) {
        let part = parts(ask.terms.per_minute);
        let is_late = lease.expired && ask.terms.kind != Kind::Slots;
        if lease.expired && !is_late {
            self.used += lease.granted - lease.returned;
        }
        lease.expired = false;
        let held = if is_late { 0 } else { lease.free() };
        self.used = self.used.max((others.free + held) * part);
        if ask.seq > lease.seq {
            if !is_late {
                self.used -= (ask.returned - lease.returned) * part;
            }
            (lease.seq, lease.spent, lease.returned, lease.held) = (ask.seq, ask.spent, ask.returned, ask.held);
        }
        let debt = lease.spent + lease.returned - lease.granted;
        if is_late {
            lease.granted = lease.granted.min(lease.spent + lease.returned);
        }
        if debt > 0 {
            lease.granted += debt;
            self.used = (self.used + debt * part).min(USED_MAX);
        }
        self.used = self.used.max((others.free + lease.free()) * part);
    }
}

impl Engine {
    /// Answers messages of one ledger's process, each for itself, and says which accounts it is to return.
    pub fn exchange(&mut self, now: i64, ttl: i64, ledger: i64, asks: &[Ask]) -> (Vec<Answer>, Vec<String>) {
        let mut order: Vec<usize> = (0..asks.len()).collect();
        order.sort_by_key(|&at| &asks[at].account);
        let unknown = Answer { granted: None, available: 0, others: 0, wait_ms: 0 };
        let mut answers = vec![unknown; asks.len()];
        for at in order {
            answers[at] = self.answer(now, ttl, ledger, &asks[at]).unwrap_or(unknown);
        }
        let mine = self.recalls.extract_if(.., |(of, _)| *of == ledger);
        (answers, mine.map(|(_, account)| account).collect())
    }

    fn answer(&mut self, now: i64, ttl: i64, ledger: i64, ask: &Ask) -> Option<Answer> {
        let (terms, part) = (ask.terms, parts(ask.terms.per_minute));
        let account = self.accounts.entry(ask.account.to_string()).or_default();
        let mut others = account.follow_clock(terms.kind, terms.per_minute, ledger, now);
        let Some(mut lease) = account.lease(ask, ledger, &others, now) else {
            others.free += account.leases.get(&ledger).filter(|lease| !lease.expired).map_or(0, Lease::free);
            account.used = account.used.max(others.free * part);
            return None;
        };
        account.hear(&mut lease, ask, &others);
        let is_quiet = now < self.quiet_until;
        let mut available = if is_quiet { 0 } else { (terms.cap * part).saturating_sub(account.used).div_euclid(part) };
        let (free, mut wait_ms, mut more) = (lease.free(), 0, 0);
        let lack = (ask.need - free).max(0);
        if lack > 0 && available < lack {
            if ask.least < ask.need && others.busy == 0 && free + available >= ask.least {
                more = available.max(0);
            } else {
                let missing = i128::from(account.used) + i128::from(lack * part) - i128::from(terms.cap * part);
                wait_ms = match terms.per_minute {
                    _ if is_quiet => self.quiet_until - now,
                    rate if rate > 0 && lack <= terms.cap - others.free - free => {
                        i64::try_from(-(-missing).div_euclid(rate.into())).expect("it is at most what is used")
                    }
                    _ => -1,
                };
                let holders =
                    account.leases.iter().filter(|(of, lease)| **of != ledger && !lease.expired && lease.free() > 0);
                self.recalls.extend(holders.map(|(&of, _)| (of, ask.account.to_string())));
            }
        } else if available > 0 && ask.want > free {
            let extra = (ask.want - free - lack).min((available - lack) / (others.lives + 2)).max(0);
            more = lack + extra - extra % ask.need.max(1);
        }
        lease.granted += more;
        self.granted += more;
        account.used += more * part;
        available -= more;
        lease.expires = now + ttl;
        let answer = Answer { granted: Some(lease.granted), available: available.max(0), others: others.busy, wait_ms };
        if ask.closes && ask.seq == lease.seq && lease.granted == lease.spent + lease.returned {
            lease.expires = now;
        }
        account.leases.insert(ledger, lease);
        Some(answer)
    }
}
