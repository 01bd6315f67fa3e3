//! What an operator decides, as the loop is given it: what may change while it runs, and words of the settings.

use crate::access::{Hash, Key};
use crate::base::log::Level;
use crate::limit::overrides::{Limits, Overrides};
use crate::price::PriceTable;
use std::collections::BTreeMap;

/// The ledger's tables of keys and limits, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Keys that are not revoked; some may have expired.
    pub keys: Vec<Key>,
    /// Users' own limits.
    pub overrides: BTreeMap<Box<str>, Overrides>,
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
    /// How much the log says.
    pub log: Level,
}

/// What may be relayed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowedPaths {
    #[default]
    All,
    /// What generates something, and the list of models: nothing of what the account holds.
    Inference,
    /// These paths, and all below them; each begins with a slash and ends in none.
    Under(Vec<Box<str>>),
}

/// Whose responses are read on, for their usage, when their clients have gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOn {
    Nobodys,
    /// Of users whose tokens or money are limited.
    LimitedUsers,
    Everybodys,
}
