//! What a request cost: the model's name and its usage in, nano-dollars out.
//!
//! The built-in table is `prices.json` (its `_meta` says where it comes from, and describes the format that an
//! operator's own file shares). Prices are whole femto-dollars, sums are integers, and the one rounding is at the end.
//! Never: a float, a clock, or a guess. Where a needed price is missing the answer is `None`.

mod built_in;
mod decimal;
mod listing;
mod litellm;
mod model;
mod name;
mod rates;
mod ratio;
mod worst_case;

use crate::base::civil::parse_date;
use crate::usage::record::Usage;
pub use built_in::About;
pub use listing::{ListedModel, ListedPrice};
use model::{Key, Kind, Model, Tier};
use rates::{MICROS_PER_SECOND, Rates};
pub use ratio::Ratio;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
pub use worst_case::WorstCase;

/// Amounts are summed in millionths of a femto-dollar (10⁻²¹ USD), of which a nano-dollar has so many.
const AMOUNT_PER_NANO: u128 = 1_000_000_000_000;
/// The entry whose fee for a session of the code interpreter is that of all models.
const CONTAINER: &str = "openai/container";

/// Where a part of the table comes from. A later one goes before an earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PriceSource {
    BuiltIn,
    /// `PRICES_URL`
    Url,
    /// `PRICES_FILE`
    File,
}

impl PriceSource {
    /// As a label, and as a person reads it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BuiltIn => "built-in",
            Self::Url => "PRICES_URL",
            Self::File => "PRICES_FILE",
        }
    }
}

/// When each part of the table was made or fetched.
pub type PriceDates = Vec<(PriceSource, u64)>;

/// Prices by model name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceTable {
    /// One of a source, the first to be asked at the front. Shared by the loop and whoever reads the configuration
    /// anew.
    parts: Vec<Arc<Part>>,
    /// A contract's factor on all of it.
    factor: Option<Ratio>,
    /// The target's region, where it is one of OpenAI's regional hosts.
    region: Option<Box<str>>,
}

/// The prices of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    source: PriceSource,
    /// Seconds since the Unix epoch; 0 where that is not known.
    updated: u64,
    models: BTreeMap<Box<str>, Model>,
}

impl PriceTable {
    /// The prices known when this version was made.
    pub fn built_in() -> Self {
        let table = Self::parse(built_in::TABLE).expect("the built-in table is valid: a test parses it");
        let nanos = About::built_in().date.as_deref().and_then(parse_date).unwrap_or(0);
        table.of(PriceSource::BuiltIn, nanos / 1_000_000_000)
    }

    /// Reads a table in the format that `prices.json` describes.
    ///
    /// # Errors
    /// Not a JSON object of objects, an unknown field, a price that is no exact number of dollars, or a number of
    /// tokens that is not whole; names the model and the field.
    pub fn parse(json: &str) -> Result<Self, String> {
        Self::parse_for(json, "")
    }

    /// The same; or, where entries name their provider, LiteLLM's format, of which the entries count that a target at
    /// `host` can mean.
    ///
    /// # Errors
    /// The same; of LiteLLM's format only that it is no JSON object.
    pub fn parse_for(json: &str, host: &str) -> Result<Self, String> {
        let entries: BTreeMap<String, &RawValue> =
            serde_json::from_str(json).map_err(|error| format!("not a JSON object: {error}"))?;
        let models = if litellm::is_format(&entries) { litellm::models(&entries, host) } else { own(&entries)? };
        let part = Part { source: PriceSource::File, updated: 0, models };
        Ok(Self { parts: vec![Arc::new(part)], ..Self::default() })
    }

    /// The same prices as those of a source, made or fetched then (seconds since the Unix epoch).
    #[must_use]
    pub fn of(mut self, source: PriceSource, updated: u64) -> Self {
        for part in &mut self.parts {
            let part = Arc::make_mut(part);
            (part.source, part.updated) = (source, updated);
        }
        self
    }

    /// Adds another table's models, in place of those that came from the same source. Of models of one name, the one
    /// counts whose source goes before.
    pub fn merge(&mut self, other: Self) {
        for part in other.parts {
            self.parts.retain(|old| old.source != part.source);
            self.parts.push(part);
        }
        self.parts.sort_by_key(|part| std::cmp::Reverse(part.source));
    }

    /// The prices of one source alone, without factors.
    pub fn part(&self, source: PriceSource) -> Option<Self> {
        let part = self.parts.iter().find(|part| part.source == source)?;
        Some(Self { parts: vec![Arc::clone(part)], ..Self::default() })
    }

    /// Multiplies all prices by a factor, and those of a target at one of OpenAI's regional hosts by the models' own.
    #[must_use]
    pub fn adjusted(self, factor: Ratio, host: &str) -> Self {
        let region = host.trim_end_matches('.').strip_suffix(".api.openai.com").filter(|region| !region.contains('.'));
        let factor = Some(factor).filter(|&factor| factor != Ratio::ONE);
        Self { factor, region: region.map(Into::into), ..self }
    }

    /// When each part was made or fetched, as far as that is known.
    pub fn dates(&self) -> PriceDates {
        self.parts.iter().filter(|part| part.updated > 0).map(|part| (part.source, part.updated)).collect()
    }

    /// Names of all that have a price.
    pub fn priced_names(&self) -> impl Iterator<Item = &str> {
        let models = self.parts.iter().flat_map(|part| &part.models);
        models.filter(|(_, model)| !model.prices.is_empty()).map(|(name, _)| &**name)
    }

    /// True where a model of this very name has a price.
    pub fn prices(&self, name: &str) -> bool {
        self.get(name).is_some_and(|(model, _)| !model.prices.is_empty())
    }

    /// True where the operator says of some model that it costs nothing: such a request is not refused for money.
    /// Moderations are free in the built-in table, which have no part in a budget.
    pub fn has_free(&self) -> bool {
        let own = self.parts.iter().filter(|part| part.source != PriceSource::BuiltIn);
        own.flat_map(|part| part.models.values()).any(Model::is_free)
    }

    /// The cost in nano-dollars (10⁻⁹ USD), rounded half up once at the end.
    ///
    /// `model` is the response's own name of the model where it gave one; `service_tier` the tier that the response
    /// says was used. What consumed nothing costs nothing, whatever the model. `None`: model or tier is unknown, a
    /// price that this usage needs is not in the table, or the counts contradict each other.
    pub fn cost_nano_usd(&self, model: &str, usage: &Usage, service_tier: Option<&str>) -> Option<u64> {
        if *usage == Usage::NOTHING {
            return Some(0);
        }
        let (model, _) = self.find(model)?;
        let rates = self.rates(model, usage, Some(Tier::of(service_tier)?), None);
        let uplift = model.uplift(self.region.as_deref())?;
        let (amount, divisor) = self.amount(&rates, usage, uplift)?;
        u64::try_from(amount.checked_add(divisor / 2)? / divisor).ok()
    }

    /// What the same can cost at most, where it is not certain: each part without a price counts at the dearest that
    /// the model has for its side, input or output, in any tier, and a call of a tool without a fee at the dearest fee
    /// that is known of any. Rounded up. `None`: the model has no price at all.
    pub fn at_most_nano_usd(&self, model: &str, usage: &Usage, service_tier: Option<&str>) -> Option<u64> {
        if let Some(exact) = self.cost_nano_usd(model, usage, service_tier) {
            return Some(exact);
        }
        let (model, _) = self.find(model)?;
        let rates = self.rates(model, usage, Tier::of(service_tier), Some(self.dearest_fee()));
        let uplift = model.uplift(self.region.as_deref()).unwrap_or_else(|| model.dearest_uplift());
        let (amount, divisor) = self.amount(&rates, usage, uplift)?;
        Some(u64::try_from(amount.div_ceil(divisor)).unwrap_or(u64::MAX))
    }

    /// The cost of an answer that made images and reports no tokens: by the table's name for the model at the quality
    /// and size that the answer says (`high/1024-x-1536/gpt-image-1`), or by a price of the model's for any image.
    pub fn images_cost_nano_usd(&self, model: &str, usage: &Usage, quality: &str, size: &str) -> Option<u64> {
        let sized = size.split_once('x').map(|(width, height)| format!("{quality}/{width}-x-{height}/{model}"));
        let sized = sized.filter(|name| !quality.is_empty() && self.find(name).is_some());
        self.cost_nano_usd(sized.as_deref().unwrap_or(model), usage, None)
    }

    /// The same at most: as if the images were of the model's dearest quality and size.
    pub fn images_at_most_nano_usd(&self, model: &str, usage: &Usage) -> Option<u64> {
        let names = [Some(model), name::undated(model).map(|(name, _)| name)];
        let is_sized = |entry: &str| names.iter().flatten().any(|name| entry.rsplit('/').next() == Some(*name));
        let entries = self.parts.iter().flat_map(|part| part.models.keys()).filter(|entry| is_sized(entry));
        entries.filter_map(|entry| self.at_most_nano_usd(entry, usage, None)).max()
    }

    /// The dearest fee that is known for a call of any tool, femto-dollars.
    pub fn dearest_fee(&self) -> u64 {
        let all = self.parts.iter().flat_map(|part| part.models.values());
        all.filter_map(|model| model.dearest(|key| key.kind.is_fee())).max().unwrap_or(0)
    }

    fn rates<'a>(&self, model: &'a Model, usage: &Usage, tier: Option<Tier>, at_most: Option<u64>) -> Rates<'a> {
        // A threshold is of one prompt, and a batch's sum is of many.
        let above = if tier == Some(Tier::Batch) { 0 } else { model.threshold(usage.input_tokens) };
        let container = || self.get(CONTAINER)?.0.price(Key::plain(Kind::CodeSession));
        let session_fee = if usage.tool_calls > 0 { container() } else { None };
        Rates { model, tier, above, session_fee, at_most }
    }

    /// A usage's cost with all factors, and by what it is to be divided for nano-dollars. A region's factor is on what
    /// the model does, not on the fees for its tools.
    fn amount(&self, rates: &Rates<'_>, usage: &Usage, uplift: Ratio) -> Option<(u128, u128)> {
        let has_tokens = usage.input_tokens > 0 || usage.output_tokens > 0;
        let amount = match usage.total_tokens {
            _ if has_tokens => rates.tokens(usage)?.checked_mul(MICROS_PER_SECOND)?,
            0 => rates.media(usage)?,
            // A total alone does not say what it is made of.
            total => rates.unspecified(total)?.checked_mul(MICROS_PER_SECOND)?,
        };
        let fees = rates.fees(usage)?.checked_mul(MICROS_PER_SECOND)?;
        let factor = self.factor.unwrap_or(Ratio::ONE);
        let raised = amount.checked_mul(uplift.numerator.into())?;
        let sum = raised.checked_add(fees.checked_mul(uplift.denominator.into())?)?;
        let divisor = u128::from(uplift.denominator) * u128::from(factor.denominator) * AMOUNT_PER_NANO;
        Some((sum.checked_mul(factor.numerator.into())?, divisor))
    }

    fn get(&self, name: &str) -> Option<(&Model, PriceSource)> {
        self.parts.iter().find_map(|part| part.models.get(name).map(|model| (model, part.source)))
    }

    /// The prices for a name: its own; else for `ft:BASE:ORG:NAME:ID` those of `ft:BASE`; else those of the undated
    /// name, where its date is later than each that the table has of that name: an older version may have cost
    /// anything. A fine-tuned model never falls back to its base, whose prices are others.
    fn find(&self, name: &str) -> Option<(&Model, PriceSource)> {
        let base = name::without_owner(name);
        self.get(name).or_else(|| self.get(base)).or_else(|| {
            let (undated, version) = name::undated(base)?;
            let found = self.get(undated)?;
            let from = (Bound::Included(undated), Bound::Unbounded);
            let names = self.parts.iter().flat_map(|part| {
                part.models.range::<str, _>(from).map(|(name, _)| &**name).take_while(|name| name.starts_with(undated))
            });
            let mut versions = names.filter_map(name::undated).filter(|(name, _)| *name == undated);
            versions.all(|(_, known)| version.is_after(known)).then_some(found)
        })
    }
}

/// A model's name without the date of its version; a name without one itself.
pub fn undated_name(name: &str) -> &str {
    name::undated(name).map_or(name, |(undated, _)| undated)
}

/// The models of a table in our own format.
fn own(entries: &BTreeMap<String, &RawValue>) -> Result<BTreeMap<Box<str>, Model>, String> {
    let models = entries.iter().filter(|(name, _)| !name.starts_with('_')).map(|(name, entry)| {
        let model = Model::parse(entry.get()).map_err(|why| format!("{name:?}: {why}"))?;
        Ok((name.as_str().into(), model))
    });
    models.collect()
}

#[cfg(test)]
mod tests;
