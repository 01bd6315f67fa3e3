//! Who is in the fleet, as `fleet status` shows it; and a node that will not come back.
//!
//! In: a connection. Out: nodes, in the order of their names. Never: a record removed.

use super::schema;
use crate::postgres::{PostgresClient, SqlError};

/// A ledger that is or was in the fleet, with the process that shipped for it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterEntry {
    pub node: String,
    pub host: String,
    pub version: String,
    /// `serving`, `silent` (it neither ends nor says that it lives), `ended` or `forgotten`.
    pub state: String,
    /// Seconds since it was seen.
    pub unseen_seconds: i64,
    pub lag_rows: i64,
    pub clock_skew_ms: i64,
    /// All that it had committed before this instant is in, nanoseconds since the Unix epoch.
    pub fresh_to: u64,
    /// Records of it.
    pub shipped: i64,
}

/// Where a process stands that is `p`, of a ledger `l`.
const STATE: &str = "CASE WHEN l.forgotten THEN 'forgotten' WHEN p.ended THEN 'ended'
    WHEN p.seen > clock_timestamp() - interval '10 s' THEN 'serving' ELSE 'silent' END";

/// All of them.
///
/// # Errors
/// The server's.
pub fn list(client: &mut PostgresClient) -> Result<Vec<RosterEntry>, SqlError> {
    schema::require(client)?;
    let sql = format!(
        "SELECT l.node, p.host, p.version, {STATE}, extract(epoch FROM clock_timestamp() - p.seen)::bigint, p.lag_rows,
            p.clock_skew_ms, l.fresh_to, l.shipped
        FROM oap_ledgers l JOIN oap_processes p ON p.id = l.process ORDER BY 1, l.id"
    );
    let entry = |row: &crate::postgres::Row| {
        Ok(RosterEntry {
            node: row.get(0)?,
            host: row.get(1)?,
            version: row.get(2)?,
            state: row.get(3)?,
            unseen_seconds: row.get::<i64>(4)?.max(0),
            lag_rows: row.get(5)?,
            clock_skew_ms: row.get(6)?,
            fresh_to: row.get::<i64>(7)?.unsigned_abs(),
            shipped: row.get(8)?,
        })
    };
    client.query(&sql, &[])?.iter().map(entry).collect()
}

/// What became of a node that is to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// It is waited for no more; what is recorded of it stays.
    Done,
    /// It lives.
    Lives,
    Unknown,
}

/// Declares that a node will not come back: nobody waits for what it has not sent, and what it held of limits and
/// budgets and is not known to have spent is free. Where it does come back, it is in again.
///
/// # Errors
/// The server's.
pub fn forget(client: &mut PostgresClient, node: &str) -> Result<Forgotten, SqlError> {
    schema::require(client)?;
    let sql = format!(
        "WITH asked AS (SELECT l.id, {STATE} AS state FROM oap_ledgers l JOIN oap_processes p ON p.id = l.process
            WHERE l.node = $1),
        gone AS (UPDATE oap_ledgers SET forgotten = true WHERE id IN (SELECT id FROM asked)
            AND NOT EXISTS (SELECT FROM asked WHERE state = 'serving') RETURNING id)
        SELECT count(*), count(*) FILTER (WHERE state = 'serving'),
            (SELECT count(oap_forget_leases_v1(id)) FROM gone) FROM asked"
    );
    let row = client.query_one(&sql, &[&node])?;
    Ok(match (row.get::<i64>(0)?, row.get::<i64>(1)?) {
        (0, _) => Forgotten::Unknown,
        (_, 0) => Forgotten::Done,
        _ => Forgotten::Lives,
    })
}
