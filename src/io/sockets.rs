//! Real sockets over mio: edge-triggered, registered once for reading and writing, never re-registered.

#![allow(clippy::disallowed_methods)] // the outside world reads the clocks

use super::{Event, Io, Readiness};
use crate::base::clock::{Now, nanoseconds};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::net::sockopt::{
    ipv6_v6only, set_ipv6_v6only, set_socket_linger, set_socket_reuseaddr, set_socket_reuseport,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
/// Events fetched by one poll.
const EVENTS_MAX: usize = 1024;

/// A socket that listens on `address`; on `::` for both families, whatever the system does by itself
/// (`net.ipv6.bindv6only`). Where it `shares` its port, other processes of the same user may listen there too, and the
/// system spreads clients over them.
///
/// # Errors
/// The system's.
pub fn bind(address: SocketAddr, shares: bool) -> io::Result<std::net::TcpListener> {
    let is_for_all = address.ip() == Ipv6Addr::UNSPECIFIED;
    if !is_for_all && !shares {
        return std::net::TcpListener::bind(address);
    }
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if is_for_all {
        set_ipv6_v6only(&socket, false)?;
    }
    set_socket_reuseaddr(&socket, true)?; // as for any other address
    set_socket_reuseport(&socket, shares)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, i32::MAX)?; // as many as the system lets wait
    Ok(socket.into())
}

/// The listening socket, the poller and the clocks of a process.
pub struct Sockets {
    poll: Poll,
    events: Events,
    listener: Option<TcpListener>,
    waker: Arc<Waker>,
    started: Instant,
}

impl Sockets {
    /// Listens on `address`, as [`bind`] says.
    pub fn listen(address: SocketAddr, shares: bool) -> io::Result<Self> {
        let listener = bind(address, shares)?;
        listener.set_nonblocking(true)?;
        Self::from_listener(listener)
    }

    /// Accepts from a socket that listens already, and does not block.
    pub fn from_listener(listener: std::net::TcpListener) -> io::Result<Self> {
        Self::accept_from(TcpListener::from_std(listener))
    }

    fn accept_from(mut listener: TcpListener) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let events = Events::with_capacity(EVENTS_MAX);
        Ok(Self { poll, events, listener: Some(listener), waker, started: Instant::now() })
    }

    /// Where it listens; differs from what was asked for where that named port 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.as_ref().ok_or(ErrorKind::NotConnected)?.local_addr()
    }

    /// Of which versions of IP clients may come.
    pub fn families(&self) -> io::Result<&'static str> {
        let listener = self.listener.as_ref().ok_or(ErrorKind::NotConnected)?;
        Ok(match self.local_addr()?.ip() {
            IpAddr::V4(_) => "IPv4",
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) if !ipv6_v6only(listener)? => "IPv4 and IPv6",
            IpAddr::V6(_) => "IPv6",
        })
    }

    /// Makes [`Io::poll`] return, from any thread.
    pub fn waker(&self) -> impl Fn() + Send + Sync + 'static {
        let waker = Arc::clone(&self.waker);
        // It fails only where its descriptor is gone, and then the loop is.
        move || drop(waker.wake())
    }
}

impl Io for Sockets {
    type Socket = TcpStream;

    fn now(&mut self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: nanoseconds(self.started.elapsed()), unix: nanoseconds(unix) }
    }

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<u64>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout.map(Duration::from_nanos)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        events.extend(self.events.iter().filter_map(|event| match event.token() {
            LISTENER => Some(Event::Acceptable),
            WAKER => None,
            token => {
                let ended = event.is_read_closed() || event.is_error();
                let readable = event.is_readable() || ended;
                let writable = event.is_writable() || event.is_write_closed() || event.is_error();
                Some(Event::Socket { token: token.0 as u64, readiness: Readiness { readable, writable, ended } })
            }
        }));
        Ok(())
    }

    fn accept(&mut self) -> io::Result<TcpStream> {
        let Some(listener) = &self.listener else { return Err(ErrorKind::WouldBlock.into()) };
        let (socket, _) = listener.accept()?;
        // Events of a stream are small and wanted now; without it a socket still works.
        let _ = socket.set_nodelay(true);
        Ok(socket)
    }

    fn peer(&mut self, socket: &TcpStream) -> Option<IpAddr> {
        socket.peer_addr().ok().map(|address| address.ip())
    }

    fn stop_accepting(&mut self) {
        self.listener = None;
    }

    fn register(&mut self, socket: &mut TcpStream, token: u64) -> io::Result<()> {
        self.poll.registry().register(socket, Token(token as usize), Interest::READABLE | Interest::WRITABLE)
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = TcpStream::connect(address)?;
        let _ = socket.set_nodelay(true); // as above
        Ok(socket)
    }

    fn is_connected(&mut self, socket: &mut TcpStream) -> io::Result<bool> {
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        match socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, socket: &mut TcpStream, into: &mut [u8]) -> io::Result<usize> {
        socket.read(into)
    }

    fn write(&mut self, socket: &mut TcpStream, from: &[u8]) -> io::Result<usize> {
        socket.write(from)
    }

    fn shutdown(&mut self, socket: &mut TcpStream) {
        let _ = socket.shutdown(Shutdown::Write); // a broken socket is closed soon anyway
    }

    fn close(&mut self, socket: TcpStream) {
        drop(socket); // the kernel takes a closed descriptor out of the poller
    }

    fn reset(&mut self, socket: TcpStream) {
        // Without it the peer sees an end; there is no other way to tell.
        let _ = set_socket_linger(&socket, Some(Duration::ZERO));
    }
}
