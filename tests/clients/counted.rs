//! A way to the proxy that counts the connections taken: whether a client keeps them is seen only from outside of it.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Passes on all bytes both ways.
pub struct Counted {
    pub addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Counted {
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let counted = Self { addr: listener.local_addr().unwrap(), connections: Arc::default() };
        let connections = counted.connections.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(server).unwrap());
                connections.fetch_add(1, Ordering::SeqCst);
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || pass(&from, &to));
                }
            }
        });
        counted
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = to.set_nodelay(true);
    let _ = io::copy(&mut from, &mut to); // either may leave at any time
    let _ = to.shutdown(Shutdown::Write);
}
