//! Two versions on one ledger. What the version before the last change of the schema leaves is taken over whole by the
//! present one, also while the older one goes on; after that the older one refuses the file, and does not touch it. The
//! same for the present version before a later one. Left to others: ledgers of each earlier schema, without a server
//! (`ledger/tiers`), and two servers of one version on a ledger (`ledger_faults/shared`).
//!
//! The older version is built from the repository's history, once, below the folder of what is built. That takes
//! minutes, so it is done where `REQUIRE_REAL_SERVERS=1`, as in CI.

#![allow(clippy::disallowed_methods)] // waiting has an end

mod support;

use rusqlite::Connection;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use support::client::post_json;
use support::proxy::{Proxy, command};
use support::rows::{assert_sums, reader};
use support::script::{Reply, Step};
use support::upstream::{SeenRequest, Upstream};
use support::{DEADLINE, say, skip};

/// The commit before teams (schema 8) and alerts (9).
const OLDER: &str = "ead056d00f2ae8ecb5e5ceee7708e0f9245332b6";
const OLDER_SCHEMA: u32 = 7;
const SCHEMA: u32 = openai_api_proxy::ledger::migrations::VERSION;

const USERS: [&str; 3] = ["user123", "太郎", "c"];
const CHAT: &str = "/v1/chat/completions";

/// The older version's binary; none where it is not to be built.
fn older() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    if std::env::var_os("REQUIRE_REAL_SERVERS").is_none_or(|required| required != "1") {
        skip(&format!("{OLDER} is not built, which takes minutes; REQUIRE_REAL_SERVERS=1 has it built"));
        return None;
    }
    BUILT.get_or_init(build).as_deref()
}

fn build() -> Option<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = built.join("versions").join(OLDER);
    let source = folder.join("source");
    std::fs::create_dir_all(&folder).unwrap();
    if !source.exists() {
        let has_it = run(Command::new("git").current_dir(repository).args(["cat-file", "-e", OLDER]));
        if has_it.is_err() {
            // No server is missing: a shallow clone has no history.
            say(&format!("SKIPPED: {OLDER} is not here: clone all of the history, or `git fetch --unshallow`"));
            return None;
        }
        let (part, archive) = (folder.join("part"), folder.join("source.tar"));
        std::fs::create_dir_all(&part).unwrap();
        let mut git = Command::new("git");
        run(git.current_dir(repository).args(["archive", OLDER, "-o"]).arg(&archive)).unwrap();
        run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&part)).unwrap();
        std::fs::rename(part, &source).unwrap();
    }
    let target = folder.join("target");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(&source).env("CARGO_TARGET_DIR", &target);
    run(cargo.args(["build", "--quiet", "--locked", "--bin", "proxy-server"])).unwrap();
    Some(target.join("debug/proxy-server"))
}

/// Runs a command to its end; what it said, where that was no success.
fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// The present version's command, run by another binary.
fn by(binary: &Path, folder: &Path, vars: &[(&str, &str)]) -> Command {
    let present = command(folder, vars);
    let mut command = Command::new(binary);
    command.env_clear().current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    command.envs(present.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Usage that depends on the request, of a model with a price.
fn answer(request: &SeenRequest) -> Vec<Step> {
    let n = request.json()["n"].as_u64().unwrap();
    let usage = serde_json::json!({"prompt_tokens": 10 + n, "completion_tokens": n, "total_tokens": 10 + 2 * n});
    let id = format!("chatcmpl-{n}");
    Reply::json(serde_json::json!({"id": id, "model": "gpt-4o-mini", "choices": [], "usage": usage}).to_string())
        .steps()
}

fn ask(proxy: &Proxy, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let body = serde_json::json!({"model": "gpt-4o-mini", "messages": [], "n": n}).to_string();
        post_json(proxy.addr(), CHAT, &[("x-user-id", USERS[n % USERS.len()])], &body).expect(200);
    }
}

/// The sums of all, and of each user.
fn sums(proxy: &Proxy) -> Vec<Value> {
    let of_user = |user: &&str| {
        let escaped: String = user.bytes().map(|byte| format!("%{byte:02x}")).collect();
        proxy.usage(&format!("limit=1&user_id={escaped}"))["totals"].clone()
    };
    USERS.iter().map(of_user).chain([proxy.usage("limit=1")["totals"].clone()]).collect()
}

fn number(conn: &Connection, sql: &str) -> i64 {
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

const FOLDED: &str = "SELECT record_id FROM marks WHERE name = 'fold'";

/// Waits until every row is in the sums.
#[track_caller]
fn until_folded(conn: &Connection) {
    let start = Instant::now();
    while number(conn, FOLDED) < number(conn, "SELECT max(id) FROM records") {
        assert!(start.elapsed() < DEADLINE, "it is not folded");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What is in a folder: names and contents.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// It does not start, says both versions, and leaves all as it is. What else it says.
#[track_caller]
fn assert_refused(mut command: Command, folder: &Path, [theirs, its]: [u32; 2]) -> String {
    let before = files(folder);
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("has schema version {theirs}, newer than this build's {its}")), "{said}");
    assert!(said.contains("it was left untouched"), "{said}");
    assert!(files(folder) == before, "it was not left untouched");
    said
}

#[test]
fn an_older_versions_ledger_is_taken_over_whole_and_then_refused_by_it() {
    let Some(older) = older() else { return };
    let upstream = Upstream::plain(answer);
    let (target, folder) = (upstream.url(), tempfile::tempdir().unwrap());
    let vars = [("PROXY_TARGET", target.as_str()), ("LEDGER_DURABILITY", "settled")];
    let command_of_older = by(older, folder.path(), &vars);
    let mut proxy = Proxy::start_by(folder, command_of_older);
    ask(&proxy, 0..30);
    until_folded(&reader(&proxy.database()));
    ask(&proxy, 30..40); // in no sum yet, or only just
    let before = sums(&proxy);
    assert!(proxy.terminate().success());

    let mut proxy = Proxy::start_in(proxy.into_folder(), &vars);
    let migrated = proxy.wait_for_log("brought to the present schema");
    assert!(migrated.contains(&format!("from={OLDER_SCHEMA} to={SCHEMA}")), "{migrated}");
    assert_eq!(sums(&proxy), before);
    ask(&proxy, 40..50);
    until_folded(&reader(&proxy.database()));
    assert_sums(&proxy, &reader(&proxy.database()));
    assert!(proxy.terminate().success());
    assert_refused(by(older, proxy.folder(), &vars), proxy.folder(), [SCHEMA, OLDER_SCHEMA]);
    let proxy = Proxy::start_in(proxy.into_folder(), &vars);
    assert_eq!(proxy.usage("limit=1")["totals"]["requests"], 50);
}

#[test]
fn an_older_version_goes_on_beside_the_present_one() {
    let Some(older) = older() else { return };
    let upstream = Upstream::plain(answer);
    let (target, folder) = (upstream.url(), tempfile::tempdir().unwrap());
    let vars = [("PROXY_TARGET", target.as_str()), ("LEDGER_DURABILITY", "settled")];
    let command_of_older = by(older, folder.path(), &vars);
    let mut old = Proxy::start_by(folder, command_of_older);
    ask(&old, 0..10);
    let database = old.database();
    let mut new = Proxy::start(&[&vars[..], &[("DATABASE_PATH", database.to_str().unwrap())]].concat());
    let conn = reader(&database);
    // Turns in which both write and both fold.
    for turn in 0..5 {
        let first = 10 + turn * 200;
        std::thread::scope(|scope| {
            scope.spawn(|| ask(&old, first..first + 100));
            ask(&new, first + 100..first + 200);
        });
        until_folded(&conn);
        assert_sums(&old, &conn);
        assert_sums(&new, &conn);
    }
    assert_eq!(sums(&old), sums(&new));
    assert_eq!(number(&conn, "SELECT count(*) FROM records"), 1010);
    for proxy in [&mut new, &mut old] {
        assert!(proxy.terminate().success());
        assert!(!proxy.stderr().contains("cannot"), "{}", proxy.stderr());
    }
}

#[test]
fn where_a_later_version_has_migrated_the_file_rows_are_added_and_the_sums_left_to_it() {
    let upstream = Upstream::plain(answer);
    let vars = [("LEDGER_DURABILITY", "settled")];
    let mut proxy = Proxy::before(&upstream, &vars);
    ask(&proxy, 0..10);
    let later = Connection::open(proxy.database()).unwrap();
    later.busy_timeout(DEADLINE).unwrap();
    later.execute_batch("BEGIN IMMEDIATE").unwrap();
    for table in ["records", "rollups", "days", "months", "key_days"] {
        later.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN later INTEGER NOT NULL DEFAULT 7")).unwrap();
    }
    later.pragma_update(None, "user_version", SCHEMA + 1).unwrap();
    let folded = number(&later, FOLDED);
    later.execute_batch("COMMIT").unwrap();

    ask(&proxy, 10..20);
    let told = proxy.wait_for_log("ledger cannot fold");
    let versions = format!("the ledger has schema version {}, newer than this build's {SCHEMA}", SCHEMA + 1);
    assert!(told.contains(&versions) && told.contains("start it with that build"), "{told}");
    assert_eq!(number(&later, FOLDED), folded);
    assert_eq!(number(&later, "SELECT count(*) FROM records WHERE later = 7"), 20);
    assert_sums(&proxy, &later);
    drop(later);
    assert!(proxy.terminate().success());
    let said = assert_refused(command(proxy.folder(), &vars), proxy.folder(), [SCHEMA + 1, SCHEMA]);
    assert!(said.contains("start that build, or put a backup from before in its place"), "{said}");
}
