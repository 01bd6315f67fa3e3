//! Group commit: when a record goes to the ledger at once, and when it waits a moment for others to share its commit.
//!
//! A commit costs about the same for one record as for ten, and the ledger's thread takes that time from the loop where
//! both have one core. So while other exchanges are open the records go out once a millisecond at most, which nobody
//! notices beside a model's answer. Who is alone never waits, nor does who comes after a quiet.
//!
//! In: the turn's instant, and how many records and open exchanges there are. Out: whether the records go now, and when
//! they must. Never: the records themselves.

use crate::base::clock::MILLISECOND;

/// Time between two commits where records wait for each other.
const BETWEEN_COMMITS: u64 = MILLISECOND;
/// One exchange that is still open is not worth waiting for: it may take as long as it likes.
const OPEN_MIN: usize = 2;
/// More records share a commit at next to no gain.
const RECORDS_ENOUGH: usize = 32;
/// A wait for which nobody came is not repeated for so long: one client that asks and asks, beside streams that go on,
/// is not to wait each time.
const REST: u64 = 10 * MILLISECOND;

/// When records were handed over, and whether some wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupCommit {
    handed_over_at: u64,
    due: Option<u64>,
    rest_until: u64,
}

impl GroupCommit {
    /// True where the `records` of this turn and of those before, at least one, go to the ledger now: there are enough
    /// of them, or too few exchanges `open` that might add theirs, or the time for that is over. `now` is monotonic
    /// nanoseconds.
    pub fn is_due(&mut self, now: u64, records: usize, open: usize) -> bool {
        let due = self.handed_over_at + BETWEEN_COMMITS;
        if now < due && now >= self.rest_until && open >= OPEN_MIN && records < RECORDS_ENOUGH {
            self.due = Some(due);
            return false;
        }
        if self.due.take().is_some() && records == 1 {
            self.rest_until = now + REST;
        }
        self.handed_over_at = now;
        true
    }

    /// When those that wait are to be handed over at the latest, monotonic nanoseconds; `None` where none wait.
    pub fn due(&self) -> Option<u64> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_000_000_000;

    #[test]
    fn who_is_as_good_as_alone_never_waits() {
        let mut group = GroupCommit::default();
        for turn in 0..100 {
            assert!(group.is_due(START + turn, 1, OPEN_MIN - 1));
            assert_eq!(group.due(), None);
        }
    }

    #[test]
    fn the_first_after_a_quiet_does_not_wait() {
        let mut group = GroupCommit::default();
        for turn in 0..100 {
            assert!(group.is_due(START + turn * BETWEEN_COMMITS, 1, 1000));
        }
    }

    #[test]
    fn records_of_many_wait_for_each_other_until_their_time_or_number() {
        let mut group = GroupCommit::default();
        assert!(group.is_due(START, 1, 20));
        let due = START + BETWEEN_COMMITS;
        assert!(!group.is_due(START + 1, 1, 20));
        assert!(!group.is_due(due - 1, 2, 20));
        assert_eq!(group.due(), Some(due));
        assert!(group.is_due(due, 2, 20), "its time has come");
        assert_eq!(group.due(), None);
        assert!(!group.is_due(due + 1, RECORDS_ENOUGH - 1, 20));
        assert!(group.is_due(due + 2, RECORDS_ENOUGH, 20), "more is no gain");
        assert!(!group.is_due(due + 3, 1, 20));
        assert!(group.is_due(due + 4, 2, OPEN_MIN - 1), "nobody is left to wait for");
        assert_eq!(group.due(), None);
    }

    #[test]
    fn a_wait_in_vain_is_not_repeated_at_once() {
        let mut group = GroupCommit::default();
        assert!(group.is_due(START, 1, 20));
        assert!(!group.is_due(START + 1, 1, 20));
        let vain = START + BETWEEN_COMMITS;
        assert!(group.is_due(vain, 1, 20));
        for now in vain + 1..vain + 100 {
            assert!(group.is_due(now, 1, 20));
        }
        assert!(group.is_due(vain + REST - 1, 1, 20));
        assert!(!group.is_due(vain + REST, 1, 20), "others may have come");
    }
}
