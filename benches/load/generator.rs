//! The clients of a closed loop: a fixed number of connections, each with one request in flight.
//!
//! In: an [`Order`] as arguments. Out: one line, a [`Measured`]. The warm-up begins when every connection has had an
//! answer, and measuring when it is over. Every answer is checked. Never: a request to anything but loopback.

use crate::client::{Client, Requests};
use crate::link::trusting;
use crate::measured::Measured;
use crate::process;
use crate::work::Order;
use mio::{Events, Poll, Token};
use rustls::ClientConfig;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A run that meets this many errors is over.
pub const ERRORS_MAX: u64 = 100;
/// Connections that may wait for their first answer at once: all of them in any case but those of thousands, which a
/// target takes in at its own pace.
pub const WAITING_MAX: usize = 200;
/// How long it may take to open all connections, and how long to warm up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Generates load and prints what came back.
pub fn run(args: &[String]) -> Result<(), String> {
    let order = Order::parse(args).ok_or("not an order")?;
    println!("{}", Generator::new(order)?.run()?);
    Ok(())
}

struct Generator {
    order: Order,
    tls: Option<Arc<ClientConfig>>,
    requests: Requests,
    poll: Poll,
    clients: Vec<Client>,
    /// Connections that have had an answer.
    answered: Vec<bool>,
    measured: Measured,
    latencies_us: Vec<u64>,
}

impl Generator {
    fn new(order: Order) -> Result<Self, String> {
        Ok(Self {
            tls: order.authority.as_deref().map(trusting).transpose()?,
            requests: Requests::new(&order),
            poll: Poll::new().map_err(|e| e.to_string())?,
            clients: Vec::new(),
            answered: vec![false; order.load.connections],
            measured: Measured { rss_before_kib: process::rss_kib(&order.pids), ..Measured::default() },
            latencies_us: Vec::new(),
            order,
        })
    }

    /// Warms up, measures, and says what was seen.
    fn run(mut self) -> Result<Measured, String> {
        self.open()?;
        self.warm_up()?;
        self.latencies_us.clear();
        let (cpu_before, start) = (process::cpu_ns(&self.order.pids), Instant::now());
        self.turns(start + self.order.measure)?;
        let seconds = start.elapsed().as_secs_f64();
        let cpu_ns = process::cpu_ns(&self.order.pids).zip(cpu_before).map(|(after, before)| after - before);
        let rss_kib = process::rss_kib(&self.order.pids);
        let requests = self.latencies_us.len() as u64;
        let mut measured = Measured { requests, seconds, cpu_ns, rss_kib, ..self.measured };
        measured.set_latency(self.latencies_us);
        Ok(measured)
    }

    /// Opens the connections, until each has had an answer.
    fn open(&mut self) -> Result<(), String> {
        let start = Instant::now();
        while self.measured.errors < ERRORS_MAX {
            let wanted = self.order.load.connections;
            let answered = self.answered.iter().filter(|answered| **answered).count();
            if answered == wanted {
                break;
            }
            if start.elapsed() > PATIENCE {
                self.measured.fail(format!("no answer on {} of {wanted} connections", wanted - answered));
                break;
            }
            while self.clients.len() < wanted.min(answered + WAITING_MAX) {
                let mut client = self.connect(self.clients.len())?;
                client.send(&mut self.requests);
                self.clients.push(client);
            }
            self.turns(Instant::now() + Duration::from_millis(5))?;
        }
        Ok(())
    }

    fn warm_up(&mut self) -> Result<(), String> {
        let start = Instant::now();
        self.turns(start + self.order.warm_up)?;
        while self.latencies_us.len() < self.order.load.warm_up_requests && start.elapsed() < PATIENCE {
            self.turns(Instant::now() + Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// Keeps every connection busy until `end`.
    fn turns(&mut self, end: Instant) -> Result<(), String> {
        let (mut events, mut scratch) = (Events::with_capacity(256), vec![0; 64 * 1024]);
        while self.measured.errors < ERRORS_MAX {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match self.poll.poll(&mut events, Some(left)) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(|e| e.to_string())?,
            }
            for event in &events {
                let Token(n) = event.token();
                let client = &mut self.clients[n];
                match client.turn(event, &self.requests, &mut scratch) {
                    Ok(false) => continue,
                    Ok(true) => {
                        self.latencies_us.push(client.sent_at.elapsed().as_micros() as u64);
                        self.answered[n] = true;
                        if client.response.closes {
                            self.clients[n] = self.connect(n)?;
                        }
                    }
                    Err(fault) => {
                        self.measured.fail(fault);
                        self.clients[n] = self.connect(n)?;
                    }
                }
                self.clients[n].send(&mut self.requests);
            }
        }
        Ok(())
    }

    fn connect(&self, n: usize) -> Result<Client, String> {
        Client::connect(&self.order, self.tls.as_ref(), (self.poll.registry(), Token(n)))
    }
}
