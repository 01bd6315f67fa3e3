//! The ledger's file as the file system has it. Deleted, moved or replaced while it is open, it is noticed within a
//! second, and written back to its path from the open connection.
//!
//! In: the path, and the connection that has its file open. Out: whether the path still names that file; a file at the
//! path again. Never: a write over a file that is not the ledger's own.
//!
//! SQLite goes on with a file that has lost its name as if nothing had happened, and all of it would end with the
//! process. Its log (`-wal`) and the log's index (`-shm`) are the ledger as much: where one of them is lost, whoever
//! opens the file next makes another, and the two corrupt it (sqlite.org/howtocorrupt.html §2.4 and §4).
//!
//! Several processes may have the ledger open, and each of them finds this out by itself:
//!
//! ```text
//!   one that is first                                  another
//!   copies the ledger beside its path
//!   takes the write lock, and holds it for a lease     looks again in the transaction that it commits next, as its
//!   writes the copy's inode into the lost file         last look is older than a lease: that is not its file, but
//!   puts the copy at the path, releases the lock       the one that the lost file names; it goes on there
//! ```
//!
//! So no row is committed to the lost file after it was copied.

use super::append::Writer;
use super::database;
use crate::usage::record::Record;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// For how long a look is taken for the truth.
pub const LEASE: Duration = Duration::from_millis(100);
/// How often the ledger is copied anew because somebody else has committed meanwhile.
const COPIES_MAX: usize = 10;

/// What tells a file from all others of the machine, whatever its name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file at this path, behind any link; `None` where there is none.
    ///
    /// # Errors
    /// The system's, where it does not say: that is no sign of anything.
    pub fn at(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self { device: metadata.dev(), inode: metadata.ino() })),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How often the ledger has moved to another file at its path, for the other threads that have it open.
#[derive(Clone, Debug, Default)]
pub struct Moves(Arc<AtomicU64>);

impl Moves {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// What is at the ledger's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The files that are open.
    Ours,
    /// One of them is missing.
    Gone,
    /// A file that is not the one which is open.
    Taken,
}

/// The watch over the file that one connection has open.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    /// Where a link at the path leads.
    behind_link: PathBuf,
    main: FileId,
    /// The log and its index, in the order of [`SIDE_FILES`].
    sides: [Option<FileId>; 2],
    permissions: Permissions,
    looked_at: Instant,
}

const SIDE_FILES: [&str; 2] = ["-wal", "-shm"];

impl FileWatch {
    /// To be called right after the connection has opened the path and read from it.
    ///
    /// # Errors
    /// The system's.
    pub fn new(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let behind_link = fs::canonicalize(path)?;
        let place = if path.is_symlink() { &behind_link } else { path };
        let [log, index] = SIDE_FILES.map(|suffix| FileId::at(&beside(place, suffix)));
        Ok(Self {
            path: path.to_owned(),
            main: FileId { device: metadata.dev(), inode: metadata.ino() },
            sides: [log?, index?],
            permissions: metadata.permissions(),
            looked_at: Instant::now(),
            behind_link,
        })
    }

    /// True while the path names the file that is open, as far as was seen within the last [`LEASE`]. Where another
    /// process writes as well, to be asked under the write lock.
    pub fn is_in_place(&mut self) -> bool {
        self.looked_at.elapsed() < LEASE || self.is_in_place_now()
    }

    /// The same at this instant.
    pub fn is_in_place_now(&mut self) -> bool {
        let looked_at = Instant::now();
        let in_place = self.look() == Place::Ours;
        if in_place {
            self.looked_at = looked_at;
        }
        in_place
    }

    /// Finds the ledger's way back to its path. `None` where it is there again by itself, else a connection to what is
    /// there now, and the watch over it.
    ///
    /// # Errors
    /// One sentence: what is at the path is not the ledger's, or it cannot be written there.
    pub fn restore(&self, conn: &Connection) -> Result<Option<(Connection, Self)>, String> {
        match self.look() {
            Place::Ours => return Ok(None),
            Place::Gone => self.write_back(conn)?,
            Place::Taken if self.is_succeeded(conn) => {}
            Place::Taken => return Err(self.why()),
        }
        let opened = database::reopen(&self.path).map_err(|error| self.unusable(&error))?;
        let watch = Self::new(&self.path).map_err(|error| self.unusable(&error))?;
        Ok(Some((opened, watch)))
    }

    /// What has happened, and what the operator can do.
    pub fn why(&self) -> String {
        let path = self.path.display();
        match self.look() {
            Place::Taken => format!(
                "the file {path} was deleted or moved, and another is in its place or beside it, which is left as it \
                 is: take it away, and the ledger is written back"
            ),
            _ => format!("the file {path} was deleted or moved; it is written back"),
        }
    }

    /// For the end of a process whose ledger has no way back to its path: the records that wait go to the file that
    /// has lost its name, and all of it to a new file beside the path. `owner`: this process in the journal.
    ///
    /// # Errors
    /// One sentence, always: where the ledger is, or that it is lost.
    pub fn keep(&self, conn: &Connection, waiting: &[Record], owner: i64) -> Result<(), String> {
        let path = self.path.display();
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let kept = beside(self.place(), &format!(".kept-{seconds}-{}", std::process::id()));
        let appended = Writer::new(conn).and_then(|writer| writer.owned_by(owner).append(waiting));
        Err(match appended.map_err(|error| error.to_string()).and_then(|_| self.copy(conn, &kept)) {
            Ok(()) => format!("the ledger's place {path} is taken; the whole ledger is in {}", kept.display()),
            Err(why) => format!("the ledger's place {path} is taken, and what is not in another copy is lost: {why}"),
        })
    }

    /// True where another process has put this very ledger at the path.
    fn is_succeeded(&self, conn: &Connection) -> bool {
        let Ok(Some(found)) = FileId::at(&self.path) else { return false };
        found != self.main && successor(conn).is_ok_and(|inode| inode == Some(found.inode))
    }

    fn look(&self) -> Place {
        let sides = SIDE_FILES.map(|suffix| FileId::at(&beside(self.place(), suffix)));
        let sides = || sides.iter().zip(&self.sides).filter_map(|(found, own)| Some((found.as_ref().ok()?, own)));
        let is_foreign = sides().any(|(found, own)| found.is_some() && found != own);
        match FileId::at(&self.path) {
            Ok(Some(main)) if main != self.main => Place::Taken,
            Ok(_) if is_foreign => Place::Taken,
            Ok(None) => Place::Gone,
            _ if sides().any(|(found, own)| found != own) => Place::Gone,
            _ => Place::Ours,
        }
    }

    /// Where the file itself is, and its side files beside it.
    fn place(&self) -> &Path {
        if self.path.is_symlink() { &self.behind_link } else { &self.path }
    }

    /// Puts a copy of the ledger at its path, where nothing is but what is left of its own.
    fn write_back(&self, conn: &Connection) -> Result<(), String> {
        let copy = beside(self.place(), "-copy");
        for _ in 0..COPIES_MAX {
            let version = data_version(conn).map_err(|error| self.unusable(&error))?;
            self.copy(conn, &copy)?;
            conn.execute_batch("BEGIN IMMEDIATE").map_err(|error| self.unusable(&error))?;
            let placed = match data_version(conn) {
                Ok(now) if now == version => Some(self.replace(conn, &copy)),
                Ok(_) => None,
                Err(error) => Some(Err(self.unusable(&error))),
            };
            // What is not committed only tells other processes where the ledger is; this one knows.
            let end = if matches!(placed, Some(Ok(()))) { "COMMIT" } else { "ROLLBACK" };
            if conn.execute_batch(end).is_err() && !conn.is_autocommit() {
                let _ = conn.execute_batch("ROLLBACK");
            }
            if let Some(placed) = placed {
                return placed;
            }
        }
        Err(self.unusable(&"other processes go on writing to the file that was deleted"))
    }

    /// Under the write lock: from here on nobody commits to the lost file.
    fn replace(&self, conn: &Connection, copy: &Path) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| self.unusable(error);
        thread::sleep(LEASE);
        let id = FileId::at(copy).ok().flatten().ok_or_else(|| failed(&"its copy is gone"))?;
        let sql = "INSERT INTO marks VALUES ('successor', ?1) ON CONFLICT DO UPDATE SET record_id = ?1";
        let _ = conn.execute(sql, [id.inode.cast_signed()]);
        if self.look() != Place::Gone {
            return Err(failed(&"something is there by now"));
        }
        let place = self.place();
        match FileId::at(place) {
            Ok(None) => place_anew(copy, place).map_err(|error| failed(&error))?,
            // Only its log or the log's index is missing.
            Ok(Some(id)) if id == self.main => fs::rename(copy, place).map_err(|error| failed(&error))?,
            _ => return Err(failed(&"something is there by now")),
        }
        for (suffix, own) in SIDE_FILES.iter().zip(self.sides) {
            // Whoever opened the new file with the old log would read rows that were copied already, which changes
            // nothing; but what it wrote there would be lost to all others.
            let side = beside(place, suffix);
            if own.is_some() && FileId::at(&side).is_ok_and(|found| found == own) {
                let _ = fs::remove_file(side);
            }
        }
        if let Some(folder) = place.parent() {
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }

    /// Copies the ledger page by page into a new file.
    fn copy(&self, conn: &Connection, to: &Path) -> Result<(), String> {
        let copied = self.try_copy(conn, to);
        if copied.is_err() {
            let _ = fs::remove_file(to);
        }
        copied.map_err(|why| self.unusable(&why))
    }

    fn try_copy(&self, conn: &Connection, to: &Path) -> Result<(), String> {
        fn text(error: impl ToString) -> String {
            error.to_string()
        }
        match fs::remove_file(to) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.to_string()),
            _ => {}
        }
        // Before there is anything in it, the file is nobody else's to read than the lost one was.
        File::create_new(to).and_then(|file| file.set_permissions(self.permissions.clone())).map_err(text)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut target = Connection::open_with_flags(to, flags).map_err(text)?;
        target.pragma_update_and_check(None, "journal_mode", "OFF", |_| Ok(())).map_err(text)?;
        target.pragma_update(None, "synchronous", "OFF").map_err(text)?;
        match Backup::new(conn, &mut target).and_then(|backup| backup.step(-1)).map_err(text)? {
            StepResult::Done => {}
            _ => return Err("the file that was deleted is locked".to_owned()),
        }
        target.close().map_err(|(_, error)| error.to_string())?;
        File::open(to).and_then(|file| file.sync_all()).map_err(text)
    }

    fn unusable(&self, why: &dyn std::fmt::Display) -> String {
        format!("the file {} was deleted or moved, and cannot be written back: {why}", self.path.display())
    }
}

fn successor(conn: &Connection) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT record_id FROM marks WHERE name = 'successor'";
    conn.query_row(sql, [], |row| row.get(0)).optional().map(|inode| inode.map(i64::cast_unsigned))
}

/// Changes with each commit of another connection.
fn data_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.pragma_query_value(None, "data_version", |row| row.get(0))
}

/// Gives the copy its place, where there must be nothing: a hard link fails if there is, renaming would not.
fn place_anew(copy: &Path, place: &Path) -> io::Result<()> {
    match fs::hard_link(copy, place) {
        // A file system without hard links.
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
            fs::rename(copy, place)
        }
        Err(error) => Err(error),
        Ok(()) => {
            let _ = fs::remove_file(copy); // a second name does no harm
            Ok(())
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
