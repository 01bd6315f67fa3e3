//! What is looked at again counts once, whichever node shows it, and whichever of them ships first.

use super::books::wait_until_shipped;
use super::support::client::Client;
use super::support::postgres::Postgres;
use super::support::proxy::Proxy;
use super::support::script::Reply;
use super::support::upstream::Upstream;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn target() -> Upstream {
    Upstream::plain(|request| {
        let usage = json!({"input_tokens": 100, "output_tokens": 20, "total_tokens": 120});
        let id = request.target.rsplit('/').next().unwrap();
        let (id, status, usage) = match &*request.method {
            "POST" if request.json()["background"] == true => ("resp_b", "queued", Value::Null),
            "POST" => ("resp_s", "completed", usage),
            _ => (id, "completed", usage),
        };
        let body = json!({"id": id, "object": "response", "status": status, "model": "gpt-4o", "usage": usage});
        Reply::json(body.to_string()).steps()
    })
}

fn make(proxy: &Proxy, body: &str) {
    let fields = [("x-user-id", "maker"), ("content-type", "application/json")];
    Client::connect(proxy.addr()).request("POST", "/v1/responses", &fields, body.as_bytes()).expect(200);
}

fn look(proxy: &Proxy, id: &str) {
    let target = format!("/v1/responses/{id}");
    Client::connect(proxy.addr()).request("GET", &target, &[("x-user-id", "looker")], b"").expect(200);
}

/// Tokens of each user in the fleet, which are the same in all that it keeps.
#[track_caller]
fn counted(server: &Postgres) -> BTreeMap<String, i64> {
    let by = |sql: &str| -> BTreeMap<String, i64> {
        let rows = server.admin("fleet").query(sql, &[]).unwrap();
        rows.iter().map(|row| (row.get(0).unwrap(), row.get(1).unwrap())).collect()
    };
    let records = by("SELECT u.name, sum(total_tokens)::bigint FROM oap_records r JOIN oap_users u ON u.id = r.user_id
        GROUP BY 1");
    for tier in ["oap_hours", "oap_days"] {
        let sql = format!(
            "SELECT u.name, sum(total_tokens)::bigint FROM {tier} r JOIN oap_users u ON u.id = r.who GROUP BY 1"
        );
        assert_eq!(by(&sql), records, "{tier}");
    }
    let sql = "SELECT count(*) FROM oap_hours WHERE who = 0 AND (requests < 0 OR cost_nano_usd < 0 OR unpriced < 0)";
    let negative = server.admin("fleet").query_one(sql, &[]).unwrap();
    assert_eq!(negative.get::<i64>(0).unwrap(), 0);
    records
}

const PLAIN: &str = r#"{"model":"gpt-4o","input":"x"}"#;
const BACKGROUND: &str = r#"{"model":"gpt-4o","input":"x","background":true}"#;

#[test]
fn what_another_node_shows_again_counts_once() {
    let Some(server) = Postgres::start() else { return };
    let upstream = target();
    let (target, fleet) = (upstream.url(), server.url());
    let alone = [("PROXY_TARGET", target.as_str())];
    let of_fleet = [("PROXY_TARGET", target.as_str()), ("FLEET_URL", &fleet)];
    let expect = |maker: i64, looker: i64| {
        let counts = [("maker".to_owned(), maker), ("looker".to_owned(), looker)];
        assert_eq!(counted(&server), BTreeMap::from(counts));
    };

    // The maker ships first.
    let (a, b) = (Proxy::start(&of_fleet), Proxy::start(&of_fleet));
    make(&a, PLAIN);
    wait_until_shipped(&[&a]);
    look(&b, "resp_s");
    look(&b, "resp_s");
    wait_until_shipped(&[&a, &b]);
    expect(120, 0);
    drop((a, b));

    // The maker ships last, and knew nothing of the usage: it is told by who looked.
    let (mut a, b) = (Proxy::start(&alone), Proxy::start(&of_fleet));
    make(&a, BACKGROUND);
    look(&b, "resp_b");
    wait_until_shipped(&[&b]);
    expect(120, 120);
    assert!(a.terminate().success());
    let a = Proxy::start_in(a.into_folder(), &of_fleet);
    wait_until_shipped(&[&a]);
    expect(240, 0);
    look(&b, "resp_b");
    look(&a, "resp_b");
    wait_until_shipped(&[&a, &b]);
    expect(240, 0);
}
