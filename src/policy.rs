//! What an operator may change while the proxy runs, as the loop is told of it.

use crate::access::{Hash, Key};
use crate::base::log::Level;
use crate::limit::budget::{Period, Spent};
use crate::limit::overrides::{Limits, Overrides};
use crate::price::PriceTable;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The ledger's tables of keys and limits, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Keys that are not revoked; some may have expired.
    pub keys: Vec<Key>,
    /// Users' own limits.
    pub own: BTreeMap<Box<str>, Overrides>,
}

/// What users had spent when it was summed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpendByUser {
    /// When that was.
    pub period: Period,
    /// The `seq` of this process's last record in the sums: those after it are in none.
    pub upto_seq: u64,
    pub users: Vec<(Arc<str>, Spent)>,
}

/// The settings that can be read anew.
#[derive(Clone, Debug)]
pub struct Change {
    pub limits: Limits,
    /// Value of `Authorization` towards the target.
    pub authorization: Option<String>,
    /// What opens the local endpoints.
    pub admin: Option<Hash>,
    /// The model for a request that names none.
    pub model_name: Option<String>,
    pub prices: PriceTable,
    /// How much is told of what happens.
    pub log: Level,
}
