//! What the end of an exchange means: the record, and what its user's limits are told. A pure function of the exchange,
//! of what was reported, and of how it ended.
//!
//! | the target reported | what is known | numbers | `usage_source` | the reservation |
//! |---|---|---|---|---|
//! | usage | | as reported | `reported`, or `drained` without a client | released |
//! | nothing | a limited user left, and the rest was never seen | the reservation's | `estimated` | released |
//! | nothing | a stream with text, cut or whole | what went by | `estimated` | released |
//! | nothing | a background response was begun | the request's text, and the output reserved | `estimated` | released |
//! | nothing | cut before an answer, the client's doing | the request's text | `estimated` | released |
//! | nothing | complete, and the path is known to be free, or an error | none | `none` | released |
//! | nothing | the target never got it; a retrieval; a session | none | `none` | released |
//! | nothing | anything else | none | `unknown`, cost null | is spent |
//!
//! A tunnel's record is the session's own; its parts have theirs already. A gzip stream that compresses and cannot be
//! edited is still counted; what cannot be read is marked `unknown`, never guessed.

use super::api_paths::Cost;
use super::exchange::{Exchange, ModelName, Progress};
use crate::price::PriceTable;
use crate::usage::capture::Reported;
use crate::usage::estimate;
use crate::usage::record::{Endpoint, Journal, Outcome, Record, Usage, UsageSource};
use crate::usage::tool_calls::searches_by_itself;

/// How an exchange ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    pub outcome: Outcome,
    /// Since its head was complete, microseconds.
    pub duration_us: u64,
    /// Bytes of the request were taken by the connection that it had last.
    pub written: bool,
    /// Bytes of the target had to wait and will not be read any more.
    pub unread: bool,
}

/// What becomes of an exchange that has ended.
pub struct Settlement {
    /// Its record, priced, and the one of images made in its course.
    pub records: (Record, Option<Box<Record>>),
    /// Nobody knows what it used: its estimate of tokens stands, where the reservation would be released.
    pub forfeits: bool,
}

/// Settles an exchange: takes its draft, and what reads its response along.
pub fn settle(exchange: &mut Exchange, end: End, prices: &PriceTable) -> Settlement {
    let answered = exchange.response.progress != Progress::Awaited;
    let reached = answered || end.written || exchange.request.reached;
    let is_stream = exchange.response.usage_reader.is_stream();
    let estimate = if reached { estimate(exchange, end.outcome) } else { None };
    let mut reported = std::mem::take(&mut exchange.response.usage_reader).finish();
    let mut record = Record::from(std::mem::take(&mut exchange.draft));
    record.outcome = end.outcome;
    record.duration_us = end.duration_us;
    record.stream |= is_stream;
    record.usage_source = source(&record, &reported, exchange, reached, estimate.is_some());
    if reported.failed && has_failed(&record, exchange) {
        record.outcome = Outcome::UpstreamError;
    }
    record.usage = reported.usage.or(estimate).unwrap_or_default();
    if exchange.request.caches_long && record.usage.cache_write_12h_tokens == 0 {
        record.usage.cache_write_12h_tokens = record.usage.cache_write_tokens;
    }
    record.model = reported.model.clone().or(record.model);
    count_search(&mut record);
    record.response_id = exchange.request.retrieved_id.take().or(reported.id.take());
    if let Some(tunnel) = exchange.tunnel.take() {
        reported = tunnel.conclude(&mut record, end.unread);
    }
    let mut records = priced(record, &reported, exchange.request.model_name, prices);
    let (record, worst) = (&mut records.0, exchange.reservation.worst_nano_usd());
    let charges = !exchange.request.spares_budget;
    if record.usage_source == UsageSource::Estimated && worst > 0 && charges {
        // All of it, also where less was left and held: else what is given back would let one after another begin.
        record.cost_nano_usd.get_or_insert(worst);
    }
    if record.cost_nano_usd.is_none() && record.usage_source.is_report() && worst > 0 {
        record.at_most_nano_usd.get_or_insert(worst);
    }
    let forfeits = record.usage_source == UsageSource::Unknown && charges;
    if !charges {
        record.at_most_nano_usd = None;
        records.1.iter_mut().for_each(|images| images.at_most_nano_usd = None);
    }
    Settlement { records, forfeits }
}

/// Counts the search of a model that does not report it.
fn count_search(record: &mut Record) {
    let searches = record.model.as_deref().is_some_and(|model| searches_by_itself(record.endpoint, model));
    if searches && record.usage_source.is_report() {
        (record.usage.tool_calls, record.usage.web_searches) = (1, [0, 1, 0]);
    }
}

/// True for a stream that came to its end with an error of the target's, or without any event where there should be an
/// answer.
fn has_failed(record: &Record, of: &Exchange) -> bool {
    let is_answer = record.stream && record.status < 300 && !of.request.to_head;
    is_answer && record.outcome == Outcome::Completed
}

/// What a look at something counted before adds to it can cost at most, where its cost is not certain: the numbers are
/// no longer those that it was priced by.
pub fn at_most_again(record: &Record, prices: &PriceTable) -> Option<u64> {
    record.at_most_nano_usd.filter(|_| record.cost_nano_usd.is_none())?;
    at_most(prices, record, &Reported::default(), ModelName::Deployment)
}

/// A record with its price, and the one of images made in its course. `name` says what the request calls the model.
pub fn priced(
    mut record: Record,
    reported: &Reported,
    name: ModelName,
    prices: &PriceTable,
) -> (Record, Option<Box<Record>>) {
    let mut images = images_record(&record, reported);
    price(&mut record, reported, name, prices);
    if let Some(images) = &mut images {
        price(images, &Reported::default(), name, prices);
    }
    (record, images)
}

/// What an exchange that the target got, and did not report, probably consumed; `None` where nothing can be said.
fn estimate(exchange: &Exchange, outcome: Outcome) -> Option<Usage> {
    let (request, response) = (&exchange.request, &exchange.response);
    if exchange.draft.status >= 400 || exchange.draft.endpoint.is_retrieval() {
        return None;
    }
    let input_tokens = estimate::input_tokens(request.text_bytes);
    let of = |output_tokens: u64| Usage {
        input_tokens,
        output_tokens,
        total_tokens: input_tokens + output_tokens,
        ..Usage::default()
    };
    let seen = response.usage_reader.estimate(input_tokens);
    let seen_tokens = seen.as_ref().map_or(0, |usage| usage.output_tokens);
    if is_unseen(exchange, outcome) {
        return Some(of(seen_tokens.max(request.output_reserved)));
    }
    match outcome {
        Outcome::Completed if seen_tokens > 0 => seen,
        Outcome::Completed if request.background && request.output_reserved > 0 => Some(of(request.output_reserved)),
        Outcome::Completed => None,
        _ if input_tokens == 0 => None,
        _ if seen.is_some() => seen,
        // A target that failed before it answered has most likely not charged for it; one whose client left has.
        Outcome::UpstreamError => None,
        _ if response.progress == Progress::Awaited => Some(of(0)),
        // An answer of another form, or in a coding that was not read.
        _ => None,
    }
}

/// True for what somebody left whose use is limited, before its end was seen: more may have been thought, or made, than
/// went by.
fn is_unseen(exchange: &Exchange, outcome: Outcome) -> bool {
    let was_left = matches!(outcome, Outcome::ClientAborted | Outcome::Interrupted);
    was_left && exchange.request.output_reserved > 0 && exchange.reservation.is_tracked() && exchange.tunnel.is_none()
}

/// The record of images that a tool made in the course of a response: another model's work, at another price.
fn images_record(response: &Record, reported: &Reported) -> Option<Box<Record>> {
    let images = reported.images.as_ref()?;
    Some(Box::new(Record {
        endpoint: Endpoint::ResponsesImages,
        model_requested: None,
        model: images.model.clone(),
        usage: images.usage,
        request_bytes: 0,
        response_bytes: 0,
        journal: Journal::Off, // the entry is the response's to close
        ..response.clone()
    }))
}

/// Sets what a record cost, or at most.
fn price(record: &mut Record, reported: &Reported, name: ModelName, prices: &PriceTable) {
    record.cost_nano_usd = cost(prices, record, reported, name);
    let is_uncertain = record.cost_nano_usd.is_none() && record.usage_source.is_report();
    record.at_most_nano_usd = if is_uncertain { at_most(prices, record, reported, name) } else { None };
}

/// The price of what was consumed; `None` where it is not certain.
fn cost(prices: &PriceTable, record: &Record, reported: &Reported, name: ModelName) -> Option<u64> {
    match record.usage_source {
        UsageSource::None => return Some(0), // nothing was consumed, whatever the model's price
        UsageSource::Unknown => return None,
        UsageSource::Reported | UsageSource::Drained | UsageSource::Estimated | UsageSource::Correction => {}
    }
    let (model, usage) = (model(record, name), &record.usage);
    if is_by_image(usage) {
        let quality = reported.quality.as_deref().unwrap_or_default();
        return prices.images_cost_nano_usd(model, usage, quality, reported.size.as_deref().unwrap_or_default());
    }
    prices.cost_nano_usd(model, usage, tier(record, reported))
}

/// What it can cost at most; `None` where the model has no price at all.
fn at_most(prices: &PriceTable, record: &Record, reported: &Reported, name: ModelName) -> Option<u64> {
    let (model, usage) = (model(record, name), &record.usage);
    if is_by_image(usage) {
        return prices.images_at_most_nano_usd(model, usage);
    }
    prices.at_most_nano_usd(model, usage, tier(record, reported))
}

fn is_by_image(usage: &Usage) -> bool {
    usage.images > 0 && usage.total_tokens == 0
}

/// The model that a record is priced by. A deployment's name tells nothing of the model that ran.
fn model(record: &Record, name: ModelName) -> &str {
    match name {
        ModelName::Model => record.model_name(),
        ModelName::Deployment | ModelName::DeploymentInPath => record.model.as_deref().unwrap_or_default(),
    }
}

/// The tier that a record is priced in. A batch's own is what it was asked for, each of its requests may say another;
/// decisions have prices of their own, where they do not say that they were made in another tier.
fn tier<'a>(record: &Record, reported: &'a Reported) -> Option<&'a str> {
    match (record.endpoint, reported.service_tier.as_deref()) {
        (Endpoint::Batches, _) => Some("batch"),
        (Endpoint::Decisions, None | Some("default" | "auto")) => Some("decisions"),
        (_, reported) => reported,
    }
}

/// How far the numbers can be trusted. `reached` says that the target may have acted on the request.
fn source(record: &Record, reported: &Reported, of: &Exchange, reached: bool, estimated: bool) -> UsageSource {
    // A run that goes on costs, though its answer is read as a retrieval.
    let is_known = record.is_retrieval && of.request.cost != Cost::Metered || record.endpoint.is_session();
    let is_free = of.request.cost == Cost::Free || is_known;
    match record.outcome {
        _ if reported.usage.is_some() && of.abandoned => UsageSource::Drained,
        _ if reported.usage.is_some() => UsageSource::Reported,
        _ if estimated => UsageSource::Estimated,
        Outcome::Completed if record.status >= 400 => UsageSource::None,
        _ if !reached || is_free => UsageSource::None,
        _ => UsageSource::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Now;
    use crate::limit::limiter::Limiter;
    use crate::limit::overrides::Limits;
    use crate::limit::reservation::{Money, ReservationRequest};
    use crate::proxy::fixture;
    use crate::usage::reader::{Coding, Form, UsageReader};
    use std::sync::Arc;

    const END: End = End { outcome: Outcome::Completed, duration_us: 7, written: true, unread: false };

    /// An exchange whose request has 40 bytes of text.
    fn exchange(endpoint: Endpoint) -> Exchange {
        let mut exchange = fixture::exchange(endpoint);
        exchange.draft.status = 200;
        exchange.request.text_bytes = 40;
        exchange
    }

    /// The response has begun, and this has come of its body, a stream where it looks like one.
    fn answered(endpoint: Endpoint, body: &str) -> Exchange {
        let mut exchange = exchange(endpoint);
        let form = if body.starts_with("data:") { Form::Events } else { Form::Json };
        exchange.response.usage_reader = UsageReader::new(endpoint, form, Coding::Identity, false);
        exchange.response.usage_reader.feed(body.as_bytes(), &mut Vec::new()).unwrap();
        exchange.response.progress = Progress::Body;
        exchange
    }

    /// Each row of the table at the top.
    #[test]
    fn what_each_end_means() {
        const CHAT: Endpoint = Endpoint::ChatCompletions;
        const USAGE: &str = r#"{"model":"gpt-4o","usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}"#;
        const TEXT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"four words of text\"}}]}\n\n";
        let error = |status| {
            let mut exchange = answered(CHAT, "{}");
            exchange.draft.status = status;
            exchange
        };
        let on_path = |endpoint, cost, status| {
            let mut exchange = answered(endpoint, "{}");
            exchange.request.cost = cost;
            exchange.draft.status = status;
            exchange
        };
        let (other, silent) = (Endpoint::Other, Cost::Unmetered("a video"));
        let abandoned = || Exchange { abandoned: true, ..answered(CHAT, USAGE) };
        let limited = |mut exchange: Exchange| {
            let limits = Limits { concurrent: Some(1), ..Limits::default() };
            let user = exchange.draft.user.clone();
            (exchange.reservation, _) = Limiter::new(limits, Limits::default())
                .admit(&user, ReservationRequest::default(), Now::default())
                .unwrap();
            exchange.request.output_reserved = 100;
            exchange
        };
        let background = || {
            let mut exchange = limited(answered(Endpoint::Responses, r#"{"status":"queued","usage":null}"#));
            exchange.request.background = true;
            exchange
        };
        let (aborted, broken) = (Outcome::ClientAborted, Outcome::UpstreamError);
        let unsent = End { outcome: broken, written: false, ..END };
        let because = |outcome| End { outcome, ..END };
        for (what, mut exchange, end, source, total, forfeits) in [
            ("reported", answered(CHAT, USAGE), END, UsageSource::Reported, 8, false),
            ("reported, and then broken", answered(CHAT, USAGE), because(broken), UsageSource::Reported, 8, false),
            ("read on without a client", abandoned(), because(aborted), UsageSource::Drained, 8, false),
            ("a stream that was cut", answered(CHAT, TEXT), because(broken), UsageSource::Estimated, 15, false),
            ("left before an answer", exchange(CHAT), because(aborted), UsageSource::Estimated, 10, false),
            ("failed before an answer", exchange(CHAT), because(broken), UsageSource::Unknown, 0, true),
            ("never sent", exchange(CHAT), unsent, UsageSource::None, 0, false),
            ("an error", error(400), END, UsageSource::None, 0, false),
            ("complete, unreported", error(200), END, UsageSource::Unknown, 0, true),
            ("a whole stream, unreported", answered(CHAT, TEXT), END, UsageSource::Estimated, 15, false),
            (
                "left by a limited user",
                limited(answered(CHAT, TEXT)),
                because(aborted),
                UsageSource::Estimated,
                110,
                false,
            ),
            (
                "the same before an answer",
                limited(exchange(CHAT)),
                because(aborted),
                UsageSource::Estimated,
                110,
                false,
            ),
            ("the same in JSON", limited(answered(CHAT, "{")), because(aborted), UsageSource::Estimated, 110, false),
            ("cut by the target", limited(answered(CHAT, TEXT)), because(broken), UsageSource::Estimated, 15, false),
            ("begun in the background", background(), END, UsageSource::Estimated, 110, false),
            ("a cut JSON answer", answered(CHAT, "{"), because(broken), UsageSource::Unknown, 0, true),
            ("a free path", on_path(other, Cost::Free, 200), END, UsageSource::None, 0, false),
            ("an unknown path", on_path(other, Cost::Unknown, 200), END, UsageSource::Unknown, 0, true),
            ("a path that never reports", on_path(other, silent, 200), END, UsageSource::Unknown, 0, true),
            ("an error of it", on_path(other, silent, 402), END, UsageSource::None, 0, false),
            ("a moderation", on_path(Endpoint::Moderations, Cost::Free, 200), END, UsageSource::None, 0, false),
            ("a batch to come", on_path(Endpoint::Batches, silent, 200), END, UsageSource::None, 0, false),
            (
                "a run that goes on",
                on_path(Endpoint::ThreadsRunsRetrieve, Cost::Metered, 200),
                END,
                UsageSource::Unknown,
                0,
                true,
            ),
            (
                "a retrieval",
                on_path(Endpoint::ResponsesRetrieve, Cost::Free, 200),
                because(broken),
                UsageSource::None,
                0,
                false,
            ),
        ] {
            let settlement = settle(&mut exchange, end, &PriceTable::built_in());
            let record = &settlement.records.0;
            let found = (record.usage_source, record.usage.total_tokens, settlement.forfeits);
            assert_eq!(found, (source, total, forfeits), "{what}");
            assert_eq!((record.outcome, record.duration_us), (end.outcome, 7), "{what}");
            let cost = match source {
                UsageSource::None => Some(0),
                UsageSource::Unknown => None,
                _ if record.model.is_some() => Some(5 * 2_500 + 3 * 10_000),
                _ => None,
            };
            assert_eq!(record.cost_nano_usd, cost, "{what}");
        }
    }

    /// What the budget is charged of a report whose cost is not certain.
    #[test]
    fn a_cost_that_is_not_certain_is_charged_at_most() {
        const CACHED: &str = r#"{"model":"o3-pro","usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6,
            "prompt_tokens_details":{"cached_tokens":4}}}"#;
        const NAMELESS: &str = r#"{"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}"#;
        let at_most = |body, worst: u64, spares: bool| {
            let mut exchange = answered(Endpoint::ChatCompletions, body);
            let limits = Limits { day_nano_usd: Some(1 << 40), ..Limits::default() };
            let money = (worst > 0).then_some(Money { nano_usd: worst, least_nano_usd: 0, may_share: false });
            let user = exchange.draft.user.clone();
            let request = ReservationRequest { money, ..ReservationRequest::default() };
            let mut limiter = Limiter::new(limits, Limits::default());
            let period = crate::limit::budget::Period::of(0);
            limiter.load(crate::limit::budget::SpendSums { period, ..Default::default() }, Now::default());
            (exchange.reservation, _) = limiter.admit(&user, request, Now::default()).unwrap();
            exchange.request.spares_budget = spares;
            let record = settle(&mut exchange, END, &PriceTable::built_in()).records.0;
            assert_eq!(record.cost_nano_usd, None);
            record.at_most_nano_usd
        };
        // o3-pro: 20 in, 80 out, and none for what is cached.
        assert_eq!(at_most(CACHED, 0, false), Some(5 * 20_000 + 80_000));
        assert_eq!(at_most(CACHED, 7, false), Some(5 * 20_000 + 80_000));
        assert_eq!(at_most(NAMELESS, 7, false), Some(7), "as reserved");
        assert_eq!((at_most(NAMELESS, 0, false), at_most(CACHED, 7, true)), (None, None));
    }

    #[test]
    fn what_a_cost_is_reckoned_by() {
        let prices = PriceTable::built_in();
        let usage = Usage { input_tokens: 100, total_tokens: 100, ..Usage::default() };
        let record = |endpoint, requested: Option<&str>, model: Option<&str>| Record {
            endpoint,
            usage,
            model_requested: requested.map(Arc::from),
            model: model.map(Arc::from),
            usage_source: UsageSource::Reported,
            ..Record::default()
        };
        let tier = |tier: &str| Reported { service_tier: Some(tier.into()), ..Reported::default() };
        let of = |record: &Record, reported: &Reported| cost(&prices, record, reported, ModelName::Model);
        // gpt-4o: 2.5 USD a million, 1.25 in a batch; o3 in priority: 3.5.
        let batch = record(Endpoint::Batches, None, Some("gpt-4o"));
        assert_eq!(of(&batch, &Reported::default()), Some(125_000));
        assert_eq!(of(&batch, &tier("priority")), Some(125_000));
        let chat = record(Endpoint::ChatCompletions, Some("o3"), None);
        assert_eq!(of(&chat, &tier("priority")), Some(350_000));
        assert_eq!(cost(&prices, &chat, &tier("priority"), ModelName::Deployment), None, "o3 is a deployment here");
        let named = record(Endpoint::ChatCompletions, Some("o3"), Some("gpt-4o"));
        assert_eq!(cost(&prices, &named, &Reported::default(), ModelName::DeploymentInPath), Some(250_000));
        let decided = record(Endpoint::Decisions, None, Some("gpt-6-luna"));
        let decided = Record { usage: Usage { output_tokens: 9, ..usage }, ..decided };
        assert_eq!(of(&decided, &tier("default")), Some(100 * 100), "its output is free");
        assert_eq!(of(&decided, &tier("flex")), Some(100 * 50 + 9 * 250));
        let nothing = Record { usage: Usage::default(), ..chat };
        assert_eq!(cost(&prices, &nothing, &Reported::default(), ModelName::DeploymentInPath), Some(0));
    }

    /// The request says how long; the price is another, or there is none.
    #[test]
    fn what_is_kept_long_in_the_cache_has_a_price_of_its_own() {
        let cost = |model: &str, caches_long| {
            let usage = r#"{"input_tokens":10,"input_tokens_details":{"cache_write_tokens":10},"output_tokens":0}"#;
            let mut exchange = answered(Endpoint::Responses, &format!(r#"{{"model":"{model}","usage":{usage}}}"#));
            exchange.request.caches_long = caches_long;
            settle(&mut exchange, END, &PriceTable::built_in()).records.0.cost_nano_usd
        };
        assert_eq!((cost("gpt-6-astra", false), cost("gpt-6-astra", true)), (Some(125_000), Some(250_000)));
        assert!(cost("ft:gpt-4o-2024-11-20", false).is_some());
        assert_eq!(cost("ft:gpt-4o-2024-11-20", true), None);
    }
}
