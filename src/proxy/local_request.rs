//! What a request to a local endpoint asks, and whether it may.
//!
//! In: a head. Out: a [`LocalRequest`], or a refusal. Never: a change of anything, or an answer.

use super::refusal::Refusal;
use super::route::{Local, split};
use crate::access::{Access, Reader};
use crate::base::clock::Now;
use crate::http::framing::Framing;
use crate::http::head::RequestHead;
use crate::http::reply::Fault;
use crate::local::admin_request::{self, AdminRequest, FORM_PATH};
use crate::local::dashboard::DashboardQuery;
use crate::local::language::Language;
use crate::local::manual::html::HelpQuery;
use crate::local::manual::{meant, subject};
use crate::local::usage_report::{Format, UsageQuery};
use crate::reporting::{GroupBy, Query};

/// Has a browser ask its user for the administrator's token (RFC 7617 §2).
const CHALLENGE: &[u8] = b"www-authenticate: Basic realm=\"proxy-server\", charset=\"UTF-8\"\r\n";

/// So much of a program's name is kept.
const PROGRAM_BYTES_MAX: usize = 100;

/// What a local endpoint was asked.
pub enum LocalRequest {
    /// It is elsewhere: the header line that says where.
    Elsewhere(&'static str),
    Health,
    Readiness,
    Robots,
    /// `scraper`: the program by its own name, where it is a server that scrapes.
    Metrics {
        scraper: Option<String>,
    },
    Usage(Box<UsageQuery>),
    Dashboard(Box<DashboardQuery>),
    /// A person asked for a page that cannot be: why not.
    BadDashboard(Language, String),
    Help(Box<HelpQuery>),
    /// Without its body, and without who asks.
    Admin(Box<AdminRequest>),
}

/// Reads a request to a local endpoint.
pub fn read(now: Now, head: &RequestHead<'_, '_>, local: Local, access: &Access) -> Result<LocalRequest, Refusal> {
    if local == Local::Admin {
        return admin(now, head, access).map(|request| LocalRequest::Admin(Box::new(request)));
    }
    if !matches!(head.method, "GET" | "HEAD") {
        let refusal = Refusal::new(Fault::MethodNotAllowed, "only GET and HEAD are answered here");
        return Err(refusal.with(b"allow: GET, HEAD\r\n"));
    }
    if head.framing != Framing::None {
        return Err(Refusal::new(Fault::BadRequest, "a request with a body is not answered here"));
    }
    match local {
        Local::Home => return Ok(LocalRequest::Elsewhere("location: dashboard\r\n")),
        Local::DashboardSlash => return Ok(LocalRequest::Elsewhere("location: ../dashboard\r\n")),
        Local::AdminHome => return Ok(LocalRequest::Elsewhere("location: admin/\r\n")),
        Local::HelpHome => return Ok(LocalRequest::Elsewhere("location: help/\r\n")),
        Local::Health => return Ok(LocalRequest::Health),
        Local::Ready => return Ok(LocalRequest::Readiness),
        Local::Robots => return Ok(LocalRequest::Robots),
        Local::Missing => return Err(Refusal::new(Fault::NotFound, "there is no such thing here")),
        Local::Dashboard | Local::Help | Local::Metrics | Local::Usage | Local::Admin => {}
    }
    let reader = access.reader(&head.headers, now.unix);
    if reader == Reader::Nothing {
        let message = "the administrator's token is needed here, or, for its own user's usage, a client key";
        return Err(Refusal::new(Fault::Unauthorized, message).with(CHALLENGE));
    }
    let (_, parameters) = split(head.target);
    let own = matches!(reader, Reader::Own(_));
    let bad = |message: String| Refusal::new(Fault::BadRequest, message);
    Ok(match local {
        Local::Dashboard => {
            let language = Language::accepted(fields(head, "accept-language"));
            let query = match DashboardQuery::parse(parameters, now.unix) {
                Ok(query) => query,
                Err(why) if accepts_html(head) => return Ok(LocalRequest::BadDashboard(language, why)),
                Err(why) => return Err(bad(why)),
            };
            if own && query.team.is_some() {
                return Err(Refusal::new(Fault::Forbidden, "a client key reads its own user's usage only"));
            }
            let user = readable(query.user.clone(), reader)?;
            let host = fields(head, "host").next().map(|host| String::from_utf8_lossy(host).into_owned());
            let admin = access.opens_admin(&head.headers);
            LocalRequest::Dashboard(Box::new(DashboardQuery { user, own, admin, language, host, ..query }))
        }
        Local::Usage => {
            let accepted = Format::accepted(fields(head, "accept"));
            let asked = UsageQuery::parse(parameters, now.unix, accepted).map_err(bad)?;
            if own && (asked.query.team.is_some() || asked.query.group_by == Some(GroupBy::Team)) {
                return Err(Refusal::new(Fault::Forbidden, "a client key reads its own user's usage only"));
            }
            let user = readable(asked.query.user.clone(), reader)?;
            LocalRequest::Usage(Box::new(UsageQuery { query: Query { user, ..asked.query }, own, ..asked }))
        }
        Local::Help => LocalRequest::Help(Box::new(help(head, reader)?)),
        _ if reader != Reader::Everything => {
            return Err(Refusal::new(Fault::Forbidden, "a client key reads its own user's usage only"));
        }
        _ => LocalRequest::Metrics { scraper: scraper(head) },
    })
}

/// A page of the manual, or the list of them, for whoever may see anything.
fn help(head: &RequestHead<'_, '_>, reader: Reader<'_>) -> Result<HelpQuery, Refusal> {
    let (path, _) = split(head.target);
    let name = path.strip_prefix("/help/").unwrap_or_default();
    let found = subject(name);
    if found.is_none() && !name.is_empty() {
        let near = meant(name).map(|near| format!(" /help/{near} is near.")).unwrap_or_default();
        return Err(Refusal::new(Fault::NotFound, format!("The manual has no such page.{near} /help/ lists them.")));
    }
    let own = match reader {
        Reader::Own(user) => Some(user.to_string()),
        _ => None,
    };
    Ok(HelpQuery { subject: found, language: Language::accepted(fields(head, "accept-language")), own })
}

/// The name of a program that scrapes: it accepts, by its version, a format that Prometheus has. What only looks, such
/// as curl or a browser, names none.
fn scraper(head: &RequestHead<'_, '_>) -> Option<String> {
    let is_format = |accepted: &str| accepted.contains("openmetrics-text") || accepted.contains("version=0.0.4");
    let mut accepted = fields(head, "accept").filter_map(|value| std::str::from_utf8(value).ok());
    let name = || fields(head, "user-agent").next().map(|name| &name[..name.len().min(PROGRAM_BYTES_MAX)]);
    let scrapes = head.method == "GET" && accepted.any(is_format);
    scrapes.then(|| String::from_utf8_lossy(name().unwrap_or_default()).into_owned())
}

/// A request to change or see keys, limits and teams: only with the administrator's token, also where everybody
/// may read.
fn admin(now: Now, head: &RequestHead<'_, '_>, access: &Access) -> Result<AdminRequest, Refusal> {
    if !access.opens_admin(&head.headers) {
        let message = "the administrator's token is needed here (ADMIN_TOKEN)";
        return Err(Refusal::new(Fault::Unauthorized, message).with(CHALLENGE));
    }
    if !matches!(head.method, "GET" | "HEAD" | "POST" | "DELETE") {
        let refusal = Refusal::new(Fault::MethodNotAllowed, "only GET, POST and DELETE are answered here");
        return Err(refusal.with(b"allow: GET, HEAD, POST, DELETE\r\n"));
    }
    let (path, query) = split(head.target);
    let path = path.strip_prefix("/admin").unwrap_or(path);
    let kind = if path == FORM_PATH { "application/x-www-form-urlencoded" } else { "application/json" };
    let is_kind = || fields(head, "content-type").all(|value| value.to_ascii_lowercase().starts_with(kind.as_bytes()));
    match head.framing {
        Framing::Length(length) if length > admin_request::BODY_BYTES_MAX as u64 => {
            return Err(Refusal::new(Fault::BodyTooLarge, "the request's body is too large"));
        }
        Framing::None => {}
        _ if head.method != "POST" => return Err(Refusal::new(Fault::BadRequest, "only a POST has a body here")),
        // A page of another origin cannot send JSON unasked; a form holds a token.
        _ if fields(head, "content-type").next().is_none() || !is_kind() => {
            return Err(Refusal::new(Fault::UnsupportedMediaType, format!("the body must be {kind}")));
        }
        _ => {}
    }
    Ok(AdminRequest {
        method: if head.method == "HEAD" { "GET" } else { head.method }.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        body: Vec::new(),
        who: String::new(),
        now: now.unix,
        form_tokens: access.form_tokens(now.unix),
        language: Language::accepted(fields(head, "accept-language")),
    })
}

/// True for who can show a page: a browser.
fn accepts_html(head: &RequestHead<'_, '_>) -> bool {
    fields(head, "accept").any(|value| memchr::memmem::find(value, b"text/html").is_some())
}

/// The user that is asked for as far as the reader may know it: their own, where the reader sees no other.
fn readable(user: Option<String>, reader: Reader<'_>) -> Result<Option<String>, Refusal> {
    let Reader::Own(own) = reader else { return Ok(user) };
    match user {
        Some(user) if user != **own => {
            Err(Refusal::new(Fault::Forbidden, "a client key reads the usage of its own user only"))
        }
        _ => Ok(Some(own.to_string())),
    }
}

fn fields<'h>(head: &'h RequestHead<'_, '_>, name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    head.headers.lines().iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}
