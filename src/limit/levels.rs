//! The three levels at which limits stand: a user, the user's team, and everybody together.
//!
//! In: names. Out: what each level has for them. Never: a decision.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Whose limit it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitLevel {
    #[default]
    User,
    Team,
    /// Everybody together.
    Total,
}

impl LimitLevel {
    /// All of them, the nearest first.
    pub const ALL: [Self; 3] = [Self::User, Self::Team, Self::Total];

    /// The stable name: a label, and the `param` of a refusal.
    pub const fn label(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Team => "team",
            Self::Total => "total",
        }
    }

    /// The level of this label.
    pub fn named(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.label() == label)
    }
}

/// Who takes from the limits: a user, and the team that the user belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payer<'a> {
    pub user: &'a str,
    pub team: Option<&'a str>,
}

impl<'a> From<&'a str> for Payer<'a> {
    /// A user without a team.
    fn from(user: &'a str) -> Self {
        Self { user, team: None }
    }
}

impl<'a> From<&'a Arc<str>> for Payer<'a> {
    fn from(user: &'a Arc<str>) -> Self {
        Self::from(&**user)
    }
}

/// What an operator has set at each level, where that differs from the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels<T> {
    pub users: BTreeMap<Box<str>, T>,
    pub teams: BTreeMap<Box<str>, T>,
    pub total: Option<T>,
}

impl<T> Default for Levels<T> {
    fn default() -> Self {
        Self { users: BTreeMap::new(), teams: BTreeMap::new(), total: None }
    }
}

impl<T> Levels<T> {
    /// What is set at this level for a payer.
    pub fn at(&self, level: LimitLevel, payer: Payer<'_>) -> Option<&T> {
        match level {
            LimitLevel::User => self.users.get(payer.user),
            LimitLevel::Team => self.teams.get(payer.team?),
            LimitLevel::Total => self.total.as_ref(),
        }
    }

    /// Sets it for one name, which is empty for everybody.
    pub fn set(&mut self, level: LimitLevel, name: &str, value: T) {
        match level {
            LimitLevel::User => drop(self.users.insert(name.into(), value)),
            LimitLevel::Team => drop(self.teams.insert(name.into(), value)),
            LimitLevel::Total => self.total = Some(value),
        }
    }

    /// What `f` makes of each, where it makes something.
    pub fn filter_map<U>(&self, f: impl Fn(&T) -> Option<U>) -> Levels<U> {
        let each = |all: &BTreeMap<Box<str>, T>| {
            all.iter().filter_map(|(name, value)| Some((name.clone(), f(value)?))).collect()
        };
        Levels { users: each(&self.users), teams: each(&self.teams), total: self.total.as_ref().and_then(&f) }
    }

    /// True where nothing is set.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.teams.is_empty() && self.total.is_none()
    }

    /// Everything that is set, by level and name.
    pub fn iter(&self) -> impl Iterator<Item = (LimitLevel, &str, &T)> {
        let users = self.users.iter().map(|(name, value)| (LimitLevel::User, &**name, value));
        let teams = self.teams.iter().map(|(name, value)| (LimitLevel::Team, &**name, value));
        users.chain(teams).chain(self.total.iter().map(|value| (LimitLevel::Total, "", value)))
    }
}
