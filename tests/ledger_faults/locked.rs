//! Another process has the ledger locked.

use crate::support::load::Load;
use crate::{CLIENTS, assert_nothing_lost, lines, start, until, until_in_trouble, until_received, until_well};
use rusqlite::Connection;

#[test]
fn for_longer_than_is_waited_for() {
    let load = Load::default();
    let proxy = start(&load, &[("LEDGER_WAIT", "50ms")]);
    let running = load.start(proxy.addr(), CLIENTS, 1);
    until_received(&load, 100);
    for time in 1..=2 {
        let other = Connection::open(proxy.database()).unwrap();
        other.busy_timeout(crate::support::DEADLINE).unwrap();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        assert!(until_in_trouble(&proxy).contains("locked"));
        // Who asked in the meantime has had an answer, and its record waits.
        until_received(&load, 10);
        assert!(proxy.metrics()["openai_proxy_ledger_released_uncommitted_total"] > 0.0);
        assert!(proxy.metrics()["openai_proxy_ledger_queue_records"] > 0.0);
        other.execute_batch("ROLLBACK").unwrap();
        until_well(&proxy);
        until("it is told", || lines(&proxy, "ledger commits again") == time);
        assert_eq!(lines(&proxy, "ledger cannot commit"), time);
    }
    until_received(&load, 100);
    running.stop();
    assert_nothing_lost(&load, proxy);
}
