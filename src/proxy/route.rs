//! Which requests are answered here, and which operation of the API a relayed one is.

use super::api_paths::{self, Cost};
use super::path::{self, Tail};
use crate::policy::AllowedPaths;
use crate::usage::record::Endpoint;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Answered by us.
    Local(Local),
    /// To the target.
    Relay { endpoint: Endpoint, cost: Cost },
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
    /// What browsers and crawlers ask for by themselves; none of it is the target's business.
    Robots,
    /// The same, and it is not there.
    Missing,
    /// `/admin`, whose page is `/admin/`.
    AdminHome,
    /// `/admin/…`
    Admin,
    /// `/dashboard/`, whose own links would lead astray.
    DashboardSlash,
    /// `/help`, whose list is `/help/`.
    HelpHome,
    /// `/help/…`
    Help,
}

/// Splits a target at its query.
pub fn split(target: &str) -> (&str, &str) {
    match memchr::memchr(b'?', target.as_bytes()) {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, ""),
    }
}

/// The route of a request, which may ask for a WebSocket. Local paths are exact; an operation is known by the end of
/// its path, so that prefixes (`/v1`, Azure's deployments, a gateway's own) do not matter, nor does how it is spelled.
///
/// # Errors
/// The message for a request whose method or path the target might read as another one.
pub fn route(method: &str, target: &str, websocket: bool) -> Result<Route, &'static str> {
    check_method(method)?;
    let (path, _) = split(target);
    match path {
        // Where a person's browser arrives. Other requests for it are for the target.
        "/" if !websocket && matches!(method, "GET" | "HEAD") => return Ok(Route::Local(Local::Home)),
        "/dashboard" => return Ok(Route::Local(Local::Dashboard)),
        "/dashboard/" => return Ok(Route::Local(Local::DashboardSlash)),
        "/usage" | "/usage/" => return Ok(Route::Local(Local::Usage)),
        "/metrics" | "/metrics/" => return Ok(Route::Local(Local::Metrics)),
        "/healthz" | "/healthz/" => return Ok(Route::Local(Local::Health)),
        "/readyz" | "/readyz/" => return Ok(Route::Local(Local::Ready)),
        "/robots.txt" => return Ok(Route::Local(Local::Robots)),
        "/favicon.ico"
        | "/favicon.svg"
        | "/favicon.png"
        | "/apple-touch-icon.png"
        | "/manifest.json"
        | "/apple-touch-icon-precomposed.png"
        | "/site.webmanifest"
        | "/sw.js"
        | "/service-worker.js"
        | "/sitemap.xml" => return Ok(Route::Local(Local::Missing)),
        "/admin" => return Ok(Route::Local(Local::AdminHome)),
        "/help" => return Ok(Route::Local(Local::HelpHome)),
        _ if path.starts_with("/help/") => return Ok(Route::Local(Local::Help)),
        _ if path.starts_with("/admin/") => return Ok(Route::Local(Local::Admin)),
        _ if path.starts_with("/.well-known/") => return Ok(Route::Local(Local::Missing)),
        _ => {}
    }
    if let Some(tail) = path::plain_tail(path) {
        return Ok(relayed(method, path, tail, websocket));
    }
    let folded = path::folded(&path::normalized(path)?);
    Ok(relayed(method, &folded, path::tail(&folded), websocket))
}

/// A method is case-sensitive (RFC 9110 §9.1), but not to every server.
fn check_method(method: &str) -> Result<(), &'static str> {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let is_disguised = |known: &&str| *known != method && known.eq_ignore_ascii_case(method);
    match method {
        "POST" | "GET" => Ok(()),
        _ if KNOWN.iter().any(is_disguised) => Err("the method's letters have another case than that of the method"),
        _ => Ok(()),
    }
}

fn relayed(method: &str, path: &str, tail: Tail<'_>, websocket: bool) -> Route {
    let endpoint = match method {
        _ if websocket => session(tail),
        "POST" => operation(tail),
        "GET" => retrieval(tail),
        _ => Endpoint::Other,
    };
    let cost = match endpoint {
        Endpoint::AudioTranslations | Endpoint::ImagesVariations => api_paths::cost(method, path),
        Endpoint::RealtimeSession if tail[0] == "translations" => api_paths::socket_cost(path),
        _ if endpoint.is_metered() || endpoint.is_session() => Cost::Metered,
        _ if websocket => api_paths::socket_cost(path),
        _ => api_paths::cost(method, path),
    };
    Route::Relay { endpoint, cost }
}

/// True for a request that the operator lets through, by its path: one that could be taken for two is not routed.
pub fn is_allowed(allowed: &AllowedPaths, method: &str, target: &str, endpoint: Endpoint) -> bool {
    let (path, _) = split(target);
    match (allowed, path::normalized(path)) {
        (AllowedPaths::All, _) => true,
        (_, Err(_)) => false,
        (AllowedPaths::Under(prefixes), Ok(normal)) => prefixes
            .iter()
            .any(|prefix| normal.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))),
        (AllowedPaths::Inference, Ok(normal)) => {
            let folded = path::folded(&normal);
            endpoint.is_metered()
                || endpoint.is_session()
                || endpoint == Endpoint::Moderations
                || matches!(
                    (method, path::tail(&folded)),
                    ("GET" | "HEAD", ["models", ..] | [_, "models", ..])
                        | ("POST", ["input_tokens", "responses", ..] | ["count_tokens", "messages", ..])
                )
        }
    }
}

/// The operation that a POST to a path with this tail asks for. Under an id it is one only where its answer is the
/// thing itself, with the usage of it: not a thread's `…/messages`.
fn operation(tail: Tail<'_>) -> Endpoint {
    match tail {
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

/// The session that a WebSocket at it opens.
fn session(tail: Tail<'_>) -> Endpoint {
    match tail {
        ["realtime", ..] | ["translations", "realtime", ..] => Endpoint::RealtimeSession,
        ["responses", ..] => Endpoint::ResponsesSession,
        ["sessions", "live", ..] => Endpoint::LiveSession,
        _ => Endpoint::Other,
    }
}

/// What a GET of it looks at again: one thing whose usage may have been counted already. Lists are none.
fn retrieval(tail: Tail<'_>) -> Endpoint {
    match tail {
        [_, "batches", "messages", ..] => Endpoint::Other, // Anthropic's
        [_, "batches", ..] => Endpoint::Batches,
        [_, "responses", ..] => Endpoint::ResponsesRetrieve,
        [_, "runs", _, "threads", _] => Endpoint::ThreadsRunsRetrieve,
        _ => Endpoint::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint_of(method: &str, target: &str, websocket: bool) -> Endpoint {
        match route(method, target, websocket) {
            Ok(Route::Relay { endpoint, .. }) => endpoint,
            other => panic!("{method} {target}: {other:?}"),
        }
    }

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
            assert_eq!(endpoint_of(method, target, false), endpoint, "{method} {target}");
        }
        for (target, endpoint) in [
            ("/v1/realtime?model=gpt-realtime", Endpoint::RealtimeSession),
            ("/openai/realtime?api-version=1&deployment=d", Endpoint::RealtimeSession),
            ("/v1/responses", Endpoint::ResponsesSession),
            ("/v1/live/sessions", Endpoint::LiveSession),
            ("/v1/responses/resp_1", Endpoint::Other),
            ("/v1/chat/completions", Endpoint::Other),
        ] {
            assert_eq!(endpoint_of("GET", target, true), endpoint, "{target}");
        }
        assert_eq!(route("GET", "/usage?user_id=a", false), Ok(Route::Local(Local::Usage)));
        assert_eq!(route("GET", "/help/tls", false), Ok(Route::Local(Local::Help)));
        assert_eq!(route("HEAD", "/?x", false), Ok(Route::Local(Local::Home)));
        for (method, websocket) in [("POST", false), ("GET", true)] {
            assert_eq!(endpoint_of(method, "/", websocket), Endpoint::Other);
        }
    }

    /// Each as some server reads it: to Azure, IIS and Express case is nothing, nginx and Go merge slashes, servlets
    /// drop parameters, Windows drops spaces and dots at an end, Rails and Django know a suffix.
    #[test]
    fn an_operation_is_known_however_its_path_is_spelled() {
        for path in [
            "/v1/chat/completions",
            "/v1/%63hat/completions",
            "/v1/chat/completion%73?a=b",
            "/v1/%63%68%61%74/%63ompletions/",
            "/%76%31/chat/completions",
            "/V1/Chat/Completions",
            "/v1/CHAT/%43ompletions",
            "/v1//chat///completions//",
            "//host/v1/chat/completions",
            "/v1/chat;x=1/completions",
            "/v1/chat/completions;jsessionid=1",
            "/v1/chat/;x/completions;/",
            "/v1/;/chat/completions",
            "/v1/chat/completions%3bx",
            "/v1/chat/completions%20",
            "/v1/chat%20/%20completions%20/",
            "/v1/chat/completions.",
            "/v1/chat./completions..",
            "/v1/chat/completions.json",
            "/v1/chat/completions.json;x/",
            "/v1/chat/completions%2ejson",
            "/openai/deployments/gpt-4.1/chat/completions",
            "/openai/deployments/GPT+4%2b1/chat/completions?api-version=/../x",
            "/gateway/%e5%A4%AA/chat/completions",
        ] {
            assert_eq!(endpoint_of("POST", path, false), Endpoint::ChatCompletions, "{path}");
        }
        for (method, target, endpoint) in [
            ("POST", "/v1/%72esponses", Endpoint::Responses),
            ("POST", "/V1/Messages", Endpoint::Messages),
            ("POST", "/API/Chat", Endpoint::ApiChat),
            ("POST", "/v1/threads/thread_A;b/runs", Endpoint::ThreadsRuns),
            ("GET", "/v1/Responses/resp_A%2db", Endpoint::ResponsesRetrieve),
            ("POST", "/v1/chat%2dcompletions", Endpoint::Other),
            ("PUT", "/v1/chat/completions", Endpoint::Other),
        ] {
            assert_eq!(endpoint_of(method, target, false), endpoint, "{method} {target}");
        }
        assert_eq!(endpoint_of("GET", "/v1/%52ealtime", true), Endpoint::RealtimeSession);
        for path in ["/%75sage", "/Usage", "/usage//", "/Metrics", "/metrics;x", "/healthz.", "//usage"] {
            assert_eq!(endpoint_of("GET", path, false), Endpoint::Other, "local paths are exact: {path}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for method in ["post", "Get", "pOST", "Delete", "options", "hEAD"] {
            for path in ["/v1/chat/completions", "/metrics", "/"] {
                assert!(route(method, path, false).is_err(), "{method} {path}");
            }
        }
        for method in ["GET", "POST", "DELETE", "OPTIONS", "PROPFIND", "purge"] {
            assert!(route(method, "/v1/models", false).is_ok(), "{method}");
            for path in ["/v1/x/../chat/completions", "/v1/..;/a", "/v1/chat%2fcompletions?x", "/v1/%2563hat", "/./a"] {
                assert!(route(method, path, false).is_err(), "{method} {path}");
            }
        }
        assert!(route("GET", "/v1/files?after=/../%2f%5c%00", false).is_ok(), "a query is none of the path");
    }

    #[test]
    fn what_is_allowed_is_told_by_the_path_that_a_lenient_server_reads() {
        let under = AllowedPaths::Under(vec!["/v1/chat".into(), "/v1/models".into()]);
        for (method, target, inference, listed) in [
            ("POST", "/v1/chat/completions", true, true),
            ("POST", "/v1/responses", true, false),
            ("POST", "/v1/responses/input_tokens", true, false),
            ("POST", "/v1/embeddings?x=1", true, false),
            ("POST", "/v1/moderations", true, false),
            ("GET", "/v1/models", true, true),
            ("GET", "/v1/models/gpt-4o", true, true),
            ("DELETE", "/v1/models/ft:x", false, true),
            ("GET", "/v1/chat/completions", false, true),
            ("GET", "/v1/chat%2e", false, false),
            ("GET", "/v1/chats", false, false),
            ("GET", "/v1/%63hat/x", false, true),
            ("GET", "/v1/files", false, false),
            ("POST", "/v1/files", false, false),
            ("GET", "/v1/responses/resp_1", false, false),
            ("POST", "/v1/batches", false, false),
            ("POST", "/v1/realtime/client_secrets", false, false),
            ("GET", "/v1/organization/costs", false, false),
            ("POST", "/v1/organization/admin_api_keys", false, false),
        ] {
            let Ok(Route::Relay { endpoint, .. }) = route(method, target, false) else { panic!("{target}") };
            let found = |allowed| is_allowed(allowed, method, target, endpoint);
            assert!(found(&AllowedPaths::All));
            assert_eq!((found(&AllowedPaths::Inference), found(&under)), (inference, listed), "{method} {target}");
        }
        assert!(is_allowed(&AllowedPaths::Inference, "GET", "/v1/realtime", Endpoint::RealtimeSession));
    }
}
