//! Where clients starve for the memory of bodies that do not get on: the slowest of these goes.
//!
//! While somebody is paused, all who are sending a body that is held are looked at a few times within `HEADER_TIMEOUT`.
//! Once somebody has waited from one look to the next, that one is refused which would take the longest for its rest,
//! and more of them until somebody goes on. Who would be done within `HEADER_TIMEOUT` stays, and so does who is paused
//! or is done. A liar who keeps memory thus has to send nearly all that they announce, and then the rest of it.
//!
//! In: the exchanges. Out: refusals of some. Never: one while nobody waits.

use super::downstream::{Phase, Sink};
use super::downstream_side::body_bytes_max;
use super::held_bodies::HeldBodies;
use super::refusal::Refusal;
use super::{DownKey, ExchangeKey, Proxy};
use crate::base::clock::Now;
use crate::http::reply::Fault;
use std::cmp::Reverse;

impl Proxy {
    /// Looks at all who hold a body in memory and are still sending it.
    pub(super) fn look_at_holders(&mut self, now: Now) {
        let starves = self.held_bodies.look(now.mono);
        let mut slow = Vec::new();
        for key in self.exchanges.keys().collect::<Vec<_>>() {
            let Some((down, rest)) = self.rest_of_held(key) else { continue };
            let Some(exchange) = self.exchanges.get_mut(key) else { continue };
            let outgoing = &mut exchange.request.outgoing;
            let moved = (outgoing.body.len() - outgoing.looked_at) as u64;
            outgoing.looked_at = outgoing.body.len();
            if starves && HeldBodies::is_slow(moved, rest) {
                let is_favoured = self.held_bodies.holding_up() == Some(key);
                slow.push((down, Reverse((rest / moved.max(1), is_favoured, outgoing.counted))));
            }
        }
        slow.sort_by_key(|&(_, slowest_first)| slowest_first);
        let waiting = self.held_bodies.waiting();
        for (down, _) in slow {
            if self.held_bodies.waiting() < waiting {
                return;
            }
            let message = "others wait for the memory that this request's body takes, and it comes too slowly";
            self.refuse_and_close(now, down, &Refusal::new(Fault::Overloaded, message).with(b"retry-after: 1\r\n"));
        }
    }

    /// The client of an exchange whose body is held and still comes, and how much more of it may.
    fn rest_of_held(&self, key: ExchangeKey) -> Option<(DownKey, u64)> {
        let exchange = self.exchanges.linked(key)?;
        let outgoing = &exchange.request.outgoing;
        let Phase::Body { reader, sink: Sink::Hold } = &self.downs.linked(exchange.down)?.phase else { return None };
        let (have, max) = (outgoing.body.len(), self.settings.body_bytes_max);
        let rest = body_bytes_max(max, reader, have) - have;
        (!outgoing.paused && outgoing.counted > 0).then_some((exchange.down, rest as u64))
    }
}
