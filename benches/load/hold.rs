//! The clients of a hold: many streams, opened one after another within a ramp, all open at once, each with an event
//! now and then.
//!
//! In: an [`Order`] as arguments. Out: one line, a [`Measured`], with the most memory that was seen. Every stream is
//! read and checked to its end; that they were not all open at once is an error. Never: a request to anything but
//! loopback.

use crate::client::{Client, Requests};
use crate::generator::ERRORS_MAX;
use crate::measured::Measured;
use crate::process;
use crate::work::{Order, RAMP_A_SECOND};
use mio::event::Event;
use mio::{Events, Poll, Token};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the last stream may take beyond its events.
const PATIENCE: Duration = Duration::from_secs(30);

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
    requests: Requests,
    poll: Poll,
    /// `None` once it has ended.
    streams: Vec<Option<Stream>>,
    /// Streams that have had their first event and not ended, now and at most.
    open: usize,
    open_max: usize,
    measured: Measured,
    latencies_us: Vec<u64>,
}

impl Holder {
    fn new(order: Order) -> Result<Self, String> {
        Ok(Self {
            requests: Requests::new(&order),
            poll: Poll::new().map_err(|e| e.to_string())?,
            streams: Vec::new(),
            open: 0,
            open_max: 0,
            measured: Measured { rss_before_kib: process::rss_kib(&order.pids), ..Measured::default() },
            latencies_us: Vec::new(),
            order,
        })
    }

    fn run(mut self) -> Result<Measured, String> {
        let wanted = self.order.load.connections;
        let lasts = Duration::from_millis(self.order.load.pace_ms * self.order.load.events as u64);
        let ramp = Duration::from_secs_f64(wanted as f64 / RAMP_A_SECOND as f64);
        let (cpu_before, start) = (process::cpu_ns(&self.order.pids), Instant::now());
        let (mut events, mut scratch) = (Events::with_capacity(1024), vec![0; 64 * 1024]);
        let mut look_at = start;
        while self.measured.requests + self.measured.errors < wanted as u64 && self.measured.errors < ERRORS_MAX {
            if start.elapsed() > ramp + lasts + PATIENCE {
                self.measured.fail("streams that do not end".into());
                break;
            }
            self.open_those_due(start)?;
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
        if self.open_max < wanted {
            self.measured.fail(format!("no more than {} streams were open at once", self.open_max));
        }
        self.measured.seconds = start.elapsed().as_secs_f64();
        let cpu_after = process::cpu_ns(&self.order.pids);
        self.measured.cpu_ns = cpu_after.zip(cpu_before).map(|(after, before)| after - before);
        self.measured.set_latency(self.latencies_us);
        Ok(self.measured)
    }

    /// Opens as many as the ramp wants by now.
    fn open_those_due(&mut self, start: Instant) -> Result<(), String> {
        while self.streams.len() < self.order.load.connections
            && (self.streams.len() as f64) < start.elapsed().as_secs_f64() * RAMP_A_SECOND as f64
        {
            let token = Token(self.streams.len());
            let mut client = Client::connect(self.order.address, self.poll.registry(), token)?;
            client.send(&mut self.requests);
            self.streams.push(Some(Stream { client, has_begun: false }));
        }
        Ok(())
    }

    fn turn(&mut self, event: &Event, scratch: &mut [u8]) {
        let Token(n) = event.token();
        let Some(stream) = &mut self.streams[n] else { return };
        let outcome = stream.client.turn(event, &self.requests, scratch);
        if !stream.has_begun && stream.client.response.body_bytes > 0 {
            stream.has_begun = true;
            self.open += 1;
            self.open_max = self.open_max.max(self.open);
            self.latencies_us.push(stream.client.sent_at.elapsed().as_micros() as u64);
        }
        if let Ok(false) = outcome {
            return;
        }
        self.open -= usize::from(stream.has_begun);
        self.streams[n] = None;
        match outcome {
            Ok(_) => self.measured.requests += 1,
            Err(fault) => self.measured.fail(fault),
        }
    }
}
