//! `check`, `healthcheck` and what the command line promises: lines that say what to do, and exit statuses. Left to
//! others: `keys` and `limits` (`keys`), `usage` (`formats`), the manual's commands as they are typed (`walkthrough`).

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use openai_api_proxy::local::manual::subjects::SUBJECTS;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use support::ca::{Ca, Server};
use support::free_port;
use support::proxy::{Proxy, command, run_with as run};
use support::script::Reply;
use support::tools;
use support::upstream::Upstream;

/// What `check` says of one thing.
#[track_caller]
fn line<'a>(said: &'a str, what: &str) -> &'a str {
    let found = said.lines().find(|line| line.split_whitespace().nth(1) == Some(what));
    found.unwrap_or_else(|| panic!("nothing of {what} in:\n{said}"))
}

#[test]
fn check_where_all_is_well() {
    let upstream = Upstream::plain(|_| Reply::json("{}").steps());
    let proxy = Proxy::before(&upstream, &[]);
    let (target, port) = (upstream.url(), proxy.addr().port().to_string());
    let files = |folder: &std::path::Path| {
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = files(proxy.folder());
    let vars = [("PROXY_TARGET", target.as_str()), ("PORT", port.as_str()), ("MAX_CONNECTIONS", "100")];
    let (status, said, aside) = run(proxy.folder(), &["check"], &vars);
    assert_eq!((status, aside.as_str()), (Some(0), ""), "{said}");
    // The built-in prices grow old.
    let others = said.split_once("prices").map(|(before, _)| before.trim_end_matches("warn  ")).unwrap();
    assert!(others.lines().all(|line| line.starts_with("ok ")), "{said}");
    assert!(line(&said, "listen").contains("a proxy that answers") && line(&said, "ledger").contains("sound"));
    assert_eq!(files(proxy.folder()), before, "it leaves nothing");
    support::client::post_json(proxy.addr(), "/v1/chat/completions", &[], r#"{"model":"m"}"#).expect(200);

    let empty = tempfile::tempdir().unwrap();
    let vars = [("PROXY_TARGET", target.as_str()), ("PORT", "0")];
    let (status, said, _) = run(empty.path(), &["check"], &vars);
    assert_eq!(status, Some(0), "{said}");
    assert!(line(&said, "ledger").contains("can be created") && files(empty.path()).is_empty(), "{said}");
}

#[test]
fn check_shakes_hands() {
    let ca = Ca::new();
    let upstream = Upstream::tls(ca.server(&["127.0.0.1"], Server::Usual), |_| Reply::json("{}").steps());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, ca.pem()).unwrap();
    let (target, file) = (upstream.url(), file.to_str().unwrap().to_owned());
    let (status, said, _) = run(folder.path(), &["check"], &[("PROXY_TARGET", &target), ("TLS_CA_FILE", &file)]);
    assert_eq!(status, Some(0), "{said}");
    assert!(line(&said, "tls").starts_with("ok "), "{said}");
    let (status, said, _) = run(folder.path(), &["check"], &[("PROXY_TARGET", &target)]);
    assert_eq!(status, Some(1), "{said}");
    assert!(line(&said, "tls").starts_with("FAIL ") && said.contains("TLS_CA_FILE"), "{said}");
}

#[test]
fn check_says_what_is_wrong_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    std::fs::write(folder.path().join("usage.db"), "this is a letter to my aunt, and no database").unwrap();
    let vars = [
        ("PROXY_TARGET", nobody.as_str()),
        ("PORT", port.as_str()),
        ("INFLUXDB_URL", nobody.as_str()),
        ("INFLUXDB_DATABASE", "usage"),
        ("INFLUXDB_USERNAME", "somebody"),
        ("INFLUXDB_PASSWORD", "hunter2"),
    ];
    let (status, said, aside) = run(folder.path(), &["check"], &vars);
    assert_eq!((status, aside.as_str()), (Some(1), ""), "{said}");
    for (what, remedy) in
        [("listen", "ss -ltnp"), ("connect", "PROXY_TARGET"), ("ledger", "DATABASE_PATH"), ("influx", "INFLUXDB_URL")]
    {
        assert!(line(&said, what).starts_with("FAIL  ") && said.contains(remedy), "{what}: {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
    let letter = std::fs::read_to_string(folder.path().join("usage.db")).unwrap();
    assert!(letter.starts_with("this is a letter"));

    let vars = [("PROXY_TARGET", "http://no-such-host.invalid"), ("DATABASE_PATH", "/nowhere/at/all.db")];
    let (status, said, _) = run(folder.path(), &["check"], &vars);
    assert_eq!(status, Some(1), "{said}");
    assert!(line(&said, "resolve").starts_with("FAIL ") && line(&said, "ledger").starts_with("FAIL "), "{said}");

    let (status, said, _) = run(folder.path(), &["check"], &[("PORT", "x"), ("LOG", "loud")]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("PORT: expected") && said.contains("LOG: expected"), "{said}");
}

/// A target whose clock is an hour off, and that takes one key.
fn strict_target() -> Upstream {
    Upstream::plain(|request| {
        let status = match request.head.get("authorization") {
            Some("Bearer sk-right") if request.target == "/v1/models" => 200,
            _ => 401,
        };
        let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        let unix = hour_ago.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let mut date = Vec::new();
        openai_api_proxy::base::civil::write_imf_fixdate(&mut date, unix);
        Reply::new(status, "{}").field("Date", &String::from_utf8(date).unwrap()).steps()
    })
}

#[test]
fn check_asks_with_the_key_and_looks_at_the_clock() {
    let (upstream, folder) = (strict_target(), tempfile::tempdir().unwrap());
    let target = upstream.url();
    for (key, status, word) in [("sk-right", 0, "ok "), ("sk-wrong-hush", 1, "FAIL ")] {
        let vars = [("PROXY_TARGET", target.as_str()), ("OPENAI_API_KEY", key)];
        let (found, said, _) = run(folder.path(), &["check"], &vars);
        assert_eq!(found, Some(status), "{said}");
        assert!(line(&said, "answer").starts_with(word) && !said.contains("hush"), "{said}");
        let clock = line(&said, "clock");
        assert!(clock.starts_with("warn ") && clock.contains("ahead of the target's"), "{said}");
    }
    let (status, said, _) = run(folder.path(), &["check"], &[("PROXY_TARGET", &target)]);
    assert!(status == Some(0) && line(&said, "answer").contains("without a key"), "{said}");
}

#[test]
fn check_as_one_document() {
    let (upstream, folder) = (strict_target(), tempfile::tempdir().unwrap());
    let target = upstream.url();
    let exposed = folder.path().join(".env");
    std::fs::write(&exposed, "LOG=info\n").unwrap();
    std::fs::set_permissions(&exposed, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let vars = [("PROXY_TARGET", target.as_str()), ("OPENAI_API_KEY", "sk-wrong"), ("MAX_CONNECTIONS", "1000000")];
    let (status, said, aside) = run(folder.path(), &["check", "--json"], &vars);
    assert_eq!((status, aside.as_str()), (Some(1), ""), "{said}");
    let document: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(document["ok"], false);
    let checks = document["checks"].as_array().unwrap();
    for (name, status) in [
        ("configuration", "warn"), // PORT=0
        ("listen", "ok"),
        ("anonymous", "ok"),
        ("descriptors", "warn"),
        ("resolve", "ok"),
        ("connect", "ok"),
        ("answer", "fail"),
        ("clock", "warn"),
        ("ledger", "ok"),
        ("files", "warn"),
    ] {
        let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {said}"));
        assert_eq!((&check["status"], check["remedy"].is_null()), (&status.into(), status == "ok"), "{check}");
        assert!(!check["detail"].as_str().unwrap().is_empty());
    }
    let (status, said, _) = run(folder.path(), &["check", "--json"], &[("LOG", "loud")]);
    let document: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, &document["ok"]), (Some(2), &false.into()));
    assert!(document["checks"][0]["detail"].as_str().unwrap().contains("LOG: expected"), "{said}");
}

#[test]
fn a_port_that_another_program_has_is_told() {
    let (folder, taken) = (tempfile::tempdir().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = taken.local_addr().unwrap().port().to_string();
    let (status, _, said) = run(folder.path(), &["serve"], &[("PORT", &port)]);
    assert!(status == Some(1) && said.contains("another program has it: set PORT"), "{said}");
}

#[test]
fn healthcheck() {
    let upstream = Upstream::plain(|_| Reply::json("{}").steps());
    let proxy = Proxy::before(&upstream, &[("ADMIN_TOKEN", "secret-of-the-admin")]);
    let port = proxy.addr().port().to_string();
    for host in ["127.0.0.1", "0.0.0.0", "localhost"] {
        let (status, out, aside) = run(proxy.folder(), &["healthcheck"], &[("PORT", &port), ("HOST", host)]);
        assert_eq!((status, out.as_str(), aside.as_str()), (Some(0), "", ""), "{host}");
    }
    let (status, _, why) = run(proxy.folder(), &["healthcheck"], &[("PORT", &free_port().to_string())]);
    assert_eq!(status, Some(1));
    assert!(why.contains("no answer from 127.0.0.1"), "{why}");
    // Accepts, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    assert_eq!(run(proxy.folder(), &["healthcheck"], &[("PORT", &port)]).0, Some(1));
    assert_eq!(run(proxy.folder(), &["healthcheck"], &[("PORT", "0")]).0, Some(1));
    assert_eq!(run(proxy.folder(), &["healthcheck"], &[("PORT", "x")]).0, Some(2));
    assert_eq!(run(proxy.folder(), &["no-such-command"], &[]).0, Some(2));
    let (status, _, why) = run(proxy.folder(), &["usage", "--from", "1h", "--to", "2h"], &[]);
    assert!(status == Some(2) && why.contains("--from must be before --to"), "{why}");
}

/// In another folder there is another ledger: which one a command has worked on is told, beside the answer.
#[test]
fn commands_say_which_ledger_they_worked_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db").display().to_string();
    let on = |arguments: &str| run(folder.path(), &arguments.split(' ').collect::<Vec<_>>(), &[]);
    for reading in ["usage", "usage --format json", "keys list", "limits list", "limits clear taro"] {
        let (status, out, aside) = on(reading);
        let remedy = format!("there is no ledger {path}: a server makes it when it starts; DATABASE_PATH says where");
        assert_eq!((status, out.as_str(), aside), (Some(1), "", format!("proxy-server: {remedy}\n")), "{reading}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is made");

    let (status, key, aside) = on("keys create taro");
    assert!(status == Some(0) && key.starts_with("oap_") && key.lines().count() == 1, "{key}");
    assert_eq!(aside.lines().last(), Some(format!("ledger: {path} (new)").as_str()), "{aside}");
    for again in
        ["keys create taro", "keys list", "keys revoke 1", "keys revoke 99", "limits set taro --rpm 7", "usage"]
    {
        let (status, _, aside) = on(again);
        assert_eq!(aside.lines().next(), Some(format!("ledger: {path}").as_str()), "{again}: {aside}");
        assert_eq!((aside.contains("(new)"), status), (false, Some((again == "keys revoke 99").into())), "{again}");
    }
    // Whoever parses the answer is told nothing else.
    for parsed in ["usage --format json", "usage --format csv", "keys list --format json", "limits list --format json"]
    {
        assert_eq!(on(parsed).2, "", "{parsed}");
    }
    // Where none can be made, none is named as one that is there.
    let (status, _, aside) = run(folder.path(), &["keys", "create", "hana"], &[("DATABASE_PATH", "/nowhere/usage.db")]);
    assert!(
        status == Some(1) && !aside.contains("ledger: ") && aside.contains("make it, or set DATABASE_PATH"),
        "{aside}"
    );
}

/// Help is about what was asked, and a misspelt command is not a riddle.
#[test]
fn help_is_by_command() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["serve", "check", "healthcheck", "grafana-dashboard", "alert-rules", "usage"] {
        let (status, page, aside) = run(folder.path(), &[name, "--help"], &[]);
        assert!(page.contains(&format!("Usage: proxy-server {name}")), "{name}: {page}");
        assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
        assert_eq!((status, aside.as_str()), (Some(0), ""), "{name}");
        assert_eq!(run(folder.path(), &["help", name], &[]).1, page);
    }
    for (arguments, why) in [
        (&["usgae"][..], "unknown command \"usgae\"; did you mean usage?"),
        (&["usage", "--foo"], "unknown option --foo; try usage --help"),
    ] {
        let (status, _, aside) = run(folder.path(), arguments, &[]);
        assert_eq!((status, aside), (Some(2), format!("proxy-server: {why}\n")));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is made");
}

/// The manual in a terminal, in the language of the environment.
#[test]
fn help_prints_the_manual() {
    let folder = tempfile::tempdir().unwrap();
    let (status, list, aside) = run(folder.path(), &["help", "--list"], &[]);
    assert_eq!((status, list.lines().count(), aside.as_str()), (Some(0), SUBJECTS.len(), ""), "{list}");
    for subject in SUBJECTS {
        let (status, page, _) = run(folder.path(), &["help", subject.name, "--page"], &[]);
        assert!(status == Some(0) && page.lines().count() > 5, "{page}");
        let (_, japanese, _) = run(folder.path(), &["help", subject.name, "--page"], &[("LC_ALL", "ja_JP.UTF-8")]);
        assert!(japanese.contains('。') && !page.contains('。'), "{japanese}");
    }
    let (_, unit, _) = run(folder.path(), &["help", "systemd", "--unit"], &[]);
    assert!(unit.starts_with("[Unit]\n"), "{unit}");
    let (status, _, aside) = run(folder.path(), &["help", "durabilty"], &[]);
    assert_eq!((status, aside.contains("did you mean durability?")), (Some(2), true), "{aside}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is made");
}

/// Runs the binary on a terminal of its own until it has said this, and ends it: all that it said.
fn on_a_terminal(folder: &std::path::Path, arguments: &[&str], vars: &[(&str, &str)], until: &str) -> Option<String> {
    let python = tools::find("python3")?;
    let script = "import os, pty, signal, sys\n\
                  pid, terminal = pty.fork()\n\
                  if pid == 0: os.execv(sys.argv[2], sys.argv[2:])\n\
                  said = b''\n\
                  while sys.argv[1].encode() not in said:\n\
                  \x20   try: said += os.read(terminal, 65536)\n\
                  \x20   except OSError: break\n\
                  os.kill(pid, signal.SIGTERM)\n\
                  sys.stdout.buffer.write(said)\n\
                  sys.stdout.flush()\n\
                  os.waitpid(pid, 0)\n";
    let binary = command(folder, vars);
    let mut command = Command::new(python);
    command.env_clear().current_dir(folder).envs(binary.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.args(["-c", script, until, env!("CARGO_BIN_EXE_proxy-server")]).args(arguments);
    Some(String::from_utf8(command.output().unwrap().stdout).unwrap())
}

/// Who starts it on a terminal reads how to go on; a log that a program reads has no such lines.
#[test]
fn a_terminal_is_told_how_to_go_on() {
    let upstream = Upstream::plain(|_| Reply::json("{}").steps());
    let (folder, target) = (tempfile::tempdir().unwrap(), upstream.url());
    let vars = [("PROXY_TARGET", target.as_str())];
    let Some(said) = on_a_terminal(folder.path(), &["serve"], &vars, "help start") else { return };
    let port = said.split("addr=127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
    for part in [
        format!("export OPENAI_BASE_URL=http://127.0.0.1:{port}/v1\r\n"),
        format!("http://127.0.0.1:{port}/dashboard\r\n"),
        format!("for {target}\r\n"),
        "/usage.db;".to_owned(),
        "Ctrl-C".to_owned(),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    let japanese = [vars[0], ("LANG", "ja_JP.UTF-8")];
    let said = on_a_terminal(folder.path(), &["serve"], &japanese, "help start").unwrap();
    assert!(said.contains("待ち受け"), "{said}");
    let mut piped = Proxy::before(&upstream, &[]);
    assert!(piped.terminate().success() && !piped.stderr().contains("OPENAI_BASE_URL"), "{}", piped.stderr());
    // A page goes by whatever shows pages, and by itself where that is not there.
    for (pager, shown) in [("cat; echo by the pager", true), ("no-such-pager", false), ("", false)] {
        let vars = [("PAGER", pager), ("PATH", "/usr/bin:/bin")];
        let said = on_a_terminal(folder.path(), &["help", "log"], &vars, "by the pager").unwrap();
        assert_eq!((said.contains("LOG_FORMAT"), said.contains("by the pager")), (true, shown), "{pager}: {said}");
    }
}

/// A reader who has had enough, as `| head -1` has.
#[test]
fn a_closed_pipe_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    for argument in ["--help", "grafana-dashboard", "check"] {
        let mut command = command(folder.path(), &[("PROXY_TARGET", "http://127.0.0.1:9")]);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.arg(argument).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert!(output.status.code().is_some_and(|code| code <= 1), "{argument}: {:?}", output.status);
        assert!(output.stderr.is_empty(), "{argument}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
