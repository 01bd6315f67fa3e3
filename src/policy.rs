//! What an operator decides, as the loop is given it: what may change while it runs, and words of the settings.

use crate::access::{Hash, Key};
use crate::base::list::list;
use crate::base::log::Level;
use crate::limit::levels::Levels;
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
    /// Which users belong to which team.
    pub members: BTreeMap<Box<str>, Arc<str>>,
    /// What is set for users, teams and everybody together.
    pub rules: Levels<Rule>,
}

/// What an operator has set for a user, a team or everybody together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub limits: Overrides,
    /// The models that may be asked for; each level's must allow one.
    pub models: Option<Models>,
    /// What may be asked for, in place of the settings'; the nearest level's stands.
    pub paths: Option<AllowedPaths>,
}

impl Rule {
    /// This with what the other one names in place of it.
    pub fn with(&self, given: &Self) -> Self {
        let (own, new) = (&self.limits, &given.limits);
        Self {
            limits: Overrides {
                rpm: new.rpm.or(own.rpm),
                tpm: new.tpm.or(own.tpm),
                concurrent: new.concurrent.or(own.concurrent),
                day_nano_usd: new.day_nano_usd.or(own.day_nano_usd),
                month_nano_usd: new.month_nano_usd.or(own.month_nano_usd),
            },
            models: given.models.clone().or_else(|| self.models.clone()),
            paths: given.paths.clone().or_else(|| self.paths.clone()),
        }
    }
}

/// Models by their names, in which `*` stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Models(Vec<Box<str>>);

impl Models {
    /// What [`Models::parse`] takes.
    pub const EXPECTED: &str = "names of models parted by commas, in which * stands for anything (gpt-5-mini,gpt-4o*)";

    /// Reads names that are parted by commas; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let is_name = |name: &&str| !name.is_empty() && name.chars().all(|c| !c.is_control() && !c.is_whitespace());
        list(text, |name| Some(name).filter(is_name).map(Into::into)).map(Self)
    }

    /// None at all.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// True for a model that one of the names is of.
    pub fn allow(&self, model: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, model))
    }
}

impl fmt::Display for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// True where the pattern is of the whole text. Each part between two stars is taken where it first stands.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(end)
}

/// The settings that can be read anew.
#[derive(Clone, Debug)]
pub struct Change {
    /// Of each user.
    pub limits: Limits,
    /// Of everybody together.
    pub total_limits: Limits,
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
