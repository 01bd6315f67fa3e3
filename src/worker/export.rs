//! The export thread: sends what is in the ledger to an InfluxDB server, in the order of the rows.
//!
//! ```text
//!   ledger ──rows past the cursor──▶ lines ──gzip──▶ server
//!     ▲                                                │ taken, or set aside as poison
//!     └────────────── cursor, by the ledger thread ◀───┘
//! ```
//!
//! In: a ledger file, and a server. Out: every row of it there, and the cursor behind the last one. Never: a wait of
//! the loop or of the ledger; a lock on the ledger; a row passed over because the server is away, however long.
//!
//! The ledger is the outbox, so nothing is held in memory but the batch at hand. What was sent when the process was
//! killed, and not yet marked, is sent again, as the same points. Of several processes with one ledger, one exports.

pub mod delivery;
pub mod influx_client;
pub mod line_protocol;
mod progress;

pub use influx_client::Server;
pub use progress::ExportProgress;

use super::backoff::Retry;
use super::logger::{Value, event};
use super::outbound::Trouble;
use super::process::{lower_priority, spawn};
use super::turn::Turn;
use crate::base::log::Level;
use crate::config::{Egress, Influx};
use crate::ledger::database;
use crate::ledger::marks::{self, LAST_ID};
use delivery::{Delivery, deliver};
use influx_client::Verdict;
use line_protocol::Batch;
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

/// Lines in one request.
const BATCH_LINES_MAX: usize = 5_000;
/// Lines in the first request after the server has refused all lines of one. Doubled with each that follows.
const BATCH_LINES_WARY: usize = 64;
/// How often new rows are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The pauses after the first failure and after many, at most.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a shutdown waits for the answer to the request that is under way.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);
/// Refused lines of one batch that the log names one by one.
const REFUSED_LOGGED_MAX: usize = 20;

/// The other threads' end of the export.
pub struct ExportHandle {
    progress: Arc<ExportProgress>,
    /// Dropped, the thread ends.
    stop: Sender<()>,
    ended: Receiver<()>,
}

impl ExportHandle {
    /// Starts the thread for the ledger at `path`, whose ledger thread is running.
    ///
    /// # Errors
    /// One sentence: the path is none, or the system gives no thread.
    pub fn start(
        path: &Path,
        (target, egress): (Influx, &Egress),
        mark: impl Fn(i64) + Send + 'static,
    ) -> Result<Self, String> {
        let path = database::absolute(path)?;
        let (stop, stopped) = channel();
        let (end, ended) = channel();
        let progress = Arc::new(ExportProgress::default());
        let exporter = Exporter {
            turn: Turn::new(database::beside(&path, "-export")),
            path,
            conn: None,
            server: Server::new(target, egress),
            mark: Box::new(mark),
            cursor: None,
            batch_lines_max: BATCH_LINES_MAX,
            retry: Retry::new("influx export fails", "influx export works again").pausing(PAUSE_MIN, PAUSE_MAX),
            progress: Arc::clone(&progress),
            stopped,
        };
        spawn("export", move || {
            lower_priority();
            exporter.run();
            drop(end);
        })?;
        Ok(Self { progress, stop, ended })
    }

    /// How far it is, for `/metrics`.
    pub fn progress(&self) -> Arc<ExportProgress> {
        Arc::clone(&self.progress)
    }

    /// Ends the thread after the request that it is at; one that takes too long is left to the end of the process. To
    /// be called before the ledger thread is ended, which keeps the cursor.
    pub fn shutdown(self) {
        drop(self.stop);
        let _ = self.ended.recv_timeout(SHUTDOWN_PATIENCE);
    }
}

struct Exporter {
    path: PathBuf,
    /// Which process exports.
    turn: Turn,
    /// To read rows with; none before the first, and after a failure.
    conn: Option<Connection>,
    server: Server,
    /// Keeps the cursor.
    mark: Box<dyn Fn(i64) + Send>,
    /// The last row that is done with; none until this process is the one that exports.
    cursor: Option<i64>,
    batch_lines_max: usize,
    retry: Retry,
    progress: Arc<ExportProgress>,
    stopped: Receiver<()>,
}

impl Exporter {
    fn run(mut self) {
        let mut pause = Duration::ZERO;
        while self.wait(pause) {
            pause = match self.step() {
                Ok(true) => Duration::ZERO,
                Ok(false) => LOOK_EVERY,
                Err(_) if self.is_stopping() => Duration::ZERO,
                Err(trouble) => {
                    let mut progress = self.progress.lock();
                    progress.is_failing = true;
                    progress.failures += 1;
                    drop(progress);
                    self.retry.failed(&trouble.why);
                    self.retry.jittered().max(trouble.retry_after.unwrap_or_default())
                }
            };
        }
    }

    /// False once the thread is to end. However long it waits, `/metrics` goes on to say how far behind it is.
    fn wait(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.stopped.recv_timeout(left.min(LOOK_EVERY)) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) if left <= LOOK_EVERY => return true,
                Err(RecvTimeoutError::Timeout) => self.look(),
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopped.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Sends one batch. True if there may be more to send at once.
    fn step(&mut self) -> Result<bool, Trouble> {
        if !self.turn.is_ours().map_err(Trouble::new)? {
            return Ok(false);
        }
        let rows_max = self.batch_lines_max;
        let batch = self.read(rows_max).map_err(|error| Trouble::new(format!("the ledger cannot be read: {error}")))?;
        self.look();
        if batch.is_empty() {
            return Ok(false);
        }
        let delivery = deliver(batch.len(), &mut |lines| {
            // Else the halving of a batch would go on for long after the end.
            match self.is_stopping() {
                true => Verdict::Trouble(Trouble::new("the proxy is stopping".to_owned())),
                false => self.server.post(batch.lines(lines)),
            }
        });
        self.settle(&batch, delivery)?;
        let is_full = batch.len() == rows_max;
        if !is_full {
            self.progress.lock().oldest_unix_ns = 0;
        }
        Ok(is_full)
    }

    /// The rows behind the cursor.
    fn read(&mut self, rows_max: usize) -> rusqlite::Result<Batch> {
        let conn = match self.conn.take() {
            Some(conn) => conn,
            None => database::open_reader(&self.path)?,
        };
        let cursor = match self.cursor {
            Some(cursor) => cursor,
            None => marks::read(&conn, marks::EXPORT)?,
        };
        let batch = Batch::read(&conn, cursor, rows_max)?;
        (self.cursor, self.conn) = (Some(cursor), Some(conn));
        let mut progress = self.progress.lock();
        (progress.cursor, progress.oldest_unix_ns) = (cursor, batch.oldest_unix_ns);
        drop(progress);
        Ok(batch)
    }

    /// Takes note of how far the ledger is.
    fn look(&self) {
        let last = self.conn.as_ref().and_then(|conn| conn.query_row(LAST_ID, [], |row| row.get(0)).ok());
        if let Some(last) = last {
            self.progress.lock().last = last;
        }
    }

    /// Moves the cursor behind what is done with.
    fn settle(&mut self, batch: &Batch, delivery: Delivery) -> Result<(), Trouble> {
        let Delivery { done, refused, refuses_all, trouble } = delivery;
        for refused in refused.iter().take(REFUSED_LOGGED_MAX) {
            let (id, why) = (batch.id(refused.line), &refused.why);
            let fields = [("record", Value::Number(id.unsigned_abs())), ("error", why.as_str().into())];
            event(Level::Error, "influx refuses a record, it is passed over", &fields);
        }
        if let Some(more) = refused.get(REFUSED_LOGGED_MAX..).filter(|more| !more.is_empty()) {
            let (count, to) = (more.len(), batch.id(more[more.len() - 1].line));
            let fields = [("records", Value::Number(count as u64)), ("to", Value::Number(to.unsigned_abs()))];
            event(Level::Error, "influx refuses more records, they are passed over", &fields);
        }
        if done > 0 {
            let cursor = batch.id(done - 1);
            self.cursor = Some(cursor);
            (self.mark)(cursor);
            let mut progress = self.progress.lock();
            progress.cursor = cursor;
            progress.lines_sent += (done - refused.len()) as u64;
            progress.lines_refused += refused.len() as u64;
        }
        self.batch_lines_max = match self.batch_lines_max {
            BATCH_LINES_MAX if refuses_all => BATCH_LINES_WARY,
            wary if done == 0 => if refuses_all { wary * 2 } else { wary }.min(BATCH_LINES_MAX),
            _ => BATCH_LINES_MAX,
        };
        match trouble {
            Some(trouble) => Err(trouble),
            None => {
                self.retry.worked();
                self.progress.lock().is_failing = false;
                Ok(())
            }
        }
    }
}
