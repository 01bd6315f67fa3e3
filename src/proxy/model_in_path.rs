//! What the target of a request says of the model: Azure's deployments, and the query of a realtime session.
//!
//! In: targets as they were sent. Out: a name to show, and whether it may be priced. A deployment is called what its
//! owner likes, perhaps like another model than the one that runs there: that only the answer tells.

use super::path::normalized;
use super::route::split;
use crate::base::percent::decode;
use crate::usage::inspect::clip;
use std::borrow::Cow;
use std::sync::Arc;

/// The model as a target names it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// At most 128 bytes.
    pub name: Option<Arc<str>>,
    /// A deployment chooses the model, whatever the request calls it.
    pub deployed: bool,
}

/// Reads `…/deployments/NAME/…`, and of `…/realtime` the parameters `deployment` and `model`. What no two servers need
/// agree on names nothing: it is refused.
pub fn named(target: &str) -> Named {
    let (path, query) = split(target);
    // Nearly none has anything to undo, and looking for that is cheap.
    let path = match memchr::memchr2(b'%', b';', path.as_bytes()) {
        None => Cow::Borrowed(path),
        Some(_) => normalized(path).unwrap_or_default(),
    };
    // By bytes: a search for a character costs more than such a short text has to be read for.
    let mut segments = path.as_bytes().split(|&byte| byte == b'/').filter(|segment| !segment.is_empty());
    let (mut last, mut before): (&[u8], &[u8]) = (b"", b"");
    while let Some(segment) = segments.next() {
        if segment.eq_ignore_ascii_case(b"deployments") {
            let name = segments.next().and_then(|name| std::str::from_utf8(name).ok());
            return Named { name: name.map(|name| clip(name).into()), deployed: true };
        }
        (before, last) = (last, segment);
    }
    let last = if last.eq_ignore_ascii_case(b"translations") { before } else { last };
    if !last.eq_ignore_ascii_case(b"realtime") {
        return Named::default();
    }
    match parameter(query, "deployment") {
        Some(name) => Named { name: readable(name), deployed: true },
        None => Named { name: parameter(query, "model").and_then(readable), deployed: false },
    }
}

/// True for a target behind which every model name is that of a deployment: an address of Azure's, or one with a
/// deployment in its prefix.
pub fn is_of_deployments(authority: &str, prefix: &str) -> bool {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let suffix = host.len().checked_sub(".azure.com".len()).and_then(|start| host.get(start..));
    suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(".azure.com")) || named(prefix).deployed
}

/// The value of a parameter, in whatever case and escapes its name stands there; `None` also where it stands there
/// twice, since nobody can say which one holds.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let is_named = |spelled: &str| decode(spelled).is_some_and(|plain| plain.eq_ignore_ascii_case(name));
    let mut values = query.split('&').filter_map(|pair| pair.split_once('=')).filter(|pair| is_named(pair.0));
    let value = values.next()?.1;
    values.next().is_none().then_some(value)
}

fn readable(encoded: &str) -> Option<Arc<str>> {
    decode(encoded).filter(|name| !name.is_empty()).map(|name| clip(&name).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_and_realtime_sessions() {
        for (target, name, deployed) in [
            ("/openai/deployments/gpt%2D4o%20eu/chat/completions?api-version=1", Some("gpt-4o eu"), true),
            ("//openai//deployments//w//audio//transcriptions", Some("w"), true),
            ("/openai/deployments/%ff/embeddings", None, false),
            ("/openai/Deploy%6Dents/;x/Mine;y/chat/completions", Some("Mine"), true),
            ("/openai/deployments/100%25/embeddings", Some("100%"), true),
            ("/v1/RealTime;x?%6dodel=a&Deploymen=b", Some("a"), false),
            ("/v1/realtime?%6Dodel=a&MODEL=b", None, false),
            ("/openai/realtime?%64eployment=mine&model=a", Some("mine"), true),
            ("/openai/deployments", None, true),
            ("/v1/embeddings?x=/deployments/y&model=z", None, false),
            ("/v1/realtime?model=gpt-realtime-2025-08-28", Some("gpt-realtime-2025-08-28"), false),
            ("/v1/realtime/?call_id=c&model=a%2Fb", Some("a/b"), false),
            ("/v1/realtime?model=a&model=b", None, false),
            ("/v1/realtime?model=&x", None, false),
            ("/v1/realtime?call_id=rtc_1", None, false),
            ("/openai/realtime?api-version=1&deployment=mine&model=a", Some("mine"), true),
            ("/v1/realtime/sessions?model=a", None, false),
            ("/", None, false),
        ] {
            assert_eq!(named(target), Named { name: name.map(Arc::from), deployed }, "{target}");
        }
        let long = named(&format!("/deployments/{}", "é".repeat(100))).name.unwrap();
        assert_eq!(*long, "é".repeat(64));
    }

    #[test]
    fn targets_of_deployments() {
        assert!(is_of_deployments("me.openai.azure.com", ""));
        assert!(is_of_deployments("ME.services.ai.Azure.COM:443", "/openai/v1"));
        assert!(is_of_deployments("gateway.test", "/openai/deployments/gpt-4o"));
        assert!(!is_of_deployments("api.openai.com:443", ""));
        assert!(!is_of_deployments("azure.com.evil.test", "/v1"));
        assert!(!is_of_deployments("[::1]:8080", ""));
    }
}
