//! The responses that a session's server is at work on, when each began, and of which model it was asked.
//!
//! In: what begins, ends and fails, in the order in which the server says so. Out: how what ends began; whether
//! anything is under way. Of many at once the oldest are counted, and not remembered: the memory of a session has a
//! bound. What was superseded, or has failed, is remembered as well: it may still say what it consumed.

use super::message::ResponseName;
use crate::base::clock::Now;
use std::sync::Arc;

/// Responses that are remembered: as many as a connection may have lanes.
const REMEMBERED_MAX: usize = 32;

/// What has begun and not ended, oldest first.
#[derive(Debug, Default)]
pub(super) struct Running {
    remembered: Vec<Response>,
    /// Those under way that were too many to be remembered.
    forgotten: u32,
    /// One that will hardly say any more what it consumed was forgotten.
    lost: bool,
}

/// How a response began.
#[derive(Clone, Debug)]
pub(super) struct Beginning {
    pub at: Now,
    /// The model that its client has named.
    pub model: Option<Arc<str>>,
}

#[derive(Debug)]
struct Response {
    name: ResponseName,
    began: Beginning,
    /// It was neither superseded nor has it failed.
    under_way: bool,
}

impl Running {
    /// A response begins, of the model that `asked` gives for its lane; of one that has begun already, nothing changes.
    pub(super) fn begin(&mut self, name: ResponseName, now: Now, asked: impl FnOnce(Option<&str>) -> Option<Arc<str>>) {
        let same = name.id.is_some().then(|| self.remembered.iter_mut().find(|found| found.name.id == name.id));
        if let Some(response) = same.flatten() {
            response.under_way = true;
            return;
        }
        if self.remembered.len() == REMEMBERED_MAX {
            self.forget_one();
        }
        let began = Beginning { at: now, model: asked(name.lane.as_deref()) };
        self.remembered.push(Response { name, began, under_way: true });
    }

    /// What is under way in this lane does not go on.
    pub(super) fn supersede(&mut self, lane: Option<&str>) {
        let in_lane = self.remembered.iter_mut().filter(|response| response.name.lane.as_deref() == lane);
        in_lane.for_each(|response| response.under_way = false);
    }

    /// A response ends: the one of this id, or of this lane where none has the id. How it began, if that is known.
    pub(super) fn end(&mut self, name: &ResponseName) -> Option<Beginning> {
        let by_id = self.remembered.iter().position(|response| name.id.is_some() && response.name.id == name.id);
        if by_id.is_none() && self.forgotten > 0 {
            self.forgotten -= 1;
            return None;
        }
        let in_lane = || self.remembered.iter().position(|response| response.name.lane == name.lane);
        by_id.or_else(in_lane).map(|at| self.remembered.remove(at).began)
    }

    /// True while any is under way in this lane.
    pub(super) fn is_in_lane(&self, lane: Option<&str>) -> bool {
        self.remembered.iter().any(|response| response.under_way && response.name.lane.as_deref() == lane)
    }

    /// True while any is under way.
    pub(super) fn is_any(&self) -> bool {
        self.forgotten > 0 || self.remembered.iter().any(|response| response.under_way)
    }

    /// True where each has said its end.
    pub(super) fn is_empty(&self) -> bool {
        self.remembered.is_empty() && self.forgotten == 0 && !self.lost
    }

    /// Makes room: first of what does not go on.
    fn forget_one(&mut self) {
        let over = self.remembered.iter().position(|response| !response.under_way);
        self.remembered.remove(over.unwrap_or(0));
        match over {
            Some(_) => self.lost = true,
            None => self.forgotten = self.forgotten.saturating_add(1),
        }
    }
}
