//! Sums over what a fleet has consumed, by one thing: from its sums of days where those are whole, of hours beside
//! them, and from the records for the parts of hours at the ends of a range.
//!
//! In: a question, on a connection whose transaction sees one instant. Out: names with their sums. Never: a write.

use crate::ledger::numbers::saturated;
use crate::ledger::partition::{Granularity, HOURS_PER_DAY, NS_PER_HOUR, Partition, TierMarks, partitions};
use crate::postgres::{PostgresClient, Row, SqlError};
use crate::reporting::{GroupBy, Query, Totals};

/// A question with its names as numbers, and the range half-open.
#[derive(Clone, Debug)]
pub struct FleetSelection {
    /// A user, or less than 0 a team.
    pub who: Option<i32>,
    pub model: Option<i32>,
    /// Those of the node that is asked for.
    pub ledgers: Option<Vec<i16>>,
    pub from: i64,
    pub to: i64,
}

impl FleetSelection {
    /// `None` where the user, the team, the model or the node has nothing.
    ///
    /// # Errors
    /// The server's.
    pub fn new(client: &mut PostgresClient, query: &Query) -> Result<Option<Self>, SqlError> {
        let sql = "SELECT (SELECT id FROM oap_users WHERE name = $1), (SELECT -id FROM oap_teams WHERE name = $2),
            (SELECT id FROM oap_models WHERE name = $3)";
        let row = client.query_one(sql, &[&query.user, &query.team, &query.model])?;
        let ids: [Option<i32>; 3] = [row.get(0)?, row.get(1)?, row.get(2)?];
        let asked = [&query.user, &query.team, &query.model];
        let ledgers = match &query.node {
            None => None,
            Some(node) => {
                let rows = client.query("SELECT id FROM oap_ledgers WHERE node = $1", &[node])?;
                Some(rows.iter().map(|row| row.get(0)).collect::<Result<Vec<i16>, _>>()?)
            }
        };
        let is_missing = asked.iter().zip(ids).any(|(name, id)| name.is_some() && id.is_none());
        if is_missing || ledgers.as_ref().is_some_and(Vec::is_empty) {
            return Ok(None);
        }
        let bound = |instant: Option<u64>, open| instant.map_or(open, |ns| i64::try_from(ns).unwrap_or(i64::MAX));
        let [user, team, model] = ids;
        let (from, to) = (bound(query.from, 0), bound(query.to, i64::MAX));
        Ok(Some(Self { who: user.or(team), model, ledgers, from, to }))
    }

    /// The same of one model.
    pub fn of_model(&self, model: i32) -> Self {
        Self { model: Some(model), ..self.clone() }
    }

    /// The condition for records `r`, beside their time.
    pub fn of_records(&self) -> String {
        let mut conditions = match self.who {
            Some(team @ ..0) => format!(" AND r.team_id = {}", -team),
            Some(user) => format!(" AND r.user_id = {user}"),
            None => String::new(),
        };
        conditions.push_str(&self.common("coalesce(r.model_id, r.model_requested_id, -1)"));
        conditions
    }

    /// The part of a condition that is the same for records and for sums.
    fn common(&self, model: &str) -> String {
        let model = self.model.map(|id| format!(" AND {model} = {id}"));
        let list = |ids: &Vec<i16>| ids.iter().map(i16::to_string).collect::<Vec<_>>().join(", ");
        let ledgers = self.ledgers.as_ref().map(|ids| format!(" AND r.ledger IN ({})", list(ids)));
        [model, ledgers].into_iter().flatten().collect()
    }
}

/// The sums that answers give.
const SUMS: [&str; 9] = [
    "requests",
    "errors",
    "unpriced",
    "cost_nano_usd",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "total_tokens",
];

/// What a sum is of: its number and its name.
pub type Keyed = (i64, String, Totals);

/// Sums by a thing, or over all of it: hours and days in their order, others by cost, the highest first; at most so
/// many.
///
/// # Errors
/// The server's.
pub fn sums(
    client: &mut PostgresClient,
    selection: &FleetSelection,
    group_by: Option<GroupBy>,
    max: usize,
) -> Result<Vec<Keyed>, SqlError> {
    let by = By { group_by, selection };
    let finest = if group_by == Some(GroupBy::Hour) { Granularity::Hour } else { Granularity::Day };
    let everywhere = TierMarks { days: i64::MAX, months: 0 };
    let parts: Vec<String> =
        partitions(selection.from, selection.to, finest, everywhere).into_iter().map(|part| by.part(part)).collect();
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let order = match group_by {
        Some(by) if by.is_time() => "1",
        _ => "cost_nano_usd DESC NULLS LAST, total_tokens DESC, name",
    };
    let (name, join) = by.name();
    let grouped = if group_by.is_some() { "GROUP BY key, name" } else { "" };
    let (key, name) = if group_by.is_some() { ("key", name) } else { ("0 AS key", "''") };
    let sql = format!(
        "SELECT * FROM (SELECT {key}, {name} AS name, {} FROM ({}) x {join} {grouped}) s ORDER BY {order} LIMIT {max}",
        SUMS.map(|sum| format!("sum({sum})::numeric(38) AS {sum}")).join(", "),
        parts.join(" UNION ALL ")
    );
    client.query(&sql, &[])?.iter().filter_map(|row| keyed(row).transpose()).collect()
}

/// A row of sums; none where nothing was summed up.
fn keyed(row: &Row) -> Result<Option<Keyed>, SqlError> {
    let mut sums = [0; SUMS.len()];
    for (place, sum) in sums.iter_mut().enumerate() {
        *sum = saturated(row.get::<Option<i128>>(2 + place)?.unwrap_or(0));
    }
    let totals = Totals {
        requests: sums[0],
        errors: sums[1],
        unpriced: sums[2],
        cost_nano_usd: sums[3],
        input_tokens: sums[4],
        cached_input_tokens: sums[5],
        output_tokens: sums[6],
        reasoning_tokens: sums[7],
        total_tokens: sums[8],
    };
    Ok((totals != Totals::default()).then_some((row.get(0)?, row.get(1)?, totals)))
}

/// What is summed up by, and what is selected.
struct By<'a> {
    group_by: Option<GroupBy>,
    selection: &'a FleetSelection,
}

impl By<'_> {
    /// Whose sums are added up.
    fn who(&self) -> String {
        match (self.selection.who, self.group_by) {
            (Some(who), _) => format!("r.who = {who}"),
            (None, Some(GroupBy::User)) => "r.who > 0".to_owned(),
            (None, Some(GroupBy::Team)) => "r.who < 0".to_owned(),
            (None, _) => "r.who = 0".to_owned(),
        }
    }

    /// The number that a row of sums, or a record, is grouped by. `hour` and `day` say how to come to these.
    fn key(&self, [who, model, hour, day]: [&str; 4]) -> String {
        match self.group_by {
            None | Some(GroupBy::Key) => "0".to_owned(),
            Some(GroupBy::Hour) => hour.to_owned(),
            Some(GroupBy::Day) => day.to_owned(),
            // Months since 1970.
            Some(GroupBy::Month) => format!(
                "extract(year FROM date '1970-01-01' + ({day})::int)::bigint * 12 - 1970 * 12 - 1
                    + extract(month FROM date '1970-01-01' + ({day})::int)::bigint"
            ),
            Some(GroupBy::User | GroupBy::Team) => who.to_owned(),
            Some(GroupBy::Model) => model.to_owned(),
            Some(GroupBy::Endpoint) => "r.endpoint".to_owned(),
            Some(GroupBy::Node) => "r.ledger".to_owned(),
        }
    }

    /// The name under a number, and where it stands.
    fn name(&self) -> (&'static str, &'static str) {
        match self.group_by {
            Some(GroupBy::User) => ("n.name", "JOIN oap_users n ON n.id = x.key"),
            Some(GroupBy::Team) => ("n.name", "JOIN oap_teams n ON n.id = -x.key"),
            Some(GroupBy::Model) => ("n.name", "JOIN oap_models n ON n.id = x.key"),
            Some(GroupBy::Node) => ("n.node", "JOIN oap_ledgers n ON n.id = x.key"),
            _ => ("''", ""),
        }
    }

    fn part(&self, part: Partition) -> String {
        let sums = SUMS.map(|sum| format!("r.{sum}")).join(", ");
        let (who, common) = (self.who(), self.selection.common("r.model_id"));
        match part {
            Partition::Whole { granularity: Granularity::Hour, first, after } => {
                let day = format!("r.hour / {HOURS_PER_DAY}");
                let key = self.key(["r.who", "r.model_id", "r.hour", &day]);
                let last = (after - 1).min(i32::MAX.into());
                format!(
                    "SELECT ({key})::bigint AS key, {sums} FROM oap_hours r WHERE {who}{common}
                        AND r.hour BETWEEN {first} AND {last}"
                )
            }
            Partition::Whole { first, after, .. } => {
                let key = self.key(["r.who", "r.model_id", "0", "r.day"]);
                let last = (after - 1).min(i32::MAX.into());
                format!(
                    "SELECT ({key})::bigint AS key, {sums} FROM oap_days r WHERE {who}{common}
                        AND r.day BETWEEN {first} AND {last}"
                )
            }
            Partition::Part { from, to } => self.records(from, to),
        }
    }

    fn records(&self, from: i64, to: i64) -> String {
        let model = "coalesce(r.model_id, r.model_requested_id, (SELECT id FROM oap_models WHERE name = ''))";
        let hour = format!("r.started_at / {NS_PER_HOUR}");
        let day = format!("r.started_at / {}", HOURS_PER_DAY * NS_PER_HOUR);
        let who = if self.group_by == Some(GroupBy::Team) { "-r.team_id" } else { "r.user_id" };
        let key = self.key([who, model, &hour, &day]);
        let of_teams = if self.group_by == Some(GroupBy::Team) { " AND r.team_id IS NOT NULL" } else { "" };
        format!(
            "SELECT ({key})::bigint AS key, (r.correction IS NULL)::int::bigint AS requests,
                (r.correction IS NULL AND (r.status >= 400 OR r.outcome <> 0))::int::bigint AS errors,
                coalesce(r.correction, (r.cost_nano_usd IS NULL)::int)::bigint AS unpriced,
                coalesce(r.cost_nano_usd, 0) AS cost_nano_usd, r.input_tokens, r.cached_input_tokens, r.output_tokens,
                r.reasoning_tokens, r.total_tokens
            FROM oap_records r WHERE r.started_at >= {from} AND r.started_at < {to}{of_teams}{}",
            self.selection.of_records()
        )
    }
}
