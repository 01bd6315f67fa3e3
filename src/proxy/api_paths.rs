//! What a request to each path of the API costs, as far as it can be told before the answer.
//!
//! In: a method, and the path in the form in which it is classified. Out: a [`Cost`]. The table is of the API's
//! OpenAPI description, with the paths of Anthropic and Ollama. What it does not have costs an unknown amount: a path
//! that nobody recognised is not harmless.

/// What a request costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cost {
    /// Its answer reports what it used.
    Metered,
    /// Known to cost nothing by itself.
    Free,
    /// It costs, and does not say so in its answer: why.
    Unmetered(&'static str),
    /// Any other path with a method that may do something.
    #[default]
    Unknown,
}

const ALONE: &str = "it starts work that goes on beside the proxy";
const SECRET: &str = "it makes a secret that spends beside the proxy";
const SILENT: &str = "its answer does not say what it used";

/// What a POST costs that no endpoint of the capture is, by its path behind the API's root. `*` is one id, `**` at the
/// end all that follows. The first row that fits holds.
static POSTS: &[(Cost, &[&str])] = &[
    (Cost::Metered, &["threads/*/runs/*/submit_tool_outputs"]),
    (
        Cost::Unmetered(ALONE),
        &[
            "batches",
            "messages/batches",
            "evals/*/runs",
            "fine_tuning/jobs",
            "fine_tuning/jobs/*/resume",
            "containers",
            "agents/sessions/**",
            "agents/sessions",
            "realtime/calls",
            "realtime/calls/*/accept",
        ],
    ),
    (
        Cost::Unmetered(SECRET),
        &[
            "realtime/client_secrets",
            "realtime/sessions",
            "realtime/transcription_sessions",
            "realtime/translations/client_secrets",
            "live/client_secrets",
            "chatkit/sessions",
            "organization/admin_api_keys",
            "organization/projects/*/service_accounts",
            "organization/projects/*/service_accounts/*/api_keys",
        ],
    ),
    (
        Cost::Unmetered(SILENT),
        &[
            "audio/translations",
            "audio/voices",
            "images/variations",
            "videos",
            "videos/characters",
            "videos/edits",
            "videos/extensions",
            "videos/*/remix",
            "fine_tuning/alpha/graders/run",
            "vector_stores/*/search",
            "content_provenance_checks",
            "v1/complete",
            "api/embed",
        ],
    ),
    (
        Cost::Free,
        &[
            "assistants",
            "assistants/*",
            "audio/voice_consents",
            "audio/voice_consents/*",
            "batches/*/cancel",
            "chat/completions/*",
            "chatkit/sessions/*/cancel",
            "containers/*/files",
            "conversations",
            "conversations/*",
            "conversations/*/items",
            "evals",
            "evals/*",
            "evals/*/runs/*",
            "files",
            "fine_tuning/alpha/graders/validate",
            "fine_tuning/checkpoints/*/permissions",
            "fine_tuning/jobs/*/cancel",
            "fine_tuning/jobs/*/pause",
            "messages/batches/*/cancel",
            "messages/count_tokens",
            "moderations",
            "organization/**",
            "projects/**",
            "realtime/calls/*/hangup",
            "realtime/calls/*/refer",
            "realtime/calls/*/reject",
            "responses/*/cancel",
            "responses/input_tokens",
            "skills",
            "skills/*",
            "skills/*/versions",
            "threads",
            "threads/*",
            "threads/*/messages",
            "threads/*/messages/*",
            "threads/*/runs/*",
            "threads/*/runs/*/cancel",
            "traces/ingest",
            "uploads",
            "uploads/*/cancel",
            "uploads/*/complete",
            "uploads/*/parts",
            "vector_stores",
            "vector_stores/*",
            "vector_stores/*/file_batches",
            "vector_stores/*/file_batches/*/cancel",
            "vector_stores/*/files",
            "vector_stores/*/files/*",
            "api/show",
        ],
    ),
];

/// What a request costs that is no operation of the capture's. `path` may have empty segments.
pub fn cost(method: &str, path: &str) -> Cost {
    match method {
        "GET" | "HEAD" | "OPTIONS" | "DELETE" => Cost::Free,
        "POST" => {
            let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
            let row =
                POSTS.iter().find(|(cost, patterns)| patterns.iter().any(|pattern| fits(*cost, pattern, &segments)));
            row.map_or(Cost::Unknown, |row| row.0)
        }
        _ => Cost::Unknown,
    }
}

/// What a WebSocket costs whose messages are not read along.
pub fn socket_cost(path: &str) -> Cost {
    match path.trim_end_matches('/').ends_with("/realtime/translations") {
        true => Cost::Unmetered(SILENT),
        false => Cost::Unknown,
    }
}

/// True where a path ends in the pattern. That alone is not proof enough that it is free: it may be another's.
fn fits(cost: Cost, pattern: &str, segments: &[&str]) -> bool {
    let begins = |at: &usize| cost != Cost::Free || is_root(&segments[..*at]);
    (0..segments.len()).filter(begins).any(|at| matches(pattern, &segments[at..]))
}

/// True for a prefix behind which the API's paths begin: none, or one that ends in its version (`/v1`, `/v1beta`), in
/// its name (Azure's `/openai`), or in a deployment.
fn is_root(prefix: &[&str]) -> bool {
    let is_version =
        |last: &str| last.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    match prefix {
        [] | [.., "openai"] | [.., "deployments", _] => true,
        [.., last] => is_version(last),
    }
}

fn matches(pattern: &str, segments: &[&str]) -> bool {
    let mut segments = segments.iter();
    for want in pattern.split('/') {
        match (want, segments.next()) {
            ("**", Some(_)) => return true,
            ("*", Some(id)) if is_id(id) => {}
            (want, Some(segment)) if want == *segment => {}
            _ => return false,
        }
    }
    segments.next().is_none()
}

/// True for what stands for itself in every server: no word of the API in disguise.
fn is_id(segment: &str) -> bool {
    segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte))
}

#[cfg(test)]
mod tests;
