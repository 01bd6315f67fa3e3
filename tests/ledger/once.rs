//! Count once: creations always count, retrievals only as far as they exceed what was counted under their id, and what was
//! estimated gives way to them; wherever the fold is, whoever asks, in a database of any earlier version.

use openai_api_proxy::ledger::answer::report;
use openai_api_proxy::ledger::append::Writer;
use openai_api_proxy::ledger::database;
use openai_api_proxy::ledger::fold::fold;
use openai_api_proxy::ledger::marks::Progress;
use openai_api_proxy::reporting::{BucketKey, GroupBy, Query, Totals};
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

/// How the numbers of a record are known; of what is unknown there are none.
fn known(record: Record, source: UsageSource) -> Record {
    match source {
        UsageSource::Unknown if record.is_retrieval => record, // there is none
        UsageSource::Unknown => {
            Record { usage: Usage::default(), cost_nano_usd: None, usage_source: UsageSource::Unknown, ..record }
        }
        usage_source => Record { usage_source, ..record },
    }
}

/// Creations and retrievals of few ids, in every order, by two users; some of other things that bear the same id.
fn step() -> impl Strategy<Value = Step> {
    let endpoint = prop::sample::select(vec![
        Endpoint::Responses,
        Endpoint::ResponsesRetrieve,
        Endpoint::ThreadsRunsRetrieve,
        Endpoint::Batches,
    ]);
    let source = prop::sample::select(vec![UsageSource::Reported, UsageSource::Estimated, UsageSource::Unknown]);
    let one = (endpoint, "[a-c]", 0..20u64, source, prop::sample::select(vec!["a", "b"]), 0..3u64);
    let records = one.prop_map(|(endpoint, id, n, source, user, started_at)| {
        known(Record { user: user.into(), started_at, ..record(endpoint, &id, n, n / 3) }, source)
    });
    prop_oneof![3 => vec(records, 1..6).prop_map(Step::Append), 1 => (1..9i64).prop_map(Step::Fold)]
}

/// Input, output, both and cost.
type Numbers = [i64; 4];
/// Those that are counted under an id.
type Counted = BTreeMap<String, Numbers>;

fn stored(conn: &Connection) -> Counted {
    sums(conn, "response_id")
}

fn sums(conn: &Connection, key: &str) -> Counted {
    let sql = format!(
        "SELECT {key}, sum(input_tokens), sum(output_tokens), sum(total_tokens), coalesce(sum(cost_nano_usd), 0)
         FROM records GROUP BY 1"
    );
    let mut statement = conn.prepare(&sql).unwrap();
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
        let (mut expected, mut rows) = (BTreeMap::<String, Known>::new(), 0);
        for step in &steps {
            match step {
                Step::Fold(rows) => {
                    fold(&conn, *rows).unwrap();
                }
                Step::Append(records) => {
                    let retrieved = writer.append(records).unwrap();
                    let (own, corrections): (Vec<_>, Vec<_>) = retrieved.iter().partition(|record| record.is_request());
                    prop_assert_eq!(own.len(), records.iter().filter(|record| record.is_retrieval).count());
                    rows += records.len() + corrections.len();
                    for record in records {
                        expected.entry(record.response_id.as_deref().unwrap().to_owned()).or_default().add(record);
                    }
                }
            }
        }
        prop_assert_eq!(stored(&conn), expected.into_iter().map(|(id, known)| (id, known.sum)).collect::<Counted>());
        // A correction is beside what it corrects, by whatever one sums.
        let sums = sums(&conn, "format('%d %d %d', user_id, started_at, endpoint)");
        prop_assert!(sums.values().flatten().all(|number| *number >= 0), "{:?}", sums);
        let count: i64 = conn.query_row("SELECT count(*) FROM records", [], |row| row.get(0)).unwrap();
        prop_assert_eq!(count, rows as i64);
    }
}

/// What is known of an id.
#[derive(Default)]
struct Known {
    sum: Numbers,
    /// Since the last creation: nothing that was reported, and these estimates.
    estimates: Vec<Numbers>,
    reported: bool,
}

impl Known {
    /// A creation adds; a retrieval takes the place of estimates, or counts where it is the larger one, its money only
    /// beside tokens.
    fn add(&mut self, record: &Record) {
        let Usage { input_tokens, output_tokens, total_tokens, .. } = record.usage;
        let new = [input_tokens, output_tokens, total_tokens, record.cost_nano_usd.unwrap_or(0)].map(u64::cast_signed);
        let is_report = record.usage_source == UsageSource::Reported;
        if !record.is_retrieval {
            self.sum = std::array::from_fn(|i| self.sum[i] + new[i]);
            self.reported = is_report;
            self.estimates = if is_report { vec![] } else { vec![new] };
        } else if is_report && !self.reported && !self.estimates.is_empty() {
            if new[2] > 0 {
                let given_way = std::mem::take(&mut self.estimates);
                self.sum =
                    std::array::from_fn(|i| self.sum[i] + new[i] - given_way.iter().map(|of| of[i]).sum::<i64>());
                self.reported = true;
            }
        } else {
            let more: Numbers = std::array::from_fn(|i| (new[i] - self.sum[i]).max(0));
            let is_first = self.sum[2] == 0 && !self.reported && self.estimates.is_empty();
            if more[..3].iter().any(|more| *more > 0) {
                self.sum = std::array::from_fn(|i| self.sum[i] + more[i]);
                self.reported |= is_report;
                self.estimates.extend((!is_report).then_some(more));
            } else if is_first {
                self.reported |= is_report;
                self.estimates.extend((!is_report).then_some(more));
            }
        }
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

#[test]
fn an_estimate_gives_way_once() {
    let folder = tempfile::tempdir().unwrap();
    let conn = open(&folder.path().join("usage.db"));
    let mut writer = Writer::new(&conn).unwrap();
    let created = Record { started_at: 7, ..known(record(Endpoint::Responses, "r", 250, 50), UsageSource::Estimated) };
    writer.append(&[created]).unwrap();
    let look = |input, output| Record {
        user: "b".into(),
        started_at: 9,
        duration_us: 5,
        ..record(Endpoint::ResponsesRetrieve, "r", input, output)
    };
    assert_eq!(writer.append(&[look(0, 0)]).unwrap()[0].usage_source, UsageSource::None, "zero is no report");
    assert_eq!(stored(&conn)["r"], [250, 50, 300, 1000]);
    let counted = writer.append(&[look(40, 60)]).unwrap();
    let [own, correction] = &counted[..] else { panic!("{counted:?}") };
    assert_eq!((own.usage_source, own.usage, own.cost_nano_usd), (UsageSource::None, Usage::default(), Some(0)));
    assert_eq!((&*own.user, &*correction.user, correction.started_at, correction.duration_us), ("b", "a", 7, 0));
    assert_eq!((correction.usage_source, correction.endpoint), (UsageSource::Correction, Endpoint::Responses));
    assert_eq!(correction.counted(|usage| usage.input_tokens), -210);
    assert_eq!(correction.counted_nano_usd(), Some(680 - 1000));
    for (input, output, expected) in
        [(40, 60, [40, 60, 100, 680]), (1, 1, [40, 60, 100, 680]), (40, 61, [40, 61, 101, 690])]
    {
        fold(&conn, 4096).unwrap();
        writer.append(&[look(input, output)]).unwrap();
        assert_eq!(stored(&conn)["r"], expected);
    }
}

#[test]
fn what_was_unknown_has_a_price_once_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let conn = open(&folder.path().join("usage.db"));
    let mut writer = Writer::new(&conn).unwrap();
    let unpriced = |writer: &mut Writer<'_>| {
        let conn = writer.conn();
        let of_rows = "SELECT sum(coalesce(correction, cost_nano_usd IS NULL)) FROM records";
        let rows: i64 = conn.query_row(of_rows, [], |row| row.get(0)).unwrap();
        while !writer.fold(4096).unwrap().is_folded() {}
        let of_rollups = "SELECT sum(unpriced), sum(requests) FROM rollups WHERE user_id > 0";
        let (folded, requests): (i64, i64) =
            writer.conn().query_row(of_rollups, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(folded, rows);
        (rows, requests)
    };
    let unknown = |id| known(record(Endpoint::Responses, id, 0, 0), UsageSource::Unknown);
    writer.append(&[unknown("r"), unknown("s")]).unwrap();
    assert_eq!(unpriced(&mut writer), (2, 2));
    writer.append(&[record(Endpoint::ResponsesRetrieve, "r", 3, 4)]).unwrap();
    assert_eq!((unpriced(&mut writer), stored(&conn)["r"]), ((1, 3), [3, 4, 7, 46]));
    // Told, and without a price as before.
    let no_price = Record { cost_nano_usd: None, ..record(Endpoint::ResponsesRetrieve, "s", 3, 4) };
    writer.append(std::slice::from_ref(&no_price)).unwrap();
    assert_eq!((unpriced(&mut writer), stored(&conn)["s"]), ((1, 4), [3, 4, 7, 0]));
    writer.append(&[no_price]).unwrap();
    assert_eq!((unpriced(&mut writer), stored(&conn)["s"]), ((1, 5), [3, 4, 7, 0]));
}

/// Whatever is folded when: who retrieves has a request, and whose estimate it was the number.
#[test]
fn a_keys_sums_have_its_corrections() {
    for folded_between in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let conn = open(&folder.path().join("usage.db"));
        let mut writer = Writer::new(&conn).unwrap();
        let of_key = |key, record| Record { key_id: Some(key), ..record };
        let created = known(record(Endpoint::Responses, "r", 250, 50), UsageSource::Estimated);
        let unknown = known(record(Endpoint::Responses, "s", 0, 0), UsageSource::Unknown);
        writer.append(&[of_key(7, created), of_key(7, unknown)]).unwrap();
        if folded_between {
            assert!(writer.fold(4096).unwrap().is_folded());
        }
        for id in ["r", "s"] {
            writer.append(&[of_key(8, record(Endpoint::ResponsesRetrieve, id, 40, 60))]).unwrap();
        }
        for _ in 0..2 {
            let query = Query { group_by: Some(GroupBy::Key), ..Query::default() };
            let buckets = report(writer.conn(), query).unwrap().buckets.unwrap().list;
            let sums = |(key, sums): &(BucketKey, Totals)| {
                let BucketKey::Key(Some(key)) = key else { panic!("{key:?}") };
                (key.id, [sums.requests, sums.unpriced, sums.total_tokens, sums.cost_nano_usd])
            };
            let found: Vec<_> = buckets.iter().map(sums).collect();
            assert_eq!(found, [(7, [2, 0, 200, 1360]), (8, [2, 0, 0, 0])]);
            while !writer.fold(4096).unwrap().is_folded() {}
        }
    }
}

/// An index of version 4 says nothing of how numbers are known: the rows do.
#[test]
fn estimates_of_version_4_give_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.db");
    let earlier = Connection::open(&path).unwrap();
    let version_4 = [include_str!("versions/2.sql"), include_str!("versions/3.sql"), include_str!("versions/4.sql")];
    earlier.execute_batch(&version_4.concat()).unwrap();
    let columns = "started_at, user_id, endpoint, model_id, status, outcome, usage_source, stream, cost_nano_usd,
        input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, total_tokens, cache_write_tokens,
        input_audio_tokens, input_image_tokens, output_audio_tokens, output_image_tokens, audio_us, images, duration_us,
        proxy_us, request_bytes, response_bytes, response_id";
    let (source, endpoint) = (UsageSource::Estimated.code(), Endpoint::Responses.code());
    let row = format!("7, 1, {endpoint}, 1, 200, 1, {source}, 1, 900, 250,0,50,0,300, 0,0,0,0,0,0,0, 5,5,5,5, 'old'");
    earlier.execute_batch(&format!("INSERT INTO records ({columns}) VALUES ({row})")).unwrap();
    drop(earlier);
    let conn = open(&path);
    let mut writer = Writer::new(&conn).unwrap();
    for _ in 0..2 {
        writer.append(&[record(Endpoint::ResponsesRetrieve, "old", 40, 60)]).unwrap();
        assert_eq!(stored(&conn)["old"], [40, 60, 100, 680]);
        while !writer.fold(4096).unwrap().is_folded() {}
    }
}

/// Rows that were pruned are still known to be counted.
#[test]
fn an_id_outlives_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let conn = open(&folder.path().join("usage.db"));
    let mut writer = Writer::new(&conn).unwrap();
    let created = |id, source| known(record(Endpoint::Responses, id, 10, 5), source);
    let images = Record { endpoint: Endpoint::ResponsesImages, ..created("i", UsageSource::Reported) };
    let again = Record { is_retrieval: true, ..images.clone() };
    let estimated = created("e", UsageSource::Estimated);
    writer
        .append(&[created("r", UsageSource::Reported), estimated, images, created("u", UsageSource::Unknown)])
        .unwrap();
    assert!(fold(&conn, 4096).unwrap().is_folded());
    assert_eq!(writer.append(std::slice::from_ref(&again)).unwrap()[0].usage, Usage::default());
    conn.execute("DELETE FROM records", []).unwrap();
    let look = |id| record(Endpoint::ResponsesRetrieve, id, 10, 5);
    for (look, is_new) in [(look("r"), false), (look("e"), false), (again, false), (look("u"), true)] {
        let counted = writer.append(std::slice::from_ref(&look)).unwrap();
        let expected = if is_new { look.usage } else { Usage::default() };
        assert_eq!((counted.len(), counted[0].usage), (1, expected), "{:?}", look.response_id);
    }
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
