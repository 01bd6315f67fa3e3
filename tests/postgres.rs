//! The PostgreSQL client against Debian's `postgresql`, with TLS and SCRAM, and behind `pgbouncer` in both pooling modes:
//! what is sent is what is stored, and whatever is wrong is told in words that say what to do. What a fleet does with it
//! is in `fleet`.

#![cfg(feature = "fleet")]
#![allow(clippy::disallowed_methods)] // tests are the outside world

mod support;

use openai_api_proxy::config::PostgresUrl;
use openai_api_proxy::postgres::{PostgresClient, SqlError, SqlFault, copy_field};
use std::net::TcpListener;
use std::time::{Duration, Instant};
use support::ca::Ca;
use support::postgres::{PASSWORD_IN_URL, Postgres};
use support::{free_port, until};

const SHORT: Duration = Duration::from_millis(300);

/// Why there is no connection.
#[track_caller]
fn refused(url: &str) -> SqlError {
    let url = PostgresUrl::parse(url, None).unwrap();
    let error = PostgresClient::connect(&url, Duration::from_secs(5)).err().expect("it connects");
    assert!(!error.to_string().contains("wörd"), "{error}");
    error
}

/// Parameters of all kinds, rows, a failed statement, COPY of everything that a name may hold, transactions.
fn exercise(client: &mut PostgresClient, table: &str) {
    let row = client.query_one(
        "SELECT $1::bigint + 1, $2::text, $3::text, $4::text[] @> ARRAY['a\"b\\'], $5::bigint[] = '{1,-2}'",
        &[&i64::MAX.wrapping_sub(1), &"太郎\t'\\", &None::<&str>, &vec!["x", "a\"b\\"], &vec![1i64, -2]],
    );
    let row = row.unwrap();
    assert_eq!(row.get::<i64>(0).unwrap(), i64::MAX);
    assert_eq!(row.get::<String>(1).unwrap(), "太郎\t'\\");
    assert_eq!(row.get::<Option<String>>(2).unwrap(), None);
    assert!(row.get::<bool>(3).unwrap() && row.get::<bool>(4).unwrap());
    let error = client.query("SELECT 1 / $1::int", &[&0i32]).unwrap_err();
    assert_eq!((error.fault, error.state(), &*error.to_string()), (SqlFault::Statement, "22012", "division by zero"));

    client.batch(&format!("CREATE TABLE {table} (id bigint PRIMARY KEY, name text)")).unwrap();
    let names: Vec<Option<String>> =
        (0..3000).map(|n| (n % 7 != 0).then(|| format!("{n}\t\\N\n\r太郎\u{1}{}", "x".repeat(n % 90)))).collect();
    let mut rows = Vec::new();
    for (id, name) in names.iter().enumerate() {
        rows.extend_from_slice(format!("{id}\t").as_bytes());
        copy_field(&mut rows, name.as_deref());
        rows.push(b'\n');
    }
    let copied = client.transaction(|client| {
        let stage = "CREATE TEMP TABLE stage (id bigint, name text) ON COMMIT DROP; COPY stage FROM STDIN";
        client.copy_in(stage, &rows)?;
        client.query(&format!("INSERT INTO {table} SELECT * FROM stage"), &[])
    });
    copied.unwrap();
    let read = client.query(&format!("SELECT name FROM {table} ORDER BY id"), &[]).unwrap();
    let read: Vec<Option<String>> = read.iter().map(|row| row.get(0).unwrap()).collect();
    assert!(read == names);

    let undone = client.transaction(|client| {
        client.query(&format!("DELETE FROM {table}"), &[])?;
        client.copy_in(&format!("COPY {table} FROM STDIN"), b"1\tone\n1\ttwice\n")
    });
    assert_eq!(undone.unwrap_err().state(), "23505");
    let count = client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).unwrap();
    assert_eq!(count.get::<i64>(0).unwrap(), 3000, "all or nothing");
}

#[test]
fn what_is_sent_is_what_is_stored_by_tls_and_behind_a_pooler() {
    let Some(server) = Postgres::start() else { return };
    let mut client = server.client();
    exercise(&mut client, "direct");
    let row = client.query_one("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).unwrap();
    assert!(row.get::<bool>(0).unwrap() && row.get::<String>(1).unwrap() == "TLSv1.3");
    for mode in ["session", "transaction"] {
        let Some(bouncer) = server.bouncer(mode) else { return };
        // Two clients in turn, so that a pooler may give each the other's session.
        let (mut one, mut two) = (support::postgres::connect(&bouncer.url), support::postgres::connect(&bouncer.url));
        exercise(&mut one, &format!("{mode}_one"));
        exercise(&mut two, &format!("{mode}_two"));
        assert_eq!(one.query_one("SELECT 7", &[]).unwrap().get::<i32>(0).unwrap(), 7);
    }
}

#[test]
fn whatever_is_wrong_with_a_server_is_told_with_a_remedy() {
    let Some(server) = Postgres::start() else { return };
    let (url, port) = (server.url(), server.port);
    let foreign = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(foreign.path(), Ca::new().pem()).unwrap();
    let mut admin = server.admin("fleet");
    admin.batch("CREATE ROLE reader LOGIN PASSWORD 'p@ss: wörd/1'; ALTER ROLE reader SET default_transaction_read_only = on").unwrap();
    use SqlFault as F;
    for (url, fault, parts) in [
        (
            url.replace(PASSWORD_IN_URL, "other"),
            F::Misconfigured,
            ["password authentication failed", "look at the user"],
        ),
        (url.replace(&format!(":{PASSWORD_IN_URL}"), ""), F::Misconfigured, ["asks for a password", "PGPASSFILE"]),
        (url.replace("/fleet", "/none"), F::Misconfigured, ["\"none\" does not exist", "createdb"]),
        (server.url_of("nobody", "fleet"), F::Misconfigured, ["authentication failed", "look at the user"]),
        (url.replace("localhost", "127.0.0.1"), F::Misconfigured, ["certificate is refused", "must use a name in it"]),
        (
            url.replace(&server.authority().display().to_string(), &foreign.path().display().to_string()),
            F::Misconfigured,
            ["certificate is refused", "sslrootcert"],
        ),
        (url.split("?sslrootcert").next().unwrap().to_owned(), F::Misconfigured, ["UnknownIssuer", "sslrootcert"]),
        (url.replace(&port.to_string(), &free_port().to_string()), F::Away, ["Connection refused", "localhost:"]),
        (url.replace("localhost", "no-such-host.invalid"), F::Away, ["no-such-host.invalid:", "lookup"]),
        (server.url_of("reader", "fleet"), F::ReadOnly, ["only reads", "name the primary"]),
    ] {
        let error = refused(&url);
        assert_eq!(error.fault, fault, "{error}");
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
    assert!(
        support::postgres::connect(&format!("{}&target_session_attrs=any", server.url_of("reader", "fleet")))
            .batch("SELECT 1")
            .is_ok()
    );
    // The second host serves where the first does not.
    let both = url.replace("localhost", &format!("localhost:{},localhost", free_port()));
    let mut client = support::postgres::connect(&both);
    admin.batch("CREATE TABLE private (x int)").unwrap();
    let error = client.query("SELECT * FROM private", &[]).unwrap_err();
    assert!(error.fault == F::Misconfigured && error.to_string().contains("GRANT"), "{error}");
}

#[test]
fn a_server_without_tls_or_that_is_none_is_told() {
    let Some(server) = Postgres::start() else { return };
    let Some(bouncer) = server.bouncer("session") else { return };
    let error = refused(&bouncer.url.replace("127.0.0.1", "localhost").replace("?sslmode=disable", ""));
    assert!(error.to_string().contains("speaks no TLS"), "{error}");
    // Somebody else who answers.
    let upstream = support::upstream::Upstream::plain(|_| vec![]);
    let port = upstream.url().rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let error = refused(&format!("postgres://u:p@127.0.0.1:{port}/d?sslmode=disable"));
    assert!(error.fault == SqlFault::Away || error.fault == SqlFault::Misconfigured, "{error}");
}

#[test]
fn every_wait_has_an_end_and_what_is_broken_stays_so() {
    // Takes connections, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = PostgresUrl::parse(&format!("postgres://u:p@127.0.0.1:{port}/d?sslmode=disable"), None).unwrap();
    let error = PostgresClient::connect(&url, SHORT).err().unwrap();
    assert!(error.fault == SqlFault::Away && error.to_string().contains("no answer in time"), "{error}");

    let Some(mut server) = Postgres::start() else { return };
    let mut client = server.client();
    client.set_limit(SHORT);
    let asked = Instant::now();
    let error = client.query("SELECT pg_sleep(30)", &[]).unwrap_err();
    assert!(asked.elapsed() < Duration::from_secs(30) && error.fault == SqlFault::Away, "{error}");
    let after = client.query("SELECT 1", &[]).unwrap_err();
    assert_eq!(after, error, "the answer to come would be to another question");

    let mut client = server.client();
    server.stop_immediately();
    until("it is noticed", || client.query("SELECT 1", &[]).is_err_and(|error| error.fault == SqlFault::Away));
    server.restart();
    assert!(client.query("SELECT 1", &[]).is_err());
    server.client().batch("SELECT 1").unwrap();
}
