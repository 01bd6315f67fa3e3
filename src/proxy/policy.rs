//! What changes while the proxy runs: keys, limits, settings. Requests in flight keep the limits
//! that they came in under.

use super::Proxy;
use crate::policy::{Change, Policy, SpendByUser};

impl Proxy {
    /// Keys and users' own limits, in place of all that were.
    pub fn set_policy(&mut self, policy: Policy) {
        self.access.set_keys(policy.keys);
        self.limiter.set_overrides(policy.own);
    }

    /// True where somebody has a budget and [`Proxy::set_spend_by_user`] was not called yet.
    pub fn wants_spend_by_user(&self) -> bool {
        self.limiter.wants_spending()
    }

    /// What users have spent in the present period, as the ledger has it.
    pub fn set_spend_by_user(&mut self, spend_by_user: SpendByUser) {
        self.limiter.load(spend_by_user.period, spend_by_user.users);
    }

    /// Settings that were read anew.
    pub fn reconfigure(&mut self, change: Change) {
        self.limiter.set_limits(change.limits);
        self.access.set_admin(change.admin);
        self.settings.authorization = change.authorization;
        self.settings.model_name = change.model_name;
        self.prices = change.prices;
        self.log_up_to(change.log);
    }
}
