//! Which requests are answered here, and which operation of the API a relayed one is.

use crate::usage::record::Endpoint;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Answered by us.
    Local(Local),
    /// To the target.
    Relay(Endpoint),
}

/// What is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    Usage,
    Metrics,
    Health,
    Ready,
}

/// Splits a target at its query.
pub fn split(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

/// The route of a request. Local paths are exact; an operation is known by the end of its path, so that prefixes
/// (`/v1`, Azure's deployments, a gateway's own) do not matter, nor do doubled slashes.
pub fn route(method: &str, target: &str) -> Route {
    let (path, _) = split(target);
    match path {
        "/usage" => return Route::Local(Local::Usage),
        "/metrics" => return Route::Local(Local::Metrics),
        "/healthz" => return Route::Local(Local::Health),
        "/readyz" => return Route::Local(Local::Ready),
        _ => {}
    }
    if method != "POST" {
        return Route::Relay(Endpoint::Other);
    }
    let mut segments = path.rsplit('/').filter(|segment| !segment.is_empty());
    Route::Relay(match (segments.next(), segments.next()) {
        (Some("completions"), Some("chat")) => Endpoint::ChatCompletions,
        (Some("completions"), _) => Endpoint::Completions,
        (Some("responses"), _) => Endpoint::Responses,
        (Some("embeddings"), _) => Endpoint::Embeddings,
        _ => Endpoint::Other,
    })
}

/// True where the path, not the body, chooses the model (Azure's deployments): no model is put in then.
pub fn names_model(target: &str) -> bool {
    split(target).0.split('/').any(|segment| segment == "deployments")
}

/// True where a segment of the path is `..`, plain or encoded: a target that resolves it (RFC 3986 §5.2.4) would see
/// another path than the one that was put together here.
pub fn climbs(target: &str) -> bool {
    let is_dot_dot = |segment: &str| {
        segment.len() <= 6 && matches!(&*segment.to_ascii_lowercase(), ".." | ".%2e" | "%2e." | "%2e%2e")
    };
    split(target).0.split(['/', '\\']).any(is_dot_dot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_known_by_the_end_of_their_path() {
        for (method, target, endpoint) in [
            ("POST", "/v1/chat/completions", Endpoint::ChatCompletions),
            ("POST", "//openai/deployments/x/chat/completions?api-version=1", Endpoint::ChatCompletions),
            ("POST", "/v1/chat//completions/", Endpoint::ChatCompletions),
            ("POST", "/v1/completions", Endpoint::Completions),
            ("POST", "/v1/responses?beta=true", Endpoint::Responses),
            ("POST", "/v1/responses/resp_1/cancel", Endpoint::Other),
            ("POST", "/v1/embeddings", Endpoint::Embeddings),
            ("GET", "/v1/chat/completions", Endpoint::Other),
            ("POST", "/", Endpoint::Other),
            ("POST", "/v1/usage", Endpoint::Other),
        ] {
            assert_eq!(route(method, target), Route::Relay(endpoint), "{method} {target}");
        }
        assert_eq!(route("GET", "/usage?user_id=a"), Route::Local(Local::Usage));
        assert!(names_model("/openai/deployments/gpt/embeddings") && !names_model("/v1/embeddings?x=/deployments/"));
    }

    #[test]
    fn paths_that_climb_are_known_in_every_spelling() {
        for target in ["/..", "/a/../b", "/a/.%2E/b", "/%2e%2E?x", "/a\\..\\b"] {
            assert!(climbs(target), "{target}");
        }
        for target in ["/", "/a.../b", "/..a", "/a?b=/../c", "/%2e", "/...."] {
            assert!(!climbs(target), "{target}");
        }
    }
}
