//! Who used what lately, as the metrics label it: for counters that are there at 0 before they are counted in again.
//!
//! In: a connection. Out: label sets, those used last first, a bounded number. Never: a write, or a look at more than
//! so many rows, however long the history is.

use super::marks;
use super::numbers::{USAGE, usage};
use super::partition::NS_PER_HOUR;
use crate::metrics::{FormerSeries, TEAM_MARK};
use crate::usage::record::Endpoint;
use rusqlite::Connection;

/// How many rollups are looked at, and as many rows that are in none yet: some 50 ms at start. A rollup is an hour of
/// a user, a model and an endpoint.
const ROWS_MAX: i64 = 4_000;

/// Stands for the status of what went well. A rollup tells how many failed, and not with what.
const SUCCESS: i64 = -1;

/// The label sets of the last rollups and of the rows after them.
///
/// # Errors
/// SQLite's.
pub fn recent_series(conn: &Connection) -> rusqlite::Result<Vec<FormerSeries>> {
    let snapshot = conn.unchecked_transaction()?;
    let largest: Vec<String> = USAGE.split(',').map(|column| format!("max({column})")).collect();
    // Not sums, which may outgrow an integer.
    let mut statement = snapshot.prepare(&format!(
        "WITH recent AS (
            SELECT * FROM (SELECT started_at / {NS_PER_HOUR} AS hour, user_id,
                coalesce(model_id, model_requested_id, 0) AS model_id, endpoint, status,
                cost_nano_usd IS NOT NULL AS priced, {USAGE}
                FROM records WHERE id > ?1 AND correction IS NULL ORDER BY id DESC LIMIT {ROWS_MAX})
            UNION ALL
            SELECT * FROM (SELECT hour, user_id, model_id, endpoint, iif(requests > errors, {SUCCESS}, NULL),
                requests > unpriced, {USAGE}
                FROM rollups WHERE user_id > 0 ORDER BY hour DESC LIMIT {ROWS_MAX}))
        SELECT u.name || coalesce(char({}) || b.team, ''), m.name, endpoint, status, max(priced), {}
        FROM recent JOIN users u ON u.id = user_id JOIN models m ON m.id = recent.model_id
            LEFT JOIN members b ON b.user = u.name
        GROUP BY user_id, recent.model_id, endpoint, status ORDER BY max(hour) DESC LIMIT {ROWS_MAX}",
        u32::from(TEAM_MARK),
        largest.join(", ")
    ))?;
    let mut rows = statement.query([marks::read(&snapshot, marks::FOLD)?])?;
    let mut series = Vec::new();
    while let Some(row) = rows.next()? {
        let Some(endpoint) = Endpoint::from_code(row.get(2)?) else { continue };
        let is_websocket =
            endpoint.is_session() || matches!(endpoint, Endpoint::Realtime | Endpoint::RealtimeTranscription);
        let status = row.get::<_, Option<i64>>(3)?.map(|status| match status {
            SUCCESS if is_websocket => 101,
            SUCCESS => 200,
            status => u16::try_from(status).unwrap_or(0),
        });
        let (used, _) = usage(row, FIRST_USAGE)?;
        series.push(FormerSeries::new([row.get(0)?, row.get(1)?], endpoint, status, &used, row.get(4)?));
    }
    Ok(series)
}

/// Where the columns of [`USAGE`] begin.
const FIRST_USAGE: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::append::Writer;
    use crate::ledger::database;
    use crate::usage::record::{Record, Usage};

    /// A row of one hour and user, with a status, a price and some tokens.
    fn record(hour: u64, user: &str, status: u16, cost_nano_usd: Option<u64>) -> Record {
        Record {
            user: user.into(),
            model: Some("m".into()),
            endpoint: Endpoint::Responses,
            status,
            started_at: hour * NS_PER_HOUR.unsigned_abs(),
            usage: Usage { input_tokens: 7, ..Usage::default() },
            cost_nano_usd,
            ..Record::default()
        }
    }

    #[test]
    fn label_sets_are_those_of_rollups_and_of_the_rows_after_them_the_last_ones_first() {
        let folder = tempfile::tempdir().unwrap();
        let conn = database::open(&folder.path().join("usage.db")).unwrap();
        let mut writer = Writer::new(&conn).unwrap();
        let former = |record: &Record, status: Option<u16>| {
            let names = [record.user.as_ref().into(), "m".into()];
            FormerSeries::new(names, record.endpoint, status, &record.usage, record.cost_nano_usd.is_some())
        };
        let rows = [record(3, "c", 429, None), record(1, "a", 200, Some(1)), record(2, "b", 200, None)];
        writer.append(&rows).unwrap();
        let [c, a, b] = &rows;
        assert_eq!(recent_series(&conn).unwrap(), [former(c, Some(429)), former(b, Some(200)), former(a, Some(200))]);
        writer.fold(rows.len() as i64).unwrap();
        assert_eq!(recent_series(&conn).unwrap(), [former(c, None), former(b, Some(200)), former(a, Some(200))]);
        let rows =
            [record(4, "a", 500, None), Record { endpoint: Endpoint::RealtimeSession, ..record(5, "d", 101, None) }];
        writer.append(&rows).unwrap();
        writer.fold(rows.len() as i64).unwrap();
        let [a_again, d] = &rows;
        let all =
            [former(d, Some(101)), former(a_again, None), former(c, None), former(b, Some(200)), former(a, Some(200))];
        assert_eq!(recent_series(&conn).unwrap(), all);
    }
}
