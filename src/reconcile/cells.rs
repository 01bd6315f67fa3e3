//! Cells: what each side has of one bucket of time, one book and one model.

use super::line_item::LineItem;
use super::quantity::{Amounts, Quantity};
use crate::price::undated_name;
use std::collections::BTreeMap;

/// Cells of one side that are held at once: those of 3,000 models in 24 hours, three times over.
pub const CELLS_MAX: usize = 250_000;
/// The longest name of a model that is told from others, bytes, as in the ledger.
const MODEL_BYTES_MAX: usize = 128;
const SECONDS_PER_HOUR: u64 = 3_600;
const SECONDS_PER_DAY: u64 = 86_400;

/// How long a bucket is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Width {
    Hour,
    #[default]
    Day,
}

impl Width {
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Hour => SECONDS_PER_HOUR,
            Self::Day => SECONDS_PER_DAY,
        }
    }

    /// The start of the bucket in which an instant is; both in seconds since the Unix epoch.
    pub const fn start(self, second: u64) -> u64 {
        second - second % self.seconds()
    }
}

/// One of the provider's books.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Book {
    /// Chat completions and responses alike, outside of batches.
    Completions,
    /// The same in batches.
    Batches,
    Embeddings,
    Moderations,
    Images,
    Speeches,
    Transcriptions,
    /// Searches of the web and of files and sessions of the code interpreter together: our records have one number for
    /// them, and two of the three books no model.
    Tools,
    /// Money, by the day alone.
    Costs,
}

impl Book {
    /// As a person reads it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Completions => "completions",
            Self::Batches => "batches",
            Self::Embeddings => "embeddings",
            Self::Moderations => "moderations",
            Self::Images => "images",
            Self::Speeches => "speech",
            Self::Transcriptions => "transcriptions",
            Self::Tools => "tool calls",
            Self::Costs => "costs",
        }
    }

    /// The one with this label.
    pub fn named(label: &str) -> Option<Self> {
        let all = [
            Self::Completions,
            Self::Batches,
            Self::Embeddings,
            Self::Moderations,
            Self::Images,
            Self::Speeches,
            Self::Transcriptions,
            Self::Tools,
            Self::Costs,
        ];
        all.into_iter().find(|book| book.label() == label)
    }

    /// What both sides count in it. Our records have no characters of speech, nor tokens of moderations.
    pub const fn quantities(self) -> &'static [Quantity] {
        use Quantity::{
            CacheWrite, CachedInput, Calls, Cost, Images, Input, InputAudio, InputImage, Output, OutputAudio,
            OutputImage, Requests, Seconds,
        };
        match self {
            Self::Completions => {
                &[Requests, Input, CachedInput, CacheWrite, Output, InputAudio, InputImage, OutputAudio, OutputImage]
            }
            // Ours are the batches themselves, theirs the requests in them.
            Self::Batches => &[Input, CachedInput, CacheWrite, Output],
            Self::Embeddings => &[Requests, Input],
            Self::Moderations | Self::Speeches => &[Requests],
            Self::Images => &[Requests, Images],
            Self::Transcriptions => &[Requests, Seconds],
            Self::Tools => &[Calls],
            Self::Costs => &[Cost],
        }
    }

    /// How long its buckets are where the others' are so long.
    pub const fn width(self, others: Width) -> Width {
        if matches!(self, Self::Costs) { Width::Day } else { others }
    }
}

/// Which cell it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CellKey {
    /// Of the bucket, seconds since the Unix epoch.
    pub start: u64,
    pub book: Book,
    /// Without its date; empty for what is of none, and for tools.
    pub model: Box<str>,
}

/// The one name of a model's versions.
pub fn model_of(name: &str) -> &str {
    let name = &name[..name.floor_char_boundary(MODEL_BYTES_MAX)];
    undated_name(name)
}

/// What our records say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnCell {
    pub amounts: Amounts,
    /// Of the amounts, what the provider may have in another bucket: it began in this one and ended behind it, or the
    /// two clocks may differ about it. Of requests also those of which it is not known whether they reached a model.
    pub leaving: Amounts,
    /// What it may have in this one of our neighbouring buckets.
    pub arriving: Amounts,
    /// Requests whose usage we have estimated, and what we took it to be.
    pub estimated: u64,
    pub estimates: Amounts,
    /// Requests whose usage is not known.
    pub unknown: u64,
    /// Requests whose cost is not known.
    pub unpriced: u64,
    /// Calls of tools whose fee is in this cost, and may be in a line of its own there; and those whose fee may be in
    /// this.
    pub fees_out: u64,
    pub fees_in: u64,
}

/// What the provider says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TheirCell {
    pub amounts: Amounts,
    /// Of the amounts, what may be none of ours: the filter by keys does not reach it.
    pub foreign: Amounts,
    /// What money was spent on.
    pub items: Vec<LineItem>,
}

/// There are more than [`CELLS_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany;

/// Cells of one side.
#[derive(Clone, Debug, PartialEq)]
pub struct Cells<C>(BTreeMap<CellKey, C>);

impl<C> Default for Cells<C> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<C: Default> Cells<C> {
    /// The cell with this key, made where there is none.
    ///
    /// # Errors
    /// There are too many already.
    pub fn entry(&mut self, key: CellKey) -> Result<&mut C, TooMany> {
        if self.0.len() >= CELLS_MAX && !self.0.contains_key(&key) {
            return Err(TooMany);
        }
        Ok(self.0.entry(key).or_default())
    }

    pub fn get(&self, key: &CellKey) -> Option<&C> {
        self.0.get(key)
    }

    pub fn get_mut(&mut self, key: &CellKey) -> Option<&mut C> {
        self.0.get_mut(key)
    }

    pub fn remove(&mut self, key: &CellKey) -> Option<C> {
        self.0.remove(key)
    }

    /// In the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&CellKey, &C)> {
        self.0.iter()
    }
}
