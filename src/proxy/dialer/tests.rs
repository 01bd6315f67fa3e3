//! The dialer alone: which address is next, who waits, who wins, and what is remembered.

use super::*;

const CONNECTED: u64 = 30 * MILLISECOND;

fn up(n: u32) -> UpKey {
    UpKey::new(n, 0)
}

fn address(n: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], n))
}

fn dialer(count: u16) -> Dialer {
    let mut dialer = Dialer::new(5);
    dialer.resolved(Ok((1..=count).map(address).collect()));
    dialer
}

/// The address that a new race begins with; the race is over at once, for its client has gone.
fn first(dialer: &mut Dialer, now: u64) -> u16 {
    let (race, address) = dialer.start(now, up(99)).expect("an address");
    assert_eq!(dialer.cancel(race), [up(99)]);
    address.port()
}

#[test]
fn who_comes_before_the_addresses_waits_for_them() {
    let mut dialer = Dialer::new(5);
    assert!((0..3).all(|n| dialer.start(0, up(n)).is_none()));
    dialer.cancel_lookup(up(1));
    let why = Some("no such host".to_owned());
    assert_eq!(dialer.resolved(Err("no such host".to_owned())), (vec![up(0), up(2)], why));
    assert!(dialer.start(0, up(3)).is_none());
    assert_eq!(dialer.resolved(Ok(Vec::new())), (vec![up(3)], Some("it has no address".to_owned())));
    assert!(!dialer.is_resolved());
    assert!(dialer.start(0, up(4)).is_none());
    assert_eq!(dialer.resolved(Ok(vec![address(1)])), (vec![up(4)], None));
    assert_eq!(dialer.resolved(Err("no such host".to_owned())), (vec![], None), "what is known stays good");
    assert_eq!(first(&mut dialer, 0), 1);
}

#[test]
fn addresses_that_fail_are_followed_by_the_next_at_once() {
    let mut dialer = dialer(3);
    let (race, first) = dialer.start(0, up(0)).expect("an address");
    assert_eq!(first, address(1));
    for n in 1..3 {
        assert_eq!(dialer.failed(0, race, up(n - 1)), AfterFailure::TryNext(race));
        assert_eq!(dialer.attempt(0, race, up(n)), Some(address(n as u16 + 1)));
    }
    assert_eq!(dialer.class(race, up(2)), Some(Class::Connect), "there is no other one to try beside it");
    assert_eq!(dialer.failed(0, race, up(2)), AfterFailure::GiveUp);
    assert_eq!(dialer.attempts(), 0);
}

/// A race in which the first address is silent, and the second one is tried beside it.
fn race(dialer: &mut Dialer) -> RaceKey {
    let (race, _) = dialer.start(0, up(0)).expect("an address");
    assert_eq!(dialer.class(race, up(0)), Some(Class::ConnectDelay));
    dialer.delay_over(race, up(0));
    assert_eq!(dialer.attempt(ATTEMPT_DELAY, race, up(1)), Some(address(2)));
    assert_eq!(dialer.class(race, up(0)), Some(Class::ConnectRest), "it may still answer");
    race
}

#[test]
fn a_silent_address_is_raced_and_then_tried_last() {
    let mut dialer = dialer(2);
    let race = race(&mut dialer);
    let now = ATTEMPT_DELAY + CONNECTED;
    let loser = Loser { up: up(0), silent: Some(address(1)) };
    assert_eq!(dialer.connected(now, race, up(1)), [loser]);
    dialer.ready(race);
    assert_eq!(dialer.attempts(), 0);
    assert_eq!(first(&mut dialer, now), 2, "nobody waits for it any more");
    dialer.resolved(Ok(vec![address(1), address(3), address(2)]));
    assert_eq!(first(&mut dialer, now + AVOIDED_FOR - 1), 3, "whatever a lookup says");
    assert_eq!(first(&mut dialer, now + AVOIDED_FOR), 1, "for a while");
}

#[test]
fn a_silent_address_may_win_after_all() {
    let mut dialer = dialer(2);
    let race = race(&mut dialer);
    let loser = Loser { up: up(1), silent: None };
    assert_eq!(dialer.connected(ATTEMPT_DELAY + CONNECTED, race, up(0)), [loser]);
    dialer.ready(race);
    assert_eq!(first(&mut dialer, SECOND), 1, "the other one had no time to answer, and nothing is said against it");
}

#[test]
fn a_race_goes_on_with_those_that_have_not_failed() {
    let mut dialer = dialer(3);
    let race = race(&mut dialer);
    assert_eq!(dialer.failed(SECOND, race, up(0)), AfterFailure::Others(up(1)), "whose delay is running");
    dialer.delay_over(race, up(1));
    assert_eq!(dialer.attempt(SECOND, race, up(2)), Some(address(3)));
    assert_eq!(dialer.failed(SECOND, race, up(2)), AfterFailure::Others(up(1)));
    assert_eq!(dialer.failed(SECOND, race, up(1)), AfterFailure::GiveUp);
    assert_eq!(dialer.attempts(), 0);
}

/// The one that won breaks off its handshake: those that had lost are all that is left.
#[test]
fn whoever_lost_is_tried_again_where_the_winner_comes_to_nothing() {
    let mut dialer = dialer(2);
    let race = race(&mut dialer);
    dialer.connected(ATTEMPT_DELAY, race, up(1));
    assert_eq!(dialer.failed(SECOND, race, up(1)), AfterFailure::TryNext(race));
    assert_eq!(dialer.attempt(SECOND, race, up(2)), Some(address(1)));
    assert_eq!(dialer.failed(SECOND, race, up(2)), AfterFailure::GiveUp);
}

#[test]
fn of_those_that_failed_the_one_of_longest_ago_is_first_and_success_clears_it() {
    let mut dialer = dialer(2);
    let (race, _) = dialer.start(0, up(0)).expect("an address");
    dialer.failed(SECOND, race, up(0));
    dialer.attempt(SECOND, race, up(1));
    dialer.failed(2 * SECOND, race, up(1));
    assert_eq!(first(&mut dialer, 3 * SECOND), 1);
    let (race, _) = dialer.start(3 * SECOND, up(2)).expect("an address");
    dialer.failed(3 * SECOND, race, up(2));
    assert_eq!(dialer.attempt(3 * SECOND, race, up(3)), Some(address(2)));
    dialer.connected(3 * SECOND, race, up(3));
    dialer.ready(race);
    assert_eq!(first(&mut dialer, 3 * SECOND), 2);
    let (race, _) = dialer.start(4 * SECOND, up(4)).expect("an address");
    dialer.failed(4 * SECOND, race, up(4));
    assert_eq!(first(&mut dialer, 4 * SECOND), 1, "both have failed again, this one before");
}

#[test]
fn so_many_race_and_no_more() {
    let mut dialer = dialer(8);
    let (race, _) = dialer.start(0, up(0)).expect("an address");
    let mut racing = 1;
    while dialer.class(race, up(racing - 1)) == Some(Class::ConnectDelay) {
        dialer.delay_over(race, up(racing - 1));
        dialer.attempt(0, race, up(racing)).expect("an address");
        racing += 1;
    }
    assert_eq!((racing as usize, dialer.attempts()), (ATTEMPTS_MAX, ATTEMPTS_MAX));
    assert_eq!(dialer.failed(0, race, up(0)), AfterFailure::TryNext(race), "there is room for another one");
    assert_eq!(dialer.attempt(0, race, up(9)), Some(address(4)));
    assert_eq!(dialer.attempts(), ATTEMPTS_MAX);
    assert_eq!(dialer.cancel(race), [up(1), up(2), up(9)]);
    assert_eq!(dialer.attempts(), 0);
}
