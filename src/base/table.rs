//! A hash table for what is looked up with each request.
//!
//! What is in it can be asked for by its key, and not walked: so the order in which it stands there, which differs from
//! process to process, decides nothing, and a run replays. The hash is seeded in each process anew, so that names which
//! collide cannot be made beforehand.

#![allow(clippy::disallowed_types)] // cannot be walked

use foldhash::fast::RandomState;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

/// Values by key.
pub struct Table<K: Eq + Hash, V>(HashMap<K, V, RandomState>);

// A derive would ask the same of `K` and `V`.
impl<K: Eq + Hash, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<K: Eq + Hash, V> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Shows how many there are: to show them would be to walk.
impl<K: Eq + Hash, V> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table of {}", self.len())
    }
}

impl<K: Eq + Hash, V> Table<K, V> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value of `key`.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    /// The value of `key`, to change.
    pub fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key)
    }

    /// The key as it was put in.
    pub fn get_key<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&K>
    where
        K: Borrow<Q>,
    {
        self.0.get_key_value(key).map(|(key, _)| key)
    }

    /// Puts a value in; the one that was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    /// Takes a value out.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.0.remove(key)
    }

    /// Gives back memory beyond what so many take.
    pub fn shrink_to(&mut self, capacity: usize) {
        self.0.shrink_to(capacity);
    }

    /// Takes all of them out.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
