//! The schema: what leads from each version to the next.
//!
//! In: a connection that may write. Out: the schema of this build. Never: a way back.

use rusqlite::{Connection, TransactionBehavior};

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
    "
    CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE models (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    INSERT INTO models VALUES (0, '');
    CREATE TABLE records (
        id INTEGER PRIMARY KEY,
        started_at INTEGER NOT NULL,          -- ns since the Unix epoch
        user_id INTEGER NOT NULL,
        endpoint INTEGER NOT NULL,            -- the codes of usage::record
        model_requested_id INTEGER,
        model_id INTEGER,
        status INTEGER NOT NULL,
        outcome INTEGER NOT NULL,
        usage_source INTEGER NOT NULL,
        stream INTEGER NOT NULL,
        cost_nano_usd INTEGER,
        input_tokens INTEGER NOT NULL,
        cached_input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        total_tokens INTEGER NOT NULL,
        cache_write_tokens INTEGER NOT NULL,
        input_audio_tokens INTEGER NOT NULL,
        input_image_tokens INTEGER NOT NULL,
        output_audio_tokens INTEGER NOT NULL,
        output_image_tokens INTEGER NOT NULL,
        audio_us INTEGER NOT NULL,
        images INTEGER NOT NULL,
        duration_us INTEGER NOT NULL,
        first_byte_us INTEGER,
        proxy_us INTEGER NOT NULL,
        request_bytes INTEGER NOT NULL,
        response_bytes INTEGER NOT NULL,
        key_id INTEGER,
        upstream_request_id TEXT,
        response_id TEXT
    );
    CREATE TABLE marks (name TEXT PRIMARY KEY, record_id INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO marks VALUES ('fold', 0);     -- all that is up to this record is in the tables below
    CREATE TABLE rollups (
        hour INTEGER NOT NULL,                -- started_at in whole hours since the Unix epoch
        user_id INTEGER NOT NULL,
        model_id INTEGER NOT NULL,            -- of Record::model_name
        endpoint INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        errors INTEGER NOT NULL,
        unpriced INTEGER NOT NULL,
        cost_nano_usd INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        cached_input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        total_tokens INTEGER NOT NULL,
        cache_write_tokens INTEGER NOT NULL,
        input_audio_tokens INTEGER NOT NULL,
        input_image_tokens INTEGER NOT NULL,
        output_audio_tokens INTEGER NOT NULL,
        output_image_tokens INTEGER NOT NULL,
        audio_us INTEGER NOT NULL,
        images INTEGER NOT NULL,
        duration_us INTEGER NOT NULL,
        PRIMARY KEY (hour, user_id, model_id, endpoint)
    ) WITHOUT ROWID;
    CREATE TABLE user_records (
        block INTEGER NOT NULL,               -- record_id / 16384
        user_id INTEGER NOT NULL,
        record_id INTEGER NOT NULL,
        PRIMARY KEY (block, user_id, record_id)
    ) WITHOUT ROWID;
    -- The records of an hour are all within these ids (with others among them), so an hour can be cut exactly.
    CREATE TABLE hours (hour INTEGER PRIMARY KEY, min_id INTEGER NOT NULL, max_id INTEGER NOT NULL);
",
    concat!(
        "
    -- Where a retrieval finds what was counted under its id, up to a mark of its own.
    CREATE TABLE counted (
        block INTEGER NOT NULL,               -- record_id / 65536
        hash INTEGER NOT NULL,                -- of records.response_id
        record_id INTEGER NOT NULL,
        PRIMARY KEY (block, hash, record_id)
    ) WITHOUT ROWID;
    INSERT INTO marks VALUES ('counted', 0);
    -- Requests that are open, where a journal is kept: written before they are sent, deleted with their record.
    CREATE TABLE journal (
        owner INTEGER NOT NULL,               -- the process
        id INTEGER NOT NULL,
        started_at INTEGER NOT NULL,
        user_id INTEGER NOT NULL,
        endpoint INTEGER NOT NULL,
        model_requested_id INTEGER,
        stream INTEGER NOT NULL,
        request_bytes INTEGER NOT NULL,
        key_id INTEGER,
        PRIMARY KEY (owner, id)
    ) WITHOUT ROWID;
",
        include_str!("migrations/levels.sql")
    ),
    include_str!("migrations/policy.sql"),
    include_str!("migrations/records_by_user.sql"),
    include_str!("migrations/corrections.sql"),
];

/// Brings the schema to this build's version, in one transaction. Where that takes a while, as rows are there already,
/// `announce` is told from which version.
///
/// # Errors
/// SQLite's; nothing has changed then.
pub fn migrate(conn: &mut Connection, announce: fn(u32)) -> rusqlite::Result<()> {
    let version = |conn: &Connection| conn.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0));
    if version(conn)? == VERSION {
        return Ok(());
    }
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Again under the lock: another process may have been first.
    let from = version(&transaction)?;
    if from > 0 && from < VERSION {
        announce(from);
    }
    for step in MIGRATIONS.iter().skip(from as usize) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}
