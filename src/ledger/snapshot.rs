//! A read transaction that stays open from one commit to the next, so that the next one begins with one lock in place
//! of three, and need not ask whether somebody else has written meanwhile.
//!
//! In: the connection that appends. Out: the open transaction. Never: one that is kept while the connection does
//! anything but append; in particular nothing else sees what it would hide.
//!
//! In SQLite's log a connection that begins takes a reader's place (an `fcntl` lock; three of them where the place must
//! be moved on), and gives it back after its commit. As long as a statement of it is in the middle of its rows it keeps
//! that place, its commits move on with it, and only the write lock is taken and given back for each. If another
//! connection has committed in the meantime, `BEGIN IMMEDIATE` fails with `SQLITE_BUSY_SNAPSHOT`, at once: success
//! proves that nobody has (sqlite.org/isolation.html).

use rusqlite::{Connection, Statement};

/// The statement that is in the middle of its rows.
pub struct Snapshot<'c> {
    statement: Statement<'c>,
    is_held: bool,
}

impl<'c> Snapshot<'c> {
    /// Holds nothing yet.
    ///
    /// # Errors
    /// SQLite's, if the schema is not the one of this build.
    pub fn new(conn: &'c Connection) -> rusqlite::Result<Self> {
        // It has two rows at least, and a batch of records never changes them.
        Ok(Self { statement: conn.prepare("SELECT record_id FROM marks")?, is_held: false })
    }

    /// True from [`Self::hold`] to [`Self::release`].
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Keeps the transaction that is open, beyond its commit. To be called before that, so that nothing can come
    /// between.
    pub fn hold(&mut self) -> rusqlite::Result<()> {
        if !self.is_held {
            let mut rows = self.statement.raw_query();
            rows.next()?;
            std::mem::forget(rows); // dropped, they would end; they own nothing else
            self.is_held = true;
        }
        Ok(())
    }

    /// Ends the transaction, where none that writes is open.
    pub fn release(&mut self) {
        if std::mem::take(&mut self.is_held) {
            drop(self.statement.raw_query());
        }
    }
}
