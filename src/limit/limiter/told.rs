//! What others are told of the limits: whose budget is spent, what is left, and what tests count.

use super::Limiter;
use crate::base::clock::Now;
use crate::limit::account::{Account, within_budgets};
use crate::limit::budget::Spent;
use crate::limit::levels::{LimitLevel, Payer};
use crate::limit::reservation::Money;
use crate::limit::status::{LimitUse, Refused};

impl Limiter {
    /// How somebody is refused where a budget is spent, whatever they ask for: of several, the widest. `None` while
    /// something is left of each, and where nobody knows.
    pub fn spent_budget<'a>(&mut self, payer: impl Into<Payer<'a>>, now: Now) -> Option<Refused> {
        let payer = payer.into();
        if self.holdings.is_some() {
            return LimitLevel::ALL.into_iter().rev().find_map(|level| self.spent_leased(level, payer, now));
        }
        let limits = LimitLevel::ALL.map(|level| self.in_force.at(level, payer));
        let nothing = Money { nano_usd: 0, least_nano_usd: 0, may_share: true };
        LimitLevel::ALL.into_iter().zip(limits).rev().filter(|(_, limits)| limits.has_budget()).find_map(
            |(level, limits)| {
                let spent = self.spending.of(level, payer, now.unix)?;
                within_budgets(limits, Some(spent), 0, nothing).err().map(|refused| Refused { level, ..refused })
            },
        )
    }

    /// Users held in memory: with buckets, and with spending.
    pub fn users(&self) -> (usize, usize) {
        (self.accounts.users.len(), self.spending.users())
    }

    /// Requests in flight by the accounts of users, and the nano-dollars reserved for them. For tests of leaks.
    pub fn outstanding(&self) -> (u64, u64) {
        let users = self.accounts.eviction_queue.iter().filter_map(|user| self.accounts.users.get(user));
        users.map(Account::outstanding).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Requests in flight by all accounts: of users, of teams, and of everybody together. For tests of leaks.
    pub fn in_flight(&self) -> u64 {
        let of_teams: u64 = self.accounts.teams.values().map(|team| team.account.outstanding().0).sum();
        self.outstanding().0 + of_teams + self.accounts.total.outstanding().0
    }

    /// What was spent at a level, where that was known when it was last looked at. For tests of budgets.
    pub fn spent<'a>(&self, level: LimitLevel, payer: impl Into<Payer<'a>>) -> Option<Spent> {
        self.spending.last_known(level, payer.into())
    }

    /// How much of each limit of a level is used here, as far as that is known.
    pub fn uses(&self, level: LimitLevel, payer: Payer<'_>, now: Now) -> Vec<LimitUse> {
        let limits = self.in_force.at(level, payer);
        let name = match level {
            LimitLevel::User => payer.user,
            LimitLevel::Team => payer.team.unwrap_or_default(),
            LimitLevel::Total => "",
        };
        let spent = self.spending.last_known(level, payer);
        self.accounts.get(level, payer).copied().unwrap_or_default().uses(level, name, limits, spent, now)
    }

    /// The teams that something is set for.
    pub fn teams(&self) -> impl Iterator<Item = &str> {
        self.overrides.teams.keys().map(|team| &**team)
    }
}
