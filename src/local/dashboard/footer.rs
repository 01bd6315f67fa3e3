//! What stands below: when the page was made, of which part of a fleet it is, and how old its prices are.
//!
//! In: a view. Out: markup.

use super::view::View;
use crate::base::clock::{DAY, SECOND};
use crate::local::humanize::{day, grouped, second};
use crate::reporting::Scope;
use maud::{Markup, html};

/// From so many days on the page says how old the newest prices are.
const PRICES_OLD_DAYS: u64 = 42;

/// All of it.
pub fn footer(view: &View) -> Markup {
    let language = view.query.language;
    html! {
        p { (language.fill("Times are UTC. As of {0}; reload to refresh.", &[&second(view.query.now)])) }
        @match view.overview.scope {
            Scope::Alone => {}
            Scope::Node => p { strong { (language.say("This node only: the fleet is out of reach.")) } }
            Scope::Fleet { nodes, fresh_to } => p {
                (language.fill("Nodes of the fleet: {0}. Complete to {1}.", &[&grouped(nodes), &second(fresh_to)]))
            }
        }
        p { (age_of_prices(view)) }
        p { a href="help/" { (language.say("Manual")) } }
    }
}

/// Of when the prices are, and a hint where all of them are old.
fn age_of_prices(view: &View) -> Markup {
    let language = view.query.language;
    let newest = view.query.prices.iter().map(|&(_, at)| at).max();
    let days = newest.map(|at| view.query.now.saturating_sub(at.saturating_mul(SECOND)) / DAY);
    let dated = view
        .query
        .prices
        .iter()
        .map(|(source, at)| language.fill("{0} of {1}", &[source.as_str(), &day(at.saturating_mul(SECOND))]));
    let dated = dated.collect::<Vec<_>>().join(", ");
    html! {
        @if let Some(days) = days {
            (language.fill("Prices: {0}.", &[&dated]))
            @if days > PRICES_OLD_DAYS {
                " " strong { (language.fill("They are {0} days old", &[&days.to_string()])) }
                " " (language.say("(PRICES_URL fetches them daily)."))
            }
        }
    }
}
