//! Limits of a fleet: of a crowd at three nodes at once exactly as many pass as one node would let pass, at each level
//! and by each limit; what a node held that was killed, others have; and what an outage means.

use super::books;
use super::support::client::{Client, Response, post_json, request};
use super::support::gate::Held;
use super::support::postgres::Postgres;
use super::support::proxy::{Proxy, done};
use super::support::until;
use openai_api_proxy::fleet::membership::{Membership, Node};
use openai_api_proxy::fleet::roster::{self, Forgotten};
use openai_api_proxy::fleet::{leases, schema};
use openai_api_proxy::limit::lease::{Ask, Kind, Terms};
use serde_json::json;
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
/// Requests at once, at all nodes together.
const CROWD: usize = 600;
const NODES: [&str; 3] = ["a", "b", "c"];
const JSON: (&str, &str) = ("content-type", "application/json");

/// Three nodes that have joined, each with these limits and variables.
fn nodes(url: &str, target: &str, limits: &str, vars: &[(&str, &str)]) -> Vec<Proxy> {
    let start = |name| {
        let folder = tempfile::tempdir().unwrap();
        done(folder.path(), "users set u --team x");
        if !limits.is_empty() {
            done(folder.path(), &format!("limits set {limits}"));
        }
        let own = [("PROXY_TARGET", target), ("FLEET_URL", url), ("FLEET_NODE", name), ("RATE_LIMIT_RPM", "0")];
        Proxy::start_in(folder, &[&own, vars].concat())
    };
    let nodes: Vec<Proxy> = NODES.into_iter().map(start).collect();
    let knows_all = |node: &Proxy| {
        let metrics = node.metrics();
        metrics["openai_proxy_fleet_up"] == 1.0 && metrics["openai_proxy_fleet_nodes"] >= 3.0
    };
    until("all know of all", || nodes.iter().all(knows_all));
    nodes
}

fn body(max_tokens: u64) -> String {
    json!({"model": "gpt-4o-mini", "max_tokens": max_tokens}).to_string()
}

fn ask(node: &Proxy) -> Response {
    post_json(node.addr(), CHAT, &[("x-user-id", "u")], &body(10))
}

/// So many requests of one user, in turn at each node; none of them is answered yet.
fn crowd(nodes: &[Proxy], count: usize, max_tokens: u64) -> Vec<Client> {
    let body = body(max_tokens);
    let send = |n: usize| {
        let mut client = Client::connect(nodes[n % nodes.len()].addr());
        client.send_request("POST", CHAT, &[("x-user-id", "u"), JSON], body.as_bytes());
        client
    };
    (0..count).map(send).collect()
}

/// Refusals by a limit, at all nodes.
fn refusals(nodes: &[Proxy], limit: &str) -> usize {
    let is_one = |sample: &str| {
        sample.starts_with("openai_proxy_rate_limited_total") && sample.contains(&format!("limit=\"{limit}\""))
    };
    let of = |node: &Proxy| {
        let metrics = node.metrics();
        metrics.iter().filter(|(sample, _)| is_one(sample)).map(|(_, count)| *count as usize).sum::<usize>()
    };
    nodes.iter().map(of).sum()
}

/// At a level, one limit after another: as many pass as it allows, and all others are refused. Those of teams behind a
/// pooler that gives each transaction another session.
fn exactly_at(level: &str) {
    let Some(server) = Postgres::start() else { return };
    let Some(pooler) = server.bouncer("transaction") else { return };
    let url = if level == "team" { pooler.url.clone() } else { server.url() };
    // gpt-4o-mini: three tokens in at 150 nano-dollars and 1,000 out at 600 are 600,450.
    for (limit, set, max_tokens, allowed) in [
        ("requests", "--rpm 6", 1_000, 6),
        ("tokens", "--tpm 60000", 9_990, 6),
        ("concurrent", "--concurrent 7", 1_000, 7),
        ("budget_day", "--usd-day 0.0031", 1_000, 5),
        ("budget_month", "--usd-month 0.0031", 1_000, 5),
    ] {
        let held = Held::new();
        let whose = match level {
            "user" => "u",
            "team" => "--team x",
            _ => "--total",
        };
        server.client().batch("DROP SCHEMA public CASCADE; CREATE SCHEMA public").unwrap();
        let nodes = nodes(&url, &held.upstream.url(), &format!("{whose} {set}"), &[("FLEET_WAIT", "5s")]);
        let mut clients = crowd(&nodes, CROWD, max_tokens);
        // Who is refused comes again: a part may lie idle at another node for a moment, until it is recalled.
        until(&format!("{level}, {limit}: as many pass as may"), || {
            if held.gate.count() < allowed {
                clients.extend(crowd(&nodes, NODES.len(), max_tokens));
            }
            held.gate.count() >= allowed
        });
        let others = clients.len() - allowed;
        until(&format!("{level}, {limit}: all others are refused"), || refusals(&nodes, limit) >= others);
        held.gate.set(true);
        let mut passed = 0;
        for mut client in clients {
            let response = client.response("POST");
            match response.head.status() {
                429 => assert_eq!(response.json()["error"]["param"], json!(level), "{limit}"),
                status => {
                    assert_eq!(status, 200, "{level}, {limit}: {}", response.text());
                    passed += 1;
                }
            }
        }
        assert_eq!(passed, allowed, "{level}, {limit}");
    }
}

#[test]
fn a_users_limits_hold_at_all_nodes_together() {
    exactly_at("user");
}

#[test]
fn a_teams_limits_hold_at_all_nodes_together() {
    exactly_at("team");
}

#[test]
fn the_limits_of_everybody_hold_at_all_nodes_together() {
    exactly_at("total");
}

/// Slots of requests that died with their node are free when its lease is over; until then nobody has them.
#[test]
fn what_a_killed_node_held_others_have() {
    let Some(server) = Postgres::start() else { return };
    let held = Held::new();
    let mut nodes = nodes(&server.url(), &held.upstream.url(), "u --concurrent 2", &[("FLEET_LEASE", "2s")]);
    let hold = |node: &Proxy| {
        let mut client = Client::connect(node.addr());
        client.send_request("POST", CHAT, &[("x-user-id", "u"), JSON], body(10).as_bytes());
        client
    };
    let clients = [hold(&nodes[0]), hold(&nodes[0])];
    held.gate.wait_for(2);
    ask(&nodes[1]).expect_proxy_error(429, "rate_limit_exceeded");
    nodes[0].kill();
    drop(clients);
    held.gate.set(true);
    until("its slots are free", || ask(&nodes[1]).head.status() == 200);
}

/// What a node held of a budget that is gone for good is free when it is declared so: money is not void by itself. What it
/// had spent stays spent.
#[test]
fn what_a_forgotten_node_held_of_a_budget_is_free() {
    let Some(server) = Postgres::start() else { return };
    let mut client = server.client();
    schema::prepare(&mut client).unwrap();
    let [gone, other] = ["a", "b"].map(|name| {
        let ledger_uuid = name.repeat(32);
        let node = Node { ledger_uuid, name: name.into(), host: "h".into(), build: "1", retention_days: 0 };
        Membership::join(&mut client, &node).unwrap().ledger
    });
    let mut granted = |ledger: i16, seq: i64, spent: i64, need: i64| {
        let (account, terms) = ("b:user:2026-12-01:u".into(), Terms::of_stock(Kind::Budget, 1_000));
        let (lease, opens, returned, held, want, least, closes) = (1, true, 0, 0, need, need, false);
        let ask = Ask { account, terms, lease, opens, seq, spent, returned, held, want, need, least, closes };
        leases::exchange(&mut client, None, 10_000, ledger, &[ask]).unwrap().answers[0].granted
    };
    assert_eq!((granted(gone, 1, 0, 400), granted(gone, 2, 100, 0)), (Some(400), Some(400)));
    assert_eq!(granted(other, 1, 0, 900), Some(0), "it may have spent all that it holds");
    server.client().batch("UPDATE oap_processes SET seen = seen - interval '1 minute'").unwrap();
    assert_eq!(roster::forget(&mut server.client(), "a").unwrap(), Forgotten::Done);
    assert_eq!((granted(other, 2, 0, 901), granted(other, 3, 0, 900)), (Some(0), Some(900)));
}

/// Without the engine a node lets through its share, or nothing but what it holds, or all; and what was let through
/// counts when the engine is back.
#[test]
fn an_outage_is_what_the_operator_says() {
    let Some(mut server) = Postgres::start() else { return };
    let held = Held::new();
    held.gate.set(true);
    for policy in ["share", "closed", "open"] {
        let vars = [("FLEET_ON_OUTAGE", policy), ("FLEET_LEASE", "2s")];
        let nodes = nodes(&server.url(), &held.upstream.url(), "u --rpm 1200", &vars);
        ask(&nodes[0]).expect(200);
        server.stop_immediately();
        nodes[0].wait_for_log("fleet is out of reach");
        match policy {
            // 400 a minute of its own: one within a second, and by far not all of a hundred at once.
            "share" => {
                until("the share flows in", || ask(&nodes[1]).head.status() == 200);
                let refused = (0..100).filter(|_| ask(&nodes[1]).head.status() == 429).count();
                assert!(refused > 0, "all have passed");
            }
            "closed" => until("nothing is held any more", || ask(&nodes[1]).head.status() == 503),
            _ => (0..100).for_each(|_| drop(ask(&nodes[1]).expect(200))),
        }
        assert!(nodes[1].stderr().len() < 1_000_000);
        server.restart();
        until("it is reached again", || ask(&nodes[1]).head.status() == 200);
    }
}

/// Asks until the budget is spent, or what is left of it is held by a node that is gone.
fn spend(node: &Proxy) {
    let body = json!({"model": "gpt-4o-mini", "user": "u", "max_tokens": 8}).to_string();
    let mut refused_in_a_row = 0;
    while refused_in_a_row < 200 {
        let Some(mut client) = Client::try_connect(node.addr()) else { return };
        let fields = [("x-user-id", "u"), JSON];
        if !client.try_send(request("POST", CHAT, &fields, body.as_bytes())) {
            continue;
        }
        let Ok(response) = client.try_response("POST") else { continue };
        match response.head.status() {
            200 => refused_in_a_row = 0,
            _ if response.json()["error"]["code"] == json!("insufficient_quota") => return,
            429 | 503 => {
                refused_in_a_row += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            status => panic!("{status}: {}", response.text()),
        }
    }
}

/// Three nodes spend one budget while the engine and a node are killed: what the target has served is within it, but for
/// one answer.
#[test]
fn a_budget_is_not_exceeded_whatever_is_killed() {
    const BUDGET: i64 = 1_500_000;
    let Some(mut server) = Postgres::start() else { return };
    let target = books::target();
    let mut nodes = nodes(&server.url(), &target.url(), "u --usd-day 0.0015", &[]);
    let spent = || {
        // gpt-4o-mini: 150 nano-dollars a token in, 600 out.
        target.served().values().map(|[_, input, output, _]| 150 * input + 600 * output).sum::<i64>()
    };
    let killed = nodes[2].pid();
    std::thread::scope(|scope| {
        for node in &nodes {
            (0..3).for_each(|_| _ = scope.spawn(|| spend(node)));
        }
        until("a part is spent", || spent() > BUDGET / 5);
        let pid = rustix::process::Pid::from_raw(killed.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        server.stop_immediately();
        std::thread::sleep(Duration::from_millis(300));
        server.restart();
    });
    let spent = spent();
    assert!(spent <= BUDGET + 10_000, "{spent} of {BUDGET} are spent");
    assert!(spent > BUDGET / 5, "{spent} of {BUDGET} are spent");
    nodes[2].kill();
}
