//! What a node had of keys, limits and teams before it came to the fleet, or while it was away: it comes along.
//!
//! In: a node's own tables. Out: the fleet's, with what they had nothing of. Never: another word on what the fleet
//! knows, but that a key is revoked.

use super::fleet_policy::{digits, next_version, record};
use crate::ledger::keys_and_limits::RuleRow;
use crate::ledger::policy_copy::PolicyCopy;
use crate::postgres::{PostgresClient, SqlError};
use crate::reporting::KeyRow;

/// Brings in what a node's own tables have of which the fleet has never heard: of what it has, its word holds. A key
/// that was revoked anywhere is revoked, also where a server that was set back knows nothing of it any more.
///
/// # Errors
/// The server's; nothing has changed then.
pub fn bring_in(client: &mut PostgresClient, own: &PolicyCopy, node: &str, now: u64) -> Result<(), SqlError> {
    client.transaction(|client| {
        let version = next_version(client)?;
        let counts = [
            bring_keys(client, own, version)?,
            bring_revocations(client, own, version)?,
            bring_limits(client, own, version)?,
            bring_members(client, own, version)?,
        ];
        if counts == [0; 4] {
            return Ok(());
        }
        let [keys, revocations, limits, members] = counts;
        let what = format!(
            "brought in: {keys} keys, {revocations} revocations, limits of {limits}, the teams of {members} users"
        );
        record(client, version, now.cast_signed(), &format!("node {node}"), &what)
    })
}

/// Keys that the fleet does not have, under their numbers where these are free.
fn bring_keys(client: &mut PostgresClient, own: &PolicyCopy, version: i64) -> Result<usize, SqlError> {
    let sql = "WITH mine AS (
            SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[],
                $7::bigint[], $8::bigint[], $9::bigint[])
            AS m (id, user_name, team, name, hash, created_at, expires_at, revoked_at, last_used_day)),
        strange AS (
            SELECT m.*, EXISTS (SELECT FROM oap_keys k WHERE k.id = m.id) AS is_taken FROM mine m
            WHERE NOT EXISTS (SELECT FROM oap_keys k WHERE k.hash = m.hash)),
        last AS (SELECT greatest((SELECT max(id) FROM oap_keys), (SELECT max(id) FROM mine)) AS id)
        INSERT INTO oap_keys SELECT
            CASE WHEN is_taken THEN last.id + row_number() OVER (PARTITION BY is_taken ORDER BY s.id) ELSE s.id END,
            user_name, team, name, hash, created_at, expires_at, revoked_at, last_used_day, $10 FROM strange s, last
        RETURNING 1";
    let keys = || own.keys.iter().map(|(key, _)| key);
    let numbers = |of: fn(&KeyRow) -> Option<u64>| keys().map(|key| of(key).map(u64::cast_signed)).collect::<Vec<_>>();
    let texts = |of: fn(&KeyRow) -> &str| keys().map(of).collect::<Vec<_>>();
    let rows = client.query(
        sql,
        &[
            &keys().map(|key| key.id).collect::<Vec<_>>(),
            &texts(|key| &key.user),
            &keys().map(|key| key.team.as_deref()).collect::<Vec<_>>(),
            &texts(|key| &key.name),
            &own.keys.iter().map(|(_, hash)| digits(hash)).collect::<Vec<_>>(),
            &numbers(|key| Some(key.created_at)),
            &numbers(|key| key.expires_at),
            &numbers(|key| key.revoked_at),
            &numbers(|key| key.last_used_day),
            &version,
        ],
    )?;
    Ok(rows.len())
}

fn bring_revocations(client: &mut PostgresClient, own: &PolicyCopy, version: i64) -> Result<usize, SqlError> {
    let revoked = || own.keys.iter().filter_map(|(key, hash)| Some((key.revoked_at?.cast_signed(), digits(hash))));
    let sql = "UPDATE oap_keys k SET revoked_at = m.revoked_at, version = $3
        FROM unnest($1::bigint[], $2::text[]) AS m (revoked_at, hash)
        WHERE k.hash = m.hash AND k.revoked_at IS NULL RETURNING 1";
    let (instants, hashes): (Vec<_>, Vec<_>) = revoked().unzip();
    Ok(client.query(sql, &[&instants, &hashes, &version])?.len())
}

fn bring_limits(client: &mut PostgresClient, own: &PolicyCopy, version: i64) -> Result<usize, SqlError> {
    let sql = format!(
        "INSERT INTO oap_limits (level, name, is_set, {}, version)
        SELECT m.*, $10::bigint FROM (SELECT level, name, true, rpm, tpm, concurrent, day, month, models, paths
            FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                $8::text[], $9::text[])
            AS x (level, name, rpm, tpm, concurrent, day, month, models, paths)) m
        ON CONFLICT DO NOTHING RETURNING 1",
        RuleRow::COLUMNS
    );
    let set: Vec<_> = own.limits.iter().filter_map(|(level, name, row)| Some((level, name, row.as_ref()?))).collect();
    let number = |column: usize| set.iter().map(|(.., row)| row.numbers[column]).collect::<Vec<_>>();
    let rows = client.query(
        &sql,
        &[
            &set.iter().map(|(level, ..)| level.as_str()).collect::<Vec<_>>(),
            &set.iter().map(|(_, name, _)| name.as_str()).collect::<Vec<_>>(),
            &number(0),
            &number(1),
            &number(2),
            &number(3),
            &number(4),
            &set.iter().map(|(.., row)| row.models.as_deref()).collect::<Vec<_>>(),
            &set.iter().map(|(.., row)| row.paths.as_deref()).collect::<Vec<_>>(),
            &version,
        ],
    )?;
    Ok(rows.len())
}

fn bring_members(client: &mut PostgresClient, own: &PolicyCopy, version: i64) -> Result<usize, SqlError> {
    let sql = "INSERT INTO oap_members SELECT m.*, $3::bigint FROM unnest($1::text[], $2::text[]) AS m
        ON CONFLICT DO NOTHING RETURNING 1";
    let (users, teams): (Vec<_>, Vec<_>) = own.members.iter().map(|(user, team)| (user, team)).unzip();
    Ok(client.query(sql, &[&users, &teams, &version])?.len())
}

/// Tells on which day keys were used here last.
///
/// # Errors
/// The server's.
pub fn tell_uses(client: &mut PostgresClient, own: &PolicyCopy) -> Result<(), SqlError> {
    let used = own.keys.iter().filter_map(|(key, hash)| Some((key.last_used_day?.cast_signed(), digits(hash))));
    let (days, hashes): (Vec<_>, Vec<_>) = used.unzip();
    let sql = "UPDATE oap_keys k SET last_used_day = m.day FROM unnest($1::bigint[], $2::text[]) AS m (day, hash)
        WHERE k.hash = m.hash AND coalesce(k.last_used_day, -1) < m.day";
    client.query(sql, &[&days, &hashes]).map(drop)
}
