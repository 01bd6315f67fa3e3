//! Checkpoints, on a thread and connection of their own: they wait for the disk, and no commit waits for them.
//!
//! In: a nudge after each fold. Out: the log copied into the database file. Never: a write of its own.
//!
//! A passive checkpoint holds nobody up, but under steady writing the log never comes to a moment at which all of it is
//! copied, and so never starts over. Past a second size the writer itself therefore copies, after a fold, the few pages
//! that came since ([`Checkpointer::catch_up`]): one short stall in some hundred thousand rows, instead of a log
//! without bound.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // the outside world: clocks and any map

use super::log::event;
use super::process::give_way;
use super::schema;
use crate::base::log::Level;
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Pages (4 KiB) in the log from which on it is copied back.
const PASSIVE_PAGES: i64 = 1_000;
/// Pages in the log from which on the writer helps, so that the log can start over.
const CATCH_UP_PAGES: i64 = 4_000;

/// The thread's handle. Dropped, the thread ends after the checkpoint that it is at.
pub struct Checkpointer {
    nudges: SyncSender<()>,
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
        let conn = schema::open_checkpointer(path)
            .map_err(|error| format!("the ledger {} cannot be opened: {error}", path.display()))?;
        let (nudges, inbox) = sync_channel(1);
        let behind = Arc::new(AtomicBool::new(false));
        let thread_behind = Arc::clone(&behind);
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || run(&conn, &inbox, &thread_behind))
            .map_err(|error| format!("the checkpoint thread cannot start: {error}"))?;
        Ok(Self { nudges, behind, thread })
    }

    /// Says that the log has grown. Never blocks; one nudge waiting is as good as many.
    pub fn nudge(&self) {
        let _ = self.nudges.try_send(());
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

    /// Goes on with the file that is at the path now.
    ///
    /// # Errors
    /// As for [`Checkpointer::start`]; it stays with the old file then.
    pub fn restart(&mut self, path: &Path) -> Result<(), String> {
        let before = std::mem::replace(self, Self::start(path)?);
        before.stop();
        Ok(())
    }

    /// Ends the thread after the checkpoint that it is at.
    pub fn stop(self) {
        drop(self.nudges);
        let _ = self.thread.join();
    }
}

fn run(conn: &Connection, inbox: &Receiver<()>, behind: &AtomicBool) {
    give_way(); // no commit waits for it
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

/// True if the log is long and not all of it could be copied.
fn checkpoint(conn: &Connection) -> rusqlite::Result<bool> {
    let (pages, copied) = pragma(conn, "PRAGMA wal_checkpoint(NOOP)")?;
    if pages < PASSIVE_PAGES || copied == pages {
        return Ok(false);
    }
    pragma(conn, "PRAGMA wal_checkpoint(PASSIVE)")?;
    // Again, for what came while it was copying.
    let (pages, copied) = pragma(conn, "PRAGMA wal_checkpoint(NOOP)")?;
    Ok(pages >= CATCH_UP_PAGES && copied < pages)
}

/// Pages in the log, and of them those that are copied. The first column says that a lock was busy: not a failure.
fn pragma(conn: &Connection, sql: &str) -> rusqlite::Result<(i64, i64)> {
    conn.prepare_cached(sql)?.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))
}
