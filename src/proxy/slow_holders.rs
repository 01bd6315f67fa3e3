//! Where clients starve for the memory of bodies that do not get on: which of these go, the slowest first.
//!
//! While somebody is paused, all who are sending a body that is held are looked at a few times within `HEADER_TIMEOUT`.
//! Once somebody has waited from one look to the next, that one is refused which would take the longest for its rest,
//! and more of them until somebody goes on. Who would be done within `HEADER_TIMEOUT` stays, and so does who is paused
//! or is done. A liar who keeps memory thus has to send nearly all that they announce, and then the rest of it.
//!
//! In: the exchanges. Out: clients to refuse. Never: one while nobody waits.

use super::downstream::{Downstream, Phase, Sink};
use super::exchange::Exchange;
use super::held_bodies::HeldBodies;
use super::outgoing::body_bytes_max;
use super::{DownKey, ExchangeKey};
use crate::base::slab::Slab;
use std::cmp::Reverse;

/// Looks at all who hold a body in memory and are still sending it; `starves` says that somebody waits for too long.
pub fn look(
    downs: &Slab<Downstream>,
    exchanges: &mut Slab<Exchange>,
    favoured: Option<ExchangeKey>,
    max: u64,
    starves: bool,
) -> Vec<DownKey> {
    let mut slow = Vec::new();
    for key in exchanges.keys().collect::<Vec<_>>() {
        let Some(exchange) = exchanges.linked_mut(key) else { continue };
        let down = exchange.down;
        let outgoing = &mut exchange.request.outgoing;
        let Some(Phase::Body { reader, sink: Sink::Hold }) = downs.linked(down).map(|down| &down.phase) else {
            continue;
        };
        let have = outgoing.body.len();
        let (moved, rest) = ((have - outgoing.looked_at) as u64, (body_bytes_max(max, reader, have) - have) as u64);
        outgoing.looked_at = have;
        let is_holder = !outgoing.paused && outgoing.counted > 0;
        if starves && is_holder && HeldBodies::is_slow(moved, rest) {
            slow.push((down, Reverse((rest / moved.max(1), favoured == Some(key), outgoing.counted))));
        }
    }
    slow.sort_by_key(|&(_, slowest_first)| slowest_first);
    slow.into_iter().map(|(down, _)| down).collect()
}
