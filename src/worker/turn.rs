//! Which of several processes on one ledger does what only one of them may: the one that holds the lock on a file
//! beside the ledger, which ends with its process.
//!
//! In: the file's path. Out: whether it is this process. Never: a wait.

use crate::ledger::database::OWN_MODE;
use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

/// The turn of this process, or somebody else's.
#[derive(Debug)]
pub struct Turn {
    path: PathBuf,
    /// Held.
    locked: Option<File>,
}

impl Turn {
    /// Not asked for yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, locked: None }
    }

    /// True if it is this process's; it is then kept.
    ///
    /// # Errors
    /// One sentence with the file: it cannot be made or locked.
    pub fn is_ours(&mut self) -> Result<bool, String> {
        if self.locked.is_some() {
            return Ok(true);
        }
        let failed = |error: std::io::Error| format!("{}: {error}", self.path.display());
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(OWN_MODE);
        let file = options.open(&self.path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => self.locked = Some(file),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        Ok(true)
    }
}
