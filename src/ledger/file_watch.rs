//! The ledger's file as the file system has it: deleted, moved or replaced while it is open, it is noticed, and nothing
//! more is committed. What was in it, and what waits, is kept at the end of the process.
//!
//! In: the path, and the connection that has its file open. Out: whether the path still names that file; at the end, a
//! copy beside it. Never: a write over a file that is there.
//!
//! SQLite goes on with a file that has lost its name as if nothing had happened, and all of it would end with the
//! process. Its log (`-wal`) and the log's index (`-shm`) are the ledger as much: where one of them is lost, whoever
//! opens the file next makes another, and the two corrupt it (sqlite.org/howtocorrupt.html §2.4 and §4).

use super::append::Writer;
use super::database::beside;
use crate::usage::record::Record;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// For how long a look is taken for the truth.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The write-ahead log and its index, by what stands behind the file's name.
const SIDE_FILES: [&str; 2] = ["-wal", "-shm"];

/// What tells a file from all others of the machine, whatever its name is: its device and inode.
type FileId = (u64, u64);

/// The file at this path, behind any link; `None` where there is none.
fn file_id(path: &Path) -> io::Result<Option<FileId>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The watch over the files that one connection has open.
#[derive(Debug)]
pub struct FileWatch {
    /// Where a link at the ledger's path leads.
    real_path: PathBuf,
    /// The path and the side files, each with what it named when it was opened.
    opened: [(PathBuf, Option<FileId>); 3],
    permissions: Permissions,
    looked_at: Instant,
}

impl FileWatch {
    /// To be called right after the connection has opened the path and read from it.
    ///
    /// # Errors
    /// The system's.
    pub fn new(path: &Path) -> io::Result<Self> {
        let real_path = fs::canonicalize(path)?;
        let opened = |path: PathBuf| file_id(&path).map(|id| (path, id));
        let [log, index] = SIDE_FILES.map(|suffix| beside(&real_path, suffix));
        Ok(Self {
            opened: [opened(path.to_owned())?, opened(log)?, opened(index)?],
            permissions: fs::metadata(path)?.permissions(),
            looked_at: Instant::now(),
            real_path,
        })
    }

    /// True while the path names the file that is open, as far as was seen within the last tenth of a second.
    pub fn is_in_place(&mut self) -> bool {
        self.looked_at.elapsed() < LOOK_EVERY || self.is_in_place_now()
    }

    /// The same at this instant.
    pub fn is_in_place_now(&mut self) -> bool {
        let looked_at = Instant::now();
        // Where the system does not say, that is no sign of anything.
        let in_place = self.opened.iter().all(|(path, id)| file_id(path).map_or(true, |found| found == *id));
        if in_place {
            self.looked_at = looked_at;
        }
        in_place
    }

    /// What has happened, and what the operator can do.
    pub fn why(&self) -> String {
        format!(
            "the file {} was deleted, moved or replaced, or its -wal or -shm was: put it back, or stop the proxy, \
             which then writes all that it has to a new file beside it",
            self.opened[0].0.display()
        )
    }

    /// For the end of a process whose ledger has lost its place: the records that wait go to the file that is open, and
    /// all of it to a new file beside the path. `owner`: this process in the journal. Returns one sentence: where the
    /// ledger is, or that it is lost.
    pub fn keep(&self, conn: &Connection, waiting: &[Record], owner: i64) -> String {
        let path = self.opened[0].0.display();
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let kept = beside(&self.real_path, &format!(".kept-{seconds}-{}", std::process::id()));
        // Else SQLite would write into what has the file's name now, and delete what has its log's.
        let _ = conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        let appended = Writer::new(conn).and_then(|writer| writer.owned_by(owner).append(waiting));
        match appended.map_err(|error| error.to_string()).and_then(|_| self.copy(conn, &kept)) {
            Ok(()) => format!("the ledger {path} has lost its place; the whole ledger is in {}", kept.display()),
            Err(why) => format!("the ledger {path} has lost its place, and what is not in another copy is lost: {why}"),
        }
    }

    fn copy(&self, conn: &Connection, to: &Path) -> Result<(), String> {
        let try_copy = || -> Result<(), Box<dyn std::error::Error>> {
            // Before there is anything in it, the file is nobody else's to read than the ledger was.
            File::create_new(to)?.set_permissions(self.permissions.clone())?;
            let name = to.to_str().ok_or("its name is not UTF-8")?;
            conn.execute("VACUUM INTO ?", [name])?;
            Ok(File::open(to)?.sync_all()?)
        };
        try_copy().map_err(|why| {
            let _ = fs::remove_file(to);
            format!("{}: {why}", to.display())
        })
    }
}
