//! Work that waits for a thread, one piece of each asker in turn: who asks much waits behind themselves, not others
//! behind them.
//!
//! In: pieces of work, and who asks for them. Out: the next one. Never: more than it may hold, in all or of one user.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Who asks: one user, or whoever may read everything.
pub type Asker = Option<String>;

/// What waits.
pub struct FairQueue<T> {
    /// How much may wait; and of one user. Who may read everything is not bounded so: that is more than one person.
    waiting_max: usize,
    of_user_max: usize,
    /// Askers for whom something waits, in the order of their turns.
    askers: VecDeque<(Asker, VecDeque<T>)>,
}

impl<T> FairQueue<T> {
    /// One in which so much may wait, and of one user.
    pub fn new(waiting_max: usize, of_user_max: usize) -> Self {
        Self { waiting_max, of_user_max, askers: VecDeque::new() }
    }

    /// Adds a piece of work; false where too much waits.
    pub fn push(&mut self, asker: Asker, question: T) -> bool {
        let waiting: usize = self.askers.iter().map(|(_, questions)| questions.len()).sum();
        if waiting >= self.waiting_max {
            return false;
        }
        match self.askers.iter_mut().find(|(known, _)| *known == asker) {
            Some((Some(_), questions)) if questions.len() >= self.of_user_max => return false,
            Some((_, questions)) => questions.push_back(question),
            None => self.askers.push_back((asker, [question].into())),
        }
        true
    }

    /// Takes the next piece.
    pub fn pop(&mut self) -> Option<T> {
        let (asker, mut questions) = self.askers.pop_front()?;
        let next = questions.pop_front()?;
        if !questions.is_empty() {
            self.askers.push_back((asker, questions));
        }
        Some(next)
    }
}

/// The same between two threads.
pub struct FairInbox<T> {
    /// `None` once the thread is to end.
    waiting: Mutex<Option<FairQueue<T>>>,
    changed: Condvar,
}

impl<T> FairInbox<T> {
    /// One that hands out what is put into `queue`.
    pub fn new(queue: FairQueue<T>) -> Self {
        Self { waiting: Mutex::new(Some(queue)), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<FairQueue<T>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a piece of work; false where too much waits. Never blocks.
    pub fn push(&self, asker: Asker, work: T) -> bool {
        let pushed = self.lock().as_mut().is_some_and(|waiting| waiting.push(asker, work));
        self.changed.notify_one();
        pushed
    }

    /// Has the thread end; what waits is forgotten.
    pub fn close(&self) {
        *self.lock() = None;
        self.changed.notify_one();
    }

    /// Waits for the next piece; `None` at the end.
    pub fn pop(&self) -> Option<T> {
        let mut waiting = self.lock();
        loop {
            match waiting.as_mut()?.pop() {
                Some(work) => return Some(work),
                None => waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITING_MAX: usize = 64;
    const WAITING_OF_USER_MAX: usize = 8;

    fn user(name: &str) -> Asker {
        Some(name.to_owned())
    }

    #[test]
    fn who_asks_much_waits_behind_themselves() {
        let mut queue = FairQueue::new(WAITING_MAX, WAITING_OF_USER_MAX);
        for number in 0..4 {
            assert!(queue.push(user("a"), ("a", number)));
        }
        assert!(queue.push(None, ("all", 0)));
        assert!(queue.push(user("b"), ("b", 0)));
        assert!(queue.push(None, ("all", 1)));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [("a", 0), ("all", 0), ("b", 0), ("a", 1), ("all", 1), ("a", 2), ("a", 3)]);
    }

    #[test]
    fn no_more_wait_than_may() {
        let mut queue = FairQueue::new(WAITING_MAX, WAITING_OF_USER_MAX);
        for number in 0..WAITING_OF_USER_MAX {
            assert!(queue.push(user("a"), number));
        }
        assert!(!queue.push(user("a"), 77));
        for number in WAITING_OF_USER_MAX..WAITING_MAX {
            assert!(queue.push(None, number));
        }
        assert_eq!((queue.push(None, 78), queue.push(user("b"), 79)), (false, false));
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), WAITING_MAX);
        assert!(queue.push(user("a"), 80));
    }
}
