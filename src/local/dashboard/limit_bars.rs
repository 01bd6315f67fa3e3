//! How much of the limits is used, as a table with bars, and who was refused.
//!
//! In: a view. Out: markup; none where nothing is limited.

use super::parts::{bar, heads, name, table};
use super::view::View;
use crate::limit::levels::LimitLevel;
use crate::limit::status::{Limit, LimitUse};
use crate::local::humanize::{grouped, money, second, share};
use maud::{Markup, html};
use std::cmp::Reverse;

/// From here on a limit is nearly used up.
const NEARLY_THOUSANDTHS: u64 = 800;
/// Users with a limit that are shown one by one.
const REFUSALS_MAX: usize = 20;

/// How much of each limit is used: the nearest to its end first.
pub fn limits(view: &View) -> Markup {
    let (query, language) = (&view.query, view.query.language);
    if query.limits.is_empty() {
        return html! {};
    }
    let mut limits: Vec<&LimitUse> = query.limits.iter().collect();
    limits.sort_by_key(|of| Reverse(of.thousandths()));
    let linked = |filter, of: &LimitUse| html! { a href=(query.narrowed(filter, &of.name)) { (name(&of.name, "")) } };
    let row = |of: &LimitUse| {
        let amount = if of.limit.is_budget() { money } else { grouped };
        html! { tr {
            th.name scope="row" {
                @match of.level {
                    LimitLevel::Total => (language.say("Everybody together")),
                    LimitLevel::User if query.user.is_none() => (linked("user_id", of)),
                    LimitLevel::Team if query.user.is_none() => (linked("team", of)),
                    LimitLevel::User | LimitLevel::Team => (name(&of.name, "")),
                }
                ": " (language.say(limit_title(of.limit)))
                span.nearly[of.thousandths() >= NEARLY_THOUSANDTHS] { (bar(of.used.min(of.maximum), of.maximum)) }
            }
            td { (share(of.used, of.maximum).unwrap_or_else(|| "–".to_owned())) }
            td { (amount(of.used)) }
            td { (amount(of.maximum)) }
            td { (amount(of.maximum.saturating_sub(of.used))) }
            td { (of.reset_at.filter(|_| of.used > 0).map_or_else(|| "–".to_owned(), second)) }
        } }
    };
    let head = html! {
        th.name scope="col" { (language.say("limit")) }
        (heads(language, &["share", "used", "of", "left", "free again"]))
    };
    let rows = html! { @for of in limits { (row(of)) } };
    html! { section { h2 { (language.say("Limits")) } (table(language.say("Limits"), "", &head, &rows)) } }
}

/// Who was refused for which limit, and how often.
pub fn refusals(view: &View) -> Markup {
    let (query, language) = (&view.query, view.query.language);
    let refusals = query.refused.as_deref().unwrap_or_default();
    if refusals.is_empty() {
        return html! {};
    }
    let head = html! {
        th.name scope="col" { (language.say("user")) }
        th.name scope="col" { (language.say("limit")) }
        (heads(language, &["requests"]))
    };
    let (shown, others) = refusals.split_at(refusals.len().min(REFUSALS_MAX));
    let rows = html! {
        @for of in shown { tr {
            th.name scope="row" { (name(&of.user, language.say("no name"))) }
            td.name { (language.say(level_title(of.level))) ": " (language.say(title_of(of.limit))) }
            td { (grouped(of.count)) }
        } }
        @if !others.is_empty() { tr.others {
            th.name scope="row" { (language.fill("{0} others", &[&grouped(others.len() as u64)])) }
            td {}
            td { (grouped(others.iter().map(|of| of.count).sum())) }
        } }
    };
    let title = language.say("Refused for a limit");
    html! { section {
        h2 { (title) }
        (table(title, "", &head, &rows))
        p.dim { (language.say("By this proxy, since it started.")) }
    } }
}

/// What a level is called, by its label.
pub fn level_title(level: &str) -> &'static str {
    match LimitLevel::named(level) {
        Some(LimitLevel::Team) => "Team",
        Some(LimitLevel::Total) => "Everybody together",
        _ => "User",
    }
}

fn title_of(label: &str) -> &'static str {
    let limits = [Limit::Requests, Limit::Tokens, Limit::Concurrent, Limit::BudgetDay, Limit::BudgetMonth];
    limits.into_iter().find(|limit| limit.label() == label).map_or("budget not summed up yet", limit_title)
}

fn limit_title(limit: Limit) -> &'static str {
    match limit {
        Limit::Requests => "Requests a minute",
        Limit::Tokens => "Tokens a minute",
        Limit::Concurrent => "Requests at once",
        Limit::BudgetDay => "USD a day",
        Limit::BudgetMonth | Limit::BudgetUnknown => "USD a month",
    }
}
