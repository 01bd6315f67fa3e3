//! The thread that does what would hold the loop up: reading a large request body takes as long as thousands of small
//! requests. Of each user one piece at a time in turn, so that others' wait for one piece of whoever has many.
//!
//! In: pieces of work that need nothing of the loop's. Out: one [`WorkerEvent::Worked`] for each. Never: a bound of its
//! own: what waits is bodies, whose memory is bounded where they are held.

use super::event::{EventSender, WorkerEvent};
use super::fair_queue::{FairInbox, FairQueue};
use super::process::spawn;
use crate::base::work::LongWork;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The loop's end of the thread.
pub struct LongWorkHandle {
    inbox: Arc<FairInbox<LongWork>>,
    thread: JoinHandle<()>,
}

impl LongWorkHandle {
    /// Starts the thread.
    ///
    /// # Errors
    /// One sentence, if the system gives no thread.
    pub fn start(events: EventSender) -> Result<Self, String> {
        let inbox = Arc::new(FairInbox::new(FairQueue::new(usize::MAX, usize::MAX)));
        let waiting = Arc::clone(&inbox);
        let thread = spawn("long-work", move || {
            while let Some(LongWork { ticket, work, .. }) = waiting.pop() {
                work();
                events.send(WorkerEvent::Worked { ticket });
            }
        })?;
        Ok(Self { inbox, thread })
    }

    /// Puts a piece of work. Never blocks.
    pub fn put(&self, work: LongWork) {
        self.inbox.push(Some(work.user.to_string()), work);
    }

    /// Ends the thread with the piece that it is at; nobody waits for the others any more.
    pub fn shutdown(self) {
        self.inbox.close();
        drop(self.thread.join());
    }
}
