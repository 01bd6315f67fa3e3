//! What changes while the proxy runs: keys, limits, settings. Requests in flight keep the limits
//! that they came in under.

use super::Proxy;
use crate::base::clock::Now;
use crate::limit::budget::{Period, SpendByUser};
use crate::policy::{Change, Policy};

impl Proxy {
    /// Keys and users' own limits, in place of all that were.
    pub fn set_policy(&mut self, policy: Policy) {
        self.access.set_keys(policy.keys);
        self.limiter.set_overrides(policy.overrides);
    }

    /// The period of which [`Proxy::set_spend_by_user`] must tell what users have spent: somebody has a budget, and
    /// that is not known.
    pub fn wants_spend_by_user(&mut self, now: Now) -> Option<Period> {
        self.limiter.wants_spending(now)
    }

    /// What users have spent in a period, as the ledger has it.
    pub fn set_spend_by_user(&mut self, now: Now, spend_by_user: SpendByUser) {
        self.limiter.load(spend_by_user, now);
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
