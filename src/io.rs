//! The outside world as the loop sees it: one trait for the network and the clock, so that the production loop also
//! runs over a fake network in the simulation.

pub mod sockets;

use crate::base::clock::Now;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Something that has become possible. Edges, not levels: each is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Clients may be waiting to be accepted.
    Acceptable,
    /// A socket, by the token that it was registered with.
    Socket { token: u64, readiness: Readiness },
}

/// What a socket can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub readable: bool,
    pub writable: bool,
    /// The peer has shut its side down, or the socket is broken: a short read does not mean that nothing is left.
    pub ended: bool,
}

/// Sockets and the clock. Nothing here blocks but [`Io::poll`].
pub trait Io {
    type Socket;

    /// The instant on both clocks.
    fn now(&mut self) -> Now;

    /// Waits until something happens, a worker wakes the loop, or the timeout (nanoseconds; `None` is for ever) has
    /// passed. Appends what happened.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<u64>) -> io::Result<()>;

    /// The next waiting client; an error of kind `WouldBlock` where none waits.
    fn accept(&mut self) -> io::Result<Self::Socket>;

    /// Where an accepted client is, as far as the network tells.
    fn peer(&mut self, _socket: &Self::Socket) -> Option<IpAddr> {
        None
    }

    /// Stops listening.
    fn stop_accepting(&mut self);

    /// Tells the poller about a socket, once and for all.
    fn register(&mut self, socket: &mut Self::Socket, token: u64) -> io::Result<()>;

    /// Starts to connect; the socket becomes writable when that has ended.
    fn connect(&mut self, address: SocketAddr) -> io::Result<Self::Socket>;

    /// How connecting has ended: `Ok(false)` where it has not.
    fn is_connected(&mut self, socket: &mut Self::Socket) -> io::Result<bool>;

    /// Reads what is there; 0 is the end.
    fn read(&mut self, socket: &mut Self::Socket, into: &mut [u8]) -> io::Result<usize>;

    /// Writes what the socket takes.
    fn write(&mut self, socket: &mut Self::Socket, from: &[u8]) -> io::Result<usize>;

    /// Shuts the sending side down.
    fn shutdown(&mut self, socket: &mut Self::Socket);

    /// Closes the socket.
    fn close(&mut self, socket: Self::Socket);

    /// Closes the socket so that its peer is told of an error, not of an end. A network without such a way closes.
    fn reset(&mut self, socket: Self::Socket) {
        self.close(socket);
    }
}
