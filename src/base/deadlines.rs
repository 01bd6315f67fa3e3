//! Timeouts of a handful of constant durations, each a FIFO list: O(1) to arm, move and cancel, and the next deadline
//! is the earliest of the heads.
//!
//! Within a class every deadline is `now + duration` of a clock that never steps back, so appending keeps each list in
//! order: no heap, no wheel, no tick.

/// Marks the end of a list and an unarmed handle.
const NONE: u32 = u32::MAX;

/// An owner's handle on its one pending deadline. Starts unarmed.
#[derive(Debug, PartialEq, Eq)]
pub struct Timer(u32);

impl Default for Timer {
    fn default() -> Self {
        Self(NONE)
    }
}

#[derive(Clone, Copy)]
struct Node<K> {
    due: u64,
    owner: K,
    class: u8,
    prev: u32,
    next: u32,
}

#[derive(Clone, Copy)]
struct List {
    duration: u64,
    head: u32,
    tail: u32,
}

/// Deadlines of owners `K`, in classes of constant duration.
pub struct Deadlines<K> {
    lists: Vec<List>,
    nodes: Vec<Node<K>>,
    free: Vec<u32>,
}

impl<K: Copy> Deadlines<K> {
    /// One class for each duration (nanoseconds), numbered from 0. At most 256.
    pub fn new(durations: &[u64]) -> Self {
        let lists = durations.iter().map(|&duration| List { duration, head: NONE, tail: NONE }).collect();
        Self { lists, nodes: Vec::new(), free: Vec::new() }
    }

    /// Arms the owner's timer in `class`, from `now` (monotonic nanoseconds), replacing what it was armed for.
    pub fn arm(&mut self, timer: &mut Timer, class: u8, owner: K, now: u64) {
        let due = now.saturating_add(self.lists[usize::from(class)].duration);
        if timer.0 != NONE {
            let node = &mut self.nodes[timer.0 as usize];
            if node.class == class && node.due == due {
                return; // armed already in this turn
            }
            self.unlink(timer.0);
        } else {
            timer.0 = self.free.pop().unwrap_or_else(|| {
                self.nodes.push(Node { due, owner, class, prev: NONE, next: NONE });
                (self.nodes.len() - 1) as u32
            });
        }
        let list = &mut self.lists[usize::from(class)];
        let prev = std::mem::replace(&mut list.tail, timer.0);
        self.nodes[timer.0 as usize] = Node { due, owner, class, prev, next: NONE };
        match prev {
            NONE => list.head = timer.0,
            _ => self.nodes[prev as usize].next = timer.0,
        }
    }

    /// Cancels what is pending, if anything.
    pub fn cancel(&mut self, timer: &mut Timer) {
        let index = std::mem::replace(&mut timer.0, NONE);
        if index != NONE {
            self.unlink(index);
            self.free.push(index);
        }
    }

    /// The earliest pending deadline, monotonic nanoseconds.
    pub fn next_due(&self) -> Option<u64> {
        self.heads().map(|index| self.nodes[index as usize].due).min()
    }

    /// An owner whose deadline has passed. It stays armed until its owner re-arms or cancels it, which the caller must
    /// do before it asks again.
    pub fn expired(&self, now: u64) -> Option<(K, u8)> {
        let index = self.heads().min_by_key(|&index| self.nodes[index as usize].due)?;
        let node = &self.nodes[index as usize];
        (node.due <= now).then_some((node.owner, node.class))
    }

    /// The owner in `class` whose deadline comes first, and when it was armed.
    pub fn first(&self, class: u8) -> Option<(K, u64)> {
        let list = &self.lists[usize::from(class)];
        let node = self.nodes.get(list.head as usize)?;
        Some((node.owner, node.due.saturating_sub(list.duration)))
    }

    fn heads(&self) -> impl Iterator<Item = u32> + '_ {
        self.lists.iter().map(|list| list.head).filter(|&head| head != NONE)
    }

    fn unlink(&mut self, index: u32) {
        let Node { class, prev, next, .. } = self.nodes[index as usize];
        let list = &mut self.lists[usize::from(class)];
        match prev {
            NONE => list.head = next,
            _ => self.nodes[prev as usize].next = next,
        }
        match next {
            NONE => list.tail = prev,
            _ => self.nodes[next as usize].prev = prev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the obvious model (a due time for each owner): the same owners expire at the same instants.
        #[test]
        fn expires_like_a_sorted_list(steps in proptest::collection::vec((0u8..4, 0usize..8, 0u8..3, 0u64..50), 1..200)) {
            let durations = [10, 100, 1000];
            let mut deadlines = Deadlines::new(&durations);
            let mut timers: Vec<Timer> = (0..8).map(|_| Timer::default()).collect();
            let mut model: Vec<Option<u64>> = vec![None; 8];
            let mut now = 0;
            for (step, owner, class, wait) in steps {
                match step {
                    0 | 1 => {
                        deadlines.arm(&mut timers[owner], class, owner, now);
                        model[owner] = Some(now + durations[usize::from(class)]);
                    }
                    2 => {
                        deadlines.cancel(&mut timers[owner]);
                        model[owner] = None;
                    }
                    _ => now += wait,
                }
                prop_assert_eq!(deadlines.next_due(), model.iter().flatten().min().copied());
                while let Some((owner, _)) = deadlines.expired(now) {
                    prop_assert!(model[owner].take().is_some_and(|due| due <= now));
                    deadlines.cancel(&mut timers[owner]);
                }
                prop_assert!(model.iter().flatten().all(|&due| due > now));
                prop_assert_eq!(deadlines.nodes.len() - deadlines.free.len(), model.iter().flatten().count());
            }
        }
    }
}
