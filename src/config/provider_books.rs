//! What the ledger is held against: `OPENAI_ADMIN_KEY`, `RECONCILE`, `RECONCILE_API_KEY_IDS`, `RECONCILE_PROJECT_IDS`.
//!
//! In: the variables. Out: a [`ProviderBooks`]. Never: a request.

use super::secret::Secret;
use super::source::Source;
use crate::base::list::list;

/// Keys and projects that are asked for, each: more would not fit into a request's head.
const IDS_MAX: usize = 100;

/// How OpenAI's own books are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderBooks {
    /// `OPENAI_ADMIN_KEY`: an administrator's key of the organisation; used for nothing else.
    pub admin_key: Option<Secret>,
    /// `RECONCILE`: a server compares each day by itself.
    pub daily: bool,
    /// `RECONCILE_API_KEY_IDS`: only what these keys made; all where there is none.
    pub key_ids: Vec<String>,
    /// `RECONCILE_PROJECT_IDS`: only what belongs to these projects.
    pub project_ids: Vec<String>,
}

impl ProviderBooks {
    /// `admin_key` is read already.
    pub(super) fn read(source: &mut Source<'_>, admin_key: Option<Secret>) -> Self {
        let daily = source.word("RECONCILE", false, &[("off", false), ("daily", true)]);
        let key_ids =
            ids(source, "RECONCILE_API_KEY_IDS", "ids of keys, as in key_abc,key_def (not the keys themselves)");
        let project_ids = ids(source, "RECONCILE_PROJECT_IDS", "ids of projects, as in proj_abc,proj_def");
        let is_filtered = !key_ids.is_empty() || !project_ids.is_empty();
        if admin_key.is_none() && (daily || is_filtered) {
            let name = if daily { "RECONCILE=daily" } else { "RECONCILE_API_KEY_IDS or RECONCILE_PROJECT_IDS" };
            source.warnings.push(format!("{name} is set without OPENAI_ADMIN_KEY: nothing is compared"));
        }
        Self { admin_key, daily, key_ids, project_ids }
    }
}

fn ids(source: &mut Source<'_>, name: &'static str, expected: &str) -> Vec<String> {
    let is_id = |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    // A key in its id's place is refused, and not repeated.
    let entry =
        |id: &str| (is_id(id) && (1..=128).contains(&id.len()) && !id.starts_with("sk-")).then(|| id.to_owned());
    let read = |text: &str| list(text, entry).filter(|ids| ids.len() <= IDS_MAX);
    source.optional(name, expected, read).unwrap_or_default()
}
