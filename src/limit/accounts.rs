//! Where the accounts stand: of users, of teams, and of everybody together; and the eviction of users from memory.
//!
//! Of more than a few, a user without a debt or a request in flight is evicted once their buckets are full again, so
//! memory is bounded by the users of the last minutes, whatever names clients make up. In: names. Out: accounts, with
//! the limits that they are under. Never: a decision on a request.

use super::account::{Account, Limited};
use super::in_force::LimitsInForce;
use super::levels::{LimitLevel, Payer};
use super::overrides::Limits;
use crate::base::clock::MILLISECOND;
use crate::base::table::Table;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How many are looked at by [`Accounts::sweep`], which takes well below a millisecond.
const SWEEP_AT_ONCE: usize = 1000;
/// Time between two sweeps.
const SWEEP_EVERY: u64 = 100 * MILLISECOND;
/// So few users stay for good: to evict them, and to meet them again, would cost each request more than they take.
pub(super) const USERS_FEW: usize = 1000;

/// What is taken of all limits.
#[derive(Default)]
pub(super) struct Accounts {
    pub(super) users: Table<Arc<str>, Account>,
    /// Of teams that are limited, or were with a request in flight.
    pub(super) teams: BTreeMap<Box<str>, TeamAccount>,
    pub(super) total: Account,
    /// Each user once, in the order in which they are looked at for eviction.
    pub(super) eviction_queue: VecDeque<Arc<str>>,
    sweep_at: u64,
}

/// A team's account and limits, which are found together.
pub(super) struct TeamAccount {
    limits: Limits,
    pub(super) account: Account,
}

/// Accounts that there are none of yet: they are kept once something is taken from them.
#[derive(Default)]
pub(super) struct NewAccounts {
    user: Option<Account>,
    team: Option<Account>,
}

impl Accounts {
    /// All that a payer takes from, where they stand; those that there are none of stand in `new`.
    pub(super) fn find<'a>(
        &'a mut self,
        in_force: &'a LimitsInForce,
        payer: Payer<'_>,
        new: &'a mut NewAccounts,
    ) -> [Option<Limited<'a>>; 3] {
        let of = |level, limits, account| Limited { level, limits, account };
        let user = in_force.limited(LimitLevel::User, payer).map(|limits| {
            let found = self.users.get_mut(payer.user);
            of(LimitLevel::User, limits, found.unwrap_or_else(|| new.user.insert(Account::default())))
        });
        let team = match payer.team.and_then(|team| self.teams.get_mut(team)) {
            Some(TeamAccount { limits, .. }) if limits.is_unlimited() => None,
            Some(TeamAccount { limits, account }) => Some(of(LimitLevel::Team, &*limits, account)),
            None => in_force
                .limited(LimitLevel::Team, payer)
                .map(|limits| of(LimitLevel::Team, limits, new.team.insert(Account::default()))),
        };
        let total = in_force.limited(LimitLevel::Total, payer);
        let total = total.map(|limits| of(LimitLevel::Total, limits, &mut self.total));
        [user, team, total]
    }

    /// Keeps what was taken from for the first time.
    pub(super) fn keep(&mut self, in_force: &LimitsInForce, payer: Payer<'_>, new: NewAccounts, now: u64) {
        if let Some(account) = new.user {
            if self.users.len() == USERS_FEW {
                self.sweep_at = now + SWEEP_EVERY;
            }
            let user: Arc<str> = payer.user.into();
            self.eviction_queue.push_back(Arc::clone(&user));
            self.users.insert(user, account);
        }
        if let Some((team, account)) = payer.team.zip(new.team) {
            let limits = *in_force.at(LimitLevel::Team, payer);
            self.teams.insert(team.into(), TeamAccount { limits, account });
        }
    }

    /// The account of a level, where there is one.
    pub(super) fn get(&self, level: LimitLevel, payer: Payer<'_>) -> Option<&Account> {
        match level {
            LimitLevel::User => self.users.get(payer.user),
            LimitLevel::Team => self.teams.get(payer.team?).map(|team| &team.account),
            LimitLevel::Total => Some(&self.total),
        }
    }

    /// The same with its limits, to be changed.
    pub(super) fn get_mut<'a>(
        &'a mut self,
        in_force: &'a LimitsInForce,
        level: LimitLevel,
        payer: Payer<'_>,
    ) -> Option<Limited<'a>> {
        let (limits, account) = match level {
            LimitLevel::User => (in_force.at(level, payer), self.users.get_mut(payer.user)?),
            LimitLevel::Team => {
                let team = self.teams.get_mut(payer.team?)?;
                (&team.limits, &mut team.account)
            }
            LimitLevel::Total => (in_force.at(level, payer), &mut self.total),
        };
        Some(Limited { level, limits, account })
    }

    /// Forgets teams that are not limited any more and have nothing in flight; the others have their limits from now.
    pub(super) fn follow(&mut self, in_force: &LimitsInForce) {
        self.teams.retain(|name, team| {
            let payer = Payer { user: "", team: Some(name) };
            team.limits = *in_force.at(LimitLevel::Team, payer);
            in_force.has_own(LimitLevel::Team, payer) || team.account.outstanding().0 > 0
        });
    }

    /// When [`Accounts::sweep`] should be called, monotonic nanoseconds; `None` where few are in memory.
    pub(super) fn sweep_due(&self) -> Option<u64> {
        (self.users.len() > USERS_FEW).then_some(self.sweep_at)
    }

    /// Evicts users whose state tells nothing, some at a time, so that no turn is long.
    pub(super) fn sweep(&mut self, in_force: &LimitsInForce, now: u64) {
        self.evict_some(SWEEP_AT_ONCE, in_force, now);
        self.sweep_at = now + SWEEP_EVERY;
    }

    /// Looks at so many users, and evicts those of them whose state tells nothing.
    pub(super) fn evict_some(&mut self, count_max: usize, in_force: &LimitsInForce, now: u64) {
        for _ in 0..count_max.min(self.eviction_queue.len()) {
            let Some(name) = self.eviction_queue.pop_front() else { return };
            let limits = in_force.at(LimitLevel::User, Payer::from(&*name));
            if self.users.get(&name).is_none_or(|account| account.is_evictable(limits, now)) {
                self.users.remove(&name);
            } else {
                self.eviction_queue.push_back(name);
            }
        }
        if self.users.len() <= USERS_FEW {
            self.eviction_queue.shrink_to(2 * USERS_FEW); // from a crowd's size
            self.users.shrink_to(2 * USERS_FEW);
        }
    }
}
