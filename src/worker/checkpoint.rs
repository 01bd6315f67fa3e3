//! Checkpoints, on a thread and connection of their own: they wait for the disk, and no commit waits for them.
//!
//! In: each commit, and a nudge after each fold. Out: the log copied into the database file. Never: a write of its own.
//!
//! A passive checkpoint holds nobody up, but under steady writing the log never comes to a moment at which all of it is
//! copied, and so never starts over. The writer itself therefore copies, between two commits, the few pages that came
//! since ([`Checkpointer::catch_up`]): one short stall in some thousand commits, instead of a log without bound. The
//! log starts over before it outgrows the file that is kept for it: writing over what is there costs less than making
//! the file longer and cutting it again.
//!
//! Both are put off until the log is long: most of its pages are later states of the same few, of which only the last
//! is copied, and where there is one core the loop waits for a part of each checkpoint.

use super::logger::event;
use super::process::{lower_priority, spawn};
use crate::base::log::Level;
use crate::ledger::database;
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Pages (4 KiB) in the log from which on it is copied back, and starts over.
const LOG_PAGES_MAX: i64 = 3_000;
/// Commits from one look at the log to the next: of one page or a few each.
const COMMITS_PER_LOOK: u32 = 512;

/// The thread's handle. Dropped, the thread ends after the checkpoint that it is at.
pub struct Checkpointer {
    nudges: SyncSender<()>,
    /// Commits since the last nudge.
    commits: u32,
    /// The log is long, and all but its newest pages are copied.
    behind: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Checkpointer {
    /// Starts the thread for the ledger at `path`, which exists.
    ///
    /// # Errors
    /// One sentence, if the file cannot be opened or the system gives no thread.
    pub fn start(path: &Path) -> Result<Self, String> {
        let conn = database::open_checkpointer(path)
            .map_err(|error| format!("the ledger {} cannot be opened: {error}", path.display()))?;
        let (nudges, inbox) = sync_channel(1);
        let behind = Arc::new(AtomicBool::new(false));
        let thread_behind = Arc::clone(&behind);
        let thread = spawn("checkpoint", move || run(&conn, &inbox, &thread_behind))?;
        Ok(Self { nudges, commits: 0, behind, thread })
    }

    /// Counts a commit; with enough of them, says that the log has grown. True where it has: what the writer still
    /// holds open of it cannot be copied.
    pub fn count_commit(&mut self) -> bool {
        self.commits += 1;
        let is_grown = self.commits >= COMMITS_PER_LOOK;
        if is_grown {
            self.nudge();
        }
        is_grown
    }

    /// Says that the log has grown. Never blocks; one nudge waiting is as good as many.
    pub fn nudge(&mut self) {
        self.commits = 0;
        let _ = self.nudges.try_send(());
    }

    /// True where [`Self::catch_up`] has something to do.
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
    }

    /// To be called between transactions of the writer, on its connection: copies what is left of a long log, if the
    /// thread could not.
    ///
    /// # Errors
    /// SQLite's; it is tried again after the thread's next checkpoint.
    pub fn catch_up(&self, writer: &Connection) -> rusqlite::Result<()> {
        if self.behind.swap(false, Ordering::Relaxed) {
            pragma(writer, "PRAGMA wal_checkpoint(PASSIVE)")?;
        }
        Ok(())
    }

    /// Ends the thread after the checkpoint that it is at.
    pub fn stop(self) {
        drop(self.nudges);
        let _ = self.thread.join();
    }
}

fn run(conn: &Connection, inbox: &Receiver<()>, behind: &AtomicBool) {
    lower_priority(); // no commit waits for it
    let mut failing = false;
    while inbox.recv().is_ok() {
        match checkpoint(conn) {
            Ok(is_behind) => {
                failing = false;
                behind.store(is_behind, Ordering::Relaxed);
            }
            Err(error) if !failing => {
                failing = true;
                event(Level::Error, "ledger cannot checkpoint", &[("error", error.to_string().as_str().into())]);
            }
            Err(_) => {}
        }
    }
}

/// True if the log is long and not all of it could be copied: more came while it was.
fn checkpoint(conn: &Connection) -> rusqlite::Result<bool> {
    let (pages, copied) = pragma(conn, "PRAGMA wal_checkpoint(NOOP)")?;
    if pages < LOG_PAGES_MAX || copied == pages {
        return Ok(false);
    }
    pragma(conn, "PRAGMA wal_checkpoint(PASSIVE)")?;
    let (pages, copied) = pragma(conn, "PRAGMA wal_checkpoint(NOOP)")?;
    Ok(copied < pages)
}

/// Pages in the log, and of them those that are copied. The first column says that a lock was busy: not a failure.
fn pragma(conn: &Connection, sql: &str) -> rusqlite::Result<(i64, i64)> {
    conn.prepare_cached(sql)?.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))
}
