//! The limits in force for a name: those of the settings, with what is set for it in place of them.
//!
//! In: both. Out: limits. Never: what is taken of them.

use super::levels::{Levels, LimitLevel, Payer};
use super::overrides::{Limits, Overrides};

static UNLIMITED: Limits =
    Limits { requests: None, tokens: None, concurrent: None, day_nano_usd: None, month_nano_usd: None };

/// The limits of the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SettingsLimits {
    /// Of each user.
    pub user: Limits,
    /// Of everybody together.
    pub total: Limits,
}

impl SettingsLimits {
    /// Of each name at this level.
    pub fn at(&self, level: LimitLevel) -> &Limits {
        match level {
            LimitLevel::User => &self.user,
            LimitLevel::Team => &UNLIMITED,
            LimitLevel::Total => &self.total,
        }
    }

    /// Of one name, which is empty for everybody.
    pub fn of(&self, own: &Levels<Overrides>, level: LimitLevel, name: &str) -> Limits {
        self.of_payer(own, level, Payer { user: name, team: Some(name) })
    }

    /// Of a payer.
    pub fn of_payer(&self, own: &Levels<Overrides>, level: LimitLevel, payer: Payer<'_>) -> Limits {
        let limits = self.at(level);
        own.at(level, payer).map_or(*limits, |own| limits.with(own))
    }

    /// True where somebody at this level has a budget.
    pub fn has_budget(&self, own: &Levels<Overrides>, level: LimitLevel) -> bool {
        let mut set = own.iter().filter(|(of, _, _)| *of == level).map(|(_, _, own)| self.at(level).with(own));
        self.at(level).has_budget() || set.any(|limits| limits.has_budget())
    }
}

/// The limits in force for everybody, looked up with each request: worked out when they are set.
#[derive(Default)]
pub(super) struct LimitsInForce {
    settings: SettingsLimits,
    /// Of those who have some of their own, with the settings' where they have none.
    own: Levels<Limits>,
    /// At which levels anybody may be limited: the others cost a request nothing.
    limited: [bool; 3],
}

impl LimitsInForce {
    pub(super) fn new(settings: SettingsLimits, overrides: &Levels<Overrides>) -> Self {
        let mut own = Levels::default();
        for (level, name, overrides) in overrides.iter() {
            own.set(level, name, settings.at(level).with(overrides));
        }
        let limited = [
            !settings.user.is_unlimited() || !own.users.is_empty(),
            !own.teams.is_empty(),
            !settings.total.is_unlimited() || own.total.is_some(),
        ];
        Self { settings, own, limited }
    }

    /// True where something is set for this very name.
    pub(super) fn has_own(&self, level: LimitLevel, payer: Payer<'_>) -> bool {
        self.own.at(level, payer).is_some()
    }

    /// The limits of a payer at a level.
    pub(super) fn at(&self, level: LimitLevel, payer: Payer<'_>) -> &Limits {
        self.own.at(level, payer).unwrap_or_else(|| self.settings.at(level))
    }

    /// The same, `None` where nothing is limited.
    pub(super) fn limited(&self, level: LimitLevel, payer: Payer<'_>) -> Option<&Limits> {
        let is_limited = self.limited[level as usize];
        is_limited.then(|| self.at(level, payer)).filter(|limits| !limits.is_unlimited())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_stands_in_place_of_the_settings() {
        let day = |nano_usd| Limits { day_nano_usd: Some(nano_usd), ..Limits::default() };
        let settings = SettingsLimits { user: day(1), total: Limits::default() };
        let mut own = Levels::default();
        assert_eq!(LimitLevel::ALL.map(|level| settings.has_budget(&own, level)), [true, false, false]);
        let set = |nano_usd| Overrides { day_nano_usd: Some(nano_usd), ..Overrides::default() };
        own.set(LimitLevel::User, "a", set(0));
        own.set(LimitLevel::Team, "a", set(2));
        own.set(LimitLevel::Total, "", set(3));
        assert_eq!(settings.of(&own, LimitLevel::User, "a"), Limits::default());
        assert_eq!(settings.of(&own, LimitLevel::User, "b"), day(1));
        assert_eq!(settings.of(&own, LimitLevel::Team, "a"), day(2));
        assert_eq!(settings.of(&own, LimitLevel::Team, "b"), Limits::default());
        assert_eq!(settings.of(&own, LimitLevel::Total, ""), day(3));
        assert_eq!(LimitLevel::ALL.map(|level| settings.has_budget(&own, level)), [true; 3]);
    }
}
