//! The database file: created, recognised, migrated forward, and opened with the settings that the promises rest on.
//!
//! In: a path. Out: a connection, or one sentence that says why the file is not taken. Never: a change to a file that
//! is refused, down to its side files.
//!
//! Durability: WAL with `synchronous=NORMAL`. A committed transaction is in the kernel's hands, so it survives `kill
//! -9`; nothing in a commit waits for the disk, except one small sync when the log starts over after a checkpoint
//! (without it, a power cut could corrupt the file; with it, one can only lose the newest transactions). With
//! `LEDGER_FSYNC` it is `FULL`: each commit waits for the disk.

use super::migrations::{self, APPLICATION_ID, MigrationNews, VERSION, migrate};
use crate::base::percent::encode;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fmt::Display;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The mode of a file that its owner alone may use.
pub const OWN_MODE: u32 = 0o600;

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
    open_telling(path, |_| {})
}

/// The same; where the file is migrated, `tell` is told.
///
/// # Errors
/// As for [`open`].
pub fn open_telling(path: &Path, tell: fn(MigrationNews)) -> Result<Connection, String> {
    let path = &absolute(path)?;
    inspect(path).map_err(|why| format!("the ledger {} {why}; it was left untouched", path.display()))?;
    let unusable = |why: &dyn Display| format!("the ledger {} cannot be opened: {why}", path.display());
    let conn = open_writer(path, tell).map_err(|error| unusable(&unopened(path, &error)))?;
    // SQLite opens a file that may only be read, and a file system without shared memory, without a word.
    if conn.is_readonly("main").map_err(|error| unusable(&error))? {
        return Err(unusable(&"it may not be written: this user needs to write the file and its folder"));
    }
    match conn.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0)) {
        Ok(mode) if mode == "wal" => Ok(conn),
        Ok(_) => Err(unusable(&"its file system cannot hold a write-ahead log")),
        Err(error) => Err(unusable(&error)),
    }
}

/// Why a file could not be opened. SQLite says only that it was not.
fn unopened(path: &Path, error: &rusqlite::Error) -> String {
    let folder = path.parent().unwrap_or(path);
    if !folder.is_dir() {
        return format!("its folder {} is not there; make it, or set DATABASE_PATH", folder.display());
    }
    match fs::OpenOptions::new().read(true).append(true).create(true).open(path) {
        Ok(_) => error.to_string(),
        Err(why) => format!("{why}; this user needs to write the file and its folder"),
    }
}

/// Files of ours that others than their owner may read, or write: their names tell who used what.
pub fn exposed(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & !OWN_MODE & 0o777 != 0)
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
    let probe = beside(path, &format!("-check-{}", std::process::id()));
    let probed = fs::File::create_new(&probe).and_then(|_| fs::remove_file(&probe));
    probed.map_err(|error| match path.parent().filter(|folder| !folder.is_dir()) {
        Some(folder) => unusable(&format!("its folder {} is not there", folder.display())),
        None => unusable(&error),
    })?;
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
pub fn open_at_rest(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}?immutable=1", encode(path.as_os_str().as_encoded_bytes()));
    let conn = Connection::open_with_flags(uri, flags)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(conn)
}

/// The path of a ledger that must be there already.
///
/// # Errors
/// One sentence, with the path: there is none.
pub fn existing(path: &Path) -> Result<PathBuf, String> {
    let path = absolute(path)?;
    if path.exists() {
        return Ok(path);
    }
    Err(format!("there is no ledger {}: a server makes it when it starts; DATABASE_PATH says where", path.display()))
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

/// The path of a file whose name is the ledger's with something behind it.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn open_writer(path: &Path, tell: fn(MigrationNews)) -> rusqlite::Result<Connection> {
    // SQLite gives the files beside it the same mode. One that cannot be made it will say more of.
    drop(fs::OpenOptions::new().write(true).create_new(true).mode(OWN_MODE).open(path));
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    // Before WAL: so the header that `inspect` reads says whose the file is from its first committed byte.
    migrate(&mut conn, tell)?;
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES_KEPT, |row| row.get::<_, i64>(0))?;
    conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(conn)
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
    inspect_content(&conn).map_err(|why| match beside(path, "-wal") {
        log if why.contains("corrupt") && log.exists() => {
            let log = log.display();
            format!("{why} (where it was restored from a backup, {log} is of the file before it: remove that)")
        }
        _ => why,
    })
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
        let remedy = "start that build, or put a backup from before in its place";
        return Err(format!("{} ({remedy})", migrations::later(user_version)));
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
    let mut conn = if ["-wal", "-journal"].iter().any(|suffix| beside(path, suffix).exists()) {
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
