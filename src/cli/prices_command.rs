//! `proxy-server prices`: what a model costs, and where that comes from.

use super::{Command, is_json, next, unexpected};
use crate::base::visible::visible;
use crate::config::Config;
use crate::local::humanize::{day, instant, second};
use crate::local::text_table::{Column, table};
use crate::price::{About, ListedModel, ListedPrice, PriceSource, PriceTable};
use crate::worker::price_fetcher;
use lexopt::{Arg, Parser};
use serde_json::{Value, json};

/// The text of `prices --help`.
pub const HELP: &str = include_str!("prices_help.txt");

/// What the list of all models shows of each: a price of the default tier, for requests of any size.
const SHOWN: [&str; 3] = ["input", "cached input", "output"];
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Which prices to show, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PricesCommand {
    /// All where none.
    model: Option<String>,
    json: bool,
}

pub(super) fn parse(parser: &mut Parser) -> Result<Command, String> {
    let mut command = PricesCommand::default();
    while let Some(argument) = next(parser)? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Print(HELP)),
            Arg::Long("format") => command.json = is_json(parser)?,
            Arg::Value(model) if command.model.is_none() => {
                command.model = Some(model.to_string_lossy().into_owned());
            }
            other => return Err(unexpected(&other)),
        }
    }
    Ok(Command::Prices(command))
}

/// Runs the command: what to print.
///
/// # Errors
/// One sentence: there is no such model, and which names are near.
pub fn run(command: &PricesCommand, config: &Config) -> Result<String, String> {
    let prices = price_fetcher::known(config)?;
    let Some(name) = &command.model else {
        let all = prices.all_listed();
        return Ok(if command.json {
            pretty(&all.iter().map(|model| object(&prices, model)).collect())
        } else {
            list(&all)
        });
    };
    let model = prices.listed(name).ok_or_else(|| unknown(&prices, name))?;
    Ok(if command.json { pretty(&object(&prices, &model)) } else { one(&prices, name, &model) })
}

fn unknown(prices: &PriceTable, name: &str) -> String {
    let near = prices.near(name).join(", ");
    let near = visible(&near);
    format!("no prices are known of {name:?}, so that its cost would be null; near are {near}")
}

fn list(all: &[ListedModel]) -> String {
    let price = |model: &ListedModel, what| {
        let is_meant = |price: &&ListedPrice| (price.what, price.tier, price.above_tokens) == (what, "default", 0);
        model.prices.iter().find(is_meant).map_or_else(|| "-".to_owned(), |price| price.usd.clone())
    };
    let rows = all.iter().map(|model| {
        let [input, cached, output] = SHOWN.map(|what| price(model, what));
        vec![model.name.clone(), input, cached, output, model.source.as_str().to_owned()]
    });
    let [input, cached, output] = ["INPUT", "CACHED", "OUTPUT"].map(Column::Right);
    let list = table(&[Column::Left("MODEL"), input, cached, output, Column::Left("FROM")], &rows.collect::<Vec<_>>());
    format!("{list}US dollars for a million tokens; `prices MODEL` shows all of a model.\n")
}

fn one(prices: &PriceTable, asked: &str, model: &ListedModel) -> String {
    let rows = model.prices.iter().map(|price| {
        let size = match price.above_tokens {
            0 => String::new(),
            above => format!("input above {above}"),
        };
        vec![price.what.to_owned(), price.usd.clone(), price.unit.to_owned(), price.tier.to_owned(), size]
    });
    let [unit, tier, size] = ["FOR", "TIER", "REQUESTS"].map(Column::Left);
    let mut out = match asked == model.name {
        true => format!("{}\n\n", visible(asked)),
        false => format!("{}, priced as {}\n\n", visible(asked), visible(&model.name)),
    };
    match model.prices.is_empty() {
        true => out.push_str("It has no price: its cost is null.\n"),
        false => out.push_str(&table(
            &[Column::Left("PRICE OF"), Column::Right("USD"), unit, tier, size],
            &rows.collect::<Vec<_>>(),
        )),
    }
    out.push_str(&format!("\nFrom: {}\n", source(prices, model.source)));
    let (factor, region) = prices.adjustments();
    if let Some(factor) = factor {
        out.push_str(&format!("PRICE_FACTOR: times {factor}, included above\n"));
    }
    match (region, model.uplift.as_deref()) {
        (None, _) | (Some(_), Some("1")) => {}
        (Some(region), Some(uplift)) => {
            out.push_str(&format!("Region {region}: times {uplift} on all but fees, included above\n"));
        }
        (Some(region), None) => {
            let why = "times a factor that the table does not have: the cost is null";
            out.push_str(&format!("Region {region}: {why}\n"));
        }
    }
    out
}

/// Where prices come from, and of when they are.
fn source(prices: &PriceTable, source: PriceSource) -> String {
    let when = updated(prices, source).map(|at| format!(", of {} UTC", second(at))).unwrap_or_default();
    match source {
        PriceSource::BuiltIn => {
            let about = About::built_in();
            let part = |part: Option<String>| part.unwrap_or_default();
            format!("built in, {} ({}), of {}", part(about.source), part(about.version), part(about.date))
        }
        source => format!("{}{when}", source.as_str()),
    }
}

/// When that was, nanoseconds since the Unix epoch.
fn updated(prices: &PriceTable, source: PriceSource) -> Option<u64> {
    let dates = prices.dates();
    let (_, at) = dates.iter().find(|(of, _)| *of == source)?;
    Some(at.saturating_mul(NANOS_PER_SECOND))
}

/// What `check` says of the table's age.
pub(super) fn ages(prices: &PriceTable) -> String {
    let of = |(source, at): (PriceSource, u64)| {
        format!("{} of {}", source.as_str(), day(at.saturating_mul(NANOS_PER_SECOND)))
    };
    prices.dates().into_iter().map(of).collect::<Vec<_>>().join(", ")
}

fn object(prices: &PriceTable, model: &ListedModel) -> Value {
    let (factor, region) = prices.adjustments();
    let list = model.prices.iter().map(|price| {
        json!({
            "price_of": price.what, "usd": price.usd, "unit": price.unit, "tier": price.tier,
            "above_input_tokens": price.above_tokens,
        })
    });
    let about = About::built_in();
    json!({
        "model": model.name,
        "source": model.source.as_str(),
        "version": about.version.filter(|_| model.source == PriceSource::BuiltIn),
        "updated": updated(prices, model.source).map(instant),
        "factor": factor.unwrap_or_else(|| "1".to_owned()),
        "region": region,
        "uplift": model.uplift,
        "max_input_tokens": model.input_tokens_max,
        "max_output_tokens": model.output_tokens_max,
        "prices": list.collect::<Vec<_>>(),
    })
}

pub(super) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
