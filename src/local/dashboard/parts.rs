//! The parts that the page is made of: tiles, charts with their legends, tables with bars.
//!
//! In: sums. Out: markup, in which every name is escaped by `maud`.

use super::chart::{Chart, SIZES, mark_of};
use super::time_range::Step;
use super::view::{View, cost};
use crate::base::percent::encode;
use crate::base::visible::visible;
use crate::local::humanize::{grouped, instant, share, short};
use crate::local::language::Language;
use crate::reporting::{GroupBy, Ranking, Totals};
use maud::{Markup, PreEscaped, html};

/// A name that somebody chose. Its direction of writing stays its own.
pub fn name(name: &str, nameless: &str) -> Markup {
    html! { @if name.is_empty() { span.dim { (nameless) } } @else { bdi { (visible(name)) } } }
}

/// One figure of many, with what is to be said of it.
pub fn tile(title: &str, value: &str, notes: &[String]) -> Markup {
    html! { div { dt { (title) } dd.value { (value) } @for note in notes { dd.note { (note) } } } }
}

/// A table that scrolls by itself where it is too wide.
pub fn table(title: &str, class: &str, head: &Markup, rows: &Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(title) {
            table class=(class) { caption.unseen { (title) } thead { tr { (head) } } tbody { (rows) } }
        }
    }
}

/// Heads of columns of numbers.
pub fn heads(language: Language, names: &[&'static str]) -> Markup {
    html! { @for name in names { th scope="col" { (language.say(name)) } } }
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
        let end = view.query.range.to(view.query.now).map_or(view.query.now, |to| to.saturating_sub(1));
        let last = starts.max().unwrap_or(0).max(end);
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
    pub fn chart(&self, view: &View, of: fn(&Totals) -> u64, amount: fn(u64) -> String) -> Markup {
        let series: Vec<Vec<u64>> = self.sums.iter().map(|sums| sums.iter().map(of).collect()).collect();
        let chart = Chart { labels: &self.labels, series: &series, colours: &view.colours(), amount };
        let [wide, narrow] = SIZES.map(|size| chart.svg(size));
        // The chart holds numbers and labels of ours only.
        html! {
            div.chart.wide aria-hidden="true" { (PreEscaped(wide)) }
            div.chart.narrow aria-hidden="true" { (PreEscaped(narrow)) }
        }
    }

    /// The same in numbers, for those whom a picture does not help: the latest first, and each model.
    pub fn numbers(&self, view: &View, of: fn(&Totals) -> u64, amount: fn(u64) -> String) -> Markup {
        let language = view.query.language;
        let sum = |place: usize| {
            let mut sum = Totals::default();
            self.sums.iter().for_each(|sums| sum.add(&sums[place]));
            sum
        };
        let places = (0..self.labels.len()).rev().map(|place| (place, sum(place)));
        let places: Vec<_> = places.filter(|(_, totals)| totals.requests > 0).collect();
        let head = html! {
            th.name scope="col" { (language.say(self.step.as_str())) " (UTC)" }
            (heads(language, &["requests", "errors", "all models"]))
            @for (model, _) in &view.overview.series { th scope="col" { (series_name(language, model.as_deref())) } }
        };
        let rows = html! {
            @for (place, totals) in &places { tr {
                th.name scope="row" { (self.step.name(self.first + *place as i64)) }
                td { (grouped(totals.requests)) }
                (errors(totals))
                td { (amount(of(totals))) }
                @for sums in &self.sums { td { (amount(of(&sums[*place]))) } }
            } }
        };
        let title = language.say("In numbers");
        html! { details { summary { (title) } (table(title, "", &head, &rows)) } }
    }
}

fn series_name(language: Language, model: Option<&str>) -> Markup {
    match model {
        Some(model) => name(model, language.say("no model")),
        None => html! { (language.say("other models")) },
    }
}

/// Which mark is whose.
pub fn legend(view: &View) -> Markup {
    html! {
        ul.legend { @for ((model, _), colour) in view.overview.series.iter().zip(view.colours()) { li {
            svg viewBox="0 0 1 1" aria-hidden="true" { rect width="1" height="1" fill=(mark_of(colour)) {} }
            (series_name(view.query.language, model.as_deref()))
        } } }
    }
}

/// A table of the largest sums with bars, one row for all others, and links to all of them in other forms.
pub fn ranking(of: &Ranking, view: &View, title: &str, by: GroupBy, show: impl Fn(&str) -> Markup) -> Markup {
    let (language, amount) = (view.query.language, shown_of(view));
    let most = of.top.iter().map(|(_, totals)| amount(totals)).max().unwrap_or(0);
    let head = html! {
        th.name scope="col" { (language.say(by.as_str())) }
        (heads(language, &["requests", "errors", "tokens", "cached", "cost"]))
    };
    let rows = html! {
        @for (name, totals) in &of.top { tr {
            th.name scope="row" { (show(name)) (bar(amount(totals), most)) }
            (numbers(totals))
        } }
        (others(of, view, by, 0))
    };
    html! {
        h2 { (title) }
        (table(title, "rank", &head, &rows))
        (forms(view, by))
    }
}

/// What bars are of: the first of these that is known.
pub fn shown_of(view: &View) -> fn(&Totals) -> u64 {
    match view.overview.totals {
        Totals { cost_nano_usd: 1.., .. } => |totals| totals.cost_nano_usd,
        Totals { total_tokens: 1.., .. } => |totals| totals.total_tokens,
        _ => |totals| totals.requests,
    }
}

/// The row of all that are not named, which leads to them; so many columns stay empty before its numbers.
pub fn others<N>(of: &Ranking<N>, view: &View, by: GroupBy, empty: usize) -> Markup {
    let say = |others| view.query.language.fill("{0} others", &[&grouped(others)]);
    html! {
        @if of.others > 0 { tr.others {
            th.name scope="row" { a href=(usage_link(view, by, "text")) { (say(of.others as u64)) } }
            @for _ in 0..empty { td {} }
            (numbers(&of.of_others))
        } }
    }
}

/// Links to all of them in other forms.
pub fn forms(view: &View, by: GroupBy) -> Markup {
    html! { p.dim.forms {
        @for format in ["csv", "json"] { a href=(usage_link(view, by, format)) { (format.to_uppercase()) } " " }
    } }
}

/// The same sums by `/usage`.
fn usage_link(view: &View, by: GroupBy, format: &str) -> String {
    let query = &view.query;
    let ends = [("from", query.from()), ("to", query.range.to(query.now))];
    let ends = ends.into_iter().filter_map(|(name, end)| Some(format!("&{name}={}", encode(&instant(end?)))));
    let filters = query.filters().map(|(name, value)| format!("&{name}={}", encode(value)));
    let parameters: String = ends.chain(filters).collect();
    format!("usage?format={format}&group_by={}{parameters}", by.as_str())
}

/// The cells of a sum.
pub fn numbers(totals: &Totals) -> Markup {
    html! {
        td { (grouped(totals.requests)) }
        (errors(totals))
        td title=(grouped(totals.total_tokens)) { (short(totals.total_tokens)) }
        td { (share(totals.cached_input_tokens, totals.input_tokens).unwrap_or_else(|| "–".to_owned())) }
        td { (cost(totals)) }
    }
}

fn errors(totals: &Totals) -> Markup {
    html! { td.bad[totals.errors > 0] { (grouped(totals.errors)) } }
}

/// A bar as long as a value is of the largest.
pub fn bar(value: u64, most: u64) -> Markup {
    let thousandths = (u128::from(value) * 1000).checked_div(u128::from(most)).unwrap_or(0);
    html! {
        svg viewBox="0 0 1000 1" preserveAspectRatio="none" aria-hidden="true" {
            rect width=(thousandths) height="1" {}
        }
    }
}
