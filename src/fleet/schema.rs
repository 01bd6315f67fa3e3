//! The fleet's schema: recognised, and brought to this build's version by whichever node comes first.
//!
//! In: a connection. Out: a schema that this build can use, or why there is none. Never: a change to what is another
//! application's, or a later build's.

use crate::postgres::{PostgresClient, SqlError, SqlFault};

/// What leads from each version of the schema to the next. A step is never edited once released: another is added, and
/// takes nothing away that the version before needs.
const MIGRATIONS: &[&str] =
    &[include_str!("schema/usage.sql"), include_str!("schema/leases.sql"), include_str!("schema/policy.sql")];

/// The version that this build makes.
pub const VERSION: i32 = MIGRATIONS.len() as i32;

/// Under which nodes wait for each other ("oapx", as in a ledger's header).
const LOCK: &str = "SELECT pg_advisory_xact_lock(1869639800, 1)";

const APPLICATION: &str = "openai-api-proxy";

/// What a database holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Version(i32),
}

/// Makes the schema, or brings it forward; leaves that of a later build as it is, where that says we may.
///
/// # Errors
/// The server's; or the tables are another application's, or too new.
pub fn prepare(client: &mut PostgresClient) -> Result<(), SqlError> {
    if find(client)? == Found::Version(VERSION) {
        return Ok(());
    }
    client.transaction(|client| {
        client.query(LOCK, &[])?;
        let from = match find(client)? {
            Found::Nothing => 0,
            Found::Version(version) => version,
        };
        for (version, step) in (1..).zip(MIGRATIONS).skip(usize::try_from(from).unwrap_or_default()) {
            client.batch(step)?;
            client.query("UPDATE oap_meta SET version = $1", &[&version])?;
        }
        Ok(())
    })
}

/// What tells a fleet from one before it in the same database, which was emptied.
///
/// # Errors
/// The server's.
pub fn epoch(client: &mut PostgresClient) -> Result<String, SqlError> {
    client.query_one("SELECT epoch::text FROM oap_meta", &[])?.get(0)
}

/// Refuses where no node has made the schema yet, or it is not for this build. Changes nothing.
///
/// # Errors
/// As for [`prepare`].
pub fn require(client: &mut PostgresClient) -> Result<(), SqlError> {
    match find(client)? {
        Found::Version(VERSION..) => Ok(()),
        _ => Err(SqlError::new(SqlFault::Misconfigured, "no node of this version has joined the fleet yet")),
    }
}

/// The same without a change: what a node would find, in words.
///
/// # Errors
/// As for [`prepare`].
pub fn describe(client: &mut PostgresClient) -> Result<String, SqlError> {
    Ok(match find(client)? {
        Found::Nothing => "its tables will be made by the first node".to_owned(),
        Found::Version(version) if version < VERSION => format!("its schema {version} will be brought to {VERSION}"),
        Found::Version(version) => format!("its schema is version {version}"),
    })
}

fn find(client: &mut PostgresClient) -> Result<Found, SqlError> {
    let sql = "SELECT to_regclass('oap_meta') IS NOT NULL, EXISTS (SELECT FROM pg_attribute WHERE NOT attisdropped
        AND attrelid = to_regclass('oap_meta') AND attname = 'application'),
        (SELECT string_agg(relname, ', ') FROM pg_class WHERE relname LIKE 'oap\\_%' AND relkind IN ('r', 'p', 'v')
            AND pg_table_is_visible(oid) AND to_regclass('oap_meta') IS NULL)";
    let row = client.query_one(sql, &[])?;
    let foreign = |what: &str| {
        let why =
            format!("the database has {what} that is not this application's: give the fleet a database of its own");
        SqlError::new(SqlFault::Misconfigured, why)
    };
    match (row.get(0)?, row.get(1)?, row.get::<Option<String>>(2)?) {
        (false, _, None) => return Ok(Found::Nothing),
        (false, _, Some(tables)) => return Err(foreign(&format!("a table ({tables})"))),
        (true, false, _) => return Err(foreign("a table oap_meta")),
        (true, true, _) => {}
    }
    let row = client.query_one("SELECT application, version, oldest FROM oap_meta", &[])?;
    if row.get::<String>(0)? != APPLICATION {
        return Err(foreign("a table oap_meta"));
    }
    let (version, oldest) = (row.get(1)?, row.get::<i32>(2)?);
    if oldest > VERSION {
        let why = format!(
            "the fleet's schema is version {version}, and this build knows up to {VERSION}: a later build has migrated \
             it; bring this proxy up to date"
        );
        return Err(SqlError::new(SqlFault::Misconfigured, why));
    }
    Ok(Found::Version(version))
}
