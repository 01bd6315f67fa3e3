//! What every page of ours is: one HTML document that needs nothing else, and a policy that has the browser refuse all
//! that it could be made to do.
//!
//! In: a title and a body. Out: the [`Answer`].

use super::Answer;
use super::language::Language;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use ring::digest::{SHA256, digest};
use std::sync::LazyLock;

/// The one style sheet.
const STYLE: &str = include_str!("style.css");

/// Header lines. The style is allowed by its hash, so that no other has a chance. A form of ours says where it comes
/// from, so that what a page of another origin sends can be told from it.
static HEADERS: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    format!(
        "content-security-policy: default-src 'none'; style-src 'sha256-{hash}'; img-src data:; form-action 'self'; \
         frame-ancestors 'none'; base-uri 'none'\r\n\
         x-content-type-options: nosniff\r\nreferrer-policy: same-origin\r\nvary: accept-language\r\n"
    )
});

/// A picture of three bars, so that the browser does not ask the target for one.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath \
                    fill='%233b7dd8' d='M1 9h4v6H1zM6 5h4v10H6zM11 1h4v14h-4z'/%3E%3C/svg%3E";

/// The answer with the whole document: of a head and a main part.
pub fn document(status: u16, language: Language, title: &str, head: &Markup, main: &Markup, foot: &Markup) -> Answer {
    let page = html! {
        (DOCTYPE)
        html lang=(language.tag()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { (language.say("Skip to the content")) }
                header { (head) }
                main id="main" { (main) }
                footer { (foot) }
            }
        }
    };
    Answer { headers: &HEADERS, ..Answer::new(status, "text/html; charset=utf-8", page.into_string()) }
}
