//! Limits at three levels: everybody together, a team, a user. Under a crowd exactly as many pass as each level allows,
//! whatever users call themselves; a refusal names the level; a running server follows the commands; models that may be
//! asked for; and sums by team. Left to others: each limit of a user (`quotas`, `limits`), keys (`keys`), the arithmetic
//! (beside `src/limit`).

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::client::{Client, Response, get, post_json};
use support::gate::Held;
use support::proxy::{Proxy, done, run};
use support::script::Reply;
use support::until;
use support::upstream::Upstream;

const CHAT: &str = "/v1/chat/completions";
/// Requests at once, and the users who send them in turn; half of these are of the team.
const CROWD: usize = 200;
const USERS: usize = 20;
const JSON: (&str, &str) = ("content-type", "application/json");
const UNLIMITED: (&str, &str) = ("RATE_LIMIT_RPM", "0");

fn send(proxy: &Proxy, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Response {
    Client::connect(proxy.addr()).request(method, target, fields, body)
}

/// A folder whose ledger has ten users in the team.
fn with_team() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for user in (0..USERS).step_by(2) {
        done(folder.path(), &format!("users set u{user} --team x"));
    }
    folder
}

/// At a level, one limit after another, under a crowd of users: exactly as many pass as it allows, and each refusal names
/// the level.
fn exactly_at(level: &str) {
    for (limit, set, per_request, allowed) in [
        ("requests", "rpm", "--rpm 30", 30),
        ("tokens", "tpm", "--tpm 60000", 6),
        ("concurrent", "concurrent", "--concurrent 7", 7),
        ("budget_day", "usd-day", "--usd-day 0.0031", 5),
        ("budget_month", "usd-month", "--usd-month 0.0031", 5),
    ] {
        let folder = with_team();
        let whose = if level == "total" { "--total".to_owned() } else { "--team x".to_owned() };
        done(folder.path(), &format!("limits set {whose} {per_request}"));
        let held = Held::new();
        let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &held.upstream.url()), UNLIMITED]);
        // gpt-4o-mini: three tokens in at 150 nano-dollars and 1,000 out at 600 are 600,450.
        let max_tokens = if set == "tpm" { 9_000 } else { 1_000 };
        let body = json!({"model": "gpt-4o-mini", "max_tokens": max_tokens}).to_string();
        let clients: Vec<Client> = (0..CROWD)
            .map(|n| {
                let mut client = Client::connect(proxy.addr());
                let user = format!("u{}", n % USERS);
                client.send_request("POST", CHAT, &[("x-user-id", &user), JSON], body.as_bytes());
                client
            })
            .collect();
        let strangers = if level == "total" { 0 } else { CROWD / 2 };
        held.gate.wait_for(strangers + allowed);
        let (mut refused, mut waiting) = (0, Vec::new());
        let refusals = || {
            let refused = proxy.metrics();
            let by_limit = refused.iter().filter(|(sample, _)| {
                sample.starts_with("openai_proxy_rate_limited_total")
                    && sample.ends_with(&format!("level=\"{level}\",limit=\"{limit}\"}}"))
            });
            by_limit.map(|(_, count)| count).sum::<f64>() as usize
        };
        until(&format!("{level}, {limit}: all others are refused"), || refusals() >= CROWD - strangers - allowed);
        held.gate.set(true);
        for mut client in clients {
            let response = client.response("POST");
            match response.head.status() {
                429 => {
                    let error = &response.json()["error"];
                    assert_eq!(error["param"], json!(level), "{limit}: {error}");
                    let named = if level == "total" { "all users together" } else { "team \"x\"" };
                    assert!(error["message"].as_str().unwrap().contains(named), "{error}");
                    refused += 1;
                }
                status => {
                    assert_eq!(status, 200);
                    waiting.push(response);
                }
            }
        }
        assert_eq!((refused, waiting.len()), (CROWD - strangers - allowed, strangers + allowed), "{level}, {limit}");
    }
}

#[test]
fn exactly_as_many_pass_as_everybody_may_together() {
    exactly_at("total");
}

#[test]
fn exactly_as_many_pass_as_a_team_may_and_others_are_not_concerned() {
    exactly_at("team");
}

/// What the settings say of everybody; and whoever leaves gives back, at each level.
#[test]
fn who_leaves_gives_back_at_every_level() {
    let held = Held::new();
    let folder = with_team();
    done(folder.path(), "limits set --team x --concurrent 6");
    let vars = [("TOTAL_MAX_CONCURRENT", "6"), ("MAX_CONCURRENT_PER_USER", "3"), UNLIMITED];
    let proxy = Proxy::start_in(folder, &[&[("PROXY_TARGET", &*held.upstream.url())], &vars[..]].concat());
    let ask = |user: &str| {
        let mut client = Client::connect(proxy.addr());
        client.send_request("POST", CHAT, &[("x-user-id", user), JSON], br#"{"model":"m"}"#);
        client
    };
    for round in 1..=3 {
        held.gate.set(false);
        let clients: Vec<Client> = ["u0", "u0", "u0", "u2", "u2", "u2"].map(ask).into();
        held.gate.wait_for(6 * round);
        for (user, level) in [("u0", "user"), ("u4", "team"), ("u1", "total")] {
            let refused = ask(user).response("POST");
            let error = refused.json()["error"].clone();
            assert_eq!((&error["code"], &error["param"]), (&json!("rate_limit_exceeded"), &json!(level)), "{error}");
        }
        drop(clients); // before their answers
        until("they have left", || proxy.metrics()["openai_proxy_requests_in_flight"] == 0.0);
        held.gate.set(true);
    }
    post_json(proxy.addr(), CHAT, &[("x-user-id", "u0")], r#"{"model":"m"}"#).expect(200);
}

fn plain() -> Upstream {
    Upstream::plain(|request| {
        if request.body.is_empty() {
            return Reply::json(r#"{"data":[]}"#).steps();
        }
        let model =
            request.json()["model"].as_str().map_or("gpt-4o-mini".to_owned(), |model| model.replace("fake", "real"));
        let usage = r#"{"prompt_tokens":1,"total_tokens":1}"#;
        Reply::json(json!({"model": model}).to_string().replace('}', &format!(r#","usage":{usage}}}"#))).steps()
    })
}

/// Two servers on one file follow the commands, and SIGHUP the settings.
#[test]
fn servers_follow_what_is_set_of_teams_and_of_everybody() {
    let upstream = plain();
    let target = upstream.url();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let path = path.to_str().unwrap();
    let vars = [("PROXY_TARGET", &*target), UNLIMITED, ("DATABASE_PATH", path)];
    let proxies = [Proxy::start(&vars), Proxy::start(&vars)];
    let limit = |proxy: &Proxy, user: &str| {
        let response = post_json(proxy.addr(), CHAT, &[("x-user-id", user)], r#"{"model":"gpt-4o-mini"}"#);
        response.head.get("x-ratelimit-limit-requests").map(str::to_owned)
    };
    let becomes = |user: &str, expected: Option<&str>| {
        for proxy in &proxies {
            until(&format!("{user} has {expected:?}"), || limit(proxy, user).as_deref() == expected);
        }
    };
    let run = |arguments: &str| done(folder.path(), arguments);
    run("limits set --total --rpm 900");
    becomes("a", Some("900"));
    run("users set a --team x");
    run("limits set --team x --rpm 800");
    becomes("a", Some("800")); // the least of the three
    becomes("b", Some("900"));
    run("limits set a --rpm 700");
    becomes("a", Some("700"));
    let listed = run("limits list");
    let rows: Vec<Vec<&str>> = listed.lines().skip(1).map(|row| row.split_whitespace().take(3).collect()).collect();
    assert_eq!(rows, [["user", "a", "700"], ["team", "x", "800"], ["total", "-", "900"]]);
    run("users set a --team y");
    run("limits clear a");
    becomes("a", Some("900"));
    run("limits clear --total");
    becomes("a", None);
    assert_eq!(
        run("users list").lines().skip(1).map(|row| row.split_whitespace().collect()).collect::<Vec<Vec<_>>>(),
        [["x", "-"], ["y", "a"]]
    );
    let listed: Value = serde_json::from_str(&run("users list --format json")).unwrap();
    assert_eq!(listed, json!([{"user": null, "team": "x"}, {"user": "a", "team": "y"}]));
    run("users delete-team y --move-to x");
    becomes("a", Some("800"));
    run("users set a --no-team");
    becomes("a", None);
}

#[test]
fn what_everybody_may_together_is_read_again_on_sighup() {
    let upstream = plain();
    let target = upstream.url();
    let folder = tempfile::tempdir().unwrap();
    let env = folder.path().join(".env");
    std::fs::write(&env, "TOTAL_RATE_LIMIT_RPM=5\n").unwrap();
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &target), UNLIMITED]);
    let limit = || {
        let response = post_json(proxy.addr(), CHAT, &[], r#"{"model":"gpt-4o-mini"}"#);
        response.head.get("x-ratelimit-limit-requests").map(str::to_owned)
    };
    assert_eq!(limit().as_deref(), Some("5"));
    std::fs::write(&env, "TOTAL_RATE_LIMIT_RPM=9\n").unwrap();
    proxy.signal(Signal::HUP);
    until("the new limit", || limit().as_deref() == Some("9"));
}

/// A liar's ways to a model that is not allowed, each of which is refused before the target hears of it.
#[test]
fn only_allowed_models_are_asked_for() {
    let upstream = plain();
    let folder = with_team();
    done(folder.path(), "limits set --total --models gpt-4o*,gpt-5-mini,fake-model");
    done(folder.path(), "limits set --team x --models gpt-4o-mini,fake-model");
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &upstream.url()), UNLIMITED]);
    let post = |user: &str, path: &str, body: &str| post_json(proxy.addr(), path, &[("x-user-id", user)], body);
    let refused = |response: Response, level: &str| {
        let error = response.json()["error"].clone();
        assert_eq!((&error["code"], &error["param"]), (&json!("model_not_allowed"), &json!(level)), "{error}");
        response.expect(403);
    };
    post("u1", CHAT, r#"{"model":"gpt-4o-2024-08-06"}"#).expect(200);
    post("u0", CHAT, r#"{"model":"gpt-4o-mini"}"#).expect(200);
    let before = upstream.requests().len();
    refused(post("u0", CHAT, r#"{"model":"gpt-4o"}"#), "team");
    refused(post("u1", CHAT, r#"{"model":"gpt-5"}"#), "total");
    refused(post("u1", CHAT, r#"{"model":"GPT-4o"}"#), "total");
    refused(post("u1", CHAT, "{}"), "total");
    refused(post("u1", "/v1/responses", r#"{"model":"o3"}"#), "total");
    refused(post("u1", "/v1/embeddings", r#"{"model":"text-embedding-3-small"}"#), "total");
    refused(post("u1", "/v1/batches", r#"{"input_file_id":"f"}"#), "total");
    refused(post("u1", "/v1/unknown/path", r#"{"model":"gpt-4o"}"#), "total");
    refused(post("u1", "/v1/threads/runs", r#"{"assistant_id":"a"}"#), "total");
    let form = "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b--\r\n";
    let fields = [("x-user-id", "u1"), ("content-type", "multipart/form-data; boundary=b")];
    let transcription = send(&proxy, "POST", "/v1/audio/transcriptions", &fields, form.as_bytes());
    refused(transcription, "total");
    for socket in ["/v1/realtime?model=gpt-realtime", "/v1/responses", "/v1/realtime"] {
        let fields = [
            ("x-user-id", "u1"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        refused(send(&proxy, "GET", socket, &fields, b""), "total");
    }
    // What two readers may read in two ways is not read for them.
    post("u1", CHAT, r#"{"model":"gpt-5","model":"gpt-4o"}"#).expect(400);
    post("u1", CHAT, r#"{"mod\u0065l":"gpt-5","model":"gpt-4o"}"#).expect(400);
    post("u1", CHAT, r#"{"model":["gpt-5"]}"#).head.status().checked_sub(400).expect("it is refused");
    assert_eq!(upstream.requests().len(), before, "nothing of it reached the target");
    send(&proxy, "GET", "/v1/models", &[("x-user-id", "u1")], b"").expect(200);
    // Asked for by an allowed name, answered by another model: it is said.
    post("u0", CHAT, r#"{"model":"fake-model"}"#).expect(200);
    proxy.wait_for_log("a model has answered that is not allowed");
    done(proxy.folder(), "limits set --total --models *");
    done(proxy.folder(), "limits clear --team x");
    until("all models are allowed", || post("u0", CHAT, "{}").head.status() == 200);
}

/// Users of a team, one who changes it, and one with a key that fixes it: each record keeps the team of its time.
#[test]
fn sums_are_told_by_team() {
    let upstream = plain();
    let folder = with_team();
    let token = "an-administrators-token";
    let fixed = done(folder.path(), "keys create u1 --team y").trim().to_owned();
    let own = done(folder.path(), "keys create u0").trim().to_owned();
    let target = upstream.url();
    let vars =
        [("PROXY_TARGET", &*target), ("CLIENT_AUTH", "keys"), ("OPENAI_API_KEY", "sk-x"), ("ADMIN_TOKEN", token)];
    let proxy = Proxy::start_in(folder, &vars);
    let ask = |key: &str| {
        let bearer = format!("Bearer {key}");
        post_json(proxy.addr(), CHAT, &[("authorization", &bearer)], r#"{"model":"gpt-4o-mini"}"#).expect(200);
    };
    let read =
        |key: &str, target: &str| send(&proxy, "GET", target, &[("authorization", &format!("Bearer {key}"))], b"");
    ask(&own);
    ask(&fixed);
    ask(&fixed);
    done(proxy.folder(), "users set u0 --team y");
    until("u0 counts to y", || {
        ask(&own);
        read(token, "/usage?limit=1").json()["data"][0]["team"] == json!("y")
    });
    done(proxy.folder(), "users set u0 --no-team");
    until("u0 counts to none", || {
        ask(&own);
        read(token, "/usage?limit=1").json()["data"][0]["team"].is_null()
    });
    let answer = read(token, "/usage?group_by=team").json();
    let requests = |of: &Value| of["requests"].as_u64().unwrap();
    let by_team = |team: &str| {
        let bucket = answer["buckets"].as_array().unwrap().iter().find(|bucket| bucket["team"] == team);
        bucket.map_or(0, requests)
    };
    let sums = ["x", "y", ""].map(by_team);
    assert!(sums[0] >= 1 && sums[1] >= 3 && sums[2] >= 1, "{answer}");
    assert_eq!(sums.iter().sum::<u64>(), requests(&answer["totals"]));
    let of_team = read(token, "/usage?team=y").json();
    assert_eq!((requests(&of_team["totals"]), &of_team["team"]), (sums[1], &json!("y")));
    assert!(of_team["data"].as_array().unwrap().iter().all(|record| record["team"] == "y"));
    let printed = done(proxy.folder(), "usage --by team");
    assert!(printed.contains("TEAM") && printed.lines().any(|line| line.starts_with("y ")), "{printed}");
    for target in ["/usage?team=y", "/usage?group_by=team"] {
        read(&own, target).expect_proxy_error(403, "forbidden");
    }
    for target in ["/usage?team=y&user_id=u0", "/usage?group_by=team&user_id=u0", "/usage?group_by=user&team=y"] {
        read(token, target).expect_proxy_error(400, "bad_request");
    }
}

/// What is wrong is told with the option and the value, and changes nothing.
#[test]
fn commands_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, code, part) in [
        ("limits set taro --team x --rpm 1", 2, "one of them"),
        ("limits set --team x --total --rpm 1", 2, "one of them"),
        ("limits set --rpm 1", 2, "expected limits set"),
        ("limits set --total", 2, "no limit is named"),
        ("limits set --total --models gpt-4o,,", 2, "--models"),
        ("limits list --total", 2, "expected limits set"),
        ("users set taro", 2, "--no-team"),
        ("users set taro --team x --no-team", 2, "--no-team"),
        ("users list --team x", 2, "expected users set"),
        ("users set a --team x --format json", 2, "--format belongs to users list"),
        ("users", 2, "expected users set"),
        ("users list", 1, "there is no ledger"),
        ("users delete-team x", 1, "there is no ledger"),
    ] {
        let output = run(folder.path(), arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        assert!(said.contains(part), "{arguments}: {said}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{arguments} makes no ledger");
    }
    done(folder.path(), "users set taro --team x");
    let output = run(folder.path(), "users delete-team x");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--move-to"));
}

/// By the server and by the command, under the settings and what is set; in JSON for a user, too.
#[test]
fn how_much_of_each_budget_is_used_stands_beside_what_was_used() {
    let upstream = plain(); // a request costs 150 nano-dollars
    let target = upstream.url();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), "BUDGET_USD_DAY=0.000003\nTOTAL_BUDGET_USD_MONTH=0.1\n").unwrap();
    for arguments in ["users set a --team x", "limits set --team x --usd-month 0.0006", "limits set b --usd-day 0"] {
        done(folder.path(), arguments);
    }
    let proxy = Proxy::start_in(folder, &[("PROXY_TARGET", &*target), UNLIMITED]);
    for user in ["a", "a", "b", "c"] {
        post_json(proxy.addr(), CHAT, &[("x-user-id", user)], r#"{"model":"gpt-4o-mini","max_tokens":1}"#).expect(200);
    }
    let by_server = |query: &str| get(proxy.addr(), &format!("/usage?format=text&{query}")).expect(200).text();
    for (by, rows) in [("user", vec![["a", "10% day"], ["c", "5% day"]]), ("team", vec![["x", "0% month"]])] {
        let text = by_server(&format!("group_by={by}"));
        assert_eq!(text, done(proxy.folder(), &format!("usage --by {by}")));
        assert!(text.contains("\nbudget: 0% spent, $0.0000006 of $0.1 this month (UTC)\n"), "{text}");
        for row in text.lines().filter(|line| line.contains("% day") || line.contains("% month")) {
            assert!(rows.iter().any(|[name, used]| row.starts_with(name) && row.contains(used)), "{row}");
        }
        assert_eq!(text.matches("% day").count() + text.matches("% month").count(), rows.len(), "{text}");
    }
    let one = by_server("user_id=a");
    assert!(one.contains("\nbudget: 10% spent, $0.0000003 of $0.000003 today (UTC)\n"), "{one}");
    assert!(!one.contains("BUDGET USED"), "{one}");
    assert!(!by_server("user_id=b").contains("budget"), "it is lifted");
    assert!(!by_server("user_id=a&to=2001-01-01").contains("budget"), "it is of the present");

    let usage = proxy.usage("user_id=a&limit=1");
    let [budget] = &usage["budgets"].as_array().unwrap()[..] else { panic!("{usage}") };
    let amounts = ["budget_usd", "spent_usd", "left_usd"].map(|field| budget[field].as_f64().unwrap());
    assert_eq!(amounts, [0.000_003, 0.000_000_3, 0.000_002_7], "{budget}");
    assert_eq!([&budget["level"], &budget["name"], &budget["period"]], ["user", "a", "day"], "{budget}");
    assert!(budget["resets_at"].as_str().unwrap().ends_with("T00:00:00Z"), "{budget}");
    assert!(proxy.usage("user_id=b").get("budgets").is_none());
    let of_users = &proxy.usage("group_by=user")["budgets"];
    let named: Vec<&str> = of_users.as_array().unwrap().iter().map(|budget| budget["name"].as_str().unwrap()).collect();
    assert_eq!(named, ["a", "c", ""], "{of_users}");

    std::fs::write(proxy.folder().join(".env"), "BUDGET_USD_DAY=0.0000006\n").unwrap();
    proxy.signal(Signal::HUP);
    until("the settings are read anew", || by_server("user_id=a").contains("budget: 50% spent"));
}
