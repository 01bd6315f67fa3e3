//! What changes while the proxy runs: keys, limits, settings. Requests in flight keep the terms
//! that they came in under.

use super::Proxy;
use crate::policy::{Change, Policy, Spendings};

impl Proxy {
    /// Keys and users' own limits, in place of all that were.
    pub fn set_policy(&mut self, policy: Policy) {
        self.access.set_keys(policy.keys);
        self.limiter.set_own(policy.own);
    }

    /// True where somebody has a budget and [`Proxy::set_spendings`] was not called yet.
    pub fn wants_spendings(&self) -> bool {
        self.limiter.wants_spending()
    }

    /// What users have spent in the present period, as the ledger has it.
    pub fn set_spendings(&mut self, spendings: Spendings) {
        self.limiter.load(spendings.period, spendings.users);
    }

    /// Settings that were read anew.
    pub fn reconfigure(&mut self, change: Change) {
        self.limiter.set_terms(change.terms);
        self.access.set_admin(change.admin);
        self.settings.authorization = change.authorization;
        self.settings.model_name = change.model_name;
        self.prices = change.prices;
        self.log_up_to(change.log);
    }
}
