//! Count once: creations always count, retrievals only as far as they exceed what was counted under their id, wherever
//! the fold is, whoever asks, in a database of any earlier version.

use openai_api_proxy::ledger::append::Writer;
use openai_api_proxy::ledger::database;
use openai_api_proxy::ledger::fold::fold;
use openai_api_proxy::ledger::marks::Progress;
use openai_api_proxy::usage::record::{Endpoint, Record, Usage, UsageSource};
use proptest::collection::vec;
use proptest::prelude::*;
use rusqlite::{Connection, Row};
use std::collections::BTreeMap;
use std::path::Path;

fn record(endpoint: Endpoint, id: &str, input: u64, output: u64) -> Record {
    let usage = Usage { input_tokens: input, output_tokens: output, total_tokens: input + output, ..Usage::default() };
    Record {
        user: "a".into(),
        endpoint,
        is_retrieval: endpoint.is_retrieval(),
        usage_source: UsageSource::Reported,
        usage,
        cost_nano_usd: Some(2 * input + 10 * output),
        response_id: Some(id.into()),
        ..Record::default()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Record>),
    Fold(i64),
}

/// Creations and retrievals of few ids, in every order; some of other things that bear the same id.
fn step() -> impl Strategy<Value = Step> {
    let endpoint = prop::sample::select(vec![
        Endpoint::Responses,
        Endpoint::ResponsesRetrieve,
        Endpoint::ThreadsRunsRetrieve,
        Endpoint::Batches,
    ]);
    let one = (endpoint, "[a-c]", 0..20u64);
    let records = one.prop_map(|(endpoint, id, n)| record(endpoint, &id, n, n / 3));
    prop_oneof![3 => vec(records, 1..6).prop_map(Step::Append), 1 => (1..9i64).prop_map(Step::Fold)]
}

/// Input, output, both and cost that are counted under an id.
type Counted = BTreeMap<String, [i64; 4]>;

fn stored(conn: &Connection) -> Counted {
    let sql = "SELECT response_id, sum(input_tokens), sum(output_tokens), sum(total_tokens), sum(cost_nano_usd)
        FROM records GROUP BY 1";
    let mut statement = conn.prepare(sql).unwrap();
    let sums = |row: &Row<'_>| [1, 2, 3, 4].map(|column| row.get_unwrap(column));
    let rows = statement.query_map([], |row| Ok((row.get(0)?, sums(row)))).unwrap();
    rows.map(Result::unwrap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_retrieval_adds_what_is_new(steps in vec(step(), 1..24)) {
        let folder = tempfile::tempdir().unwrap();
        let conn = database::open(&folder.path().join("usage.db")).unwrap();
        let mut writer = Writer::new(&conn).unwrap();
        let (mut expected, mut rows) = (Counted::new(), 0);
        for step in &steps {
            match step {
                Step::Fold(rows) => {
                    fold(&conn, *rows).unwrap();
                }
                Step::Append(records) => {
                    let retrieved = writer.append(records).unwrap();
                    prop_assert_eq!(retrieved.len(), records.iter().filter(|record| record.is_retrieval).count());
                    rows += records.len();
                    for record in records {
                        add(&mut expected, record);
                    }
                }
            }
        }
        prop_assert_eq!(stored(&conn), expected);
        let count: i64 = conn.query_row("SELECT count(*) FROM records", [], |row| row.get(0)).unwrap();
        prop_assert_eq!(count, rows as i64);
    }
}

/// A creation adds; a retrieval counts where it is the larger one, its money only beside tokens.
fn add(counted: &mut Counted, record: &Record) {
    let Usage { input_tokens, output_tokens, total_tokens, .. } = record.usage;
    let new = [input_tokens, output_tokens, total_tokens, record.cost_nano_usd.unwrap()].map(u64::cast_signed);
    let of_id = counted.entry(record.response_id.as_deref().unwrap().to_owned()).or_default();
    if !record.is_retrieval {
        *of_id = std::array::from_fn(|i| of_id[i] + new[i]);
    } else if new[..3].iter().zip(&*of_id).any(|(new, counted)| new > counted) {
        *of_id = std::array::from_fn(|i| of_id[i].max(new[i]));
    }
}

/// Where the parts of a sum were dear ones, a retrieval may cost more and yet tell of no token that is new.
#[test]
fn no_money_without_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let conn = open(&folder.path().join("usage.db"));
    let mut writer = Writer::new(&conn).unwrap();
    writer.append(&[(7, 2), (2, 0), (11, 3)].map(|(n, m)| record(Endpoint::Responses, "b", n, m))).unwrap();
    assert_eq!(stored(&conn)["b"], [20, 5, 25, 90]);
    for (n, m) in [(18, 6), (19, 6)] {
        writer.append(&[record(Endpoint::ResponsesRetrieve, "b", n, m)]).unwrap();
        assert_eq!(stored(&conn)["b"], [20, 6, 25, 96]);
    }
}

fn open(path: &Path) -> Connection {
    database::open(path).unwrap()
}

#[test]
fn polling_adds_nothing_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let conn = open(&folder.path().join("usage.db"));
    let mut writer = Writer::new(&conn).unwrap();
    writer.append(&[record(Endpoint::Responses, "r", 10, 5)]).unwrap();
    for folds in [0, 1, 0] {
        (0..folds).for_each(|_| _ = fold(&conn, 4096).unwrap());
        let retrieved = writer.append(&[record(Endpoint::ResponsesRetrieve, "r", 10, 5)]).unwrap();
        let [again] = &retrieved[..] else { panic!("{retrieved:?}") };
        assert_eq!((again.usage_source, again.usage), (UsageSource::None, Usage::default()));
        assert_eq!(again.cost_nano_usd, Some(0));
    }
    let retrieved = writer.append(&[record(Endpoint::ResponsesRetrieve, "r", 10, 7)]).unwrap();
    assert_eq!((retrieved[0].usage.output_tokens, retrieved[0].cost_nano_usd), (2, Some(20)));
    // Images made beside it have the same id and are another thing.
    let images = Record { is_retrieval: true, ..record(Endpoint::ResponsesImages, "r", 10, 5) };
    assert_eq!(writer.append(std::slice::from_ref(&images)).unwrap()[0].usage, images.usage);
    assert_eq!(writer.append(&[images]).unwrap()[0].usage, Usage::default());
}

#[test]
fn what_has_no_price_makes_no_price() {
    let folder = tempfile::tempdir().unwrap();
    let conn = open(&folder.path().join("usage.db"));
    let mut writer = Writer::new(&conn).unwrap();
    let unpriced = Record { cost_nano_usd: None, ..record(Endpoint::Batches, "b", 1, 0) };
    writer.append(&[unpriced]).unwrap();
    let retrieved = writer.append(&[record(Endpoint::Batches, "b", 2, 0)]).unwrap();
    assert_eq!((retrieved[0].usage.input_tokens, retrieved[0].cost_nano_usd), (1, None));
    let nameless = Record { response_id: None, ..record(Endpoint::Batches, "b", 9, 9) };
    assert_eq!(writer.append(&[nameless]).unwrap()[0].usage, Usage::default());
}

/// Rows that were pruned are still known to be counted.
#[test]
fn an_id_outlives_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let conn = open(&folder.path().join("usage.db"));
    let mut writer = Writer::new(&conn).unwrap();
    writer.append(&[record(Endpoint::Responses, "r", 10, 5)]).unwrap();
    assert!(fold(&conn, 4096).unwrap().is_folded());
    conn.execute("DELETE FROM records", []).unwrap();
    assert_eq!(writer.append(&[record(Endpoint::ResponsesRetrieve, "r", 10, 5)]).unwrap()[0].usage, Usage::default());
}

/// A file of version 1 knows no ids: its rows are searched until the index has caught up, however long that takes.
#[test]
fn rows_of_version_1_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    Connection::open(&path).unwrap().execute_batch(include_str!("versions/1.sql")).unwrap();
    let conn = open(&path);
    let before = Progress::read(&conn).unwrap();
    assert!(before.folded > 0 && before.deduplicated == 0 && before.last > before.folded);
    let mut writer = Writer::new(&conn).unwrap();
    let ids: Vec<String> = {
        let mut statement = conn.prepare("SELECT response_id FROM records WHERE endpoint = 3").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert!(ids.len() > 3);
    while !Progress::read(&conn).unwrap().is_folded() {
        fold(&conn, 3).unwrap();
        for id in &ids {
            let retrieved = writer.append(&[record(Endpoint::ResponsesRetrieve, id, 1, 1)]).unwrap();
            assert_eq!(retrieved[0].usage, Usage::default(), "{id}");
        }
        fold(&conn, ids.len() as i64).unwrap();
    }
}
