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
    /// `GET /`, which leads to the dashboard.
    Home,
    Dashboard,
    Usage,
    Metrics,
    Health,
    Ready,
}

/// Splits a target at its query.
pub fn split(target: &str) -> (&str, &str) {
    match memchr::memchr(b'?', target.as_bytes()) {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, ""),
    }
}

/// The route of a request, which may ask for a WebSocket. Local paths are exact; an operation is known by the end of
/// its path, so that prefixes (`/v1`, Azure's deployments, a gateway's own) do not matter, nor do doubled slashes.
pub fn route(method: &str, target: &str, websocket: bool) -> Route {
    let (path, _) = split(target);
    match path {
        // Where a person's browser arrives. Other requests for it are for the target.
        "/" if !websocket && matches!(method, "GET" | "HEAD") => return Route::Local(Local::Home),
        "/dashboard" => return Route::Local(Local::Dashboard),
        "/usage" => return Route::Local(Local::Usage),
        "/metrics" => return Route::Local(Local::Metrics),
        "/healthz" => return Route::Local(Local::Health),
        "/readyz" => return Route::Local(Local::Ready),
        _ => {}
    }
    Route::Relay(match method {
        _ if websocket => session(path),
        "POST" => operation(path),
        "GET" => retrieval(path),
        _ => Endpoint::Other,
    })
}

/// The last segments of a path, the very last first; those that are not there are empty.
fn tail(path: &str) -> [&str; 5] {
    // By bytes: a search for a character costs more than such a short text has to be read for.
    let mut rest = path.as_bytes();
    [(); 5].map(|()| {
        let end = rest.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
        let start = rest[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        rest = &rest[..start];
        &path[start..end]
    })
}

/// The operation that a POST to `path` asks for. Under an id it is one only where its answer is the thing itself, with
/// the usage of it: not a thread's `…/messages`.
fn operation(path: &str) -> Endpoint {
    match tail(path) {
        ["completions", "chat", ..] => Endpoint::ChatCompletions,
        ["completions", ..] => Endpoint::Completions,
        ["responses", ..] => Endpoint::Responses,
        ["compact", "responses", ..] => Endpoint::ResponsesCompact,
        ["embeddings", ..] => Endpoint::Embeddings,
        ["transcriptions", "audio", ..] => Endpoint::AudioTranscriptions,
        ["translations", "audio", ..] => Endpoint::AudioTranslations,
        ["speech", "audio", ..] => Endpoint::AudioSpeech,
        ["generations", "images", ..] => Endpoint::ImagesGenerations,
        ["edits", "images", ..] => Endpoint::ImagesEdits,
        ["variations", "images", ..] => Endpoint::ImagesVariations,
        ["moderations", ..] => Endpoint::Moderations,
        ["messages", "v1" | "", ..] => Endpoint::Messages,
        ["runs", "threads", ..] | ["runs", _, "threads", ..] => Endpoint::ThreadsRuns,
        ["chat", "api", ..] => Endpoint::ApiChat,
        ["generate", "api", ..] => Endpoint::ApiGenerate,
        ["decisions", ..] => Endpoint::Decisions,
        ["batches", "messages", ..] | ["cancel", _, "batches", "messages", _] => Endpoint::Other, // Anthropic's
        ["batches", ..] | ["cancel", _, "batches", ..] => Endpoint::Batches,
        ["cancel", _, "responses", ..] => Endpoint::ResponsesRetrieve,
        ["cancel" | "submit_tool_outputs", _, "runs", _, "threads"] | [_, "runs", _, "threads", ..] => {
            Endpoint::ThreadsRunsRetrieve
        }
        _ => Endpoint::Other,
    }
}

/// The session that a WebSocket at `path` opens.
fn session(path: &str) -> Endpoint {
    match tail(path) {
        ["realtime", ..] | ["translations", "realtime", ..] => Endpoint::RealtimeSession,
        ["responses", ..] => Endpoint::ResponsesSession,
        ["sessions", "live", ..] => Endpoint::LiveSession,
        _ => Endpoint::Other,
    }
}

/// What a GET of `path` looks at again: one thing whose usage may have been counted already. Lists are none.
fn retrieval(path: &str) -> Endpoint {
    match tail(path) {
        [_, "batches", "messages", ..] => Endpoint::Other, // Anthropic's
        [_, "batches", ..] => Endpoint::Batches,
        [_, "responses", ..] => Endpoint::ResponsesRetrieve,
        [_, "runs", _, "threads", _] => Endpoint::ThreadsRunsRetrieve,
        _ => Endpoint::Other,
    }
}

/// True where a segment of the path is `..`, plain or encoded: a target that resolves it (RFC 3986 §5.2.4) would see
/// another path than the one that was put together here.
pub fn climbs(target: &str) -> bool {
    let is_dot_dot =
        |segment: &str| ["..", ".%2e", "%2e.", "%2e%2e"].iter().any(|dots| segment.eq_ignore_ascii_case(dots));
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
            ("POST", "/v1/responses/resp_1/cancel", Endpoint::ResponsesRetrieve),
            ("POST", "/v1/embeddings", Endpoint::Embeddings),
            ("GET", "/v1/chat/completions", Endpoint::Other),
            ("POST", "/", Endpoint::Other),
            ("POST", "/v1/usage", Endpoint::Other),
            ("POST", "/v1/responses/compact", Endpoint::ResponsesCompact),
            ("POST", "/v1/responses/input_tokens", Endpoint::Other),
            ("POST", "/v1/audio/transcriptions", Endpoint::AudioTranscriptions),
            ("POST", "//openai/deployments/w/audio/transcriptions?api-version=1", Endpoint::AudioTranscriptions),
            ("POST", "/v1/audio/translations", Endpoint::AudioTranslations),
            ("POST", "/openai/deployments/tts//audio//speech?api-version=1", Endpoint::AudioSpeech),
            ("POST", "//openai/deployments/d/images/generations?api-version=1", Endpoint::ImagesGenerations),
            ("POST", "/v1/images/edits", Endpoint::ImagesEdits),
            ("POST", "/v1/images/variations", Endpoint::ImagesVariations),
            ("POST", "/v1/moderations", Endpoint::Moderations),
            ("POST", "/v1/messages?beta=true", Endpoint::Messages),
            ("POST", "/anthropic/v1/messages", Endpoint::Messages),
            ("POST", "/messages", Endpoint::Messages),
            ("POST", "/v1/messages/count_tokens", Endpoint::Other),
            ("POST", "/v1/messages/batches", Endpoint::Other),
            ("POST", "/v1/threads/thread_1/messages", Endpoint::Other),
            ("POST", "/v1/threads/runs", Endpoint::ThreadsRuns),
            ("POST", "/openai//threads/thread_1/runs?api-version=1", Endpoint::ThreadsRuns),
            ("POST", "/v1/threads/thread_1/runs/run_1", Endpoint::ThreadsRunsRetrieve),
            ("POST", "/v1/threads/thread_1/runs/run_1/cancel", Endpoint::ThreadsRunsRetrieve),
            ("POST", "/v1/threads/thread_1/runs/run_1/submit_tool_outputs", Endpoint::ThreadsRunsRetrieve),
            ("GET", "/v1/threads/thread_1/runs", Endpoint::Other),
            ("POST", "/v1/evals/eval_1/runs", Endpoint::Other),
            ("POST", "/v1/chat/completions/chatcmpl-1", Endpoint::Other),
            ("GET", "/v1/responses/resp_1?stream=true&starting_after=3", Endpoint::ResponsesRetrieve),
            ("GET", "/v1/responses/resp_1/input_items", Endpoint::Other),
            ("DELETE", "/v1/responses/resp_1", Endpoint::Other),
            ("GET", "/v1/threads/thread_1/runs/run_1", Endpoint::ThreadsRunsRetrieve),
            ("GET", "/v1/threads/thread_1/runs/run_1/steps", Endpoint::Other),
            ("GET", "/v1/threads/thread_1/runs/run_1/steps/step_1", Endpoint::Other),
            ("GET", "/v1/evals/eval_1/runs/run_1", Endpoint::Other),
            ("POST", "/v1/batches", Endpoint::Batches),
            ("GET", "/v1/batches/batch_1", Endpoint::Batches),
            ("GET", "/v1/batches", Endpoint::Other),
            ("POST", "/openai/batches/batch_1/cancel?api-version=1", Endpoint::Batches),
            ("GET", "/v1/messages/batches/b", Endpoint::Other),
            ("POST", "/v1/messages/batches/b/cancel", Endpoint::Other),
            ("GET", "/v1/chat/completions/chatcmpl-1", Endpoint::Other),
            ("POST", "/api/chat", Endpoint::ApiChat),
            ("POST", "/api/generate", Endpoint::ApiGenerate),
            ("GET", "/v1/messages", Endpoint::Other),
            ("POST", "/v1/decisions", Endpoint::Decisions),
            ("POST", "/v1/rerank", Endpoint::Other),
        ] {
            assert_eq!(route(method, target, false), Route::Relay(endpoint), "{method} {target}");
        }
        for (target, endpoint) in [
            ("/v1/realtime?model=gpt-realtime", Endpoint::RealtimeSession),
            ("/openai/realtime?api-version=1&deployment=d", Endpoint::RealtimeSession),
            ("/v1/responses", Endpoint::ResponsesSession),
            ("/v1/live/sessions", Endpoint::LiveSession),
            ("/v1/responses/resp_1", Endpoint::Other),
            ("/v1/chat/completions", Endpoint::Other),
        ] {
            assert_eq!(route("GET", target, true), Route::Relay(endpoint), "{target}");
        }
        assert_eq!(route("GET", "/usage?user_id=a", false), Route::Local(Local::Usage));
        assert_eq!(route("HEAD", "/?x", false), Route::Local(Local::Home));
        for (method, websocket) in [("POST", false), ("GET", true)] {
            assert_eq!(route(method, "/", websocket), Route::Relay(Endpoint::Other));
        }
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
