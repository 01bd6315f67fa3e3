//! Each path of the OpenAPI description (version 2.3.0, 2026-08-21) with the class of each of its methods, and what is
//! no path of it.

use super::*;
use crate::proxy::route::{Route, route};

/// A path, its methods, and what each costs where it is not free.
const DESCRIBED: &str = "\
/assistants GET POST
/assistants/{assistant_id} GET POST DELETE
/audio/speech POST=metered
/audio/transcriptions POST=metered
/audio/translations POST=unmetered
/audio/voice_consents POST GET
/audio/voice_consents/{consent_id} GET POST DELETE
/audio/voices POST=unmetered
/batches POST=unmetered GET
/batches/{batch_id} GET
/batches/{batch_id}/cancel POST
/chat/completions GET POST=metered
/chat/completions/{completion_id} GET POST DELETE
/chat/completions/{completion_id}/messages GET
/completions POST=metered
/containers GET POST=unmetered
/containers/{container_id} GET DELETE
/containers/{container_id}/files POST GET
/containers/{container_id}/files/{file_id} GET DELETE
/containers/{container_id}/files/{file_id}/content GET
/conversations/{conversation_id}/items POST GET
/conversations/{conversation_id}/items/{item_id} GET DELETE
/embeddings POST=metered
/evals GET POST
/evals/{eval_id} GET POST DELETE
/evals/{eval_id}/runs GET POST=unmetered
/evals/{eval_id}/runs/{run_id} GET POST DELETE
/evals/{eval_id}/runs/{run_id}/output_items GET
/evals/{eval_id}/runs/{run_id}/output_items/{output_item_id} GET
/files GET POST
/files/{file_id} DELETE GET
/files/{file_id}/content GET
/fine_tuning/alpha/graders/run POST=unmetered
/fine_tuning/alpha/graders/validate POST
/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions GET POST
/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions/{permission_id} DELETE
/fine_tuning/jobs POST=unmetered GET
/fine_tuning/jobs/{fine_tuning_job_id} GET
/fine_tuning/jobs/{fine_tuning_job_id}/cancel POST
/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints GET
/fine_tuning/jobs/{fine_tuning_job_id}/events GET
/fine_tuning/jobs/{fine_tuning_job_id}/pause POST
/fine_tuning/jobs/{fine_tuning_job_id}/resume POST=unmetered
/images/edits POST=metered
/images/generations POST=metered
/images/variations POST=unmetered
/models GET
/models/{model} GET DELETE
/moderations POST
/organization/admin_api_keys GET POST=unmetered
/organization/admin_api_keys/{key_id} GET DELETE
/organization/audit_logs GET
/organization/certificates GET POST
/organization/certificates/activate POST
/organization/certificates/deactivate POST
/organization/certificates/{certificate_id} GET POST DELETE
/organization/costs GET
/organization/data_retention GET POST
/organization/groups GET POST
/organization/groups/{group_id} GET POST DELETE
/organization/groups/{group_id}/roles GET POST
/organization/groups/{group_id}/roles/{role_id} GET DELETE
/organization/groups/{group_id}/users GET POST
/organization/groups/{group_id}/users/{user_id} GET DELETE
/organization/invites GET POST
/organization/invites/{invite_id} GET DELETE
/organization/projects GET POST
/organization/projects/{project_id} GET POST
/organization/projects/{project_id}/api_keys GET
/organization/projects/{project_id}/api_keys/{api_key_id} GET DELETE
/organization/projects/{project_id}/archive POST
/organization/projects/{project_id}/certificates GET
/organization/projects/{project_id}/certificates/activate POST
/organization/projects/{project_id}/certificates/deactivate POST
/organization/projects/{project_id}/data_retention GET POST
/organization/projects/{project_id}/groups GET POST
/organization/projects/{project_id}/groups/{group_id} GET DELETE
/organization/projects/{project_id}/hosted_tool_permissions GET POST
/organization/projects/{project_id}/model_permissions GET POST DELETE
/organization/projects/{project_id}/rate_limits GET
/organization/projects/{project_id}/rate_limits/{rate_limit_id} POST
/organization/projects/{project_id}/service_accounts GET POST=unmetered
/organization/projects/{project_id}/service_accounts/{service_account_id} GET POST DELETE
/organization/projects/{project_id}/spend_alerts GET POST
/organization/projects/{project_id}/spend_alerts/{alert_id} GET POST DELETE
/organization/projects/{project_id}/users GET POST
/organization/projects/{project_id}/users/{user_id} GET POST DELETE
/organization/roles GET POST
/organization/roles/{role_id} GET POST DELETE
/organization/spend_alerts GET POST
/organization/spend_alerts/{alert_id} GET POST DELETE
/organization/usage/audio_speeches GET
/organization/usage/audio_transcriptions GET
/organization/usage/code_interpreter_sessions GET
/organization/usage/completions GET
/organization/usage/embeddings GET
/organization/usage/file_search_calls GET
/organization/usage/images GET
/organization/usage/moderations GET
/organization/usage/vector_stores GET
/organization/usage/web_search_calls GET
/organization/users GET
/organization/users/{user_id} GET POST DELETE
/organization/users/{user_id}/roles GET POST
/organization/users/{user_id}/roles/{role_id} GET DELETE
/projects/{project_id}/groups/{group_id}/roles GET POST
/projects/{project_id}/groups/{group_id}/roles/{role_id} GET DELETE
/projects/{project_id}/roles GET POST
/projects/{project_id}/roles/{role_id} GET POST DELETE
/projects/{project_id}/users/{user_id}/roles GET POST
/projects/{project_id}/users/{user_id}/roles/{role_id} GET DELETE
/realtime/calls POST=unmetered
/realtime/calls/{call_id}/accept POST=unmetered
/realtime/calls/{call_id}/hangup POST
/realtime/calls/{call_id}/refer POST
/realtime/calls/{call_id}/reject POST
/realtime/client_secrets POST=unmetered
/realtime/sessions POST=unmetered
/realtime/transcription_sessions POST=unmetered
/realtime/translations/client_secrets POST=unmetered
/responses POST=metered
/responses/{response_id} GET DELETE
/responses/{response_id}/cancel POST
/responses/{response_id}/input_items GET
/threads POST
/threads/runs POST=metered
/threads/{thread_id} GET POST DELETE
/threads/{thread_id}/messages GET POST
/threads/{thread_id}/messages/{message_id} GET POST DELETE
/threads/{thread_id}/runs GET POST=metered
/threads/{thread_id}/runs/{run_id} GET POST
/threads/{thread_id}/runs/{run_id}/cancel POST
/threads/{thread_id}/runs/{run_id}/steps GET
/threads/{thread_id}/runs/{run_id}/steps/{step_id} GET
/threads/{thread_id}/runs/{run_id}/submit_tool_outputs POST=metered
/uploads POST
/uploads/{upload_id}/cancel POST
/uploads/{upload_id}/complete POST
/uploads/{upload_id}/parts POST
/vector_stores GET POST
/vector_stores/{vector_store_id} GET POST DELETE
/vector_stores/{vector_store_id}/file_batches POST
/vector_stores/{vector_store_id}/file_batches/{batch_id} GET
/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel POST
/vector_stores/{vector_store_id}/file_batches/{batch_id}/files GET
/vector_stores/{vector_store_id}/files GET POST
/vector_stores/{vector_store_id}/files/{file_id} GET DELETE POST
/vector_stores/{vector_store_id}/files/{file_id}/content GET
/vector_stores/{vector_store_id}/search POST=unmetered
/conversations POST
/conversations/{conversation_id} GET DELETE POST
/organization/spend_limit GET POST DELETE
/organization/projects/{project_id}/spend_limit GET DELETE POST
/organization/projects/{project_id}/service_accounts/{service_account_id}/api_keys POST=unmetered
/content_provenance_checks POST=unmetered
/videos POST=unmetered GET
/videos/characters POST=unmetered
/videos/characters/{character_id} GET
/videos/edits POST=unmetered
/videos/extensions POST=unmetered
/videos/{video_id} GET DELETE
/videos/{video_id}/content GET
/videos/{video_id}/remix POST=unmetered
/responses/input_tokens POST
/responses/compact POST=metered
/skills POST GET
/skills/{skill_id} DELETE GET POST
/skills/{skill_id}/content GET
/skills/{skill_id}/versions POST GET
/skills/{skill_id}/versions/{version} GET DELETE
/skills/{skill_id}/versions/{version}/content GET
/chatkit/sessions/{session_id}/cancel POST
/chatkit/sessions POST=unmetered
/chatkit/threads/{thread_id}/items GET
/chatkit/threads/{thread_id} GET DELETE
/chatkit/threads GET
";

const METHODS: usize = 281;

fn cost_of(method: &str, path: &str) -> &'static str {
    match route(method, path, false) {
        Ok(Route::Relay { cost: Cost::Metered, .. }) => "metered",
        Ok(Route::Relay { cost: Cost::Free, .. }) => "free",
        Ok(Route::Relay { cost: Cost::Unmetered(why), .. }) if !why.is_empty() => "unmetered",
        Ok(Route::Relay { cost: Cost::Unknown, .. }) => "unknown",
        other => panic!("{method} {path}: {other:?}"),
    }
}

/// With ids in the place of its parameters.
fn filled(path: &str) -> String {
    let mut parts = path.split('{');
    let mut filled = parts.next().expect("a path").to_owned();
    for part in parts {
        let (_, rest) = part.split_once('}').expect("the end of a parameter");
        filled = format!("{filled}obj_A1-x.2{rest}");
    }
    filled
}

#[test]
fn every_path_of_the_description_has_its_class() {
    let mut methods = 0;
    for line in DESCRIBED.lines() {
        let (path, rest) = line.split_once(' ').expect("a path and its methods");
        for method in rest.split(' ') {
            let (method, expected) = method.split_once('=').unwrap_or((method, "free"));
            // As it stands, with the root in any of its forms, and however it is spelled.
            let path = filled(path);
            let spelled = path.replace("s/", "%73;x//").replace('e', "%65");
            for path in [format!("/v1{path}"), path.clone(), format!("/gateway/openai{path}"), format!("/V1{spelled}/")]
            {
                assert_eq!(cost_of(method, &path), expected, "{method} {path}");
            }
            methods += 1;
        }
    }
    assert_eq!((DESCRIBED.lines().count(), methods), (176, METHODS));
}

#[test]
fn other_paths_are_unknown_unless_they_only_look() {
    for (method, path, expected) in [
        ("POST", "/anthropic/v1/messages", "metered"),
        ("POST", "/v1/messages/count_tokens", "free"),
        ("POST", "/v1/messages/batches", "unmetered"),
        ("POST", "/v1/messages/batches/msgbatch_1/cancel", "free"),
        ("POST", "/api/chat", "metered"),
        ("POST", "/api/generate", "metered"),
        ("POST", "/api/embed", "unmetered"),
        ("POST", "/api/show", "free"),
        ("POST", "/v1/decisions", "metered"),
        ("POST", "/openai/deployments/gpt-4o/chat/completions", "metered"),
        ("POST", "/openai/deployments/d/images/variations", "unmetered"),
        ("POST", "/v1/agents/sessions/s/turns", "unmetered"),
        ("POST", "/v1/files/", "free"),
        ("POST", "/openai/v1/files", "free"),
        ("POST", "/v1beta/files", "free"),
        ("POST", "/openai/deployments/d/files", "free"),
        ("POST", "/deployments/files", "unknown"),
        ("POST", "/vivid/files", "unknown"),
        ("POST", "/", "unknown"),
        ("POST", "/v1", "unknown"),
        ("POST", "/v1/rerank", "unknown"),
        ("POST", "/v1/videos/files", "unknown"),
        ("POST", "/v1/complete", "unmetered"),
        ("POST", "/v1/generate/threads", "unknown"),
        ("POST", "/v1/threads/run%C5%BF", "unknown"),
        ("POST", "/v1/threads/a/b", "unknown"),
        ("POST", "/v1/files/file_1", "unknown"),
        ("PUT", "/v1/files", "unknown"),
        ("PATCH", "/v1/assistants/a", "unknown"),
        ("PUT", "/v1/chat/completions", "unknown"),
        ("PROPFIND", "/v1/models", "unknown"),
        ("HEAD", "/v1/chat/completions", "free"),
        ("OPTIONS", "/v1/chat/completions", "free"),
        ("DELETE", "/no/such/path", "free"),
        ("GET", "/v1/responses/resp_1?stream=true", "free"),
    ] {
        assert_eq!(cost_of(method, path), expected, "{method} {path}");
    }
    for (path, expected) in [
        ("/v1/realtime?model=m", Cost::Metered),
        ("/v1/responses", Cost::Metered),
        ("/v1/live/sessions", Cost::Metered),
        ("/v1/realtime/translations?model=m", Cost::Unmetered(SILENT)),
        ("/v1/chat/completions", Cost::Unknown),
        ("/v1/files", Cost::Unknown),
    ] {
        let Ok(Route::Relay { cost, .. }) = route("GET", path, true) else { panic!("{path} is relayed") };
        assert_eq!(cost, expected, "a WebSocket at {path}");
    }
}
