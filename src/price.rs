//! What a request cost: the model's name and its usage in, nano-dollars out.
//!
//! The built-in table is `prices.json` (its `_meta` says where it comes from, and describes the format that an
//! operator's own file shares). Prices are whole femto-dollars, sums are integers, and the one rounding is at the end.
//! Never: a float, a clock, or a guess. Where a needed price is missing the answer is `None`.

mod decimal;
mod worst_case;

use crate::usage::record::Usage;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;
pub use worst_case::WorstCase;

/// The table made into the binary.
const BUILT_IN: &str = include_str!("prices.json");

/// Femto-dollars (10⁻¹⁵ USD) in a nano-dollar.
const FEMTO_PER_NANO: u128 = 1_000_000;
const MICROS_PER_SECOND: u128 = 1_000_000;

/// Prices by model name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceTable {
    /// Shared by the loop and whoever reads the configuration anew.
    models: Arc<BTreeMap<Box<str>, Model>>,
    /// The operator says of some model that it costs nothing.
    has_free: bool,
}

impl PriceTable {
    /// The prices known when this version was made.
    pub fn built_in() -> Self {
        // Moderations are free there, which have no part in a budget.
        Self { has_free: false, ..Self::parse(BUILT_IN).expect("the built-in table is valid: a test parses it") }
    }

    /// Reads a table in the format that `prices.json` describes.
    ///
    /// # Errors
    /// Not a JSON object of objects, an unknown field, a price that is no exact number of dollars, or a number of
    /// tokens that is not whole; names the model and the field.
    pub fn parse(json: &str) -> Result<Self, String> {
        let entries: BTreeMap<String, &RawValue> =
            serde_json::from_str(json).map_err(|error| format!("not a JSON object: {error}"))?;
        let mut models = BTreeMap::new();
        for (name, entry) in entries.iter().filter(|(name, _)| !name.starts_with('_')) {
            let model = Model::parse(entry.get()).map_err(|why| format!("{name:?}: {why}"))?;
            models.insert(name.as_str().into(), model);
        }
        let has_free = models.values().any(Model::is_free);
        Ok(Self { models: Arc::new(models), has_free })
    }

    /// Adds another table's models; one of the same name is replaced whole.
    pub fn merge(&mut self, other: Self) {
        self.has_free |= other.has_free;
        Arc::make_mut(&mut self.models).extend(Arc::unwrap_or_clone(other.models));
    }

    /// True where the operator says of some model that it costs nothing: such a request is not refused for money.
    pub fn has_free(&self) -> bool {
        self.has_free
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
        let model = self.find(model)?;
        let tier = Tier::of(service_tier)?;
        // A threshold is of one prompt, and a batch's sum is of many.
        let above = if tier == Tier::Batch { 0 } else { model.threshold(usage.input_tokens) };
        let rates = Rates { model, tier, above };
        let (amount, per_nano) = if usage.input_tokens == 0 && usage.output_tokens == 0 {
            // A total alone does not say what it is made of.
            let media = rates.media(usage).filter(|_| usage.total_tokens == 0)?;
            (media, FEMTO_PER_NANO * MICROS_PER_SECOND)
        } else {
            (rates.input(usage)?.checked_add(rates.output(usage)?)?, FEMTO_PER_NANO)
        };
        u64::try_from(amount.checked_add(per_nano / 2)? / per_nano).ok()
    }

    /// The cost of an answer that made images and reports no tokens: by the table's name for the model at the quality
    /// and size that the answer says (`high/1024-x-1536/gpt-image-1`), or by a price of the model's for any image.
    pub fn images_cost_nano_usd(&self, model: &str, usage: &Usage, quality: &str, size: &str) -> Option<u64> {
        let sized = size.split_once('x').map(|(width, height)| format!("{quality}/{width}-x-{height}/{model}"));
        let sized = sized.filter(|name| !quality.is_empty() && self.find(name).is_some());
        self.cost_nano_usd(sized.as_deref().unwrap_or(model), usage, None)
    }

    /// The prices for a name: its own; else for `ft:BASE:ORG:NAME:ID` those of `ft:BASE`; else those of the undated
    /// name. A fine-tuned model never falls back to its base, whose prices are others.
    fn find(&self, name: &str) -> Option<&Model> {
        let base = match name.strip_prefix("ft:") {
            Some(rest) => &name[..rest.find(':').map_or(name.len(), |end| end + "ft:".len())],
            None => name,
        };
        let get = |name: &str| self.models.get(name);
        get(name).or_else(|| get(base)).or_else(|| get(undated(base)?))
    }
}

/// The name before a snapshot's date, `-2024-08-06` or `-0613`; `None` when it ends in no date.
fn undated(name: &str) -> Option<&str> {
    let ends_in = |shape: &str| {
        let tail = name.len().checked_sub(shape.len()).and_then(|start| name.get(start..))?;
        let matches = tail.bytes().zip(shape.bytes()).all(|(byte, want)| match want {
            b'-' => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
        matches.then_some(tail)
    };
    let is_date = |month: &str, day: &str| ("01"..="12").contains(&month) && ("01"..="31").contains(&day);
    let dated = ends_in("-YYYY-MM-DD")
        .filter(|tail| is_date(&tail[6..8], &tail[9..]))
        .or_else(|| ends_in("-MMDD").filter(|tail| is_date(&tail[1..3], &tail[3..])))?;
    Some(&name[..name.len() - dated.len()])
}

/// What a price is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Input,
    CachedInput,
    CacheWrite,
    InputAudio,
    CachedAudio,
    InputImage,
    CachedImage,
    Output,
    OutputAudio,
    OutputImage,
    /// A second of transcribed audio.
    Second,
    /// An image made.
    Image,
}

/// The beginning of each field's name; a longer one stands before its own beginning.
const FIELDS: [(&str, Kind); 12] = [
    ("input_cost_per_token", Kind::Input),
    ("cache_read_input_token_cost", Kind::CachedInput),
    ("cache_creation_input_token_cost", Kind::CacheWrite),
    ("input_cost_per_audio_token", Kind::InputAudio),
    ("cache_read_input_audio_token_cost", Kind::CachedAudio),
    ("input_cost_per_image_token", Kind::InputImage),
    ("cache_read_input_image_token_cost", Kind::CachedImage),
    ("output_cost_per_token", Kind::Output),
    ("output_cost_per_audio_token", Kind::OutputAudio),
    ("output_cost_per_image_token", Kind::OutputImage),
    ("input_cost_per_second", Kind::Second),
    ("input_cost_per_image", Kind::Image),
];

/// How fast an answer was asked for; each has its own prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Default,
    Batch,
    Flex,
    Priority,
    Ultrafast,
}

impl Tier {
    /// From a response's `service_tier`. `auto` is what some answers say in place of the tier that was used, and stands
    /// for the default one, as do the names that compatible servers (Groq) have for theirs; `scale` is capacity paid in
    /// advance, which has no price a token.
    fn of(service_tier: Option<&str>) -> Option<Self> {
        Some(match service_tier {
            None | Some("default" | "auto" | "standard" | "on_demand" | "performance") => Self::Default,
            Some("batch") => Self::Batch,
            Some("flex") => Self::Flex,
            Some("priority" | "fast") => Self::Priority,
            Some("ultrafast") => Self::Ultrafast,
            Some(_) => return None,
        })
    }
}

/// One price's place in a model: what for, in which tier, and above how many input tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: Kind,
    tier: Tier,
    above: u64,
}

impl Key {
    /// Reads a field's name: `KIND[_above_<N>k_tokens][_TIER]`.
    fn parse(field: &str) -> Option<Self> {
        FIELDS.iter().find_map(|&(name, kind)| {
            let rest = field.strip_prefix(name)?;
            let (above, rest) = match rest.strip_prefix("_above_") {
                Some(rest) => {
                    let (thousands, rest) = rest.split_once("k_tokens")?;
                    let thousands: u64 = thousands.parse().ok().filter(|&thousands| thousands > 0)?;
                    (thousands.checked_mul(1000)?, rest)
                }
                None => (0, rest),
            };
            let tier = match rest {
                "" => Tier::Default,
                "_batches" => Tier::Batch,
                "_flex" => Tier::Flex,
                "_priority" => Tier::Priority,
                "_ultrafast" => Tier::Ultrafast,
                _ => return None,
            };
            Some(Self { kind, tier, above })
        })
    }
}

/// One model's prices in femto-dollars a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    /// Sorted by key: there are few, and a table of them has hundreds of models.
    prices: Box<[(Key, u64)]>,
    /// The input sizes above which other prices hold, largest first.
    thresholds: Box<[u64]>,
    /// The most tokens that a request can have in and out.
    input_tokens_max: Option<u64>,
    output_tokens_max: Option<u64>,
}

impl Model {
    fn parse(json: &str) -> Result<Self, String> {
        let fields: BTreeMap<String, &RawValue> =
            serde_json::from_str(json).map_err(|_| "expected an object of price fields".to_string())?;
        let mut prices = BTreeMap::new();
        let (mut input_tokens_max, mut output_tokens_max) = (None, None);
        for (field, value) in &fields {
            let largest = match field.as_str() {
                "max_input_tokens" => Some(&mut input_tokens_max),
                "max_output_tokens" => Some(&mut output_tokens_max),
                _ => None,
            };
            if let Some(largest) = largest {
                let tokens = value.get().parse::<u64>();
                *largest = Some(tokens.map_err(|_| format!("{field}: expected a whole number of tokens"))?);
                continue;
            }
            let key = Key::parse(field).ok_or_else(|| format!("unknown price field {field:?}"))?;
            let price = decimal::femto_usd(value.get()).map_err(|why| format!("{field}: {why}"))?;
            if prices.insert(key, price).is_some() {
                return Err(format!("{field}: the same price is given twice"));
            }
        }
        let mut thresholds: Vec<u64> = prices.keys().map(|key| key.above).filter(|&above| above > 0).collect();
        thresholds.sort_unstable_by(|a, b| b.cmp(a));
        thresholds.dedup();
        let prices = prices.into_iter().collect();
        Ok(Self { prices, thresholds: thresholds.into(), input_tokens_max, output_tokens_max })
    }

    fn price(&self, key: Key) -> Option<u64> {
        let place = self.prices.binary_search_by_key(&key, |&(key, _)| key).ok()?;
        Some(self.prices[place].1)
    }

    /// The threshold that an input exceeds, which then sets the price of the whole request; 0 for none.
    fn threshold(&self, input_tokens: u64) -> u64 {
        self.thresholds.iter().copied().find(|&above| input_tokens > above).unwrap_or(0)
    }

    /// Whether a kind has a price of its own in any tier.
    fn knows(&self, kind: Kind) -> bool {
        self.prices.iter().any(|(key, _)| key.kind == kind)
    }
}

/// The prices of text, audio and image tokens in the input: plain, and read from the cache.
const INPUT_KINDS: [(Kind, Kind); 3] =
    [(Kind::Input, Kind::CachedInput), (Kind::InputAudio, Kind::CachedAudio), (Kind::InputImage, Kind::CachedImage)];

/// A model's prices for one request. Amounts are femto-dollars unless they say otherwise.
struct Rates<'a> {
    model: &'a Model,
    tier: Tier,
    above: u64,
}

impl Rates<'_> {
    /// `None` where the price is missing; what was not used needs none. A product of two 64-bit numbers always fits.
    fn charge(&self, kind: Kind, count: u64) -> Option<u128> {
        if count == 0 {
            return Some(0);
        }
        let price = self.model.price(Key { kind, tier: self.tier, above: self.above })?;
        Some(u128::from(count) * u128::from(price))
    }

    /// The input: cached, cache-written and plain tokens of text, audio and images, each at its own price. Image tokens
    /// are billed as text by models that have no price for them.
    fn input(&self, usage: &Usage) -> Option<u128> {
        let has_images = self.model.knows(Kind::InputImage);
        let audio = usage.input_audio_tokens;
        let image = if has_images { usage.input_image_tokens } else { 0 };
        let text = usage.input_tokens.checked_sub(audio)?.checked_sub(image)?;
        let (cached, written) = (usage.cached_input_tokens, usage.cache_write_tokens);
        // Which media the written tokens were of is never said.
        let text = if written == 0 || (audio, image) == (0, 0) { text.checked_sub(written)? } else { return None };
        let all = [text, audio, image];
        let of_cached = self.charge(Kind::CacheWrite, written)?;
        let Some(cached_each) = cached_media(usage, all, has_images) else {
            return self.mixed_input(all, cached);
        };
        all.into_iter().zip(cached_each).zip(INPUT_KINDS).try_fold(of_cached, |sum, ((all, cached), (plain, read))| {
            let plain = self.charge(plain, all.checked_sub(cached)?)?;
            sum.checked_add(plain)?.checked_add(self.charge(read, cached)?)
        })
    }

    /// The input where it is not known of which medium the cached tokens were: its price is certain only where a token
    /// of each medium gets the same off.
    fn mixed_input(&self, all: [u64; 3], cached: u64) -> Option<u128> {
        all.into_iter().try_fold(0u64, u64::checked_add).filter(|&total| cached <= total)?;
        let (mut sum, mut off) = (0u128, None);
        for (all, (plain, read)) in all.into_iter().zip(INPUT_KINDS).filter(|&(all, _)| all > 0) {
            let off_here = self.charge(plain, 1)?.checked_sub(self.charge(read, 1)?)?;
            if *off.get_or_insert(off_here) != off_here {
                return None;
            }
            sum = sum.checked_add(self.charge(plain, all)?)?;
        }
        sum.checked_sub(off?.checked_mul(u128::from(cached))?)
    }

    /// The output. Reasoning tokens are part of it at its price. An answer that made images and does not say what its
    /// output tokens are has only tokens of images (the API reference's `ImagesUsage`).
    fn output(&self, usage: &Usage) -> Option<u128> {
        let audio = usage.output_audio_tokens;
        let unsaid = usage.images > 0 && (audio, usage.output_image_tokens) == (0, 0);
        let only_images = unsaid && self.model.knows(Kind::OutputImage);
        let image = if only_images { usage.output_tokens } else { usage.output_image_tokens };
        let text = usage.output_tokens.checked_sub(audio)?.checked_sub(image)?;
        let (text, audio) = (self.charge(Kind::Output, text)?, self.charge(Kind::OutputAudio, audio)?);
        text.checked_add(audio)?.checked_add(self.charge(Kind::OutputImage, image)?)
    }

    /// Audio by its length and images by their number, in millionths of a femto-dollar: for answers that report no
    /// tokens, since those that do are billed by them.
    fn media(&self, usage: &Usage) -> Option<u128> {
        let images = self.charge(Kind::Image, usage.images)?.checked_mul(MICROS_PER_SECOND)?;
        self.charge(Kind::Second, usage.audio_us)?.checked_add(images)
    }
}

/// How many of the cached tokens are of each medium; `None` where that is not known. `all` are the input's tokens of
/// text, audio and images.
fn cached_media(usage: &Usage, all: [u64; 3], has_images: bool) -> Option<[u64; 3]> {
    let cached = usage.cached_input_tokens;
    let (text, audio, image) = (usage.cached_text_tokens, usage.cached_audio_tokens, usage.cached_image_tokens);
    if text.checked_add(audio)?.checked_add(image)? == cached {
        return Some(if has_images { [text, audio, image] } else { [text + image, audio, 0] });
    }
    let media = || all.iter().filter(|&&count| count > 0).count();
    match cached {
        _ if all.into_iter().try_fold(0u64, u64::checked_add) == Some(cached) => Some(all),
        _ if media() <= 1 => Some(all.map(|count| if count > 0 { cached } else { 0 })),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
