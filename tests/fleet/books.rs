//! What was served, what the ledgers hold, what the fleet holds: sums by user and model. And nodes of a fleet.

use super::support::postgres::Postgres;
use super::support::proxy::Proxy;
use super::support::script::Reply;
use super::support::until;
use super::support::upstream::{Options, Upstream};
use rusqlite::Connection;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// Requests, input, output and total tokens, and nano-dollars, by user and model.
pub type Sums = BTreeMap<(String, String), [i64; 4]>;

/// A target that keeps books. Requests name their users in their bodies, too.
pub struct Target {
    upstream: Upstream,
    served: Arc<Mutex<Sums>>,
}

/// One that answers chat completions, each with other numbers.
pub fn target() -> Target {
    let served = Arc::new(Mutex::new(BTreeMap::new()));
    let books = served.clone();
    let upstream = Upstream::start(Options { forgets: true, ..Options::default() }, move |request| {
        if request.method == "GET" {
            return Reply::json("{}").steps(); // `check` asks for models
        }
        let body = request.json();
        let text = |name: &str| body[name].as_str().unwrap_or("anonymous").to_owned();
        let model = text("model");
        let mut books = books.lock().unwrap();
        let sums: &mut [i64; 4] = books.entry((text("user"), model.clone())).or_default();
        let (input, output) = (10 + sums[0] % 7, 3 + sums[0] % 5);
        let usage = json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output});
        [1, input, output, input + output].iter().zip(sums).for_each(|(more, sum)| *sum += more);
        let id = format!("chatcmpl-{}", request.connection * 1_000_000 + request.nth);
        Reply::json(json!({"id": id, "model": model, "choices": [], "usage": usage}).to_string()).steps()
    });
    Target { upstream, served }
}

impl Target {
    pub fn url(&self) -> String {
        self.upstream.url()
    }

    /// All that it has served.
    pub fn served(&self) -> Sums {
        self.served.lock().unwrap().clone()
    }
}

/// How nodes are started.
pub struct Nodes {
    target: String,
    fleet: String,
}

impl Nodes {
    pub fn new(target: &Target, fleet: &str) -> Self {
        Self { target: target.upstream.url(), fleet: fleet.to_owned() }
    }

    pub fn start(&self, name: &str) -> Proxy {
        self.start_in(tempfile::tempdir().unwrap(), name)
    }

    pub fn start_in(&self, folder: TempDir, name: &str) -> Proxy {
        Proxy::start_in(folder, &self.vars(name))
    }

    pub fn vars<'a>(&'a self, name: &'a str) -> [(&'a str, &'a str); 5] {
        let of_fleet = [("PROXY_TARGET", &*self.target), ("FLEET_URL", &self.fleet), ("FLEET_NODE", name)];
        let [target, fleet, node] = of_fleet;
        [target, fleet, node, ("RATE_LIMIT_RPM", "0"), ("SHUTDOWN_DELAY", "0")]
    }
}

/// Rows of a node that are not in the fleet.
pub fn lag_rows(proxy: &Proxy) -> f64 {
    proxy.metrics()["openai_proxy_fleet_lag_rows"]
}

/// Waits until all that these have committed is in the fleet.
#[track_caller]
pub fn wait_until_shipped(nodes: &[&Proxy]) {
    for proxy in nodes {
        until("all is shipped", || proxy.metrics()["openai_proxy_fleet_up"] == 1.0 && is_shipped(&proxy.database()));
    }
}

/// The mark in a ledger is at its last row.
fn is_shipped(path: &Path) -> bool {
    let sql = "SELECT record_id = (SELECT coalesce(max(id), 0) FROM records) FROM marks WHERE name = 'fleet'";
    reader(path).query_row(sql, [], |row| row.get(0)).unwrap()
}

fn reader(path: &Path) -> Connection {
    let conn = Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    conn.busy_timeout(super::support::DEADLINE).unwrap();
    conn
}

/// What the fleet holds by user and model: its records, which its sums of hours and of days must be.
#[track_caller]
pub fn fleet_sums(server: &Postgres) -> Sums {
    let by = |sql: &str| {
        let rows = server.admin("fleet").query(sql, &[]).unwrap();
        let sums = rows.iter().map(|row| {
            let sums = [2, 3, 4, 5].map(|column| row.get::<i64>(column).unwrap());
            ((row.get(0).unwrap(), row.get(1).unwrap()), sums)
        });
        sums.collect::<Sums>()
    };
    let records = by("SELECT u.name, m.name, count(*) FILTER (WHERE correction IS NULL), sum(input_tokens)::bigint,
        sum(output_tokens)::bigint, sum(total_tokens)::bigint FROM oap_records r JOIN oap_models m
        ON m.id = coalesce(r.model_id, r.model_requested_id) JOIN oap_users u ON u.id = r.user_id GROUP BY 1, 2");
    for tier in ["oap_hours", "oap_days"] {
        let sql = format!(
            "SELECT u.name, m.name, sum(requests)::bigint, sum(input_tokens)::bigint, sum(output_tokens)::bigint,
                sum(total_tokens)::bigint FROM {tier} r JOIN oap_models m ON m.id = r.model_id
                JOIN oap_users u ON u.id = r.who GROUP BY 1, 2"
        );
        assert_eq!(by(&sql), records, "{tier}");
    }
    records
}

/// What a ledger holds by user and model.
pub fn ledger_sums(path: &Path) -> Sums {
    let conn = reader(path);
    let mut select = conn
        .prepare(
            "SELECT u.name, m.name, sum(correction IS NULL), sum(input_tokens), sum(output_tokens), sum(total_tokens)
                FROM records r JOIN models m ON m.id = coalesce(r.model_id, r.model_requested_id)
                JOIN users u ON u.id = r.user_id GROUP BY 1, 2",
        )
        .unwrap();
    let rows = select
        .query_map([], |row| Ok(((row.get(0)?, row.get(1)?), [row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?])));
    rows.unwrap().map(Result::unwrap).collect()
}

pub fn total(parts: &[Sums]) -> Sums {
    let mut total = Sums::new();
    for (key, sums) in parts.iter().flatten() {
        let sum = total.entry(key.clone()).or_default();
        sum.iter_mut().zip(sums).for_each(|(sum, more)| *sum += more);
    }
    total
}

pub fn requests(sums: &Sums) -> u64 {
    sums.values().map(|sums| sums[0].unsigned_abs()).sum()
}
