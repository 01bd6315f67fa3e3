//! Two proxies on one ledger.

use crate::lost::kept;
use crate::support::client::Client;
use crate::support::load::{Load, Running};
use crate::support::proxy::Proxy;
use crate::support::rows;
use crate::support::script::Reply;
use crate::support::upstream::Upstream;
use crate::{CLIENTS, assert_exact, assert_nothing_lost, until_committed, until_in_trouble, until_received, vars};
use openai_api_proxy::ledger::append::Writer;
use openai_api_proxy::ledger::database;
use openai_api_proxy::usage::record::Record;
use std::fs;
use std::net::SocketAddr;
use std::thread;

/// A second proxy on the first one's ledger.
fn beside(first: &Proxy, target: &str, more: &[(&str, &str)]) -> Proxy {
    let path = first.database();
    Proxy::start(&[&vars(target, more)[..], &[("DATABASE_PATH", path.to_str().unwrap())]].concat())
}

fn stop(running: [Running; 2]) {
    running.into_iter().for_each(Running::stop);
}

/// Rows that both begin to fold at once.
fn preloaded(load: &Load, more: &[(&str, &str)]) -> Proxy {
    let folder = tempfile::tempdir().unwrap();
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    let mut writer = Writer::new(&conn).unwrap();
    for _ in 0..10 {
        writer.append(&vec![Record { status: 200, user: "before".into(), ..Record::default() }; 4000]).unwrap();
    }
    drop(writer);
    drop(conn);
    Proxy::start_in(folder, &vars(&load.upstream.url(), more))
}

#[test]
fn both_under_load() {
    for durability in ["relaxed", "settled", "journaled"] {
        let load = Load::default();
        let more = [("LEDGER_DURABILITY", durability)];
        let one = preloaded(&load, &more);
        let other = beside(&one, &load.upstream.url(), &more);
        let both = [load.start(one.addr(), CLIENTS, 1), load.start(other.addr(), CLIENTS, 2)];
        until_received(&load, 500);
        stop(both);
        for proxy in [&one, &other] {
            until_committed(proxy);
        }
        for proxy in [&one, &other] {
            rows::assert_sums(proxy, &rows::reader(&one.database()));
        }
        drop(other);
        assert_nothing_lost(&load, one);
    }
}

#[test]
fn one_killed_and_the_other_goes_on() {
    for durability in ["settled", "journaled"] {
        let load = Load::default();
        let (url, more) = (load.upstream.url(), [("LEDGER_DURABILITY", durability)]);
        let one = preloaded(&load, &more);
        let other = beside(&one, &url, &more);
        let both = [load.start(one.addr(), CLIENTS, 1), load.start(other.addr(), CLIENTS, 2)];
        until_received(&load, 300);
        let killed = AtKill::of(&load, other);
        until_received(&load, 300);
        stop(both);
        until_committed(&one);
        // Where a journal is kept, the next that starts finds what the dead one had open, and only that.
        let (_, held) = load.hang(one.addr());
        let next = beside(&one, &url, &more);
        for proxy in [&one, &next] {
            rows::assert_sums(proxy, &rows::reader(&one.database()));
        }
        drop(held);
        until_committed(&one);
        let compared = rows::compare(&rows::read(&rows::reader(&one.database())), &load.account);
        for found in [&compared.wrong, &compared.doubled, &compared.unseen] {
            assert!(found.is_empty(), "{durability}: {compared:#?}");
        }
        assert!(compared.missing.is_empty(), "{durability}: {compared:#?}");
        match durability {
            "journaled" => assert!(compared.unrecorded.is_empty(), "{compared:#?}"),
            _ => killed.judge(&load, &compared.unrecorded),
        }
    }
}

/// What a proxy had open when it was killed. A client that leaves early and comes back has two requests open, and one
/// whose response is cut goes on before the record is committed: so the proxy itself is asked.
struct AtKill {
    addr: SocketAddr,
    /// Requests begun before it was asked.
    begun: u64,
    /// Requests in flight then, and records not yet committed, by one look.
    open: usize,
}

impl AtKill {
    /// Asks and kills it.
    fn of(load: &Load, proxy: Proxy) -> Self {
        let (addr, begun) = (proxy.addr(), load.account.requests());
        let metrics = proxy.metrics();
        let open = ["requests_in_flight", "ledger_queue_records"].map(|name| metrics[&format!("openai_proxy_{name}")]);
        Self { addr, begun, open: open.iter().sum::<f64>() as usize }
    }

    /// Only what was asked of it is without a record; and of what had begun when it was asked, only what was open then,
    /// and what each client was just sending.
    fn judge(&self, load: &Load, unrecorded: &[u64]) {
        let others: Vec<_> = unrecorded.iter().filter(|n| !load.account.was_asked_of(**n, self.addr)).collect();
        assert!(others.is_empty(), "asked of the one that lives: {others:?}");
        let begun = unrecorded.iter().filter(|n| **n < self.begun).count();
        assert!(begun <= self.open + CLIENTS, "{begun} are unrecorded, {} were open", self.open);
    }
}

/// A response is retrieved through both, over and over: what it took counts once.
#[test]
fn counted_once_across_both() {
    const IDS: usize = 40;
    let upstream = Upstream::plain(|request| {
        let id = request.target.rsplit('/').next().unwrap();
        Reply::json(format!(
            r#"{{"id":"{id}","object":"response","status":"completed","model":"gpt-4.1-2025-04-14",
            "usage":{{"input_tokens":100,"output_tokens":10,"total_tokens":110}}}}"#
        ))
        .steps()
    });
    let url = upstream.url();
    let one = Proxy::start(&vars(&url, &[("RATE_LIMIT_RPM", "0")]));
    let other = beside(&one, &url, &[("RATE_LIMIT_RPM", "0")]);
    let ask = |addr| {
        thread::spawn(move || {
            let mut client = Client::connect(addr);
            for _ in 0..2 {
                for id in 0..IDS {
                    client.request("GET", &format!("/v1/responses/resp_{id}"), &[], b"").expect(200);
                }
            }
        })
    };
    let threads: Vec<_> = [one.addr(), other.addr()].into_iter().flat_map(|addr| [ask(addr), ask(addr)]).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let totals = &other.usage("")["totals"];
    assert_eq!((&totals["requests"], &totals["total_tokens"]), (&(8 * IDS).into(), &(110 * IDS).into()));
    assert_eq!(totals, &one.usage("")["totals"]);
    let of_both = |name: &str| one.metrics()[name] + other.metrics()[name];
    assert_eq!(of_both("openai_proxy_records_total{usage_source=\"reported\"}"), IDS as f64);
}

/// Both notice, and the last to end keeps all that both had.
#[test]
fn deleted_under_both() {
    let load = Load::default();
    let more = [("LEDGER_WAIT", "50ms"), ("DRAIN_TIMEOUT", "100ms")];
    let mut one = preloaded(&load, &more);
    let mut other = beside(&one, &load.upstream.url(), &more);
    let both = [load.start(one.addr(), CLIENTS, 1), load.start(other.addr(), CLIENTS, 2)];
    until_received(&load, 100);
    fs::remove_file(one.database()).unwrap();
    for proxy in [&one, &other] {
        until_in_trouble(proxy);
    }
    stop(both);
    assert_eq!(other.terminate().code(), Some(1));
    let kept = kept(&mut one);
    assert_exact(&load, &kept);
}
