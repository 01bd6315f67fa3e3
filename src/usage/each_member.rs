//! A walk over the members of a JSON object as the strictest reader finds it, which serde_json is.
//!
//! In: the whole object. Out: each member in turn. Never: a list of them: of a large object nothing is kept.

use serde_core::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Gives each member of a JSON object to `take`.
///
/// # Errors
/// It is no object, or not JSON.
pub fn each_member<'b>(object: &'b [u8], take: impl FnMut(&str, &'b RawValue)) -> serde_json::Result<()> {
    struct EachMember<F>(F);
    impl<'b, F: FnMut(&str, &'b RawValue)> Visitor<'b> for EachMember<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'b>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some((key, value)) = map.next_entry::<Cow<'b, str>, &'b RawValue>()? {
                (self.0)(&key, value);
            }
            Ok(())
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(object);
    reader.deserialize_map(EachMember(take))?;
    reader.end()
}
