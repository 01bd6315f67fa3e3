//! One model's prices: what each is for, in which tier, and above how many input tokens.
//!
//! In: the fields of a table's entry. Out: a [`Model`], or the field that is wrong. Never: a price that is not there.

use super::decimal;
use super::ratio::Ratio;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What a price is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Input,
    CachedInput,
    CacheWrite,
    /// Written to be kept for 12 hours or longer.
    CacheWriteLong,
    CacheWriteAudio,
    InputAudio,
    CachedAudio,
    InputImage,
    CachedImage,
    Output,
    /// Reasoning tokens, where they have a price of their own.
    Reasoning,
    OutputAudio,
    OutputImage,
    /// A second of transcribed audio.
    Second,
    /// An image made.
    Image,
    /// A search of the web, by the size of its context.
    WebSearchLow,
    WebSearchMedium,
    WebSearchHigh,
    FileSearch,
    /// A session of the code interpreter.
    CodeSession,
}

impl Kind {
    pub(super) fn is_input(self) -> bool {
        (Self::Input..=Self::CachedImage).contains(&self)
    }

    pub(super) fn is_output(self) -> bool {
        (Self::Output..=Self::OutputImage).contains(&self)
    }

    pub(super) fn is_token(self) -> bool {
        self.is_input() || self.is_output()
    }

    /// A fee for a call of a tool, which is the same in each tier.
    pub(super) fn is_fee(self) -> bool {
        self >= Self::WebSearchLow
    }
}

/// The beginning of each field's name; a longer one stands before its own beginning.
const FIELDS: [(&str, Kind); 18] = [
    ("input_cost_per_token", Kind::Input),
    ("cache_read_input_token_cost", Kind::CachedInput),
    ("cache_creation_input_token_cost_above_12hr", Kind::CacheWriteLong),
    ("cache_creation_input_token_cost", Kind::CacheWrite),
    ("cache_creation_input_audio_token_cost", Kind::CacheWriteAudio),
    ("input_cost_per_audio_token", Kind::InputAudio),
    ("cache_read_input_audio_token_cost", Kind::CachedAudio),
    ("input_cost_per_image_token", Kind::InputImage),
    ("cache_read_input_image_token_cost", Kind::CachedImage),
    ("output_cost_per_token", Kind::Output),
    ("output_cost_per_reasoning_token", Kind::Reasoning),
    ("output_cost_per_audio_token", Kind::OutputAudio),
    ("output_cost_per_image_token", Kind::OutputImage),
    ("input_cost_per_second", Kind::Second),
    ("input_cost_per_image", Kind::Image),
    ("output_cost_per_image", Kind::Image),
    ("file_search_cost_per_1k_calls", Kind::FileSearch),
    ("code_interpreter_cost_per_session", Kind::CodeSession),
];

/// The field with a fee for each size of a web search's context.
const WEB_SEARCH: &str = "search_context_cost_per_query";
/// Its parts.
const CONTEXT_SIZES: [(&str, Kind); 3] = [
    ("search_context_size_low", Kind::WebSearchLow),
    ("search_context_size_medium", Kind::WebSearchMedium),
    ("search_context_size_high", Kind::WebSearchHigh),
];
/// Calls that the fee for file searches is for.
const FILE_SEARCHES_PRICED: u64 = 1_000;

/// The field of a region's factor, before the region's name; and the one of the only region that is called otherwise.
const UPLIFT: &str = "regional_processing_uplift_multiplier_";
const FEDRAMP: (&str, &str) = ("fedramp_uplift_multiplier", "gov");

/// How fast an answer was asked for; each has its own prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    Default,
    Batch,
    Flex,
    Priority,
    Ultrafast,
    /// No tier of OpenAI's, but an endpoint with prices of its own; what has none there is at the default one.
    Decisions,
}

impl Tier {
    /// Each but the default, by the end of a field's name.
    pub(super) const ENDINGS: [(&str, Self); 5] = [
        ("_batches", Self::Batch),
        ("_flex", Self::Flex),
        ("_priority", Self::Priority),
        ("_ultrafast", Self::Ultrafast),
        ("_decisions", Self::Decisions),
    ];

    /// From a response's `service_tier`. `auto` is what some answers say in place of the tier that was used, and stands
    /// for the default one, as do the names that compatible servers (Groq) have for theirs; `scale` is capacity paid in
    /// advance, which has no price a token. `batch` and `decisions` are said by us.
    pub(super) fn of(service_tier: Option<&str>) -> Option<Self> {
        Some(match service_tier {
            None | Some("default" | "auto" | "standard" | "on_demand" | "performance") => Self::Default,
            Some("batch") => Self::Batch,
            Some("flex") => Self::Flex,
            Some("priority" | "fast") => Self::Priority,
            Some("ultrafast") => Self::Ultrafast,
            Some("decisions") => Self::Decisions,
            Some(_) => return None,
        })
    }
}

/// One price's place in a model: what for, in which tier, and above how many input tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub kind: Kind,
    pub tier: Tier,
    pub above: u64,
}

impl Key {
    /// The place of a price that is the same for all requests.
    pub(super) fn plain(kind: Kind) -> Self {
        Self { kind, tier: Tier::Default, above: 0 }
    }

    /// Reads a field's name: `KIND[_above_<N>k_tokens][_TIER]`.
    pub(super) fn parse(field: &str) -> Option<Self> {
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
            let ending = Tier::ENDINGS.iter().find(|(ending, _)| *ending == rest);
            let tier = if rest.is_empty() { Tier::Default } else { ending?.1 };
            let key = Self { kind, tier, above };
            (!kind.is_fee() || key == Self::plain(kind)).then_some(key)
        })
    }
}

/// One model's prices in femto-dollars a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    /// Sorted by key: there are few, and a table of them has hundreds of models.
    pub prices: Box<[(Key, u64)]>,
    /// The input sizes above which other prices hold, largest first.
    pub thresholds: Box<[u64]>,
    /// By what the prices of tokens, seconds and images are multiplied in a region.
    pub uplifts: Box<[(Box<str>, Ratio)]>,
    /// The most tokens that a request can have in and out.
    pub input_tokens_max: Option<u64>,
    pub output_tokens_max: Option<u64>,
}

/// The fields of an entry as they are read.
#[derive(Default)]
pub(super) struct Fields {
    prices: BTreeMap<Key, u64>,
    uplifts: Vec<(Box<str>, Ratio)>,
    input_tokens_max: Option<u64>,
    output_tokens_max: Option<u64>,
}

impl Fields {
    /// Takes a field; false where it is none of ours. `femto_usd` reads a price.
    ///
    /// # Errors
    /// What is wrong with its value, in words that follow the field's name.
    pub(super) fn take(&mut self, field: &str, value: &RawValue, femto_usd: Decimal) -> Result<bool, String> {
        let largest = match field {
            "max_input_tokens" => Some(&mut self.input_tokens_max),
            "max_output_tokens" => Some(&mut self.output_tokens_max),
            _ => None,
        };
        if let Some(largest) = largest {
            let tokens = value.get().parse::<u64>();
            *largest = Some(tokens.map_err(|_| "expected a whole number of tokens".to_owned())?);
            return Ok(true);
        }
        if field == WEB_SEARCH {
            return self.take_searches(value, femto_usd).map(|()| true);
        }
        let region = field.strip_prefix(UPLIFT).or((field == FEDRAMP.0).then_some(FEDRAMP.1));
        if let Some(region) = region.filter(|region| !region.is_empty()) {
            let expected = "expected a factor above 0, at most 1000, with at most 6 decimal places";
            let factor = Ratio::parse(value.get()).ok_or_else(|| expected.to_owned())?;
            self.uplifts.push((region.into(), factor));
            return Ok(true);
        }
        let Some(key) = Key::parse(field) else { return Ok(false) };
        let mut price = femto_usd(value.get())?;
        if key.kind == Kind::FileSearch {
            price = (price % FILE_SEARCHES_PRICED == 0)
                .then_some(price / FILE_SEARCHES_PRICED)
                .ok_or("has more than 12 decimal places")?;
        }
        self.insert(key, price)?;
        Ok(true)
    }

    fn take_searches(&mut self, value: &RawValue, femto_usd: Decimal) -> Result<(), String> {
        let expected = "expected an object of fees by the size of the context";
        let fees: BTreeMap<String, &RawValue> = serde_json::from_str(value.get()).map_err(|_| expected.to_owned())?;
        for (size, fee) in fees {
            let known = CONTEXT_SIZES.iter().find(|(name, _)| *name == size);
            let (_, kind) = known.ok_or_else(|| format!("unknown size {size:?}"))?;
            self.insert(Key::plain(*kind), femto_usd(fee.get())?)?;
        }
        Ok(())
    }

    fn insert(&mut self, key: Key, price: u64) -> Result<(), String> {
        match self.prices.insert(key, price) {
            None => Ok(()),
            Some(_) => Err("the same price is given twice".to_owned()),
        }
    }

    pub(super) fn into_model(self) -> Model {
        let mut thresholds: Vec<u64> = self.prices.keys().map(|key| key.above).filter(|&above| above > 0).collect();
        thresholds.sort_unstable_by(|a, b| b.cmp(a));
        thresholds.dedup();
        Model {
            prices: self.prices.into_iter().collect(),
            thresholds: thresholds.into(),
            uplifts: self.uplifts.into(),
            input_tokens_max: self.input_tokens_max,
            output_tokens_max: self.output_tokens_max,
        }
    }
}

/// How the text of a number of dollars is read: femto-dollars, or why it cannot be.
pub(super) type Decimal = fn(&str) -> Result<u64, &'static str>;

impl Model {
    /// Reads an entry in our own format.
    ///
    /// # Errors
    /// The field that is unknown or wrong.
    pub(super) fn parse(json: &str) -> Result<Self, String> {
        let entry: BTreeMap<String, &RawValue> =
            serde_json::from_str(json).map_err(|_| "expected an object of price fields".to_string())?;
        let mut fields = Fields::default();
        for (field, value) in &entry {
            let taken = fields.take(field, value, decimal::femto_usd);
            if !taken.map_err(|why| format!("{field}: {why}"))? {
                return Err(format!("unknown price field {field:?}"));
            }
        }
        Ok(fields.into_model())
    }

    pub(super) fn price(&self, key: Key) -> Option<u64> {
        let place = self.prices.binary_search_by_key(&key, |&(key, _)| key).ok()?;
        Some(self.prices[place].1)
    }

    /// The threshold that an input exceeds, which then sets the price of the whole request; 0 for none.
    pub(super) fn threshold(&self, input_tokens: u64) -> u64 {
        self.thresholds.iter().copied().find(|&above| input_tokens > above).unwrap_or(0)
    }

    /// Whether a kind has a price of its own in any tier.
    pub(super) fn knows(&self, kind: Kind) -> bool {
        self.prices.iter().any(|(key, _)| key.kind == kind)
    }

    /// True where each of its prices is stated to be 0.
    pub(super) fn is_free(&self) -> bool {
        !self.prices.is_empty() && self.prices.iter().all(|&(_, price)| price == 0)
    }

    /// The highest of the prices that are meant, femto-dollars a unit.
    pub(super) fn dearest(&self, is_meant: impl Fn(Key) -> bool) -> Option<u64> {
        self.prices.iter().filter(|(key, _)| is_meant(*key)).map(|&(_, price)| price).max()
    }

    /// By what a region multiplies this model's prices. `None`: the table knows that regions do so with this model, and
    /// not by how much this one does.
    pub(super) fn uplift(&self, region: Option<&str>) -> Option<Ratio> {
        let Some(region) = region else { return Some(Ratio::ONE) };
        let of = |wanted: &str| self.uplifts.iter().find(|(region, _)| **region == *wanted).map(|&(_, ratio)| ratio);
        of(region).or_else(|| {
            let is_told_apart = ["eu", "us", FEDRAMP.1].contains(&region);
            (is_told_apart || of("eu").or(of("us")).is_none()).then_some(Ratio::ONE)
        })
    }

    /// The most that any region multiplies them by.
    pub(super) fn dearest_uplift(&self) -> Ratio {
        let dearer = |one: Ratio, other: Ratio| if other.is_above(one) { other } else { one };
        self.uplifts.iter().map(|&(_, ratio)| ratio).fold(Ratio::ONE, dearer)
    }
}
