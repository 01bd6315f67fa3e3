//! The clients of a hold: many streams, opened one after another within a ramp, all open at once, each with an event
//! now and then.
//!
//! In: an [`Order`] as arguments. Out: one line, a [`Measured`], with the most memory that was seen. The streams go on
//! until all have been open for a while; each is read and checked to its end. Never: a request to anything but loopback.

use crate::client::{Client, Requests};
use crate::generator::{ERRORS_MAX, WAITING_MAX};
use crate::link::trusting;
use crate::measured::Measured;
use crate::process;
use crate::work::Order;
use mio::event::Event;
use mio::{Events, Poll, Token};
use rustls::ClientConfig;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Streams that are opened in a second.
const RAMP_A_SECOND: f64 = 2000.0;
/// How many events each stream has once all are open, at least.
const HELD_EVENTS: u32 = 5;
/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Holds streams and prints what was seen.
pub fn run(args: &[String]) -> Result<(), String> {
    let order = Order::parse(args).ok_or("not an order")?;
    println!("{}", Holder::new(order)?.run()?);
    Ok(())
}

/// A stream that was asked for and has not ended.
struct Stream {
    client: Client,
    has_begun: bool,
}

struct Holder {
    order: Order,
    tls: Option<Arc<ClientConfig>>,
    requests: Requests,
    poll: Poll,
    /// `None` once it has ended.
    streams: Vec<Option<Stream>>,
    /// Streams that have not had their first event.
    waiting: usize,
    measured: Measured,
    latencies_us: Vec<u64>,
}

impl Holder {
    fn new(order: Order) -> Result<Self, String> {
        Ok(Self {
            tls: order.authority.as_deref().map(trusting).transpose()?,
            requests: Requests::new(&order),
            poll: Poll::new().map_err(|e| e.to_string())?,
            streams: Vec::new(),
            waiting: 0,
            measured: Measured { rss_before_kib: process::rss_kib(&order.pids), ..Measured::default() },
            latencies_us: Vec::new(),
            order,
        })
    }

    fn run(mut self) -> Result<Measured, String> {
        let wanted = self.order.load.connections;
        let hold = HELD_EVENTS * Duration::from_millis(self.order.load.pace_ms);
        let (cpu_before, start) = (process::cpu_ns(&self.order.pids), Instant::now());
        let (mut events, mut scratch) = (Events::with_capacity(1024), vec![0; 64 * 1024]);
        let (mut look_at, mut all_open_at, mut is_released) = (start, None, false);
        while self.measured.requests + self.measured.errors < wanted as u64 && self.measured.errors < ERRORS_MAX {
            if start.elapsed() > PATIENCE {
                self.measured.fail(format!("{} of {wanted} streams opened, not all ended", self.streams.len()));
                break;
            }
            self.open_those_due(start)?;
            if self.streams.len() == wanted && self.waiting == 0 && !is_released {
                is_released = all_open_at.get_or_insert_with(Instant::now).elapsed() > hold;
                if is_released {
                    self.release().map_err(|e| format!("mock: {e}"))?;
                }
            }
            if Instant::now() >= look_at {
                self.measured.rss_kib = self.measured.rss_kib.max(process::rss_kib(&self.order.pids));
                look_at = Instant::now() + LOOK_EVERY;
            }
            match self.poll.poll(&mut events, Some(Duration::from_millis(5))) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(|e| e.to_string())?,
            }
            events.iter().for_each(|event| self.turn(event, &mut scratch));
        }
        if !is_released && self.measured.errors == 0 {
            self.measured.fail("streams ended before all were open".into());
        }
        self.measured.seconds = start.elapsed().as_secs_f64();
        let cpu_after = process::cpu_ns(&self.order.pids);
        self.measured.cpu_ns = cpu_after.zip(cpu_before).map(|(after, before)| after - before);
        self.measured.set_latency(self.latencies_us);
        Ok(self.measured)
    }

    /// Opens as many as the ramp wants by now, and no more than the target keeps up with.
    fn open_those_due(&mut self, start: Instant) -> Result<(), String> {
        let due = (start.elapsed().as_secs_f64() * RAMP_A_SECOND) as usize + 1;
        while self.streams.len() < due.min(self.order.load.connections) && self.waiting < WAITING_MAX {
            let token = Token(self.streams.len());
            let mut client = Client::connect(&self.order, self.tls.as_ref(), (self.poll.registry(), token))?;
            client.send(&mut self.requests);
            self.streams.push(Some(Stream { client, has_begun: false }));
            self.waiting += 1;
        }
        Ok(())
    }

    /// Tells the mock to end all streams.
    fn release(&self) -> std::io::Result<()> {
        let mut socket = TcpStream::connect(self.order.mock)?;
        socket.write_all(b"POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\nrelease")?;
        socket.read(&mut [0; 16]).map(drop)
    }

    fn turn(&mut self, event: &Event, scratch: &mut [u8]) {
        let Token(n) = event.token();
        let Some(stream) = &mut self.streams[n] else { return };
        let outcome = stream.client.turn(event, &self.requests, scratch);
        if !stream.has_begun && (stream.client.response.body_bytes > 0 || outcome.is_err()) {
            stream.has_begun = true;
            self.waiting -= 1;
            self.latencies_us.push(stream.client.sent_at.elapsed().as_micros() as u64);
        }
        match outcome {
            Ok(false) => return,
            Ok(true) => self.measured.requests += 1,
            Err(fault) => self.measured.fail(fault),
        }
        self.streams[n] = None;
    }
}
