//! Prices as a person reads them: what for, in which tier, above what size, and where each comes from.
//!
//! In: a table, and a name. Out: its prices with all factors on them, exactly; or the names that are near. Never: a
//! rounded price.

use super::model::{Key, Kind, Tier};
use super::ratio::Ratio;
use super::{Model, PriceSource, PriceTable};
use crate::base::edit_distance::edit_distance;
use std::collections::BTreeMap;

/// Names that are offered in place of one that nobody knows.
const NEAR_MAX: usize = 5;
/// Femto-dollars (10⁻¹⁵ USD) in a dollar, as decimal places.
const FEMTO_PLACES: u32 = 15;

/// One price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPrice {
    /// `input`, `cached input`, …
    pub what: &'static str,
    /// `1M tokens`, `second`, …
    pub unit: &'static str,
    /// `default`, `batch`, …
    pub tier: &'static str,
    /// It holds for requests of more input tokens than this; 0 for all.
    pub above_tokens: u64,
    /// US dollars for the unit, a decimal; with all factors, where a region's is not known without it.
    pub usd: String,
}

/// A model with its prices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedModel {
    /// The table's own name of it.
    pub name: String,
    pub source: PriceSource,
    pub prices: Vec<ListedPrice>,
    pub input_tokens_max: Option<u64>,
    pub output_tokens_max: Option<u64>,
    /// The region's factor on all but fees; `None` where it has one that is not known: it has no certain cost there.
    pub uplift: Option<String>,
}

impl PriceTable {
    /// What an answer that names this model is priced by; `None` where there is no such model.
    pub fn listed(&self, name: &str) -> Option<ListedModel> {
        let (model, source) = self.find(name)?;
        let found = self.parts.iter().find(|part| part.source == source)?;
        let own = found.models.iter().find(|(_, entry)| std::ptr::eq(*entry, model))?.0;
        Some(self.list(own, model, source))
    }

    /// All models, by their names.
    pub fn all_listed(&self) -> Vec<ListedModel> {
        let mut all = BTreeMap::new();
        for part in self.parts.iter().rev() {
            all.extend(part.models.iter().map(|(name, model)| (&**name, (model, part.source))));
        }
        all.into_iter().map(|(name, (model, source))| self.list(name, model, source)).collect()
    }

    /// The factor on all prices, where there is one, and the target's region.
    pub fn adjustments(&self) -> (Option<String>, Option<&str>) {
        (self.factor.map(decimal), self.region.as_deref())
    }

    /// The names most like one that is none, the nearest first.
    pub fn near(&self, name: &str) -> Vec<&str> {
        let name = name.to_ascii_lowercase();
        let mut known: Vec<_> = self.parts.iter().flat_map(|part| part.models.keys()).map(|key| &**key).collect();
        known.sort_unstable();
        known.dedup();
        known.sort_by_cached_key(|known| distance(&name, &known.to_ascii_lowercase()));
        known.truncate(NEAR_MAX);
        known
    }

    fn list(&self, name: &str, model: &Model, source: PriceSource) -> ListedModel {
        let uplift = model.uplift(self.region.as_deref());
        let prices = model.prices.iter().map(|&(Key { kind, tier, above }, femto)| {
            let (what, unit, units) = words(kind);
            let raised = if kind.is_fee() { Ratio::ONE } else { uplift.unwrap_or(Ratio::ONE) };
            let factor = self.factor.unwrap_or(Ratio::ONE).times(raised);
            let amount = u128::from(femto) * u128::from(units) * u128::from(factor.numerator);
            let usd = fraction(amount, u128::from(factor.denominator), FEMTO_PLACES);
            ListedPrice { what, unit, tier: tier_name(tier), above_tokens: above, usd }
        });
        ListedModel {
            name: name.to_owned(),
            source,
            prices: prices.collect(),
            input_tokens_max: model.input_tokens_max,
            output_tokens_max: model.output_tokens_max,
            uplift: uplift.map(decimal),
        }
    }
}

/// A kind in words, the unit that its price is told for, and how many that is.
fn words(kind: Kind) -> (&'static str, &'static str, u64) {
    const MILLION: u64 = 1_000_000;
    let token = |what| (what, "1M tokens", MILLION);
    match kind {
        Kind::Input => token("input"),
        Kind::CachedInput => token("cached input"),
        Kind::CacheWrite => token("cache write"),
        Kind::CacheWriteLong => token("cache write, kept long"),
        Kind::CacheWriteAudio => token("cache write, audio"),
        Kind::InputAudio => token("audio input"),
        Kind::CachedAudio => token("cached audio input"),
        Kind::InputImage => token("image input"),
        Kind::CachedImage => token("cached image input"),
        Kind::Output => token("output"),
        Kind::Reasoning => token("reasoning"),
        Kind::OutputAudio => token("audio output"),
        Kind::OutputImage => token("image output"),
        Kind::Second => ("audio", "minute", 60),
        Kind::Image => ("image", "image", 1),
        Kind::WebSearchLow => ("web search, low context", "1k calls", 1_000),
        Kind::WebSearchMedium => ("web search, medium context", "1k calls", 1_000),
        Kind::WebSearchHigh => ("web search, high context", "1k calls", 1_000),
        Kind::FileSearch => ("file search", "1k calls", 1_000),
        Kind::CodeSession => ("code interpreter", "session", 1),
    }
}

fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Default => "default",
        Tier::Batch => "batch",
        Tier::Flex => "flex",
        Tier::Priority => "priority",
        Tier::Ultrafast => "ultrafast",
        Tier::Decisions => "decisions",
    }
}

fn decimal(ratio: Ratio) -> String {
    fraction(ratio.numerator.into(), ratio.denominator.into(), 0)
}

/// `amount / (divisor × 10^places)` in decimal digits. Each divisor is one of a power of ten: it ends.
fn fraction(amount: u128, divisor: u128, places: u32) -> String {
    let unit = divisor * 10u128.pow(places);
    let (mut text, mut rest) = ((amount / unit).to_string(), amount % unit);
    if rest > 0 {
        text.push('.');
    }
    while rest > 0 {
        rest *= 10;
        text.push(char::from(b'0' + (rest / unit) as u8));
        rest %= unit;
    }
    text
}

/// How far one name is from the other; less where one begins with the other.
fn distance(one: &str, other: &str) -> usize {
    let is_part = !one.is_empty() && (other.starts_with(one) || one.starts_with(other));
    if is_part { edit_distance(one, other).min(1) } else { edit_distance(one, other) }
}
