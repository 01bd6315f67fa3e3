//! Keys, limits and teams of a fleet: changed at any node, by a command or over HTTP, they are so at all; a node knows
//! them through an outage and a restart in it, until they are too old; what a node had comes along, and no revocation is
//! lost.

use super::books::{self, Nodes, fleet_sums};
use super::support::client::{Client, Response, get, post_json};
use super::support::postgres::Postgres;
use super::support::proxy::{Proxy, done, run_with};
use super::support::{say, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Instant;

const CHAT: &str = "/v1/chat/completions";
const TOKEN: &str = "an-administrators-token";
/// Keys that are made and revoked: fewer than the wrong ones that a node answers at once.
const TRIALS: usize = 8;

fn vars<'a>(nodes: &'a Nodes, name: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let keys = [("CLIENT_AUTH", "keys"), ("ADMIN_TOKEN", TOKEN), ("OPENAI_API_KEY", "sk-real")];
    [&nodes.vars(name)[..], &keys, more].concat()
}

fn with_key(node: &Proxy, key: &str) -> Response {
    let body = r#"{"model":"gpt-4o","user":"u","messages":[]}"#;
    post_json(node.addr(), CHAT, &[("authorization", &format!("Bearer {key}"))], body)
}

fn admin(node: &Proxy, method: &str, target: &str, body: &str) -> Response {
    let bearer = format!("Bearer {TOKEN}");
    let fields = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    Client::connect(node.addr()).request(method, target, &fields, body.as_bytes())
}

/// A key by `/admin` of a node: its number, and the key.
fn new_key(node: &Proxy, user: &str) -> (i64, String) {
    let made = admin(node, "POST", "/admin/keys", &json!({"user": user}).to_string()).expect(201).json();
    (made["id"].as_i64().unwrap(), made["key"].as_str().unwrap().to_owned())
}

/// What a node's own tables say, which is what it lets in by.
fn copied(node: &Proxy, sql: &str) -> Vec<String> {
    let conn = rusqlite::Connection::open(node.database()).unwrap();
    conn.busy_timeout(super::support::DEADLINE).unwrap();
    let mut select = conn.prepare(sql).unwrap();
    let rows = select.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

fn valid_keys(node: &Proxy) -> BTreeSet<String> {
    copied(node, "SELECT lower(hex(hash)) FROM client_keys WHERE revoked_at IS NULL").into_iter().collect()
}

#[track_caller]
fn until_all_have_keys(nodes: &[&Proxy], count: usize) {
    until("all have the keys", || nodes.iter().all(|node| valid_keys(node).len() == count));
}

#[test]
fn what_is_changed_at_one_node_holds_at_all() {
    let Some(server) = Postgres::start() else { return };
    let target = books::target();
    let (Some(session), Some(transaction)) = (server.bouncer("session"), server.bouncer("transaction")) else { return };
    let urls = [server.url(), session.url.clone(), transaction.url.clone()];
    let of = urls.each_ref().map(|url| Nodes::new(&target, url));
    let names = ["a", "b", "c"];
    let nodes = [0, 1, 2].map(|n| Proxy::start(&vars(&of[n], names[n], &[])));
    let all = nodes.each_ref();
    all.iter().for_each(|node| _ = node.wait_for_log("fleet is reached"));

    let mut took = Vec::new();
    for trial in 0..TRIALS {
        let (id, key) = new_key(all[trial % 3], "u");
        until_all_have_keys(&all, 1);
        all.iter().for_each(|node| until("it opens", || with_key(node, &key).head.status() == 200));
        let revoked = Instant::now();
        let by = (trial + 1) % 3;
        match trial % 2 {
            0 => _ = admin(all[by], "DELETE", &format!("/admin/keys/{id}"), "").expect(200),
            _ => {
                let (code, out, err) =
                    run_with(all[by].folder(), &["keys", "revoke", &id.to_string()], &vars(&of[by], names[by], &[]));
                assert!(
                    code == Some(0) && out.contains("is revoked") && err.contains("fleet: postgres://"),
                    "{out}{err}"
                );
            }
        }
        let refuses = |node: &Proxy| with_key(node, &key).head.status() == 401;
        all.iter().for_each(|node| until("it opens nothing any more", || refuses(node)));
        took.push(revoked.elapsed().as_millis());
    }
    took.sort_unstable();
    say(&format!("from a revocation until three nodes refuse, ms: {took:?}"));

    // Limits and teams, set at one, seen and in force at another.
    let (_, key) = new_key(all[0], "u");
    until_all_have_keys(&all, 1);
    admin(all[1], "POST", "/admin/users/u", r#"{"team":"x"}"#).expect(200);
    admin(all[1], "POST", "/admin/limits/team/x", r#"{"models":"o3"}"#).expect(200);
    until("it is in force", || with_key(all[2], &key).head.status() == 403);
    assert_eq!(admin(all[0], "GET", "/admin/limits", "").json()["data"][0]["models"], "o3");
    let (_, out, _) = run_with(all[2].folder(), &["users", "list"], &vars(&of[2], "c", &[]));
    assert!(out.contains('u') && out.contains('x'), "{out}");
    admin(all[2], "DELETE", "/admin/teams/x?move_to=y", "").expect(200);
    until("it is taken away", || with_key(all[1], &key).head.status() == 200);
    assert_eq!(copied(all[1], "SELECT team FROM members"), ["y"]);
    assert!(copied(all[1], "SELECT name FROM limits").is_empty());
    // All of it is told at each, and who has done it.
    let audit = |node: &Proxy| admin(node, "GET", "/admin/audit?limit=3", "").expect(200).json()["data"].clone();
    assert_eq!(audit(all[0]), audit(all[2]));
    assert_eq!(audit(all[0])[0]["what"], "team x is deleted; its users belong to team y");
    assert!(admin(all[1], "GET", "/admin/", "").expect(200).text().contains("team x is deleted"));
}

#[test]
fn an_outage_changes_nothing_and_who_starts_in_it_knows_the_copy_until_it_is_too_old() {
    let Some(mut server) = Postgres::start() else { return };
    let target = books::target();
    let of = Nodes::new(&target, &server.url());
    let (with_a, with_b) = (vars(&of, "a", &[]), vars(&of, "b", &[("FLEET_POLICY_STALE", "3s")]));
    let a = Proxy::start(&with_a);
    let b = Proxy::start(&with_b);
    [&a, &b].iter().for_each(|node| _ = node.wait_for_log("fleet is reached"));
    let (id, revoked) = new_key(&a, "u");
    let (_, key) = new_key(&a, "u");
    admin(&b, "DELETE", &format!("/admin/keys/{id}"), "").expect(200);
    until_all_have_keys(&[&a, &b], 1);

    server.stop_immediately();
    a.wait_for_log("fleet is out of reach");
    let (code, out, err) = run_with(a.folder(), &["keys", "create", "v"], &with_a);
    assert!(code == Some(1) && out.is_empty() && err.contains("out of reach, and nothing is changed"), "{out}{err}");
    admin(&a, "POST", "/admin/keys", r#"{"user":"v"}"#).expect_proxy_error(503, "ledger_unavailable");
    admin(&a, "GET", "/admin/keys", "").expect_proxy_error(503, "ledger_unavailable");
    assert_eq!(valid_keys(&a).len(), 1, "nothing is changed");
    // The copy is enough for a start in the outage; for who has set so, not for long.
    let a = Proxy::start_in(a.into_folder(), &with_a);
    with_key(&a, &key).expect(200);
    with_key(&a, &revoked).expect(401);
    until("the copy is too old", || with_key(&b, &key).head.status() == 503);
    with_key(&b, &key).expect_proxy_error(503, "limits_unavailable");
    get(b.addr(), "/readyz").expect(503);
    let b = Proxy::start_in(b.into_folder(), &with_b);
    with_key(&b, &key).expect_proxy_error(503, "limits_unavailable");

    server.restart();
    until("it is let in again", || with_key(&b, &key).head.status() == 200);
    with_key(&b, &revoked).expect(401);
    get(b.addr(), "/readyz").expect(200);
    let (code, out, err) = run_with(a.folder(), &["keys", "create", "v"], &with_a);
    assert!(code == Some(0) && out.starts_with("oap_"), "{err}");
    until_all_have_keys(&[&a, &b], 2);
}

#[test]
fn what_a_node_had_comes_along_and_no_revocation_is_lost() {
    let Some(server) = Postgres::start() else { return };
    let target = books::target();
    let of = Nodes::new(&target, &server.url());
    let (with_a, with_b) = (vars(&of, "a", &[]), vars(&of, "b", &[]));
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let make =
        |folder: &tempfile::TempDir, user: &str| done(folder.path(), &format!("keys create {user}")).trim().to_owned();
    let keys = [make(&first, "taro"), make(&second, "hanako"), make(&second, "ghost")];
    done(second.path(), "keys revoke 2");
    done(first.path(), "limits set u --rpm 100");
    done(second.path(), "limits set u --rpm 200");
    done(second.path(), "limits set v --rpm 300");
    done(second.path(), "users set v --team x");
    let a = Proxy::start_in(first, &with_a);
    until("its own are in the fleet", || admin(&a, "GET", "/admin/keys", "").json()["data"][0]["user"] == "taro");
    let mut b = Proxy::start_in(second, &with_b);
    until_all_have_keys(&[&a, &b], 2);
    for node in [&a, &b] {
        with_key(node, &keys[0]).expect(200);
        with_key(node, &keys[1]).expect(200);
        with_key(node, &keys[2]).expect(401);
    }
    let numbers = |node: &Proxy| copied(node, "SELECT id || ' ' || user FROM client_keys ORDER BY id");
    assert_eq!(numbers(&a), ["1 taro", "2 ghost", "3 hanako"], "a number that is taken is given anew");
    assert_eq!(numbers(&b), numbers(&a));
    let limits = admin(&a, "GET", "/admin/limits", "").json();
    assert_eq!((&limits["data"][0]["rpm"], &limits["data"][1]["rpm"]), (&json!(100), &json!(300)), "{limits}");

    // While one is away: what the fleet takes away stays so, and what is revoked there is revoked.
    assert!(b.terminate().success());
    admin(&a, "DELETE", "/admin/limits/user/v", "").expect(200);
    admin(&a, "POST", "/admin/users/v", r#"{"team":null}"#).expect(200);
    done(b.folder(), "keys revoke 1");
    let b = Proxy::start_in(b.into_folder(), &with_b);
    until_all_have_keys(&[&a, &b], 1);
    with_key(&a, &keys[0]).expect(401);
    until("b has what a has", || copied(&b, "SELECT name FROM limits") == ["u"]);
    assert!(copied(&b, "SELECT user FROM members").is_empty());
    let audit = admin(&a, "GET", "/admin/audit", "").json();
    let told = |what: &str| audit["data"].as_array().unwrap().iter().any(|line: &Value| line["what"] == what);
    assert!(told("brought in: 0 keys, 1 revocations, limits of 0, the teams of 0 users"), "{audit}");
}

/// As where the database is made anew, or an older copy of it is put in its place.
#[test]
fn a_database_that_was_emptied_gets_everything_again_and_grants_nothing_at_first() {
    let Some(server) = Postgres::start() else { return };
    let target = books::target();
    let of = Nodes::new(&target, &server.url());
    let (a, b) = (Proxy::start(&vars(&of, "a", &[])), Proxy::start(&vars(&of, "b", &[])));
    [&a, &b].iter().for_each(|node| _ = node.wait_for_log("fleet is reached"));
    let (id, revoked) = new_key(&a, "u");
    let (_, key) = new_key(&a, "u");
    until_all_have_keys(&[&a, &b], 2);
    with_key(&a, &key).expect(200);
    with_key(&b, &key).expect(200);
    admin(&b, "DELETE", &format!("/admin/keys/{id}"), "").expect(200);
    until_all_have_keys(&[&a, &b], 1);
    let served = target.served();

    let mut client = server.client();
    client.batch("DROP SCHEMA public CASCADE; CREATE SCHEMA public").unwrap();
    let is_back = |client: &mut openai_api_proxy::postgres::PostgresClient| {
        let both = client.query_one("SELECT count(DISTINCT ledger) FROM oap_processes WHERE NOT ended", &[]);
        both.is_ok_and(|row| row.get::<i64>(0).unwrap() == 2)
    };
    until("both have a place again", || is_back(&mut client));
    let quiet = client.query_one("SELECT until_ms > 0 FROM oap_quiet", &[]).unwrap();
    assert!(quiet.get::<bool>(0).unwrap(), "what was granted before is held on to");
    until("keys are there again", || {
        let sql = "SELECT count(*), count(revoked_at) FROM oap_keys";
        let row = client.query_one(sql, &[]).unwrap();
        (row.get::<i64>(0).unwrap(), row.get::<i64>(1).unwrap()) == (2, 1)
    });
    until("records are, too", || {
        let rows = client.query_one("SELECT count(*) FROM oap_records", &[]).unwrap();
        rows.get::<i64>(0).unwrap() == 2
    });
    assert_eq!(fleet_sums(&server), served);
    with_key(&a, &key).expect(200);
    with_key(&b, &revoked).expect(401);
}
