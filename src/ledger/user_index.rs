//! The index by user: which of the folded records are a user's. Pages of history and the parts of hours go through it.
//!
//! In: records and their users, from the fold. Out: ranges of ids that hold all records of a user, and not much else.
//! Never: a record that is not folded; an answer about a record itself.
//!
//! An entry of `records_by_user` names many records of one user, two bytes each, and not one: the fold writes an
//! entry for each of its users, not for each of its rows. With an entry for each record this was three quarters of a
//! fold, and a tenth of the file. Entries of a fold lie together on a few pages however many users there are, because
//! the index is kept in blocks of ids. A reader looks into each block. No entry is ever changed.

use rusqlite::{Connection, params};

/// Records of one block, as a shift: a place in a block must fit in the two bytes that it is stored in.
pub const BLOCK_SHIFT: u32 = 14;
const _: () = assert!(BLOCK_SHIFT <= 16);

/// Records of one entry at most. SQLite keeps up to 1,002 bytes of an entry on the page where it belongs (file format,
/// §1.6), and puts what is longer on pages of its own.
const ENTRY_RECORDS_MAX: usize = 480;

/// Records of others that a range runs over rather than end: to step over one costs a reader some tenths of a
/// microsecond, and a range of its own a few.
const STRANGERS_MAX: i64 = 8;

/// Writes records, each a user and an id, in the order of the index.
pub fn write(conn: &Connection, mut records: Vec<(i64, i64)>) -> rusqlite::Result<()> {
    let block_and_user = |&(user, id): &(i64, i64)| (id >> BLOCK_SHIFT, user);
    records.sort_unstable_by_key(|record| (block_and_user(record), record.1));
    let mut insert = conn.prepare_cached("INSERT INTO records_by_user VALUES (?, ?, ?, ?)")?;
    let mut places = Vec::new();
    for of_user in records.chunk_by(|a, b| block_and_user(a) == block_and_user(b)) {
        for records in of_user.chunks(ENTRY_RECORDS_MAX) {
            let (user, first) = records[0];
            places.clear();
            let place = |id: i64| (id & ((1 << BLOCK_SHIFT) - 1)) as u16;
            places.extend(records.iter().flat_map(|(_, id)| place(*id).to_be_bytes()));
            insert.execute(params![first >> BLOCK_SHIFT, user, first, places])?;
        }
    }
    Ok(())
}

/// A range of ids (inclusive), cut into one for each block of the index, the newest first.
pub fn blocks((least, greatest): (i64, i64)) -> impl Iterator<Item = (i64, i64)> {
    let blocks = least >> BLOCK_SHIFT..(greatest >> BLOCK_SHIFT) + 1;
    blocks.rev().map(move |block| {
        let (first, last) = (block << BLOCK_SHIFT, ((block + 1) << BLOCK_SHIFT) - 1);
        (least.max(first), greatest.min(last))
    })
}

/// Ranges (inclusive), the newest first, that hold all records of a user between two ids of one block, and few of
/// others.
pub fn ranges(conn: &Connection, user: i64, (least, greatest): (i64, i64)) -> rusqlite::Result<Vec<(i64, i64)>> {
    let block = least >> BLOCK_SHIFT;
    let mut select = conn.prepare_cached(
        "SELECT places FROM records_by_user WHERE block = ? AND user_id = ? AND record_id <= ? ORDER BY record_id DESC",
    )?;
    let mut rows = select.query([block, user, greatest])?;
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    while let Some(row) = rows.next()? {
        let (places, _) = row.get_ref(0)?.as_blob()?.as_chunks();
        for place in places.iter().rev() {
            let id = (block << BLOCK_SHIFT) + i64::from(u16::from_be_bytes(*place));
            match ranges.last_mut() {
                _ if id > greatest => {}
                _ if id < least => return Ok(ranges),
                Some((from, _)) if *from - id <= STRANGERS_MAX + 1 => *from = id,
                _ => ranges.push((id, id)),
            }
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::database;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const BLOCK: i64 = 1 << BLOCK_SHIFT;

    fn ledger() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let conn = database::open(&folder.path().join("usage.db")).unwrap();
        (folder, conn)
    }

    fn write(conn: &Connection, records: impl IntoIterator<Item = (i64, i64)>) {
        super::write(conn, records.into_iter().collect()).unwrap();
    }

    fn all_ranges(conn: &Connection, user: i64, ids: (i64, i64)) -> Vec<(i64, i64)> {
        blocks(ids).flat_map(|ids| ranges(conn, user, ids).unwrap()).collect()
    }

    #[test]
    fn a_user_alone_is_one_range_in_each_block_and_one_among_many_is_found_by_id() {
        let (_folder, conn) = ledger();
        write(&conn, (1..=BLOCK + 10).map(|id| (1, id)));
        assert_eq!(all_ranges(&conn, 1, (5, BLOCK + 7)), [(BLOCK, BLOCK + 7), (5, BLOCK - 1)]);
        let (_folder, conn) = ledger();
        write(&conn, (1..=3000).map(|id| (id % 100, id)));
        assert_eq!(all_ranges(&conn, 7, (107, 499)), [(407, 407), (307, 307), (207, 207), (107, 107)]);
        assert_eq!(all_ranges(&conn, 101, (1, 3000)), []);
    }

    #[test]
    fn an_entry_stays_on_its_page() {
        let (_folder, conn) = ledger();
        write(&conn, (BLOCK..2 * BLOCK).map(|id| (i64::MAX, id)));
        let pages = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(pages("SELECT count(*) FROM records_by_user"), 35, "16,384 records, 480 each");
        let free = conn.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0)).unwrap();
        write(&conn, (2 * BLOCK..3 * BLOCK).map(|id| (i64::MAX, id)));
        let used = conn.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0)).unwrap() - free;
        assert!(used <= 12, "four entries share a page, and none has one of its own: {used} pages");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However the records came into it, the ranges hold those of the user, in order, and few of others.
        #[test]
        fn ranges_hold_what_is_there(
            users in prop::collection::vec(1..6i64, 1..400),
            first in prop::sample::select(vec![1, BLOCK - 3, BLOCK - 200, 5 * BLOCK - 1]),
            folds in prop::collection::vec(1..200usize, 1..6),
            cut in (0..400i64, 0..400i64),
        ) {
            let (_folder, conn) = ledger();
            let records: Vec<(i64, i64)> = users.iter().copied().zip(first..).collect();
            let mut rest = &records[..];
            for fold in folds.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*fold));
                write(&conn, now.iter().copied());
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            let ids = (first + cut.0.min(cut.1), first + cut.0.max(cut.1));
            for user in 1..6 {
                let ranges = all_ranges(&conn, user, ids);
                prop_assert!(ranges.is_sorted_by(|a, b| a.0 > b.1), "{ranges:?}");
                let is_asked = |(of, id): &&(i64, i64)| *of == user && (ids.0..=ids.1).contains(id);
                let of_user: BTreeSet<i64> = records.iter().filter(is_asked).map(|(_, id)| *id).collect();
                let held: BTreeSet<i64> = ranges.iter().flat_map(|(from, to)| *from..=*to).collect();
                prop_assert!(of_user.is_subset(&held));
                for (from, to) in ranges {
                    prop_assert!(of_user.contains(&from) && of_user.contains(&to));
                }
                prop_assert!(held.len() as i64 <= of_user.len() as i64 * (STRANGERS_MAX + 1));
            }
        }
    }
}
