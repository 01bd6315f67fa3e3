//! A mock API server: a thread a connection, keep-alive, plain or TLS. It answers by script, records every request, and
//! reads so strictly that a request which is not exactly right fails the test.

use super::DEADLINE;
use super::script::Step;
use super::wire::{Cut, Framing, Head, Wire, framing};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// One request as the upstream saw it.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// Which connection it came on, from 0 in the order of accepting.
    pub connection: usize,
    /// Which request of that connection, from 0.
    pub nth: usize,
    pub method: String,
    pub target: String,
    pub head: Head,
    /// The body without its framing; empty while only the head has come.
    pub body: Vec<u8>,
}

impl SeenRequest {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }
}

type Handler = Box<dyn Fn(&SeenRequest) -> Vec<Step> + Send + Sync>;
type Early = Box<dyn Fn(&SeenRequest) -> Option<Vec<Step>> + Send + Sync>;

/// What the server is, beside its handler.
#[derive(Default)]
pub struct Options {
    /// Speaks TLS with this configuration.
    pub tls: Option<ServerConfig>,
    /// Looks at a request before its body is read; an answer here leaves the body unread and ends the connection.
    pub early: Option<Early>,
    /// Keeps no requests: there are too many of them.
    pub forgets: bool,
}

/// A running mock server; stops with its value, and then fails the test if anything was wrong with a request.
pub struct Upstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    tls: Option<Arc<ServerConfig>>,
    early: Option<Early>,
    forgets: bool,
    handler: Handler,
    seen: Mutex<Vec<SeenRequest>>,
    failures: Mutex<Vec<String>>,
    connections: AtomicUsize,
    resumed: AtomicUsize,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstream {
    /// A server without TLS.
    pub fn plain(handler: impl Fn(&SeenRequest) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::start(Options::default(), handler)
    }

    /// A server with this TLS configuration.
    pub fn tls(config: ServerConfig, handler: impl Fn(&SeenRequest) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::start(Options { tls: Some(config), ..Options::default() }, handler)
    }

    pub fn start(options: Options, handler: impl Fn(&SeenRequest) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            tls: options.tls.map(Arc::new),
            early: options.early,
            forgets: options.forgets,
            handler: Box::new(handler),
            seen: Mutex::default(),
            failures: Mutex::default(),
            connections: AtomicUsize::new(0),
            resumed: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let for_thread = shared.clone();
        thread::spawn(move || accept(&listener, &for_thread));
        Self { addr, shared }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// For `PROXY_TARGET`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.shared.tls.is_some() { "https" } else { "http" }, self.addr)
    }

    /// All requests whose head has been read, in that order; the body is there once it has been read too.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.check();
        lock(&self.shared.seen).clone()
    }

    /// How many connections have been accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many TLS handshakes resumed an earlier session.
    pub fn resumed(&self) -> usize {
        self.shared.resumed.load(Ordering::SeqCst)
    }

    fn check(&self) {
        let failures = lock(&self.shared.failures);
        assert!(failures.is_empty(), "the upstream complains:\n{}", failures.join("\n"));
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1)); // wakes the accepting thread
        if !thread::panicking() {
            self.check();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
        let shared = shared.clone();
        thread::spawn(move || {
            let served = catch_unwind(AssertUnwindSafe(|| serve(&shared, connection, stream)));
            let failure = match served {
                Ok(Ok(())) => return,
                Ok(Err(Cut::Malformed(why))) => why,
                Ok(Err(_)) => return, // a peer may leave at any time
                Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a handler panicked".into()),
            };
            eprintln!("upstream, connection {connection}: {failure}");
            lock(&shared.failures).push(format!("connection {connection}: {failure}"));
        });
    }
}

/// A connection after its upgrade, with what was read of it too early.
pub type Tunnel = Wire<Stream>;

/// A connection, with or without TLS.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &tls.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buf),
            Self::Tls(tls) => tls.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(buf),
            Self::Tls(tls) => tls.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

fn serve(shared: &Shared, connection: usize, tcp: TcpStream) -> Result<(), Cut> {
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(DEADLINE * 3)).unwrap();
    tcp.set_write_timeout(Some(DEADLINE)).unwrap();
    let stream = match &shared.tls {
        None => Stream::Plain(tcp),
        Some(config) => {
            let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), tcp);
            while tls.conn.is_handshaking() {
                tls.conn.complete_io(&mut tls.sock).map_err(|_| Cut::Closed)?;
            }
            if tls.conn.handshake_kind() == Some(HandshakeKind::Resumed) {
                shared.resumed.fetch_add(1, Ordering::SeqCst);
            }
            Stream::Tls(Box::new(tls))
        }
    };
    let mut wire = Wire::new(stream);
    for nth in 0.. {
        let Some(head) = wire.head()? else { return Ok(()) };
        let mut request = parse(connection, nth, head)?;
        let place = (!shared.forgets).then(|| {
            let mut seen = lock(&shared.seen);
            seen.push(request.clone());
            seen.len() - 1
        });
        if let Some(steps) = shared.early.as_ref().and_then(|early| early(&request)) {
            if !perform(&mut wire, steps)? {
                say_goodbye(&mut wire);
                drain(&mut wire);
            }
            return Ok(());
        }
        if request.head.get("expect").is_some() {
            wire.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(|_| Cut::Closed)?;
        }
        let (body, cut) = wire.body(framing(&request.head, false, Framing::None)?);
        request.body = body;
        if let Some(place) = place {
            lock(&shared.seen)[place].body.clone_from(&request.body);
        }
        if let Some(cut) = cut {
            return Err(cut);
        }
        if perform(&mut wire, (shared.handler)(&request))? {
            return Ok(());
        }
    }
    Ok(())
}

/// RFC 9112 §3 and §3.2, as a server that trusts nobody.
fn parse(connection: usize, nth: usize, head: Head) -> Result<SeenRequest, Cut> {
    let parts: Vec<&str> = head.start.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else {
        return Err(Cut::Malformed(format!("not a request line: {:?}", head.start)));
    };
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if !plain(method) || !plain(target) || !(target.starts_with('/') || target == "*") || target.contains('#') {
        return Err(Cut::Malformed(format!("not a request line: {:?}", head.start)));
    }
    if head.all("host").len() != 1 {
        return Err(Cut::Malformed(format!("{} Host fields", head.all("host").len())));
    }
    Ok(SeenRequest { connection, nth, method: method.into(), target: target.into(), head, body: Vec::new() })
}

/// Performs the steps; true where they ended the connection.
fn perform(wire: &mut Wire<Stream>, steps: Vec<Step>) -> Result<bool, Cut> {
    let mut closed = false;
    for step in steps {
        match step {
            Step::Send(bytes) => {
                let sent = wire.stream.write_all(&bytes).and_then(|()| wire.stream.flush());
                sent.map_err(|_| Cut::Closed)?;
            }
            Step::Wait(gate) => {
                // A dropped handle opens the gate as well, so that a failing test ends.
                let _ = gate.recv_timeout(DEADLINE);
            }
            Step::Tell(tell) => {
                let _ = tell.send(()); // the test may have seen enough
            }
            Step::Talk(talk) => talk(wire)?,
            Step::AwaitClose => {
                while matches!(wire.stream.read(&mut [0; 4096]), Ok(1..)) {}
                closed = true;
            }
            Step::Close => {
                say_goodbye(wire);
                closed = true;
            }
            Step::Cut => {
                let _ = wire.stream.tcp().shutdown(Shutdown::Write);
                closed = true;
            }
            Step::Reset => {
                rustix::net::sockopt::set_socket_linger(wire.stream.tcp(), Some(Duration::ZERO)).unwrap();
                return Ok(true);
            }
        }
    }
    if closed {
        drain(wire);
    }
    Ok(closed)
}

fn say_goodbye(wire: &mut Wire<Stream>) {
    if let Stream::Tls(tls) = &mut wire.stream {
        tls.conn.send_close_notify();
        let _ = tls.flush();
    }
    let _ = wire.stream.tcp().shutdown(Shutdown::Write);
}

/// Waits for the peer's end: closing with unread bytes would reset what was just sent.
fn drain(wire: &mut Wire<Stream>) {
    let _ = wire.stream.tcp().set_read_timeout(Some(DEADLINE));
    let mut tcp = wire.stream.tcp();
    while matches!(tcp.read(&mut [0; 4096]), Ok(1..)) {}
}
