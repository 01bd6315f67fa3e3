//! How much of their budgets users, teams and everybody have spent in the present day and month, for an answer.
//!
//! In: a connection, what the answer is of, the limits of the settings. Out: a line for each budget. Never: a budget of
//! somebody whom the answer is not of.

use super::selection::Selection;
use super::sums::{Sums, sums};
use crate::base::civil::first_day_of_month;
use crate::base::clock::DAY;
use crate::ledger::keys_and_limits::rules;
use crate::ledger::rollup::of_team;
use crate::limit::budget::Period;
use crate::limit::in_force::SettingsLimits;
use crate::limit::levels::{Levels, LimitLevel};
use crate::limit::overrides::Overrides;
use crate::limit::threshold::BudgetPeriod;
use crate::reporting::{BucketKey, BudgetUse, GroupBy, Query, Report};
use rusqlite::{Connection, OptionalExtension as _};

/// Those of an answer that is given now: none where it is of an earlier time.
pub fn budgets(
    conn: &Connection,
    report: &Report,
    settings: &SettingsLimits,
    now: u64,
) -> rusqlite::Result<Vec<BudgetUse>> {
    if report.query.to.is_some_and(|to| to <= now) {
        return Ok(Vec::new());
    }
    let limits = InForce { settings, own: rules(conn)?.filter_map(|rule| Some(rule.limits)) };
    let mut found = Vec::new();
    for period in BudgetPeriod::ALL {
        let within = within(period, now);
        found.extend(of_subject(conn, &report.query, &limits, period, &within)?);
        found.extend(of_buckets(conn, report, &limits, period, &within)?);
    }
    Ok(found)
}

struct InForce<'a> {
    settings: &'a SettingsLimits,
    own: Levels<Overrides>,
}

impl InForce<'_> {
    fn budget(&self, period: BudgetPeriod, level: LimitLevel, name: &str) -> Option<u64> {
        period.budget(&self.settings.of(&self.own, level, name))
    }
}

/// Of the user, the team or everybody that the question is of.
fn of_subject(
    conn: &Connection,
    query: &Query,
    limits: &InForce<'_>,
    period: BudgetPeriod,
    within: &Query,
) -> rusqlite::Result<Option<BudgetUse>> {
    let (level, name) = match (&query.user, &query.team) {
        (Some(user), _) => (LimitLevel::User, user.as_str()),
        (None, Some(team)) => (LimitLevel::Team, team.as_str()),
        (None, None) => (LimitLevel::Total, ""),
    };
    let Some(budget) = limits.budget(period, level, name) else { return Ok(None) };
    let of_subject = Query { user: query.user.clone(), team: query.team.clone(), ..within.clone() };
    let spent = spent(conn, &of_subject)?.values().map(|totals| totals.cost_nano_usd).sum();
    Ok(Some(line(level, name, period, (budget, spent), within)))
}

/// Of the users or teams that the answer has sums of.
fn of_buckets(
    conn: &Connection,
    report: &Report,
    limits: &InForce<'_>,
    period: BudgetPeriod,
    within: &Query,
) -> rusqlite::Result<Vec<BudgetUse>> {
    let query = &report.query;
    // That of a user or a team alone is there already.
    let level = query.group_by.and_then(GroupBy::level).filter(|&level| match level {
        LimitLevel::Team => query.user.is_none() && query.team.is_none(),
        _ => query.user.is_none(),
    });
    let Some(level) = level else { return Ok(Vec::new()) };
    let names = report.buckets.iter().flat_map(|buckets| &buckets.list).filter_map(|(key, _)| match key {
        BucketKey::Name(name) if !name.is_empty() => Some(name),
        _ => None,
    });
    let limited: Vec<_> = names.filter_map(|name| Some((name, limits.budget(period, level, name)?))).collect();
    if limited.is_empty() {
        return Ok(Vec::new());
    }
    let spent = spent(conn, &Query { group_by: query.group_by, ..within.clone() })?;
    let table = if level == LimitLevel::Team { "teams" } else { "users" };
    let mut select = conn.prepare_cached(&format!("SELECT id FROM {table} WHERE name = ?"))?;
    let mut found = Vec::new();
    for (name, budget) in limited {
        let id: Option<i64> = select.query_row([name], |row| row.get(0)).optional()?;
        let id = id.map(|id| if level == LimitLevel::Team { of_team(id) } else { id });
        let spent = id.and_then(|id| spent.get(&id)).map_or(0, |totals| totals.cost_nano_usd);
        found.push(line(level, name, period, (budget, spent), within));
    }
    Ok(found)
}

fn line(
    level: LimitLevel,
    name: &str,
    period: BudgetPeriod,
    (budget_nano_usd, spent_nano_usd): (u64, u64),
    within: &Query,
) -> BudgetUse {
    let resets_at = within.to.unwrap_or(u64::MAX);
    BudgetUse { level, name: name.to_owned(), period, budget_nano_usd, spent_nano_usd, resets_at }
}

/// The day or the month that it is.
fn within(period: BudgetPeriod, now: u64) -> Query {
    let present = Period::of(now);
    let days = match period {
        BudgetPeriod::Day => [present.day, present.day + 1],
        BudgetPeriod::Month => [present.month, present.month + 1].map(first_day_of_month),
    };
    let [from, to] = days.map(|day| Some(day.unsigned_abs().saturating_mul(DAY)));
    Query { from, to, ..Query::default() }
}

/// The sums by user or team, or else by model.
fn spent(conn: &Connection, query: &Query) -> rusqlite::Result<Sums> {
    let Some(selection) = Selection::new(conn, query)? else { return Ok(Sums::new()) };
    Ok(sums(conn, &selection, query.group_by)?.pop().unwrap_or_default())
}
