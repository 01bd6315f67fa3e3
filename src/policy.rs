//! What an operator decides, as the loop is given it: what may change while it runs, and words of the settings.

use crate::access::{Hash, Key};
use crate::base::list::list;
use crate::base::log::Level;
use crate::limit::overrides::{Limits, Overrides};
use crate::price::PriceTable;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The ledger's tables of keys and limits, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Keys that are not revoked; some may have expired.
    pub keys: Vec<Key>,
    /// Users' own limits.
    pub overrides: BTreeMap<Box<str>, Overrides>,
    /// What users may ask for who have a rule of their own.
    pub paths: BTreeMap<Box<str>, AllowedPaths>,
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
    pub model_name: Option<Arc<str>>,
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

impl AllowedPaths {
    /// What [`AllowedPaths::parse`] takes.
    pub const EXPECTED: &str = "`inference`, `all`, or paths that begin with a slash (/v1/chat), parted by commas";

    /// Reads `all`, `inference`, or paths that are parted by commas; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "all" => Some(Self::All),
            "inference" => Some(Self::Inference),
            _ => list(text, path).map(Self::Under),
        }
    }
}

impl fmt::Display for AllowedPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Inference => f.write_str("inference"),
            Self::Under(paths) => f.write_str(&paths.join(",")),
        }
    }
}

/// A path as it is compared: without escapes and a slash at its end.
fn path(text: &str) -> Option<Box<str>> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"%;?#\\".contains(&byte);
    let path = text.strip_suffix('/').unwrap_or(text);
    (path.starts_with('/') && path.bytes().all(is_plain)).then(|| path.into())
}

/// Whose responses are read on, for their usage, when their clients have gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOn {
    Nobodys,
    /// Of users whose tokens or money are limited.
    LimitedUsers,
    Everybodys,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_written() {
        for (text, same) in [("all", "all"), ("inference", "inference"), ("/v1/chat/, /v1", "/v1/chat,/v1")] {
            let paths = AllowedPaths::parse(text).expect("it is one");
            assert_eq!(paths.to_string(), same);
            assert_eq!(AllowedPaths::parse(same), Some(paths));
        }
        for bad in ["v1", "", "/", "/a b", "/%61", "/v1?x", "/a,,/b", "All", "all,/v1"] {
            assert_eq!(AllowedPaths::parse(bad), None, "{bad}");
        }
    }
}
