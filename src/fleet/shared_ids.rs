//! Counting once over the whole fleet: what several ledgers have counted under one response id.
//!
//! Each ledger has counted once what it has seen (`ledger::deduplication`): what was made by it whole, and of what it
//! was shown again the excess over that. What another ledger made it cannot know. So where an id is in several ledgers,
//! whoever ships the later part looks at all of it, and corrects those that were only shown the thing:
//!
//! | ledgers that made it | one that was shown it counts |
//! |---|---|
//! | there is one, and its number is the upstream's | its excess over them |
//! | there is one, and it has an estimate, or knows nothing | nothing; the maker gets its number, where it has one |
//! | none, yet | its excess over those that were shown it before |
//!
//! The rule looks at sums alone, so it gives the same whatever comes first, and as often as it is asked.
//!
//! In: the rows of an id. Out: corrections, which stand beside a row in all but the numbers, as in a ledger. Never: a
//! row changed.

use crate::postgres::{PostgresClient, Row, SqlError};
use crate::usage::record::{Endpoint, UsageSource};
use std::collections::BTreeMap;

/// Numbers of a row that sums are made of: usage, cost, and how many have no price.
const NUMBERS: usize = 15;
const COST: usize = 13;
const UNPRICED: usize = 14;
type Numbers = [i64; NUMBERS];

const USAGE: &str = "input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, total_tokens,
    cache_write_tokens, input_audio_tokens, input_image_tokens, output_audio_tokens, output_image_tokens, audio_us,
    images, tool_calls";

/// A row of an id, in the order of arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    seq: i64,
    ledger: i16,
    endpoint: Endpoint,
    source: UsageSource,
    /// A correction that was made here.
    is_ours: bool,
    numbers: Numbers,
}

/// What is to be added beside a row.
type Addition = (i64, Numbers);

/// Corrects what is counted under these ids (hashes, parted by spaces), within the transaction that brought the last
/// part. The numbers of the corrections, as rows.
///
/// # Errors
/// The server's.
pub fn settle(client: &mut PostgresClient, hashes: &str) -> Result<Vec<i64>, SqlError> {
    let hashes: Vec<&str> = hashes.split_ascii_whitespace().collect();
    if hashes.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT response_id, endpoint = {}, seq, ledger, endpoint, usage_source, id IS NULL, coalesce(cost_nano_usd, 0),
            coalesce(correction, (cost_nano_usd IS NULL)::int), {USAGE}
        FROM oap_records WHERE response_hash = ANY ($1) AND usage_source <> {} ORDER BY seq",
        Endpoint::ResponsesImages.code(),
        UsageSource::None.code()
    );
    let mut by_id: BTreeMap<(String, bool), Vec<Shown>> = BTreeMap::new();
    for row in client.query(&sql, &[&hashes])? {
        by_id.entry((row.get(0)?, row.get(1)?)).or_default().push(shown(&row)?);
    }
    let makers = |of: &str, by_id: &BTreeMap<(String, bool), Vec<Shown>>| -> Vec<i16> {
        let rows = by_id.get(&(of.to_owned(), false)).into_iter().flatten();
        rows.filter(|row| row.makes()).map(|row| row.ledger).collect()
    };
    let mut corrections = Vec::new();
    for ((id, _), rows) in &by_id {
        for (seq, numbers) in additions(rows, &makers(id, &by_id)) {
            corrections.push(correct(client, seq, &numbers)?);
        }
    }
    Ok(corrections)
}

fn shown(row: &Row) -> Result<Shown, SqlError> {
    let code = |code: i16| u8::try_from(code).unwrap_or_default();
    let mut numbers = [0; NUMBERS];
    for (place, number) in numbers[..COST].iter_mut().enumerate() {
        *number = row.get(9 + place)?;
    }
    (numbers[COST], numbers[UNPRICED]) = (row.get(7)?, row.get(8)?);
    Ok(Shown {
        seq: row.get(2)?,
        ledger: row.get(3)?,
        endpoint: Endpoint::from_code(code(row.get(4)?)).unwrap_or_default(),
        source: UsageSource::from_code(code(row.get(5)?)).unwrap_or_default(),
        is_ours: row.get(6)?,
        numbers,
    })
}

/// Adds a correction beside a row; its number.
fn correct(client: &mut PostgresClient, seq: i64, numbers: &Numbers) -> Result<i64, SqlError> {
    let usage: Vec<_> = numbers[..COST].iter().map(i64::to_string).collect();
    let (usage, cost, unpriced) = (usage.join(", "), numbers[COST], numbers[UNPRICED]);
    let source = UsageSource::Correction.code();
    let sql = format!(
        "INSERT INTO oap_records (ledger, started_at, user_id, team_id, key_id, endpoint, model_requested_id, model_id,
            status, outcome, usage_source, stream, cost_nano_usd, {USAGE}, duration_us, proxy_us, request_bytes,
            response_bytes, correction, response_id, response_hash)
        SELECT ledger, started_at, user_id, team_id, key_id, endpoint, model_requested_id, model_id,
            status, outcome, {source}, stream, {cost}, {usage}, 0, 0, 0, 0, {unpriced}, response_id, response_hash
        FROM oap_records WHERE seq = $1 RETURNING seq"
    );
    client.query_one(&sql, &[&seq])?.get(0)
}

impl Shown {
    /// It is of the making of the thing, not of a look at it.
    fn makes(&self) -> bool {
        !self.endpoint.is_retrieval() && !self.is_ours
    }
}

/// What one ledger has of an id.
#[derive(Default)]
struct Part {
    makes: bool,
    /// There is a number of the upstream's.
    reported: bool,
    /// What it has counted itself, and what corrections of ours have made of that.
    own: Numbers,
    now: Numbers,
    /// The row beside which a correction stands.
    last: i64,
}

/// The corrections that make the rows of one id what they are to count. `makers` are the ledgers that made the thing.
fn additions(rows: &[Shown], makers: &[i16]) -> Vec<Addition> {
    let mut order = Vec::new();
    let mut parts: BTreeMap<i16, Part> = BTreeMap::new();
    for row in rows {
        let part = parts.entry(row.ledger).or_insert_with(|| {
            order.push(row.ledger);
            Part { makes: makers.contains(&row.ledger), ..Part::default() }
        });
        add(&mut part.now, &row.numbers);
        if !row.is_ours {
            add(&mut part.own, &row.numbers);
            // A ledger corrects an estimate of its own only by the upstream's number.
            part.reported |= row.source.is_report() || row.source == UsageSource::Correction;
            part.last = row.seq;
        }
    }
    let wanted = wanted(&order, &parts);
    let of = |ledger: &i16| {
        let part = &parts[ledger];
        let mut more = wanted[ledger];
        more.iter_mut().zip(part.now).for_each(|(more, now)| *more = more.saturating_sub(now));
        (part.last, more)
    };
    order.iter().map(of).filter(|(seq, more)| *seq != 0 && *more != [0; NUMBERS]).collect()
}

/// What each ledger is to count.
fn wanted(order: &[i16], parts: &BTreeMap<i16, Part>) -> BTreeMap<i16, Numbers> {
    let makers = || order.iter().filter(|ledger| parts[ledger].makes);
    let mut wanted: BTreeMap<i16, Numbers> = makers().map(|ledger| (*ledger, parts[ledger].own)).collect();
    let told = order.iter().filter(|ledger| !parts[ledger].makes && parts[ledger].reported);
    let is_estimated = makers().all(|ledger| !parts[ledger].reported);
    if let (true, Some(first)) = (is_estimated, makers().next()) {
        // The largest of what was told, as a total grows.
        let truth = told.map(|ledger| parts[ledger].own).reduce(largest);
        wanted.extend(truth.map(|truth| (*first, truth)));
    }
    let mut counted = [0; NUMBERS];
    wanted.values().for_each(|numbers| add(&mut counted, numbers));
    let mut is_first = wanted.is_empty();
    for ledger in order.iter().filter(|ledger| !parts[ledger].makes) {
        let mut excess = parts[ledger].own;
        excess.iter_mut().zip(counted).for_each(|(excess, counted)| *excess = excess.saturating_sub(counted).max(0));
        if !std::mem::take(&mut is_first) && excess[..COST].iter().all(|number| *number == 0) {
            excess = [0; NUMBERS]; // nothing new: nothing of the price either
        }
        add(&mut counted, &excess);
        wanted.insert(*ledger, excess);
    }
    wanted
}

fn add(sum: &mut Numbers, more: &Numbers) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(*more));
}

fn largest(a: Numbers, b: Numbers) -> Numbers {
    let mut largest = a;
    largest.iter_mut().zip(b).for_each(|(largest, b)| *largest = (*largest).max(b));
    largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(tokens: i64, cost: i64) -> Numbers {
        let mut numbers = [0; NUMBERS];
        (numbers[0], numbers[4], numbers[COST]) = (tokens, tokens, cost);
        numbers
    }

    /// A row of a ledger: made there or shown, and what it counted.
    fn row(seq: i64, ledger: i16, endpoint: Endpoint, source: UsageSource, tokens: i64) -> Shown {
        Shown { seq, ledger, endpoint, source, is_ours: false, numbers: numbers(tokens, tokens * 10) }
    }

    const MADE: Endpoint = Endpoint::Responses;
    const SHOWN: Endpoint = Endpoint::ResponsesRetrieve;
    use UsageSource::{Estimated, Reported, Unknown};

    fn makers(rows: &[Shown]) -> Vec<i16> {
        rows.iter().filter(|row| row.makes()).map(|row| row.ledger).collect()
    }

    /// What each ledger counts in the end.
    fn settled(rows: &[Shown]) -> BTreeMap<i16, i64> {
        let mut all = rows.to_vec();
        for (seq, numbers) in additions(rows, &makers(rows)) {
            let beside = rows.iter().find(|row| row.seq == seq).unwrap();
            all.push(Shown {
                seq: 1000 + seq,
                source: UsageSource::Correction,
                is_ours: true,
                numbers,
                ..beside.clone()
            });
        }
        assert_eq!(additions(&all, &makers(&all)), [], "asked again, nothing is left to correct");
        let mut sums = BTreeMap::new();
        all.iter().for_each(|row| *sums.entry(row.ledger).or_insert(0) += row.numbers[0]);
        sums
    }

    #[test]
    fn who_made_it_counts_and_who_was_shown_it_does_not() {
        let sums = |pairs: &[(i16, i64)]| pairs.iter().copied().collect::<BTreeMap<_, _>>();
        for (rows, counts) in [
            (vec![row(1, 1, MADE, Reported, 10), row(2, 2, SHOWN, Reported, 10)], sums(&[(1, 10), (2, 0)])),
            (vec![row(1, 2, SHOWN, Reported, 10), row(2, 1, MADE, Reported, 10)], sums(&[(1, 10), (2, 0)])),
            (vec![row(1, 1, MADE, Unknown, 0), row(2, 2, SHOWN, Reported, 10)], sums(&[(1, 10), (2, 0)])),
            (vec![row(1, 1, MADE, Estimated, 30), row(2, 2, SHOWN, Reported, 10)], sums(&[(1, 10), (2, 0)])),
            (vec![row(1, 2, SHOWN, Estimated, 4), row(2, 1, MADE, Estimated, 9)], sums(&[(1, 9), (2, 0)])),
            (
                vec![row(1, 2, SHOWN, Reported, 5), row(2, 3, SHOWN, Reported, 9), row(3, 2, SHOWN, Reported, 7)],
                sums(&[(2, 12), (3, 0)]),
            ),
            // Servers that use an id again: each making is one.
            (
                vec![row(1, 1, MADE, Reported, 10), row(2, 2, MADE, Reported, 7), row(3, 3, SHOWN, Reported, 17)],
                sums(&[(1, 10), (2, 7), (3, 0)]),
            ),
        ] {
            assert_eq!(settled(&rows), counts, "{rows:?}");
        }
    }

    proptest! {
        /// Whatever comes first, the makers count the same, and all together too.
        #[test]
        fn the_order_of_arrival_changes_no_sum(
            mut rows in prop::collection::vec((1..4i16, any::<bool>(), 0..50i64), 1..6)
                .prop_map(|rows| rows.iter().zip(1..).map(|((ledger, made, tokens), seq)| {
                    row(seq, *ledger, if *made { MADE } else { SHOWN }, Reported, *tokens)
                }).collect::<Vec<_>>()),
            turn in 0..6usize,
        ) {
            let total = |rows: &[Shown]| settled(rows).values().sum::<i64>();
            let (before, sums) = (total(&rows), settled(&rows));
            let makers = makers(&rows);
            let count = rows.len();
            rows.rotate_left(turn % count);
            prop_assert_eq!(total(&rows), before);
            let later = settled(&rows);
            for ledger in &makers {
                prop_assert_eq!(later[ledger], sums[ledger]);
            }
            prop_assert!(sums.values().all(|sum| *sum >= 0));
        }
    }
}
