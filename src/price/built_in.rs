//! The table made into the binary, and what it says of itself.

use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The table, in our own format.
pub(super) const TABLE: &str = include_str!("../prices.json");

/// Where it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    pub source: Option<String>,
    pub version: Option<String>,
    /// When it was taken from there, `YYYY-MM-DD`.
    pub date: Option<String>,
}

impl About {
    /// What the built-in table says.
    pub fn built_in() -> Self {
        let entry = |json: &str, name: &str| {
            let object: BTreeMap<String, Box<RawValue>> = serde_json::from_str(json).ok()?;
            object.get(name).map(|value| value.get().to_owned())
        };
        let meta = entry(TABLE, "_meta").unwrap_or_default();
        let text = |name| serde_json::from_str(&entry(&meta, name)?).ok();
        Self { source: text("source"), version: text("version"), date: text("date") }
    }
}
