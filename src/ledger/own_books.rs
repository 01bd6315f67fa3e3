//! Our side of a comparison with the provider's own books: what the ledger has of some whole days, by hour or day, book
//! and model.
//!
//! In: a connection and a range. Out: [`Cells`]. An hour that has lost its rows is taken from the rollups, which do not
//! say which requests were estimated. A few rows at a time are read, each by a statement of its own, so that no reader
//! holds the write-ahead log for long. Never: a write.
//!
//! The provider books a request when it is done, by its own clock. So what may lie in the neighbouring bucket there is
//! told apart: requests that were under way at a bucket's edge, those within a minute of it, and answers that were
//! looked at later, within an hour.

use super::marks;
use super::numbers::signed;
use super::partition::NS_PER_HOUR;
use super::prune::first_id;
use super::rollup::{ALL, EVERYBODY};
use crate::reconcile::{Amounts, Book, CellKey, Cells, OwnCell, Quantity, TooMany, Width, model_of};
use crate::usage::record::{Endpoint, UsageSource};
use rusqlite::{Connection, OptionalExtension as _, Row, named_params};
use std::collections::BTreeMap;
use std::ops::Range;

const SECONDS_PER_HOUR: u64 = 3_600;
const NS_PER_SECOND: i64 = 1_000_000_000;
/// How far two clocks, or an answer and its booking, may be apart.
const CLOCKS_NS: i64 = 60 * NS_PER_SECOND;

/// What each row is summed by, and its sums; `:b0` to `:b1` is the bucket, `:d0` to `:d1` the day.
const ROWS: &str = "WITH rows AS (
    SELECT coalesce(model_id, model_requested_id, 0) AS model, *,
        started_at + duration_us * 1000
            + iif(correction IS NOT NULL OR endpoint IN (23, 24, 25), :late, :clocks) AS latest,
        started_at - iif(correction IS NOT NULL OR endpoint IN (23, 24, 25), :late, :clocks) AS earliest
    FROM records WHERE id BETWEEN :least AND :greatest AND started_at >= :from AND started_at < :to)
    SELECT model, endpoint, usage_source, correction IS NOT NULL, status BETWEEN 200 AND 299,
        (latest >= :b1) + 2 * (earliest < :b0), (latest >= :d1) + 2 * (earliest < :d0),
        count(*), sum(images = 0), sum(audio_us = 0), sum(coalesce(correction, cost_nano_usd IS NULL)),
        sum(coalesce(cost_nano_usd, 0)), sum(tool_calls), sum(input_tokens), sum(cached_input_tokens),
        sum(cache_write_tokens), sum(output_tokens), sum(input_audio_tokens), sum(input_image_tokens),
        sum(output_audio_tokens), sum(output_image_tokens), sum(images), sum(audio_us)
    FROM rows GROUP BY 1, 2, 3, 4, 5, 6, 7";

/// The same columns of an hour's rollups.
const ROLLUPS: &str = "SELECT model_id, endpoint, NULL, 0, 1, 0, 0,
        requests, images = 0, audio_us = 0, unpriced, cost_nano_usd, tool_calls, input_tokens, cached_input_tokens,
        cache_write_tokens, output_tokens, input_audio_tokens, input_image_tokens, output_audio_tokens,
        output_image_tokens, images, audio_us, errors
    FROM rollups WHERE hour = ? AND user_id = ? AND model_id > ?";

/// The sums behind the cost and the calls, in the order of the statements.
const SUMMED: [Quantity; 10] = [
    Quantity::Input,
    Quantity::CachedInput,
    Quantity::CacheWrite,
    Quantity::Output,
    Quantity::InputAudio,
    Quantity::InputImage,
    Quantity::OutputAudio,
    Quantity::OutputImage,
    Quantity::Images,
    Quantity::Seconds,
];
const FIRST_SUM: usize = 13;

/// The cells of a range of whole days (seconds since the Unix epoch).
///
/// # Errors
/// SQLite's; or there are too many cells.
pub fn own_cells(
    conn: &Connection,
    range: &Range<u64>,
    width: Width,
) -> rusqlite::Result<Result<Cells<OwnCell>, TooMany>> {
    let mut found = Found { range, width, cells: Cells::default() };
    let mut names = Names { conn, known: BTreeMap::new() };
    // Rows that are folded meanwhile count as what they were at the beginning.
    let (mark, first) = (marks::read(conn, marks::FOLD)?, first_id(conn)?);
    let hour = |second: u64| (second / SECONDS_PER_HOUR).cast_signed();
    // An hour before and one behind it: what is booked over there.
    for hour in hour(range.start) - 1..=hour(range.end) {
        let mut groups = Vec::new();
        let ids: Option<(i64, i64)> = conn
            .prepare_cached("SELECT min_id, max_id FROM hours WHERE hour = ?")?
            .query_row([hour], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match ids {
            Some((min_id, max_id)) if min_id >= first => {
                read_rows(conn, (hour, width), (min_id, max_id.min(mark)), &mut groups)?;
            }
            Some(_) => read_rollups(conn, hour, &mut groups)?,
            None => {}
        }
        read_rows(conn, (hour, width), (mark + 1, i64::MAX), &mut groups)?;
        for group in groups {
            let name = names.get(group.model)?;
            if found.add(hour, &group, model_of(name)).is_err() {
                return Ok(Err(TooMany));
            }
        }
    }
    Ok(Ok(found.cells))
}

fn read_rows(
    conn: &Connection,
    (hour, width): (i64, Width),
    (least, greatest): (i64, i64),
    into: &mut Vec<Group>,
) -> rusqlite::Result<()> {
    let second = hour.unsigned_abs() * SECONDS_PER_HOUR;
    let edges = |width: Width| {
        let start = width.start(second);
        [start, start + width.seconds()].map(|second| second.cast_signed() * NS_PER_SECOND)
    };
    let ([b0, b1], [d0, d1]) = (edges(width), edges(Width::Day));
    let mut select = conn.prepare_cached(ROWS)?;
    let mut rows = select.query(named_params! {
        ":late": NS_PER_HOUR, ":clocks": CLOCKS_NS, ":least": least, ":greatest": greatest,
        ":from": hour * NS_PER_HOUR, ":to": (hour + 1) * NS_PER_HOUR, ":b0": b0, ":b1": b1, ":d0": d0, ":d1": d1,
    })?;
    while let Some(row) = rows.next()? {
        into.push(Group::read(row, 0)?);
    }
    Ok(())
}

fn read_rollups(conn: &Connection, hour: i64, into: &mut Vec<Group>) -> rusqlite::Result<()> {
    let mut select = conn.prepare_cached(ROLLUPS)?;
    let mut rows = select.query([hour, EVERYBODY, ALL])?;
    while let Some(row) = rows.next()? {
        into.push(Group::read(row, row.get(FIRST_SUM + SUMMED.len())?)?);
    }
    Ok(())
}

/// Rows that count alike.
struct Group {
    model: i64,
    endpoint: Endpoint,
    /// `None` where the rows are gone that would say it.
    source: Option<UsageSource>,
    is_correction: bool,
    is_success: bool,
    edges: Edges,
    day_edges: Edges,
    rows: i64,
    /// Of the rows, those without images, and without seconds.
    without_images: i64,
    without_seconds: i64,
    unpriced: i64,
    cost: i64,
    calls: i64,
    sums: [i64; SUMMED.len()],
    /// Of the rows, those of which it is not known whether they reached a model.
    uncertain: i64,
}

/// Where the provider may have booked rows beside their own bucket.
#[derive(Clone, Copy)]
struct Edges {
    later: bool,
    earlier: bool,
}

impl Group {
    fn read(row: &Row<'_>, uncertain: i64) -> rusqlite::Result<Self> {
        let number = |column: usize| Ok::<_, rusqlite::Error>(signed(row, column)? as i64);
        let edges = |column: usize| {
            let bits: i64 = row.get(column)?;
            Ok::<_, rusqlite::Error>(Edges { later: bits & 1 > 0, earlier: bits & 2 > 0 })
        };
        let source: Option<u8> = row.get(2)?;
        let mut sums = [0; SUMMED.len()];
        for (column, sum) in (FIRST_SUM..).zip(&mut sums) {
            *sum = number(column)?;
        }
        let mut group = Self {
            model: row.get(0)?,
            endpoint: Endpoint::from_code(row.get(1)?).unwrap_or_default(),
            source: source.map(|code| UsageSource::from_code(code).unwrap_or_default()),
            is_correction: row.get(3)?,
            is_success: row.get(4)?,
            edges: edges(5)?,
            day_edges: edges(6)?,
            rows: number(7)?,
            without_images: number(8)?,
            without_seconds: number(9)?,
            unpriced: number(10)?,
            cost: number(11)?,
            calls: number(12)?,
            sums,
            uncertain,
        };
        if group.source == Some(UsageSource::Unknown) && !group.is_success {
            group.uncertain = group.rows;
        }
        Ok(group)
    }

    /// Requests that reached a model, as far as that is known.
    fn requests(&self) -> i64 {
        let is_request = !self.is_correction && !self.endpoint.is_retrieval() && !self.endpoint.is_session();
        // What is known to have cost nothing and is no success was refused.
        let reached = self.is_success || self.source != Some(UsageSource::None);
        if is_request && reached { self.rows } else { 0 }
    }
}

/// The book in which an endpoint's usage is; `None` where OpenAI has none of it, or nobody knows which.
fn book_of(endpoint: Endpoint) -> Option<Book> {
    match endpoint {
        Endpoint::ChatCompletions
        | Endpoint::Completions
        | Endpoint::Responses
        | Endpoint::ResponsesCompact
        | Endpoint::ResponsesRetrieve
        | Endpoint::ThreadsRuns
        | Endpoint::ThreadsRunsRetrieve
        | Endpoint::Realtime => Some(Book::Completions),
        Endpoint::Batches => Some(Book::Batches),
        Endpoint::Embeddings => Some(Book::Embeddings),
        Endpoint::Moderations => Some(Book::Moderations),
        Endpoint::ImagesGenerations | Endpoint::ImagesEdits | Endpoint::ImagesVariations => Some(Book::Images),
        Endpoint::AudioSpeech => Some(Book::Speeches),
        Endpoint::AudioTranscriptions | Endpoint::AudioTranslations | Endpoint::RealtimeTranscription => {
            Some(Book::Transcriptions)
        }
        Endpoint::Other
        | Endpoint::Messages
        | Endpoint::ApiChat
        | Endpoint::ApiGenerate
        | Endpoint::Decisions
        | Endpoint::RealtimeSession
        | Endpoint::ResponsesSession
        | Endpoint::LiveSession
        | Endpoint::ResponsesImages => None,
    }
}

/// The cells on their way.
struct Found<'r> {
    range: &'r Range<u64>,
    width: Width,
    cells: Cells<OwnCell>,
}

impl Found<'_> {
    fn add(&mut self, hour: i64, group: &Group, model: &str) -> Result<(), TooMany> {
        let second = hour.unsigned_abs() * SECONDS_PER_HOUR;
        let day = Width::Day.start(second);
        let own = self.range.contains(&second);
        let cost = [(Quantity::Cost, group.cost)];
        self.amounts((Book::Costs, model), (day, group.day_edges), &cost)?;
        if own {
            let cell = self.cells.entry(key(day, Book::Costs, model))?;
            cell.unpriced = cell.unpriced.saturating_add_signed(group.unpriced);
            uncertainty(cell, group, &cost);
            if group.calls > 0 {
                let calls = group.calls.unsigned_abs();
                cell.fees_out += calls;
                self.cells.entry(key(day, Book::Costs, ""))?.fees_in += calls;
            }
        }
        if group.calls != 0 {
            self.amounts((Book::Tools, ""), (second, group.edges), &[(Quantity::Calls, group.calls)])?;
        }
        let bucket = self.width.start(second);
        if group.endpoint == Endpoint::ResponsesImages && own {
            // Whether the book of images has those that a tool made is not said.
            let cell = self.cells.entry(key(bucket, Book::Images, model))?;
            cell.arriving.add(Quantity::Requests, group.rows);
            cell.arriving.add(Quantity::Images, group.sums[8]);
        }
        match book_of(group.endpoint) {
            Some(book) => self.usage(book, model, (second, own), group),
            None => Ok(()),
        }
    }

    fn usage(&mut self, book: Book, model: &str, (second, own): (u64, bool), group: &Group) -> Result<(), TooMany> {
        // Batches of embeddings are among the others there.
        let is_embedded = book == Book::Batches && model.contains("embedding");
        let book = if is_embedded { Book::Embeddings } else { book };
        let sums = SUMMED.into_iter().zip(group.sums);
        let amounts = [(Quantity::Requests, group.requests())].into_iter().chain(sums);
        let amounts: Vec<_> = amounts.filter(|(quantity, _)| book.quantities().contains(quantity)).collect();
        if amounts.iter().all(|(_, amount)| *amount == 0) && !is_embedded && group.source != Some(UsageSource::Unknown)
        {
            return Ok(()); // refused, or a look at what was counted
        }
        let edges = if is_embedded { Edges { later: true, earlier: true } } else { group.edges };
        self.amounts((book, model), (second, edges), &amounts)?;
        if !own {
            return Ok(());
        }
        let cell = self.cells.entry(key(self.width.start(second), book, model))?;
        cell.leaving.add(Quantity::Requests, group.uncertain.min(group.requests()));
        uncertainty(cell, group, &amounts);
        let lost = [
            (Quantity::Requests, is_embedded),
            (Quantity::Images, book == Book::Images && group.requests() > 0 && group.without_images > 0),
            (Quantity::Seconds, book == Book::Transcriptions && group.requests() > 0 && group.without_seconds > 0),
        ];
        lost.into_iter().filter(|(_, is_lost)| *is_lost).for_each(|(quantity, _)| cell.amounts.lose(quantity));
        Ok(())
    }

    /// Adds amounts to a cell, and to those beside it what may be booked there.
    fn amounts(
        &mut self,
        (book, model): (Book, &str),
        (second, edges): (u64, Edges),
        amounts: &[(Quantity, i64)],
    ) -> Result<(), TooMany> {
        let width = book.width(self.width);
        let start = width.start(second);
        let add = |to: &mut Amounts| amounts.iter().for_each(|&(quantity, amount)| to.add(quantity, amount));
        let beside = [(edges.later, start + width.seconds()), (edges.earlier, start.saturating_sub(width.seconds()))];
        if self.range.contains(&second) {
            let cell = self.cells.entry(key(start, book, model))?;
            add(&mut cell.amounts);
            if edges.later || edges.earlier {
                add(&mut cell.leaving);
            }
        }
        for (_, start) in beside.into_iter().filter(|(is_beside, start)| *is_beside && self.range.contains(start)) {
            add(&mut self.cells.entry(key(start, book, model))?.arriving);
        }
        Ok(())
    }
}

/// Adds what we are not sure of.
fn uncertainty(cell: &mut OwnCell, group: &Group, amounts: &[(Quantity, i64)]) {
    let rows = group.rows.unsigned_abs();
    match group.source {
        Some(UsageSource::Estimated) => {
            cell.estimated += rows;
            amounts.iter().for_each(|&(quantity, amount)| cell.estimates.add(quantity, amount));
        }
        Some(UsageSource::Unknown) => cell.unknown += rows,
        // What is told by now of a record before it: of one without a price, which was unknown, or of an estimate.
        Some(UsageSource::Correction) => {
            let of_unknown = group.unpriced.min(0).unsigned_abs();
            cell.unknown = cell.unknown.saturating_sub(of_unknown);
            cell.estimated = cell.estimated.saturating_sub(rows.saturating_sub(of_unknown));
        }
        _ => {}
    }
}

fn key(start: u64, book: Book, model: &str) -> CellKey {
    CellKey { start, book, model: model.into() }
}

/// Names of models by their numbers.
struct Names<'c> {
    conn: &'c Connection,
    known: BTreeMap<i64, String>,
}

impl Names<'_> {
    fn get(&mut self, id: i64) -> rusqlite::Result<&str> {
        if !self.known.contains_key(&id) {
            let mut select = self.conn.prepare_cached("SELECT name FROM models WHERE id = ?")?;
            let name = select.query_row([id], |row| row.get(0)).optional()?;
            self.known.insert(id, name.unwrap_or_default());
        }
        Ok(&self.known[&id])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::append::Writer;
    use crate::ledger::prune::Cutoff;
    use crate::ledger::{database, fold, prune};
    use crate::usage::record::{Record, Usage};
    use proptest::prelude::*;

    const DAY: u64 = 86_400;
    const FIRST: u64 = 20_000 * DAY;
    const NS: u64 = 1_000_000_000;

    #[test]
    fn late_looks_have_these_codes() {
        let codes: Vec<u8> =
            Endpoint::ALL.iter().filter(|endpoint| endpoint.is_retrieval()).map(|endpoint| endpoint.code()).collect();
        assert_eq!(codes, [23, 24, 25]);
        assert!(ROWS.contains("endpoint IN (23, 24, 25)"));
    }

    fn chat(second: u64, model: &str, input: u64) -> Record {
        Record {
            started_at: (FIRST + second) * NS,
            user: "u".into(),
            endpoint: Endpoint::ChatCompletions,
            model: Some(model.into()),
            status: 200,
            usage_source: UsageSource::Reported,
            usage: Usage { input_tokens: input, total_tokens: input, ..Usage::NOTHING },
            cost_nano_usd: Some(input),
            ..Record::default()
        }
    }

    /// A record somewhere in three days, of which the middle one is asked for.
    fn record() -> impl Strategy<Value = Record> {
        let model = prop::sample::select(vec!["m", "m-2025-08-07", "other"]);
        let kind = prop::sample::select(vec![
            (200, UsageSource::Reported),
            (200, UsageSource::Estimated),
            (200, UsageSource::Unknown),
            (429, UsageSource::None),
        ]);
        (0..3 * DAY, model, 1..1_000u64, kind, 0..200_000_000u64).prop_map(
            |(second, model, input, kind, duration_us)| {
                let (status, usage_source) = kind;
                let has_numbers = usage_source.has_numbers();
                let used = chat(second, model, if has_numbers { input } else { 0 });
                Record { status, usage_source, duration_us, ..used }
            },
        )
    }

    /// The sums of the middle day, one record after another.
    fn oracle(records: &[Record], width: Width) -> Cells<OwnCell> {
        let mut cells: Cells<OwnCell> = Cells::default();
        let range = FIRST + DAY..FIRST + 2 * DAY;
        for record in records {
            let second = record.started_at / NS;
            let model = model_of(record.model_name());
            let (begins, ends) = (record.started_at / NS, record.started_at + record.duration_us * 1_000);
            for (book, width, quantity, amount) in [
                (Book::Costs, Width::Day, Quantity::Cost, record.cost_nano_usd.unwrap()),
                (Book::Completions, width, Quantity::Input, record.usage.input_tokens),
            ] {
                let is_counted = book == Book::Costs || record.usage_source != UsageSource::None;
                if !is_counted {
                    continue;
                }
                let start = width.start(second);
                let mut add = |start: u64, to: fn(&mut OwnCell) -> &mut Amounts| {
                    if range.contains(&start) {
                        let cell = cells.entry(key(start, book, model)).unwrap();
                        to(cell).add(quantity, amount.cast_signed());
                        if book == Book::Completions {
                            to(cell).add(Quantity::Requests, 1);
                        }
                    }
                };
                add(start, |cell| &mut cell.amounts);
                let later = ends + 60 * NS >= (start + width.seconds()) * NS;
                let earlier = begins < start + 60 || record.started_at - 60 * NS < start * NS;
                if later || earlier {
                    add(start, |cell| &mut cell.leaving);
                }
                // Only the hour beside the range is looked at.
                if later && begins + 3_600 >= range.start {
                    add(start + width.seconds(), |cell| &mut cell.arriving);
                }
                if earlier && begins < range.end + 3_600 {
                    add(start - width.seconds(), |cell| &mut cell.arriving);
                }
                if let Some(cell) = cells.get_mut(&key(start, book, model)).filter(|_| range.contains(&start)) {
                    match record.usage_source {
                        UsageSource::Estimated => {
                            cell.estimated += 1;
                            cell.estimates.add(quantity, amount.cast_signed());
                            if book == Book::Completions {
                                cell.estimates.add(Quantity::Requests, 1);
                            }
                        }
                        UsageSource::Unknown => cell.unknown += 1,
                        _ => {}
                    }
                }
            }
        }
        cells
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn the_cells_are_the_sums_of_the_records_wherever_the_fold_is(
            records in prop::collection::vec(record(), 1..60),
            folded in 0..60i64,
            hourly: bool,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let conn = database::open(&folder.path().join("usage.db")).unwrap();
            Writer::new(&conn).unwrap().append(&records).unwrap();
            if folded > 0 {
                fold::fold(&conn, folded).unwrap();
            }
            let width = if hourly { Width::Hour } else { Width::Day };
            let range = FIRST + DAY..FIRST + 2 * DAY;
            let found = own_cells(&conn, &range, width).unwrap().unwrap();
            prop_assert_eq!(found, oracle(&records, width));
        }
    }

    #[test]
    fn where_rows_are_gone_the_rollups_have_the_sums() {
        let folder = tempfile::tempdir().unwrap();
        let conn = database::open(&folder.path().join("usage.db")).unwrap();
        let noon = DAY + DAY / 2;
        let failed =
            Record { status: 500, outcome: crate::usage::record::Outcome::UpstreamError, ..chat(noon, "m", 0) };
        let records = [chat(noon, "m-2025-08-07", 5), chat(noon + 1, "m", 6), failed, chat(9 * DAY, "m", 9)];
        Writer::new(&conn).unwrap().append(&records).unwrap();
        fold::fold(&conn, 9).unwrap();
        let range = FIRST + DAY..FIRST + 2 * DAY;
        let kept = own_cells(&conn, &range, Width::Day).unwrap().unwrap();
        let now = ((FIRST + 9 * DAY) * NS).cast_signed();
        while prune::prune(&conn, Cutoff::new(3, false, now), 100).unwrap() {}
        let left: i64 = conn.query_row("SELECT count(*) FROM records", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 1);
        let found = own_cells(&conn, &range, Width::Day).unwrap().unwrap();
        let cell = |cells: &Cells<OwnCell>| cells.get(&key(range.start, Book::Completions, "m")).unwrap().amounts;
        assert_eq!(cell(&found), cell(&kept));
        assert_eq!(cell(&found).get(Quantity::Input), Some(11));
        // Whether the one that failed reached a model is not known any more.
        let leaving = &found.get(&key(range.start, Book::Completions, "m")).unwrap().leaving;
        assert_eq!(leaving.get(Quantity::Requests), Some(1));
    }

    #[test]
    fn each_endpoint_counts_in_its_book() {
        let folder = tempfile::tempdir().unwrap();
        let conn = database::open(&folder.path().join("usage.db")).unwrap();
        let noon = DAY + DAY / 2;
        let of = |endpoint, model, usage| Record { endpoint, usage, ..chat(noon, model, 0) };
        let sound = Usage { audio_us: 4_000_000, ..Usage::NOTHING };
        let images = Usage { images: 2, ..Usage::NOTHING };
        let searched = Usage { input_tokens: 3, tool_calls: 2, ..Usage::NOTHING };
        let tokens = Usage { input_tokens: 50, total_tokens: 50, ..Usage::NOTHING };
        let records = [
            of(Endpoint::Responses, "m", searched),
            of(Endpoint::ResponsesRetrieve, "m", tokens),
            of(Endpoint::ResponsesSession, "m", Usage::NOTHING),
            of(Endpoint::Batches, "m", tokens),
            of(Endpoint::Batches, "text-embedding-3-small", tokens),
            of(Endpoint::Embeddings, "text-embedding-3-small", tokens),
            of(Endpoint::Moderations, "omni", Usage::NOTHING),
            of(Endpoint::ImagesEdits, "gpt-image-1", images),
            of(Endpoint::ResponsesImages, "gpt-image-1", images),
            of(Endpoint::AudioTranscriptions, "whisper-1", sound),
            of(Endpoint::AudioTranscriptions, "gpt-4o-transcribe", tokens),
            of(Endpoint::Other, "sora", tokens),
        ];
        Writer::new(&conn).unwrap().append(&records).unwrap();
        let range = FIRST + DAY..FIRST + 2 * DAY;
        let cells = own_cells(&conn, &range, Width::Day).unwrap().unwrap();
        let get = |book, model: &str, quantity| {
            cells.get(&key(range.start, book, model)).map(|cell| cell.amounts.get(quantity))
        };
        use Quantity::{Calls, Images, Input, Requests, Seconds};
        for (book, model, quantity, amount) in [
            (Book::Completions, "m", Requests, Some(1)),
            (Book::Completions, "m", Input, Some(53)),
            (Book::Batches, "m", Input, Some(50)),
            (Book::Embeddings, "text-embedding-3-small", Input, Some(100)),
            (Book::Embeddings, "text-embedding-3-small", Requests, None),
            (Book::Moderations, "omni", Requests, Some(1)),
            (Book::Images, "gpt-image-1", Images, Some(2)),
            (Book::Transcriptions, "whisper-1", Seconds, Some(4_000_000)),
            (Book::Transcriptions, "gpt-4o-transcribe", Seconds, None),
            (Book::Transcriptions, "gpt-4o-transcribe", Requests, Some(1)),
            (Book::Tools, "", Calls, Some(2)),
        ] {
            assert_eq!(get(book, model, quantity), Some(amount), "{book:?} {model} {quantity:?}");
        }
        assert_eq!(get(Book::Completions, "sora", Input), None, "no book of OpenAI's is known to have it");
        let of_tool = &cells.get(&key(range.start, Book::Images, "gpt-image-1")).unwrap().arriving;
        assert_eq!(of_tool.get(Images), Some(2), "they may be there");
        let costs = |model: &str| cells.get(&key(range.start, Book::Costs, model)).unwrap();
        assert_eq!((costs("m").fees_out, costs("").fees_in), (2, 2));
    }
}
