//! A line of the costs: what money was spent on, and the price that follows from it beside the table's.
//!
//! The name of a line is text, as in `gpt-5-mini-2025-08-07, input`, of which no more is promised; it is read by its
//! words. In: a name, an amount, a quantity with its unit. Out: the model, and where the price is another. Never: a
//! price of something whose words or unit are not known.

use crate::price::{ListedPrice, PriceTable};

const NANOS_PER_USD: f64 = 1e9;
const NANOS_PER_CENT: u64 = 10_000_000;
/// Smallest part of a price by which two may differ: they were made from floats.
const PRICE_PPM_MIN: u64 = 100;

/// The unit of the table's prices for tokens.
const TOKENS: &str = "1M tokens";

/// What so much money was spent on in one day.
#[derive(Clone, Debug, PartialEq)]
pub struct LineItem {
    pub name: Box<str>,
    /// Nano-dollars.
    pub cost: u64,
    /// How much of it there was, in `unit`.
    pub quantity: Option<f64>,
    pub unit: Box<str>,
}

/// A price that is another than the table's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceDifference {
    /// The name of the line.
    pub item: Box<str>,
    /// What `theirs` and `ours` are for: `1M tokens`, `minute`, `image`.
    pub unit: &'static str,
    /// US dollars for the unit, a decimal.
    pub theirs: String,
    /// `None` where the table has none.
    pub ours: Option<String>,
    /// By how much the cost is higher for it, nano-dollars.
    pub explains: i128,
}

impl LineItem {
    /// The model that a line names; empty for one of none.
    pub fn model<'n>(name: &'n str, prices: &PriceTable) -> &'n str {
        match name.split_once(',') {
            Some((model, _)) => model.trim(),
            None => Some(name.split(' ').next().unwrap_or(name)).filter(|word| prices.prices(word)).unwrap_or(""),
        }
    }

    /// How far the amount may be from the exact one: half a cent where it is whole cents.
    pub fn rounding(&self) -> u64 {
        if self.cost.is_multiple_of(NANOS_PER_CENT) { NANOS_PER_CENT / 2 } else { 1 }
    }

    /// The price that follows from this line, where it is another than the table's by more than `ppm` millionths.
    pub fn price_difference(&self, prices: &PriceTable, ppm: u64) -> Option<PriceDifference> {
        let quantity = self.quantity.filter(|&quantity| quantity > 0.0)?;
        let words = Words::of(&self.name);
        let (unit, units) = unit(&self.unit)?;
        let what = words.what(unit)?;
        let model = prices.listed(LineItem::model(&self.name, prices));
        let is_meant = |price: &&ListedPrice| (price.what, price.tier, price.unit) == (what, words.tier(), unit);
        let listed = model.iter().flat_map(|model| &model.prices).filter(is_meant);
        let listed: Vec<f64> = listed.filter_map(|price| price.usd.parse().ok()).collect();
        let usd_for = |nano_usd: f64| nano_usd / NANOS_PER_USD / quantity * units;
        let theirs = usd_for(self.cost as f64);
        // A price may be another above some size of a request: their mean is between both.
        let bounds = listed.iter().copied().reduce(f64::min).zip(listed.iter().copied().reduce(f64::max));
        let Some((least, most)) = bounds else {
            // Images have prices by their size, under other names.
            let is_named = self.cost > 0 && unit == TOKENS;
            return is_named.then(|| PriceDifference {
                item: self.name.clone(),
                unit,
                theirs: decimal(theirs),
                ours: None,
                explains: self.cost.into(),
            });
        };
        let slack = ppm.max(PRICE_PPM_MIN) as f64 / 1e6;
        let rounding = usd_for(self.rounding() as f64);
        let nearest = theirs.clamp(least, most);
        ((theirs - nearest).abs() > slack * nearest.max(theirs) + rounding).then(|| PriceDifference {
            item: self.name.clone(),
            unit,
            theirs: decimal(theirs),
            ours: Some(decimal(nearest)),
            explains: i128::from(self.cost) - (nearest / units * quantity * NANOS_PER_USD) as i128,
        })
    }
}

/// Without what the division has left behind the sixth place.
fn decimal(usd: f64) -> String {
    format!("{usd:.6}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The table's unit for one of the books, and how many of these are in one.
fn unit(unit: &str) -> Option<(&'static str, f64)> {
    Some(match unit {
        "tokens" => (TOKENS, 1e6),
        "1000_tokens" => (TOKENS, 1e3),
        "duration_seconds" => ("minute", 60.0),
        "duration_minutes" => ("minute", 1.0),
        "duration_hours" => ("minute", 1.0 / 60.0),
        "images" => ("image", 1.0),
        _ => return None,
    })
}

/// The words behind a line's model.
struct Words(Vec<String>);

impl Words {
    fn of(name: &str) -> Self {
        let tail = name.split_once(',').map_or(name, |(_, tail)| tail).to_ascii_lowercase();
        let words = tail.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        Self(words.map(str::to_owned).collect())
    }

    fn has(&self, word: &str) -> bool {
        self.0.iter().any(|own| own == word)
    }

    /// What the price is of, as the table's list calls it.
    fn what(&self, unit: &str) -> Option<&'static str> {
        let [audio, image, cached] = ["audio", "image", "cached"].map(|word| self.has(word));
        Some(match unit {
            "minute" => "audio",
            "image" => "image",
            _ if self.has("write") && audio => "cache write, audio",
            _ if self.has("write") => "cache write",
            _ if self.has("reasoning") => "reasoning",
            _ if cached && audio => "cached audio input",
            _ if cached && image => "cached image input",
            _ if cached => "cached input",
            _ if self.has("input") && audio => "audio input",
            _ if self.has("input") && image => "image input",
            _ if self.has("input") => "input",
            _ if self.has("output") && audio => "audio output",
            _ if self.has("output") && image => "image output",
            _ if self.has("output") => "output",
            _ => return None,
        })
    }

    fn tier(&self) -> &'static str {
        ["batch", "flex", "priority", "ultrafast"].into_iter().find(|tier| self.has(tier)).unwrap_or("default")
    }
}
