//! Pruning: what is old and folded goes in small steps, what is young stays, and sums lose nothing by it.

use crate::oracle::START;
use openai_api_proxy::local::usage::Query;
use openai_api_proxy::usage::record::Record;
use openai_api_proxy::worker::append::Writer;
use openai_api_proxy::worker::fold::{Progress, fold};
use openai_api_proxy::worker::report::report;
use openai_api_proxy::worker::schema;

/// An id that came back would be below the marks: never folded, and taken for another record by the indexes.
#[test]
fn an_id_is_never_given_twice() {
    let folder = tempfile::tempdir().unwrap();
    let conn = schema::open(&folder.path().join("usage.db")).unwrap();
    let mut writer = Writer::new(&conn).unwrap();
    let row = Record { started_at: START, user: "u".into(), status: 200, ..Record::default() };
    writer.append(&vec![row.clone(); 5]).unwrap();
    fold(&conn, 4096).unwrap();
    conn.execute("DELETE FROM records", []).unwrap();
    assert_eq!(Progress::read(&conn).unwrap(), Progress { last: 5, mark: 5, counted: 5 });
    writer.append(&vec![row; 2]).unwrap();
    assert_eq!(Progress::read(&conn).unwrap(), Progress { last: 7, mark: 5, counted: 5 });
    for _ in 0..2 {
        let found = report(&conn, Query::default()).unwrap();
        assert_eq!(found.totals.requests, 7);
        assert_eq!(found.data.iter().map(|entry| entry.id).collect::<Vec<_>>(), [7, 6]);
        assert!(fold(&conn, 4096).unwrap().is_folded());
    }
}
