//! The page: what stands where.

use super::agreement_section::agreement;
use super::footer::footer;
use super::key_table::key_table;
use super::limit_bars::{limits, refusals};
use super::parts::{Timeline, heads, legend, name, ranking, table, tile};
use super::time_range::Range;
use super::view::{View, cost, ending, percentile};
use crate::base::visible::visible;
use crate::local::Answer;
use crate::local::document::document;
use crate::local::humanize::{day, duration, grouped, money, second, share, short};
use crate::local::language::Language;
use crate::reporting::{Entry, GroupBy, SAMPLE_MAX};
use maud::{Markup, html};

/// Of the newest requests, and of those that failed, so many are shown one by one.
const LATEST_MAX: usize = 20;

/// Where a request goes, if it cannot be told how the browser came here.
const HOST: &str = "127.0.0.1:8080";

/// The page.
pub fn answer(view: &View) -> Answer {
    let language = view.query.language;
    let title = match view.query.subject() {
        Some(subject) => format!("{} – {}", visible(subject), language.say("OpenAI usage")),
        None => language.say("OpenAI usage").to_owned(),
    };
    let totals = &view.overview.totals;
    let main = html! {
        @if !view.overview.ever { (welcome(view)) }
        @else if totals.requests == 0 { (limits(view)) (refusals(view)) (agreement(view)) (nothing(view)) }
        @else { (found(view)) }
    };
    document(200, language, &title, &header(view), &main, &footer(view))
}

/// The page that says what is wrong with what was asked.
pub fn refusal(language: Language, message: &str) -> Answer {
    let head = html! { div { h1 { (language.say("OpenAI usage")) } } };
    let main = html! { section {
        h2 { (language.say("This cannot be shown")) }
        p { (message) }
        p { a href="dashboard" { (language.say("Show everybody")) } }
    } };
    document(400, language, language.say("OpenAI usage"), &head, &main, &html! {})
}

fn header(view: &View) -> Markup {
    let (query, language) = (&view.query, view.query.language);
    let of = match () {
        () if query.own => "Your own usage",
        () if query.user.is_some() => "One user.",
        () if query.team.is_some() => "One team.",
        () if query.model.is_some() => "One model.",
        () => "Everybody",
    };
    html! {
        div {
            h1 { @match view.query.subject() {
                Some(subject) => bdi { (visible(subject)) },
                None => (language.say("OpenAI usage")),
            } }
            p {
                (language.say(of))
                @if query.user.is_some() || query.team.is_some() {
                    @if let Some(model) = &query.model { " " (language.say("model")) " " bdi { (visible(model)) } "." }
                }
                @if query.filters().count() > usize::from(query.own) {
                    " " a href=(query.widened()) {
                        (language.say(if query.own { "Show all models" } else { "Show everybody" }))
                    }
                }
                @if query.admin { " " a href="admin/" { (language.say("Keys, limits and teams")) } }
            }
        }
        div.tools {
            nav aria-label=(language.say("Time")) { @for range in Range::NAMED {
                a href=(query.at(range)) aria-current=[(range == query.range).then_some("page")] {
                    (language.say(range.title()))
                }
            } }
            (tools(view))
        }
    }
}

/// Any range, and any user.
fn tools(view: &View) -> Markup {
    let (query, language) = (&view.query, view.query.language);
    let end = |end: Option<u64>| end.map(day);
    html! {
        @if !query.own { form action="dashboard" {
            @if let Range::Between { from, to } = query.range {
                @for (name, end) in [("from", from), ("to", to)] { @if let Some(end) = end {
                    input type="hidden" name=(name) value=(day(end));
                } }
            } @else { input type="hidden" name="range" value=(query.range.as_str()); }
            input type="search" name="user_id" value=[&query.user] placeholder=(language.say("User"))
                aria-label=(language.say("User")) maxlength="128" list="users" autocomplete="off";
            @if query.user.is_none() { datalist id="users" {
                @for (user, _) in &view.overview.others.top { option value=(user) {} }
            } }
            button { (language.say("Show")) }
        } }
        form action="dashboard" {
            @for (name, value) in query.filters() { input type="hidden" name=(name) value=(value); }
            label { (language.say("from")) " " input type="date" name="from" value=[end(query.from())]; }
            label { (language.say("before")) " " input type="date" name="to" value=[end(query.range.to(query.now))]; }
            button { (language.say("Show")) }
        }
    }
}

/// What to do where nothing has happened yet.
fn welcome(view: &View) -> Markup {
    let language = view.query.language;
    let is_plain = |host: &&String| host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c));
    let host = view.query.host.as_ref().filter(is_plain).map_or(HOST, String::as_str);
    html! {
        section {
            h2 { (language.say("No request yet")) }
            p { (language.say("Send a first one through the proxy, with your key in OPENAI_API_KEY:")) }
            pre tabindex="0" { code {
                "curl http://" (host) "/v1/chat/completions \\\n"
                "  -H \"Authorization: Bearer $OPENAI_API_KEY\" \\\n"
                "  -H \"Content-Type: application/json\" \\\n"
                "  -H \"X-User-ID: user123\" \\\n"
                "  -d '{\"model\": \"gpt-4o-mini\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'"
            } }
            p { (language.say("or point an OpenAI client at it, then reload this page:")) }
            pre tabindex="0" { code { "OPENAI_BASE_URL=http://" (host) "/v1" } }
        }
    }
}

fn nothing(view: &View) -> Markup {
    let language = view.query.language;
    html! {
        section {
            h2 { (language.say("No request here")) }
            p {
                @match view.query.subject() {
                    Some(subject) => { bdi { (visible(subject)) } (language.say(": there was none in this time.")) }
                    None => (language.say("There was none in this time.")),
                }
                @if view.query.range != Range::All {
                    " " a href=(view.query.at(Range::All)) { (language.say("Look at all time")) }
                }
            }
        }
    }
}

fn found(view: &View) -> Markup {
    let (query, language) = (&view.query, view.query.language);
    let timeline = Timeline::new(view);
    let per_step = language.say(timeline.step.as_str());
    let linked = |filter: &'static str, nameless: &'static str| {
        move |value: &str| {
            html! {
                @if value.is_empty() { (name(value, language.say(nameless))) }
                @else { a href=(query.narrowed(filter, value)) { (name(value, "")) } }
            }
        }
    };
    html! {
        (tiles(view))
        (limits(view)) (refusals(view)) (agreement(view))
        div.pair {
            @if view.overview.totals.cost_nano_usd > 0 { section {
                h2 { (language.fill("Spending by {0}", &[per_step])) }
                (timeline.chart(view, |totals| totals.cost_nano_usd, money))
                (legend(view))
                (timeline.numbers(view, |totals| totals.cost_nano_usd, money))
            } }
            section {
                h2 { (language.fill("Tokens by {0}", &[per_step])) }
                (timeline.chart(view, |totals| totals.total_tokens, short))
                (legend(view))
                (timeline.numbers(view, |totals| totals.total_tokens, grouped))
            }
        }
        div.pair {
            div {
                section {
                    @if query.user.is_none() && query.team.is_none() {
                        (ranking(&view.overview.others, view, language.say("By user"), GroupBy::User,
                            linked("user_id", "no name")))
                    } @else {
                        (ranking(&view.overview.others, view, language.say("By endpoint"), GroupBy::Endpoint,
                            |endpoint| name(endpoint, "–")))
                    }
                }
                @if !view.overview.teams.top.is_empty() { section {
                    (ranking(&view.overview.teams, view, language.say("By team"), GroupBy::Team, linked("team", "–")))
                } }
            }
            div {
                section {
                    (ranking(&view.overview.models, view, language.say("By model"), GroupBy::Model,
                        linked("model", "no model")))
                }
                @if !view.overview.sample.is_empty() { (times(view)) (endings(view)) }
            }
        }
        (key_table(view))
        (requests(view, "failed", language.say("Latest failed requests"), &view.overview.failed))
        (requests(view, "latest", language.say("Latest requests"), &view.overview.sample))
    }
}

fn tiles(view: &View) -> Markup {
    let (totals, language) = (&view.overview.totals, view.query.language);
    let share_of = |part, whole| share(part, whole).unwrap_or_else(|| "–".to_owned());
    let too_many = view.overview.failed.iter().filter(|entry| entry.record.status == 429).count();
    let failed = match view.overview.failed.len() {
        0 => html! { (language.say("Errors")) },
        _ => html! { a href="#failed" { (language.say("Errors")) } },
    };
    html! {
        dl.tiles {
            (tile(language.say("Cost"), &cost(totals), &notes_of_cost(view)))
            (tile(language.say("Tokens"), &short(totals.total_tokens), &[language.fill("{0} in, {1} out",
                &[&short(totals.input_tokens), &short(totals.output_tokens)])]))
            (tile(language.say("Cached input"), &share_of(totals.cached_input_tokens, totals.input_tokens),
                &[language.fill("{0} tokens", &[&short(totals.cached_input_tokens)])]))
            (tile(language.say("Requests"), &grouped(totals.requests), &[]))
            div {
                dt { (failed) }
                dd.value { (grouped(totals.errors)) }
                dd.note { (share_of(totals.errors, totals.requests)) }
            }
            (tile(language.say("429 from upstream"), &grouped(too_many as u64), &[of_failed(view)]))
            @if let Some(refused) = &view.query.refused {
                (tile(language.say("Refused for a limit"), &grouped(refused.iter().map(|of| of.count).sum()),
                    &[language.say("by this proxy, since it started").to_owned()]))
            }
        }
    }
}

/// What it was before, what it will be, and what is not in it.
fn notes_of_cost(view: &View) -> Vec<String> {
    let (totals, language) = (&view.overview.totals, view.query.language);
    let previous = view.overview.previous.map(|previous| match view.query.range {
        Range::Month | Range::LastMonth => language.fill("the month before: {0}", &[&cost(&previous)]),
        _ => language.fill("the period before: {0}", &[&cost(&previous)]),
    });
    let forecast =
        view.forecast().map(|forecast| language.fill("by the end of the month: about {0}", &[&money(forecast)]));
    let unpriced = match totals.unpriced {
        0 => None,
        1 => Some(language.say("1 request without a known price").to_owned()),
        unpriced => Some(language.fill("{0} requests without a known price", &[&grouped(unpriced)])),
    };
    [previous, forecast, unpriced].into_iter().flatten().collect()
}

/// Of which requests something is told that the sums do not have.
fn of_newest(view: &View) -> String {
    let (count, language) = (view.overview.sample.len() as u64, view.query.language);
    let shown = grouped(count);
    match count {
        _ if count == view.overview.totals.requests => language.fill("of all {0}", &[&shown]),
        _ if count < SAMPLE_MAX.into() => language.fill("of the {0} whose records are kept", &[&shown]),
        _ => language.fill("of the newest {0}", &[&shown]),
    }
}

/// The same of those that failed.
fn of_failed(view: &View) -> String {
    let (count, language) = (view.overview.failed.len() as u64, view.query.language);
    match count == view.overview.totals.errors {
        true => language.fill("of all {0} errors", &[&grouped(count)]),
        false => language.fill("of the newest {0} errors", &[&grouped(count)]),
    }
}

fn times(view: &View) -> Markup {
    let language = view.query.language;
    let rows = [
        ("to the first byte", view.times(|entry| entry.record.first_byte_us)),
        ("to the last byte", view.times(|entry| Some(entry.record.duration_us))),
        ("added by the proxy", view.times(|entry| Some(entry.record.proxy_us))),
    ];
    let cell = |times: &[u64], hundredths| percentile(times, hundredths).map_or_else(|| "–".to_owned(), duration);
    let head = html! {
        th.name scope="col" { (language.say("time")) }
        (heads(language, &["median", "90%", "99%", "longest"]))
    };
    let rows = html! { @for (what, times) in &rows { tr {
        th.name scope="row" { (language.say(what)) }
        @for hundredths in [50, 90, 99, 100] { td { (cell(times, hundredths)) } }
    } } };
    html! { section {
        h2 { (language.say("Latency")) }
        (table(language.say("Latency"), "", &head, &rows))
        p.dim { (language.fill("Requests that succeeded, {0}.", &[&of_newest(view)])) }
    } }
}

fn endings(view: &View) -> Markup {
    let (totals, language) = (&view.overview.totals, view.query.language);
    let good = totals.requests.saturating_sub(totals.errors);
    let head = html! { th.name scope="col" { (language.say("status")) } (heads(language, &["requests", "share"])) };
    let rows = html! {
        tr {
            th.name scope="row" { (language.say("succeeded")) }
            td { (grouped(good)) }
            td { (share(good, totals.requests).unwrap_or_default()) }
        }
        @for (ending, count) in view.failures() { tr {
            th.name scope="row" { (ending) }
            td { (grouped(count as u64)) }
            td { (share(count as u64, totals.requests).unwrap_or_default()) }
        } }
    };
    html! { section {
        h2 { (language.say("How requests ended")) }
        (table(language.say("How requests ended"), "", &head, &rows))
        @if totals.errors > 0 {
            p.dim { (language.fill("The status that the client was sent, {0}.", &[&of_failed(view)])) }
        }
    } }
}

/// An instant, whose year and seconds go where there is little room.
fn short_time(unix_ns: u64) -> Markup {
    let instant = second(unix_ns);
    let (year, rest) = instant.split_at_checked(5).unwrap_or(("", &instant));
    let (minute, seconds) = rest.split_at_checked(11).unwrap_or((rest, ""));
    html! { span.more { (year) } (minute) span.more { (seconds) } }
}

/// Some requests one by one, where there are any.
fn requests(view: &View, id: &str, title: &str, entries: &[Entry]) -> Markup {
    let (query, language) = (&view.query, view.query.language);
    let row = |Entry { record, .. }: &Entry| {
        html! { tr {
            th.name scope="row" { (short_time(record.started_at)) }
            @if query.user.is_none() {
                td.name { a href=(query.narrowed("user_id", &record.user)) {
                    (name(&record.user, language.say("no name")))
                } }
            }
            td.name { (name(record.model_name(), "–")) }
            td.ending.bad[record.is_error()] { (ending(record.status, record.outcome)) }
            td { (record.cost_nano_usd.map_or_else(|| "–".to_owned(), money)) }
            td.name.more { (record.endpoint.as_str()) }
            td.more { (grouped(record.usage.input_tokens)) }
            td.more { (grouped(record.usage.output_tokens)) }
            td.more { (record.first_byte_us.map_or_else(|| "–".to_owned(), duration)) }
            td.more { (duration(record.duration_us)) }
        } }
    };
    let head = html! {
        th.name scope="col" { (language.say("started")) }
        @if query.user.is_none() { th.name scope="col" { (language.say("user")) } }
        th.name scope="col" { (language.say("model")) }
        (heads(language, &["status", "cost"]))
        th.name.more scope="col" { (language.say("endpoint")) }
        @for name in ["in", "out", "first byte", "whole"] { th.more scope="col" { (language.say(name)) } }
    };
    let rows = html! { @for entry in entries.iter().take(LATEST_MAX) { (row(entry)) } };
    html! { @if !entries.is_empty() { section id=(id) { h2 { (title) } (table(title, "latest", &head, &rows)) } } }
}
