//! Answers a usage question from the database: whole hours from the rollups, parts of hours and what is not folded yet
//! from the rows themselves, all in one read transaction. So an answer equals the sum over the rows at one instant.
//!
//! In: a connection and a question. Out: a [`Report`]. Never: a write; a number for a part of an hour that has lost
//! rows. A range that begins or ends inside such an hour is widened to the whole of it, and the answer says so in its
//! `from` and `to`.
//!
//! ```text
//!   from                                        to
//!    |---- part ----|---- whole hours ----|-part-|       of what is folded (id <= mark)
//!    |-------------------- rows -----------------|       of the tail       (id >  mark)
//! ```

use super::fold::{BLOCK_SHIFT, NS_PER_HOUR, read_mark};
use super::prune::first_id;
use crate::local::usage::{Entry, Query, Report, Totals};
use crate::usage::record::{Endpoint, Journal, Outcome, Record, Usage, UsageSource};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Params, Row, ToSql, named_params};
use std::collections::BTreeMap;

/// Computes the answer.
///
/// # Errors
/// SQLite's; `OperationInterrupted` if the connection's progress handler gave up.
pub fn report(conn: &Connection, query: Query) -> rusqlite::Result<Report> {
    let transaction = conn.unchecked_transaction()?;
    let query = widened(&transaction, query)?;
    let mut found = Report { query, totals: Totals::default(), by_model: vec![], data: vec![], next_cursor: None };
    if let Some(selection) = Selection::new(&transaction, &found.query)? {
        found.by_model = by_model(&transaction, &selection)?;
        for (_, totals) in &found.by_model {
            found.totals.add(totals);
        }
        found.data = history(&transaction, &selection, &found.query)?;
        let limit = found.query.limit as usize;
        if found.data.len() > limit {
            found.data.truncate(limit);
            found.next_cursor = found.data.last().map(|entry| entry.id);
        }
    }
    transaction.commit()?;
    Ok(found)
}

/// The question with a range that can be answered: where an hour that has lost rows is cut, the whole of it.
fn widened(conn: &Connection, mut query: Query) -> rusqlite::Result<Query> {
    let first = first_id(conn)?;
    for (instant, round_up) in [(&mut query.from, 0), (&mut query.to, 1)] {
        let Some(ns) = instant.and_then(|ns| i64::try_from(ns).ok()).filter(|ns| ns % NS_PER_HOUR != 0) else {
            continue;
        };
        let hour = ns / NS_PER_HOUR;
        let min_id: Option<i64> = conn
            .prepare_cached("SELECT min_id FROM hours WHERE hour = ?")?
            .query_row([hour], |row| row.get(0))
            .optional()?;
        if min_id.is_some_and(|min_id| min_id < first) {
            *instant = Some((hour + round_up).saturating_mul(NS_PER_HOUR).unsigned_abs());
        }
    }
    Ok(query)
}

/// A question with its names as numbers, and the range half-open.
struct Selection {
    user: Option<i64>,
    model: Option<i64>,
    from: i64,
    to: i64,
    /// The least id that is there, and the last that is folded.
    first: i64,
    mark: i64,
}

impl Selection {
    /// `None` where the user or the model has no record.
    fn new(conn: &Connection, query: &Query) -> rusqlite::Result<Option<Self>> {
        let number = |table: &str, name: &Option<String>| {
            let Some(name) = name else { return Ok(Some(None)) };
            let sql = format!("SELECT id FROM {table} WHERE name = ?");
            conn.prepare_cached(&sql)?.query_row([name], |row| row.get(0)).optional().map(|id| id.map(Some))
        };
        let (Some(user), Some(model)) = (number("users", &query.user)?, number("models", &query.model)?) else {
            return Ok(None);
        };
        let bound = |instant: Option<u64>, open| instant.map_or(open, |ns| i64::try_from(ns).unwrap_or(i64::MAX));
        Ok(Some(Self {
            user,
            model,
            from: bound(query.from, 0),
            to: bound(query.to, i64::MAX),
            first: first_id(conn)?,
            mark: read_mark(conn)?,
        }))
    }

    /// True where the index by user knows all of these rows.
    fn uses_index(&self, ids: (i64, i64)) -> bool {
        self.user.is_some() && ids.1 <= self.mark
    }
}

type Sums = BTreeMap<i64, Totals>;

fn by_model(conn: &Connection, selection: &Selection) -> rusqlite::Result<Vec<(String, Totals)>> {
    let mut sums = Sums::new();
    let Selection { from, to, .. } = *selection;
    let first_whole = if from % NS_PER_HOUR == 0 { from / NS_PER_HOUR } else { from / NS_PER_HOUR + 1 };
    let after_whole = if to == i64::MAX { i64::MAX } else { to / NS_PER_HOUR };
    if first_whole > after_whole {
        add_part(conn, selection, from, to, &mut sums)?;
    } else {
        add_hours(conn, selection, first_whole, after_whole, &mut sums)?;
        if from % NS_PER_HOUR != 0 {
            add_part(conn, selection, from, first_whole.saturating_mul(NS_PER_HOUR), &mut sums)?;
        }
        if to != i64::MAX && to % NS_PER_HOUR != 0 {
            add_part(conn, selection, after_whole * NS_PER_HOUR, to, &mut sums)?;
        }
    }
    add_rows(conn, selection, (selection.mark + 1, i64::MAX), (from, to), &mut sums)?;
    let mut named = Vec::with_capacity(sums.len());
    let mut name = conn.prepare_cached("SELECT name FROM models WHERE id = ?")?;
    for (model, totals) in sums {
        named.push((name.query_row([model], |row| row.get(0))?, totals));
    }
    named.sort_by(|(name_a, a), (name_b, b)| {
        (b.cost_nano_usd, b.total_tokens, name_a).cmp(&(a.cost_nano_usd, a.total_tokens, name_b))
    });
    Ok(named)
}

/// Whole hours `[first, after)`, from the rollups. Their key begins with the hour, so for one user it is a seek an hour
/// instead of a scan of everybody's.
fn add_hours(
    conn: &Connection,
    selection: &Selection,
    first: i64,
    after: i64,
    sums: &mut Sums,
) -> rusqlite::Result<()> {
    const SELECT: &str = "model_id, requests, errors, unpriced, cost_nano_usd, input_tokens, cached_input_tokens,
        output_tokens, reasoning_tokens, total_tokens";
    let source = match selection.user {
        Some(_) => "hours h CROSS JOIN rollups r ON r.hour = h.hour WHERE r.user_id = :user AND h.hour",
        None => "rollups r WHERE :user IS NULL AND r.hour",
    };
    let sql = format!(
        "SELECT {SELECT} FROM {source} BETWEEN :first AND :after - 1 AND (:model IS NULL OR r.model_id = :model)"
    );
    let params = named_params! {
        ":user": selection.user, ":model": selection.model, ":first": first, ":after": after
    };
    add_sums(conn, &sql, params, sums)
}

/// Folded rows that started in `[from, to)`, which lies within one hour.
fn add_part(conn: &Connection, selection: &Selection, from: i64, to: i64, sums: &mut Sums) -> rusqlite::Result<()> {
    let ids = conn
        .prepare_cached("SELECT min_id, max_id FROM hours WHERE hour = ?")?
        .query_row([from / NS_PER_HOUR], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match ids {
        Some(ids) => add_rows(conn, selection, ids, (from, to), sums),
        None => Ok(()),
    }
}

/// Rows with an id in `[ids.0, ids.1]` that started in `[times.0, times.1)`: all folded, or all of the tail.
fn add_rows(
    conn: &Connection,
    selection: &Selection,
    ids: (i64, i64),
    times: (i64, i64),
    sums: &mut Sums,
) -> rusqlite::Result<()> {
    const SELECT: &str = "coalesce(r.model_id, r.model_requested_id, 0), 1, r.status >= 400 OR r.outcome <> 0,
        r.cost_nano_usd IS NULL, coalesce(r.cost_nano_usd, 0), r.input_tokens, r.cached_input_tokens,
        r.output_tokens, r.reasoning_tokens, r.total_tokens";
    let indexed = selection.uses_index(ids);
    let sql = rows_sql(SELECT, indexed);
    for slice in slices(ids, indexed) {
        add_sums(conn, &sql, &row_params(selection, &slice, &times)[..], sums)?;
    }
    Ok(())
}

/// Adds up rows of (model, and the fields of [`Totals`]).
fn add_sums(conn: &Connection, sql: &str, params: impl Params, sums: &mut Sums) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    while let Some(row) = rows.next()? {
        let totals = Totals {
            requests: count(row, 1)?,
            errors: count(row, 2)?,
            unpriced: count(row, 3)?,
            cost_nano_usd: count(row, 4)?,
            input_tokens: count(row, 5)?,
            cached_input_tokens: count(row, 6)?,
            output_tokens: count(row, 7)?,
            reasoning_tokens: count(row, 8)?,
            total_tokens: count(row, 9)?,
        };
        sums.entry(row.get(0)?).or_default().add(&totals);
    }
    Ok(())
}

/// Records newest first, one more than the limit if there are more.
fn history(conn: &Connection, selection: &Selection, query: &Query) -> rusqlite::Result<Vec<Entry>> {
    let before = query.cursor.map_or(i64::MAX, |cursor| i64::try_from(cursor).unwrap_or(i64::MAX));
    let wanted = query.limit as usize + 1;
    let mut entries = Vec::new();
    read_page(conn, selection, (selection.mark + 1, before.saturating_sub(1)), wanted, &mut entries)?;
    if entries.len() < wanted {
        let (least, greatest) = folded_ids(conn, selection)?;
        read_page(
            conn,
            selection,
            (least.max(selection.first), greatest.min(before.saturating_sub(1))),
            wanted,
            &mut entries,
        )?;
    }
    Ok(entries)
}

/// The ids between which all folded records of the range are.
fn folded_ids(conn: &Connection, selection: &Selection) -> rusqlite::Result<(i64, i64)> {
    if selection.from == 0 && selection.to == i64::MAX {
        return Ok((1, selection.mark));
    }
    conn.prepare_cached(
        "SELECT coalesce(min(min_id), 1), coalesce(max(max_id), 0) FROM hours WHERE hour BETWEEN ? AND ?",
    )?
    .query_row([selection.from / NS_PER_HOUR, (selection.to - 1) / NS_PER_HOUR], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Adds records with an id in `[ids.0, ids.1]`, newest first, until there are `wanted`.
fn read_page(
    conn: &Connection,
    selection: &Selection,
    ids: (i64, i64),
    wanted: usize,
    entries: &mut Vec<Entry>,
) -> rusqlite::Result<()> {
    let indexed = selection.uses_index(ids);
    let order = if indexed { "i.record_id" } else { "r.id" };
    let sql = format!("{} ORDER BY {order} DESC", rows_sql(ENTRY, indexed));
    let mut statement = conn.prepare_cached(&sql)?;
    for slice in slices(ids, indexed) {
        let mut rows = statement.query(&row_params(selection, &slice, &(selection.from, selection.to))[..])?;
        while entries.len() < wanted
            && let Some(row) = rows.next()?
        {
            entries.push(entry(row)?);
        }
        if entries.len() == wanted {
            break;
        }
    }
    Ok(())
}

/// A range of ids as the queries take it: block by block of the index, the newest first; whole where the index is not
/// used.
fn slices((least, greatest): (i64, i64), indexed: bool) -> impl Iterator<Item = (i64, i64)> {
    let blocks = if indexed { least >> BLOCK_SHIFT..(greatest >> BLOCK_SHIFT) + 1 } else { 0..1 };
    blocks.rev().map(move |block| {
        let (first, last) = (block << BLOCK_SHIFT, ((block + 1) << BLOCK_SHIFT) - 1);
        if indexed { (least.max(first), greatest.min(last)) } else { (least, greatest) }
    })
}

/// `SELECT columns` over rows between two ids (inclusive), started between two instants (half-open), of a user and a
/// model or of all. `indexed` goes through the index by user, which knows folded rows only, and in one block of it.
fn rows_sql(columns: &str, indexed: bool) -> String {
    let source = if indexed {
        format!(
            "user_records i CROSS JOIN records r ON r.id = i.record_id WHERE i.block = :least >> {BLOCK_SHIFT}
                AND i.user_id = :user AND i.record_id BETWEEN :least AND :greatest"
        )
    } else {
        "records r WHERE (:user IS NULL OR r.user_id = :user) AND r.id BETWEEN :least AND :greatest".to_owned()
    };
    format!(
        "SELECT {columns} FROM {source} AND r.started_at >= :from AND r.started_at < :to
            AND (:model IS NULL OR coalesce(r.model_id, r.model_requested_id, 0) = :model)"
    )
}

/// The parameters of [`rows_sql`].
fn row_params<'a>(
    selection: &'a Selection,
    ids: &'a (i64, i64),
    times: &'a (i64, i64),
) -> [(&'static str, &'a dyn ToSql); 6] {
    [
        (":user", &selection.user),
        (":model", &selection.model),
        (":least", &ids.0),
        (":greatest", &ids.1),
        (":from", &times.0),
        (":to", &times.1),
    ]
}

/// The columns of an entry, in the order in which [`entry`] reads them.
const ENTRY: &str = "r.id, r.started_at, (SELECT name FROM users WHERE id = r.user_id), r.key_id, r.endpoint,
    (SELECT name FROM models WHERE id = r.model_requested_id), (SELECT name FROM models WHERE id = r.model_id),
    r.stream, r.status, r.outcome, r.usage_source, r.cost_nano_usd, r.duration_us, r.first_byte_us, r.proxy_us,
    r.request_bytes, r.response_bytes, r.upstream_request_id, r.response_id, r.input_tokens, r.cached_input_tokens,
    r.cache_write_tokens, r.input_audio_tokens, r.input_image_tokens, r.output_tokens, r.reasoning_tokens,
    r.output_audio_tokens, r.output_image_tokens, r.total_tokens, r.audio_us, r.images";

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let text = |column: usize| row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from);
    let optional = |column: usize| row.get::<_, Option<i64>>(column).map(|value| value.map(i64::unsigned_abs));
    let record = Record {
        seq: 0,
        is_retrieval: false,
        journal: Journal::Off,
        started_at: count(row, 1)?,
        user: text(2)?.unwrap_or_default().into(),
        key_id: row.get(3)?,
        endpoint: Endpoint::from_code(row.get(4)?).unwrap_or_default(),
        model_requested: text(5)?.map(Into::into),
        model: text(6)?.map(Into::into),
        stream: row.get(7)?,
        status: row.get(8)?,
        outcome: Outcome::from_code(row.get(9)?).unwrap_or_default(),
        usage_source: UsageSource::from_code(row.get(10)?).unwrap_or_default(),
        cost_nano_usd: optional(11)?,
        duration_us: count(row, 12)?,
        first_byte_us: optional(13)?,
        proxy_us: count(row, 14)?,
        request_bytes: count(row, 15)?,
        response_bytes: count(row, 16)?,
        upstream_request_id: text(17)?.map(Into::into),
        response_id: text(18)?.map(Into::into),
        usage: Usage {
            input_tokens: count(row, 19)?,
            cached_input_tokens: count(row, 20)?,
            cache_write_tokens: count(row, 21)?,
            input_audio_tokens: count(row, 22)?,
            input_image_tokens: count(row, 23)?,
            output_tokens: count(row, 24)?,
            reasoning_tokens: count(row, 25)?,
            output_audio_tokens: count(row, 26)?,
            output_image_tokens: count(row, 27)?,
            total_tokens: count(row, 28)?,
            audio_us: count(row, 29)?,
            images: count(row, 30)?,
            ..Usage::default() // the media of cached tokens are not stored
        },
    };
    Ok(Entry { id: count(row, 0)?, record })
}

/// A count of ours: never negative. A sum past an `i64` has become a float in the rollups, and saturates here.
fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    match row.get_ref(column)? {
        ValueRef::Integer(value) => Ok(u64::try_from(value).unwrap_or(0)),
        ValueRef::Real(value) => Ok(value as u64),
        other => Err(rusqlite::Error::InvalidColumnType(column, String::new(), other.data_type())),
    }
}
