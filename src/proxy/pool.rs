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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_at_its_size_and_gives_the_last_one_first() {
        let mut pool = Pool::default();
        let key = |n: usize| UpKey::new(n as u32, 0);
        assert!((0..POOL_MAX).all(|n| pool.put(key(n))));
        assert!(!pool.put(key(POOL_MAX)), "one more does not fit");
        assert_eq!(pool.take(), Some(key(POOL_MAX - 1)));
        assert!(pool.put(key(POOL_MAX)), "there is room again");
        pool.remove(key(0));
        pool.remove(key(0));
        assert_eq!(std::iter::from_fn(|| pool.take()).count(), POOL_MAX - 1);
    }
}
