//! Whatever is wrong with the fleet is told clearly, and costs nobody an answer or a record.

use super::books::{self, Nodes, lag_rows, wait_until_shipped};
use super::support::client::{get, post_json};
use super::support::postgres::{PASSWORD_IN_URL, Postgres};
use super::support::proxy::Proxy;
use super::support::until;

fn ask(proxy: &Proxy) {
    post_json(proxy.addr(), "/v1/chat/completions", &[], r#"{"model":"gpt-4o","messages":[]}"#).expect(200);
}

/// What the log says of a fleet that is not reached; the proxy serves meanwhile, keeps all, and says that it is degraded.
#[track_caller]
fn told(nodes: &Nodes, url: &str) -> String {
    let proxy = Proxy::start(&[&nodes.vars("x")[..], &[("FLEET_URL", url)]].concat());
    let line = proxy.wait_for_log("fleet is out of reach");
    ask(&proxy);
    until("it says so", || get(proxy.addr(), "/readyz").expect(200).text().starts_with("degraded"));
    until("the row waits", || lag_rows(&proxy) == 1.0);
    assert_eq!(proxy.metrics()["openai_proxy_fleet_up"], 0.0);
    assert!(!proxy.stderr().contains("wörd") && !proxy.stderr().contains(PASSWORD_IN_URL));
    line
}

#[test]
fn each_trouble_is_told_and_nothing_is_lost() {
    let Some(server) = Postgres::start() else { return };
    let target = books::target();
    let nodes = Nodes::new(&target, &server.url());
    let mut admin = server.admin("postgres");
    for database in ["others", "newer", "rightless"] {
        admin.batch(&format!("CREATE DATABASE {database}")).unwrap();
    }
    admin.batch("ALTER DATABASE newer OWNER TO proxy; ALTER DATABASE others OWNER TO proxy").unwrap();
    server.admin("others").batch("CREATE TABLE oap_meta (x int); GRANT SELECT ON oap_meta TO proxy").unwrap();
    let newer = server.url_of("proxy", "newer");
    drop(Proxy::start(&[&nodes.vars("x")[..], &[("FLEET_URL", &newer)]].concat()).wait_for_log("fleet is reached"));
    server.admin("newer").batch("UPDATE oap_meta SET version = 99, oldest = 98").unwrap();
    let url = server.url();
    for (url, part) in [
        (url.replace(PASSWORD_IN_URL, "other"), "password authentication failed"),
        (url.replace("localhost", "127.0.0.1"), "certificate is refused"),
        (server.url_of("proxy", "none"), "does not exist"),
        (server.url_of("proxy", "others"), "not this application's"),
        (newer, "schema is version 99"),
        (server.url_of("proxy", "rightless"), "GRANT CREATE"),
    ] {
        let line = told(&nodes, &url);
        assert!(line.contains(part), "{line}");
    }
    admin.batch("ALTER DATABASE fleet SET default_transaction_read_only = on").unwrap();
    assert!(told(&nodes, &url).contains("only reads"));
}

#[test]
fn a_copied_ledger_is_refused_while_its_twin_lives() {
    let Some(server) = Postgres::start() else { return };
    let target = books::target();
    let nodes = Nodes::new(&target, &server.url());
    let mut a = nodes.start("a");
    ask(&a);
    wait_until_shipped(&[&a]);
    let copy = tempfile::tempdir().unwrap();
    rusqlite::Connection::open(a.database())
        .unwrap()
        .execute("VACUUM INTO ?", [copy.path().join("usage.db").to_str().unwrap()])
        .unwrap();
    let twin = nodes.start_in(copy, "twin");
    let line = twin.wait_for_log("fleet is out of reach");
    assert!(line.contains("the ledger file was copied"), "{line}");
    // The first goes on, and where it ends the copy has an older part of it: that is no place to go on from.
    ask(&a);
    wait_until_shipped(&[&a]);
    assert!(a.terminate().success());
    let line = twin.wait_for_log("an older copy");
    assert!(line.contains("another DATABASE_PATH"), "{line}");
}
