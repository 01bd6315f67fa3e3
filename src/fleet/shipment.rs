//! What a ledger sends, each in one transaction that also moves its mark: rows, or sums of rows that it has no longer.
//!
//! In: rows in the format of COPY. Out: where the mark is then. Never: a row twice: the mark on the server decides,
//! under a lock on the ledger's row there.

use super::membership::Membership;
use super::shared_ids;
use crate::postgres::{PostgresClient, SqlError, SqlFault};

/// Rows on their way, of `oap_stage_v1`.
#[derive(Debug, Default)]
pub struct Rows {
    /// Lines of COPY.
    pub lines: Vec<u8>,
    /// The ids before the first and of the last.
    pub after: i64,
    pub upto: i64,
    /// When the last started, nanoseconds since the Unix epoch.
    pub upto_at: i64,
    /// The first instant of each month's rows that is among them, nanoseconds since the Unix epoch.
    pub starts: Vec<i64>,
    /// There may be more rows after it.
    pub is_full: bool,
    /// Everything that was committed before this instant is in it or was before, nanoseconds since the Unix epoch.
    pub fresh_to: i64,
}

/// What became of what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shipped {
    /// It is in.
    Taken,
    /// Nothing was done: the mark is here, and not where the sender took it to be.
    MarkIs(i64),
}

impl Membership {
    /// Up to which row the server has all of the ledger, and when that row started (nanoseconds since the Unix epoch;
    /// 0 where it came as a sum).
    ///
    /// # Errors
    /// The server's.
    pub fn mark(&self, client: &mut PostgresClient) -> Result<(i64, i64), SqlError> {
        let row = client.query_one("SELECT shipped, shipped_at FROM oap_ledgers WHERE id = $1", &[&self.ledger])?;
        Ok((row.get(0)?, row.get(1)?))
    }

    /// Makes the partition for rows that start at this instant, nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// The server's.
    pub fn make_month(client: &mut PostgresClient, instant: i64) -> Result<(), SqlError> {
        client.query("SELECT oap_month_v1($1)", &[&instant]).map(drop)
    }

    /// Drops the months that ended longer ago than any ledger keeps its rows, as of now (nanoseconds since the Unix
    /// epoch). How many.
    ///
    /// # Errors
    /// The server's.
    pub fn retain(client: &mut PostgresClient, now: i64) -> Result<i32, SqlError> {
        client.query_one("SELECT oap_retain_v1($1)", &[&now])?.get(0)
    }

    /// Sends rows.
    ///
    /// # Errors
    /// The server's. Where the answer to the commit was lost, the mark says whether it was made.
    pub fn ship(&self, client: &mut PostgresClient, rows: &Rows) -> Result<Shipped, SqlError> {
        client.transaction(|client| {
            client.copy_in(
                "CREATE TEMP TABLE stage (LIKE oap_stage_v1) ON COMMIT DROP; COPY stage FROM STDIN",
                &rows.lines,
            )?;
            let sql = "SELECT shipped, array_to_string(shared, ' ') FROM oap_take_v1($1, $2, $3)";
            let row = client.query_one(sql, &[&self.ledger, &self.process, &rows.after])?;
            match row.get(0)? {
                -1 => return Err(lost_place()),
                mark if mark != rows.after => return Ok(Shipped::MarkIs(mark)),
                _ => {}
            }
            let shared: Option<String> = row.get(1)?;
            let corrections = shared_ids::settle(client, shared.as_deref().unwrap_or_default())?;
            let sql = "SELECT oap_finish_v1($1, $2, $3, $4, $5)";
            client.query(sql, &[&self.ledger, &corrections, &rows.upto, &rows.upto_at, &rows.fresh_to])?;
            Ok(Shipped::Taken)
        })
    }

    /// Sends the sums of rows that the ledger has no longer, of the hours from `hours.0` to `hours.1`, as lines of
    /// `oap_history_stage_v1`; where they are the last, all rows up to `upto` are in with them.
    ///
    /// # Errors
    /// The server's.
    pub fn ship_history(
        &self,
        client: &mut PostgresClient,
        lines: &[u8],
        hours: (i64, i64),
        upto: Option<i64>,
    ) -> Result<(), SqlError> {
        client.transaction(|client| {
            client.copy_in(
                "CREATE TEMP TABLE history (LIKE oap_history_stage_v1) ON COMMIT DROP; COPY history FROM STDIN",
                lines,
            )?;
            let sql = "SELECT oap_history_v1($1, $2, $3, $4)";
            if !client.query_one(sql, &[&self.ledger, &self.process, &hours.0, &hours.1])?.get::<bool>(0)? {
                return Err(lost_place());
            }
            let sql = "UPDATE oap_ledgers SET shipped = greatest(shipped, $2::bigint), shipped_at = 0
                WHERE id = $1 AND shipped < $2";
            client.query(sql, &[&self.ledger, &upto.unwrap_or(0)]).map(drop)
        })
    }
}

const LOST: &str = "another process ships for this ledger";

fn lost_place() -> SqlError {
    SqlError::new(SqlFault::Conflict, LOST)
}
