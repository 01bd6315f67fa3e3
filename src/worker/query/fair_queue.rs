//! Questions that wait, one of each asker in turn: who asks much waits behind themselves, not others behind them.
//!
//! In: questions of askers. Out: the next one. Never: more than it may hold, in all or of one user.

use std::collections::VecDeque;

/// Questions that may wait.
pub const WAITING_MAX: usize = 64;
/// Questions of one user that may wait. Who may read everything is not bounded so: that is more than one person.
const WAITING_OF_USER_MAX: usize = 8;

/// Who asks: one user, or whoever may read everything.
pub type Asker = Option<String>;

/// What waits.
pub struct FairQueue<T> {
    /// Askers with a question, in the order of their turns.
    askers: VecDeque<(Asker, VecDeque<T>)>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { askers: VecDeque::new() }
    }
}

impl<T> FairQueue<T> {
    /// Adds a question; false where too many wait.
    pub fn push(&mut self, asker: Asker, question: T) -> bool {
        let waiting: usize = self.askers.iter().map(|(_, questions)| questions.len()).sum();
        if waiting >= WAITING_MAX {
            return false;
        }
        match self.askers.iter_mut().find(|(known, _)| *known == asker) {
            Some((Some(_), questions)) if questions.len() >= WAITING_OF_USER_MAX => return false,
            Some((_, questions)) => questions.push_back(question),
            None => self.askers.push_back((asker, [question].into())),
        }
        true
    }

    /// Takes the next question.
    pub fn pop(&mut self) -> Option<T> {
        let (asker, mut questions) = self.askers.pop_front()?;
        let next = questions.pop_front()?;
        if !questions.is_empty() {
            self.askers.push_back((asker, questions));
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Asker {
        Some(name.to_owned())
    }

    #[test]
    fn who_asks_much_waits_behind_themselves() {
        let mut queue = FairQueue::default();
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
        let mut queue = FairQueue::default();
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
