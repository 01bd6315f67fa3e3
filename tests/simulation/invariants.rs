//! What holds after every turn of the loop: bytes that may move have moved, nothing grows over its bound, nothing is
//! reserved that nobody holds, no socket is without its slot.

use crate::scenario::{BODY_BYTES_MAX, EDIT_BYTES_MAX};
use crate::world::World;
use openai_api_proxy::proxy::invariants::Waiting;
use openai_api_proxy::proxy::{Conn, HIGH_WATERMARK, LOW_WATERMARK, Proxy};
use std::collections::BTreeMap;

/// Most bytes of one read.
const READ_BYTES: usize = 64 * 1024;
/// What a buffer may hold: up to the mark, then one more read, and what frames it or is put before it.
const WAITING_MAX: usize = HIGH_WATERMARK + READ_BYTES + 16 * 1024;

/// The checks, and what they remember of the last turn.
pub struct Invariants {
    /// Places in the ledger's queue.
    pub ledger_places: u64,
    /// What held bodies may occupy together.
    pub buffered_bytes_max: usize,
    /// Sockets whose bytes waited to be read after the last turn, and how often they had been read then.
    unread: BTreeMap<usize, u64>,
    /// The most bytes that ever waited.
    pub most: Waiting,
}

impl Invariants {
    pub fn new(ledger_places: u64, buffered_bytes_max: usize) -> Self {
        Self { ledger_places, buffered_bytes_max, unread: BTreeMap::new(), most: Waiting::default() }
    }

    /// After a turn.
    pub fn check(&mut self, proxy: &Proxy, world: &World) {
        assert_eq!(proxy.audit().forgotten(), 0, "something is held for which nothing is under way");
        assert!(proxy.audit().records_are_timed(), "records wait without an end");
        assert_eq!(proxy.audit().stray_connections(), 0, "connections that are nobody's, or requests without one");
        let (reserved, uncommitted) = proxy.audit().permits();
        assert!(reserved + uncommitted <= self.ledger_places, "more records than places");
        assert_eq!(reserved, proxy.audit().permits_held(), "places are reserved that no exchange holds");
        let (reserved, held) = proxy.audit().reservations();
        assert_eq!(reserved, held, "limits are taken from that no exchange holds");
        let buffered = proxy.audit().held_bytes();
        let buffered_max = self.buffered_bytes_max + BODY_BYTES_MAX + 3 * EDIT_BYTES_MAX;
        assert!(buffered <= buffered_max, "{buffered} bytes are held");
        self.check_slots(proxy, world);
        self.check_bounds(proxy);
        check_sent(proxy, world);
        self.check_read(proxy, world);
    }

    fn check_slots(&self, proxy: &Proxy, world: &World) {
        let (downs, ups, exchanges) = proxy.audit().slots();
        let (clients, targets) = world.open_sockets();
        assert_eq!(downs, clients, "clients' slots and sockets");
        assert!(targets <= ups, "{targets} sockets of {ups} connections to the target");
        assert!(exchanges <= downs + ups, "an exchange has neither a client nor a target");
    }

    fn check_bounds(&mut self, proxy: &Proxy) {
        let Waiting { to_client, from_client, to_target, from_target } = proxy.audit().waiting_max();
        for (count, most, what) in [
            (to_client, &mut self.most.to_client, "for a client"),
            (from_client, &mut self.most.from_client, "of a client"),
            (to_target, &mut self.most.to_target, "for the target"),
            (from_target, &mut self.most.from_target, "of the target"),
        ] {
            assert!(count <= WAITING_MAX, "{count} bytes wait {what}");
            *most = count.max(*most);
        }
    }

    /// What can be read and is wanted was read, at the latest in the turn after. (A reader that paused at the high mark
    /// goes on at the low one, so nothing is said of the turns between.)
    fn check_read(&mut self, proxy: &Proxy, world: &World) {
        let mut unread = BTreeMap::new();
        let waiting = proxy.audit().waiting_max();
        if waiting.to_client.max(waiting.to_target) >= LOW_WATERMARK {
            return self.unread.clear();
        }
        for (number, pipe) in world.pipes.iter().enumerate() {
            let Some(token) = pipe.token.filter(|_| pipe.has_unread()) else { continue };
            if proxy.wants_read(Conn::from_token(token)) {
                unread.insert(number, pipe.reads);
                let stays = self.unread.get(&number) == Some(&pipe.reads);
                assert!(!stays, "bytes wait in socket {number}, are wanted, and are not read\n{}", world.describe());
            }
        }
        self.unread = unread;
    }
}

/// What may leave has left, as far as the sockets take it: no event is held back for a later one.
fn check_sent(proxy: &Proxy, world: &World) {
    for conn in proxy.audit().unsent() {
        let is_its = |pipe: &&crate::world::Pipe| pipe.token == Some(conn.token());
        // One that waits for the target's address has no socket yet.
        let Some(pipe) = world.pipes.iter().find(is_its) else { continue };
        assert!(pipe.refuses(), "bytes for {conn:?} may leave, its socket takes them, and they are held back");
    }
}
