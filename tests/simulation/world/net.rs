//! The loop's side of the fake network: what the proxy's calls do to the world.

use super::{Connecting, World};
use openai_api_proxy::base::clock::Now;
use openai_api_proxy::io::{Event, Io};
use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;

/// The network, shared with the peers.
#[derive(Clone)]
pub struct Net {
    pub world: Rc<RefCell<World>>,
    /// Lets the peers and workers act once; false where none of them could do anything.
    pub act: Rc<dyn Fn(&mut World) -> bool>,
}

impl Io for Net {
    type Socket = usize;

    fn now(&mut self) -> Now {
        let world = self.world.borrow();
        Now { mono: world.mono, unix: world.unix() }
    }

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<u64>) -> io::Result<()> {
        let world = &mut *self.world.borrow_mut();
        world.pass_time();
        loop {
            let acted = (self.act)(world);
            // Peers act a few times between two turns, or once.
            if acted && world.rng.below(3) > 0 && world.has_events() {
                continue;
            }
            if acted || world.has_events() || timeout == Some(0) {
                world.count_spins(acted || world.has_events());
                break;
            }
            let wakes_in = world.wakes_at.map(|at| at.saturating_sub(world.mono));
            let Some(timeout) = [timeout, wakes_in].into_iter().flatten().min() else {
                panic!("a lost wake-up: somebody waits and nothing can happen\n{}", world.describe());
            };
            world.mono += timeout;
            world.sleeps += 1;
            assert!(world.sleeps < 10_000, "the loop only sleeps");
            break;
        }
        world.collect(events);
        world.turn_at = world.mono;
        Ok(())
    }

    fn accept(&mut self) -> io::Result<usize> {
        let world = &mut *self.world.borrow_mut();
        match world.backlog.pop_front() {
            Some(pipe) if world.accept_faults && world.rng.below(20) == 0 => {
                // Gone before it was accepted.
                world.peer_reset(pipe);
                world.pipes[pipe].proxy_closed = true;
                Err(ErrorKind::ConnectionAborted.into())
            }
            Some(pipe) => Ok(pipe),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn stop_accepting(&mut self) {
        self.world.borrow_mut().listening = false;
    }

    fn register(&mut self, socket: &mut usize, token: u64) -> io::Result<()> {
        let world = &mut *self.world.borrow_mut();
        let pipe = &mut world.pipes[*socket];
        assert!(pipe.token.replace(token).is_none(), "registered twice");
        pipe.readable_edge |= !pipe.to_proxy.is_empty() || pipe.peer_ended;
        pipe.may_be_read = true;
        pipe.writable_edge |= pipe.connecting.is_none();
        Ok(())
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<usize> {
        let world = &mut *self.world.borrow_mut();
        let fate = if world.connect_faults { world.rng.below(10) } else { 9 };
        if fate == 0 {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let is_silent = world.silent.contains(&address.port());
        let began = world.mono;
        let pipe = world.pipe();
        world.pipes[pipe].silent = is_silent.then_some((address.port(), began));
        world.pipes[pipe].connecting = Some(match fate {
            _ if is_silent => Connecting::Hangs,
            1 => Connecting::Fails,
            2 => Connecting::Hangs,
            _ => Connecting::Succeeds,
        });
        Ok(pipe)
    }

    fn is_connected(&mut self, socket: &mut usize) -> io::Result<bool> {
        let pipe = &self.world.borrow().pipes[*socket];
        match pipe.connecting {
            _ if pipe.broken => Err(ErrorKind::ConnectionRefused.into()),
            connecting => Ok(connecting.is_none()),
        }
    }

    fn read(&mut self, socket: &mut usize, into: &mut [u8]) -> io::Result<usize> {
        let world = &mut *self.world.borrow_mut();
        let pipe = &mut world.pipes[*socket];
        assert!(!pipe.proxy_closed, "read after close");
        if pipe.broken {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if pipe.to_proxy.is_empty() {
            // An event for another connection must not lead here. (Those of the pool are looked at without one.)
            let has_cause = std::mem::take(&mut pipe.may_be_read) || pipe.peer_ended || !pipe.is_clients;
            assert!(has_cause, "a read of socket {socket}, for which there was no event");
            return if pipe.peer_ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        let count = into.len().min(pipe.to_proxy.len());
        for (to, from) in into.iter_mut().zip(pipe.to_proxy.drain(..count)) {
            *to = from;
        }
        pipe.reads += 1;
        pipe.may_be_read = true;
        world.moved += 1;
        Ok(count)
    }

    fn write(&mut self, socket: &mut usize, from: &[u8]) -> io::Result<usize> {
        let world = &mut *self.world.borrow_mut();
        let pipe = &mut world.pipes[*socket];
        assert!(!pipe.proxy_closed && !pipe.proxy_ended, "write after the end");
        assert!(!from.is_empty(), "an empty write");
        if pipe.broken || pipe.peer_closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let room = pipe.capacity.saturating_sub(pipe.from_proxy.len());
        if room == 0 || pipe.connecting.is_some() {
            pipe.write_refused = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let most = room.min(from.len());
        let count = if world.roomy { most } else { 1 + world.rng.below(most) };
        pipe.from_proxy.extend(&from[..count]);
        world.moved += 1;
        Ok(count)
    }

    fn shutdown(&mut self, socket: &mut usize) {
        self.world.borrow_mut().pipes[*socket].proxy_ended = true;
    }

    fn reset(&mut self, socket: usize) {
        self.world.borrow_mut().pipes[socket].proxy_reset = true;
        self.close(socket);
    }

    fn close(&mut self, socket: usize) {
        let world = &mut *self.world.borrow_mut();
        let pipe = &mut world.pipes[socket];
        assert!(!std::mem::replace(&mut pipe.proxy_closed, true), "closed twice");
        pipe.closed_at = Some(world.mono);
        world.old_tokens.extend(pipe.token);
    }
}
