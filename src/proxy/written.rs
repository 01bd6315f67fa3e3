//! What became of a write to a peer's socket.

use std::io::ErrorKind;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// This many bytes were taken.
    Taken(usize),
    /// None, until the socket is writable again.
    Blocked,
    /// The connection is broken.
    Broken(ErrorKind),
}

impl Written {
    /// Bytes that were taken, which may be none.
    ///
    /// # Errors
    /// Why the connection is broken.
    pub fn taken(self) -> Result<usize, ErrorKind> {
        match self {
            Self::Taken(count) => Ok(count),
            Self::Blocked => Ok(0),
            Self::Broken(why) => Err(why),
        }
    }
}
