//! The parts that the page is made of: tiles, charts with their legends, tables with bars.
//!
//! In: sums. Out: markup, in which every name is escaped by `maud`.

use super::chart::{Chart, SIZES};
use super::time_range::{Range, Step};
use super::view::View;
use crate::base::percent::encode;
use crate::base::visible::visible;
use crate::local::humanize::{grouped, money, share, short};
use crate::reporting::{Ranking, Totals};
use maud::{Markup, PreEscaped, html};

/// A link to the page itself. Relative, so that it also holds behind a server that puts a path before it.
pub fn link(range: Range, user: Option<&str>) -> String {
    let user = user.map_or_else(String::new, |user| format!("&user_id={}", encode(user)));
    format!("dashboard?range={}{user}", range.as_str())
}

/// A name that somebody chose. Its direction of writing stays its own.
pub fn name(name: &str, nameless: &str) -> Markup {
    html! { @if name.is_empty() { span.dim { (nameless) } } @else { bdi { (visible(name)) } } }
}

pub fn tile(title: &str, value: &str, note: &str) -> Markup {
    html! { div { dt { (title) } dd.value { (value) } dd.note { (note) } } }
}

/// Sums over time, one bar a step, the steps without any included.
pub struct Timeline {
    pub step: Step,
    /// Where the first bar is.
    first: i64,
    pub labels: Vec<String>,
    /// Of each series of the view.
    sums: Vec<Vec<Totals>>,
}

impl Timeline {
    pub fn new(view: &View) -> Self {
        let starts = view.overview.series.iter().flat_map(|(_, sums)| sums.keys().copied());
        let first = view.query.from().or(starts.clone().min()).unwrap_or(view.query.now);
        // A clock that was set back must not hide what is there.
        let last = starts.max().unwrap_or(0).max(view.query.now);
        let step = Step::of(view.query.range, first, last);
        let (first, last) = (step.number(first), step.number(last));
        let place = |start: u64| usize::try_from(step.number(start) - first).unwrap_or(0);
        let labels: Vec<String> = (first..=last).map(|number| step.short(number)).collect();
        let mut sums = vec![vec![Totals::default(); labels.len()]; view.overview.series.len()];
        for (of_series, (_, found)) in sums.iter_mut().zip(&view.overview.series) {
            for (start, totals) in found {
                of_series[place(*start)].add(totals);
            }
        }
        Self { step, first, labels, sums }
    }

    /// A chart of one number of the sums.
    pub fn chart(&self, of: fn(&Totals) -> u64, amount: fn(u64) -> String) -> Markup {
        let series: Vec<Vec<u64>> = self.sums.iter().map(|sums| sums.iter().map(of).collect()).collect();
        let chart = Chart { labels: &self.labels, series: &series, amount };
        let [wide, narrow] = SIZES.map(|size| chart.svg(size));
        // The chart holds numbers and labels of ours only.
        html! {
            div.chart.wide aria-hidden="true" { (PreEscaped(wide)) }
            div.chart.narrow aria-hidden="true" { (PreEscaped(narrow)) }
        }
    }

    /// The same in numbers, for those whom a picture does not help: the latest first.
    pub fn numbers(&self) -> Markup {
        let sum = |place: usize| {
            let mut sum = Totals::default();
            self.sums.iter().for_each(|sums| sum.add(&sums[place]));
            sum
        };
        let rows = (0..self.labels.len()).rev().map(|place| (self.step.name(self.first + place as i64), sum(place)));
        html! {
            details {
                summary { "In numbers" }
                div.scroll tabindex="0" { table {
                    thead { tr {
                        th.name { (self.step.as_str()) " (UTC)" }
                        th { "requests" } th { "errors" } th { "tokens" } th { "cost" }
                    } }
                    tbody { @for (name, totals) in rows.filter(|(_, totals)| totals.requests > 0) { tr {
                        th.name scope="row" { (name) }
                        td { (grouped(totals.requests)) }
                        (errors(&totals))
                        td { (grouped(totals.total_tokens)) }
                        td { (money(totals.cost_nano_usd)) }
                    } } }
                } }
            }
        }
    }
}

/// Which mark is whose.
pub fn legend(view: &View) -> Markup {
    html! {
        ul.legend { @for (number, (model, _)) in (1..).zip(&view.overview.series) { li {
            svg viewBox="0 0 1 1" aria-hidden="true" { rect width="1" height="1" fill={ "#0" (number) "0000" } {} }
            @match model { Some(model) => (name(model, "no model")), None => "other models" }
        } } }
    }
}

/// A table of the largest sums with bars, and one row for all others.
pub fn ranking(of: &Ranking, view: &View, head: &str, show: impl Fn(&str) -> Markup) -> Markup {
    let amount: fn(&Totals) -> u64 = match view.overview.totals {
        Totals { cost_nano_usd: 1.., .. } => |totals| totals.cost_nano_usd,
        Totals { total_tokens: 1.., .. } => |totals| totals.total_tokens,
        _ => |totals| totals.requests,
    };
    let most = of.top.iter().map(|(_, totals)| amount(totals)).max().unwrap_or(0);
    html! {
        div.scroll tabindex="0" { table.rank {
            thead { tr {
                th.name { (head) } th { "requests" } th { "errors" } th { "tokens" } th { "cached" } th { "cost" }
            } }
            tbody {
                @for (name, totals) in &of.top { tr {
                    th.name scope="row" { (show(name)) (bar(amount(totals), most)) }
                    (numbers(totals))
                } }
                @if of.others > 0 { tr.others {
                    th.name scope="row" { (grouped(of.others as u64)) " others" }
                    (numbers(&of.of_others))
                } }
            }
        } }
    }
}

fn numbers(totals: &Totals) -> Markup {
    html! {
        td { (grouped(totals.requests)) }
        (errors(totals))
        td title=(grouped(totals.total_tokens)) { (short(totals.total_tokens)) }
        td { (share(totals.cached_input_tokens, totals.input_tokens).unwrap_or_else(|| "–".to_owned())) }
        td { (money(totals.cost_nano_usd)) }
    }
}

fn errors(totals: &Totals) -> Markup {
    html! { td.bad[totals.errors > 0] { (grouped(totals.errors)) } }
}

fn bar(value: u64, most: u64) -> Markup {
    let thousandths = (u128::from(value) * 1000).checked_div(u128::from(most)).unwrap_or(0);
    html! {
        svg viewBox="0 0 1000 1" preserveAspectRatio="none" aria-hidden="true" {
            rect width=(thousandths) height="1" {}
        }
    }
}
