//! What a request may take of its user's limits, and what it counts for when it is over. Functions of the
//! exchange and the limiter.
//!
//! A request whose body is held is looked at twice: by its head, so that who would be refused anyway need not send a
//! body, and nobody sends more bodies at once than they may have requests in flight; and when it is whole, which is
//! when its tokens and money are reserved. One that streams through does both with its head.
//!
//! | | takes of the tokens of a minute | takes of a budget |
//! |---|---|---|
//! | input | its text, four bytes a token | its body, a byte a token; the model's largest where it refers to more |
//! | output of each answer | the client's maximum, else the user's average | the same, else the model's largest |
//! | price | | the dearest that the model has for that, in the tier asked for |
//!
//! A debt of tokens is repaid by waiting; money that is spent is gone. So of a budget the worst is taken, unless the
//! operator prefers the average (`BUDGET_RESERVE`). What cannot be priced is refused (`UNMETERED`), or takes all that
//! is left, alone.

use super::Settings;
use super::api_paths::Cost as PathCost;
use super::exchange::{Exchange, ModelName};
use super::identity::ANONYMOUS;
use super::refusal::Refusal;
use crate::base::clock::Now;
use crate::http::reply::Fault;
use crate::limit::budget::{Cost, Period};
use crate::limit::holdings::NoRoom;
use crate::limit::levels::Payer;
use crate::limit::limiter::{Limiter, Used};
use crate::limit::reservation::{Money, ReservationRequest};
use crate::limit::status::Refused;
use crate::price::PriceTable;
use crate::usage::inspect::HostedTools;
use crate::usage::record::{Endpoint, Record, Usage, UsageSource};
use crate::usage::tool_calls::searches_by_itself;

/// Output tokens that are expected of a user's first request which sets no maximum.
const OUTPUT_TOKENS_GUESSED: u64 = 256;
/// Input tokens that are expected where the body is not read.
const INPUT_TOKENS_GUESSED: u64 = 256;
/// Output tokens of an image in high quality: what gpt-image-1 reports of a square one.
const IMAGE_TOKENS_GUESSED: u64 = 4160;
/// The most that an image has: four times that, as newer models make larger ones.
const IMAGE_TOKENS_MAX: u64 = 4 * IMAGE_TOKENS_GUESSED;
/// The most that speech has: some twenty minutes.
const SPEECH_TOKENS_MAX: u64 = 32_000;
/// How often a request that does not say so is taken to have the target search at most.
const TOOL_CALLS_MAX: u64 = 32;
/// Which model a response's tool makes images by where the request names none: the dearest is taken for it.
const IMAGE_TOOL_MODEL: &str = "gpt-image-1";

/// What is known of a request's size.
#[derive(Clone, Debug, Default)]
pub struct Size {
    /// Tokens, from the body's text; `None` where that is not read.
    pub input: Option<u64>,
    /// The most tokens that the input can have; `None` where it refers to more than it shows.
    pub input_max: Option<u64>,
    /// The most that the client lets the target put out in one answer.
    pub output_max: Option<u64>,
    /// How many answers it wants beyond the first.
    pub more_answers: u64,
    /// The tier that it asks for.
    pub service_tier: Option<Box<str>>,
    /// What the target may run for it.
    pub tools: HostedTools,
    /// Why its answer will not say what it took.
    pub unreported: Option<&'static str>,
}

/// Why a request gets nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Denied {
    /// A limit is reached.
    Limit(Refused),
    /// Its user has a budget, and nobody would know what it costs: why.
    Unmetered(String),
    /// The fleet is asked: worth another try when it has answered.
    Asked,
    /// The fleet is out of reach, and nothing is let through without it.
    OutOfReach,
}

impl From<NoRoom> for Denied {
    fn from(why: NoRoom) -> Self {
        match why {
            NoRoom::Refused(refused) => Self::Limit(refused),
            NoRoom::Asked => Self::Asked,
            NoRoom::OutOfReach => Self::OutOfReach,
        }
    }
}

/// Has an exchange take what it may need of its user's limits, all or nothing. `has_waited` is true for one that has
/// waited for the fleet as long as it may.
///
/// # Errors
/// The limit that refuses it, or why it cannot be metered.
pub fn reserve(
    limiter: &mut Limiter,
    prices: &PriceTable,
    settings: &Settings,
    exchange: &mut Exchange,
    size: &Size,
    has_waited: bool,
    now: Now,
) -> Result<(), Denied> {
    let (request, output_tokens) = reservation_request(limiter, prices, settings, exchange, size)?;
    exchange.request.spares_budget = request.nano_usd() == u64::MAX && settings.allows_unmetered;
    (exchange.reservation, exchange.limit_status) = limiter.take(exchange.draft.payer(), request, has_waited, now)?;
    exchange.request.output_reserved = output_tokens;
    if exchange.reservation.nano_usd() > 0 && !is_same_day(exchange.draft.started_at, now.unix) {
        // Its body came on another day than its head: it is spent on the day whose budget has let it through.
        exchange.draft.started_at = now.unix;
    }
    Ok(())
}

/// Has an exchange whose body is still to come take one of its user's requests, and a place among those in flight: all
/// that does not depend on the body. In a fleet it takes nothing yet: what this node holds may be asked for meanwhile.
///
/// # Errors
/// The limit that refuses it.
pub fn reserve_place(limiter: &mut Limiter, exchange: &mut Exchange, now: Now) -> Result<(), Denied> {
    if limiter.is_in_fleet() {
        return Ok(());
    }
    let taken = limiter.admit(exchange.draft.payer(), ReservationRequest::default(), now).map_err(Denied::Limit)?;
    (exchange.reservation, exchange.limit_status) = taken;
    Ok(())
}

fn is_same_day(one: u64, other: u64) -> bool {
    Period::of(one).day == Period::of(other).day
}

/// What a request may take, where its user is limited in that, else nothing; and the output tokens by which that is
/// reckoned.
fn reservation_request(
    limiter: &Limiter,
    prices: &PriceTable,
    settings: &Settings,
    exchange: &Exchange,
    size: &Size,
) -> Result<(ReservationRequest, u64), Denied> {
    let (draft, cost) = (&exchange.draft, exchange.request.cost);
    let measures = limiter.measures(draft.payer());
    if !measures.tokens || matches!(cost, PathCost::Free) {
        return Ok(Default::default());
    }
    if measures.cost && !settings.allows_unmetered {
        unmetered(prices, exchange, size).map_or(Ok(()), |why| Err(Denied::Unmetered(why)))?;
    }
    let endpoint = draft.endpoint;
    if endpoint.is_retrieval() {
        return Ok(Default::default()); // allowed, or of a user who has no budget
    }
    if endpoint.is_session() {
        // Its tokens are charged as it goes: refused only where nothing is left at all.
        let money = session_money(prices, settings, exchange);
        let request = ReservationRequest { tokens: 1, guessed: true, money: measures.cost.then_some(money) };
        return Ok((request, 0));
    }
    let has_output = !matches!(endpoint, Endpoint::Embeddings);
    let answers = size.more_answers.saturating_add(1);
    let expected = || match endpoint {
        Endpoint::ImagesGenerations | Endpoint::ImagesEdits | Endpoint::ImagesVariations => IMAGE_TOKENS_GUESSED,
        _ => limiter.average_output(&draft.user).unwrap_or(OUTPUT_TOKENS_GUESSED),
    };
    let usage = Usage {
        input_tokens: size.input.unwrap_or(INPUT_TOKENS_GUESSED),
        output_tokens: match size.output_max {
            Some(max) => max.saturating_mul(answers),
            None if has_output => expected(),
            None => 0,
        },
        ..Usage::default()
    };
    let tokens = usage.input_tokens.saturating_add(usage.output_tokens);
    let guessed = size.input.is_none() || has_output && size.output_max.is_none();
    let request = ReservationRequest { tokens, guessed, money: None };
    if !measures.cost {
        return Ok((request, usage.output_tokens));
    }
    let usage = Usage { total_tokens: tokens, ..usage };
    let (money, output_tokens) = money(prices, settings, exchange, size, &usage);
    Ok((ReservationRequest { money, ..request }, output_tokens))
}

/// What a request may take of a budget, and the output tokens that it is reckoned with. `expected` is what it will
/// probably use.
fn money(
    prices: &PriceTable,
    settings: &Settings,
    exchange: &Exchange,
    size: &Size,
    expected: &Usage,
) -> (Option<Money>, u64) {
    let model = model(exchange);
    if prices.is_free(model) {
        return (None, expected.output_tokens);
    }
    let tier = size.service_tier.as_deref();
    let probable = prices.cost_nano_usd(model, expected, tier);
    let least_nano_usd = size.output_max.and(probable).unwrap_or(0);
    if settings.reserves_average {
        let money =
            Money { nano_usd: probable.unwrap_or(0).max(1), least_nano_usd, may_share: size.output_max.is_none() };
        return (Some(money), expected.output_tokens);
    }
    let answers = size.more_answers.saturating_add(1);
    let output_max = size.output_max.or(match exchange.draft.endpoint {
        Endpoint::ImagesGenerations | Endpoint::ImagesEdits | Endpoint::ImagesVariations => Some(IMAGE_TOKENS_MAX),
        Endpoint::AudioSpeech => Some(SPEECH_TOKENS_MAX),
        _ => None,
    });
    let input_max = size.input_max.or(prices.largest_input(model)).unwrap_or(expected.input_tokens);
    let worst = prices.worst_case(model, input_max, output_max, tier).and_then(|one| {
        let all = one.output_tokens.saturating_mul(answers);
        prices.worst_case(model, input_max, Some(all), tier)
    });
    let fees = tool_fees(prices, exchange, &size.tools);
    // What has no price takes all that is left.
    let nano_usd = worst.as_ref().map_or(u64::MAX, |worst| worst.nano_usd.saturating_add(fees).max(1));
    let output_tokens = worst.map_or(expected.output_tokens, |worst| worst.output_tokens);
    (Some(Money { nano_usd, least_nano_usd, may_share: false }), output_tokens)
}

/// The most that the tools cost which the target may run for a request, beside its tokens.
fn tool_fees(prices: &PriceTable, exchange: &Exchange, tools: &HostedTools) -> u64 {
    let model = model(exchange);
    let calls = tools.calls_max.unwrap_or(TOOL_CALLS_MAX);
    let fee = |usage: Usage| prices.at_most_nano_usd(model, &usage, None).unwrap_or(0);
    let web = |calls| fee(Usage { tool_calls: calls, web_searches: [0, 0, calls], ..Usage::NOTHING });
    let files = |calls| fee(Usage { tool_calls: calls, file_searches: calls, ..Usage::NOTHING });
    let images = || prices.worst_case(IMAGE_TOOL_MODEL, 0, Some(IMAGE_TOKENS_MAX), None);
    let searched = [tools.web_search.then(|| web(calls)), tools.file_search.then(|| files(calls))];
    let others = [
        searches_by_itself(exchange.draft.endpoint, model).then(|| web(1)),
        tools.code_interpreter.then(|| fee(Usage { tool_calls: 1, ..Usage::NOTHING })),
        tools.images.then(|| images().map_or(0, |images| images.nano_usd)),
    ];
    let dearest = searched.into_iter().flatten().max().unwrap_or(0);
    others.into_iter().flatten().fold(dearest, u64::saturating_add)
}

/// A session's money: the most that one response costs; all that is left where its model is named by its messages only.
/// Where the average is enough, it is charged as it goes.
fn session_money(prices: &PriceTable, settings: &Settings, exchange: &Exchange) -> Money {
    let model = model(exchange);
    if settings.reserves_average {
        return Money { nano_usd: 1, least_nano_usd: 0, may_share: true };
    }
    let worst = prices.worst_case(model, prices.largest_input(model).unwrap_or(0), None, None);
    Money { nano_usd: worst.map_or(u64::MAX, |worst| worst.nano_usd.max(1)), least_nano_usd: 0, may_share: false }
}

/// Why nobody would know what a request costs.
fn unmetered(prices: &PriceTable, exchange: &Exchange, size: &Size) -> Option<String> {
    let endpoint = exchange.draft.endpoint;
    let why = match exchange.request.cost {
        PathCost::Unmetered(why) => Some(why),
        PathCost::Unknown if exchange.request.has_body || exchange.request.websocket => {
            Some("its path is not one that is known here")
        }
        _ => size.unreported,
    };
    if let Some(why) = why {
        return Some(why.to_owned());
    }
    // A deployment's model is known by its answers; those of the other two by their messages.
    let is_named_later = exchange.request.model_name != ModelName::Model
        || matches!(endpoint, Endpoint::Other | Endpoint::ResponsesSession | Endpoint::LiveSession);
    let model = model(exchange);
    let is_priced =
        || prices.is_free(model) || prices.worst_case(model, 1, None, size.service_tier.as_deref()).is_some();
    if is_named_later || is_priced() {
        return None;
    }
    let tier = size.service_tier.as_deref().map(|tier| format!(" in the service tier {tier:?}")).unwrap_or_default();
    Some(format!("the model {model:?} has no price here{tier}"))
}

/// The model that a price is looked up for; none for a deployment, which is called what its owner likes.
fn model(exchange: &Exchange) -> &str {
    let named = exchange.draft.model_requested.as_deref();
    named.filter(|_| exchange.request.model_name == ModelName::Model).unwrap_or_default()
}

/// What a record counts for in its user's limits.
pub fn used(record: &Record) -> Used {
    let usage = &record.usage;
    let is_text = record.usage_source == UsageSource::Reported && record.endpoint.is_metered() && usage.images == 0;
    Used {
        // A retrieval's tokens were the creation's, or a batch's, which has no part in a minute.
        tokens: if record.is_retrieval { 0 } else { tokens(usage) },
        output_tokens: is_text.then_some(usage.output_tokens),
        cost: cost(record),
    }
}

/// What a record cost at most, where no more is known.
pub fn cost_at_most(record: &Record) -> Option<Cost> {
    let nano_usd = record.at_most_nano_usd.filter(|_| record.cost_nano_usd.is_none())?;
    Some(Cost { nano_usd: i64::try_from(nano_usd).unwrap_or(i64::MAX), ..cost(record) })
}

/// What a record cost, where that is known.
pub fn cost(record: &Record) -> Cost {
    let nano_usd = record.counted_nano_usd().unwrap_or(0).clamp(i64::MIN.into(), i64::MAX.into()) as i64;
    Cost { seq: record.seq, started_at: record.started_at, nano_usd }
}

/// How a request is refused that cannot be metered.
pub fn unmetered_refusal(why: &str) -> Refusal {
    let message = format!(
        "This user has a budget, and nobody would know what this request costs: {why}. The operator can set its price \
         (PRICES_FILE), or let such requests through (UNMETERED=allow)."
    );
    Refusal::new(Fault::Unmetered, message)
}

/// How a request is refused while the fleet is out of reach.
pub fn out_of_reach_refusal() -> Refusal {
    let message = "the database that keeps the fleet's limits is out of reach (FLEET_ON_OUTAGE); try again in a moment";
    Refusal::new(Fault::LimitsUnavailable, message).with(b"retry-after: 1\r\n")
}

/// How a request is refused that gets nothing.
pub fn refusal(refused: &Refused, payer: Payer<'_>, now: Now) -> Refusal {
    let mut extra = Vec::new();
    refused.write(&mut extra);
    // Where in-flight requests hold the rest of a budget, waiting helps; where it is spent, it does not.
    let is_spent = refused.limit.is_budget() && refused.retry_after.is_none();
    let fault = if is_spent { Fault::QuotaSpent } else { Fault::RateLimited };
    let message = refused.message(payer, payer.user == ANONYMOUS, now.unix);
    Refusal::new(fault, message).with(extra).about(refused.level.label())
}

/// What an answer counts for in a limit of tokens.
fn tokens(usage: &Usage) -> u64 {
    usage.total_tokens.max(usage.input_tokens.saturating_add(usage.output_tokens))
}

#[cfg(test)]
mod tests;
