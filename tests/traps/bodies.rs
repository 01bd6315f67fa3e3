//! Whole answers: what a usage object may look like, and where one stands that is none.

use super::support::answers::tokens;
use super::{Body, Trap};
use openai_api_proxy::usage::record::{Endpoint, Usage};

/// The usage object of a completion, which must not count where it stands in these tests beside the real one.
const FALSE: &str = r#""usage":{"prompt_tokens":999,"completion_tokens":999,"input_tokens":999,"output_tokens":999,"total_tokens":1998}"#;

/// Output with calls of tools: one search of the web and a look into its page, one of files, two containers.
pub const CALLS: &str = r#""tools":[{"type":"web_search","search_context_size":"high"}],"output":[{"type":"web_search_call","action":{"type":"search"}},{"type":"web_search_call","action":{"type":"open_page"}},{"type":"file_search_call"},{"type":"code_interpreter_call","container_id":"c1"},{"type":"code_interpreter_call","container_id":"c1"},{"type":"code_interpreter_call","container_id":"c2"},{"type":"function_call","container_id":null}]"#;

pub fn traps() -> Vec<Trap> {
    [objects(), dialects(), places(), endpoints()].into_iter().flatten().collect()
}

fn whole(name: &'static str, endpoint: Endpoint, body: impl Into<String>, usage: Option<Usage>) -> Trap {
    Trap { name, endpoint, body: Body::Json(body.into()), usage }
}

/// A completion with this usage value.
fn chat(name: &'static str, value: &str, usage: Option<Usage>) -> Trap {
    whole(name, Endpoint::ChatCompletions, format!(r#"{{"choices":[],"model":"m","usage":{value},"id":"c"}}"#), usage)
}

/// What a usage object may hold.
fn objects() -> Vec<Trap> {
    let plain = Some(tokens(5, 7));
    let only = |input_tokens| Some(tokens(input_tokens, 0));
    vec![
        chat("null", "null", None),
        chat("an empty object", "{}", None),
        chat("a list", r#"[{"prompt_tokens":5}]"#, None),
        chat("a number", "12", None),
        chat("a string", r#""{\"prompt_tokens\":5}""#, None),
        chat("true", "true", None),
        chat("numbers in quotes", r#"{"prompt_tokens":"12","completion_tokens":"7"}"#, Some(tokens(12, 7))),
        chat("no number in it", r#"{"prompt_tokens":null,"completion_tokens":"seven","cost":0.1}"#, None),
        chat("explicit zeros", r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#, Some(tokens(0, 0))),
        chat("no completion tokens (legacy recordings)", r#"{"prompt_tokens":5,"total_tokens":5}"#, only(5)),
        chat("no total", r#"{"prompt_tokens":5,"completion_tokens":7}"#, plain),
        chat(
            "null details",
            r#"{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12,"prompt_tokens_details":null,"completion_tokens_details":null}"#,
            plain,
        ),
        chat(
            "null members of details",
            r#"{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":null,"audio_tokens":null},"completion_tokens":7}"#,
            plain,
        ),
        chat(
            "details that are no objects",
            r#"{"prompt_tokens":5,"prompt_tokens_details":[{"cached_tokens":5}],"completion_tokens":7,"completion_tokens_details":3}"#,
            plain,
        ),
        chat("floats", r#"{"prompt_tokens":5.0,"completion_tokens":7e0,"total_tokens":12.0,"queue_time":0.01}"#, plain),
        chat(
            "unknown objects inside",
            r#"{"cost":{"total_tokens":1,"prompt_tokens":2},"latency_checkpoint":{"completion_tokens":3},"x":[{"prompt_tokens":4}],"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}"#,
            plain,
        ),
        chat(
            "prediction tokens are in the output already",
            r#"{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12,"completion_tokens_details":{"accepted_prediction_tokens":2,"rejected_prediction_tokens":3}}"#,
            plain,
        ),
        chat(
            "lifetimes of what was written to the cache",
            r#"{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":{"cache_write_tokens":4,"cache_write_tokens_details":{"ttl_30m_tokens":3,"ttl_12h_tokens":1}}}"#,
            Some(Usage { cache_write_tokens: 4, cache_write_12h_tokens: 1, ..tokens(5, 7) }),
        ),
        chat("a negative number", r#"{"prompt_tokens":-5,"completion_tokens":7}"#, Some(tokens(0, 7))),
        chat("a number beyond all", r#"{"prompt_tokens":1e300,"completion_tokens":7}"#, Some(tokens(0, 7))),
        chat("white space everywhere", "\n\t{ \"prompt_tokens\" :\r\n 5 , \"completion_tokens\":7 }\n", plain),
        chat("escaped keys", r#"{"prompt\u005ftokens":5,"completion_tokens":7}"#, plain),
    ]
}

/// Other servers (reference, section 10).
fn dialects() -> Vec<Trap> {
    let cached = Some(Usage { cached_input_tokens: 2, ..tokens(5, 7) });
    let three = r#""prompt_tokens":5,"completion_tokens":7,"total_tokens":12"#;
    let of = |name, more: &str, usage| chat(name, &format!("{{{three},{more}}}"), usage);
    vec![
        of("DeepSeek", r#""prompt_cache_hit_tokens":2,"prompt_cache_miss_tokens":3"#, cached),
        of(
            "Mistral",
            r#""num_cached_tokens":2,"prompt_audio_seconds":null,"prompt_tokens_details":null,"prompt_token_details":null"#,
            cached,
        ),
        of("Together", r#""cached_tokens":2,"prompt_tokens_details":null"#, cached),
        of(
            "Perplexity",
            r#""search_context_size":"low","cost":{"input_tokens_cost":0.1,"total_cost":0.2}"#,
            Some(tokens(5, 7)),
        ),
        of(
            "OpenRouter",
            r#""cost":0.1,"is_byok":false,"prompt_tokens_details":{"cached_tokens":2,"video_tokens":0},"cost_details":{"upstream_inference_cost":null}"#,
            cached,
        ),
        of("Groq", r#""queue_time":0.2,"prompt_time":0.01,"total_time":0.3"#, Some(tokens(5, 7))),
        whole(
            "in the first choice (Moonshot)",
            Endpoint::ChatCompletions,
            format!(r#"{{"choices":[{{"index":0,"message":{{{FALSE}}},"usage":{{{three}}}}}]}}"#),
            Some(tokens(5, 7)),
        ),
        chat(
            "what was thought beside the output (xAI)",
            r#"{"prompt_tokens":5,"completion_tokens":4,"completion_tokens_details":{"reasoning_tokens":3},"total_tokens":12}"#,
            Some(Usage { reasoning_tokens: 3, ..tokens(5, 7) }),
        ),
        of("Copilot", r#""reasoning_tokens":3"#, Some(Usage { reasoning_tokens: 3, ..tokens(5, 7) })),
        of("Azure", r#""latency_checkpoint":{"engine_tbt_ms":5,"total_duration_ms":900}"#, Some(tokens(5, 7))),
        whole(
            "Copilot's own usage beside the other",
            Endpoint::ChatCompletions,
            format!(
                r#"{{"copilot_usage":{{"total_nano_aiu":99,"token_details":[{{"token_count":9}}]}},"usage":{{{three}}}}}"#
            ),
            Some(tokens(5, 7)),
        ),
        whole(
            "llama.cpp's timings beside the usage",
            Endpoint::ChatCompletions,
            format!(
                r#"{{"usage":{{{three}}},"timings":{{"cache_n":1,"prompt_n":99,"predicted_n":99,"prompt_ms":0.5}}}}"#
            ),
            Some(tokens(5, 7)),
        ),
        whole(
            "Groq's breakdown beside the usage",
            Endpoint::ChatCompletions,
            format!(
                r#"{{"usage":{{{three}}},"usage_breakdown":{{"models":[{{"model":"x",{FALSE}}}]}},"x_groq":{{"id":"r"}}}}"#
            ),
            Some(tokens(5, 7)),
        ),
        whole(
            "xAI's ticks and sources",
            Endpoint::Responses,
            r#"{"usage":{"input_tokens":5,"output_tokens":7,"total_tokens":12,"cost_in_usd_ticks":1586500,"num_sources_used":0,"context_details":{"input_tokens":9}}}"#,
            Some(tokens(5, 7)),
        ),
    ]
}

/// Where something called usage stands that is not the answer's (reference, section 4).
fn places() -> Vec<Trap> {
    let chat = |name, members: &str| whole(name, Endpoint::ChatCompletions, format!("{{{members}}}"), None);
    let beside = |name, members: &str| {
        let real = r#""usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}"#;
        whole(name, Endpoint::ChatCompletions, format!("{{{members},{real}}}"), Some(tokens(5, 7)))
    };
    let quoted = FALSE.replace('"', "\\\"");
    vec![
        chat("in the answer's text", &format!(r#""choices":[{{"message":{{"content":"{{{quoted}}}"}}}}]"#)),
        chat(
            "in a tool's arguments, as an object",
            &format!(r#""choices":[{{"message":{{"tool_calls":[{{{FALSE}}}]}}}}]"#),
        ),
        beside("in a choice before the real one", &format!(r#""choices":[{{{FALSE}}}]"#)),
        chat("in metadata", &format!(r#""metadata":{{{FALSE}}}"#)),
        chat("at the right path of the wrong document", &format!(r#""response":{{{FALSE}}}"#)),
        chat("in a list around the document", &format!(r#""data":[{{{FALSE}}}],"object":"list""#)),
        chat(
            "under a longer name",
            r#""usages":{"prompt_tokens":9},"_usage":{"prompt_tokens":9},"Usage":{"prompt_tokens":9}"#,
        ),
        chat("bytes of a vector store", r#""object":"vector_store","usage_bytes":123456,"file_counts":{"total":1}"#),
        chat("a ratio", r#""context_window":{"usage_ratio":0.5},"usage_ratio":0.25"#),
        chat("who may see it", r#""settings":{"usage_dashboard_visibility":"OWNERS"}"#),
        beside("metadata before the real one", &format!(r#""metadata":{{{FALSE}}}"#)),
        beside("null before the real one", r#""usage":null"#),
        beside("an older one before the real one", FALSE),
        whole(
            "null behind the real one",
            Endpoint::ChatCompletions,
            r#"{"usage":{"prompt_tokens":5,"completion_tokens":7},"usage":null,"choices":[]}"#,
            Some(tokens(5, 7)),
        ),
        whole("a list of answers", Endpoint::ChatCompletions, format!("[{{{FALSE}}}]"), None),
        whole("a text that quotes it", Endpoint::ChatCompletions, format!("\"{quoted}\""), None),
        whole("nothing", Endpoint::ChatCompletions, "", None),
        whole("a page", Endpoint::ChatCompletions, format!("<html>{{{FALSE}}}</html>"), None),
        whole(
            "more than any usage holds",
            Endpoint::ChatCompletions,
            format!(r#"{{"usage":{{"prompt_tokens":5,"x":"{}"}}}}"#, "x".repeat(20_000)),
            None,
        ),
    ]
}

/// What is special about one endpoint.
fn endpoints() -> Vec<Trap> {
    let plain = Some(tokens(5, 7));
    let usage = r#""usage":{"input_tokens":5,"output_tokens":7,"total_tokens":12}"#;
    let response = |name, members: &str, usage| whole(name, Endpoint::Responses, format!("{{{members}}}"), usage);
    let run = r#""object":"thread.run","usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}"#;
    let zero = Some(tokens(0, 0));
    vec![
        response("in the background", r#""status":"queued","background":true,"usage":null"#, None),
        response(
            "what a tool used, beside",
            &format!(
                r#"{usage},"tool_usage":{{"image_gen":{{"input_tokens":99,"output_tokens":99,"total_tokens":198}},"web_search":{{"num_requests":1}}}}"#
            ),
            Some(Usage { tool_calls: 1, web_searches: [0, 1, 0], ..tokens(5, 7) }),
        ),
        response(
            "calls of the target's own tools",
            &format!(r#"{CALLS},{usage}"#),
            Some(Usage { tool_calls: 4, web_searches: [0, 0, 1], file_searches: 1, ..tokens(5, 7) }),
        ),
        response(
            "what a drawing took, in the output",
            &format!(
                r#""output":[{{"type":"image_generation_call","svg_usage":{{"input_tokens":99}},{FALSE}}}],{usage}"#
            ),
            plain,
        ),
        response(
            "usage before the output",
            &format!(r#"{usage},"output":[{{"content":[{{{FALSE}}}]}}],"text":{{{FALSE}}}"#),
            plain,
        ),
        response(
            "a tool that is called usage",
            &format!(
                r#""tools":[{{"parameters":{{"properties":{{{FALSE}}}}}}}],{usage},"billing":{{"payer":"developer"}}"#
            ),
            plain,
        ),
        whole(
            "output tokens of an embedding (Azure)",
            Endpoint::Embeddings,
            r#"{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":5,"completion_tokens":0,"total_tokens":5}}"#,
            Some(tokens(5, 0)),
        ),
        whole(
            "a failed transcription's seconds",
            Endpoint::AudioTranscriptions,
            r#"{"error":{"message":"no"},"usage":{"type":"duration","seconds":0}}"#,
            zero,
        ),
        whole(
            "whole seconds",
            Endpoint::AudioTranscriptions,
            r#"{"text":"a","duration":99.5,"usage":{"type":"duration","seconds":9}}"#,
            Some(Usage { audio_us: 9_000_000, ..tokens(0, 0) }),
        ),
        whole(
            "a transcription's length, in quotes",
            Endpoint::AudioTranscriptions,
            r#"{"text":"a","duration":"2.5","segments":[{"duration":9}]}"#,
            Some(Usage { audio_us: 2_500_000, ..tokens(0, 0) }),
        ),
        whole(
            "a translation's length",
            Endpoint::AudioTranslations,
            r#"{"duration":8.47,"text":"a"}"#,
            Some(Usage { audio_us: 8_470_000, ..tokens(0, 0) }),
        ),
        whole(
            "an old transcription",
            Endpoint::AudioTranscriptions,
            r#"{"text":"a","segments":[{"tokens":[1]}]}"#,
            None,
        ),
        whole(
            "old images: only their number",
            Endpoint::ImagesGenerations,
            r#"{"created":1,"data":[{"url":"x"}]}"#,
            Some(Usage { images: 1, ..tokens(0, 0) }),
        ),
        whole("a finished run", Endpoint::ThreadsRuns, format!(r#"{{"id":"run_1",{run}}}"#), plain),
        whole(
            "a run's step",
            Endpoint::ThreadsRuns,
            format!("{{{}}}", run.replace("thread.run", "thread.run.step")),
            None,
        ),
        whole("a list of runs", Endpoint::ThreadsRuns, format!(r#"{{"object":"list","data":[{{{run}}}]}}"#), None),
        whole(
            "what the cache did, beside the input (Anthropic)",
            Endpoint::Messages,
            r#"{"usage":{"input_tokens":1,"cache_read_input_tokens":3,"cache_creation_input_tokens":1,"cache_creation":{"ephemeral_5m_input_tokens":1},"output_tokens":7,"server_tool_use":{"web_search_requests":0}}}"#,
            Some(Usage { cached_input_tokens: 3, cache_write_tokens: 1, ..tokens(5, 7) }),
        ),
        whole(
            "everything from the cache (Ollama)",
            Endpoint::ApiGenerate,
            r#"{"done":true,"context":[1],"eval_count":7,"response":"\"prompt_eval_count\":9"}"#,
            Some(tokens(0, 7)),
        ),
    ]
}
