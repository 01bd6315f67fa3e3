//! The resolver with scripted lookups: what is sent, what is kept back, and that requests are coalesced. Each step
//! waits for the one before it, never for a time.

use super::*;
use std::sync::mpsc::{self, Sender};

/// A resolver whose lookups wait for the test.
struct Scripted {
    resolver: Resolver,
    /// One message for each lookup that began.
    began: Receiver<()>,
    results: Sender<Lookup>,
    events: EventSender,
    woken: Receiver<()>,
}

/// Every lookup follows the one before at once, or only when asked for.
fn schedule(background: bool) -> Schedule {
    let zero = Duration::ZERO;
    Schedule { interval_min: zero, success: background.then_some(zero), failure: Backoff::new(zero, zero) }
}

fn mailbox() -> (EventSender, Receiver<()>) {
    let (wake, woken) = mpsc::channel();
    // The test may have ended while the thread still has something to say.
    let events = EventSender::new(move || {
        let _ = wake.send(());
    });
    (events, woken)
}

impl Scripted {
    fn start(background: bool) -> Self {
        let (events, woken) = mailbox();
        let (begin, began) = mpsc::channel();
        let (results, next) = mpsc::channel::<Lookup>();
        let lookup = move || {
            let _ = begin.send(());
            next.recv().unwrap_or_else(|_| Err("the test has ended".into()))
        };
        let resolver = Resolver::start_with(lookup, schedule(background), events.clone()).unwrap();
        Self { resolver, began, results, events, woken }
    }

    /// Answers the lookup under way.
    fn answer(&self, result: &Lookup) {
        self.began.recv().unwrap();
        self.results.send(result.clone()).unwrap();
    }

    /// All that was sent before the lookup that begins now.
    fn sent_before_next_lookup(&self) -> Vec<Lookup> {
        self.began.recv().unwrap();
        resolved(&self.events)
    }
}

fn resolved(events: &EventSender) -> Vec<Lookup> {
    let mut done = Vec::new();
    events.take(&mut done);
    let addresses = |done| match done {
        WorkerEvent::Resolved { addresses } => addresses,
        other => panic!("{other:?}"),
    };
    done.into_iter().map(addresses).collect()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ok(text: &str) -> Lookup {
    Ok(vec![address(text)])
}

#[test]
fn in_the_background_only_news_is_sent() {
    let scripted = Scripted::start(true);
    let (a, b, failed) = (ok("192.0.2.1:443"), ok("192.0.2.2:443"), Err("no network".to_owned()));
    for result in [&a, &a, &b, &failed, &b, &failed, &a] {
        scripted.answer(result);
    }
    assert_eq!(scripted.sent_before_next_lookup(), [a.clone(), b, a]);
}

#[test]
fn a_failure_is_sent_when_nothing_better_is_known_and_success_after_it() {
    let scripted = Scripted::start(true);
    let (a, failed) = (ok("192.0.2.1:443"), Err("no network".to_owned()));
    for result in [&failed, &failed, &a, &a] {
        scripted.answer(result);
    }
    assert_eq!(scripted.sent_before_next_lookup(), [failed, a]);
}

#[test]
fn requests_during_a_lookup_are_answered_by_one_more() {
    let scripted = Scripted::start(false);
    let a = ok("192.0.2.1:443");
    scripted.began.recv().unwrap();
    for _ in 0..3 {
        scripted.resolver.refresh();
    }
    scripted.results.send(a.clone()).unwrap();
    assert_eq!(scripted.sent_before_next_lookup(), std::slice::from_ref(&a));
    assert!(scripted.resolver.asks.try_send(()).is_ok(), "this lookup is for all three");
    scripted.results.send(a.clone()).unwrap();
    // The same addresses as before: sent because they were asked for.
    let mut sent = Vec::new();
    while sent.is_empty() {
        scripted.woken.recv().unwrap();
        sent = resolved(&scripted.events);
    }
    assert_eq!(sent, [a]);
}

#[test]
fn a_failure_that_was_asked_for_is_sent() {
    let scripted = Scripted::start(true);
    let (a, failed) = (ok("192.0.2.1:443"), Err("no network".to_owned()));
    scripted.answer(&a);
    scripted.began.recv().unwrap();
    scripted.resolver.refresh();
    scripted.results.send(a.clone()).unwrap();
    scripted.answer(&failed);
    assert_eq!(scripted.sent_before_next_lookup(), [a, failed]);
}

#[test]
fn dropping_it_ends_the_thread() {
    let Scripted { resolver, began, results, .. } = Scripted::start(true);
    began.recv().unwrap();
    drop(resolver);
    results.send(ok("192.0.2.1:443")).unwrap();
    assert!(began.recv().is_err(), "the lookup's own end of the channel is gone with its thread");
}

#[test]
fn an_address_is_its_own_answer() {
    let (events, woken) = mailbox();
    let resolver = Resolver::start("::1", 8443, events.clone()).unwrap();
    woken.recv().unwrap();
    assert_eq!(resolved(&events), [ok("[::1]:8443")]);
    drop(resolver);
}

#[test]
fn a_name_that_cannot_be_asked_for_is_an_error_that_names_it() {
    let (events, woken) = mailbox();
    // No name holds a NUL: the system refuses it without asking any server.
    let _resolver = Resolver::start("no\0name", 1, events.clone()).unwrap();
    woken.recv().unwrap();
    let [Err(why)] = &resolved(&events)[..] else { panic!("one failure") };
    assert!(why.starts_with("cannot resolve \"no\\0name\": "), "{why}");
}

#[test]
fn pauses_grow_while_a_name_cannot_be_resolved() {
    let mut schedule = Schedule::new(Some(REFRESH_EVERY));
    let results = [true, false, false, false, false, false, false, false, true, false];
    let pauses = results.map(|is_success| schedule.pause(is_success).map(|pause| pause.as_secs()));
    assert_eq!(pauses, [60, 1, 2, 4, 8, 16, 30, 30, 60, 1].map(Some));
    assert_eq!(Schedule::new(None).pause(true), None);
}

#[test]
fn families_take_turns() {
    let list = |texts: &[&str]| texts.iter().map(|text| address(text)).collect::<Vec<_>>();
    let found = list(&["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "192.0.2.1:1", "192.0.2.1:1"]);
    let expected = list(&["[2001:db8::1]:1", "192.0.2.1:1", "[2001:db8::2]:1", "[2001:db8::3]:1"]);
    assert_eq!(interleave(found), expected);
    let found = list(&["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1"]);
    assert_eq!(interleave(found), list(&["192.0.2.1:1", "[2001:db8::1]:1", "192.0.2.2:1"]));
    assert_eq!(interleave(Vec::new()), []);
}
