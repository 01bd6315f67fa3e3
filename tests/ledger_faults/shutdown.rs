//! A stop in full swing: every exchange is settled, and what is settled is in the file.

use crate::support::load::Load;
use crate::support::proxy::Proxy;
use crate::support::rows;
use crate::{CLIENTS, assert_nothing_lost, start, until_received, vars};

#[test]
fn with_streams_and_sessions_open() {
    for durability in ["relaxed", "settled", "journaled"] {
        let load = Load::default();
        let mut proxy = start(&load, &[("LEDGER_DURABILITY", durability), ("DRAIN_TIMEOUT", "300ms")]);
        let running = load.start(proxy.addr(), CLIENTS, 1);
        let endless = load.converse(proxy.addr(), usize::MAX);
        let mut hanging: Vec<_> = (0..5).map(|_| load.hang(proxy.addr())).collect();
        until_received(&load, 200);
        let status = proxy.terminate();
        assert!(status.success(), "{durability}: {status}\n{}", proxy.stderr());
        running.join();
        endless.join();
        for (_, client) in &mut hanging {
            assert!(client.expect_end().is_err(), "a stream that was cut, not ended");
        }
        assert!(!proxy.folder().join("usage.db-wal").exists(), "one file is left");
        let found = rows::read(&rows::reader(&proxy.database()));
        for (n, _) in hanging {
            let rows = &found[&crate::support::load::user(n)];
            assert_eq!((rows.len(), rows[0].outcome.as_str()), (1, "interrupted"), "{durability}: {rows:?}");
            assert!(!rows[0].is_left_open(), "it says what is known of it: {rows:?}");
        }
        let vars = [("LEDGER_DURABILITY", durability)];
        assert_nothing_lost(&load, Proxy::start_in(proxy.into_folder(), &crate::vars(&load.upstream.url(), &vars)));
    }
}

/// All that waits is committed before the process ends, be it more than one transaction's worth.
#[test]
fn with_records_on_their_way() {
    let load = Load::default();
    let mut proxy = start(&load, &[("LEDGER_DURABILITY", "relaxed"), ("LEDGER_WAIT", "50ms")]);
    let running = load.start(proxy.addr(), CLIENTS, 1);
    let other = rusqlite::Connection::open(proxy.database()).unwrap();
    other.busy_timeout(crate::support::DEADLINE).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    until_received(&load, 1000);
    running.stop();
    proxy.signal(rustix::process::Signal::TERM);
    proxy.wait_for_log("draining");
    other.execute_batch("ROLLBACK").unwrap();
    assert!(proxy.wait().success());
    assert_nothing_lost(&load, Proxy::start_in(proxy.into_folder(), &vars(&load.upstream.url(), &[])));
}
