//! A real Prometheus scrapes the proxy under load, with the rules that it prints: what Prometheus then says is what the
//! ledger says. Every query of the dashboard and of the rules is one that it understands. Left to others: the text of a
//! scrape (beside `src/metrics`), its names in the manual (`readme`), its bound (`bounds/users`).

#![allow(clippy::disallowed_methods)] // waiting has an end

#[path = "prometheus/alerts.rs"]
mod alerts;
mod support;

use openai_api_proxy::cli::{ALERT_RULES, GRAFANA_DASHBOARD};
use rusqlite::Connection;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::client::{Client, get, post_json};
use support::proxy::{Proxy, command};
use support::rows::reader;
use support::script::Reply;
use support::upstream::{SeenRequest, Upstream};
use support::{DEADLINE, skip};
use tempfile::TempDir;

const USERS: [&str; 4] = ["user123", "太郎", "a \"b\", c=\\d\\", "{x='y'} 🦀"];
const REQUESTS_EACH: usize = 60;

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        skip(&format!("{program} is not installed"));
    }
    found
}

/// What a command says of this input; empty is best.
fn complaints(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { said } else { format!("{}\n{said}", output.status) }
}

/// Prometheus with the printed rules, scraping one proxy as often as it can.
struct Prometheus {
    child: Child,
    url: String,
    folder: TempDir,
}

impl Prometheus {
    fn start(proxy: &Proxy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = support::free_port();
        std::fs::write(folder.path().join("rules.yaml"), ALERT_RULES).unwrap();
        let config = format!(
            "global: {{scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 1s}}\n\
             rule_files: [rules.yaml]\nscrape_configs: [{{job_name: proxy, static_configs: [{{targets: ['{}']}}]}}]\n",
            proxy.addr()
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let child = Command::new("prometheus")
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, url: format!("http://127.0.0.1:{port}"), folder }
    }

    fn ask(&self, path: &str) -> Result<Value, String> {
        let text = ureq::get(format!("{}{path}", self.url))
            .config()
            .http_status_as_error(false)
            .build()
            .call()
            .and_then(|mut response| response.body_mut().read_to_string())
            .map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    /// The samples of an instant query: labels and value.
    #[track_caller]
    fn query(&self, query: &str) -> Vec<(BTreeMap<String, String>, f64)> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = self.ask(&format!("/api/v1/query?query={escaped}")).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let samples = answer["data"]["result"].as_array().unwrap().iter().map(|sample| {
            let labels = sample["metric"].as_object().unwrap().iter();
            let labels = labels.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
            (labels, sample["value"][1].as_str().unwrap().parse().unwrap())
        });
        samples.collect()
    }

    /// The one value of a query; none where it has none.
    fn value(&self, query: &str) -> Option<f64> {
        self.query(query).first().map(|(_, value)| *value)
    }

    /// Waits until a query has this value.
    #[track_caller]
    fn wait_for(&self, query: &str, wanted: f64) {
        let start = Instant::now();
        while self.ask("/-/ready").is_err_and(|error| !error.contains("Ready")) || self.value(query) != Some(wanted) {
            assert!(start.elapsed() < DEADLINE, "{query} is {:?}, not {wanted}", self.value(query));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = &self.folder; // removed only now
    }
}

/// Usage that depends on the request, of a model with a price and one without.
fn answer(request: &SeenRequest) -> Vec<support::script::Step> {
    let asked = request.json();
    let n = asked["n"].as_u64().unwrap();
    let (input, output) = (100 + n * 7 % 90, 10 + n * 13 % 50);
    let body = serde_json::json!({"id": format!("chatcmpl-{n}"), "model": asked["model"], "choices": [], "usage": {
        "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}});
    Reply::json(body.to_string()).steps()
}

fn ask(proxy: &Proxy, user: &str, n: usize) {
    let model = ["gpt-4o-mini", "my \"own\" model\\"][n % 2];
    let body = serde_json::json!({"model": model, "messages": [], "n": n}).to_string();
    post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", user)], &body).expect(200);
}

/// A sum over the ledger's rows, by user and model.
fn ledger(conn: &Connection, sum: &str) -> BTreeMap<(String, String), f64> {
    let sql = format!(
        "SELECT u.name, m.name, {sum} FROM records r JOIN users u ON u.id = r.user_id
         JOIN models m ON m.id = coalesce(r.model_id, r.model_requested_id) GROUP BY 1, 2 HAVING {sum} IS NOT NULL"
    );
    let mut statement = conn.prepare(&sql).unwrap();
    let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[track_caller]
fn assert_close(found: f64, expected: f64, share: f64, what: &str) {
    assert!((found - expected).abs() <= share * expected.abs(), "{what}: {found}, not {expected}");
}

#[test]
fn prometheus_says_what_the_ledger_says() {
    if !is_installed("prometheus") || !is_installed("promtool") {
        return;
    }
    let upstream = Upstream::plain(answer);
    let nobody = support::free_port();
    let influx = format!("http://127.0.0.1:{nobody}/write");
    let proxy = Proxy::before(&upstream, &[("RATE_LIMIT_RPM", "0"), ("INFLUXDB_URL", &influx)]);
    let prometheus = Prometheus::start(&proxy);
    // A counter's first sample is no increase: so each has one before the load.
    USERS.iter().for_each(|user| (0..2).for_each(|n| ask(&proxy, user, n)));
    prometheus.wait_for("sum(openai_proxy_requests_total)", 8.0);
    std::thread::sleep(Duration::from_secs(2)); // as many scrapes of that, so that an increase has where to begin
    let conn = reader(&proxy.database());
    let tokens_before: f64 = ledger(&conn, "sum(input_tokens)").values().sum();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for user in USERS {
            let proxy = &proxy;
            scope.spawn(move || (2..REQUESTS_EACH).for_each(|n| ask(proxy, user, n)));
        }
    });
    let requests = (USERS.len() * REQUESTS_EACH) as f64;
    prometheus.wait_for("sum(openai_proxy_requests_total)", requests);
    std::thread::sleep(Duration::from_secs(2));

    for (query, sum, share) in [
        ("sum by (user, model) (openai_proxy_requests_total)", "count(*)", 0.0),
        ("sum by (user, model) (openai_proxy_tokens_total{type=\"input\"})", "sum(input_tokens)", 0.0),
        ("sum by (user, model) (openai_proxy_tokens_total{type=\"output\"})", "sum(output_tokens)", 0.0),
        ("sum by (user, model) (openai_proxy_cost_usd_total) * 1e9", "sum(cost_nano_usd)", 1e-12),
    ] {
        let found: BTreeMap<_, _> = prometheus
            .query(query)
            .into_iter()
            .map(|(l, value)| ((l["user"].clone(), l["model"].clone()), value))
            .collect();
        let expected = ledger(&conn, sum);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{query}");
        assert!(expected.len() >= USERS.len());
        found.iter().for_each(|(names, value)| assert_close(*value, expected[names], share, query));
    }
    assert_quantiles(&prometheus, &conn);

    // Prometheus extends what it saw to the ends of the window, by a scrape at most on each side.
    let window = began.elapsed().as_secs() + 2;
    let tokens = ledger(&conn, "sum(input_tokens)").values().sum::<f64>() - tokens_before;
    let rate = format!("sum(rate(openai_proxy_tokens_total{{type=\"input\"}}[{window}s])) * {window}");
    assert_close(prometheus.value(&rate).unwrap(), tokens, 0.25, &rate);

    assert_rules(&prometheus);
    assert_eq!(complaints("promtool", &["check", "metrics"], &get(proxy.addr(), "/metrics").expect(200).text()), "");
}

/// What a server sees of the requests that scrapes by itself, under another name.
fn scraped(proxy: &Proxy) -> f64 {
    let mut client = Client::connect(proxy.addr());
    client.send("GET /metrics HTTP/1.1\r\nhost: a\r\naccept: text/plain;version=0.0.4\r\nuser-agent: other\r\n\r\n");
    let text = client.response("GET").expect(200).text();
    let requests = text.lines().filter(|line| line.starts_with("openai_proxy_requests_total{"));
    requests.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

/// A user's only request counts in the dashboard, and so does the first one after a start.
#[test]
fn a_single_request_counts() {
    if !is_installed("prometheus") {
        return;
    }
    let upstream = Upstream::plain(answer);
    let (target, port) = (upstream.url(), support::free_port().to_string());
    let vars = [("PROXY_TARGET", target.as_str()), ("PORT", &port)];
    let mut proxy = Proxy::start(&vars);
    let prometheus = Prometheus::start(&proxy);
    prometheus.wait_for("sum(openai_proxy_ledger_up)", 1.0);
    assert_eq!(scraped(&proxy), 0.0);
    let series = "openai_proxy_requests_total{user=\"user123\",model=\"gpt-4o-mini\",endpoint=\"chat/completions\",status=\"200\"}";
    for (start, requests) in [1.0, 2.0].into_iter().enumerate() {
        ask(&proxy, USERS[0], 0);
        assert_eq!(proxy.metrics()[series], 1.0, "who only looks sees it at once");
        if start == 0 {
            let seen = [scraped(&proxy), scraped(&proxy)];
            assert_eq!(seen, [0.0, 0.0], "neither server takes the other's zeros");
        }
        let began = Instant::now();
        while scraped(&proxy) == 0.0 {
            assert!(began.elapsed() < DEADLINE, "a value never comes");
            std::thread::sleep(Duration::from_millis(100));
        }
        prometheus.wait_for("sum(openai_proxy_requests_total)", 1.0);
        std::thread::sleep(Duration::from_secs(3)); // it extends what it saw to the end of the range, by a scrape at most

        let conn = reader(&proxy.database());
        let sum = |what: &str| ledger(&conn, what).values().sum::<f64>();
        for (panel, expected) in [
            ("Cost in the range", sum("sum(cost_nano_usd)") / 1e9),
            ("Tokens in the range", sum("sum(input_tokens + output_tokens)")),
            ("Requests in the range", requests),
        ] {
            assert!(expected > 0.0);
            assert_close(prometheus.value(&panel_query(panel)).unwrap_or(0.0), expected, 0.25, panel);
        }
        if start == 0 {
            assert!(proxy.terminate().success());
            proxy = Proxy::start_in(proxy.into_folder(), &vars);
            assert_eq!(proxy.metrics()[series], 0.0, "the ledger knows it");
            prometheus.wait_for("sum(openai_proxy_requests_total)", 0.0);
        }
    }
}

/// The buckets are the ledger's rows, and so the quantiles, interpolated as Prometheus does.
fn assert_quantiles(prometheus: &Prometheus, conn: &Connection) {
    for (metric, column) in [("request_duration_seconds", "duration_us"), ("overhead_seconds", "proxy_us")] {
        let mut buckets: Vec<(f64, f64)> = prometheus
            .query(&format!("sum by (le) (openai_proxy_{metric}_bucket)"))
            .into_iter()
            .map(|(labels, count)| (labels["le"].parse().unwrap(), count))
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.len() > 10);
        for (bound, count) in &buckets {
            let sql = format!("SELECT count(*) FROM records WHERE {column} <= ?");
            let micros = (bound * 1e6).min(1e15).round() as i64;
            let rows: f64 = conn.query_row(&sql, [micros], |row| row.get(0)).unwrap();
            assert_eq!(*count, rows, "{metric} {bound}");
        }
        let rank = 0.9 * buckets.last().unwrap().1;
        let at = buckets.iter().position(|(_, count)| *count >= rank).unwrap();
        let below = at.checked_sub(1).map_or((0.0, 0.0), |at| buckets[at]);
        let (bound, count) = buckets[at];
        let expected = below.0 + (bound - below.0) * (rank - below.1) / (count - below.1);
        let query = format!("histogram_quantile(0.9, sum by (le) (openai_proxy_{metric}_bucket))");
        assert_close(prometheus.value(&query).unwrap(), expected, 1e-9, &query);
        let of_rates = format!("histogram_quantile(0.9, sum by (le) (rate(openai_proxy_{metric}_bucket[1m])))");
        assert!(prometheus.value(&of_rates).unwrap() > 0.0);
    }
}

/// Every rule is evaluated, and every query of the dashboard.
fn assert_rules(prometheus: &Prometheus) {
    let rules = ALERT_RULES.matches("- alert:").count();
    let start = Instant::now();
    loop {
        let answer = prometheus.ask("/api/v1/rules").unwrap();
        let found = answer["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        if found.len() == rules && found.iter().all(|rule| rule["health"] == "ok") {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "{answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
    // Without an error of the target and without a refusal, these have no sample.
    let may_be_empty = ["upstream_errors", "refused", "rate_limited", "status=\"429\""];
    for query in dashboard_queries() {
        let samples = prometheus.query(&query);
        assert!(!samples.is_empty() || may_be_empty.iter().any(|name| query.contains(name)), "{query} finds nothing");
    }
}

/// The dashboard's queries by their panel's title, with all of everything selected.
fn dashboard_panels() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(GRAFANA_DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap().iter().map(move |to| (panel, to)));
    let filled = targets.map(|(panel, target)| {
        let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "1m").replace("$__range", "1h");
        let names = ["job", "instance", "user", "model"].iter();
        let query = names.fold(query, |query, name| query.replace(&format!("${name}"), ".*"));
        (panel["title"].as_str().unwrap().to_owned(), query)
    });
    filled.collect()
}

/// A number without its unit says nothing, and an increase is a guess between two scrapes.
#[test]
fn the_dashboard_shows_a_day_in_units_and_says_what_is_approximate() {
    let dashboard: Value = serde_json::from_str(GRAFANA_DASHBOARD).unwrap();
    assert_eq!(dashboard["time"], serde_json::json!({ "from": "now-24h", "to": "now" }));
    for panel in dashboard["panels"].as_array().unwrap() {
        let field = &panel["fieldConfig"];
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let mut overridden = field["overrides"].as_array().unwrap().iter();
            let own = overridden.find(|one| one["matcher"]["options"] == target["refId"]);
            let unit = own.map_or(&field["defaults"]["unit"], |own| &own["properties"][0]["value"]);
            let units: &[&str] = match query {
                _ if query.contains("cost_usd") => &["currencyUSD"],
                _ if query.contains("ledger_up") => &["bool_on_off"],
                _ if query.contains("cpu_seconds") => &["percentunit"],
                _ if query.contains("_seconds") => &["s"],
                _ if query.contains("_bytes") => &["bytes"],
                _ if query.contains("rate(") => &["reqps", "ops", "suffix: tokens/s"],
                _ => &["short"],
            };
            assert!(units.contains(&unit.as_str().unwrap()), "{query}: {unit}");
            let said = panel["description"].as_str().unwrap_or_default();
            assert_eq!(query.contains("increase("), said.starts_with("Approximate"), "{query}: {said}");
            assert!(!query.contains("increase(") || said.contains("the ledger"), "{said}");
        }
    }
}

fn dashboard_queries() -> Vec<String> {
    dashboard_panels().into_iter().map(|(_, query)| query).collect()
}

fn panel_query(title: &str) -> String {
    dashboard_panels().into_iter().find(|(found, _)| found == title).expect(title).1
}

/// What is asked for is what `/metrics` has, and no variable is left unfilled.
#[test]
fn dashboard_and_rules_name_metrics_that_there_are() {
    let exposition = include_str!("../src/metrics/exposition.rs");
    let exposed: BTreeSet<&str> = exposition.split('"').filter(|name| name.starts_with("openai_proxy_")).collect();
    let queries = dashboard_queries().join("\n");
    assert!(!queries.contains('$'), "{queries}");
    let mut used = BTreeSet::new();
    for text in [queries.as_str(), ALERT_RULES] {
        for at in text.match_indices("openai_proxy_").map(|(at, _)| at) {
            let name = text[at..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
            let name = name.strip_suffix("_bucket").or(name.strip_suffix("_count")).unwrap_or(name);
            assert!(exposed.contains(name), "there is no {name}");
            used.insert(name);
        }
    }
    assert!(used.len() > 15, "{used:?}");
}

#[test]
fn promtool_finds_no_fault_with_the_rules() {
    if is_installed("promtool") {
        let folder = tempfile::tempdir().unwrap();
        let printed = |name: &str| {
            let output = command(folder.path(), &[]).arg(name).stdout(Stdio::piped()).output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(printed("grafana-dashboard") == GRAFANA_DASHBOARD);
        assert!(printed("alert-rules") == ALERT_RULES);
        let file = folder.path().join("rules.yaml");
        std::fs::write(&file, ALERT_RULES).unwrap();
        let said = complaints("promtool", &["check", "rules", file.to_str().unwrap()], "");
        assert!(said.contains("SUCCESS") && !said.contains("FAILED"), "{said}");
    }
}
