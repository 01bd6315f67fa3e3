//! Ids of responses, runs and batches: what a retrieval is told by to be of the same thing as a creation.
//!
//! In: an id as a body or a path has it. Out: one that fits the ledger's column. Never: one id for two.

use ring::digest::{SHA256, digest};
use std::borrow::Cow;
use std::fmt::Write as _;

/// Bytes of an id at most.
const ID_BYTES_MAX: usize = 128;
/// Of the digest that stands for what does not fit, 16 bytes in hexadecimal.
const DIGEST_BYTES: usize = 16;

/// An id in at most 128 bytes: a longer one (a gateway's may have 200) is its beginning, `~`, and half of the SHA-256
/// of the whole. Two that begin alike stay two.
pub fn bounded_id(id: &str) -> Cow<'_, str> {
    if id.len() <= ID_BYTES_MAX {
        return Cow::Borrowed(id);
    }
    let mut bounded = id[..id.floor_char_boundary(ID_BYTES_MAX - 1 - 2 * DIGEST_BYTES)].to_owned();
    bounded.push('~');
    for byte in &digest(&SHA256, id.as_bytes()).as_ref()[..DIGEST_BYTES] {
        write!(bounded, "{byte:02x}").expect("writing to a string cannot fail");
    }
    Cow::Owned(bounded)
}

#[cfg(test)]
mod tests {
    use super::bounded_id;
    use std::collections::BTreeSet;

    #[test]
    fn ids_that_begin_alike_stay_apart() {
        let longest = "r".repeat(128);
        assert_eq!(bounded_id(&longest), longest);
        let ids: Vec<String> =
            (0..9).map(|n| format!("{longest}{n}")).chain(["太".repeat(43), "太".repeat(44)]).collect();
        let bounded: BTreeSet<_> = ids.iter().map(|id| bounded_id(id)).collect();
        assert_eq!(bounded.len(), ids.len());
        assert!(bounded.iter().all(|id| (126..=128).contains(&id.len())));
        // It stands in files: the same for ever.
        assert_eq!(bounded_id(&ids[0]), format!("{}~f31f626ab005e32237e1cab191d07edd", "r".repeat(95)));
    }
}
