//! The most that a request can cost, known before it is sent: what is reserved of a budget for it.

use super::model::{Kind, Model, Tier};
use super::{PriceTable, Ratio};

/// Femto-dollars (10⁻¹⁵ USD) in a nano-dollar.
const FEMTO_PER_NANO: u128 = 1_000_000;

/// Tokens that an answer is taken to have at most where neither the request nor the table says: as many as the largest
/// answers of most models that are sold today.
const OUTPUT_TOKENS_MAX: u64 = 128_000;
/// Audio that a request is taken to hold at least where the model is priced by its length, seconds.
const AUDIO_SECONDS: u64 = 60;
/// Tokens of such audio in a second.
const AUDIO_TOKENS_PER_SECOND: u64 = 10;

/// The most that a request can cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorstCase {
    /// Nano-dollars (10⁻⁹ USD), rounded up; `u64::MAX` for more than fits.
    pub nano_usd: u64,
    /// Tokens of output that it was reckoned with.
    pub output_tokens: u64,
}

impl PriceTable {
    /// The most that a request of so many input tokens can cost: all of its input and output is of the dearest kind
    /// that the model has a price for in the tier that was asked for, at the prices for a long context where the input
    /// has one, with all factors on them. `output_tokens` is the most that it lets the target put out; where it does
    /// not say, the model's own largest output counts, else 128,000, and none for a model whose output costs nothing
    /// beside its input (embeddings); and such a model takes many inputs of its largest size in one request. A model
    /// without prices for tokens costs an image, or audio: a minute, or a second for every ten tokens.
    ///
    /// `None`: the model is unknown, or it has no price in that tier.
    pub fn worst_case(
        &self,
        model: &str,
        input_tokens: u64,
        output_tokens: Option<u64>,
        service_tier: Option<&str>,
    ) -> Option<WorstCase> {
        let (model, _) = self.find(model)?;
        let tier = Tier::of(service_tier)?;
        if !model.prices.iter().any(|(key, _)| key.kind.is_token()) {
            let image = model.dearest_in(tier, 0, |kind| kind == Kind::Image);
            let seconds = u128::from((input_tokens / AUDIO_TOKENS_PER_SECOND).max(AUDIO_SECONDS));
            let audio =
                model.dearest_in(tier, 0, |kind| kind == Kind::Second).map(|second| second.saturating_mul(seconds));
            return Some(WorstCase { nano_usd: self.nano_usd(model, image.max(audio)?), output_tokens: 0 });
        }
        let puts_out = model.is_free() || model.prices.iter().any(|(key, price)| key.kind.is_output() && *price > 0);
        let input_tokens = input_tokens.min(model.input_tokens_max.filter(|_| puts_out).unwrap_or(u64::MAX));
        let above = model.threshold(input_tokens);
        let input = model.dearest_in(tier, above, Kind::is_input)?;
        let output = match model.dearest_in(tier, above, Kind::is_output) {
            None if puts_out => return None,
            price => price.unwrap_or(0),
        };
        let largest = if puts_out { model.output_tokens_max.unwrap_or(OUTPUT_TOKENS_MAX) } else { 0 };
        let output_tokens = output_tokens.unwrap_or(largest);
        let (input, output) = (input * u128::from(input_tokens), output * u128::from(output_tokens));
        Some(WorstCase { nano_usd: self.nano_usd(model, input.saturating_add(output)), output_tokens })
    }

    /// True for a model each of whose prices is stated to be 0.
    pub fn is_free(&self, model: &str) -> bool {
        self.find(model).is_some_and(|(model, _)| model.is_free())
    }

    /// With all factors, where a region's is not known the dearest. Rounded up: a reservation that is a hair too small
    /// is none.
    fn nano_usd(&self, model: &Model, femto_usd: u128) -> u64 {
        let uplift = model.uplift(self.region.as_deref()).unwrap_or_else(|| model.dearest_uplift());
        let factor = self.factor.unwrap_or(Ratio::ONE).times(uplift);
        let raised = femto_usd.saturating_mul(factor.numerator.into());
        u64::try_from(raised.div_ceil(FEMTO_PER_NANO * u128::from(factor.denominator))).unwrap_or(u64::MAX)
    }

    /// The most tokens that a request to the model can have as its input; `None` where the table does not say.
    pub fn largest_input(&self, model: &str) -> Option<u64> {
        self.find(model)?.0.input_tokens_max
    }
}

impl Model {
    /// The highest price of these kinds in a tier, femto-dollars a unit. A kind without a price above the threshold
    /// counts with the one below it; one without a price for decisions, with the plain one.
    fn dearest_in(&self, tier: Tier, above: u64, is_meant: impl Fn(Kind) -> bool) -> Option<u128> {
        let of = |tier| self.dearest(|key| key.tier == tier && key.above <= above && is_meant(key.kind));
        let plain = if tier == Tier::Decisions { of(Tier::Default) } else { None };
        of(tier).max(plain).map(u128::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = r#"{
        "free": {"input_cost_per_token": 0, "output_cost_per_token": 0.0},
        "half": {"input_cost_per_token": 0, "output_cost_per_token": 1e-6},
        "nothing": {"max_input_tokens": 10},
        "odd": {"input_cost_per_token": 1e-6, "input_cost_per_token_flex": 5e-7, "output_cost_per_token": 3e-6,
            "max_input_tokens": 1000, "max_output_tokens": 50},
        "tiny": {"input_cost_per_token": 1e-15},
        "media": {"input_cost_per_image": 0.04, "input_cost_per_second": 0.0001}
    }"#;

    fn table() -> PriceTable {
        let mut table = PriceTable::built_in();
        table.merge(PriceTable::parse(OWN).expect("valid"));
        table
    }

    fn worst(model: &str, input: u64, output: Option<u64>, tier: Option<&str>) -> Option<(u64, u64)> {
        let worst = table().worst_case(model, input, output, tier)?;
        Some((worst.nano_usd, worst.output_tokens))
    }

    #[test]
    fn the_dearest_kinds_at_the_most_tokens() {
        // gpt-4o: 2.5 in, 10 out; 16,384 out at most.
        assert_eq!(worst("gpt-4o", 100, Some(7), None), Some((100 * 2_500 + 7 * 10_000, 7)));
        assert_eq!(worst("gpt-4o", 100, None, Some("auto")), Some((100 * 2_500 + 16_384 * 10_000, 16_384)));
        // gpt-6.1-sol: 2 in, but 5 written to the cache to be kept for long.
        assert_eq!(worst("gpt-6.1-sol", 100, Some(1), Some("default")), Some((100 * 5_000 + 10_000, 1)));
        // gpt-audio: 32 audio in, 64 audio out.
        assert_eq!(worst("gpt-audio", 10, Some(10), None), Some((10 * 32_000 + 10 * 64_000, 10)));
        // The table does not say how much gpt-5.5-cyber puts out.
        let assumed = worst("gpt-5.5-cyber", 0, None, None).expect("a price");
        assert_eq!(assumed.1, 128_000);
        assert!(assumed.0 > 0);
        // An embedding has no output.
        assert_eq!(worst("text-embedding-3-small", 1_000, None, None), Some((20_000, 0)));
    }

    #[test]
    fn tiers_and_long_context() {
        // gpt-5.5 above 272,000: 10 in, 45 out; flex the half.
        assert_eq!(worst("gpt-5.5", 272_000, Some(1), None), Some((272_000 * 5_000 + 30_000, 1)));
        assert_eq!(worst("gpt-5.5", 272_001, Some(1), None), Some((272_001 * 10_000 + 45_000, 1)));
        assert_eq!(worst("gpt-5.5", 272_001, Some(1), Some("flex")), Some((272_001 * 5_000 + 22_500, 1)));
        // No price for a long context in priority: the one for a short one, which is dearer than long in default.
        let priority = worst("gpt-5.5", 272_001, Some(1), Some("priority")).expect("a price");
        assert!(priority > worst("gpt-5.5", 272_001, Some(1), None).expect("a price"));
        assert_eq!(worst("gpt-4o", 1, Some(1), Some("flex")), None);
        assert_eq!(worst("gpt-4o", 1, Some(1), Some("scale")), None);
        assert_eq!(worst("odd", 1, Some(1), Some("flex")), None, "no price for the output in flex");
        assert_eq!(worst("nobody-knows", 1, Some(1), None), None);
        assert_eq!(worst("nothing", 1, Some(1), None), None);
    }

    #[test]
    fn inputs_are_capped_and_sums_rounded_up() {
        assert_eq!(worst("odd", 5_000, None, None), Some((1_000 * 1_000 + 50 * 3_000, 50)));
        assert_eq!(worst("tiny", 1, None, None), Some((1, 0)));
        assert_eq!(worst("odd", 0, Some(u64::MAX), None), Some((u64::MAX, u64::MAX)));
        // 8,191 are the most of each input, of which there may be 2,048.
        assert_eq!(worst("text-embedding-3-small", 300_000, None, None), Some((300_000 * 20, 0)));
        assert_eq!(table().largest_input("odd"), Some(1_000));
        assert_eq!(table().largest_input("gpt-4o-2030-01-01"), Some(128_000));
        assert_eq!((table().largest_input("tiny"), table().largest_input("nobody-knows")), (None, None));
    }

    #[test]
    fn media_cost_an_image_or_a_minute() {
        assert_eq!(worst("whisper-1", 100, None, None), Some((60 * 100_000, 0)));
        assert_eq!(worst("whisper-1", 12_000, None, None), Some((1_200 * 100_000, 0)));
        assert_eq!(worst("high/1024-x-1024/gpt-image-1", 100, None, None), Some((167_000_000, 0)));
        assert_eq!(worst("media", 100, Some(9), None), Some((40_000_000, 0)));
        assert_eq!(worst("media", 100, None, Some("flex")), None);
    }

    #[test]
    fn free_is_what_is_said_to_be() {
        let table = table();
        assert!(table.is_free("free") && table.is_free("omni-moderation-latest"));
        for model in ["half", "nothing", "tiny", "gpt-4o", "text-embedding-3-small", "nobody-knows", ""] {
            assert!(!table.is_free(model), "{model}");
        }
        assert_eq!(worst("free", 100, None, None), Some((0, 128_000)));
    }
}
