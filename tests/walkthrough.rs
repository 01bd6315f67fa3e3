//! The README's and the manual's commands, run as they are typed, in the order in which a reader meets them.
//!
//! In: the `sh` blocks in English; tests/readme.rs holds the Japanese to the same blocks. Each runs by `sh -e` in a
//! folder of its own, where `proxy-server` is the binary under test, `cargo run --release` starts it, the target is a
//! mock, and `curl` reaches the server although its port is not 8080. What belongs to root (`sudo`) writes into that
//! folder. A block that this file does not know fails: whoever adds one decides how it is held true. Builds, benches and
//! the tests themselves are CI's.

mod support;

use openai_api_proxy::local::manual::UNIT;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use support::proxy::Proxy;
use support::script::Reply;
use support::upstream::Upstream;
use support::{manual, say, tools};

const ANSWER: &str =
    r#"{"model":"gpt-4o-mini-2024-07-18","usage":{"prompt_tokens":8,"completion_tokens":9,"total_tokens":17}}"#;

/// The commands of the README and then of each page, block by block.
fn blocks() -> Vec<String> {
    let all = manual::documents();
    let english = all.iter().flat_map(|(_, [english, _])| manual::blocks(english));
    english.filter_map(|block| block.strip_prefix("sh\n").map(str::to_owned)).collect()
}

/// A reader's terminal: a folder, a PATH, and variables.
struct Terminal {
    folder: tempfile::TempDir,
    path: String,
    vars: Vec<(String, String)>,
}

impl Terminal {
    fn new(curl: &Path, vars: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let programs = folder.path().join("bin");
        fs::create_dir(&programs).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_proxy-server"), programs.join("proxy-server")).unwrap();
        let cargo = "[ \"$*\" = \"run --release\" ] && exec proxy-server\n[ \"$*\" = \"install --path . --locked\" ]";
        // What root is asked to write is written here, and what root is asked to do is noted.
        let sudo = "case $1 in tee) exec tee \"${2##*/}\";; *) echo \"$*\" >> done-by-root;; esac";
        // The server's port is chosen by the system; the reader's is in the commands.
        let curl =
            format!("exec {} -fsS --max-time 20 --connect-to ::127.0.0.1:\"$SERVER_PORT\" \"$@\"", curl.display());
        for (name, script) in [("cargo", cargo), ("curl", curl.as_str()), ("sudo", sudo)] {
            let file = programs.join(name);
            fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let vars = vars.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { folder, path, vars }
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-ec", script]).current_dir(self.folder.path()).env_clear().env("PATH", &self.path);
        command.envs(self.vars.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Runs a block, which must succeed; what it writes to standard output.
    #[track_caller]
    fn run(&self, script: &str) -> String {
        let output = self.command(script).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{script}\n{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// Starts a server by a command that ends with its name.
    fn start(&self, line: &str) -> Proxy {
        // `env` takes the variables in front of the name, and becomes the server.
        Proxy::start_by(tempfile::tempdir().unwrap(), self.command(&format!("exec env {line}")))
    }
}

/// What a block is about, by what stands in it.
fn is_built_elsewhere(block: &str) -> bool {
    ["cargo test", "cargo bench", "RUSTFLAGS=", "docker build"].iter().any(|start| block.starts_with(start))
}

/// The team of the README: settings in a file, a key for each, and a server that asks for them. `HOST` alone is another
/// here, as tests stay on this machine.
fn a_team_is_set_up(curl: &Path, vars: &[(&str, &str)], block: &str) {
    let vars: Vec<_> = vars.iter().copied().filter(|(name, _)| *name != "OPENAI_API_KEY").collect();
    let terminal = Terminal::new(curl, &[vars.as_slice(), &[("HOST", "127.0.0.1")]].concat());
    let (before, last) = block.trim_end().rsplit_once('\n').unwrap();
    let said = terminal.run(before);
    let key = said.split_whitespace().find(|word| word.starts_with("opk-") || word.len() > 30).expect("a key");
    let mut server = terminal.start(last);
    let port = server.addr().port();
    let ask = format!("export SERVER_PORT={port}\ncurl -H 'Authorization: Bearer {key}' http://127.0.0.1:8080/usage");
    assert!(terminal.run(&ask).contains(r#""user_id":"taro""#));
    let refused = terminal.command(&ask.replace(key, "sk-of-nobody")).stderr(Stdio::null()).status().unwrap();
    assert!(!refused.success());
    assert!(server.terminate().success());
}

#[test]
fn every_command_does_what_is_said() {
    let Some(curl) = tools::find("curl") else { return };
    let upstream = Upstream::plain(|_| Reply::json(ANSWER).steps());
    let target = upstream.url();
    let vars = [("PROXY_TARGET", target.as_str()), ("PORT", "0"), ("OPENAI_API_KEY", "sk-of-the-reader")];
    let mut terminal = Terminal::new(&curl, &vars);
    let mut server = None;
    let mut done = Vec::new();
    for block in blocks() {
        let lines: Vec<&str> = block.lines().collect();
        match lines[0] {
            "cargo run --release" | "cargo install --path . --locked" => {
                terminal.run(&lines[..lines.len() - 1].join("\n"));
                let before: Option<Proxy> = server.take();
                before.into_iter().for_each(|mut before| assert!(before.terminate().success()));
                let started: Proxy = terminal.start(lines[lines.len() - 1]);
                terminal.vars.retain(|(name, _)| name != "SERVER_PORT");
                terminal.vars.push(("SERVER_PORT".to_owned(), started.addr().port().to_string()));
                server = Some(started);
            }
            first if first.starts_with("curl -H \"Authorization") => {
                let token = "ADMIN_TOKEN=an-administrators-token";
                let administered = terminal.start(&format!("{token} proxy-server"));
                let port = administered.addr().port();
                let said = terminal.run(&format!("export {token} SERVER_PORT={port}\n{block}"));
                assert!(said.contains(r#""usd_month":20.0"#), "{said}");
            }
            first if first.starts_with("curl ") => {
                let said = terminal.run(&block);
                assert!(said.contains(r#""user_id":"user123""#), "{said}");
                assert!(!block.contains("/metrics") || said.contains("openai_proxy_requests_total"), "{said}");
                let request = &upstream.requests()[0];
                assert!(request.head.start.starts_with("POST /v1/chat/completions"), "{}", request.head.start);
            }
            "cat > .env <<'END'" => a_team_is_set_up(&curl, &vars, &block),
            first if first.starts_with("proxy-server help systemd --unit") => {
                terminal.run(&block);
                let read = |file| fs::read_to_string(terminal.folder.path().join(file)).unwrap();
                assert_eq!(read("openai-proxy.service"), UNIT);
                assert_eq!(read("done-by-root"), "systemctl daemon-reload\nsystemctl enable --now openai-proxy\n");
            }
            first if first.starts_with("export OPENAI_BASE_URL=") => {
                let models = terminal.run(&format!("{block}\ncurl \"$OPENAI_BASE_URL/models\""));
                assert_eq!(models, ANSWER);
            }
            "proxy-server check" => {
                let said = terminal.run(&block);
                // What it warns of depends on the machine (open files) and on what was tried before.
                assert!(!said.contains("FAIL") && said.contains("\nok    ledger"), "{said}");
            }
            first if first.starts_with("proxy-server keys create") => {
                let said = terminal.run(&block);
                assert!(said.contains("laptop") && said.contains("key 1 is revoked"), "{said}");
            }
            first if first.starts_with("proxy-server limits set") => {
                let said = terminal.run(&block);
                assert!(said.contains("taro") && said.contains("research"), "{said}");
            }
            first if first.starts_with("proxy-server usage") => {
                let said = terminal.run(&block);
                assert!(said.contains("user123") && said.contains("--format"), "{said}");
            }
            first if first.starts_with("proxy-server grafana-dashboard") => {
                terminal.run(&block);
                let file = |name| fs::read_to_string(terminal.folder.path().join(name)).unwrap();
                assert!(serde_json::from_str::<serde_json::Value>(&file("dashboard.json")).is_ok());
                assert!(file("openai-proxy-rules.yaml").contains("groups:"));
            }
            first if first.starts_with("INFLUXDB_URL=") => {
                for line in &lines {
                    let mut exporting = terminal.start(line);
                    exporting.wait_for_log("exporting to influx");
                    assert!(exporting.terminate().success());
                }
            }
            first if first.starts_with("sqlite3 usage.db") => match tools::find("sqlite3") {
                Some(_) => {
                    let backed_up = format!("{block}\nsqlite3 usage-backup.db 'SELECT count(*) FROM records'");
                    let count = terminal.run("sqlite3 usage.db 'SELECT count(*) FROM records'");
                    assert!(!matches!(count.trim(), "" | "0"), "the reader's requests, of a server that runs");
                    assert_eq!(terminal.run(&backed_up), count);
                }
                None => say("the backup was not tried"),
            },
            first if first.starts_with("openssl req") => match tools::find("openssl") {
                Some(_) => {
                    terminal.run(&lines[..2].join("\n"));
                    let encrypted = terminal.start(lines[2]);
                    let port = encrypted.addr().port();
                    assert_eq!(terminal.run(&format!("export SERVER_PORT={port}\n{}", lines[3])), "ok\n");
                }
                None => say("HTTPS was not tried"),
            },
            _ if is_built_elsewhere(&block) => {}
            _ => panic!("tests/walkthrough.rs does not know this block:\n{block}"),
        }
        done.push(lines[0].to_owned());
    }
    assert!(done.len() >= 15, "the blocks are not where they were: {done:?}");
    let mut server = server.expect("the README starts a server");
    assert!(server.terminate().success());
}
