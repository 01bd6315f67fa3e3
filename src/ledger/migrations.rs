//! The schema: what leads from each version to the next.
//!
//! In: a connection that may write. Out: the schema of this build. Never: a way back.

use rusqlite::{Connection, TransactionBehavior, ffi};
use std::time::{Duration, Instant};

/// Marks the file as ours, at offset 68 of its header: "oapx".
pub const APPLICATION_ID: u32 = 0x6f61_7078;

/// The version of the schema that this build writes.
pub const VERSION: u32 = MIGRATIONS.len() as u32;

/// What leads from each version of the schema to the next. A step is never edited once released: another is added.
///
/// `records` is only ever appended to, in order of its id, so it has no other index: the commit that a reply waits for
/// touches its last page and little else. Everything below `marks` follows behind in the fold, and is keyed so that
/// what a fold writes lies together: by hour first, or by block of ids. With the user first, each user of a fold is a
/// page of its own. Measured with 1,000 users, folds of 2,048 rows, commits of 32, checkpoints included: 8.7 us of CPU
/// a row with the user first, 5.4 us so. The price is a seek an hour where one user's rollups are read.
///
/// Measured on rows like a streamed chat's: 152 bytes a row in `records`, of which 72 are the upstream's two ids.
///
/// The tiers `days` and `months` have the user first: they are written once a day or a week (see `tiers`), and a user
/// with all of a year then lies together.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/records.sql"),
    concat!(include_str!("migrations/retrievals.sql"), include_str!("migrations/levels.sql")),
    include_str!("migrations/policy.sql"),
    include_str!("migrations/records_by_user.sql"),
    include_str!("migrations/corrections.sql"),
    include_str!("migrations/tool_calls.sql"),
    include_str!("migrations/user_paths.sql"),
    include_str!("migrations/teams.sql"),
    include_str!("migrations/alerts.sql"),
    include_str!("migrations/key_days.sql"),
    include_str!("migrations/reconciliations.sql"),
];

/// Refuses what follows behind the rows where a later build has migrated the file since this one opened it: that build
/// sums up what this one does not know of. To append rows goes on, as a row without later columns has their defaults.
///
/// # Errors
/// One sentence, or SQLite's.
pub fn check_unchanged(conn: &Connection) -> rusqlite::Result<()> {
    let version = conn.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))?;
    if version <= VERSION {
        return Ok(());
    }
    let why =
        format!("the ledger {}; it does the sums now: stop this server, and start it with that build", later(version));
    Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_SCHEMA), Some(why)))
}

/// What is said of a file whose schema is newer than this build's.
pub fn later(version: u32) -> String {
    format!("has schema version {version}, newer than this build's {VERSION}: a later build has migrated it")
}

/// What is told of a migration of a ledger that has rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationNews {
    /// From this version.
    Begins(u32),
    /// It takes this long already; told now and then.
    GoesOn(Duration),
    /// It took this long.
    Ended(Duration),
}

/// How often it is told that a migration goes on.
const NEWS_EVERY: Duration = Duration::from_secs(5);
/// SQLite's virtual machine looks at the clock once in this many instructions.
const INSTRUCTIONS_A_LOOK: i32 = 100_000;

/// Brings the schema to this build's version, in one transaction, and tells of it where rows are there already. A
/// process that is killed meanwhile leaves the file as it was, for the next start to begin anew.
///
/// # Errors
/// SQLite's; nothing has changed then.
pub fn migrate(conn: &mut Connection, tell: fn(MigrationNews)) -> rusqlite::Result<()> {
    let version = |conn: &Connection| conn.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0));
    if version(conn)? == VERSION {
        return Ok(());
    }
    let began = Instant::now();
    let mut told = began;
    let go_on = move || {
        if told.elapsed() >= NEWS_EVERY {
            told = Instant::now();
            tell(MigrationNews::GoesOn(began.elapsed()));
        }
        false
    };
    conn.progress_handler(INSTRUCTIONS_A_LOOK, Some(go_on))?;
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Again under the lock: another process may have been first.
    let from = version(&transaction)?;
    let is_told = from > 0 && from < VERSION;
    if is_told {
        tell(MigrationNews::Begins(from));
    }
    for step in MIGRATIONS.iter().skip(from as usize) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    conn.progress_handler(0, None::<fn() -> bool>)?;
    if is_told {
        tell(MigrationNews::Ended(began.elapsed()));
    }
    Ok(())
}
