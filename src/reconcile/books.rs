//! The provider's pages: which there are, how each is asked for, and what is on it (OpenAI's published description
//! 2.3.0, `/v1/organization/usage/…` and `/v1/organization/costs`).
//!
//! In: the text of a page. Out: [`Cells`], and where the next page is. A page is refused whole where it is none, or of
//! another time than was asked for. Never: more in memory than the page and [`CELLS_MAX`](super::CELLS_MAX) cells; a
//! number that the page does not have taken for zero.

use super::cells::{Book, CellKey, Cells, TheirCell, TooMany, Width, model_of};
use super::line_item::LineItem;
use super::quantity::Quantity;
use crate::base::percent::encode;
use crate::price::PriceTable;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::ops::Range;

/// Buckets that are asked for at once: the most that each width may have is more (168 hours, 31 days).
const BUCKETS_A_PAGE: u64 = 31;
/// The longest name of a page, bytes.
const CURSOR_BYTES_MAX: usize = 4096;
/// Lines of one model's costs in one day.
const ITEMS_MAX: usize = 1_000;
/// The longest name of such a line that is kept, bytes.
const ITEM_BYTES_MAX: usize = 256;

/// Pages of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Completions,
    Embeddings,
    Moderations,
    Images,
    AudioSpeeches,
    AudioTranscriptions,
    WebSearchCalls,
    FileSearchCalls,
    CodeInterpreterSessions,
    Costs,
}

/// Why a page is not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum PageError {
    /// What is wrong with it.
    Malformed(&'static str),
    /// There are more cells than are held.
    TooMany,
}

impl From<TooMany> for PageError {
    fn from(_: TooMany) -> Self {
        Self::TooMany
    }
}

type Fields<'p> = BTreeMap<String, &'p RawValue>;

impl Page {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Completions,
        Self::Embeddings,
        Self::Moderations,
        Self::Images,
        Self::AudioSpeeches,
        Self::AudioTranscriptions,
        Self::WebSearchCalls,
        Self::FileSearchCalls,
        Self::CodeInterpreterSessions,
        Self::Costs,
    ];

    /// Below the target's prefix.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/organization/usage/completions",
            Self::Embeddings => "/v1/organization/usage/embeddings",
            Self::Moderations => "/v1/organization/usage/moderations",
            Self::Images => "/v1/organization/usage/images",
            Self::AudioSpeeches => "/v1/organization/usage/audio_speeches",
            Self::AudioTranscriptions => "/v1/organization/usage/audio_transcriptions",
            Self::WebSearchCalls => "/v1/organization/usage/web_search_calls",
            Self::FileSearchCalls => "/v1/organization/usage/file_search_calls",
            Self::CodeInterpreterSessions => "/v1/organization/usage/code_interpreter_sessions",
            Self::Costs => "/v1/organization/costs",
        }
    }

    const fn group_by(self) -> &'static [&'static str] {
        match self {
            Self::Completions => &["model", "batch", "service_tier"],
            Self::FileSearchCalls | Self::CodeInterpreterSessions => &[],
            Self::Costs => &["line_item"],
            _ => &["model"],
        }
    }

    const fn book(self) -> Book {
        match self {
            Self::Completions => Book::Completions,
            Self::Embeddings => Book::Embeddings,
            Self::Moderations => Book::Moderations,
            Self::Images => Book::Images,
            Self::AudioSpeeches => Book::Speeches,
            Self::AudioTranscriptions => Book::Transcriptions,
            Self::WebSearchCalls | Self::FileSearchCalls | Self::CodeInterpreterSessions => Book::Tools,
            Self::Costs => Book::Costs,
        }
    }

    /// How long its buckets are where the others' are so long.
    pub const fn width(self, others: Width) -> Width {
        self.book().width(others)
    }

    /// The query that asks for the first page of a range (seconds since the Unix epoch), for these keys and projects
    /// alone where there are any.
    pub fn query(self, range: &Range<u64>, width: Width, keys: &[String], projects: &[String]) -> String {
        let width = self.width(width);
        let name = if width == Width::Hour { "1h" } else { "1d" };
        let buckets = ((range.end - range.start) / width.seconds()).clamp(1, BUCKETS_A_PAGE);
        let (start, end) = (range.start, range.end);
        let mut query = format!("start_time={start}&end_time={end}&bucket_width={name}&limit={buckets}");
        // Sessions have no key.
        let keys = if self == Self::CodeInterpreterSessions { &[] } else { keys };
        let groups = self.group_by().iter().map(|group| ("group_by", (*group).to_owned()));
        let keys = keys.iter().map(|key| ("api_key_ids", encode(key)));
        let projects = projects.iter().map(|project| ("project_ids", encode(project)));
        for (name, value) in groups.chain(keys).chain(projects) {
            query.push_str(&format!("&{name}[]={value}"));
        }
        query
    }

    /// Adds what is on a page of the range to `into`; where the next one is. `by_key`: only some keys were asked for.
    ///
    /// # Errors
    /// It is no page of these; some of it may be in `into`.
    pub fn read(
        self,
        text: &[u8],
        (range, width, by_key): (&Range<u64>, Width, bool),
        prices: &PriceTable,
        into: &mut Cells<TheirCell>,
    ) -> Result<Option<String>, PageError> {
        let malformed = PageError::Malformed;
        let page: Fields<'_> = parsed(text).ok_or(malformed("it is no JSON object"))?;
        let buckets = page.get("data").and_then(|data| parsed::<Vec<&RawValue>>(data.get().as_bytes()));
        for bucket in buckets.ok_or(malformed("it has no list of buckets"))? {
            let bucket: Fields<'_> = parsed(bucket.get().as_bytes()).ok_or(malformed("a bucket is no object"))?;
            let start = number(&bucket, "start_time").ok_or(malformed("a bucket has no start"))?;
            if !range.contains(&start) || self.width(width).start(start) != start {
                return Err(malformed("it has a bucket that was not asked for"));
            }
            // The name that the description gave it first.
            let results = bucket.get("results").or(bucket.get("result"));
            let results = results.and_then(|results| parsed::<Vec<&RawValue>>(results.get().as_bytes()));
            for result in results.ok_or(malformed("a bucket has no list of results"))? {
                let result = parsed(result.get().as_bytes()).ok_or(malformed("a result is no object"))?;
                self.take(start, &result, (by_key, prices), into)?;
            }
        }
        match page.get("has_more").map(|more| more.get()) {
            Some("true") => {
                let next = text_of(&page, "next_page").filter(|next| (1..=CURSOR_BYTES_MAX).contains(&next.len()));
                next.map(Some).ok_or(malformed("it does not say where the next page is"))
            }
            Some("false") => Ok(None),
            _ => Err(malformed("it does not say whether there is more")),
        }
    }

    fn take(
        self,
        start: u64,
        result: &Fields<'_>,
        (by_key, prices): (bool, &PriceTable),
        into: &mut Cells<TheirCell>,
    ) -> Result<(), PageError> {
        use Quantity::{
            CacheWrite, CachedInput, Calls, Images, Input, InputAudio, InputImage, Output, OutputAudio, OutputImage,
            Requests, Seconds,
        };
        let named = text_of(result, "model").unwrap_or_default();
        let is_batch = result.get("batch").is_some_and(|batch| batch.get() == "true");
        let book = if is_batch { Book::Batches } else { self.book() };
        let of = |name: &str| number(result, name);
        // What is read from the cache is told beside the rest; an older description has all in the first.
        let media = |plain: &str, cached: &str| Some(of(plain)?.saturating_add(of(cached).unwrap_or(0)));
        let amounts: &[(Quantity, Option<u64>)] = match self {
            Self::Completions => &[
                (Requests, of("num_model_requests")),
                (Input, of("input_tokens")),
                (CachedInput, of("input_cached_tokens")),
                (CacheWrite, of("input_cache_write_tokens")),
                (Output, of("output_tokens")),
                (InputAudio, media("input_audio_tokens", "input_cached_audio_tokens")),
                (InputImage, media("input_image_tokens", "input_cached_image_tokens")),
                (OutputAudio, of("output_audio_tokens")),
                (OutputImage, of("output_image_tokens")),
            ],
            Self::Embeddings => &[(Requests, of("num_model_requests")), (Input, of("input_tokens"))],
            Self::Moderations | Self::AudioSpeeches => &[(Requests, of("num_model_requests"))],
            Self::Images => &[(Requests, of("num_model_requests")), (Images, of("images"))],
            Self::AudioTranscriptions => {
                let micros = of("seconds").map(|seconds| seconds.saturating_mul(1_000_000));
                &[(Requests, of("num_model_requests")), (Seconds, micros)]
            }
            Self::WebSearchCalls | Self::FileSearchCalls => &[(Calls, of("num_requests"))],
            Self::CodeInterpreterSessions => &[(Calls, of("num_sessions"))],
            Self::Costs => return take_cost(start, result, prices, into),
        };
        let model = if book == Book::Tools { "" } else { model_of(&named) };
        let cell = into.entry(CellKey { start, book, model: model.into() })?;
        for &(quantity, amount) in amounts {
            cell.amounts.add_told(quantity, amount);
            if by_key && self == Self::CodeInterpreterSessions {
                cell.foreign.add_told(quantity, amount);
            }
        }
        Ok(())
    }
}

fn take_cost(
    start: u64,
    result: &Fields<'_>,
    prices: &PriceTable,
    into: &mut Cells<TheirCell>,
) -> Result<(), PageError> {
    let amount: Option<Fields<'_>> = result.get("amount").and_then(|amount| parsed(amount.get().as_bytes()));
    let is_usd = |amount: &Fields<'_>| text_of(amount, "currency").is_some_and(|it| it.eq_ignore_ascii_case("usd"));
    let usd = amount.filter(is_usd).and_then(|amount| float(&amount, "value"));
    let cost = usd.filter(|usd| (0.0..1e9).contains(usd)).map(|usd| (usd * 1e9).round() as u64);
    let name = text_of(result, "line_item").unwrap_or_default();
    let name = &name[..name.floor_char_boundary(ITEM_BYTES_MAX)];
    let model = model_of(LineItem::model(name, prices));
    let cell = into.entry(CellKey { start, book: Book::Costs, model: model.into() })?;
    cell.amounts.add_told(Quantity::Cost, cost);
    let Some(cost) = cost.filter(|&cost| cost > 0) else { return Ok(()) };
    if cell.items.len() >= ITEMS_MAX {
        return Err(PageError::TooMany);
    }
    let (quantity, unit) = (float(result, "quantity"), text_of(result, "quantity_unit").unwrap_or_default());
    cell.items.push(LineItem { name: name.into(), cost, quantity, unit: unit.into() });
    Ok(())
}

fn parsed<'p, T: serde_core::Deserialize<'p>>(text: &'p [u8]) -> Option<T> {
    serde_json::from_slice(text).ok()
}

fn text_of(fields: &Fields<'_>, name: &str) -> Option<String> {
    parsed(fields.get(name)?.get().as_bytes())
}

/// A whole number that is not negative.
fn number(fields: &Fields<'_>, name: &str) -> Option<u64> {
    let text = fields.get(name)?.get();
    let whole = |value: f64| (value >= 0.0 && value < u64::MAX as f64 && value.fract() == 0.0).then_some(value as u64);
    text.parse().ok().or_else(|| whole(text.parse().ok()?))
}

/// A number, or one in quotes.
fn float(fields: &Fields<'_>, name: &str) -> Option<f64> {
    let text = fields.get(name)?.get().trim_matches('"');
    text.parse().ok().filter(|value: &f64| value.is_finite())
}
