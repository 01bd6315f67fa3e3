//! Names that nobody reads: a setting that is misspelt would be silently none.
//!
//! In: a name, and the names that there are. Out: the one that was probably meant. Never: a value.

use crate::base::edit_distance::edit_distance;
use std::collections::BTreeSet;

/// Beginnings that no other program's variables have.
const FAMILIES: &[&str] = &["RATE_LIMIT_", "BUDGET_USD_", "LEDGER_", "METRICS_MAX_", "MAX_CONNECTIONS"];

/// Variables of other programs that look like ours: of OpenAI's clients, InfluxDB's image, curl, OpenSSL.
const OF_OTHERS: &[&str] = &[
    "ALL_PROXY",
    "FTP_PROXY",
    "INFLUXDB_DB",
    "INFLUXDB_HOST",
    "INFLUXDB_ORG_ID",
    "INFLUXDB_PORT",
    "INFLUXDB_USER",
    "OPENAI_API_BASE",
    "OPENAI_API_KEY_PATH",
    "OPENAI_API_TYPE",
    "OPENAI_API_VERSION",
    "OPENAI_BASE_URL",
    "OPENAI_ORGANIZATION_ID",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
    "SSL_CA_FILE",
    "SSL_CERT_FILE",
    "SSL_KEY_FILE",
];

/// Names shorter than this are everybody's: `PORT`, `HOSTNAME`, `LOGNAME`.
const DISTINCTIVE_LETTERS_MIN: usize = 8;
/// What a misspelling changes at most: a letter left out, put in, taken for another, or two that have changed places.
const SLIPS_MAX: usize = 2;

/// The name that is nearest to one in a `.env` file, which is all ours, if any is near.
pub(super) fn nearest<'n>(name: &str, known: &BTreeSet<&'n str>) -> Option<&'n str> {
    let upper = name.to_ascii_uppercase();
    let slips = |known: &&str| edit_distance(&upper, known);
    // In a short name two slips leave little of it.
    let slips_max = (upper.len() / 3).clamp(1, SLIPS_MAX + 1);
    let near = known.iter().copied().min_by_key(slips).filter(|near| edit_distance(&upper, near) <= slips_max);
    near.or_else(|| extended(&upper, known))
}

/// The name of ours that a variable of the environment was probably meant for. Most variables there are none of ours:
/// only what looks like it in more than a few letters is told of.
pub(super) fn near_miss<'n>(name: &str, known: &BTreeSet<&'n str>) -> Option<&'n str> {
    if known.contains(name) || OF_OTHERS.contains(&name) {
        return None;
    }
    let is_near = |known: &&&str| {
        known.len().min(name.len()) >= DISTINCTIVE_LETTERS_MIN && edit_distance(name, known) <= SLIPS_MAX
    };
    let near = known.iter().filter(is_near).copied().min_by_key(|known| edit_distance(name, known));
    let of_family = || {
        let is_of_family = FAMILIES.iter().any(|family| name.starts_with(family));
        known.iter().copied().filter(|_| is_of_family).min_by_key(|known| edit_distance(name, known))
    };
    near.or_else(|| extended(name, known)).or_else(of_family)
}

/// The longest distinctive name of ours that this one only adds a word to.
fn extended<'n>(name: &str, known: &BTreeSet<&'n str>) -> Option<&'n str> {
    let adds_to = |known: &&str| {
        known.len() >= DISTINCTIVE_LETTERS_MIN && name.strip_prefix(known).is_some_and(|rest| rest.starts_with('_'))
    };
    known.iter().copied().filter(adds_to).max_by_key(|known| known.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 9] = [
        "HOST",
        "LOG",
        "LOG_FORMAT",
        "OPENAI_API_KEY",
        "OPENAI_API_KEY_FILE",
        "OPENAI_PROJECT",
        "PORT",
        "RATE_LIMIT_RPM",
        "INFLUXDB_ORG",
    ];

    #[test]
    fn in_a_file_of_ours_the_nearest_is_found() {
        let known = BTreeSet::from(KNOWN);
        for (name, near) in [
            ("RATE_LIMIT_RMP", Some("RATE_LIMIT_RPM")),
            ("rate_limit_rpm", Some("RATE_LIMIT_RPM")),
            ("OPENAI_APIKEY", Some("OPENAI_API_KEY")),
            ("PROT", Some("PORT")),
            ("OPENAI_API_KEY_PATH", Some("OPENAI_API_KEY")),
            ("OPENAI_BASE_URL", None),
            ("X", None),
        ] {
            assert_eq!(nearest(name, &known), near, "{name}");
        }
    }

    #[test]
    fn in_the_environment_only_what_looks_like_ours() {
        let known = BTreeSet::from(KNOWN);
        for (name, near) in [
            ("RATE_LIMIT_RMP", Some("RATE_LIMIT_RPM")),
            ("RATE_LIMIT_REQUESTS_PER_MINUTE", Some("RATE_LIMIT_RPM")),
            ("OPENAI_API_KEY_FILES", Some("OPENAI_API_KEY_FILE")),
            ("OPENAI_APIKEY", Some("OPENAI_API_KEY")),
            ("OPENAI_API_KEY_2", Some("OPENAI_API_KEY")),
            ("LOG_FROMAT", Some("LOG_FORMAT")),
            ("OPENAI_API_KEY", None),
            ("OPENAI_BASE_URL", None),
            ("OPENAI_PROJECT_ID", None),
            ("OPENAI_MODEL", None),
            ("INFLUXDB_PORT", None),
            ("LOGNAME", None),
            ("HOSTS", None),
            ("PROT", None),
            ("LOG_LEVEL", None),
            ("PATH", None),
        ] {
            assert_eq!(near_miss(name, &known), near, "{name}");
        }
    }
}
