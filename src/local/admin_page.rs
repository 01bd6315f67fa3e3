//! `GET /admin/`: keys, limits and teams for a person with a browser, with a form for each change. What it lists are
//! the documents of `/admin/…`; what its forms send is read as the requests to them are.
//!
//! In: documents, and what has just happened. Out: one HTML document without a script. Every form holds a token that
//! no other page can know. Never: a secret, but a new key's, once.

use super::Answer;
use super::dashboard::{level_title, table};
use super::document::document;
use super::humanize::grouped;
use super::language::Language;
use crate::base::percent::encode;
use crate::base::visible::visible;
use maud::{Markup, html};
use serde_json::Value;

/// Documents of each list that are shown.
pub const LISTED_MAX: usize = 2000;
/// Changes that are shown.
pub const CHANGES_MAX: usize = 20;

/// Where the forms go: beside the page.
const ACTION: &str = "form";
/// The limits of a form, with what a field expects.
const LIMITS: [(&str, &str); 7] = [
    ("rpm", "60"),
    ("tpm", "100000"),
    ("concurrent", "4"),
    ("usd_day", "0.50"),
    ("usd_month", "10"),
    ("models", "gpt-4o*,gpt-5-mini"),
    ("paths", "chat/completions"),
];

/// What has just happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Nothing that must be told.
    Nothing,
    /// A key was made; this is its only showing.
    NewKey { user: String, key: String },
    /// A form was refused, with this status.
    Refused { status: u16, why: String },
}

/// What the page shows.
#[derive(Clone, Debug)]
pub struct AdminPage {
    pub language: Language,
    /// For the forms.
    pub token: String,
    pub keys: Vec<Value>,
    pub limits: Vec<Value>,
    pub users: Vec<Value>,
    pub audit: Vec<Value>,
    /// Level and name that the form of limits begins with.
    pub chosen: Option<(String, String)>,
    pub notice: Notice,
}

impl AdminPage {
    /// The page.
    pub fn answer(&self) -> Answer {
        let say = |text| self.language.say(text);
        let status = match &self.notice {
            Notice::Refused { status, .. } => *status,
            Notice::NewKey { .. } => 201,
            Notice::Nothing => 200,
        };
        let head = html! { div {
            h1 { (say("Keys, limits and teams")) }
            p { a href="../dashboard" { (say("Usage")) } }
        } };
        let main = html! {
            (self.notice())
            section { h2 { (say("Limits")) } (self.limits_table()) (self.limits_form()) }
            section { h2 { (say("Keys")) } (self.keys_table()) (self.key_form()) }
            section { h2 { (say("Teams")) } (self.users_table()) (self.team_forms()) }
            section { h2 { (say("Latest changes")) } (self.audit_table()) }
        };
        document(status, self.language, say("Keys, limits and teams"), &head, &main, &html! {})
    }

    fn notice(&self) -> Markup {
        match &self.notice {
            Notice::Nothing => html! {},
            Notice::Refused { why, .. } => {
                html! { section role="alert" {
                    h2.bad { (self.language.say("Nothing was changed")) }
                    p { (visible(why)) }
                } }
            }
            Notice::NewKey { user, key } => html! { section role="status" {
                h2 { (self.language.fill("The key of {0}", &[&visible(user)])) }
                pre tabindex="0" { code { (key) } }
                p { (self.language.say("It is shown only now. Copy it, and give it to nobody else.")) }
            } },
        }
    }

    /// A form; `what` is what it does.
    fn form(&self, what: &str, fields: &Markup, button: &'static str) -> Markup {
        html! {
            form method="post" action=(ACTION) {
                input type="hidden" name="token" value=(self.token);
                input type="hidden" name="do" value=(what);
                (fields)
                button { (self.language.say(button)) }
            }
        }
    }

    fn field(&self, name: &str, label: &'static str, value: &str, hint: &str) -> Markup {
        html! { label { span { (self.language.say(label)) }
        input name=(name) value=(value) placeholder=(hint) maxlength="1000" autocomplete="off"; } }
    }

    fn limits_table(&self) -> Markup {
        let names = LIMITS.map(|(name, _)| name);
        let row = |rule: &Value| {
            let (level, name) = (text(rule, "level"), text(rule, "name"));
            html! { tr {
                th.name scope="row" { (self.language.say(level_title(level))) " " bdi { (visible(name)) } }
                @for limit in names { td { (shown(&rule[limit])) } }
                td.act {
                    a href={ "?level=" (level) "&name=" (encode(name)) } { (self.language.say("Change")) }
                    (self.form("clear_limits", &html! {
                        input type="hidden" name="level" value=(level);
                        input type="hidden" name="name" value=(name);
                    }, "Clear"))
                }
            } }
        };
        self.table("Limits", &["who"], &names, &self.limits, row)
    }

    fn limits_form(&self) -> Markup {
        let (level, name) = self.chosen.as_ref().map_or(("user", ""), |(level, name)| (level, name));
        let set = self.limits.iter().find(|rule| text(rule, "level") == level && text(rule, "name") == name);
        let value = |limit: &str| set.map_or_else(String::new, |rule| shown(&rule[limit]));
        self.form(
            "set_limits",
            &html! {
                label { span { (self.language.say("Of")) }
                    select name="level" { @for each in ["user", "team", "total"] {
                        option value=(each) selected[each == level] { (self.language.say(level_title(each))) }
                    } }
                }
                (self.field("name", "Name", name, "taro"))
                @for (limit, hint) in LIMITS { (self.field(limit, limit_title(limit), &value(limit), hint)) }
            },
            "Set limits",
        )
    }

    fn keys_table(&self) -> Markup {
        let row = |key: &Value| {
            let is_valid = text(key, "state") == "valid";
            html! { tr {
                th.name scope="row" { bdi { (visible(text(key, "user"))) } }
                @for field in ["team", "name"] { td { (shown(&key[field])) } }
                td { (self.language.say(state(text(key, "state")))) }
                @for field in ["created_at", "expires_at", "last_used"] { td { (shown(&key[field])) } }
                td.act { @if is_valid { (self.form("revoke_key", &html! {
                    input type="hidden" name="id" value=(shown(&key["id"]));
                }, "Revoke")) } }
            } }
        };
        self.table("Keys", &["user"], &["team", "name", "state", "created", "expires", "last used"], &self.keys, row)
    }

    fn key_form(&self) -> Markup {
        let fields = html! {
            (self.field("user", "User", "", "taro"))
            (self.field("team", "Team", "", ""))
            (self.field("name", "Name of the key", "", "laptop"))
            (self.field("expires", "Expires", "", "90d"))
        };
        self.form("create_key", &fields, "Make a key")
    }

    fn users_table(&self) -> Markup {
        let row = |user: &Value| {
            html! { tr {
                th.name scope="row" { bdi { (visible(text(user, "user"))) } }
                td { (shown(&user["team"])) }
                td.act { (self.form("set_team", &html! {
                    input type="hidden" name="user" value=(text(user, "user"));
                }, "Remove from the team")) }
            } }
        };
        self.table("Teams", &["user"], &["team"], &self.users, row)
    }

    fn team_forms(&self) -> Markup {
        let set = html! { (self.field("user", "User", "", "taro")) (self.field("team", "Team", "", "lab")) };
        let delete =
            html! { (self.field("team", "Team", "", "lab")) (self.field("move_to", "Its users go to", "", "")) };
        html! {
            (self.form("set_team", &set, "Put into the team"))
            (self.form("delete_team", &delete, "Delete the team"))
        }
    }

    fn audit_table(&self) -> Markup {
        let row = |line: &Value| {
            html! { tr {
                th.name scope="row" { (text(line, "at")) }
                td.name { (visible(text(line, "who"))) }
                td.name { (visible(text(line, "what"))) }
            } }
        };
        self.table("Latest changes", &["when", "who", "what"], &[], &self.audit, row)
    }

    /// Rows of documents; a last column without a head is for what can be done with each.
    fn table(
        &self,
        title: &'static str,
        words: &[&'static str],
        numbers: &[&'static str],
        documents: &[Value],
        row: impl Fn(&Value) -> Markup,
    ) -> Markup {
        let title = self.language.say(title);
        let head = html! {
            @for name in words { th.name scope="col" { (self.language.say(name)) } }
            @for name in numbers { th scope="col" { (self.language.say(name)) } }
            @if words.len() == 1 { td {} }
        };
        let rows = html! { @for document in documents.iter().take(LISTED_MAX) { (row(document)) } };
        let more = documents.len().saturating_sub(LISTED_MAX);
        html! {
            @if documents.is_empty() { p.dim { (self.language.say("None so far.")) } }
            @else { (table(title, "admin", &head, &rows)) }
            @if more > 0 { p.dim { (self.language.fill("{0} more are not shown.", &[&grouped(more as u64)])) } }
        }
    }
}

fn state(state: &str) -> &'static str {
    match state {
        "valid" => "valid",
        "expired" => "expired",
        _ => "revoked",
    }
}

/// What a limit is called in a form; in tables by its name, as the commands and `/admin` have it.
fn limit_title(limit: &str) -> &'static str {
    match limit {
        "rpm" => "Requests a minute",
        "tpm" => "Tokens a minute",
        "concurrent" => "Requests at once",
        "usd_day" => "USD a day",
        "usd_month" => "USD a month",
        "models" => "Models",
        _ => "Paths",
    }
}

fn text<'v>(document: &'v Value, field: &str) -> &'v str {
    document[field].as_str().unwrap_or_default()
}

/// A value of a document; nothing where it is null.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => visible(text).to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MARKUP: &str = "<script>alert(1)</script>\"'";

    fn page(notice: Notice) -> String {
        let page = AdminPage {
            language: Language::English,
            token: "the-token".to_owned(),
            keys: vec![
                json!({"id": 3, "user": MARKUP, "team": null, "name": MARKUP, "state": "valid", "created_at": "x"}),
                json!({"id": 4, "user": "b", "state": "revoked"}),
            ],
            limits: vec![json!({"level": "team", "name": MARKUP, "rpm": 7, "usd_day": 0.5, "models": MARKUP})],
            users: vec![json!({"user": MARKUP, "team": MARKUP})],
            audit: vec![json!({"at": "2026", "who": MARKUP, "what": MARKUP})],
            chosen: Some(("team".to_owned(), MARKUP.to_owned())),
            notice,
        };
        String::from_utf8(page.answer().body).unwrap()
    }

    #[test]
    fn names_are_inert_and_each_form_has_the_token() {
        let page = page(Notice::Nothing);
        assert!(!page.contains("<script"), "{page}");
        assert_eq!(page.matches("<form").count(), page.matches("name=\"token\" value=\"the-token\"").count());
        assert_eq!(page.matches("value=\"revoke_key\"").count(), 1, "a revoked key cannot be revoked");
        assert!(page.contains("name=\"rpm\" value=\"7\"") && page.contains("name=\"usd_day\" value=\"0.5\""), "{page}");
    }

    #[test]
    fn what_has_happened_stands_first() {
        let made = page(Notice::NewKey { user: "太郎".to_owned(), key: "oap_1".to_owned() });
        assert!(made.contains("The key of 太郎") && made.contains("<code>oap_1</code>"));
        let refused = Notice::Refused { status: 400, why: "`rpm`: <b>no</b>".to_owned() };
        assert!(page(refused).contains("`rpm`: &lt;b&gt;no&lt;/b&gt;"));
    }
}
