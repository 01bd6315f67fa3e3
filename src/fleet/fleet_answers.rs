//! Answers to questions about usage from the fleet's database, each from one instant: what the ledger's own `answer` is
//! over the whole fleet.
//!
//! In: a question. Out: a [`Report`] or an [`Overview`], marked as the fleet's. Never: a number for a part of an hour
//! that may have lost rows: a range that cuts such an hour is widened to the whole of it, as a ledger's is.

use super::fleet_sums::{FleetSelection, Keyed, sums};
use crate::ledger::numbers::{USAGE, USAGE_COLUMNS, more_and_less, saturated};
use crate::ledger::partition::NS_PER_HOUR;
use crate::postgres::{PostgresClient, Row, SqlError};
use crate::reporting::{
    BUCKETS_MAX, BucketKey, Buckets, Entry, GroupBy, Overview, OverviewQuery, Query, RANKED_MAX, Ranking, Report,
    SAMPLE_MAX, SERIES_MODELS_MAX, Scope, Series, Totals,
};
use crate::usage::record::{Correction, Endpoint, Outcome, Record, UsageSource};
use std::collections::BTreeMap;
use std::time::Duration;

/// Why a fleet says nothing of keys: its sums know users, teams, models, endpoints and nodes.
pub const NO_KEYS: &str =
    "`group_by`: sums by key are not kept for a fleet; those by user, team, model, endpoint and node are";

/// Computes the answer; each statement may take so long.
///
/// # Errors
/// The server's.
pub fn report(client: &mut PostgresClient, query: Query, time_limit: Duration) -> Result<Report, SqlError> {
    client.snapshot(time_limit, |client| {
        let query = widened(client, query)?;
        let mut found = Report { query, scope: scope(client)?, ..Report::default() };
        found.buckets = found.query.group_by.map(|_| Buckets::default());
        let Some(selection) = FleetSelection::new(client, &found.query)? else { return Ok(found) };
        found.totals = total(client, &selection)?;
        let by_model = sums(client, &selection, Some(GroupBy::Model), BUCKETS_MAX)?;
        found.by_model = by_model.into_iter().map(|(_, name, totals)| (name, totals)).collect();
        if let Some(group_by) = found.query.group_by {
            found.buckets = Some(buckets(client, &selection, group_by, &found.totals)?);
        }
        let limit = found.query.limit as usize;
        found.data = page(client, &selection, "", found.query.cursor, limit + 1)?;
        if found.data.len() > limit {
            found.data.truncate(limit);
            found.next_cursor = found.data.last().map(|entry| entry.id);
        }
        Ok(found)
    })
}

/// Finds what the page shows; each statement may take so long.
///
/// # Errors
/// The server's.
pub fn overview(client: &mut PostgresClient, asked: &OverviewQuery, limit: Duration) -> Result<Overview, SqlError> {
    client.snapshot(limit, |client| {
        let ever = client.query_one("SELECT EXISTS (SELECT FROM oap_hours)", &[])?.get(0)?;
        let mut found = Overview { ever, scope: scope(client)?, ..Overview::default() };
        let query = Query {
            user: asked.user.clone(),
            team: asked.team.clone(),
            model: asked.model.clone(),
            from: asked.from,
            to: asked.to,
            limit: SAMPLE_MAX,
            ..Query::default()
        };
        if let Some((from, to)) = asked.previous {
            let query = Query { from: Some(from), to: Some(to), ..query.clone() };
            let selection = FleetSelection::new(client, &query)?;
            let previous = selection.map(|selection| total(client, &selection)).transpose()?;
            found.previous = Some(previous.unwrap_or_default());
        }
        let Some(selection) = FleetSelection::new(client, &query)? else { return Ok(found) };
        let is_one = query.user.is_some() || query.team.is_some();
        let other = if is_one { GroupBy::Endpoint } else { GroupBy::User };
        found.totals = total(client, &selection)?;
        let models = sums(client, &selection, Some(GroupBy::Model), BUCKETS_MAX)?;
        found.series = series(client, &selection, asked.hourly, &models)?;
        found.models = ranking(models);
        let others = sums(client, &selection, Some(other), BUCKETS_MAX)?;
        found.others = ranking(others.into_iter().map(|keyed| named(other, keyed)).collect());
        if !is_one {
            found.teams = ranking(sums(client, &selection, Some(GroupBy::Team), BUCKETS_MAX)?);
        }
        found.sample = page(client, &selection, "", None, SAMPLE_MAX as usize)?;
        found.sample.retain(|entry| entry.record.is_request());
        if found.totals.errors > 0 {
            found.failed = page(client, &selection, FAILED, None, SAMPLE_MAX as usize)?;
        }
        Ok(found)
    })
}

/// Nodes that live, and how far all are that have not left.
fn scope(client: &mut PostgresClient) -> Result<Scope, SqlError> {
    let sql =
        "SELECT count(*) FILTER (WHERE p.seen > clock_timestamp() - interval '10 s'), coalesce(min(l.fresh_to), 0)
        FROM oap_ledgers l JOIN oap_processes p ON p.id = l.process WHERE NOT p.ended AND NOT l.forgotten";
    let row = client.query_one(sql, &[])?;
    let (nodes, fresh_to) = (row.get::<i64>(0)?.unsigned_abs(), row.get::<i64>(1)?.unsigned_abs());
    Ok(Scope::Fleet { nodes, fresh_to })
}

/// The question with a range that can be answered.
fn widened(client: &mut PostgresClient, mut query: Query) -> Result<Query, SqlError> {
    let lost: i64 = client.query_one("SELECT coalesce(max(lost_before), 0) FROM oap_ledgers", &[])?.get(0)?;
    for (instant, round_up) in [(&mut query.from, 0), (&mut query.to, 1)] {
        let Some(ns) = instant.and_then(|ns| i64::try_from(ns).ok()) else { continue };
        if ns < lost && ns % NS_PER_HOUR != 0 {
            *instant = Some((ns / NS_PER_HOUR + round_up).saturating_mul(NS_PER_HOUR).unsigned_abs());
        }
    }
    Ok(query)
}

fn total(client: &mut PostgresClient, selection: &FleetSelection) -> Result<Totals, SqlError> {
    Ok(sums(client, selection, None, 1)?.pop().map_or_else(Totals::default, |(_, _, totals)| totals))
}

/// With the name of what has none in the database.
fn named(group_by: GroupBy, (key, name, totals): Keyed) -> Keyed {
    let name = match group_by {
        GroupBy::Endpoint => endpoint(key).as_str().to_owned(),
        _ => name,
    };
    (key, name, totals)
}

fn endpoint(code: i64) -> Endpoint {
    u8::try_from(code).ok().and_then(Endpoint::from_code).unwrap_or_default()
}

fn buckets(
    client: &mut PostgresClient,
    selection: &FleetSelection,
    group_by: GroupBy,
    all: &Totals,
) -> Result<Buckets, SqlError> {
    let mut found = sums(client, selection, Some(group_by), BUCKETS_MAX + 1)?;
    let truncated = found.len() > BUCKETS_MAX;
    found.truncate(BUCKETS_MAX);
    let mut list: Vec<(BucketKey, Totals)> = Vec::new();
    for (key, name, totals) in found.into_iter().map(|keyed| named(group_by, keyed)) {
        let key = if group_by.is_time() { BucketKey::Start(group_by.start(key)) } else { BucketKey::Name(name) };
        // Two ledgers of one node.
        match list.iter_mut().find(|(same, _)| group_by == GroupBy::Node && *same == key) {
            Some((_, sum)) => sum.add(&totals),
            None => list.push((key, totals)),
        }
    }
    if group_by == GroupBy::Team {
        let rest = list.iter().fold(*all, |rest, (_, totals)| rest.without(totals));
        if rest != Totals::default() {
            list.push((BucketKey::Name(String::new()), rest));
            list.sort_by_key(|(_, totals)| std::cmp::Reverse((totals.cost_nano_usd, totals.total_tokens)));
        }
    }
    Ok(Buckets { list, truncated })
}

fn ranking(mut sums: Vec<Keyed>) -> Ranking {
    let others = sums.split_off(sums.len().min(RANKED_MAX));
    let mut of_others = Totals::default();
    others.iter().for_each(|(_, _, totals)| of_others.add(totals));
    let top = sums.into_iter().map(|(_, name, totals)| (name, totals)).collect();
    Ranking { top, others: others.len(), of_others }
}

/// Sums over time of the models of the highest cost, and what all have beside them.
fn series(
    client: &mut PostgresClient,
    selection: &FleetSelection,
    hourly: bool,
    models: &[Keyed],
) -> Result<Vec<Series>, SqlError> {
    let step = if hourly { GroupBy::Hour } else { GroupBy::Day };
    let mut over_time = |selection: &FleetSelection| -> Result<BTreeMap<u64, Totals>, SqlError> {
        let sums = sums(client, selection, Some(step), BUCKETS_MAX)?;
        Ok(sums.into_iter().map(|(count, _, totals)| (step.start(count), totals)).collect())
    };
    let mut rest = over_time(selection)?;
    let mut series = Vec::new();
    for (model, name, _) in models.iter().take(SERIES_MODELS_MAX) {
        let sums = over_time(&selection.of_model(i32::try_from(*model).unwrap_or_default()))?;
        for (start, totals) in &sums {
            if let Some(left) = rest.get_mut(start) {
                *left = left.without(totals);
            }
        }
        series.push((Some(name.clone()), sums));
    }
    rest.retain(|_, totals| totals.requests > 0);
    if !rest.is_empty() {
        series.push((None, rest));
    }
    Ok(series)
}

/// Only requests that failed; an index has just these.
const FAILED: &str = " AND r.correction IS NULL AND (r.status >= 400 OR r.outcome <> 0)";

/// Records, the latest that arrived first; `only` narrows them further.
fn page(
    client: &mut PostgresClient,
    selection: &FleetSelection,
    only: &str,
    cursor: Option<u64>,
    count: usize,
) -> Result<Vec<Entry>, SqlError> {
    let before = cursor.map_or(i64::MAX, |cursor| i64::try_from(cursor).unwrap_or(i64::MAX));
    let usage = USAGE.split(',').map(|column| format!("r.{}", column.trim())).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT r.seq, r.started_at, (SELECT name FROM oap_users WHERE id = r.user_id), r.key_id, r.endpoint,
            (SELECT name FROM oap_models WHERE id = r.model_requested_id),
            (SELECT name FROM oap_models WHERE id = r.model_id), r.stream, r.status, r.outcome, r.usage_source,
            r.cost_nano_usd, r.duration_us, r.first_byte_us, r.proxy_us, r.request_bytes, r.response_bytes,
            r.upstream_request_id, r.response_id, r.correction, (SELECT name FROM oap_teams WHERE id = r.team_id),
            {usage}
        FROM oap_records r WHERE r.seq < $1 AND r.started_at >= $2 AND r.started_at < $3{}{only}
        ORDER BY r.seq DESC LIMIT {count}",
        selection.of_records()
    );
    client.query(&sql, &[&before, &selection.from, &selection.to])?.iter().map(entry).collect()
}

fn entry(row: &Row) -> Result<Entry, SqlError> {
    let count = |column: usize| row.get::<i64>(column).map(|number| saturated(number.into()));
    let code = |column: usize| row.get::<i16>(column).map(|code| u8::try_from(code).unwrap_or_default());
    let name = |column: usize| row.get::<Option<String>>(column);
    let mut numbers = [0; USAGE_COLUMNS];
    for (place, number) in numbers.iter_mut().enumerate() {
        *number = row.get(21 + place)?;
    }
    let (usage, less) = more_and_less(numbers);
    let cost: Option<i64> = row.get(11)?;
    let correction = row.get::<Option<i32>>(19)?.map(|unpriced| {
        let less_nano_usd = saturated(-i128::from(cost.unwrap_or(0)));
        Box::new(Correction { less, less_nano_usd, gives_price: unpriced < 0 })
    });
    let record = Record {
        started_at: count(1)?,
        user: name(2)?.unwrap_or_default().into(),
        team: name(20)?.map(Into::into),
        key_id: row.get(3)?,
        endpoint: Endpoint::from_code(code(4)?).unwrap_or_default(),
        model_requested: name(5)?.map(Into::into),
        model: name(6)?.map(Into::into),
        stream: row.get::<i16>(7)? != 0,
        status: u16::try_from(row.get::<i16>(8)?).unwrap_or_default(),
        outcome: Outcome::from_code(code(9)?).unwrap_or_default(),
        usage_source: UsageSource::from_code(code(10)?).unwrap_or_default(),
        usage,
        cost_nano_usd: cost.map(|nano_usd| saturated(nano_usd.into())),
        duration_us: count(12)?,
        first_byte_us: row.get::<Option<i64>>(13)?.map(i64::unsigned_abs),
        proxy_us: count(14)?,
        request_bytes: count(15)?,
        response_bytes: count(16)?,
        upstream_request_id: name(17)?.map(Into::into),
        response_id: name(18)?.map(Into::into),
        correction,
        ..Record::default()
    };
    Ok(Entry { id: count(0)?, record })
}
