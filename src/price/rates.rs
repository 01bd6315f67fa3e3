//! What one usage costs at one model's prices.
//!
//! In: counts, and a model with the tier and the length of the request. Out: femto-dollars, or `None` where a price is
//! missing, or the counts contradict each other. Never: a guess.

use super::model::{Key, Kind, Model, Tier};
use crate::usage::record::Usage;

/// Seconds are counted in millionths.
pub(super) const MICROS_PER_SECOND: u128 = 1_000_000;

/// The prices of text, audio and image tokens in the input: plain, read from the cache, and written to it.
const INPUT_KINDS: [(Kind, Kind, Option<Kind>); 3] = [
    (Kind::Input, Kind::CachedInput, Some(Kind::CacheWrite)),
    (Kind::InputAudio, Kind::CachedAudio, Some(Kind::CacheWriteAudio)),
    (Kind::InputImage, Kind::CachedImage, None),
];
/// The fees for searches of the web, by the size of their context.
const SEARCHES: [Kind; 3] = [Kind::WebSearchLow, Kind::WebSearchMedium, Kind::WebSearchHigh];

/// A model's prices for one request. Amounts are femto-dollars unless they say otherwise.
pub(super) struct Rates<'a> {
    pub model: &'a Model,
    /// `None`: one that nobody has prices of.
    pub tier: Option<Tier>,
    /// The input size above which the request is.
    pub above: u64,
    /// The fee for a session of the code interpreter where the model has none of its own.
    pub session_fee: Option<u64>,
    /// What an unknown fee is taken to be at most; `None` where it is not to be guessed. With it, what else has no
    /// price counts at the dearest that the model has for its side, input or output, in any tier.
    pub at_most: Option<u64>,
}

impl Rates<'_> {
    /// What a kind costs a unit.
    fn price(&self, kind: Kind) -> Option<u64> {
        let known = |tier, kind| self.model.price(Key { kind, tier, above: self.above });
        let plain = |kind| match self.tier? {
            Tier::Decisions => known(Tier::Decisions, kind).or_else(|| known(Tier::Default, kind)),
            tier => known(tier, kind),
        };
        let price = plain(kind).or_else(|| if kind == Kind::Reasoning { plain(Kind::Output) } else { None });
        price.or_else(|| self.at_most.and_then(|_| self.dearest(kind)))
    }

    /// The dearest that could be meant where a kind has no price.
    fn dearest(&self, kind: Kind) -> Option<u64> {
        let of = |is_meant: fn(Kind) -> bool| self.model.dearest(|key| is_meant(key.kind));
        match kind {
            _ if kind.is_input() => of(Kind::is_input).or_else(|| of(Kind::is_token)),
            _ if kind.is_output() => of(Kind::is_output).or_else(|| of(Kind::is_token)),
            _ => self.model.dearest(|key| key.kind == kind),
        }
    }

    /// `None` where the price is missing; what was not used needs none. A product of two 64-bit numbers always fits.
    fn charge(&self, kind: Kind, count: u64) -> Option<u128> {
        if count == 0 {
            return Some(0);
        }
        Some(u128::from(count) * u128::from(self.price(kind)?))
    }

    /// Input and output. Where the counts contradict each other, all of them at most.
    pub(super) fn tokens(&self, usage: &Usage) -> Option<u128> {
        let side = |exact: Option<u128>, kind, count: u64| {
            let at_most = || self.at_most.and_then(|_| Some(u128::from(count) * u128::from(self.dearest(kind)?)));
            exact.or_else(at_most)
        };
        let parts = [usage.cached_input_tokens, usage.cache_write_tokens, usage.input_audio_tokens];
        let all = parts.into_iter().fold(usage.input_tokens, u64::max);
        let input = side(self.input(usage), Kind::Input, all)?;
        let all = usage.output_tokens.max(usage.output_audio_tokens).max(usage.output_image_tokens);
        input.checked_add(side(self.output(usage), Kind::Output, all)?)
    }

    /// Tokens of which no more is known than how many there are: at most.
    pub(super) fn unspecified(&self, total_tokens: u64) -> Option<u128> {
        let dearest = self.at_most.and_then(|_| self.model.dearest(|key| key.kind.is_token()))?;
        Some(u128::from(total_tokens) * u128::from(dearest))
    }

    /// The input: cached, cache-written and plain tokens of text, audio and images, each at its own price. Image tokens
    /// are billed as text by models that have no price for them.
    fn input(&self, usage: &Usage) -> Option<u128> {
        let has_images = self.model.knows(Kind::InputImage);
        let audio = usage.input_audio_tokens;
        let image = if has_images { usage.input_image_tokens } else { 0 };
        let text = usage.input_tokens.checked_sub(audio)?.checked_sub(image)?;
        let (mut all, cached) = ([text, audio, image], usage.cached_input_tokens);
        let written = self.written(usage, &mut all)?;
        let Some(cached_each) = cached_media(usage, all, has_images) else {
            return self.mixed_input(all, cached);
        };
        all.into_iter().zip(cached_each).zip(INPUT_KINDS).try_fold(written, |sum, ((all, cached), (plain, read, _))| {
            let plain = self.charge(plain, all.checked_sub(cached)?)?;
            sum.checked_add(plain)?.checked_add(self.charge(read, cached)?)
        })
    }

    /// What was written to the cache, and is taken from `all`. Of which medium it was is never said, and known only
    /// where the input has but one.
    fn written(&self, usage: &Usage, all: &mut [u64; 3]) -> Option<u128> {
        let written = usage.cache_write_tokens;
        if written == 0 {
            return (usage.cache_write_12h_tokens == 0).then_some(0);
        }
        let mut media = all.iter_mut().zip(INPUT_KINDS).filter(|(count, _)| **count > 0);
        let (Some((count, (.., Some(kind)))), None) = (media.next(), media.next()) else { return None };
        *count = count.checked_sub(written)?;
        let long = usage.cache_write_12h_tokens;
        let short = self.charge(kind, written.checked_sub(long)?)?;
        let long_kind =
            if kind == Kind::CacheWrite { Kind::CacheWriteLong } else { return (long == 0).then_some(short) };
        short.checked_add(self.charge(long_kind, long)?)
    }

    /// The input where it is not known of which medium the cached tokens were: its price is certain only where a token
    /// of each medium gets the same off.
    fn mixed_input(&self, all: [u64; 3], cached: u64) -> Option<u128> {
        all.into_iter().try_fold(0u64, u64::checked_add).filter(|&total| cached <= total)?;
        let (mut sum, mut off) = (0u128, None);
        for (all, (plain, read, _)) in all.into_iter().zip(INPUT_KINDS).filter(|&(all, _)| all > 0) {
            let off_here = self.charge(plain, 1)?.checked_sub(self.charge(read, 1)?)?;
            if *off.get_or_insert(off_here) != off_here {
                return None;
            }
            sum = sum.checked_add(self.charge(plain, all)?)?;
        }
        sum.checked_sub(off?.checked_mul(u128::from(cached))?)
    }

    /// The output. Reasoning tokens are part of its text, at its price where they have none of their own. What an
    /// answer that made images does not tell is images, where the model has a price for those.
    fn output(&self, usage: &Usage) -> Option<u128> {
        let unsaid = if self.model.knows(Kind::OutputImage) { usage.unsaid_output_tokens } else { 0 };
        let (audio, image) = (usage.output_audio_tokens, usage.output_image_tokens.checked_add(unsaid)?);
        let text = usage.output_tokens.checked_sub(audio)?.checked_sub(image)?;
        let reasoning = if self.model.knows(Kind::Reasoning) { usage.reasoning_tokens } else { 0 };
        let parts = [
            (Kind::Output, text.checked_sub(reasoning)?),
            (Kind::Reasoning, reasoning),
            (Kind::OutputAudio, audio),
            (Kind::OutputImage, image),
        ];
        parts.into_iter().try_fold(0u128, |sum, (kind, count)| sum.checked_add(self.charge(kind, count)?))
    }

    /// Audio by its length and images by their number, in millionths of a femto-dollar: for answers that report no
    /// tokens, since those that do are billed by them.
    pub(super) fn media(&self, usage: &Usage) -> Option<u128> {
        let images = self.charge(Kind::Image, usage.images)?.checked_mul(MICROS_PER_SECOND)?;
        self.charge(Kind::Second, usage.audio_us)?.checked_add(images)
    }

    /// The fees for calls of tools, which no tier changes.
    pub(super) fn fees(&self, usage: &Usage) -> Option<u128> {
        let sessions =
            usage.web_searches.iter().chain([&usage.file_searches]).try_fold(usage.tool_calls, |all, calls| {
                all.checked_sub(*calls) // what is left of the calls
            });
        let calls = SEARCHES.into_iter().zip(usage.web_searches);
        let calls = calls.chain([(Kind::FileSearch, usage.file_searches), (Kind::CodeSession, sessions?)]);
        calls.filter(|&(_, count)| count > 0).try_fold(0u128, |sum, (kind, count)| {
            let own = self.model.price(Key::plain(kind));
            let shared = if kind == Kind::CodeSession { self.session_fee } else { None };
            let fee = own.or(shared).or(self.at_most)?;
            sum.checked_add(u128::from(count) * u128::from(fee))
        })
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
