//! The page: what stands where.

use super::parts::{Timeline, legend, link, name, ranking, tile};
use super::time_range::Range;
use super::view::{View, ending, percentile};
use crate::base::visible::visible;
use crate::local::Answer;
use crate::local::humanize::{day, duration, grouped, money, second, share, short};
use crate::reporting::{Entry, SAMPLE_MAX, Scope};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use ring::digest::{SHA256, digest};
use std::sync::LazyLock;

/// Of the newest requests, so many are shown one by one.
const LATEST_MAX: usize = 20;

/// From so many days on the page says how old the newest prices are.
const PRICES_OLD_DAYS: u64 = 42;
const SECONDS_PER_DAY: u64 = 24 * 60 * 60;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The page's one style sheet.
const STYLE: &str = include_str!("style.css");

/// Header lines of the page. The style is allowed by its hash, so that no other has a chance.
static HEADERS: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    format!(
        "content-security-policy: default-src 'none'; style-src 'sha256-{hash}'; img-src data:; form-action 'self'; \
         frame-ancestors 'none'; base-uri 'none'\r\n\
         x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n"
    )
});

/// A picture of three bars, so that the browser does not ask the target for one.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath \
                    fill='%233b7dd8' d='M1 9h4v6H1zM6 5h4v10H6zM11 1h4v14h-4z'/%3E%3C/svg%3E";
/// Where a request goes, if it cannot be told how the browser came here.
const HOST: &str = "127.0.0.1:8080";

/// The page.
pub fn answer(view: &View) -> Answer {
    Answer { headers: &HEADERS, ..Answer::new(200, "text/html; charset=utf-8", page(view).into_string()) }
}

/// The whole document.
fn page(view: &View) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { @if let Some(user) = &view.query.user { (visible(user)) " – " } "OpenAI usage" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                (header(view))
                main {
                    @if !view.overview.ever { (welcome(view)) }
                    @else if view.overview.totals.requests == 0 { (nothing(view)) }
                    @else { (found(view)) }
                }
                footer {
                    p { "Times are UTC. As of " (second(view.query.now)) "; reload for the present." }
                    @match view.overview.scope {
                        Scope::Alone => {}
                        Scope::Node => p { strong { "This node only: the fleet is out of reach." } }
                        Scope::Fleet { nodes, fresh_to } => p {
                            "Nodes of the fleet: " (nodes) ". Complete to " (second(fresh_to)) "."
                        }
                    }
                    p { (age_of_prices(view)) }
                }
            }
        }
    }
}

/// Of when the prices are, and a hint where all of them are old.
fn age_of_prices(view: &View) -> Markup {
    let newest = view.query.prices.iter().map(|&(_, at)| at).max();
    let days = newest.map(|at| (view.query.now / NANOS_PER_SECOND).saturating_sub(at) / SECONDS_PER_DAY);
    html! {
        @for (place, (source, at)) in view.query.prices.iter().enumerate() {
            @if place == 0 { "Prices: " } @else { ", " }
            (source.as_str()) " of " (day(at.saturating_mul(NANOS_PER_SECOND)))
        }
        @if let Some(days) = days {
            "."
            @if days > PRICES_OLD_DAYS {
                " " strong { "They are " (days) " days old" } " (PRICES_URL fetches them daily)."
            }
        }
    }
}

fn header(view: &View) -> Markup {
    let (query, user) = (&view.query, view.query.user.as_deref());
    html! {
        header {
            div {
                h1 { @match user { Some(user) => bdi { (visible(user)) }, None => "OpenAI usage" } }
                p {
                    @match user {
                        Some(_) if !query.own => { "One user. " a href=(link(query.range, None)) { "Show everybody" } }
                        Some(_) => "Your own usage",
                        None => "Everybody",
                    }
                }
            }
            div.tools {
                nav aria-label="Time" { @for range in Range::ALL {
                    a href=(link(range, user)) aria-current=[(range == query.range).then_some("page")] {
                        (range.title())
                    }
                } }
                @if !query.own { form action="dashboard" {
                    input type="hidden" name="range" value=(query.range.as_str());
                    input type="search" name="user_id" value=[user] placeholder="User" aria-label="User"
                        maxlength="128" list="users" autocomplete="off";
                    @if user.is_none() { datalist id="users" {
                        @for (user, _) in &view.overview.others.top { option value=(user) {} }
                    } }
                    button { "Show" }
                } }
            }
        }
    }
}

/// What to do where nothing has happened yet.
fn welcome(view: &View) -> Markup {
    let is_plain = |host: &&String| host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c));
    let host = view.query.host.as_ref().filter(is_plain).map_or(HOST, String::as_str);
    html! {
        section {
            h2 { "No request yet" }
            p { "Send a first one through the proxy, with your key in " code { "OPENAI_API_KEY" } ":" }
            pre tabindex="0" { code {
                "curl http://" (host) "/v1/chat/completions \\\n"
                "  -H \"Authorization: Bearer $OPENAI_API_KEY\" \\\n"
                "  -H \"Content-Type: application/json\" \\\n"
                "  -H \"X-User-ID: user123\" \\\n"
                "  -d '{\"model\": \"gpt-4o-mini\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'"
            } }
            p {
                "or point an OpenAI client at it, with " code { "OPENAI_BASE_URL=http://" (host) "/v1" }
                ". Then reload this page."
            }
        }
    }
}

fn nothing(view: &View) -> Markup {
    html! {
        section {
            h2 { "No request here" }
            p {
                @match &view.query.user {
                    Some(user) => { bdi { (visible(user)) } " has sent none in this time." }
                    None => "Nobody has sent one in this time.",
                }
                @if view.query.range != Range::All {
                    " " a href=(link(Range::All, view.query.user.as_deref())) { "Look at all time" }
                }
            }
        }
    }
}

fn found(view: &View) -> Markup {
    let timeline = Timeline::new(view);
    let step = timeline.step.as_str();
    let one_user = |user: &str| {
        html! { a href=(link(view.query.range, Some(user))) { (name(user, "no name")) } }
    };
    html! {
        (tiles(view))
        div.pair {
            @if view.overview.totals.cost_nano_usd > 0 { section {
                h2 { "Spending by " (step) }
                (timeline.chart(|totals| totals.cost_nano_usd, money))
                (legend(view))
                (timeline.numbers())
            } }
            section {
                h2 { "Tokens by " (step) }
                (timeline.chart(|totals| totals.total_tokens, short))
                (legend(view))
                @if view.overview.totals.cost_nano_usd == 0 { (timeline.numbers()) }
            }
        }
        div.pair {
            @if view.query.user.is_none() { section {
                h2 { "By user" }
                (ranking(&view.overview.others, view, "user", one_user))
            } } @else { section {
                h2 { "By endpoint" }
                (ranking(&view.overview.others, view, "endpoint", |endpoint| name(endpoint, "–")))
            } }
            div {
                section {
                    h2 { "By model" }
                    (ranking(&view.overview.models, view, "model", |model| name(model, "no model")))
                }
                @if !view.overview.sample.is_empty() { (times(view)) (endings(view)) }
            }
        }
        @if !view.overview.sample.is_empty() { (latest(view)) }
    }
}

fn tiles(view: &View) -> Markup {
    let totals = &view.overview.totals;
    let share_of = |part, whole| share(part, whole).unwrap_or_else(|| "–".to_owned());
    let too_many = view.overview.sample.iter().filter(|entry| entry.record.status == 429).count();
    let unpriced = match totals.unpriced {
        0 => String::new(),
        1 => "1 request without a known price".to_owned(),
        unpriced => format!("{} requests without a known price", grouped(unpriced)),
    };
    html! {
        dl.tiles {
            (tile("Cost", &money(totals.cost_nano_usd), &unpriced))
            (tile("Tokens", &short(totals.total_tokens),
                &format!("{} in, {} out", short(totals.input_tokens), short(totals.output_tokens))))
            (tile("Cached input", &share_of(totals.cached_input_tokens, totals.input_tokens),
                &format!("{} tokens", short(totals.cached_input_tokens))))
            (tile("Requests", &grouped(totals.requests), ""))
            (tile("Errors", &grouped(totals.errors), &share_of(totals.errors, totals.requests)))
            (tile("429 from upstream", &grouped(too_many as u64), &of_newest(view)))
            @if let Some(refused) = view.query.refused {
                (tile("Refused for a limit", &grouped(refused), "by this proxy, since it started"))
            }
        }
    }
}

/// Of which requests something is told that the sums do not have.
fn of_newest(view: &View) -> String {
    let count = view.overview.sample.len() as u64;
    match count {
        _ if count == view.overview.totals.requests => format!("of all {}", grouped(count)),
        _ if count < SAMPLE_MAX.into() => format!("of the {} whose records are kept", grouped(count)),
        _ => format!("of the newest {}", grouped(count)),
    }
}

fn times(view: &View) -> Markup {
    let rows = [
        ("to the first byte", view.times(|entry| entry.record.first_byte_us)),
        ("to the last byte", view.times(|entry| Some(entry.record.duration_us))),
        ("added by the proxy", view.times(|entry| Some(entry.record.proxy_us))),
    ];
    let cell = |times: &[u64], hundredths| percentile(times, hundredths).map_or_else(|| "–".to_owned(), duration);
    html! {
        section {
            h2 { "Latency" }
            div.scroll tabindex="0" { table {
                thead { tr { th.name { "time" } th { "median" } th { "90%" } th { "99%" } th { "longest" } } }
                tbody { @for (what, times) in &rows { tr {
                    th.name scope="row" { (what) }
                    @for hundredths in [50, 90, 99, 100] { td { (cell(times, hundredths)) } }
                } } }
            } }
            p.dim { "Requests that succeeded, " (of_newest(view)) "." }
        }
    }
}

fn endings(view: &View) -> Markup {
    let all = view.overview.sample.len() as u64;
    html! {
        section {
            h2 { "How requests ended" }
            div.scroll tabindex="0" { table {
                thead { tr { th.name { "status" } th { "requests" } th { "share" } } }
                tbody { @for (ending, count) in view.endings() { tr {
                    th.name scope="row" { (ending) }
                    td { (grouped(count as u64)) }
                    td { (share(count as u64, all).unwrap_or_default()) }
                } } }
            } }
            p.dim { "The status that the client was sent, " (of_newest(view)) "." }
        }
    }
}

fn latest(view: &View) -> Markup {
    let row = |Entry { record, .. }: &Entry| {
        html! { tr {
            th.name scope="row" { (second(record.started_at)) }
            @if view.query.user.is_none() {
                td.name { a href=(link(view.query.range, Some(&record.user))) { (name(&record.user, "no name")) } }
            }
            td.name { (name(record.model_name(), "–")) }
            td.name { (record.endpoint.as_str()) }
            td.bad[record.is_error()] { (ending(record.status, record.outcome)) }
            td { (grouped(record.usage.input_tokens)) }
            td { (grouped(record.usage.output_tokens)) }
            td { (record.cost_nano_usd.map_or_else(|| "–".to_owned(), money)) }
            td { (record.first_byte_us.map_or_else(|| "–".to_owned(), duration)) }
            td { (duration(record.duration_us)) }
        } }
    };
    html! {
        section {
            h2 { "Latest requests" }
            div.scroll tabindex="0" { table.latest {
                thead { tr {
                    th.name { "started" }
                    @if view.query.user.is_none() { th.name { "user" } }
                    th.name { "model" } th.name { "endpoint" } th { "status" } th { "in" } th { "out" } th { "cost" }
                    th { "first byte" } th { "whole" }
                } }
                tbody { @for entry in view.overview.sample.iter().take(LATEST_MAX) { (row(entry)) } }
            } }
        }
    }
}
