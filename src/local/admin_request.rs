//! `/admin`: what the administrator sees and changes of keys, limits and teams over HTTP, as JSON or by the forms of a
//! page.
//!
//! In: a request with its body. Out: what it asks for, or the answer that says why not, with the field that is wrong.
//! Never: the ledger.

use crate::access::{FormTokens, expiry, is_user};
use crate::base::digits::{nano_usd, whole_number};
use crate::base::percent::{self, encode};
use crate::http::reply::Fault;
use crate::limit::levels::LimitLevel;
use crate::limit::overrides::LIMIT_MAX;
use crate::local::Answer;
use crate::local::language::Language;
use crate::policy::{AllowedPaths, Models, Rule};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Largest body of a request, bytes.
pub const BODY_BYTES_MAX: usize = 16 * 1024;

/// Where the page's forms go, behind `/admin`.
pub const FORM_PATH: &str = "/form";

/// Lines of the audit in an answer, where nobody says how many, and at most.
const LINES_DEFAULT: u64 = 100;
const LINES_MAX: u64 = 1000;

/// A request of the administrator's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminRequest {
    /// `GET`, `POST` or `DELETE`.
    pub method: String,
    /// The path behind `/admin`, and the query, undecoded.
    pub path: String,
    pub query: String,
    /// All of it, once it is here.
    pub body: Vec<u8>,
    /// Who asks, for the audit.
    pub who: String,
    /// Nanoseconds since the Unix epoch.
    pub now: u64,
    /// What a form must hold.
    pub form_tokens: FormTokens,
    /// Of the page.
    pub language: Language,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminCommand {
    /// The page, whose form of limits begins with those of a level and a name.
    ShowPage {
        chosen: Option<(String, String)>,
    },
    ListKeys,
    CreateKey {
        user: String,
        team: Option<String>,
        name: String,
        expires_at: Option<u64>,
    },
    RevokeKey(i64),
    ListLimits,
    SetLimits {
        level: LimitLevel,
        name: String,
        rule: Rule,
    },
    ClearLimits {
        level: LimitLevel,
        name: String,
    },
    ListUsers,
    SetTeam {
        user: String,
        team: Option<String>,
    },
    DeleteTeam {
        team: String,
        move_to: Option<String>,
    },
    /// Lines before this one, at most so many.
    Audit {
        before: i64,
        max: usize,
    },
}

impl AdminRequest {
    /// Reads it.
    ///
    /// # Errors
    /// There is no such thing, it is not done so, or a field is wrong: nothing is changed then.
    pub fn command(&self) -> Result<AdminCommand, Answer> {
        let segments: Option<Vec<String>> =
            self.path.split('/').filter(|part| !part.is_empty()).map(percent::decode).collect();
        let segments = segments.ok_or_else(|| bad("the path is not percent-encoded UTF-8"))?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (method, parameters) = (self.method.as_str(), self.parameters()?);
        if !parameters.is_empty() && !matches!((method, &segments[..]), ("DELETE", ["teams", _]) | (_, [] | ["audit"]))
        {
            return Err(bad("this takes no parameters"));
        }
        Ok(match (method, &segments[..]) {
            ("GET", []) => chosen(parameters)?,
            ("GET", ["keys"]) => AdminCommand::ListKeys,
            ("POST", ["keys"]) => self.create_key()?,
            ("DELETE", ["keys", id]) => AdminCommand::RevokeKey(id.parse().map_err(|_| no_such())?),
            ("GET", ["limits"]) => AdminCommand::ListLimits,
            ("POST", ["limits", target @ ..]) => {
                let (level, name) = level(target)?;
                AdminCommand::SetLimits { level, name, rule: self.rule()? }
            }
            ("DELETE", ["limits", target @ ..]) => {
                let (level, name) = level(target)?;
                AdminCommand::ClearLimits { level, name }
            }
            ("GET", ["users"]) => AdminCommand::ListUsers,
            ("POST", ["users", user]) => {
                let mut fields = self.fields()?;
                let team = fields.remove("team").ok_or_else(|| wrong("team", "expected a team's name, or null"))?;
                let team = if team.is_null() { None } else { Some(name("team", &team)?) };
                none_left(&fields)?;
                AdminCommand::SetTeam { user: named(user)?, team }
            }
            ("DELETE", ["teams", team]) => delete_team(team, &parameters)?,
            ("GET", ["audit"]) => audit(&parameters)?,
            (_, [] | ["form"] | ["keys" | "limits" | "users" | "teams" | "audit", ..]) => {
                return Err(Answer::error(Fault::MethodNotAllowed, "this is not done here so; see the manual", None));
            }
            _ => return Err(no_such()),
        })
    }

    /// True for what a form of the page sends.
    pub fn is_form(&self) -> bool {
        self.method == "POST" && self.path == FORM_PATH
    }

    /// The request that does what a form says.
    ///
    /// # Errors
    /// The form is not of our page, or not read.
    pub fn of_form(&self) -> Result<Self, Answer> {
        let body = std::str::from_utf8(&self.body).map_err(|_| bad("the form is not UTF-8"))?;
        let mut fields = BTreeMap::new();
        for pair in body.split('&').filter(|pair| !pair.is_empty()) {
            let (field, value) = super::usage_report::decoded(pair).map_err(bad)?;
            if fields.contains_key(&field) {
                return Err(wrong(&field, "it is given more than once"));
            }
            fields.insert(field, value.trim().to_owned());
        }
        let mut take = |field: &str| fields.remove(field).unwrap_or_default();
        if !self.form_tokens.accept(&take("token")) {
            return Err(Answer::error(
                Fault::Forbidden,
                "this form is too old, or not of this page: send it again",
                None,
            ));
        }
        let what = take("do");
        let target = |level: &str, name: &str| match level {
            "total" if name.is_empty() => "/limits/total".to_owned(),
            level => format!("/limits/{level}/{}", encode(name)),
        };
        let (method, path, query) = match what.as_str() {
            "create_key" => ("POST", "/keys".to_owned(), String::new()),
            "revoke_key" => ("DELETE", format!("/keys/{}", encode(&take("id"))), String::new()),
            "set_limits" => ("POST", target(&take("level"), &take("name")), String::new()),
            "clear_limits" => ("DELETE", target(&take("level"), &take("name")), String::new()),
            "set_team" => ("POST", format!("/users/{}", encode(&take("user"))), String::new()),
            "delete_team" => {
                let move_to = Some(take("move_to")).filter(|team| !team.is_empty());
                let query = move_to.map(|team| format!("move_to={}", encode(&team)));
                ("DELETE", format!("/teams/{}", encode(&take("team"))), query.unwrap_or_default())
            }
            _ => return Err(wrong("do", "there is no such form")),
        };
        let mut members = Map::new();
        for (field, value) in fields {
            // What was left empty is not said, but for a team: nobody is in none by leaving something out.
            let value = match whole_number(value.as_bytes()) {
                _ if value.is_empty() => match what == "set_team" {
                    true => Value::Null,
                    false => continue,
                },
                Some(number) if matches!(&*field, "rpm" | "tpm" | "concurrent") => number.into(),
                _ => value.into(),
            };
            members.insert(field, value);
        }
        if what == "set_team" {
            members.entry("team").or_insert(Value::Null);
        }
        let body = if method == "POST" { Value::from(members).to_string().into_bytes() } else { Vec::new() };
        Ok(Self { method: method.to_owned(), path, query, body, ..self.clone() })
    }

    fn create_key(&self) -> Result<AdminCommand, Answer> {
        let mut fields = self.fields()?;
        let user = fields.remove("user").ok_or_else(|| wrong("user", "expected a user's name"))?;
        let user = name("user", &user)?;
        let mut optional = |field: &str| fields.remove(field).map(|value| name(field, &value)).transpose();
        let (team, label, expires) = (optional("team")?, optional("name")?, optional("expires")?);
        none_left(&fields)?;
        let expires_at =
            expires.map(|text| expiry(&text, self.now).map_err(|why| wrong("expires", why))).transpose()?;
        Ok(AdminCommand::CreateKey { user, team, name: label.unwrap_or_default(), expires_at })
    }

    /// Limits by the names of the command's options.
    fn rule(&self) -> Result<Rule, Answer> {
        let mut rule = Rule::default();
        for (field, value) in &self.fields()? {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let count = || {
                let count = value.as_u64().filter(|&count| count <= LIMIT_MAX);
                count.ok_or_else(|| wrong(field, format!("expected a whole number, 0 to {LIMIT_MAX}")))
            };
            let money =
                || nano_usd(&text).ok_or_else(|| wrong(field, "expected an amount in US dollars, as in 5 or \"0.50\""));
            match field.as_str() {
                "rpm" => rule.limits.rpm = Some(count()?),
                "tpm" => rule.limits.tpm = Some(count()?),
                "concurrent" => rule.limits.concurrent = Some(u32::try_from(count()?).unwrap_or(u32::MAX)),
                "usd_day" => rule.limits.day_nano_usd = Some(money()?),
                "usd_month" => rule.limits.month_nano_usd = Some(money()?),
                "models" => {
                    let expected = || wrong(field, format!("expected {}", Models::EXPECTED));
                    rule.models = Some(value.as_str().and_then(Models::parse).ok_or_else(expected)?);
                }
                "paths" => {
                    let expected = || wrong(field, format!("expected {}", AllowedPaths::EXPECTED));
                    rule.paths = Some(value.as_str().and_then(AllowedPaths::parse).ok_or_else(expected)?);
                }
                _ => return Err(unknown(field)),
            }
        }
        match rule == Rule::default() {
            true => Err(bad("no limit is named: rpm, tpm, concurrent, usd_day, usd_month, models or paths")),
            false => Ok(rule),
        }
    }

    /// The members of the body. A repeated one is none: readers differ in which they take.
    fn fields(&self) -> Result<Map<String, Value>, Answer> {
        let (mut repeated, mut fields) = (None, Map::new());
        let whole = crate::usage::each_member::each_member(&self.body, |key, value| {
            let value = serde_json::from_str(value.get()).unwrap_or(Value::Null);
            if fields.insert(key.to_owned(), value).is_some() {
                repeated = Some(key.to_owned());
            }
        });
        match (whole, repeated) {
            (Err(_), _) => Err(bad("the body is not a JSON object")),
            (Ok(()), Some(field)) => Err(wrong(&field, "it is given more than once")),
            (Ok(()), None) => Ok(fields),
        }
    }

    fn parameters(&self) -> Result<Vec<(String, String)>, Answer> {
        let pairs = self.query.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| super::usage_report::decoded(pair).map_err(bad)).collect()
    }
}

fn chosen(parameters: Vec<(String, String)>) -> Result<AdminCommand, Answer> {
    let (mut level, mut name) = (None, None);
    for (parameter, value) in parameters {
        let slot = match parameter.as_str() {
            "level" => &mut level,
            "name" => &mut name,
            _ => return Err(unknown(&parameter)),
        };
        if slot.replace(value).is_some() {
            return Err(wrong(&parameter, "it is given more than once"));
        }
    }
    Ok(AdminCommand::ShowPage { chosen: level.map(|level| (level, name.unwrap_or_default())) })
}

fn delete_team(team: &str, parameters: &[(String, String)]) -> Result<AdminCommand, Answer> {
    let move_to = match parameters {
        [] => None,
        [(parameter, to)] if parameter == "move_to" => Some(named(to)?),
        [(parameter, _), ..] => return Err(unknown(parameter)),
    };
    Ok(AdminCommand::DeleteTeam { team: named(team)?, move_to })
}

fn audit(parameters: &[(String, String)]) -> Result<AdminCommand, Answer> {
    let (mut before, mut max) = (None, None);
    for (parameter, value) in parameters {
        let number = whole_number(value.as_bytes()).and_then(|number| i64::try_from(number).ok());
        let number = number.ok_or_else(|| wrong(parameter, "expected a whole number"))?;
        let slot = match parameter.as_str() {
            "cursor" => &mut before,
            "limit" if (1..=LINES_MAX as i64).contains(&number) => &mut max,
            "limit" => return Err(wrong("limit", format!("expected 1 to {LINES_MAX}"))),
            _ => return Err(unknown(parameter)),
        };
        if slot.replace(number).is_some() {
            return Err(wrong(parameter, "it is given more than once"));
        }
    }
    let max = max.unwrap_or(LINES_DEFAULT as i64).unsigned_abs() as usize;
    Ok(AdminCommand::Audit { before: before.unwrap_or(i64::MAX), max })
}

/// `user/NAME`, `team/NAME` or `total`.
fn level(target: &[&str]) -> Result<(LimitLevel, String), Answer> {
    match target {
        ["total"] => Ok((LimitLevel::Total, String::new())),
        ["user", name] => Ok((LimitLevel::User, named(name)?)),
        ["team", name] => Ok((LimitLevel::Team, named(name)?)),
        _ => Err(no_such()),
    }
}

fn named(text: &str) -> Result<String, Answer> {
    match is_user(text) {
        true => Ok(text.to_owned()),
        false => Err(bad("a name has 1 to 128 bytes, and no control character")),
    }
}

fn name(field: &str, value: &Value) -> Result<String, Answer> {
    let named = value.as_str().filter(|text| is_user(text));
    named.map(str::to_owned).ok_or_else(|| wrong(field, "expected 1 to 128 bytes, and no control character"))
}

fn none_left(fields: &Map<String, Value>) -> Result<(), Answer> {
    fields.keys().next().map_or(Ok(()), |field| Err(unknown(field)))
}

fn bad(message: impl AsRef<str>) -> Answer {
    Answer::error(Fault::BadRequest, message.as_ref(), None)
}

fn wrong(field: &str, why: impl std::fmt::Display) -> Answer {
    Answer::error(Fault::BadRequest, &format!("`{field}`: {why}"), Some(field))
}

fn unknown(field: &str) -> Answer {
    wrong(super::usage_report::shown(field), "there is no such field here")
}

fn no_such() -> Answer {
    Answer::error(Fault::NotFound, "there is no such thing here", None)
}
