//! The id of what a request looks at again, or leads on: the one in its path, whatever the answer calls itself.
//!
//! In: a target as it was sent, and the endpoint that it is. Out: the id as bodies have it, decoded and bounded.

use super::path::normalized;
use super::route::split;
use crate::usage::record::Endpoint;
use crate::usage::response_id::bounded_id;

/// The segment of `…/responses/ID`, `…/runs/ID` or `…/batches/ID` and of what is under it (`/cancel`,
/// `/submit_tool_outputs`); `None` where the path has none (`POST …/batches`) or the endpoint is no retrieval.
pub fn retrieved_id(endpoint: Endpoint, target: &str) -> Option<Box<str>> {
    let collection = match endpoint {
        Endpoint::ResponsesRetrieve => "responses",
        Endpoint::ThreadsRunsRetrieve => "runs",
        Endpoint::Batches => "batches",
        _ => return None,
    };
    let path = normalized(split(target).0).ok()?;
    let mut behind = path.split('/').filter(|segment| !segment.is_empty()).rev();
    // From the end: a prefix may have segments of the same name, and an id may be called like its collection.
    let (last, before, third) = (behind.next()?, behind.next()?, behind.next().unwrap_or_default());
    let is_collection = |segment: &str| segment == collection;
    let id = match () {
        () if is_collection(before) => last,
        () if !is_collection(last) && is_collection(third) => before,
        () => return None,
    };
    Some(bounded_id(id).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_behind_the_collection() {
        const RESPONSE: Endpoint = Endpoint::ResponsesRetrieve;
        const RUN: Endpoint = Endpoint::ThreadsRunsRetrieve;
        for (endpoint, target, id) in [
            (RESPONSE, "/v1/responses/resp_1", Some("resp_1")),
            (RESPONSE, "/v1/responses/resp_1/?stream=true&starting_after=3", Some("resp_1")),
            (RESPONSE, "//openai//responses/resp_1/cancel?api-version=1", Some("resp_1")),
            (RESPONSE, "/v1/responses/resp_YQ%3D%3D", Some("resp_YQ==")),
            (RESPONSE, "/v1/re%73ponses/resp_1;x=1", Some("resp_1")),
            (RESPONSE, "/responses/responses/resp_1", Some("resp_1")),
            (RESPONSE, "/v1/responses/responses", Some("responses")),
            (RESPONSE, "/v1/responses/%ff", None),
            (RUN, "/v1/threads/t/runs/run_1", Some("run_1")),
            (RUN, "/v1/threads/t/runs/run_1/submit_tool_outputs", Some("run_1")),
            (Endpoint::Batches, "/v1/batches/batch_1/cancel", Some("batch_1")),
            (Endpoint::Batches, "/v1/batches", None),
            (Endpoint::Batches, "/openai/v1/batches", None),
            (Endpoint::Responses, "/v1/responses", None),
        ] {
            assert_eq!(retrieved_id(endpoint, target).as_deref(), id, "{target}");
        }
    }
}
