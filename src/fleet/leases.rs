//! The messages of leases as one statement: see [`crate::limit::lease`] for their words, and `schema/leases.sql` for
//! what the engine makes of them.

use crate::limit::lease::{Answer, Ask};
use crate::postgres::{PostgresClient, SqlError, SqlFault};
use std::time::Duration;

/// What an exchange brings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// In the order of the messages.
    pub answers: Vec<Answer>,
    /// Accounts of which others need what this ledger holds.
    pub recalled: Vec<String>,
    /// Of keys, limits and teams: another one after each change.
    pub policy_version: i64,
}

/// Sends messages of a ledger's process, and takes the answers, as one transaction. A lease lasts for so long; `now_ms`
/// is for tests, and else the server's.
///
/// # Errors
/// The server's. Whether it has heard the messages is not known then, and need not be.
pub fn exchange(
    client: &mut PostgresClient,
    now_ms: Option<i64>,
    lasts_ms: i64,
    ledger: i16,
    asks: &[Ask],
) -> Result<Exchanged, SqlError> {
    let sql = "SELECT granted[i], available[i], others[i], wait_ms[i], NULL, NULL::bigint
            FROM oap_exchange_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) e,
            generate_series(1, array_length(granted, 1)) i
        UNION ALL SELECT NULL, NULL, NULL, NULL, account, NULL FROM oap_recalled_v1($3) account
        UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, version FROM oap_policy";
    let numbers = |of: fn(&Ask) -> i64| asks.iter().map(of).collect::<Vec<_>>();
    let accounts: Vec<&str> = asks.iter().map(|ask| &*ask.account).collect();
    let opens: Vec<bool> = asks.iter().map(|ask| ask.opens).collect();
    let closes: Vec<bool> = asks.iter().map(|ask| ask.closes).collect();
    let rows = client.query(
        sql,
        &[
            &now_ms,
            &lasts_ms,
            &ledger,
            &accounts,
            &numbers(|ask| ask.terms.cap),
            &numbers(|ask| ask.terms.per_minute),
            &numbers(|ask| ask.lease),
            &opens,
            &numbers(|ask| ask.seq),
            &numbers(|ask| ask.spent),
            &numbers(|ask| ask.returned),
            &numbers(|ask| ask.held),
            &numbers(|ask| ask.want),
            &numbers(|ask| ask.need),
            &numbers(|ask| ask.least),
            &closes,
        ],
    )?;
    let none = || SqlError::new(SqlFault::Statement, "an answer has no version");
    let (version, rows) = rows.split_last().ok_or_else(none)?;
    let (answers, recalled) = rows.split_at(asks.len().min(rows.len()));
    let answers = answers.iter().map(|row| {
        Ok::<_, SqlError>(Answer {
            granted: row.get(0)?,
            available: row.get(1)?,
            others: row.get(2)?,
            wait_ms: row.get(3)?,
        })
    });
    let recalled = recalled.iter().map(|row| row.get(4));
    Ok(Exchanged {
        answers: answers.collect::<Result<_, _>>()?,
        recalled: recalled.collect::<Result<_, _>>()?,
        policy_version: version.get(5)?,
    })
}

/// Forgets accounts that tell nothing any more.
///
/// # Errors
/// The server's.
pub fn prune(client: &mut PostgresClient) -> Result<(), SqlError> {
    client.query("SELECT oap_prune_accounts_v1()", &[]).map(drop)
}

/// Has the engine grant nothing for so long: what its forerunner, which is gone, has granted is void then.
///
/// # Errors
/// The server's.
pub fn be_quiet(client: &mut PostgresClient, lasts: Duration) -> Result<(), SqlError> {
    let lasts_ms = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX / 2);
    let sql = "UPDATE oap_quiet
        SET until_ms = greatest(until_ms, (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $1)";
    client.query(sql, &[&lasts_ms]).map(drop)
}
