//! The ledger's file as the thread that ships reads it: open, beside the thread that writes it; or at rest, after that
//! one has closed it.

use crate::ledger::{database, offline};
use crate::postgres::{SqlError, SqlFault};
use rusqlite::Connection;
use std::path::PathBuf;

/// The file, and how it is read.
pub struct Outbox {
    path: PathBuf,
    conn: Option<Connection>,
    is_at_rest: bool,
}

impl Outbox {
    /// With the absolute path of a ledger that is there.
    pub fn new(path: PathBuf) -> Self {
        Self { path, conn: None, is_at_rest: false }
    }

    /// Closes it. From here on nobody of this process has it open, and each question opens it anew.
    pub fn rest(&mut self) {
        (self.conn, self.is_at_rest) = (None, true);
    }

    /// What `ask` finds.
    ///
    /// # Errors
    /// It cannot be read at the moment.
    pub fn read<T>(&mut self, ask: impl Fn(&Connection) -> rusqlite::Result<T>) -> Result<T, SqlError> {
        let cannot = |why: String| SqlError::new(SqlFault::Away, why);
        if self.is_at_rest {
            return offline::read(&self.path, ask).map_err(cannot);
        }
        let conn = match self.conn.take() {
            Some(conn) => Ok(conn),
            None => database::open_reader(&self.path),
        };
        let asked = conn.and_then(|conn| Ok((ask(&conn)?, conn)));
        let (answer, conn) = asked.map_err(|error| cannot(format!("the ledger cannot be read: {error}")))?;
        self.conn = Some(conn);
        Ok(answer)
    }
}
