//! How far the ledger and the provider's own books agree, and what does not.
//!
//! In: a view. Out: markup; none where nothing was compared, or of one user, team or model.

use super::parts::{heads, name, table};
use super::view::View;
use crate::base::clock::{DAY, SECOND};
use crate::local::agreement::{amount, percent, price, reasons};
use crate::local::humanize::day;
use crate::reconcile::{Quantity, Summary, Total};
use maud::{Markup, html};
use std::collections::BTreeMap;

/// Rows, and prices, that are shown.
const SHOWN_MAX: usize = 20;

/// The section.
pub fn agreement(view: &View) -> Markup {
    let (days, language) = (&view.overview.reconciliations, view.query.language);
    let Some((last, _)) = days.first() else { return html! {} };
    let mut totals: BTreeMap<Quantity, Total> = BTreeMap::new();
    let is_used = |(_, total): &(&Quantity, &Total)| total.ours > 0 || total.theirs > 0;
    for (quantity, total) in days.iter().flat_map(|(_, of)| &of.totals).filter(is_used) {
        totals.entry(*quantity).or_default().add(total);
    }
    let apart = totals.values().map(Total::ratio).fold(0.0, f64::max);
    let title = language.say("Held against OpenAI's own books");
    let count = days.len().to_string();
    let last = day(last.unsigned_abs().saturating_mul(DAY));
    let within = match days.len() {
        1 => language.fill("{0} agrees with OpenAI within {1}.", &[&last, &percent(apart)]),
        _ => language.fill(
            "The last {0} days that were compared, up to {1}, agree with OpenAI within {2}.",
            &[&count, &last, &percent(apart)],
        ),
    };
    let unknown: u64 = days.iter().map(|(_, of)| of.unknown).sum();
    let head = html! {
        th.name scope="col" { (language.say("quantity")) }
        (heads(language, &["here", "at OpenAI", "apart"]))
    };
    let rows = html! { @for (quantity, total) in &totals { tr {
        th.name scope="row" { (language.say(title_of(*quantity))) }
        td { (amount(*quantity, Some(total.ours))) }
        td { (amount(*quantity, Some(total.theirs))) }
        td.bad[total.gap > 0] { (percent(total.ratio())) }
    } } };
    html! { section id="agreement" {
        h2 { (title) }
        p { (within) }
        (table(title, "", &head, &rows))
        (differences(view, days))
        @if unknown > 0 {
            p.dim { (language.fill("{0} sums of a day and model cannot be compared.", &[&unknown.to_string()])) }
        }
    } }
}

/// What does not agree, the latest day first.
fn differences(view: &View, days: &[(i64, Summary)]) -> Markup {
    let language = view.query.language;
    let all: u64 = days.iter().map(|(_, of)| of.differing).sum();
    let rows = days.iter().flat_map(|(_, of)| &of.rows).take(SHOWN_MAX);
    let mut prices: Vec<_> = days.iter().flat_map(|(_, of)| &of.prices).collect();
    prices.dedup();
    let title = language.say("What does not agree");
    let head = html! {
        @for head in ["day", "model", "quantity"] { th.name scope="col" { (language.say(head)) } }
        (heads(language, &["here", "at OpenAI"]))
        th.name scope="col" { (language.say("why")) }
    };
    let rows = html! { @for row in rows { tr {
        th.name scope="row" { (day(row.key.start.saturating_mul(SECOND))) }
        td.name { (name(&row.key.model, language.say("no model"))) }
        td.name { (language.say(title_of(row.quantity))) }
        td { (amount(row.quantity, row.ours)) }
        td { (amount(row.quantity, row.theirs)) }
        td.name { (reasons(language, row)) }
    } } };
    html! {
        @if all > 0 {
            h3 { (title) }
            (table(title, "", &head, &rows))
            @if all > SHOWN_MAX as u64 {
                p.dim { (language.fill("The first of {0}; `proxy-server reconcile` tells all.", &[&all.to_string()])) }
            }
        }
        @if !prices.is_empty() { ul {
            @for of in prices.into_iter().take(SHOWN_MAX) {
                li { (price(language, of)) }
            }
        } }
    }
}

fn title_of(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::Requests => "requests",
        Quantity::Input => "input tokens",
        Quantity::CachedInput => "cached input tokens",
        Quantity::CacheWrite => "tokens written to the cache",
        Quantity::Output => "output tokens",
        Quantity::InputAudio => "audio input tokens",
        Quantity::InputImage => "image input tokens",
        Quantity::OutputAudio => "audio output tokens",
        Quantity::OutputImage => "image output tokens",
        Quantity::Images => "images",
        Quantity::Seconds => "seconds of audio",
        Quantity::Calls => "tool calls",
        Quantity::Cost => "cost",
    }
}
