//! A slab whose keys know which tenant of a slot they mean.
//!
//! A slot is used again after a removal; its generation grows then, so a key kept from before (an event fetched before
//! a close, a link to a connection that is gone) finds nothing instead of the next tenant.

use std::marker::PhantomData;

/// The place of one value in a [`Slab<T>`], valid until that value is removed.
pub struct Key<T> {
    /// Index of the slot.
    pub index: u32,
    /// Which tenant of the slot.
    pub generation: u32,
    tenant: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// A key from its parts, as they came out of [`Key::index`] and [`Key::generation`].
    pub const fn new(index: u32, generation: u32) -> Self {
        Self { index, generation, tenant: PhantomData }
    }
}

// Derives would ask the same of `T`.
impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Key<T> {}
impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.generation) == (other.index, other.generation)
    }
}
impl<T> Eq for Key<T> {}
impl<T> std::fmt::Debug for Key<T> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}#{}", self.index, self.generation)
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values under generational keys, O(1) in everything.
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// How many values are in.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// True where none is in.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a value in.
    ///
    /// # Panics
    /// At 2³² values.
    pub fn insert(&mut self, value: T) -> Key<T> {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = Some(value);
            return Key::new(index, slot.generation);
        }
        let index = u32::try_from(self.slots.len()).expect("fewer than 2^32 values");
        self.slots.push(Slot { generation: 0, value: Some(value) });
        Key::new(index, 0)
    }

    /// The value, `None` once it is removed.
    pub fn get(&self, key: Key<T>) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_ref() } else { None }
    }

    /// The value to change, `None` once it is removed.
    pub fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    /// The value behind a link that must lead somewhere: in a debug build, one that does not is a fault of ours.
    pub fn linked(&self, key: Key<T>) -> Option<&T> {
        let found = self.get(key);
        debug_assert!(found.is_some(), "a link to what is gone");
        found
    }

    /// The same, to change.
    pub fn linked_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        let found = self.get_mut(key);
        debug_assert!(found.is_some(), "a link to what is gone");
        found
    }

    /// Takes the value out; its key, and every copy of it, is stale from here on.
    pub fn remove(&mut self, key: Key<T>) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }

    /// The keys of all values, in slot order.
    pub fn keys(&self) -> impl Iterator<Item = Key<T>> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.value.is_some())
            .map(|(index, slot)| Key::new(index as u32, slot.generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(first.index, second.index, "the slot is used again");
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!((slab.len(), slab.keys().next()), (1, Some(second)));
    }
}
