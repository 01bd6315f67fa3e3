//! `/usage`, the page and the commands over the whole fleet: the same numbers as one ledger with all of it would give; and
//! where the database is away, the node's own, marked as such.

use super::books::{self, Nodes, wait_until_shipped};
use super::joining::history;
use super::support::client::{get, post_json};
use super::support::postgres::Postgres;
use super::support::proxy::{Proxy, run_with};
use openai_api_proxy::base::percent::encode;
use openai_api_proxy::ledger::answer::report;
use openai_api_proxy::ledger::append::Writer;
use openai_api_proxy::ledger::database;
use openai_api_proxy::ledger::fold::fold;
use openai_api_proxy::local::usage_report::{Format, UsageQuery, to_json};
use openai_api_proxy::usage::record::Record;
use rusqlite::Connection;
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

fn ledger(rows: &[Record]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), rows);
    folder
}

fn write(folder: &Path, rows: &[Record]) -> Connection {
    let conn = database::open(&folder.join("usage.db")).unwrap();
    Writer::new(&conn).unwrap().append(rows).unwrap();
    while !fold(&conn, 4096).unwrap().is_folded() {}
    conn
}

/// Questions of all kinds, with ranges that cut hours.
fn questions(from: u64) -> Vec<String> {
    let second = |days: f64| from / 1_000_000_000 + (days * 86_400.0) as u64 + 1234;
    let ranges = [
        String::new(),
        format!("from={}", second(3.0)),
        format!("to={}", second(50.3)),
        format!("from={}&to={}", second(10.1), second(40.7)),
        format!("from={}&to={}", second(10.1), second(10.1) + 600),
    ];
    let filters =
        ["", "user_id=taro", "team=red", "model=gpt-4o", "user_id=nobody", "user_id=%E3%82%B8%E3%83%AD%E3%82%A6"];
    let groups = ["", "hour", "day", "month", "model", "user", "team", "endpoint"];
    let mut all = Vec::new();
    for range in &ranges {
        for filter in filters {
            for group in groups {
                let group = if group.is_empty() { String::new() } else { format!("group_by={group}") };
                all.push(format!("{range}&{filter}&{group}"));
            }
        }
    }
    all
}

/// Without what one ledger has otherwise: numbers of records, and what an answer is marked with.
fn comparable(mut answer: Value) -> Value {
    let map = answer.as_object_mut().unwrap();
    map.remove("fleet");
    map.remove("next_cursor");
    let mut rows: Vec<Value> = map.remove("data").unwrap().as_array().unwrap().clone();
    for row in &mut rows {
        row.as_object_mut().unwrap().remove("id");
    }
    rows.sort_by_key(|row| row.to_string());
    if rows.len() < 200 {
        map.insert("data".to_owned(), rows.into());
    }
    answer
}

#[test]
fn the_answers_of_a_fleet_are_those_of_one_ledger_with_all_of_it() {
    let Some(server) = Postgres::start() else { return };
    let target = books::target();
    let nodes = Nodes::new(&target, &server.url());
    let rows = history();
    let part = |of: usize| rows.iter().skip(of).step_by(3).cloned().collect::<Vec<_>>();
    let proxies: Vec<Proxy> =
        ["a", "b", "c"].iter().zip(0..).map(|(name, of)| nodes.start_in(ledger(&part(of)), name)).collect();
    wait_until_shipped(&proxies.iter().collect::<Vec<_>>());
    let whole = tempfile::tempdir().unwrap();
    let conn = write(whole.path(), &rows);
    for question in questions(rows[0].started_at) {
        let query = UsageQuery::parse(&format!("{question}&limit=200"), 0, Format::Json);
        let Ok(UsageQuery { query, .. }) = query else { continue };
        let expected: Value = serde_json::from_slice(&to_json(&report(&conn, query).unwrap())).unwrap();
        let answer = get(proxies[0].addr(), &format!("/usage?{question}&limit=200")).expect(200).json();
        assert_eq!(answer["fleet"]["nodes"], 3, "{question}");
        assert_eq!(comparable(answer), comparable(expected), "{question}");
    }
    // Pages of history are all of it, once.
    let (mut cursor, mut seen) = (String::new(), std::collections::BTreeSet::new());
    loop {
        let page = get(proxies[1].addr(), &format!("/usage?limit=1000{cursor}")).expect(200).json();
        for row in page["data"].as_array().unwrap() {
            assert!(seen.insert(row["response_id"].as_str().unwrap().to_owned()));
        }
        match page["next_cursor"].as_u64() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), rows.len());
    // By node, and of one.
    let by_node = get(proxies[2].addr(), "/usage?group_by=node").expect(200).json();
    for bucket in by_node["buckets"].as_array().unwrap() {
        let name = bucket["node"].as_str().unwrap();
        let of_one = get(proxies[0].addr(), &format!("/usage?node={}&limit=1", encode(name))).expect(200).json();
        assert_eq!(of_one["totals"]["total_tokens"], bucket["total_tokens"]);
        let of = ["a", "b", "c"].iter().position(|node| *node == name).unwrap();
        let tokens: u64 = part(of).iter().map(|row| row.usage.total_tokens).sum();
        assert_eq!(bucket["total_tokens"], tokens);
    }
    assert_eq!(by_node["buckets"].as_array().unwrap().len(), 3);
}

#[test]
fn where_the_fleet_is_away_a_node_tells_its_own_and_says_so() {
    let Some(mut server) = Postgres::start() else { return };
    let target = books::target();
    let nodes = Nodes::new(&target, &server.url());
    let (a, b) = (nodes.start("a"), nodes.start("b"));
    let ask = |proxy: &Proxy| {
        post_json(proxy.addr(), "/v1/chat/completions", &[], r#"{"model":"gpt-4o","messages":[]}"#).expect(200);
    };
    ask(&a);
    ask(&b);
    ask(&b);
    wait_until_shipped(&[&a, &b]);
    let usage = |proxy: &Proxy| proxy.usage("limit=10");
    assert_eq!((usage(&a)["totals"]["requests"].as_u64(), usage(&a)["fleet"]["nodes"].as_u64()), (Some(3), Some(2)));
    let text = get(a.addr(), "/usage?format=text").expect(200).text();
    assert!(text.contains("A fleet of 2 nodes, complete to"), "{text}");
    let page = get(a.addr(), "/dashboard").expect(200).text();
    assert!(page.contains("Nodes of the fleet: 2"), "{page}");

    // Nobody is told that a fleet has used no keys.
    get(a.addr(), "/usage?group_by=key").expect_proxy_error(400, "bad_request");
    let vars = nodes.vars("a");
    let (code, out, err) = run_with(a.folder(), &["usage", "--by", "key"], &vars);
    assert!(code == Some(1) && out.is_empty() && err.contains("--by: sums by key are not kept"), "{out}{err}");
    let (code, out, _) = run_with(a.folder(), &["usage", "--by", "node"], &vars);
    assert!(code == Some(0) && out.contains("NODE") && out.contains("A fleet of 2 nodes"), "{out}");
    let (code, out, err) = run_with(a.folder(), &["fleet", "status"], &vars);
    assert!(code == Some(0) && out.matches("serving").count() == 2, "{out}{err}");
    let (code, out, _) = run_with(a.folder(), &["check"], &vars);
    assert!(out.contains("fleet") && out.contains("its schema is version 3"), "{code:?} {out}");
    let (code, _, err) = run_with(a.folder(), &["fleet", "forget", "b"], &vars);
    assert!(code == Some(1) && err.contains("lives: stop it first"), "{err}");
    let folder = b.into_folder();
    server.admin("fleet").batch("UPDATE oap_processes SET seen = seen - interval '1 hour'").unwrap();
    super::support::until("a says that it lives", || usage(&a)["fleet"]["nodes"] == 1);
    let (code, out, err) = run_with(folder.path(), &["fleet", "forget", "b"], &vars);
    assert!(code == Some(0) && out.contains("forgotten"), "{out}{err}");
    let (_, out, _) = run_with(folder.path(), &["fleet", "status", "--format", "json"], &vars);
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status["nodes"][1]["state"], "forgotten");

    server.stop_immediately();
    a.wait_for_log("fleet is out of reach");
    let own = usage(&a);
    assert_eq!((own["totals"]["requests"].as_u64(), own["scope"].as_str()), (Some(1), Some("node")));
    assert_eq!(own.get("fleet"), None);
    get(a.addr(), "/usage?group_by=node").expect_proxy_error(503, "ledger_unavailable");
    get(a.addr(), "/usage?group_by=key").expect_proxy_error(400, "bad_request");
    let text = get(a.addr(), "/usage?format=text").expect(200).text();
    assert!(text.contains("This node only: the fleet is out of reach."), "{text}");
    assert!(get(a.addr(), "/dashboard").expect(200).text().contains("This node only"));
    let (code, out, err) = run_with(a.folder(), &["usage"], &vars);
    assert!(code == Some(0) && out.contains("This node only") && err.contains("out of reach"), "{out}{err}");
    let (code, out, _) = run_with(a.folder(), &["check"], &vars);
    assert!(code == Some(1) && out.contains("Connection refused"), "{out}");
    server.restart();
    super::support::until("the fleet answers", || usage(&a)["fleet"]["nodes"] == 1);

    let alone = Proxy::start(&[]);
    get(alone.addr(), "/usage?node=a").expect_proxy_error(400, "bad_request");
    assert_eq!(alone.usage("").get("scope"), None);
}
