//! A scripted proxy on the way out: a thread a connection, which takes CONNECT, records it, and does as the test says.
//! Whatever name it is asked for, a tunnel leads to one address: nobody has to resolve the name.

use super::DEADLINE;
use super::wire::{Head, Wire};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What becomes of a request for a tunnel.
#[derive(Clone, Debug)]
pub enum Fate {
    /// Says this, and then carries bytes both ways.
    Open(&'static str),
    /// The same, a byte at a time.
    Dribble(&'static str),
    /// Says this, and closes.
    Say(String),
    /// Says this, and then nothing more.
    Hang(&'static str),
}

/// A running proxy; stops with its value.
pub struct Tunnels {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<Head>>>,
    stop: Arc<AtomicBool>,
}

impl Tunnels {
    /// `fate` is given the number of each request, from 0.
    pub fn to(target: SocketAddr, fate: impl Fn(usize) -> Fate + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (asked, stop) = (Arc::<Mutex<Vec<Head>>>::default(), Arc::new(AtomicBool::new(false)));
        let (noted, stopped, fate) = (asked.clone(), stop.clone(), Arc::new(fate));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (noted, fate) = (noted.clone(), fate.clone());
                thread::spawn(move || serve(stream, target, &noted, &*fate));
            }
        });
        Self { addr, asked, stop }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it was asked, in order.
    pub fn asked(&self) -> Vec<Head> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1)); // wakes the accepting thread
    }
}

/// A peer may leave at any time.
fn serve(stream: TcpStream, target: SocketAddr, asked: &Mutex<Vec<Head>>, fate: &dyn Fn(usize) -> Fate) {
    let _ = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(DEADLINE * 3)));
    let mut wire = Wire::new(stream);
    let Ok(Some(head)) = wire.head() else { return };
    let number = {
        let mut asked = asked.lock().unwrap();
        asked.push(head);
        asked.len() - 1
    };
    let mut client = wire.stream;
    let _ = match fate(number) {
        Fate::Open(words) => client.write_all(words.as_bytes()).and_then(|()| carry(client, target)),
        Fate::Dribble(words) => {
            let mut bytes = words.bytes();
            bytes.try_for_each(|byte| client.write_all(&[byte])).and_then(|()| carry(client, target))
        }
        Fate::Say(words) => client.write_all(words.as_bytes()).and_then(|()| client.shutdown(Shutdown::Write)),
        Fate::Hang(words) => {
            let said = client.write_all(words.as_bytes());
            while matches!(client.read(&mut [0; 4096]), Ok(1..)) {}
            said
        }
    };
}

fn carry(client: TcpStream, target: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    server.set_nodelay(true)?;
    let (mut to, mut from) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (server, client);
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    Ok(())
}
