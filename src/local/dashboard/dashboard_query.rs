//! The parameters of `GET /dashboard`, and who asks.
//!
//! In: a query string and `now`. Out: a [`DashboardQuery`], or the sentence for a 400.

use super::time_range::Range;
use crate::base::civil::parse_date;
use crate::base::percent::encode;
use crate::limit::status::LimitUse;
use crate::local::language::Language;
use crate::local::usage_report::{decoded, parse_name, shown};
use crate::price::PriceDates;
use crate::reporting::{OverviewQuery, Refusals};

/// What the page is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DashboardQuery {
    /// Only this user's; everybody's where `None`.
    pub user: Option<String>,
    /// Only this team's; not beside a user.
    pub team: Option<String>,
    /// Only this model's.
    pub model: Option<String>,
    pub range: Range,
    /// The present, nanoseconds since the Unix epoch.
    pub now: u64,
    /// Whoever asks may see this user's only.
    pub own: bool,
    /// Whoever asks may change keys, limits and teams.
    pub admin: bool,
    pub language: Language,
    /// How much of the limits is used: of the user or the team; of everybody together, and of the budgets that are
    /// nearest to their end.
    pub limits: Vec<LimitUse>,
    /// Requests that the proxy itself has refused for a limit since it started, the most first, where that is known.
    pub refused: Option<Vec<Refusals>>,
    /// Of when the prices are.
    pub prices: PriceDates,
    /// Where the proxy was reached, as the browser called it.
    pub host: Option<String>,
}

impl DashboardQuery {
    /// Reads the query string of a target. `now` in nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// Words for the client, naming the parameter that is wrong.
    pub fn parse(raw: &str, now: u64) -> Result<Self, String> {
        let mut given: [(&str, Option<String>); 6] =
            ["user_id", "team", "model", "range", "from", "to"].map(|name| (name, None));
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = decoded(pair)?;
            match given.iter_mut().find(|(known, _)| *known == name) {
                Some((_, slot)) if slot.is_none() => *slot = Some(value),
                Some(_) => return Err(format!("`{name}` is given more than once")),
                None => {
                    let known = "user_id, team, model, range, from, to";
                    return Err(format!("unknown parameter `{}`; known are {known}", shown(&name)));
                }
            }
        }
        // A form sends what was left empty.
        let [user, team, model, range, from, to] =
            given.map(|(name, value)| value.filter(|value| !value.is_empty()).map(|value| (name, value)));
        let name = |given: Option<(&str, String)>| given.map(|(name, value)| parse_name(name, value)).transpose();
        let (user, team, model) = (name(user)?, name(team)?, name(model)?);
        if user.is_some() && team.is_some() {
            return Err("`team` is not for one user: leave `user_id` out".to_owned());
        }
        let date = |given: Option<(&str, String)>| {
            let read = |(name, value): (&str, String)| {
                parse_date(&value).ok_or_else(|| format!("`{name}` must be a date (2026-11-23)"))
            };
            given.map(read).transpose()
        };
        let range = match (date(from)?, date(to)?) {
            (None, None) => range.map(|(_, range)| Range::parse(&range)).transpose()?.unwrap_or_default(),
            (Some(from), Some(to)) if from >= to => return Err("`from` must be before `to`".to_owned()),
            (from, to) => Range::Between { from, to },
        };
        Ok(Self { user, team, model, range, now, ..Self::default() })
    }

    /// The first instant of the range, where it has one.
    pub fn from(&self) -> Option<u64> {
        self.range.from(self.now)
    }

    /// What the ledger is asked for it.
    pub fn overview(&self) -> OverviewQuery {
        OverviewQuery {
            user: self.user.clone(),
            team: self.team.clone(),
            model: self.model.clone(),
            from: self.from(),
            to: self.range.to(self.now),
            previous: self.range.previous(self.now),
            hourly: self.range.is_of_hours(),
        }
    }

    /// What it is narrowed to: names of parameters with their values.
    pub fn filters(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let filters = [("user_id", &self.user), ("team", &self.team), ("model", &self.model)];
        filters.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }

    /// Whose or of what the page is, where not of everything.
    pub fn subject(&self) -> Option<&str> {
        self.filters().next().map(|(_, value)| value)
    }

    /// A link to the page itself with one filter in the place of what was there. Relative, so that it also holds behind
    /// a server that puts a path before it.
    pub fn narrowed(&self, name: &'static str, value: &str) -> String {
        // A team is not asked for beside a user.
        let stays = |kept: &str| kept != name && !(matches!(kept, "user_id" | "team") && name != "model");
        let kept = self.filters().filter(|(kept, _)| stays(kept)).chain([(name, value)]);
        with_parameters("dashboard", self.range, kept)
    }

    /// A link to another range.
    pub fn at(&self, range: Range) -> String {
        with_parameters("dashboard", range, self.filters())
    }

    /// A link to the same without any filter.
    pub fn widened(&self) -> String {
        with_parameters("dashboard", self.range, [].into_iter())
    }
}

fn with_parameters<'a>(path: &str, range: Range, filters: impl Iterator<Item = (&'static str, &'a str)>) -> String {
    let range = range.parameters();
    let filters = filters.map(|(name, value)| format!("&{name}={}", encode(value)));
    format!("{path}?{range}{}", filters.collect::<String>())
}
