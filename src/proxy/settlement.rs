//! The end of every exchange: one record, its place released, its reply let go once the record is committed.
//!
//! Every way out of [`super::exchange::Stage::Forwarding`] comes through [`Proxy::settle`], once. A gzip stream that
//! compresses and cannot be edited is still counted; what cannot be read is marked `unknown`, never guessed.

use super::exchange::{Exchange, Progress, Stage};
use super::{Action, Conn, ExchangeKey, Proxy};
use crate::base::clock::{MICROSECOND, Now};
use crate::price::PriceTable;
use crate::usage::capture::Reported;
use crate::usage::estimate;
use crate::usage::record::{Endpoint, Journal, Outcome, Record, Usage, UsageSource};
use std::num::NonZeroU64;
use std::sync::Arc;

impl Proxy {
    /// Writes the exchange's record, with the status that the client was sent until now. An exchange that is settled
    /// already stays so.
    pub(super) fn settle(&mut self, now: Now, key: ExchangeKey, outcome: Outcome) {
        let Some(exchange) = self.exchanges.get_mut(key).filter(|exchange| exchange.stage == Stage::Forwarding) else {
            return;
        };
        if exchange.awaits_commit() {
            // A part of a tunnel goes out with the end of the whole.
            self.uncommitted.retain(|&(_, waiting)| waiting != key);
        }
        exchange.stage = Stage::Settled;
        let tunnel = exchange.tunnel.take();
        let answered = exchange.response.progress != Progress::Awaited;
        let up = exchange.up.and_then(|up| self.ups.get(up));
        let (written, unread) = up.map_or((false, false), |up| (up.written, !up.input.is_empty()));
        let reached = answered || written || exchange.request.reached;
        if let Some(up) = exchange.up.take() {
            if tunnel.is_some() {
                let last_words = exchange.request.outgoing.take_stream();
                self.say_last(up, last_words.as_slice());
            }
            self.close_up(up);
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let mut record = Record::from(std::mem::take(&mut exchange.draft));
        record.outcome = outcome;
        record.duration_us = (now.mono - exchange.started) / MICROSECOND;
        let estimate = estimate(exchange, outcome, reached);
        let mut reported = std::mem::take(&mut exchange.response.usage_reader).finish();
        record.usage_source = source(&record, &reported, exchange.abandoned, reached, estimate.is_some());
        record.usage = reported.usage.or(estimate).unwrap_or_default();
        record.model = reported.model.clone().or(record.model);
        record.response_id = reported.id.take();
        let reported = match tunnel {
            Some(tunnel) => tunnel.conclude(&mut record, unread),
            None => reported,
        };
        let deployed = exchange.request.deployed;
        let reservation = std::mem::take(&mut exchange.reservation);
        let (user, is_known) = (Arc::clone(&record.user), record.usage_source != UsageSource::Unknown);
        let seq = self.push_records(now, record, &reported, deployed);
        if is_known {
            self.limiter.release(&user, reservation, now);
        } else {
            self.limiter.forfeit(&user, reservation, now);
        }
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.settled_as = seq;
            exchange.request.outgoing.forget_held();
            self.places_reserved -= std::mem::take(&mut exchange.places);
        }
        self.recount(key);
        self.places_freed(now);
    }

    /// Sends a record on its way to the ledger, and the one of images made in its course behind it; the last `seq`.
    /// `deployed` says that the request's own name of the model is a deployment's, which has no price.
    pub(super) fn push_records(&mut self, now: Now, record: Record, reported: &Reported, deployed: bool) -> u64 {
        let images = images_record(&record, reported);
        let seq = self.push_record(now, record, reported, deployed);
        images.map_or(seq, |images| self.push_record(now, images, &Reported::default(), deployed))
    }

    /// Prices a record and sends it on its way; its `seq`.
    fn push_record(&mut self, now: Now, mut record: Record, reported: &Reported, deployed: bool) -> u64 {
        record.cost_nano_usd = match record.usage_source {
            UsageSource::None => Some(0), // nothing was consumed, whatever the model's price
            UsageSource::Unknown => None,
            _ => cost(&self.prices, &record, reported, deployed),
        };
        if !record.may_repeat() {
            self.metrics.record(&record);
            self.charge(now, &record);
        }
        self.submit(record)
    }

    /// Has the request written to the journal, and waits for that: a request that cannot be journaled is not sent.
    pub(super) fn open_entry(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.stage = Stage::Journaling;
        self.journaled += 1;
        exchange.draft.entry = NonZeroU64::new(self.journaled);
        exchange.places -= 1;
        self.places_reserved -= 1;
        let (entry, down) =
            (Record { journal: Journal::Open(self.journaled), ..exchange.draft.clone().into() }, exchange.down);
        let seq = self.submit(entry);
        self.uncommitted.push_back((seq, key));
        self.retime_down(now, down, false);
    }

    /// Takes the entry back of a request that was not sent.
    pub(super) fn withdraw_entry(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if let Some(entry) = exchange.draft.entry {
            exchange.places -= 1;
            self.places_reserved -= 1;
            self.submit(Record { journal: Journal::Withdraw(entry.get()), ..Record::default() });
        }
    }

    /// Sends a line on its way to the ledger; its `seq`.
    fn submit(&mut self, mut record: Record) -> u64 {
        self.settled_seq += 1;
        record.seq = self.settled_seq;
        if !record.journal.is_record() {
            self.journal_lines.push_back(record.seq);
        }
        self.records.push(record);
        self.settled_seq
    }

    /// Places in the ledger's queue that nobody has.
    pub(super) fn places_left(&self) -> u64 {
        let taken = self.places_reserved + self.settled_seq - self.committed_seq;
        (self.settings.ledger_places as u64).saturating_sub(taken)
    }

    /// A settled exchange's reply goes out when its record is committed, or at once where that is not promised.
    pub(super) fn hold_or_release(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        let down = exchange.down;
        if !self.settings.settled {
            return self.release(now, key);
        }
        if let Some(down) = self.downs.get_mut(down)
            && down.held_back == 0
            && exchange.response.progress == Progress::Awaited
        {
            down.held_back = down.out.len(); // an error of ours
        }
        self.uncommitted.push_back((exchange.settled_as, key));
        self.retime_down(now, down, false);
    }

    /// Every record up to this one is in the ledger; of those that may repeat others, `retrieved` says how they count.
    pub fn committed(&mut self, now: Now, upto: u64, retrieved: &[Record]) {
        for record in retrieved {
            self.metrics.record(record);
            self.charge(now, record);
        }
        self.committed_seq = self.committed_seq.max(upto);
        while self.journal_lines.pop_front_if(|&mut seq| seq <= upto).is_some() {
            self.journal_committed += 1;
        }
        self.metrics.ledger_committed(upto - self.journal_committed);
        while let Some((_, key)) = self.uncommitted.pop_front_if(|&mut (seq, _)| seq <= upto) {
            self.release_one(now, key);
        }
        self.places_freed(now);
    }

    /// What an exchange held back may go out: the end of its reply, or of a part of a tunnel.
    pub(super) fn release_one(&mut self, now: Now, key: ExchangeKey) {
        match self.exchanges.get(key).map(|exchange| exchange.stage) {
            Some(Stage::Settled) => self.release(now, key),
            Some(Stage::Journaling) => self.forward(now, key),
            _ => self.next_part(now, key),
        }
    }

    /// The reply's end may go out; the exchange is over.
    pub(super) fn release(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.remove(key) else { return };
        self.uncount(key, &exchange);
        let Some(down) = self.downs.get_mut(exchange.down) else { return };
        down.exchange = None;
        down.held_back = 0;
        self.next_request(now, exchange.down);
        self.retime_down(now, exchange.down, false);
    }

    /// The stream broke after its head: settles, and closes the client's connection without the stream's end, so that
    /// nobody takes it for complete.
    pub(super) fn cut(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        let down = exchange.down;
        self.settle(now, key, Outcome::UpstreamError);
        self.remove_exchange(now, key);
        if let Some(found) = self.downs.get_mut(down) {
            found.keep_alive = false;
            if found.until_close {
                return self.drop_down(now, down);
            }
            self.close_when_sent(now, down);
        }
    }

    /// The client is gone.
    pub(super) fn client_gone(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        match exchange.stage {
            Stage::Receiving | Stage::Journaling => return self.withdraw(now, key),
            Stage::Forwarding if self.reads_on(exchange) => return self.abandon(now, key),
            Stage::Forwarding => return self.end_abandoned(now, key),
            Stage::Settled => {}
        }
        self.remove_exchange(now, key);
    }

    /// True where the target is at work on the whole request, and will say what it took.
    fn reads_on(&self, exchange: &Exchange) -> bool {
        let begun = exchange.up.and_then(|up| self.ups.get(up)).is_some_and(|up| up.begun);
        let will_report = match &exchange.tunnel {
            Some(tunnel) => tunnel.is_responding(),
            None => exchange.request.complete && exchange.draft.endpoint.is_metered(),
        };
        self.settings.timeouts.read_on > 0 && begun && will_report
    }

    /// Lets the response come to its end, or to the end of its time, without a client.
    fn abandon(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.abandoned = true;
        if let Some(up) = exchange.up {
            self.retime_up(now, up, false);
            self.actions.push_back(Action::Read(Conn::Up(up)));
        }
    }

    /// An exchange without a client is over: by its response's end, or otherwise.
    pub(super) fn end_abandoned(&mut self, now: Now, key: ExchangeKey) {
        self.settle(now, key, Outcome::ClientAborted);
        self.remove_exchange(now, key);
    }

    /// The process stops with the exchange in flight.
    pub(super) fn interrupt(&mut self, now: Now, key: ExchangeKey) {
        if self.exchanges.get(key).is_some_and(|exchange| exchange.stage == Stage::Journaling) {
            return self.withdraw(now, key);
        }
        self.settle(now, key, Outcome::Interrupted);
        self.remove_exchange(now, key);
    }

    /// Frees the slot; the reply's client, where it is still there, has no exchange any more, and does not get what was
    /// held back for it.
    pub(super) fn remove_exchange(&mut self, now: Now, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.remove(key) else { return };
        self.uncount(key, &exchange);
        self.places_reserved -= exchange.places;
        if let Some(down) = self.downs.get_mut(exchange.down) {
            down.exchange = None;
            down.drop_held();
        }
        if exchange.awaits_commit() {
            self.uncommitted.retain(|&(_, waiting)| waiting != key);
        }
        self.places_freed(now);
    }

    /// The turn is over, what could be written is written: the time that the proxy added to the requests that went out.
    pub fn turn_ended(&mut self, now: Now) {
        for key in self.dispatched.drain(..) {
            if let Some(exchange) = self.exchanges.get_mut(key) {
                exchange.draft.proxy_us = now.mono.saturating_sub(exchange.ready) / MICROSECOND;
            }
        }
    }
}

/// What a stream that was cut probably consumed; `None` for what was not cut, or never reached the target, or of which
/// nothing was seen that could be counted.
fn estimate(exchange: &Exchange, outcome: Outcome, reached: bool) -> Option<Usage> {
    let input_tokens = estimate::input_tokens(exchange.request.text_bytes);
    if outcome == Outcome::Completed || !reached || input_tokens == 0 {
        return None;
    }
    match (exchange.response.usage_reader.estimate(input_tokens), exchange.response.progress) {
        (Some(usage), _) => Some(usage),
        // A target that failed before it answered has most likely not charged for it; one whose client left has.
        (None, Progress::Awaited) if outcome == Outcome::UpstreamError => None,
        (None, Progress::Awaited) => Some(Usage { input_tokens, total_tokens: input_tokens, ..Usage::default() }),
        // An answer of another form, or in a coding that was not read.
        (None, _) => None,
    }
}

/// The record of images that a tool made in the course of a response: another model's work, at another price.
fn images_record(response: &Record, reported: &Reported) -> Option<Record> {
    let images = reported.images.as_ref()?;
    Some(Record {
        endpoint: Endpoint::ResponsesImages,
        model_requested: None,
        model: images.model.clone(),
        usage: images.usage,
        request_bytes: 0,
        response_bytes: 0,
        journal: Journal::Off, // the entry is the response's to close
        ..response.clone()
    })
}

/// The price of what was consumed; `None` where it is not certain. `deployed` says that what the request called the
/// model tells nothing of the model that ran.
fn cost(prices: &PriceTable, record: &Record, reported: &Reported, deployed: bool) -> Option<u64> {
    let model = if deployed { record.model.as_deref().unwrap_or_default() } else { record.model_name() };
    let usage = &record.usage;
    if usage.images > 0 && usage.total_tokens == 0 {
        let quality = reported.quality.as_deref().unwrap_or_default();
        return prices.images_cost_nano_usd(model, usage, quality, reported.size.as_deref().unwrap_or_default());
    }
    // A batch's own tier is what it was asked for, each of its requests may say another.
    let tier = if record.endpoint == Endpoint::Batches { Some("batch") } else { reported.service_tier.as_deref() };
    prices.cost_nano_usd(model, usage, tier)
}

/// How far the numbers can be trusted. `reached` says that the target may have acted on the request.
fn source(record: &Record, reported: &Reported, abandoned: bool, reached: bool, estimated: bool) -> UsageSource {
    match record.outcome {
        _ if reported.usage.is_some() && abandoned => UsageSource::Drained,
        _ if reported.usage.is_some() => UsageSource::Reported,
        _ if estimated => UsageSource::Estimated,
        Outcome::Completed if !record.endpoint.is_metered() || record.status >= 400 => UsageSource::None,
        _ if !reached || record.is_retrieval || record.endpoint.is_session() => UsageSource::None,
        _ => UsageSource::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cost_is_reckoned_by() {
        let prices = PriceTable::built_in();
        let usage = Usage { input_tokens: 100, total_tokens: 100, ..Usage::default() };
        let record = |endpoint, requested: Option<&str>, model: Option<&str>| Record {
            endpoint,
            usage,
            model_requested: requested.map(Arc::from),
            model: model.map(Arc::from),
            ..Record::default()
        };
        let tier = |tier: &str| Reported { service_tier: Some(tier.into()), ..Reported::default() };
        let of = |record: &Record, reported: &Reported| cost(&prices, record, reported, false);
        // gpt-4o: 2.5 USD a million, 1.25 in a batch; o3 in priority: 3.5.
        let batch = record(Endpoint::Batches, None, Some("gpt-4o"));
        assert_eq!(of(&batch, &Reported::default()), Some(125_000));
        assert_eq!(of(&batch, &tier("priority")), Some(125_000));
        let chat = record(Endpoint::ChatCompletions, Some("o3"), None);
        assert_eq!(of(&chat, &tier("priority")), Some(350_000));
        assert_eq!(cost(&prices, &chat, &tier("priority"), true), None, "o3 is a deployment here");
        let named = record(Endpoint::ChatCompletions, Some("o3"), Some("gpt-4o"));
        assert_eq!(cost(&prices, &named, &Reported::default(), true), Some(250_000));
        let nothing = Record { usage: Usage::default(), ..chat };
        assert_eq!(cost(&prices, &nothing, &Reported::default(), true), Some(0));
    }
}
