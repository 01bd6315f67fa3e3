//! What a request to a local endpoint asks, and whether it may: an answer that is known here, or a question for the
//! thread that may take its time.
//!
//! In: a head. Out: an [`Asked`], or a refusal. Never: a change of anything.

use super::replies::text;
use super::route::{Local, split};
use super::{Proxy, Question};
use crate::access::Reader;
use crate::base::clock::Now;
use crate::http::head::RequestHead;
use crate::http::reply::Fault;
use crate::local::Answer;
use crate::local::dashboard::DashboardQuery;
use crate::local::usage_report::{Format, UsageQuery};
use crate::reporting::Query;

/// What a local endpoint was asked.
pub(super) enum Asked {
    Known(Answer),
    Question(Question),
}

impl Proxy {
    pub(super) fn asked(&self, now: Now, head: &RequestHead<'_, '_>, local: Local) -> Result<Asked, (Fault, String)> {
        match local {
            Local::Home => return Ok(Asked::Known(Answer { headers: "location: dashboard\r\n", ..text(303, "") })),
            Local::Health => return Ok(Asked::Known(text(200, "ok\n"))),
            Local::Ready => return Ok(Asked::Known(self.readiness())),
            Local::Dashboard | Local::Metrics | Local::Usage => {}
        }
        let reader = self.access.reader(&head.headers, now.unix);
        if reader == Reader::Nothing {
            let message = "the administrator's token is needed here, or, for its own user's usage, a client key";
            return Err((Fault::Unauthorized, message.to_owned()));
        }
        let (_, parameters) = split(head.target);
        let bad = |message| (Fault::BadRequest, message);
        Ok(Asked::Question(match local {
            Local::Dashboard => {
                let query = DashboardQuery::parse(parameters, now.unix).map_err(bad)?;
                let user = readable(query.user.clone(), reader)?;
                let refused = self.metrics.rate_limited_of(user.as_deref());
                let own = matches!(reader, Reader::Own(_));
                Question::Dashboard(Box::new(DashboardQuery { user, own, refused, host: host(head), ..query }))
            }
            Local::Usage => {
                let UsageQuery { query, format, .. } =
                    UsageQuery::parse(parameters, now.unix, accepted(head)).map_err(bad)?;
                let query = Query { user: readable(query.user.clone(), reader)?, ..query };
                let own = matches!(reader, Reader::Own(_));
                Question::Usage(Box::new(UsageQuery { query, format, own }))
            }
            _ if reader != Reader::Everything => {
                return Err((Fault::Forbidden, "a client key reads its own user's usage only".to_owned()));
            }
            _ => Question::Metrics(Box::new(self.metrics.snapshot(self.gauges()))),
        }))
    }
}

/// The user that is asked for as far as the reader may know it: their own, where the reader sees no other.
fn readable(user: Option<String>, reader: Reader<'_>) -> Result<Option<String>, (Fault, String)> {
    let Reader::Own(own) = reader else { return Ok(user) };
    match user {
        Some(user) if user != **own => {
            Err((Fault::Forbidden, "a client key reads the usage of its own user only".to_owned()))
        }
        _ => Ok(Some(own.to_string())),
    }
}

/// The format of an answer that the request's `Accept` asks for.
fn accepted(head: &RequestHead<'_, '_>) -> Format {
    Format::accepted(fields(head, "accept"))
}

/// Where the proxy was reached, to be shown.
fn host(head: &RequestHead<'_, '_>) -> Option<String> {
    fields(head, "host").next().map(|host| String::from_utf8_lossy(host).into_owned())
}

fn fields<'h>(head: &'h RequestHead<'_, '_>, name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    head.headers.lines().iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}
