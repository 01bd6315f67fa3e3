//! Pages of the provider's books that were fetched already: a comparison that was interrupted goes on with them.
//!
//! In: pages by what was asked for, of buckets that change no more. Out: the same again, within a day. Never: more than
//! a bound of the disk, a failure of the comparison: without this file it only takes longer.

use crate::ledger::database::{self, OWN_MODE};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use rusqlite::{Connection, params};
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// For how long a page is taken again, nanoseconds.
const KEPT_NS: u64 = 24 * 3_600_000_000_000;
/// Pages of the file, 4 KiB each: 256 MiB.
const FILE_PAGES_MAX: u32 = 65_536;

/// The file, where there is one.
pub struct BooksCache {
    path: PathBuf,
    conn: Option<Connection>,
}

impl BooksCache {
    /// Beside the ledger at `path`.
    pub fn open(path: &Path) -> Self {
        let path = database::beside(path, "-books");
        let conn = connect(&path).ok();
        Self { path, conn }
    }

    /// A page that was kept less than a day before `now`, nanoseconds since the Unix epoch.
    pub fn get(&self, request: &str, cursor: &str, now: u64) -> Option<Vec<u8>> {
        let sql = "SELECT page FROM pages WHERE request = ? AND cursor = ? AND at > ? AND at <= ?";
        let mut select = self.conn.as_ref()?.prepare_cached(sql).ok()?;
        let since = now.saturating_sub(KEPT_NS).cast_signed();
        let kept = select.query_row(params![request, cursor, since, now.cast_signed()], |row| row.get::<_, Vec<u8>>(0));
        let mut page = Vec::new();
        GzDecoder::new(&kept.ok()?[..]).read_to_end(&mut page).ok()?;
        Some(page)
    }

    /// Keeps a page, as long as there is room.
    pub fn put(&self, request: &str, cursor: &str, now: u64, page: &[u8]) {
        let Some(conn) = &self.conn else { return };
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let Ok(page) = encoder.write_all(page).and_then(|()| encoder.finish()) else { return };
        let sql = "INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?)";
        let kept = conn.prepare_cached(sql);
        let _ = kept.and_then(|mut insert| insert.execute(params![request, cursor, now.cast_signed(), page]));
    }

    /// Pages that lead nowhere are not taken again.
    pub fn forget(&self, request: &str) {
        let Some(conn) = &self.conn else { return };
        let _ = conn.execute("DELETE FROM pages WHERE request = ?", [request]);
    }

    /// Nothing of it is needed any more.
    pub fn remove(self) {
        drop(self.conn);
        let _ = fs::remove_file(&self.path);
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    drop(OpenOptions::new().write(true).create_new(true).mode(OWN_MODE).open(path));
    let conn = Connection::open(path)?;
    conn.pragma_update(None, "max_page_count", FILE_PAGES_MAX)?;
    // No page waits for the disk.
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    conn.execute_batch(
        "CREATE TABLE IF NOT EXISTS pages
        (request TEXT, cursor TEXT, at INTEGER, page BLOB, PRIMARY KEY (request, cursor)) WITHOUT ROWID",
    )?;
    Ok(conn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_page_comes_back_for_a_day_and_for_the_same_question() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, now) = (folder.path().join("usage.db"), 2 * KEPT_NS);
        BooksCache::open(&ledger).put("a", "", now, b"page");
        let cache = BooksCache::open(&ledger);
        assert_eq!(cache.get("a", "", now).as_deref(), Some(&b"page"[..]));
        for (request, cursor, at) in [("b", "", now), ("a", "2", now), ("a", "", now + KEPT_NS), ("a", "", now - 1)] {
            assert_eq!(cache.get(request, cursor, at), None);
        }
        let mode = fs::metadata(&cache.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        cache.forget("a");
        assert_eq!(cache.get("a", "", now), None);
        cache.remove();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // A file that is none is no failure.
        fs::write(database::beside(&ledger, "-books"), "none").unwrap();
        let cache = BooksCache::open(&ledger);
        cache.put("a", "", now, b"page");
        assert_eq!(cache.get("a", "", now), None);
    }
}
