//! The database file: created, recognised, migrated forward, and opened with the settings that the promises rest on.
//!
//! In: a path. Out: a connection, or one sentence that says why the file is not taken. Never: a change to a file that
//! is refused, down to its side files.
//!
//! Durability: WAL with `synchronous=NORMAL`. A committed transaction is in the kernel's hands, so it survives `kill
//! -9`; nothing in a commit waits for the disk, except one small sync when the log starts over after a checkpoint
//! (without it, a power cut could corrupt the file; with it, one can only lose the newest transactions). With
//! `LEDGER_FSYNC` it is `FULL`: each commit waits for the disk.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // the outside world: clocks and any map

use super::logger;
use crate::base::log::Level;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use std::fmt::{Display, Write as _};
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
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
/// The levels `days` and `months` have the user first: they are written once a day or a week (see `levels`), and a user
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
        include_str!("schema/levels.sql")
    ),
    include_str!("schema/policy.sql"),
    include_str!("schema/records_by_user.sql"),
];

/// Memory for pages of the writer and of a reader, in KiB. A fold for many users touches more pages than the writer may
/// hold, and spills them to the log, which costs time but no memory.
const WRITER_CACHE_KIB: i32 = 2048;
const READER_CACHE_KIB: i32 = 1024;
/// Statements that a connection keeps prepared: more than folds, or questions of all kinds, take.
const STATEMENTS_KEPT: usize = 128;

/// How long a statement waits for another process's lock before it fails (and the ledger is in trouble).
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the look for damage at start may take. A file that is too large to be read in this time is checked as far
/// as it goes; damage further on shows when it is read.
const CHECK_BUDGET: Duration = Duration::from_millis(500);

/// After a burst, the log file is cut to this many bytes when it starts over. Under a steady load it starts over before
/// it is as long (see `checkpoint`).
const LOG_BYTES_KEPT: i64 = 24 << 20;

/// Opens the ledger to write: creates it where there is none, migrates an older one.
///
/// Not to be called while this process has the same file open: looking at the header would drop SQLite's file locks
/// (POSIX `fcntl` locks go with any descriptor that closes).
///
/// # Errors
/// One sentence, with the path: not SQLite, not ours, newer than this build, corrupt, or not to be opened. The file is
/// then as it was, byte for byte, with no file beside it that was not there.
pub fn open(path: &Path) -> Result<Connection, String> {
    let path = &absolute(path)?;
    inspect(path).map_err(|why| format!("the ledger {} {why}; it was left untouched", path.display()))?;
    let unusable = |why: &dyn Display| format!("the ledger {} cannot be opened: {why}", path.display());
    let conn = open_writer(path, OpenFlags::SQLITE_OPEN_CREATE).map_err(|error| unusable(&error))?;
    // SQLite opens a file that may only be read, and a file system without shared memory, without a word.
    if conn.is_readonly("main").map_err(|error| unusable(&error))? {
        return Err(unusable(&"it may not be written"));
    }
    match conn.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0)) {
        Ok(mode) if mode == "wal" => Ok(conn),
        Ok(_) => Err(unusable(&"its file system cannot hold a write-ahead log")),
        Err(error) => Err(unusable(&error)),
    }
}

/// What is at a ledger's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing; a ledger can be made there.
    Nothing,
    /// A ledger that this build can write.
    Ledger,
    /// The same, of an earlier version: it is migrated when it is opened.
    Older,
}

/// Whether [`open`] would succeed: creates and migrates nothing, also while servers use the file. As with [`open`], not
/// to be called where this process has it open.
///
/// # Errors
/// One sentence, with the path.
pub fn check(path: &Path) -> Result<Found, String> {
    let path = &absolute(path)?;
    inspect(path).map_err(|why| format!("the ledger {} {why}", path.display()))?;
    let unusable = |why: &dyn Display| format!("the ledger {} cannot be written: {why}", path.display());
    let mut probe = path.as_os_str().to_owned();
    probe.push(format!("-check-{}", std::process::id()));
    fs::File::create_new(&probe).and_then(|_| fs::remove_file(&probe)).map_err(|error| unusable(&error))?;
    if !fs::metadata(path).is_ok_and(|file| file.len() > 0) {
        return Ok(Found::Nothing);
    }
    let try_lock = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags)?;
        conn.busy_timeout(BUSY_TIMEOUT)?;
        let version: u32 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let is_readonly = conn.is_readonly("main")?;
        if !is_readonly {
            conn.execute_batch("BEGIN IMMEDIATE; ROLLBACK")?;
        }
        Ok((version, is_readonly))
    };
    match try_lock().map_err(|error: rusqlite::Error| unusable(&error))? {
        (_, true) => Err(unusable(&"the file is read-only")),
        (VERSION, _) => Ok(Found::Ledger),
        _ => Ok(Found::Older),
    }
}

/// Has each commit wait for the disk, so that it survives a loss of power and not only of the process.
///
/// # Errors
/// SQLite's.
pub fn sync_each_commit(conn: &Connection) -> rusqlite::Result<()> {
    conn.pragma_update(None, "synchronous", "FULL")
}

/// Opens the ledger to read. It must exist; nothing about it is checked.
pub fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    open_log(&conn)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(conn)
}

/// Opens a ledger to read that nobody has open: without a lock, and without a file beside it.
///
/// # Errors
/// SQLite's.
pub fn open_at_rest(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let conn = Connection::open_with_flags(immutable_uri(path), flags)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(conn)
}

/// Opens the ledger for checkpoints, which copy the log into the file and so wait for the disk.
pub fn open_checkpointer(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    open_log(&conn)?;
    Ok(conn)
}

/// Reads something: only then does SQLite open the log, by its name. A connection that had not would, after the file
/// has lost its name, take the log of another file or make one.
fn open_log(conn: &Connection) -> rusqlite::Result<()> {
    conn.pragma_query_value(None, "schema_version", |row| row.get::<_, i64>(0)).map(drop)
}

/// An absolute path names a file whatever it looks like: `:memory:`, `file:…?…` and the empty path mean other things to
/// SQLite.
pub fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("the ledger's path {} is no path: {error}", path.display()))
}

/// Opens a ledger to write that this process, or one that shares it, has put at the path itself. It must be there.
///
/// # Errors
/// SQLite's.
pub fn reopen(path: &Path) -> rusqlite::Result<Connection> {
    open_writer(path, OpenFlags::empty())
}

fn open_writer(path: &Path, create: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | create;
    let mut conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    // Before WAL: so the header that `inspect` reads says whose the file is from its first committed byte.
    migrate(&mut conn)?;
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES_KEPT, |row| row.get::<_, i64>(0))?;
    conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(conn)
}

/// Brings the schema to this build's version, in one transaction.
fn migrate(conn: &mut Connection) -> rusqlite::Result<()> {
    let version = |conn: &Connection| conn.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0));
    if version(conn)? == VERSION {
        return Ok(());
    }
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Again under the lock: another process may have been first.
    let from = version(&transaction)?;
    if from > 0 && from < VERSION {
        let versions = [("from", (from as usize).into()), ("to", MIGRATIONS.len().into())];
        logger::event(Level::Info, "ledger is brought to the present schema: a second for a million rows", &versions);
    }
    for step in MIGRATIONS.iter().skip(from as usize) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// Looks at what is at `path` without changing it. `Ok` means absent, empty, or ours and to be read by this build.
fn inspect(path: &Path) -> Result<(), String> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("cannot be read: {error}")),
        Ok(metadata) => metadata,
    };
    if !metadata.is_file() {
        return Err("is not a file".to_owned());
    }
    if metadata.len() == 0 {
        return Ok(());
    }
    inspect_header(path)?;
    let conn = open_untouched(path).map_err(|error| format!("cannot be read: {error}"))?;
    inspect_content(&conn)
}

/// What the first hundred bytes say (SQLite's file format, §1.3), before SQLite itself may touch the file.
///
/// # Errors
/// What is wrong with it, to be put after its name.
pub fn inspect_header(path: &Path) -> Result<(), String> {
    let mut header = [0; 100];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut header));
    match read {
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(format!("cannot be read: {error}")),
        Ok(()) if header.starts_with(b"SQLite format 3\0") => {}
        _ => return Err("is not a SQLite database".to_owned()),
    }
    let field = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    inspect_identity(field(68), field(60))
}

fn inspect_identity(application_id: u32, user_version: u32) -> Result<(), String> {
    if application_id != APPLICATION_ID {
        return Err("is a database of another application".to_owned());
    }
    if user_version > VERSION {
        return Err(format!("has schema version {user_version}, newer than this build's {VERSION}"));
    }
    Ok(())
}

/// What SQLite finds: identity again (the log may be newer than the header) and the structure of its pages.
fn inspect_content(conn: &Connection) -> Result<(), String> {
    let corrupt = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => format!("is locked: {error}"),
        _ => format!("is corrupt: {error}"),
    };
    let number = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, u32>(0)).map_err(corrupt);
    inspect_identity(number("application_id")?, number("user_version")?)?;
    match conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)) {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(damage) => Err(format!("is corrupt: {}", damage.trim().replace('\n', " "))),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Ok(()),
        Err(error) => Err(corrupt(error)),
    }
}

/// A connection that leaves no trace. Without a log beside it the file is complete, and is read as immutable: no lock,
/// no side file. With one (after a crash) the log must be read too, but is neither copied back nor deleted.
fn open_untouched(path: &Path) -> rusqlite::Result<Connection> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        Path::new(&name).exists()
    };
    let mut conn = if beside("-wal") || beside("-journal") {
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?
    } else {
        open_at_rest(path)?
    };
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    let deadline = Instant::now() + CHECK_BUDGET;
    conn.progress_handler(1000, Some(move || Instant::now() > deadline))?;
    Ok(conn)
}

/// `file:` with every byte that is not plainly part of a path escaped.
fn immutable_uri(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => uri.push(char::from(*byte)),
            _ => write!(uri, "%{byte:02x}").expect("writing to a string cannot fail"),
        }
    }
    uri.push_str("?immutable=1");
    uri
}
