//! `GET /dashboard`: a page for a person with a browser, who used what and how it went.
//!
//! In: a query string and `now`; an [`Overview`](crate::reporting::Overview) that the query thread found. Out: a
//! [`DashboardQuery`] or the sentence for a 400; from a [`View`], one HTML document that needs nothing else: no script,
//! no picture, no font, no other address, and a policy that has the browser refuse them all.
//!
//! Users choose their own names, and so does whoever answers for models. Every name goes through `maud`, which escapes
//! it, or into a link percent-encoded; none gets into a chart.

mod agreement_section;
mod chart;
mod dashboard_query;
mod footer;
mod key_table;
mod limit_bars;
mod page;
mod parts;
mod time_range;
mod view;

pub use dashboard_query::DashboardQuery;
pub use limit_bars::level_title;
pub use page::{answer, refusal};
pub use parts::table;
pub use time_range::{Range, Step};
pub use view::View;

#[cfg(test)]
mod tests;
