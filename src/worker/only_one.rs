//! Of several processes with one ledger, the one that does what one alone may do: it holds a lock on a file beside the
//! ledger, which ends with it.

use crate::ledger::database;
use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

/// The lock, once this process has it.
pub struct OnlyOne {
    path: PathBuf,
    locked: Option<File>,
}

impl OnlyOne {
    /// With the file whose lock says which process it is.
    pub fn new(path: PathBuf) -> Self {
        Self { path, locked: None }
    }

    /// True if this process is the one, from now to its end.
    ///
    /// # Errors
    /// One sentence: the file cannot be made.
    pub fn is_this(&mut self) -> Result<bool, String> {
        if self.locked.is_some() {
            return Ok(true);
        }
        let failed = |error: std::io::Error| format!("{}: {error}", self.path.display());
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(database::OWN_MODE);
        let file = options.open(&self.path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => self.locked = Some(file),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        Ok(true)
    }
}
