//! The loop's sockets, found by the proxy's keys: by side and slot index, and only with the right generation, so that a
//! late event or action cannot reach the next connection in a slot.

use crate::proxy::Conn;

/// A socket and what is known of it. Bits are set by events, and cleared only when the socket says so.
pub struct SocketEntry<S> {
    generation: u32,
    pub socket: S,
    pub readable: bool,
    pub writable: bool,
    /// The peer has ended: only a read of 0 bytes means that nothing is left.
    pub ended: bool,
    pub connecting: bool,
    /// It waits in the run queue.
    pub queued: bool,
    /// It waits to be flushed.
    pub dirty: bool,
}

/// All sockets of the loop.
pub struct SocketTable<S> {
    sides: [Vec<Option<SocketEntry<S>>>; 2],
}

impl<S> Default for SocketTable<S> {
    fn default() -> Self {
        Self { sides: [Vec::new(), Vec::new()] }
    }
}

impl<S> SocketTable<S> {
    /// The connection's socket; `None` for one that is gone, or not open yet.
    pub fn get(&mut self, conn: Conn) -> Option<&mut SocketEntry<S>> {
        let (side, index, generation) = place(conn);
        self.sides[side].get_mut(index)?.as_mut().filter(|sock| sock.generation == generation)
    }

    /// Adds a socket. One that is not connecting is tried at once: what it can do is learnt by doing it.
    ///
    /// # Panics
    /// Where the slot's last tenant still has its socket.
    pub fn put(&mut self, conn: Conn, socket: S, connecting: bool) {
        let (side, index, generation) = place(conn);
        let slots = &mut self.sides[side];
        if slots.len() <= index {
            slots.resize_with(index + 1, || None);
        }
        assert!(slots[index].is_none(), "the last tenant's socket is still open");
        let (readable, writable) = (!connecting, !connecting);
        let (ended, queued, dirty) = (false, false, false);
        slots[index] = Some(SocketEntry { generation, socket, readable, writable, ended, connecting, queued, dirty });
    }

    /// Takes the connection's socket out.
    pub fn take(&mut self, conn: Conn) -> Option<S> {
        self.get(conn)?;
        let (side, index, _) = place(conn);
        self.sides[side][index].take().map(|sock| sock.socket)
    }
}

/// Side, slot index and generation of a connection.
fn place(conn: Conn) -> (usize, usize, u32) {
    match conn {
        Conn::Down(key) => (0, key.index as usize, key.generation),
        Conn::Up(key) => (1, key.index as usize, key.generation),
    }
}
