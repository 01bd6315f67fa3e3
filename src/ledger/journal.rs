//! The journal of open requests: a row before each is sent, so that none that reached the target can leave no trace.
//!
//! In: the ledger's path, and entries whose process is gone. Out: this process as an owner of entries; and, of those
//! entries, records that say `interrupted`. Never: a change to the entries of a process that lives, this one or another
//! on the same file: each holds a lock on a file of its own beside the ledger while it runs (`flock`, which ends with
//! the process however that ends).

use super::database::{OWN_MODE, beside};
use super::marks::LAST_ID;
use super::numbers::{USAGE, USAGE_COLUMNS};
use crate::usage::record::{Outcome, UsageSource};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What stands between the ledger's name and an owner's in the name of the owner's lock.
const LOCK_SUFFIX: &str = "-open-";

/// This process as an owner of entries, while it lives.
#[derive(Debug)]
pub struct Owner {
    pub id: i64,
    path: PathBuf,
    _lock: File,
}

impl Owner {
    /// A new owner for the ledger at `path`, at `now_unix_ns`.
    ///
    /// # Errors
    /// One sentence: the lock's file cannot be made beside the ledger.
    pub fn new(path: &Path, now_unix_ns: u64) -> Result<Self, String> {
        // Two processes that live differ in one of the two.
        let id = (now_unix_ns.cast_signed() ^ i64::from(std::process::id()) << 40) & i64::MAX;
        let path = lock_path(path, id);
        Ok(Self { id, _lock: lock(&path)?, path })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // one that is left behind is known to be dead by its lock
    }
}

/// It has its name only once it is locked: a file of that name which is not is of nobody who lives.
fn lock(path: &Path) -> Result<File, String> {
    let unnamed = beside(path, "-new");
    let locked = File::options().write(true).create_new(true).mode(OWN_MODE).open(&unnamed).and_then(|file| {
        file.lock()?;
        fs::rename(&unnamed, path)?;
        Ok(file)
    });
    locked.map_err(|error| format!("the journal's lock {} cannot be made: {error}", path.display()))
}

/// `LEDGER-open-ID`
fn lock_path(ledger: &Path, owner: i64) -> PathBuf {
    beside(ledger, &format!("{LOCK_SUFFIX}{owner:016x}"))
}

/// Turns the entries of owners that are gone into records of interrupted requests; how many.
///
/// # Errors
/// SQLite's; nothing has changed then.
pub fn recover(conn: &Connection, path: &Path) -> rusqlite::Result<usize> {
    let transaction = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
    let owners: Vec<i64> = transaction
        .prepare("SELECT DISTINCT owner FROM journal")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let gone: Vec<i64> = owners.into_iter().filter(|&owner| is_gone(&lock_path(path, owner))).collect();
    let mut count = 0;
    for owner in &gone {
        count += transaction.execute(&interrupt_sql(), [owner])?;
        transaction.execute("DELETE FROM journal WHERE owner = ?", [owner])?;
    }
    transaction.commit()?;
    remove_locks_of_the_gone(path);
    Ok(count)
}

/// Removes what processes have left behind that were killed, with entries or without. What cannot be removed does no
/// harm.
fn remove_locks_of_the_gone(ledger: &Path) {
    let (Some(folder), Some(name)) = (ledger.parent(), ledger.file_name()) else { return };
    let start = [name.as_encoded_bytes(), LOCK_SUFFIX.as_bytes()].concat();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let id = entry.file_name().as_encoded_bytes().strip_prefix(&start[..]).map(<[u8]>::to_vec);
        let is_lock = id.is_some_and(|id| id.len() == 16 && id.iter().all(u8::is_ascii_hexdigit));
        if is_lock && is_gone(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// True where nobody holds the lock.
fn is_gone(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => !matches!(file.try_lock(), Err(TryLockError::WouldBlock)),
        Err(_) => true,
    }
}

/// What is known of an open request, as a record: all but what it consumed, and how long it took.
fn interrupt_sql() -> String {
    let (outcome, source) = (Outcome::Interrupted.code(), UsageSource::Unknown.code());
    let nothing = ["0"; USAGE_COLUMNS].join(", ");
    format!(
        "INSERT INTO records (id, started_at, user_id, endpoint, model_requested_id, status, outcome, usage_source,
            stream, {USAGE}, duration_us, proxy_us, request_bytes, response_bytes, key_id, team_id)
         SELECT ({LAST_ID}) + row_number() OVER (ORDER BY id), started_at, user_id, endpoint, model_requested_id, 0,
            {outcome}, {source}, stream, {nothing}, 0, 0, request_bytes, 0, key_id, team_id
         FROM journal WHERE owner = ? ORDER BY id"
    )
}
