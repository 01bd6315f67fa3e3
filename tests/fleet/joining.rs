//! A ledger that has a history joins: its rows, and the sums of those that are gone.

use super::books::{self, Nodes, wait_until_shipped};
use super::support::DEADLINE;
use super::support::postgres::Postgres;
use super::support::proxy::Proxy;
use openai_api_proxy::fleet::membership::Membership;
use openai_api_proxy::ledger::append::Writer;
use openai_api_proxy::ledger::database;
use openai_api_proxy::ledger::fold::fold;
use openai_api_proxy::ledger::prune::{Cutoff, first_id, prune};
use openai_api_proxy::usage::record::{Endpoint, Record, Usage};
use rusqlite::Connection;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const HOUR: u64 = 3_600_000_000_000;
const ROWS: u64 = 13_000;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Rows of three users, two teams and two models over two months up to now.
pub fn history() -> Vec<Record> {
    let (to, span) = (now(), 60 * 24 * HOUR);
    let row = |n: u64| Record {
        started_at: to - span + n * (span / ROWS),
        user: ["taro", "hanako", "ジロウ"][(n % 3) as usize].into(),
        team: [Some("red".into()), None, Some("青".into())][(n / 3 % 3) as usize].clone(),
        endpoint: Endpoint::ChatCompletions,
        model: Some(["gpt-4o", "a\tb\\"][(n % 2) as usize].into()),
        status: if n.is_multiple_of(50) { 500 } else { 200 },
        usage: Usage { input_tokens: n, output_tokens: 2, total_tokens: n + 2, ..Usage::default() },
        cost_nano_usd: (!n.is_multiple_of(7)).then_some(n * 3),
        response_id: Some(format!("chatcmpl-{n}").into()),
        ..Record::default()
    };
    (0..ROWS).map(row).collect()
}

/// All sums of hours that a ledger or the fleet has, by time, whom, model and endpoint, in one order.
type Hours = Vec<String>;

fn hours_of_ledger(conn: &Connection) -> Hours {
    let mut select = conn
        .prepare(
            "SELECT hour || '|' || coalesce(u.name, t.name, '') || '|' || (user_id < 0) || '|' || m.name || '|' || endpoint
                || '|' || requests || '|' || errors || '|' || unpriced || '|' || cost_nano_usd || '|' || input_tokens || '|'
                || output_tokens || '|' || total_tokens
            FROM rollups r JOIN models m ON m.id = r.model_id LEFT JOIN users u ON u.id = r.user_id
                LEFT JOIN teams t ON t.id = -r.user_id ORDER BY 1",
        )
        .unwrap();
    let mut hours: Hours = select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    hours.sort();
    hours
}

fn open_at(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(DEADLINE).unwrap();
    conn
}

fn hours_of_fleet(server: &Postgres) -> Hours {
    let sql =
        "SELECT concat_ws('|', hour, coalesce(u.name, t.name, ''), (who < 0)::int, m.name, endpoint, sum(requests),
            sum(errors), sum(unpriced), sum(cost_nano_usd), sum(input_tokens), sum(output_tokens), sum(total_tokens))
        FROM oap_hours r JOIN oap_models m ON m.id = r.model_id LEFT JOIN oap_users u ON u.id = r.who
            LEFT JOIN oap_teams t ON t.id = -r.who GROUP BY hour, u.name, t.name, who, m.name, endpoint";
    let rows = server.admin("fleet").query(sql, &[]).unwrap();
    let mut hours: Hours = rows.iter().map(|row| row.get(0).unwrap()).collect();
    hours.sort();
    hours
}

#[test]
fn a_history_comes_along_its_pruned_part_as_sums() {
    let Some(server) = Postgres::start() else { return };
    let target = books::target();
    let nodes = Nodes::new(&target, &server.url());
    let folder = tempfile::tempdir().unwrap();
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    Writer::new(&conn).unwrap().append(&history()).unwrap();
    while !fold(&conn, 4096).unwrap().is_folded() {}
    // Rows of the first month and a half are gone, in the middle of an hour; the rest is there.
    let cutoff = (now() - 20 * 24 * HOUR) as i64;
    let cutoff = Cutoff { rows: cutoff, remembered: cutoff, exported: false, shipped: false };
    while prune(&conn, cutoff, 1000).unwrap() {}
    let first = first_id(&conn).unwrap();
    assert!((ROWS as i64 / 2..ROWS as i64).contains(&first), "{first}");
    let hours = hours_of_ledger(&conn);
    drop(conn);

    let a = nodes.start_in(folder, "a");
    wait_until_shipped(&[&a]);
    assert_eq!(hours_of_fleet(&server), hours);
    let rows = server.admin("fleet").query_one("SELECT count(*), min(id) FROM oap_records", &[]).unwrap();
    assert_eq!((rows.get::<i64>(0).unwrap(), rows.get::<i64>(1).unwrap()), (ROWS as i64 - first + 1, first));

    // The server forgets it all: what the ledger still knows comes again.
    drop(a);
    let folder = tempfile::tempdir().unwrap();
    let mut b = nodes.start_in(folder, "b");
    wait_until_shipped(&[&b]);
    assert!(b.terminate().success());
    assert_eq!(hours_of_fleet(&server), hours, "another that has nothing adds nothing");
}

#[test]
fn rows_that_are_not_shipped_are_not_pruned_and_a_server_that_was_set_back_gets_them_again() {
    let Some(server) = Postgres::start() else { return };
    let target = books::target();
    let nodes = Nodes::new(&target, &server.url());
    let folder = tempfile::tempdir().unwrap();
    let conn = database::open(&folder.path().join("usage.db")).unwrap();
    Writer::new(&conn).unwrap().append(&history()).unwrap();
    drop(conn);
    let wrong = server.url().replace("/fleet", "/none");
    let vars = [("FLEET_URL", wrong.as_str()), ("RETENTION_DAYS", "30")];
    let a = Proxy::start_in(folder, &[&nodes.vars("a")[..], &vars].concat());
    a.wait_for_log("fleet is out of reach");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let folder = a.into_folder();
    assert_eq!(first_id(&open_at(&folder.path().join("usage.db"))).unwrap(), 1);

    let keeping = |folder| Proxy::start_in(folder, &[&nodes.vars("a")[..], &[("RETENTION_DAYS", "30")]].concat());
    let a = keeping(folder);
    wait_until_shipped(&[&a]);
    // What is old goes when it is looked for next: at a start, at the latest.
    let a = keeping(a.into_folder());
    super::support::until("old rows go", || first_id(&open_at(&a.database())).unwrap() > ROWS as i64 / 3);
    let folder = a.into_folder();
    let hours = hours_of_ledger(&open_at(&folder.path().join("usage.db")));
    assert_eq!(hours_of_fleet(&server), hours);
    // As from a backup of the time before.
    server
        .admin("fleet")
        .batch("DROP OWNED BY proxy CASCADE; GRANT ALL ON DATABASE fleet TO proxy; GRANT ALL ON SCHEMA public TO proxy")
        .unwrap();
    let a = keeping(folder);
    wait_until_shipped(&[&a]);
    assert_eq!(hours_of_fleet(&server), hours);
}

#[test]
fn whole_months_go_when_they_are_older_than_any_node_keeps() {
    let Some(server) = Postgres::start() else { return };
    let target = books::target();
    let nodes = Nodes::new(&target, &server.url());
    let keeping = |days, name| Proxy::start(&[&nodes.vars(name)[..], &[("RETENTION_DAYS", days)]].concat());
    let folder = tempfile::tempdir().unwrap();
    Writer::new(&database::open(&folder.path().join("usage.db")).unwrap()).unwrap().append(&history()).unwrap();
    let a = nodes.start_in(folder, "a"); // for ever
    let b = keeping("40", "b");
    wait_until_shipped(&[&a, &b]);
    let hours = hours_of_fleet(&server);
    let mut client = server.client();
    let mut retain = |days: u64| Membership::retain(&mut client, (now() + days * 24 * HOUR) as i64).unwrap();
    let records =
        || server.admin("fleet").query_one("SELECT count(*) FROM oap_records", &[]).unwrap().get::<i64>(0).unwrap();
    assert_eq!((retain(400), records()), (0, ROWS as i64), "one keeps them for ever");
    let a = Proxy::start_in(a.into_folder(), &[&nodes.vars("a")[..], &[("RETENTION_DAYS", "300")]].concat());
    a.wait_for_log("fleet is reached");
    assert_eq!((retain(100), records()), (0, ROWS as i64), "the longest holds for all");
    assert!(retain(400) >= 2 && records() == 0);
    assert_eq!(hours_of_fleet(&server), hours, "sums stay");
    // Of a part of an hour nothing is known any more: the whole of it is told.
    let middle = now() / HOUR * HOUR - 10 * 24 * HOUR + HOUR / 2;
    let answer = b.usage(&format!("from={}&to={}", middle / 1_000_000_000, middle / 1_000_000_000 + 60));
    let (from, to) = (answer["from"].as_str().unwrap(), answer["to"].as_str().unwrap());
    assert!(from.ends_with(":00:00Z") && to.ends_with(":00:00Z") && answer["totals"]["requests"] != 0, "{from} {to}");
}
