//! Holds a range of days against the provider's books: fetches, sums up, compares, some days at a time.
//!
//! ```text
//!   books ──pages (kept, where they change no more)──▶ their cells ─┐ of some days
//!   ledger ──────────────────────────────────────────▶ our cells ───┴──▶ Comparison
//! ```
//!
//! In: a range of whole days. Out: a [`Comparison`], or why there is none. Never: more in memory than the cells of some
//! days and one page, whatever the range; a request that is repeated faster than the provider asks.

use super::backoff::Backoff;
use super::books_cache::BooksCache;
use super::books_client::{BooksClient, Refusal};
use super::process::unix_now;
use crate::base::clock::SECOND;
use crate::base::percent::encode;
use crate::config::{Config, ProviderBooks};
use crate::price::PriceTable;
use crate::reconcile::{Cells, Comparison, Judge, OwnCell, Page, PageError, TheirCell, TooMany, Width};
use std::ops::Range;
use std::time::Duration;

/// The books' delay, seconds: a bucket that ended later may still change. How late they close is not stated.
pub const BOOKS_DELAY: u64 = 24 * 3_600;
/// Days that are compared at once: by hours, 24 times as many buckets.
const DAYS_AT_ONCE: u64 = 7;
/// Tries of one page in a row, and the pauses between them where the provider asks for none.
const TRIES_MAX: u32 = 8;
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Pages of one question: more than a page an hour of a week, and an end for books that have none.
const PAGES_MAX: usize = 2_000;

/// What is compared, and how.
pub struct Reconciler<'a> {
    client: BooksClient,
    books: &'a ProviderBooks,
    prices: &'a PriceTable,
    cache: Option<&'a BooksCache>,
    pub width: Width,
    /// Millionths of an amount by which both may differ.
    pub tolerance_ppm: u64,
}

/// Our side of some whole days, or why there is none.
pub type OwnSide<'o> = &'o mut dyn FnMut(&Range<u64>) -> Result<Result<Cells<OwnCell>, TooMany>, String>;

/// Waits for so long, and says why; false where nobody wants it to go on.
pub type Wait<'w> = &'w dyn Fn(Duration, &str) -> bool;

impl<'a> Reconciler<'a> {
    /// With these prices beside the books'.
    ///
    /// # Errors
    /// One sentence: there is nothing to compare with.
    pub fn new(config: &'a Config, prices: &'a PriceTable, cache: Option<&'a BooksCache>) -> Result<Self, String> {
        let client = BooksClient::new(config)?;
        let (width, tolerance_ppm) = (Width::Day, TOLERANCE_PPM);
        Ok(Self { client, books: &config.books, prices, cache, width, tolerance_ppm })
    }

    /// Compares whole days, seconds since the Unix epoch. `own_cells` gives our side of a part of them.
    ///
    /// # Errors
    /// One sentence: the books or the ledger cannot be read, or `wait` gave up.
    pub fn run(&self, range: &Range<u64>, own_cells: OwnSide<'_>, wait: Wait<'_>) -> Result<Comparison, String> {
        let step = if self.width == Width::Hour { 1 } else { DAYS_AT_ONCE } * Width::Day.seconds();
        let (mut found, mut start) = (Comparison::default(), range.start);
        while start < range.end {
            let part = start..range.end.min(start.saturating_add(step));
            let mut theirs = Cells::default();
            for page in Page::ALL {
                self.fetch(page, &part, &mut theirs, wait)?;
            }
            let too_many = |TooMany| "the ledger has more models than can be compared at once".to_owned();
            let ours = own_cells(&part)?.map_err(too_many)?;
            let (tolerance_ppm, closed_before) = (self.tolerance_ppm, self.closed_before());
            let judge = Judge { tolerance_ppm, closed_before, width: self.width, prices: self.prices };
            found.judge(&judge, &ours, &theirs);
            start = part.end;
        }
        Ok(found)
    }

    /// Whether a bucket that ended then is closed.
    pub fn is_closed(&self, end: u64) -> bool {
        end <= self.closed_before()
    }

    /// Buckets that ended before this are closed: by the clock that is behind.
    fn closed_before(&self) -> u64 {
        let now = self.client.date().map_or_else(unix_now, |date| date.min(unix_now()));
        (now / SECOND).saturating_sub(BOOKS_DELAY)
    }

    /// All pages of one kind.
    fn fetch(&self, page: Page, part: &Range<u64>, into: &mut Cells<TheirCell>, wait: Wait<'_>) -> Result<(), String> {
        let query = page.query(part, self.width, &self.books.key_ids, &self.books.project_ids);
        let asked = (part, self.width, !self.books.key_ids.is_empty());
        let question = format!("{} {}?{query}", self.client.identity(), page.path());
        // Pages that lead nowhere are not taken again.
        let forgotten = |why: String| {
            self.cache.inspect(|cache| cache.forget(&question));
            why
        };
        let mut cursor = String::new();
        for _ in 0..PAGES_MAX {
            let kept = self.cache.and_then(|cache| cache.get(&question, &cursor, unix_now()));
            let is_new = kept.is_none();
            let text = match kept {
                Some(text) => text,
                None => self.page(page.path(), &query, &cursor, wait)?,
            };
            let next = page.read(&text, asked, self.prices, into).map_err(|error| match error {
                PageError::Malformed(why) => forgotten(format!("a page of {} is not as published: {why}", page.path())),
                PageError::TooMany => "the books have more models than can be compared at once".to_owned(),
            })?;
            if let Some(cache) = self.cache.filter(|_| is_new && self.is_closed(part.end)) {
                cache.put(&question, &cursor, unix_now(), &text);
            }
            match next {
                None => return Ok(()),
                Some(next) if next == cursor => break,
                Some(next) => cursor = next,
            }
        }
        Err(forgotten(format!("the pages of {} have no end", page.path())))
    }

    /// One page, after as many tries as it takes.
    fn page(&self, path: &str, query: &str, cursor: &str, wait: Wait<'_>) -> Result<Vec<u8>, String> {
        let query = match cursor {
            "" => query.to_owned(),
            cursor => format!("{query}&page={}", encode(cursor)),
        };
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        for tried in 1.. {
            let trouble = match self.client.get(path, &query) {
                Ok(text) => return Ok(text),
                Err(Refusal::Final(why)) => return Err(why),
                Err(Refusal::Trouble(trouble)) => trouble,
            };
            if tried >= TRIES_MAX {
                return Err(format!("{path}: {} (tried {tried} times)", trouble.why));
            }
            let pause = trouble.retry_after.unwrap_or(backoff.failed());
            if !wait(pause, &trouble.why) {
                break;
            }
        }
        Err("it was stopped".to_owned())
    }
}

/// How far both may differ where nobody says otherwise: half a hundredth.
pub const TOLERANCE_PPM: u64 = 5_000;

/// Whether the books let themselves be read: the smallest question.
///
/// # Errors
/// Why not.
pub fn probe(config: &Config) -> Result<(), String> {
    let today = Width::Day.start(unix_now() / SECOND);
    let range = today - Width::Day.seconds()..today;
    let client = BooksClient::new(config)?;
    let query = Page::Costs.query(&range, Width::Day, &config.books.key_ids, &config.books.project_ids);
    match client.get(Page::Costs.path(), &query) {
        Ok(_) => Ok(()),
        Err(Refusal::Final(why)) => Err(why),
        Err(Refusal::Trouble(trouble)) => Err(trouble.why),
    }
}
