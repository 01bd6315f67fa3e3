//! What a request may take of its user's limits, and what it counts for when it is over. Functions of the
//! exchange and the limiter.
//!
//! A request whose body is held is looked at twice: by its head, so that who would be refused anyway need not send a
//! body; and when it is whole, which is when its reservation is made. One that streams through makes it with its head.

use super::exchange::{Exchange, ModelName};
use super::refusal::Refusal;
use crate::base::clock::Now;
use crate::http::reply::Fault;
use crate::limit::budget::Cost;
use crate::limit::limiter::{Limiter, Used};
use crate::limit::reservation::ReservationRequest;
use crate::limit::status::Refused;
use crate::price::PriceTable;
use crate::usage::record::{Draft, Endpoint, Record, Usage, UsageSource};

/// Output tokens that are expected of a user's first request which sets no maximum.
const OUTPUT_TOKENS_GUESSED: u64 = 256;
/// Input tokens that are expected where the body is not read.
const INPUT_TOKENS_GUESSED: u64 = 256;
/// Output tokens of an image in high quality: what gpt-image-1 reports of a square one.
const IMAGE_TOKENS_GUESSED: u64 = 4160;

/// What is known of a request's size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Size {
    /// Tokens, from the body's bytes.
    pub input: Option<u64>,
    /// The most that the client lets the target put out, over all choices.
    pub output_max: Option<u64>,
}

/// Has an exchange take what it may need of its user's limits, all or nothing.
///
/// # Errors
/// The limit that refuses it.
pub fn reserve(
    limiter: &mut Limiter,
    prices: &PriceTable,
    exchange: &mut Exchange,
    size: Size,
    now: Now,
) -> Result<(), Refused> {
    let request = reservation_request(limiter, prices, &exchange.draft, exchange.request.model_name, size);
    (exchange.reservation, exchange.limit_status) = limiter.admit(&exchange.draft.user, request, now)?;
    Ok(())
}

/// What a request may take, where its user is limited in that; else nothing.
fn reservation_request(
    limiter: &Limiter,
    prices: &PriceTable,
    draft: &Draft,
    name: ModelName,
    size: Size,
) -> ReservationRequest {
    let endpoint = draft.endpoint;
    let nothing = ReservationRequest::default();
    if endpoint == Endpoint::Other || endpoint.is_retrieval() {
        return nothing;
    }
    let measures = limiter.measures(&draft.user);
    if !measures.tokens {
        return nothing;
    }
    if endpoint.is_session() {
        // Charged as it goes: refused only where nothing is left at all.
        return ReservationRequest { tokens: 1, nano_usd: Some(0), guessed: true };
    }
    let has_output = !matches!(endpoint, Endpoint::Embeddings | Endpoint::Moderations);
    let expected = || match endpoint {
        Endpoint::ImagesGenerations | Endpoint::ImagesEdits | Endpoint::ImagesVariations => IMAGE_TOKENS_GUESSED,
        _ => limiter.average_output(&draft.user).unwrap_or(OUTPUT_TOKENS_GUESSED),
    };
    let usage = Usage {
        input_tokens: size.input.unwrap_or(INPUT_TOKENS_GUESSED),
        output_tokens: if has_output { size.output_max.unwrap_or_else(expected) } else { 0 },
        ..Usage::default()
    };
    let tokens = usage.input_tokens.saturating_add(usage.output_tokens);
    let model = draft.model_requested.as_deref().filter(|_| name == ModelName::Model).unwrap_or_default();
    let cost = || prices.cost_nano_usd(model, &Usage { total_tokens: tokens, ..usage }, None);
    let nano_usd = measures.cost.then(cost).flatten();
    let guessed = size.input.is_none() || has_output && size.output_max.is_none();
    ReservationRequest { tokens, nano_usd: Some(nano_usd.unwrap_or(0)), guessed }
}

/// What a record counts for in its user's limits.
pub fn used(record: &Record) -> Used {
    let usage = &record.usage;
    let nano_usd = record.counted_nano_usd().unwrap_or(0).clamp(i64::MIN.into(), i64::MAX.into()) as i64;
    let is_text = record.usage_source == UsageSource::Reported && record.endpoint.is_metered() && usage.images == 0;
    Used {
        // A retrieval's tokens were the creation's, or a batch's, which has no part in a minute.
        tokens: if record.is_retrieval { 0 } else { tokens(usage) },
        output_tokens: is_text.then_some(usage.output_tokens),
        cost: Cost { seq: record.seq, started_at: record.started_at, nano_usd },
    }
}

/// How a request is refused that gets nothing.
pub fn refusal(refused: &Refused) -> Refusal {
    let mut extra = Vec::new();
    refused.write(&mut extra);
    // Where in-flight requests hold the rest of a budget, waiting helps; where it is spent, it does not.
    let is_spent = refused.limit.is_budget() && refused.retry_after.is_none();
    let fault = if is_spent { Fault::QuotaSpent } else { Fault::RateLimited };
    Refusal::new(fault, refused.message()).with(extra)
}

/// What an answer counts for in a limit of tokens.
fn tokens(usage: &Usage) -> u64 {
    usage.total_tokens.max(usage.input_tokens.saturating_add(usage.output_tokens))
}

#[cfg(test)]
mod tests;
