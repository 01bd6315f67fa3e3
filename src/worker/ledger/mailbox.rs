//! The way to the ledger's thread: messages in order, and a wake-up only where it sleeps.
//!
//! In: messages, from any thread. Out: all that wait, at once. Never: a lock that is held while the thread is woken: on
//! a machine with one core it goes on in place of its waker, and would have to wait for that lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Instant;

/// What waits for a thread, in order. Bounded by the senders.
type Waiting<T> = Arc<Mutex<Vec<T>>>;

fn lock<T>(waiting: &Waiting<T>) -> MutexGuard<'_, Vec<T>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's end.
pub(super) struct Inbox<T>(Waiting<T>);

/// The senders' end.
pub(super) struct Mailbox<T> {
    waiting: Waiting<T>,
    thread: Thread,
}

impl<T> Inbox<T> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// The senders' end, where `thread` is the one that waits at this one.
    pub(super) fn mailbox(&self) -> impl FnOnce(&Thread) -> Mailbox<T> + use<T> {
        let waiting = Arc::clone(&self.0);
        move |thread| Mailbox { waiting, thread: thread.clone() }
    }

    /// Moves all that waits to `into`, which is empty; true where that is anything.
    pub(super) fn take(&self, into: &mut Vec<T>) -> bool {
        std::mem::swap(&mut *lock(&self.0), into);
        !into.is_empty()
    }

    /// The same as soon as there is something, or false at `until`.
    pub(super) fn wait(&self, into: &mut Vec<T>, until: Instant) -> bool {
        while !self.take(into) {
            let pause = until.saturating_duration_since(Instant::now());
            if pause.is_zero() {
                return false;
            }
            thread::park_timeout(pause);
        }
        true
    }
}

impl<T> Mailbox<T> {
    /// Puts a message in. Never blocks.
    pub(super) fn send(&self, message: T) {
        lock(&self.waiting).push(message);
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn who_sleeps_is_woken_and_nothing_is_lost_or_reordered() {
        let inbox = Inbox::new();
        let mailbox = inbox.mailbox()(&thread::current());
        thread::scope(|scope| {
            scope.spawn(|| (0..20_000).for_each(|number| mailbox.send(number)));
            let (mut expected, mut messages) = (0..20_000, Vec::new());
            while !expected.is_empty() {
                assert!(inbox.wait(&mut messages, Instant::now() + LONG));
                messages.drain(..).for_each(|number| assert_eq!(Some(number), expected.next()));
            }
        });
    }

    #[test]
    fn what_came_before_is_there_at_once_and_only_once() {
        let inbox = Inbox::new();
        let mailbox = inbox.mailbox()(&thread::current());
        mailbox.send("a");
        let mut messages = Vec::new();
        assert!(inbox.wait(&mut messages, Instant::now()));
        assert_eq!(std::mem::take(&mut messages), ["a"]);
        assert!(!inbox.wait(&mut messages, Instant::now()), "it does not wait beyond its time");
        assert!(!inbox.take(&mut messages));
    }
}
