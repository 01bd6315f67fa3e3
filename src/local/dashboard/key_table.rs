//! The sums by client key: whose each is, when it was used last, and when it ends.
//!
//! In: a view. Out: markup.

use super::parts::{bar, forms, heads, name, numbers, others, shown_of, table};
use super::view::View;
use crate::local::humanize::day;
use crate::reporting::{GroupBy, KeyRow};
use maud::{Markup, html};

/// The table; nothing where no key was used.
pub fn key_table(view: &View) -> Markup {
    let (keys, language) = (&view.overview.keys, view.query.language);
    let title = language.say("By key");
    let amount = shown_of(view);
    let most = keys.top.iter().map(|(_, totals)| amount(totals)).max().unwrap_or(0);
    let of_one = view.query.user.is_some();
    let head = html! {
        th.name scope="col" { (language.say("key")) }
        @if !of_one { th.name scope="col" { (language.say("user")) } }
        (heads(language, &["last used", "expires", "requests", "errors", "tokens", "cached", "cost"]))
    };
    let rows = html! {
        @for (key, totals) in &keys.top { tr {
            th.name scope="row" { (key_name(view, key.as_ref())) (bar(amount(totals), most)) }
            @if !of_one { td.name { @if let Some(key) = key { (user_link(view, key)) } } }
            td { @if let Some(day_of_use) = key.as_ref().and_then(KeyRow::last_used) { (day(day_of_use)) } }
            td { (ends(view, key.as_ref())) }
            (numbers(totals))
        } }
        (others(keys, view, GroupBy::Key, if of_one { 2 } else { 3 }))
    };
    let longer = view.overview.keys_from.filter(|from| Some(*from) != view.query.from());
    html! { @if !keys.top.is_empty() { section {
        h2 { (title) }
        (table(title, "rank", &head, &rows))
        @if let Some(from) = longer { p.dim { (language.fill("Of whole days, from {0} on.", &[&day(from)])) } }
        (forms(view, GroupBy::Key))
    } } }
}

/// A key by its number, and what its maker called it.
fn key_name(view: &View, key: Option<&KeyRow>) -> Markup {
    match key {
        None => name("", view.query.language.say("no key")),
        Some(key) => html! { (key.id) @if !key.name.is_empty() { " " (name(&key.name, "")) } },
    }
}

fn user_link(view: &View, key: &KeyRow) -> Markup {
    html! { @if !key.user.is_empty() { a href=(view.query.narrowed("user_id", &key.user)) { (name(&key.user, "")) } } }
}

/// When a key ends, or that it has.
fn ends(view: &View, key: Option<&KeyRow>) -> Markup {
    let Some(key) = key else { return html! {} };
    let language = view.query.language;
    match key.state(view.query.now) {
        "revoked" => html! { span.bad { (language.say("revoked")) } },
        state => {
            html! { @if let Some(at) = key.expires_at { span.bad[state == "expired"] { (day(at)) } } @else { "–" } }
        }
    }
}
