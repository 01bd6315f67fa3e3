//! Connections to the target that wait for their next exchange, the one used last first: it is the least likely to have
//! been closed by the target, and the others grow old enough to be closed by us.

use super::UpKey;

/// Most connections that wait.
pub const POOL_MAX: usize = 512;

/// The idle connections.
#[derive(Default)]
pub struct Pool {
    idle: Vec<UpKey>,
}

impl Pool {
    /// Puts a connection in; false where the pool is full.
    pub fn put(&mut self, key: UpKey) -> bool {
        let room = self.idle.len() < POOL_MAX;
        if room {
            self.idle.push(key);
        }
        room
    }

    /// Takes the connection used last.
    pub fn take(&mut self) -> Option<UpKey> {
        self.idle.pop()
    }

    /// Takes this connection out, wherever it is.
    pub fn remove(&mut self, key: UpKey) {
        if let Some(at) = self.idle.iter().rposition(|&idle| idle == key) {
            self.idle.remove(at);
        }
    }
}
