//! `/admin`: keys, limits and teams, seen and changed with the administrator's token over HTTP; a server follows
//! within a second; each change leaves a line. Left to others: the same by commands (`keys`, `levels`), what the limits
//! do (`levels`, `quotas`), pages of other origins (`door`). `DASHBOARD_PICTURES=folder` keeps pictures of the page.

#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openai_api_proxy::access::Hash;
use openai_api_proxy::ledger::policy_editor::{Editor, PolicyEditor as _};
use openai_api_proxy::limit::levels::LimitLevel;
use openai_api_proxy::limit::overrides::Overrides;
use openai_api_proxy::policy::Rule;
use serde_json::{Value, json};
use std::thread;
use std::time::Duration;
use support::client::{Client, Response, post_json};
use support::proxy::Proxy;
use support::script::Reply;
use support::tools;
use support::until;
use support::upstream::Upstream;

const TOKEN: &str = "an-administrators-token";
const CHAT: &str = "/v1/chat/completions";
const JSON: (&str, &str) = ("content-type", "application/json");

fn upstream() -> Upstream {
    Upstream::plain(|_| Reply::json(r#"{"model":"gpt-4o-mini","usage":{"prompt_tokens":1,"total_tokens":1}}"#).steps())
}

fn start(upstream: &Upstream, more: &[(&str, &str)]) -> Proxy {
    Proxy::before(upstream, &[&[("ADMIN_TOKEN", TOKEN), ("RATE_LIMIT_RPM", "0")], more].concat())
}

fn send(proxy: &Proxy, method: &str, target: &str, fields: &[(&str, &str)], body: &str) -> Response {
    Client::connect(proxy.addr()).request(method, target, fields, body.as_bytes())
}

/// With the token.
fn ask(proxy: &Proxy, method: &str, target: &str, body: &str) -> Response {
    let bearer = format!("Bearer {TOKEN}");
    let fields = [("authorization", bearer.as_str()), JSON];
    send(proxy, method, target, &fields[..if body.is_empty() { 1 } else { 2 }], body)
}

#[test]
fn keys_limits_and_teams_are_seen_and_changed() {
    let upstream = upstream();
    let proxy = start(&upstream, &[("CLIENT_AUTH", "keys"), ("OPENAI_API_KEY", "sk-x")]);
    let made =
        ask(&proxy, "POST", "/admin/keys", r#"{"user":"\u592a\u90ce","team":"x","name":"laptop","expires":"90d"}"#);
    assert_eq!(made.head.status(), 201);
    let made = made.json();
    let key = made["key"].as_str().unwrap().to_owned();
    assert_eq!((&made["user"], &made["team"], &made["state"]), (&json!("太郎"), &json!("x"), &json!("valid")));
    let listed = ask(&proxy, "GET", "/admin/keys", "").expect(200).json();
    assert!(!listed.to_string().contains(&key) && listed["data"][0]["name"] == "laptop", "{listed}");
    let bearer = format!("Bearer {key}");
    let chat = || post_json(proxy.addr(), CHAT, &[("authorization", &bearer)], r#"{"model":"gpt-4o-mini"}"#);
    until("the key opens", || chat().head.status() == 200);

    let set = ask(
        &proxy,
        "POST",
        "/admin/limits/user/%E5%A4%AA%E9%83%8E",
        r#"{"rpm":7,"usd_month":"2.50","models":"gpt-4o*"}"#,
    );
    let rule = json!({"level": "user", "name": "太郎", "rpm": 7, "tpm": null, "concurrent": null, "usd_day": null,
        "usd_month": 2.5, "models": "gpt-4o*", "paths": null});
    assert_eq!(set.expect(200).json(), rule);
    until("the limit is followed", || chat().head.get("x-ratelimit-limit-requests") == Some("7"));
    ask(&proxy, "POST", "/admin/limits/total", r#"{"concurrent":5}"#).expect(200);
    ask(&proxy, "POST", "/admin/limits/team/x", r#"{"tpm":100000}"#).expect(200);
    let listed = ask(&proxy, "GET", "/admin/limits", "").expect(200).json();
    let levels: Vec<&Value> = listed["data"].as_array().unwrap().iter().map(|rule| &rule["level"]).collect();
    assert_eq!(levels, ["user", "team", "total"]);
    ask(&proxy, "DELETE", "/admin/limits/user/%E5%A4%AA%E9%83%8E", "").expect(200);
    until("the limit is gone", || chat().head.get("x-ratelimit-limit-requests").is_none());

    ask(&proxy, "POST", "/admin/users/hana", r#"{"team":"x"}"#).expect(200);
    assert_eq!(ask(&proxy, "GET", "/admin/users", "").json(), json!({"data": [{"user": "hana", "team": "x"}]}));
    let refused = ask(&proxy, "DELETE", "/admin/teams/x", "").expect_proxy_error(400, "bad_request");
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("move"));
    ask(&proxy, "DELETE", "/admin/teams/x?move_to=y", "").expect(200);
    assert_eq!(ask(&proxy, "GET", "/admin/users", "").json()["data"][0]["team"], "y");
    ask(&proxy, "DELETE", "/admin/keys/1", "").expect(200);
    until("the key is closed", || chat().head.status() == 401);
    ask(&proxy, "DELETE", "/admin/keys/77", "").expect_proxy_error(404, "not_found");

    let audit = ask(&proxy, "GET", "/admin/audit?limit=2", "").expect(200).json();
    assert_eq!(audit["data"][0]["what"], "key 1 is revoked");
    assert_eq!(audit["data"][0]["who"], "administrator, 127.0.0.1");
    assert_eq!(audit["data"][1]["what"], "team x is deleted; its users belong to team y");
    let older = format!("/admin/audit?cursor={}", audit["next_cursor"]);
    let older = ask(&proxy, "GET", &older, "").json();
    assert_eq!((older["data"].as_array().unwrap().len(), &older["next_cursor"]), (6, &Value::Null));
    assert!(!audit.to_string().contains("oap_") && !older.to_string().contains("oap_"));
    assert_eq!(upstream.requests().iter().filter(|request| request.target.starts_with("/admin")).count(), 0);
}

/// Also where everybody may read; and a page cannot do it for somebody who is logged in.
#[test]
fn only_the_administrator_changes_anything() {
    let upstream = upstream();
    let proxy = start(&upstream, &[]);
    let open = Proxy::before(&upstream, &[]);
    for proxy in [&proxy, &open] {
        for (method, target) in [("GET", "/admin/keys"), ("GET", "/admin/audit"), ("DELETE", "/admin/limits/total")] {
            send(proxy, method, target, &[], "").expect_proxy_error(401, "unauthorized");
        }
        let wrong = [("authorization", "Bearer an-administrators-t0ken"), JSON];
        send(proxy, "POST", "/admin/keys", &wrong, r#"{"user":"a"}"#).expect_proxy_error(401, "unauthorized");
    }
    let bearer = format!("Bearer {TOKEN}");
    let with = |fields: &[(&str, &str)], body: &str| {
        send(&proxy, "POST", "/admin/users/a", &[&[("authorization", bearer.as_str())], fields].concat(), body)
    };
    let body = r#"{"team":"x"}"#;
    with(&[JSON, ("origin", "https://evil.example")], body).expect_proxy_error(403, "foreign_origin");
    with(&[JSON, ("sec-fetch-site", "cross-site")], body).expect_proxy_error(403, "foreign_origin");
    with(&[("content-type", "text/plain")], body).expect_proxy_error(415, "unsupported_media_type");
    with(&[], body).expect_proxy_error(415, "unsupported_media_type");
    let large = format!(r#"{{"team":"{}"}}"#, "x".repeat(20_000));
    with(&[JSON], &large).expect_proxy_error(413, "body_too_large");
    assert_eq!(ask(&proxy, "GET", "/admin/users", "").json(), json!({"data": []}), "nothing was changed");
    assert_eq!(ask(&proxy, "HEAD", "/admin/users", "").body.len(), 0);
    for method in ["PUT", "PATCH"] {
        ask(&proxy, method, "/admin/users/a", "").expect_proxy_error(405, "method_not_allowed");
    }
    with(&[JSON], body).expect(200);
}

/// In pieces, in chunks and after `100 Continue`; and one that stops coming is given up.
#[test]
fn a_body_comes_as_it_likes() {
    let upstream = upstream();
    let proxy = start(&upstream, &[("IDLE_TIMEOUT", "1s")]);
    let head = format!(
        "POST /admin/users/a HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\
                        content-type: application/json\r\n"
    );
    let mut client = Client::connect(proxy.addr());
    client.send(format!("{head}transfer-encoding: chunked\r\n\r\n8\r\n{{\"team\":\r\n").as_bytes());
    thread::sleep(Duration::from_millis(50));
    client.send(b"4\r\n\"x\"}\r\n0\r\n\r\n");
    client.response("POST").expect(200);
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    client.send(format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}1\r\n \r\n").as_bytes());
    client.response("POST").expect_proxy_error(413, "body_too_large");
    let mut silent = Client::connect(proxy.addr());
    silent.send(format!("{head}content-length: 12\r\n\r\n{{").as_bytes());
    drop(client);
    until("it is given up", || {
        let metrics = String::from_utf8(ask(&proxy, "GET", "/metrics", "").body).unwrap();
        metrics.contains("openai_proxy_connections{side=\"downstream\"} 1\n")
    });
}

/// The field that is wrong is named, and nothing of the edit is made.
#[test]
fn what_is_wrong_is_named_and_nothing_is_done() {
    let upstream = upstream();
    let proxy = start(&upstream, &[]);
    for (target, body, field) in [
        ("/admin/keys", r#"{"name":"x"}"#, Some("user")),
        ("/admin/keys", r#"{"user":""}"#, Some("user")),
        ("/admin/keys", r#"{"user":"a","expires":"yesterday"}"#, Some("expires")),
        ("/admin/keys", r#"{"user":"a","expires":"2020-01-01"}"#, Some("expires")),
        ("/admin/keys", r#"{"user":"a","admin":true}"#, Some("admin")),
        ("/admin/keys", r#"{"user":"a","user":"b"}"#, Some("user")),
        ("/admin/keys", "[]", None),
        ("/admin/keys", "{", None),
        ("/admin/limits/user/a", "{}", None),
        ("/admin/limits/user/a", r#"{"rpm":5,"rmp":5}"#, Some("rmp")),
        ("/admin/limits/user/a", r#"{"rpm":-1}"#, Some("rpm")),
        ("/admin/limits/user/a", r#"{"rpm":1.5}"#, Some("rpm")),
        ("/admin/limits/user/a", r#"{"rpm":5,"usd_day":"1e3"}"#, Some("usd_day")),
        ("/admin/limits/user/a", r#"{"rpm":5,"models":""}"#, Some("models")),
        ("/admin/limits/user/a", r#"{"rpm":5,"paths":"v1"}"#, Some("paths")),
        ("/admin/users/a", "{}", Some("team")),
        ("/admin/users/a", r#"{"team":"x","role":"y"}"#, Some("role")),
    ] {
        let refused = ask(&proxy, "POST", target, body);
        let error = refused.json()["error"].clone();
        assert_eq!((refused.head.status(), error["param"].as_str()), (400, field), "{target} {body}: {error}");
    }
    for (method, target, status) in [
        ("POST", "/admin/limits/everybody", 404),
        ("POST", "/admin/limits/user", 404),
        ("GET", "/admin/secrets", 404),
        ("DELETE", "/admin/users/a", 405),
        ("DELETE", "/admin/keys/x", 404),
        ("GET", "/admin/keys?user=a", 400),
        ("GET", "/admin/audit?limit=0", 400),
        ("GET", "/admin/audit?page=2", 400),
        ("DELETE", "/admin/teams/x?to=y", 400),
        ("DELETE", "/admin/teams/nobody", 400),
    ] {
        let body = if method == "POST" { r#"{"rpm":1}"# } else { "" };
        assert_eq!(ask(&proxy, method, target, body).head.status(), status, "{method} {target}");
    }
    assert_eq!(ask(&proxy, "GET", "/admin/limits", "").json(), json!({"data": []}));
    assert_eq!(ask(&proxy, "GET", "/admin/audit", "").json()["data"], json!([]));
}

/// What a browser sends once its user has typed the token.
fn as_browser(proxy: &Proxy, method: &str, target: &str, fields: &[(&str, &str)], form: &str) -> Response {
    let basic = format!("Basic {}", STANDARD.encode(format!("admin:{TOKEN}")));
    let own = [("authorization", basic.as_str()), ("content-type", "application/x-www-form-urlencoded")];
    let own = if form.is_empty() { &own[..1] } else { &own[..] };
    send(proxy, method, target, &[own, fields].concat(), form)
}

/// The token that the page's forms hold, as a form sends it.
fn form_token(page: &str) -> String {
    let (_, rest) = page.split_once("name=\"token\" value=\"").unwrap();
    rest.split('"').next().unwrap().replace('+', "%2B").replace('=', "%3D").replace('/', "%2F")
}

#[test]
fn the_page_changes_what_the_requests_change() {
    let upstream = upstream();
    let proxy = start(&upstream, &[("CLIENT_AUTH", "keys"), ("OPENAI_API_KEY", "sk-x")]);
    let moved = send(&proxy, "GET", "/admin", &[], "").expect(303);
    assert_eq!(moved.head.get("location"), Some("admin/"));
    let refused = send(&proxy, "GET", "/admin/", &[], "").expect_proxy_error(401, "unauthorized");
    assert!(refused.head.get("www-authenticate").is_some_and(|value| value.starts_with("Basic ")));
    let page = as_browser(&proxy, "GET", "/admin/", &[], "").expect(200);
    assert!(page.head.get("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'")));
    assert_eq!(page.head.get("cache-control"), Some("no-store"));
    let token = form_token(&page.text());
    let post = |form: &str| as_browser(&proxy, "POST", "/admin/form", &[], &format!("token={token}&{form}"));

    let made = post("do=create_key&user=%E5%A4%AA%E9%83%8E&team=&name=&expires=90d").expect(201).text();
    let (_, key) = made.split_once("<code>").unwrap();
    let key = key.split('<').next().unwrap().to_owned();
    assert!(key.starts_with("oap_"), "{made}");
    assert!(!as_browser(&proxy, "GET", "/admin/", &[], "").text().contains(&key), "shown once");
    let bearer = format!("Bearer {key}");
    let chat = || post_json(proxy.addr(), CHAT, &[("authorization", &bearer)], r#"{"model":"gpt-4o-mini"}"#);
    until("the key opens", || chat().head.status() == 200);

    let set = post("do=set_limits&level=user&name=%E5%A4%AA%E9%83%8E&rpm=7&tpm=&usd_day=&usd_month=2.50&models=");
    assert_eq!(set.expect(303).head.get("location"), Some("./"));
    until("the limit is followed", || chat().head.get("x-ratelimit-limit-requests") == Some("7"));
    let rule = ask(&proxy, "GET", "/admin/limits", "").json()["data"][0].clone();
    assert_eq!((&rule["rpm"], &rule["tpm"], &rule["usd_month"]), (&json!(7), &Value::Null, &json!(2.5)));
    post("do=set_team&user=hana&team=lab").expect(303);
    assert!(post("do=delete_team&team=lab&move_to=").expect(400).text().contains("move"), "hana is in it");
    post("do=delete_team&team=lab&move_to=office").expect(303);
    assert_eq!(ask(&proxy, "GET", "/admin/users", "").json()["data"], json!([{"user": "hana", "team": "office"}]));
    post("do=set_team&user=hana").expect(303);
    assert_eq!(ask(&proxy, "GET", "/admin/users", "").json()["data"], json!([]));
    post("do=clear_limits&level=user&name=%E5%A4%AA%E9%83%8E").expect(303);
    post("do=revoke_key&id=1").expect(303);
    until("the key is closed", || chat().head.status() == 401);
    let audit = ask(&proxy, "GET", "/admin/audit", "").json();
    assert_eq!(audit["data"].as_array().unwrap().len(), 7, "{audit}");
    assert_eq!(upstream.requests().iter().filter(|request| request.target.starts_with("/admin")).count(), 0);
}

/// All or nothing, and only by a form of ours.
#[test]
fn a_form_that_is_not_ours_or_not_right_changes_nothing() {
    let upstream = upstream();
    let proxy = start(&upstream, &[]);
    let token = form_token(&as_browser(&proxy, "GET", "/admin/", &[], "").text());
    let set = "do=set_limits&level=total&rpm=1";
    let with = |fields: &[(&str, &str)], form: &str| as_browser(&proxy, "POST", "/admin/form", fields, form);
    for forged in [set.to_owned(), format!("token=&{set}"), format!("token={}&{set}", "A".repeat(44))] {
        assert!(with(&[], &forged).expect(403).text().contains("Nothing was changed"));
    }
    let right = format!("token={token}&{set}");
    with(&[("origin", "https://evil.example")], &right).expect_proxy_error(403, "foreign_origin");
    with(&[("origin", "null")], &right).expect_proxy_error(403, "foreign_origin");
    with(&[("sec-fetch-site", "cross-site")], &right).expect_proxy_error(403, "foreign_origin");
    send(&proxy, "POST", "/admin/form", &[("content-type", "application/x-www-form-urlencoded")], &right)
        .expect_proxy_error(401, "unauthorized");
    ask(&proxy, "POST", "/admin/form", "{}").expect_proxy_error(415, "unsupported_media_type");
    for (form, names) in [
        ("do=set_limits&level=total&rpm=many", "`rpm`"),
        ("do=set_limits&level=total&rpm=5&usd_day=1.2.3", "`usd_day`"),
        ("do=set_limits&level=total&rpm=5&rps=5", "`rps`"),
        ("do=set_limits&level=total&rpm=5&rpm=6", "`rpm`"),
        ("do=set_limits&level=user&name=&rpm=5", "a name"),
        ("do=set_limits&level=total", "no limit is named"),
        ("do=create_key&user=a&expires=yesterday", "`expires`"),
        ("do=erase", "`do`"),
    ] {
        let page = with(&[], &format!("token={token}&{form}")).text();
        assert!(page.contains("Nothing was changed") && page.contains(names), "{form}: {page}");
    }
    assert_eq!(ask(&proxy, "GET", "/admin/limits", "").json(), json!({"data": []}));
    assert_eq!(ask(&proxy, "GET", "/admin/audit", "").json()["data"], json!([]));
    let other = Proxy::before(&upstream, &[("ADMIN_TOKEN", "another-administrators-token")]);
    let theirs = STANDARD.encode("admin:another-administrators-token");
    let fields =
        [("authorization", &*format!("Basic {theirs}")), ("content-type", "application/x-www-form-urlencoded")];
    send(&other, "POST", "/admin/form", &fields, &right).expect(403);
    with(&[], &right).expect(303);
}

/// In a ledger: so many users with a key, a limit and a team each.
fn folder_with(users: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut editor = Editor::open(&folder.path().join("usage.db"), "a test", 1_700_000_000_000_000_000).unwrap();
    for number in 0..users {
        let user = format!("<b>user</b>-{number:04}-{}", "長い".repeat(number % 10));
        editor.add_key(&user, None, "laptop", &Hash::of(user.as_bytes()), None).unwrap();
        let limits = Overrides { rpm: Some(60), day_nano_usd: Some(1_500_000_000), ..Overrides::default() };
        editor.set_rule(LimitLevel::User, &user, &Rule { limits, ..Rule::default() }).unwrap();
        editor.set_team(&user, Some("研究室")).unwrap();
    }
    folder
}

#[test]
fn chromium_uses_the_forms_and_no_other_page_does() {
    let Some(chromium) = tools::find("chromium") else { return };
    for (users, width, scheme, language) in
        [(0, 390, "light", "en"), (1, 1280, "dark", "ja"), (10, 390, "dark", "ja"), (1000, 1280, "light", "en")]
    {
        let Some(mut node) = tools::node(None, "admin/forms.mjs") else { return };
        let vars = [("PROXY_TARGET", "http://127.0.0.1:9"), ("ADMIN_TOKEN", TOKEN)];
        let proxy = Proxy::start_in(folder_with(users), &vars);
        let pictures = std::env::var("DASHBOARD_PICTURES").map(|folder| format!("{folder}/{users}"));
        let output = node
            .arg(&chromium)
            .args([&proxy.url(), TOKEN, &width.to_string(), scheme, language])
            .args(pictures.ok())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_used(&seen, users, language, &proxy);
    }
}

#[track_caller]
fn assert_used(seen: &Value, users: usize, language: &str, proxy: &Proxy) {
    let complaints = seen["complaints"].as_array().unwrap();
    // The browser says so itself of the one answer that is a 400.
    let unexpected: Vec<&Value> =
        complaints.iter().filter(|complaint| !complaint.to_string().contains("status of 400")).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    for page in ["first", "limited", "chosen", "refused", "made", "after", "moved"] {
        let page = &seen[page];
        assert_eq!((&page["overflow"], &page["scripts"]), (&json!(0), &json!(0)), "{users} users: {page}");
        assert_eq!(page["language"], language);
    }
    let url = |page: &str| seen[page]["url"].as_str().unwrap().rsplit('@').next().unwrap().to_owned();
    assert!(url("limited").ends_with("/admin/") && url("moved").ends_with("/admin/"), "back to the page");
    assert!(seen["limited"]["text"].as_str().unwrap().contains("太郎 & <b>co</b>"));
    assert_eq!(seen["chosen"]["rpm"], "7");
    assert!(seen["refused"]["alert"].as_str().unwrap().contains("`rpm`"), "{}", seen["refused"]);
    let key = seen["made"]["code"].as_str().unwrap();
    assert!(key.starts_with("oap_") && !seen["after"]["text"].as_str().unwrap().contains(key));
    for page in seen["evil"].as_array().unwrap() {
        assert!(page["url"].as_str().unwrap().ends_with("/admin/form"), "it was sent: {page}");
        assert!(page["text"].as_str().unwrap().contains("foreign_origin"), "{page}");
    }
    let limits = ask(proxy, "GET", "/admin/limits", "").json();
    let names: Vec<&Value> = limits["data"].as_array().unwrap().iter().map(|rule| &rule["name"]).collect();
    assert_eq!(names.len(), users + 1, "hana has none, and everybody together has none");
    assert!(names.contains(&&json!("太郎 & <b>co</b>")));
}
