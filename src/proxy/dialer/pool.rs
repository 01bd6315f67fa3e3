//! Connections to the target that wait for their next exchange, the one used last first: it is the least likely to have
//! been closed by the target, and the others grow old enough to be closed by us.

use crate::proxy::UpKey;
use std::collections::VecDeque;

/// The idle connections, the one used last at the back.
pub struct Pool {
    idle: VecDeque<UpKey>,
    max: usize,
}

impl Pool {
    /// A pool for so many. With a place for each client, no load makes connections come and go: a handshake costs more
    /// than a request.
    pub fn new(max: usize) -> Self {
        Self { idle: VecDeque::new(), max }
    }

    /// Puts a connection in; false where the pool is full.
    pub fn put(&mut self, key: UpKey) -> bool {
        let room = self.idle.len() < self.max;
        if room {
            self.idle.push_back(key);
        }
        room
    }

    /// Takes the connection used last.
    pub fn take(&mut self) -> Option<UpKey> {
        self.idle.pop_back()
    }

    /// True where it is in. For tests of leaks.
    pub fn contains(&self, key: UpKey) -> bool {
        self.idle.contains(&key)
    }

    /// Takes this connection out, wherever it is. The first is found first: one that has waited for too long.
    pub fn remove(&mut self, key: UpKey) {
        if let Some(at) = self.idle.iter().position(|&idle| idle == key) {
            self.idle.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_at_its_size_and_gives_the_last_one_first() {
        let mut pool = Pool::new(5);
        let key = |n: u32| UpKey::new(n, 0);
        assert!((0..5).all(|n| pool.put(key(n))));
        assert!(!pool.put(key(5)), "one more does not fit");
        assert_eq!(pool.take(), Some(key(4)));
        assert!(pool.put(key(5)), "there is room again");
        pool.remove(key(0));
        pool.remove(key(0));
        let left: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(left, [key(5), key(3), key(2), key(1)]);
    }
}
