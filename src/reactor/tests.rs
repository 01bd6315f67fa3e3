//! A turn over no network at all: what the loop itself remembers between two turns.

use super::{Reactor, Turn};
use crate::base::clock::Now;
use crate::base::work::LongWork;
use crate::io::{Event, Io};
use crate::limit::budget::{Period, SpendSums};
use crate::limit::overrides::Limits;
use crate::metrics::{LabelLimits, Metrics};
use crate::price::PriceTable;
use crate::proxy::{Proxy, Settings};
use crate::usage::record::Record;
use crate::worker::query::Job;
use crate::worker::{WorkerEvent, Workers};
use std::cell::RefCell;
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::rc::Rc;

/// Nobody connects, and the time stands still.
struct NoNetwork;

impl Io for NoNetwork {
    type Socket = ();

    fn now(&mut self) -> Now {
        Now::default()
    }

    fn poll(&mut self, _: &mut Vec<Event>, _: Option<u64>) -> Result<()> {
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        Err(Error::from(ErrorKind::WouldBlock))
    }

    fn stop_accepting(&mut self) {}

    fn register(&mut self, (): &mut (), _: u64) -> Result<()> {
        Ok(())
    }

    fn connect(&mut self, _: SocketAddr) -> Result<()> {
        Err(Error::from(ErrorKind::ConnectionRefused))
    }

    fn is_connected(&mut self, (): &mut ()) -> Result<bool> {
        Ok(false)
    }

    fn read(&mut self, (): &mut (), _: &mut [u8]) -> Result<usize> {
        Err(Error::from(ErrorKind::WouldBlock))
    }

    fn write(&mut self, (): &mut (), _: &[u8]) -> Result<usize> {
        Err(Error::from(ErrorKind::WouldBlock))
    }

    fn shutdown(&mut self, (): &mut ()) {}

    fn close(&mut self, (): ()) {}
}

/// What the ledger was asked to sum up, and what it has answered.
#[derive(Clone, Default)]
struct Sums(Rc<RefCell<(Vec<Period>, Vec<WorkerEvent>)>>);

impl Sums {
    fn asked(&self) -> usize {
        self.0.borrow().0.len()
    }
}

impl Workers for Sums {
    fn submit(&mut self, _: Vec<Record>) {}

    fn ask(&mut self, _: Job) -> bool {
        false
    }

    fn work(&mut self, _: LongWork) {}

    fn sum_spend_sums(&mut self, period: Period) {
        self.0.borrow_mut().0.push(period);
    }

    fn resolve(&mut self) {}

    fn collect(&mut self, into: &mut Vec<WorkerEvent>) {
        into.append(&mut self.0.borrow_mut().1);
    }
}

fn with_a_budget() -> Proxy {
    let limits = Limits { day_nano_usd: Some(1), ..Limits::default() };
    let settings = Settings { limits, ..Settings::default() };
    Proxy::new(settings, PriceTable::built_in(), Metrics::new(LabelLimits::default(), 0), Now::default())
}

/// Else its users would be refused for as long as the day lasts.
#[test]
fn a_sum_of_no_use_is_asked_for_again() {
    let sums = Sums::default();
    let mut reactor = Reactor::new(NoNetwork, sums.clone(), with_a_budget(), 0);
    for _ in 0..3 {
        assert_eq!(reactor.turn().unwrap(), Turn::Continue);
        assert_eq!(sums.asked(), 1, "it is under way");
    }
    let present = sums.0.borrow().0[0];
    for (period, asked) in [(Period { day: present.day + 1, ..present }, 2), (present, 2)] {
        let sum = SpendSums { period, ..SpendSums::default() };
        sums.0.borrow_mut().1.push(WorkerEvent::SpendSums(sum));
        for _ in 0..2 {
            reactor.turn().unwrap();
            assert_eq!(sums.asked(), asked, "{period:?}");
        }
    }
}
