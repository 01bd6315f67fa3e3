//! Headers that servers in front of the proxy add: where a client is, which way its request came, who it was found to
//! be, under which trace it runs. They are nobody's business at the target, and a target behind a CDN refuses a request
//! with another CDN's.
//!
//! In: a header's name. Out: whether it is one of these, and whether the operator lets it pass all the same. Never: a
//! value.

/// Names, in small letters; one that ends in `*` stands for all that begin so. Those that begin with `x-` are in
/// [`EXTENDED`].
const NAMES: &[&str] = &[
    "akamai-*",
    "b3",
    "baggage",
    "cdn-loop",
    "cf-*",
    "client-ip",
    "cloudfront-*",
    "cookie",
    "cookie2",
    "elastic-apm-traceparent",
    "fastly-*",
    "fly-*",
    "forwarded",
    "grpc-trace-bin",
    "newrelic",
    "ot-tracer-*",
    "remote-*",
    "sentry-trace",
    "ssl-client-*",
    "sw8",
    "sw8-*",
    "tailscale-*",
    "traceparent",
    "tracestate",
    "true-client-ip",
    "uber-trace-id",
    "uberctx-*",
    "via",
];

/// Those of them that begin with `x-`, without that.
const EXTENDED: &[&str] = &[
    "amz-cf-id",
    "amzn-oidc-*",
    "amzn-trace-id",
    "appengine-*",
    "auth-request-*",
    "authentik-*",
    "azure-*",
    "b3-*",
    "client-ip",
    "cloud-trace-context",
    "cluster-client-ip",
    "datadog-*",
    "dynatrace",
    "envoy-*",
    "forwarded",
    "forwarded-*",
    "goog-authenticated-user-*",
    "goog-iap-*",
    "instana-*",
    "ms-client-principal*",
    "newrelic-*",
    "original-forwarded-for",
    "original-host",
    "ot-span-context",
    "pomerium-*",
    "proxyuser-ip",
    "queue-start",
    "real-ip",
    "remote-*",
    "request-start",
    "ssl-client-*",
    "vercel-*",
    "webauth-*",
];

/// True for a header that a server in front adds, in any case.
pub fn is_added_in_front(name: &str) -> bool {
    let (list, name) = match name.split_at_checked(2) {
        Some((x, rest)) if x.eq_ignore_ascii_case("x-") => (EXTENDED, rest),
        _ => (NAMES, name),
    };
    // Of most names nothing more is compared than the first letter.
    let first = name.as_bytes().first().map(u8::to_ascii_lowercase);
    list.iter().any(|pattern| pattern.as_bytes().first().copied() == first && matches(pattern, name))
}

/// A name, in any case, is this one, or begins with what stands before a `*` at its end.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start)),
        None => name.eq_ignore_ascii_case(pattern),
    }
}

/// The headers of this kind that pass all the same, as the operator lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardedHeaders(pub Vec<Box<str>>);

impl ForwardedHeaders {
    /// True for one that passes.
    pub fn holds(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_front_servers_add_is_known_in_any_case() {
        for name in [
            "Forwarded",
            "X-Forwarded-For",
            "x-forwarded-proto",
            "X-FORWARDED",
            "X-Real-IP",
            "Via",
            "CF-Ray",
            "cf-access-jwt-assertion",
            "CDN-Loop",
            "True-Client-IP",
            "X-Amzn-Trace-Id",
            "Cookie",
            "Remote-User",
            "X-Auth-Request-Email",
            "traceparent",
            "tracestate",
            "baggage",
            "X-B3-TraceId",
            "b3",
            "X-Request-Start",
        ] {
            assert!(is_added_in_front(name), "{name}");
        }
        for name in [
            "authorization",
            "x-request-id",
            "x-stainless-lang",
            "openai-beta",
            "user-agent",
            "c",
            "x-",
            "",
            "via-x",
            "x-ms-client-request-id",
            "cookies",
            "x-b3",
            "x-client-request-id",
            "accept",
        ] {
            assert!(!is_added_in_front(name), "{name}");
        }
    }

    #[test]
    fn what_is_listed_passes() {
        let listed = ForwardedHeaders(vec!["cookie".into(), "x-b3-*".into()]);
        assert!(listed.holds("Cookie") && listed.holds("X-B3-SpanId"));
        assert!(!listed.holds("x-b3") && !listed.holds("cookie2") && !ForwardedHeaders::default().holds("cookie"));
    }
}
