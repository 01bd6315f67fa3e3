//! Against Debian's `influxdb` (1.6, `/write`) and `victoria-metrics` (both write paths): the sums that the server gives
//! are those of SQLite, also where it was away for a third of the records and the proxy was killed meanwhile.

use super::account::{Account, append, decode, of_ledger, wait_for_metric, wait_until_exported};
use super::support::client::post_json;
use super::support::proxy::Proxy;
use super::support::script::Reply;
use super::support::upstream::Upstream;
use super::support::{DEADLINE, free_port, skip};
use openai_api_proxy::config::Config;
use openai_api_proxy::worker::export::Server as Exported;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Records of a run; its thirds are before, during and after the server's absence.
const RECORDS: usize = 50_000;

/// The fields that are summed, in the order of [`super::account::Sums`] after the count.
const FIELDS: [&str; 3] = ["input_tokens", "output_tokens", "cost_nano_usd"];

/// A server of somebody else's, with a folder and a port of its own.
struct Server {
    kind: Kind,
    folder: TempDir,
    port: u16,
    child: Child,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Influx,
    Victoria,
}

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Self::Influx => "influxd",
            Self::Victoria => "victoria-metrics",
        }
    }

    fn start(self) -> Option<Server> {
        if find(self.program()).is_none() {
            skip(&format!("{} is not installed", self.program()));
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let child = self.spawn(folder.path(), port);
        let mut server = Server { kind: self, folder, port, child };
        server.wait();
        if self == Self::Influx {
            server.ask("POST", "/query?q=CREATE%20DATABASE%20usage");
        }
        Some(server)
    }

    fn spawn(self, folder: &Path, port: u16) -> Child {
        let mut command = Command::new(find(self.program()).unwrap());
        match self {
            Self::Influx => {
                let config = folder.join("influxdb.conf");
                let at = |name: &str| format!("{:?}", folder.join(name));
                let text = format!(
                    "reporting-disabled = true\nbind-address = \"127.0.0.1:0\"\n[meta]\ndir = {}\n[data]\ndir = {}\n\
                     wal-dir = {}\n[monitor]\nstore-enabled = false\n[http]\nbind-address = \"127.0.0.1:{port}\"\n\
                     log-enabled = false\n",
                    at("meta"),
                    at("data"),
                    at("wal")
                );
                std::fs::write(&config, text).unwrap();
                command.arg("-config").arg(config);
            }
            Self::Victoria => {
                command.arg(format!("-storageDataPath={}", folder.join("data").display()));
                command.arg(format!("-httpListenAddr=127.0.0.1:{port}")).arg("-memory.allowedBytes=256MB");
            }
        }
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).chain(["/usr/sbin".into()]).map(|at| at.join(program)).find(|path| path.is_file())
}

impl Server {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn wait(&mut self) {
        let start = Instant::now();
        let path = if self.kind == Kind::Influx { "/ping" } else { "/health" };
        while ureq::get(format!("{}{path}", self.url())).call().is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "{} does not answer", self.kind.program());
            assert!(self.child.try_wait().unwrap().is_none(), "{} has ended", self.kind.program());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ask(&self, method: &str, path: &str) -> Value {
        let request =
            ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url())).body(()).unwrap();
        let text = ureq::run(request).unwrap().body_mut().with_config().limit(64 << 20).read_to_string().unwrap();
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::Null) }
    }

    /// As an operator stops it.
    fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = self.kind.spawn(self.folder.path(), self.port);
        self.wait();
    }

    /// What the server says, once it shows as many points as were sent: VictoriaMetrics does a moment after it took them.
    #[track_caller]
    fn assert_has(&self, expected: &Account) {
        let points = |account: &Account| account.values().map(|sums| sums[0]).sum::<i64>();
        let start = Instant::now();
        loop {
            let found = if self.kind == Kind::Influx { self.influx_account("usage") } else { self.victoria_account() };
            if points(&found) >= points(expected) || start.elapsed() > DEADLINE {
                return assert_eq!(&found, expected);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn influx_account(&self, database: &str) -> Account {
        let sums: String = FIELDS.map(|field| format!(",sum({field})")).concat();
        let query = format!("SELECT count(input_tokens){sums} FROM openai_usage GROUP BY \"user\",model");
        let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = self.ask("GET", &format!("/query?db={database}&q={query}"));
        let series = answer["results"][0]["series"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let entry = |series: &Value| {
            let tag = |name: &str| decode(series["tags"][name].as_str().unwrap());
            let sum = |column: usize| series["values"][0][column + 1].as_i64().unwrap_or(0);
            ((tag("user"), tag("model")), std::array::from_fn(sum))
        };
        series.iter().map(entry).collect()
    }

    fn victoria_account(&self) -> Account {
        self.ask("GET", "/internal/force_flush");
        let mut account = Account::new();
        let mut add = |column: usize, query: String| {
            let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let answer = self.ask("GET", &format!("/api/v1/query?nocache=1&query={query}"));
            for found in answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{answer}")) {
                let label = |name: &str| found["metric"][name].as_str().map_or(String::new(), decode);
                let value: f64 = found["value"][1].as_str().unwrap().parse().unwrap();
                account.entry((label("user"), label("model"))).or_default()[column] = value as i64;
            }
        };
        add(0, "sum(count_over_time(openai_usage_input_tokens[1d])) by (user, model)".to_owned());
        for (column, field) in FIELDS.iter().enumerate() {
            add(column + 1, format!("sum(sum_over_time(openai_usage_{field}[1d])) by (user, model)"));
        }
        account
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The run of the issue: a third before, a third while the server is away, which the proxy does not survive, and a
/// third after, some of all by way of the proxy itself.
fn exports_exactly(kind: Kind, vars: &[(&str, &str)]) {
    let Some(mut server) = kind.start() else { return };
    let upstream = Upstream::plain(|_| {
        Reply::json(r#"{"model":"m","usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#).steps()
    });
    let (target, url) = (upstream.url(), format!("{}{}", server.url(), vars[0].1));
    let vars =
        [&[("PROXY_TARGET", target.as_str()), ("RATE_LIMIT_RPM", "0"), ("INFLUXDB_URL", &url)], &vars[1..]].concat();
    let relay = |proxy: &Proxy| {
        for user in ["太郎", "x,y=\\z\\", "\"q\" %41"].repeat(40) {
            post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", user)], "{}").expect(200);
        }
    };
    let folder = tempfile::tempdir().unwrap();
    append(&folder.path().join("usage.db"), RECORDS / 3, 1);
    let proxy = Proxy::start_in(folder, &vars);
    relay(&proxy);
    wait_until_exported(&proxy);
    server.assert_has(&of_ledger(&proxy.database()));

    server.stop();
    append(&proxy.database(), RECORDS / 3, 2);
    relay(&proxy);
    wait_for_metric(&proxy, "openai_proxy_influx_up", |up| up == 0.0);
    wait_for_metric(&proxy, "openai_proxy_influx_lag_records", |lag| lag >= (RECORDS / 3) as f64);
    let folder = proxy.into_folder(); // which kills it

    let proxy = Proxy::start_in(folder, &vars);
    append(&proxy.database(), RECORDS - RECORDS / 3 * 2, 3);
    server.start_again();
    relay(&proxy);
    wait_until_exported(&proxy);
    let expected = of_ledger(&proxy.database());
    assert_eq!(expected.values().map(|sums| sums[0]).sum::<i64>(), RECORDS as i64 + 360);
    server.assert_has(&expected);
    assert_eq!(proxy.metrics()["openai_proxy_influx_lines_refused_total"], 0.0);
}

#[test]
fn influxdb_has_what_sqlite_has() {
    exports_exactly(Kind::Influx, &[("", ""), ("INFLUXDB_DATABASE", "usage")]);
}

#[test]
fn victoria_metrics_has_what_sqlite_has() {
    exports_exactly(
        Kind::Victoria,
        &[("", ""), ("INFLUXDB_BUCKET", "b"), ("INFLUXDB_ORG", "o"), ("INFLUXDB_TOKEN", "t")],
    );
}

#[test]
fn victoria_metrics_by_a_full_write_url() {
    exports_exactly(Kind::Victoria, &[("", "/write?db=usage")]);
}

/// Killed in the midst of sending, over and over: what InfluxDB has twice it has once.
#[test]
fn influxdb_has_no_point_twice() {
    let Some(server) = Kind::Influx.start() else { return };
    let url = server.url();
    let vars = [("INFLUXDB_URL", url.as_str()), ("INFLUXDB_DATABASE", "usage")];
    let mut folder = tempfile::tempdir().unwrap();
    append(&folder.path().join("usage.db"), RECORDS, 4);
    for pause_ms in [20, 60, 110, 170] {
        let proxy = Proxy::start_in(folder, &vars);
        std::thread::sleep(Duration::from_millis(pause_ms));
        folder = proxy.into_folder();
    }
    // All of it once more, as by a cursor that was lost.
    let conn = rusqlite::Connection::open(folder.path().join("usage.db")).unwrap();
    conn.execute("UPDATE marks SET record_id = record_id / 2 WHERE name = 'export'", []).unwrap();
    drop(conn);
    let proxy = Proxy::start_in(folder, &vars);
    wait_until_exported(&proxy);
    server.assert_has(&of_ledger(&proxy.database()));
}

/// What the server says that it will never take is passed over, also where that is all of a batch.
#[test]
fn influxdb_is_not_asked_again_for_what_is_beyond_its_retention() {
    let Some(server) = Kind::Influx.start() else { return };
    server.ask("POST", "/query?q=CREATE%20DATABASE%20young%20WITH%20DURATION%201h");
    let upstream = Upstream::plain(|_| Reply::json("{}").steps());
    let (target, url) = (upstream.url(), server.url());
    let vars = [("PROXY_TARGET", target.as_str()), ("INFLUXDB_URL", url.as_str()), ("INFLUXDB_DATABASE", "young")];
    let folder = tempfile::tempdir().unwrap();
    append(&folder.path().join("usage.db"), 100, 5); // two hours old
    let proxy = Proxy::start_in(folder, &vars);
    proxy.wait_for_log("influx refuses more records, they are passed over");
    post_json(proxy.addr(), "/v1/chat/completions", &[("x-user-id", "now")], "{}").expect(200);
    wait_until_exported(&proxy);
    let metrics = proxy.metrics();
    assert_eq!(metrics["openai_proxy_influx_lines_refused_total"], 100.0);
    assert_eq!(metrics["openai_proxy_influx_lines_sent_total"], 1.0);
    assert_eq!(server.influx_account("young").keys().collect::<Vec<_>>(), [&("now".to_owned(), String::new())]);
}

#[test]
fn a_check_says_whether_writes_are_let_in() {
    let check = |url: String| {
        let config = Config::load(&|name| (name == "INFLUXDB_URL").then(|| url.clone().into()), "").unwrap();
        Exported::new(config.influx.unwrap(), &config.egress).check()
    };
    for kind in [Kind::Influx, Kind::Victoria] {
        let Some(mut server) = kind.start() else { continue };
        let url = server.url();
        assert_eq!(check(format!("{url}/write?db=usage")), Ok(()));
        if kind == Kind::Influx {
            let why = check(format!("{url}/write?db=nowhere")).unwrap_err();
            assert!(why.starts_with("404 ") && why.contains("database not found"), "{why}");
        }
        server.stop();
        assert!(check(format!("{url}/write?db=usage")).is_err());
    }
}
