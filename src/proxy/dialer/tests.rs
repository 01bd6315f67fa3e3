//! The dialer alone: which address is next, and who waits.

use super::*;

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

#[test]
fn who_comes_before_the_addresses_waits_for_them() {
    let mut dialer = Dialer::new(5);
    assert!((0..3).all(|n| dialer.start(up(n)).is_none()));
    dialer.cancel_lookup(up(1));
    let why = Some("no such host".to_owned());
    assert_eq!(dialer.resolved(Err("no such host".to_owned())), (vec![up(0), up(2)], why));
    assert!(dialer.start(up(3)).is_none());
    assert_eq!(dialer.resolved(Ok(Vec::new())), (vec![up(3)], Some("it has no address".to_owned())));
    assert!(!dialer.is_resolved());
    assert!(dialer.start(up(4)).is_none());
    assert_eq!(dialer.resolved(Ok(vec![address(1)])), (vec![up(4)], None));
    assert_eq!(dialer.resolved(Err("no such host".to_owned())), (vec![], None), "what is known stays good");
    assert_eq!(dialer.start(up(5)).map(|(_, address)| address), Some(address(1)));
}

#[test]
fn addresses_are_tried_in_their_order_and_once() {
    let mut dialer = dialer(3);
    let (race, first) = dialer.start(up(0)).expect("an address");
    assert_eq!(first, address(1));
    for n in 1..3 {
        assert_eq!(dialer.failed(race, up(n - 1)), AfterFailure::TryNext);
        assert_eq!(dialer.attempt(race, up(n)), Some(address(n as u16 + 1)));
    }
    assert_eq!(dialer.failed(race, up(2)), AfterFailure::GiveUp);
    assert!(dialer.races.is_empty());
}
