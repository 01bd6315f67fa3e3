//! What a request may take of its user's limits, and what is told to one that gets nothing.
//!
//! A request whose body is held is looked at twice: by its head, so that who would be refused anyway need not send a
//! body; and when it is whole, which is when its reservation is taken. One that streams through takes it with its head.

use super::exchange::Exchange;
use super::replies::Refusal;
use super::{DownKey, ExchangeKey, Proxy};
use crate::base::clock::Now;
use crate::http::head::RequestHead;
use crate::http::reply::Fault;
use crate::limit::budget::Cost;
use crate::limit::limiter::Used;
use crate::limit::reservation::ReservationRequest;
use crate::limit::status::Refused;
use crate::usage::estimate;
use crate::usage::record::{Draft, Endpoint, Record, Usage, UsageSource};
use std::sync::Arc;

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

impl Proxy {
    /// What a request may take, where its user is limited in that; else nothing.
    pub(super) fn estimate(&self, draft: &Draft, deployed: bool, size: Size) -> ReservationRequest {
        let endpoint = draft.endpoint;
        let nothing = ReservationRequest::default();
        if endpoint == Endpoint::Other || endpoint.is_retrieval() {
            return nothing;
        }
        let measures = self.limiter.measures(&draft.user);
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
            _ => self.limiter.average_output(&draft.user).unwrap_or(OUTPUT_TOKENS_GUESSED),
        };
        let usage = Usage {
            input_tokens: size.input.unwrap_or(INPUT_TOKENS_GUESSED),
            output_tokens: if has_output { size.output_max.unwrap_or_else(expected) } else { 0 },
            ..Usage::default()
        };
        let tokens = usage.input_tokens.saturating_add(usage.output_tokens);
        let model = draft.model_requested.as_deref().filter(|_| !deployed).unwrap_or_default();
        let cost = || self.prices.cost_nano_usd(model, &Usage { total_tokens: tokens, ..usage }, None);
        let nano_usd = measures.cost.then(cost).flatten();
        let guessed = size.input.is_none() || has_output && size.output_max.is_none();
        ReservationRequest { tokens, nano_usd: Some(nano_usd.unwrap_or(0)), guessed }
    }

    /// A request's head has come. One that streams through takes what it may need; one that is held does so when it is
    /// whole, and is refused here only where it would be anyway.
    pub(super) fn take_of_limits(&mut self, now: Now, exchange: &mut Exchange, hold: bool) -> Result<(), Refused> {
        if hold {
            return self.limiter.check(&exchange.draft.user, now);
        }
        let request = self.estimate(&exchange.draft, exchange.request.deployed, Size::default());
        (exchange.reservation, exchange.limit_status) = self.limiter.admit(&exchange.draft.user, request, now)?;
        Ok(())
    }

    /// A held request is whole: takes what it may need.
    pub(super) fn take_when_whole(
        &mut self,
        now: Now,
        key: ExchangeKey,
        output_max: Option<u64>,
    ) -> Result<(), Refused> {
        let Some(exchange) = self.exchanges.get(key) else { return Ok(()) };
        let size = Size { input: Some(estimate::input_tokens(exchange.request.text_bytes)), output_max };
        let request = self.estimate(&exchange.draft, exchange.request.deployed, size);
        let (reservation, limit_status) = self.limiter.admit(&exchange.draft.user, request, now)?;
        let Some(exchange) = self.exchanges.get_mut(key) else { return Ok(()) };
        (exchange.reservation, exchange.limit_status) = (reservation, limit_status);
        Ok(())
    }

    /// Charges the user with what a record says was used.
    pub(super) fn charge(&mut self, now: Now, record: &Record) {
        let usage = &record.usage;
        // A retrieval's tokens were the creation's, or a batch's, which has no part in a minute.
        let tokens = if record.is_retrieval { 0 } else { tokens(usage) };
        let is_text = record.usage_source == UsageSource::Reported && record.endpoint.is_metered() && usage.images == 0;
        let used = Used {
            tokens,
            output_tokens: is_text.then_some(usage.output_tokens),
            cost: Cost { seq: record.seq, started_at: record.started_at, nano_usd: record.cost_nano_usd.unwrap_or(0) },
        };
        self.limiter.charge(&record.user, used, now);
    }

    /// Refuses a request whose head has come.
    pub(super) fn refuse_limited(
        &mut self,
        now: Now,
        key: DownKey,
        head: &RequestHead<'_, '_>,
        user: &str,
        refused: &Refused,
    ) {
        let (fault, extra) = self.told(user, refused);
        self.refuse(now, key, head, fault, &refused.message(), &extra);
    }

    /// Refuses a request that is here as a whole; the connection may carry another.
    pub(super) fn refuse_held(&mut self, now: Now, key: ExchangeKey, refused: &Refused) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        let (down, to_head, user) = (exchange.down, exchange.request.to_head, Arc::clone(&exchange.draft.user));
        let (fault, extra) = self.told(&user, refused);
        self.metrics.refused(fault.code());
        self.note_refusal(fault);
        self.withdraw(now, key);
        let message = refused.message();
        self.write_error(now, down, &Refusal { fault, message: &message, extra: &extra, to_head, close: false });
        self.next_request(now, down);
        self.retime_down(now, down, false);
    }

    fn told(&mut self, user: &str, refused: &Refused) -> (Fault, Vec<u8>) {
        self.metrics.rate_limited(user, refused.limit.label());
        let mut extra = Vec::new();
        refused.write(&mut extra);
        // Where in-flight requests hold the rest of a budget, waiting helps; where it is spent, it does not.
        let is_spent = refused.limit.is_budget() && refused.retry_after.is_none();
        (if is_spent { Fault::QuotaSpent } else { Fault::RateLimited }, extra)
    }
}

/// What an answer counts for in a limit of tokens.
fn tokens(usage: &Usage) -> u64 {
    usage.total_tokens.max(usage.input_tokens.saturating_add(usage.output_tokens))
}

#[cfg(test)]
mod tests;
