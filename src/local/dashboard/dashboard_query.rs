//! The parameters of `GET /dashboard`, and who asks.
//!
//! In: a query string and `now`. Out: a [`DashboardQuery`], or the sentence for a 400.

use super::time_range::Range;
use crate::local::usage_report::{decoded, parse_name, shown};
use crate::price::PriceDates;
use crate::reporting::OverviewQuery;

/// What the page is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DashboardQuery {
    /// Only this user's; everybody's where `None`.
    pub user: Option<String>,
    pub range: Range,
    /// The present, nanoseconds since the Unix epoch.
    pub now: u64,
    /// Whoever asks may see this user's only.
    pub own: bool,
    /// Requests that the proxy itself has refused for a limit since it started, where that is known.
    pub refused: Option<u64>,
    /// Of when the prices are.
    pub prices: PriceDates,
    /// Where the proxy was reached, as the browser called it.
    pub host: Option<String>,
}

impl DashboardQuery {
    /// Reads the query string of a target. `now` in nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// Words for the client, naming the parameter that is wrong.
    pub fn parse(raw: &str, now: u64) -> Result<Self, String> {
        let (mut user, mut range) = (None, None);
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = decoded(pair)?;
            match name.as_str() {
                // A form sends what was left empty.
                "user_id" if user.is_none() => user = Some(Some(value).filter(|value| !value.is_empty())),
                "range" if range.is_none() => range = Some(Range::parse(&value)?),
                "user_id" | "range" => return Err(format!("`{name}` is given more than once")),
                _ => return Err(format!("unknown parameter `{}`; known are user_id, range", shown(&name))),
            }
        }
        let user = user.flatten().map(|user| parse_name("user_id", user)).transpose()?;
        let range = range.unwrap_or_default();
        Ok(Self { user, range, now, own: false, refused: None, prices: PriceDates::new(), host: None })
    }

    /// The first instant of the range, where it has one.
    pub fn from(&self) -> Option<u64> {
        self.range.from(self.now)
    }

    /// What the ledger is asked for it.
    pub fn overview(&self) -> OverviewQuery {
        OverviewQuery { user: self.user.clone(), from: self.from(), hourly: self.range.is_of_hours() }
    }
}
