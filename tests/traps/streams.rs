//! Streams: which of the usage objects in them holds, and when there is none.

use super::bodies::CALLS;
use super::support::answers::tokens;
use super::{Body, Trap};
use openai_api_proxy::usage::record::{Endpoint, Usage};

/// What the right chunk says.
const REAL: &str = r#""usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}"#;
/// What an earlier chunk of a server that counts on says.
const GROWING: &str = r#""usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}"#;
const TEXT: &str = r#"{"id":"c","model":"m","choices":[{"delta":{"content":"a"}}],"usage":null}"#;
const ALONE: &str = r#"{"id":"c","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}"#;
const DONE: &str = "[DONE]";

pub fn traps() -> Vec<Trap> {
    [chunks(), dialects(), responses(), media(), runs(), messages()].into_iter().flatten().collect()
}

fn stream(name: &'static str, endpoint: Endpoint, documents: &[&str], usage: Option<Usage>) -> Trap {
    let documents = documents.iter().map(|document| (*document).to_owned()).collect();
    Trap { name, endpoint, body: Body::Events(documents), usage }
}

fn chat(name: &'static str, documents: &[&str], usage: Option<Usage>) -> Trap {
    stream(name, Endpoint::ChatCompletions, documents, usage)
}

/// Of OpenAI's own and Azure's (reference, section 3.2).
fn chunks() -> Vec<Trap> {
    let plain = Some(tokens(5, 7));
    let text = r#"{"model":"m","choices":[{"delta":{"content":"\"usage\":{\"prompt_tokens\":9}"}}]}"#;
    let audio = r#"{"id":"c","delta":{"audio":{"data":"UklG"}},"usage":null}"#;
    let expires = r#"{"id":"c","delta":{"audio":{"expires_at":1741569952}},"usage":null}"#;
    let moderation = r#"{"id":"c","choices":[],"moderation":{"results":[{"usage":{"prompt_tokens":9}}]},"usage":null}"#;
    let filters = r#"{"choices":[],"prompt_filter_results":[{"prompt_index":0}],"usage":null}"#;
    let latency = r#"{"choices":[],"latency_checkpoint":{"usage":{"prompt_tokens":9}},"usage":null}"#;
    let error = r#"{"error":{"message":"no","usage":{"prompt_tokens":9}},"choices":[]}"#;
    let padded = ALONE.replace("}}", r#"},"obfuscation":"\"usage\":null"}"#);
    let tool = r#"{"choices":[{"delta":{"tool_calls":[{"usage":{"prompt_tokens":9}}]}}]}"#;
    let again = ALONE.replace(r#""id":"c""#, r#""id":"again""#);
    let growing = |id| format!(r#"{{"id":"{id}","model":"m","choices":[{{"index":0,"delta":{{}}}}],{GROWING}}}"#);
    vec![
        chat("a stream that nobody asked usage of", &[text, tool, text, DONE], None),
        chat("a stream that was cut", &[TEXT, TEXT], None),
        chat("usage alone in the last chunk", &[TEXT, ALONE, DONE], plain),
        chat("no end mark", &[TEXT, ALONE], plain),
        chat("padding on the chunk with usage", &[TEXT, &padded, DONE], plain),
        chat("audio: chunks without choices, one behind the usage", &[audio, TEXT, audio, ALONE, expires, DONE], plain),
        chat("moderation behind the usage", &[TEXT, ALONE, moderation, DONE], plain),
        chat("Azure: filters and latencies without choices", &[filters, TEXT, latency, ALONE, latency, DONE], plain),
        chat("an error at the end", &[TEXT, error], None),
        chat("a tool's own usage", &[TEXT, tool, ALONE, tool, DONE], plain),
        chat("a gateway that tried once more: two whole answers", &[TEXT, ALONE, &again, DONE], Some(tokens(10, 14))),
        chat("the same behind the end mark", &[TEXT, ALONE, DONE, &again, DONE], Some(tokens(10, 14))),
        chat("another id in each chunk of one answer", &[&growing("a"), &growing("b"), &again, DONE], plain),
        stream(
            "legacy completions",
            Endpoint::Completions,
            &[r#"{"choices":[{"text":"a"}],"usage":null}"#, ALONE, DONE],
            plain,
        ),
        chat("no JSON between", &["ping", TEXT, "{\"usage\":{\"prompt_tokens\":9", ALONE, "\u{0}", DONE], plain),
    ]
}

/// Of other servers (reference, section 10).
fn dialects() -> Vec<Trap> {
    let plain = Some(tokens(5, 7));
    let finish = format!(r#"{{"id":"c","choices":[{{"finish_reason":"stop"}}],{REAL}}}"#);
    let growing = format!(r#"{{"id":"c","choices":[{{"delta":{{"content":"a"}}}}],{GROWING}}}"#);
    let groq = format!(r#"{{"id":"c","choices":[{{"finish_reason":"stop"}}],"x_groq":{{"id":"r",{REAL}}}}}"#);
    let groq_both = format!(r#"{{"id":"c","choices":[],{REAL},"x_groq":{{"id":"r",{REAL}}}}}"#);
    let groq_first = r#"{"id":"c","choices":[{}],"x_groq":{"id":"r"}}"#;
    let failed = format!(r#"{{"error":{{"code":502,"message":"no"}},"choices":[{{"finish_reason":"error"}}],{REAL}}}"#);
    let mistral = format!(r#"{{"choices":[{{"finish_reason":"stop"}}],{REAL},"p":"\"usage\":null"}}"#);
    let perplexity = format!(r#"{{"object":"chat.completion.done","choices":[{{}}],{REAL}}}"#);
    let llama = format!(r#"{{"choices":[],{REAL},"timings":{{"prompt_n":99,"predicted_n":99}}}}"#);
    let smaller = r#"{"choices":[{}],"usage":{"prompt_tokens":50,"completion_tokens":70,"total_tokens":120}}"#;
    let empty = r#"{"choices":[],"usage":{}}"#;
    let copilot = format!(r#"{{"choices":[{{}}],{REAL},"copilot_usage":{{"total_nano_aiu":9,{GROWING}}}}}"#);
    let line = r#"{"model":"m","response":"\"eval_count\":9","done":false}"#;
    let last = r#"{"model":"m","done":true,"prompt_eval_count":5,"eval_count":7,"prompt_eval_duration":99}"#;
    let lines = |name, endpoint, documents: &[&str], usage| {
        let documents = documents.iter().map(|document| (*document).to_owned()).collect();
        Trap { name, endpoint, body: Body::Lines(documents), usage }
    };
    vec![
        chat("usage beside the last choice (OpenRouter, DeepSeek)", &[TEXT, &finish, DONE], plain),
        chat("an error with usage (OpenRouter)", &[TEXT, &failed], plain),
        chat("usage of its own only (Groq)", &[groq_first, TEXT, &groq, DONE], plain),
        chat("usage of its own and the other's (Groq)", &[groq_first, &groq_both, DONE], plain),
        chat("usage twice (Groq, asked)", &[groq_first, TEXT, &finish, ALONE, DONE], plain),
        chat("padding by another name (Mistral)", &[TEXT, &mistral, DONE], plain),
        chat("usage that grows in every chunk (vLLM, Gemini)", &[&growing, &growing, &finish, DONE], plain),
        chat("usage that grows, and an end without a mark (Perplexity)", &[&growing, &growing, &perplexity], plain),
        chat("a later usage that is smaller", &[smaller, &finish, DONE], plain),
        chat("an empty usage behind the real one", &[&finish, empty, DONE], plain),
        chat("timings beside the usage (llama.cpp)", &[TEXT, &llama, DONE], plain),
        chat("Copilot's own usage beside the other's", &[TEXT, &copilot, DONE], plain),
        lines("lines (Ollama)", Endpoint::ApiGenerate, &[line, line, last], plain),
        lines("lines that were cut (Ollama)", Endpoint::ApiChat, &[line, line], None),
        lines("an error in a line (Ollama)", Endpoint::ApiChat, &[line, r#"{"error":"no"}"#], None),
    ]
}

/// Of the responses endpoint (reference, section 3.3).
fn responses() -> Vec<Trap> {
    let plain = Some(tokens(5, 7));
    let event = |kind: &str, members: &str| {
        format!(
            r#"response.{kind}|{{"type":"response.{kind}","response":{{"id":"resp_1",{members}}},"sequence_number":1}}"#
        )
    };
    let real = r#""usage":{"input_tokens":5,"output_tokens":7,"total_tokens":12}"#;
    let [created, queued, in_progress] =
        ["created", "queued", "in_progress"].map(|kind| event(kind, r#""usage":null"#));
    let (completed, incomplete) = (event("completed", real), event("incomplete", real));
    let zeros = event("incomplete", r#""usage":{"input_tokens":0,"output_tokens":0,"total_tokens":0}"#);
    let failed = event("failed", r#""error":{"code":"server_error"},"usage":null"#);
    let failed_bare = event("failed", r#""status":"failed""#);
    let early = event("completed", &format!(r#"{real},"output":[{{"usage":{{"input_tokens":9}}}}],"text":{{}}"#));
    let tools =
        event("completed", &format!(r#""tool_usage":{{"image_gen":{{"input_tokens":99,"total_tokens":99}}}},{real}"#));
    let another = completed.replace("resp_1", "resp_2");
    let item = r#"response.output_item.done|{"type":"response.output_item.done","item":{"usage":{"input_tokens":9}},"usage":{"input_tokens":9}}"#;
    let image = r#"response.image_generation_call.partial_image|{"type":"response.image_generation_call.partial_image","partial_image_b64":"iVBO"}"#;
    let error = r#"error|{"type":"error","code":"server_error","message":"\"usage\":{","usage":{"input_tokens":9},"sequence_number":3}"#;
    let of = |name, documents: &[&str], usage| stream(name, Endpoint::Responses, documents, usage);
    vec![
        of("null until the terminal event", &[&created, &queued, &in_progress, item, &completed], plain),
        of("an incomplete response with usage", &[&created, &incomplete], plain),
        of("an incomplete response of zeros", &[&created, &zeros], Some(tokens(0, 0))),
        of("a failed response without usage", &[&created, &failed], None),
        of("a failed response that does not speak of it", &[&created, &failed_bare], None),
        of("a failed response with usage", &[&created, &event("failed", real)], plain),
        of("an error in the stream", &[&created, item, error], None),
        of("an error behind the terminal event", &[&created, &completed, error], plain),
        of("usage before the output of its event", &[&created, &early], plain),
        of("what a tool used, in a stream", &[&created, image, &tools], plain),
        of("a stream that was cut before its terminal event", &[&created, &in_progress, item], None),
        of("the terminal event alone, as of a late reader", &[&completed], plain),
        of("the terminal event twice", &[&created, &completed, &completed], plain),
        of("two whole responses", &[&created, &completed, &another], Some(tokens(10, 14))),
        of(
            "calls of the target's own tools, in a stream",
            &[&created, &event("completed", &format!("{CALLS},{real}"))],
            Some(Usage { tool_calls: 4, web_searches: [0, 0, 1], file_searches: 1, ..tokens(5, 7) }),
        ),
    ]
}

fn media() -> Vec<Trap> {
    let segment = r#"{"type":"transcript.text.segment","text":"a","start":0.5,"speaker":"A","usage":null}"#;
    let transcript = r#"{"type":"transcript.text.done","text":"a","usage":{"type":"tokens","input_tokens":5,"input_token_details":{"text_tokens":1,"audio_tokens":4},"output_tokens":7,"total_tokens":12}}"#;
    let seconds = r#"{"type":"transcript.text.done","text":"a","usage":{"type":"duration","seconds":1.5}}"#;
    let of_an_image = Usage { images: 1, unsaid_output_tokens: 7, ..tokens(5, 7) };
    let partial =
        r#"image_generation.partial_image|{"type":"image_generation.partial_image","b64_json":"iVBO","usage":null}"#;
    let image = r#"image_generation.completed|{"type":"image_generation.completed","b64_json":"iVBO","usage":{"input_tokens":5,"output_tokens":7,"total_tokens":12,"input_tokens_details":{"text_tokens":5,"image_tokens":0}}}"#;
    let in_audio = Usage { input_audio_tokens: 4, ..tokens(5, 7) };
    let in_seconds = Usage { audio_us: 1_500_000, ..tokens(0, 0) };
    vec![
        stream(
            "segments of a transcription",
            Endpoint::AudioTranscriptions,
            &[segment, transcript, DONE],
            Some(in_audio),
        ),
        stream(
            "seconds of a transcription",
            Endpoint::AudioTranscriptions,
            &[segment, seconds, DONE],
            Some(in_seconds),
        ),
        stream("a transcription that was cut", Endpoint::AudioTranscriptions, &[segment, segment], None),
        stream("parts of an image", Endpoint::ImagesGenerations, &[partial, partial, image], Some(of_an_image)),
        stream("an image that was cut", Endpoint::ImagesEdits, &[partial, partial], None),
        stream(
            "speech that was cut",
            Endpoint::AudioSpeech,
            &[r#"{"type":"speech.audio.delta","audio":"UklG"}"#],
            None,
        ),
    ]
}

/// Of the assistants (reference, section 3.4): steps are parts of their run.
fn runs() -> Vec<Trap> {
    let step = |input, output| {
        format!(
            r#"thread.run.step.completed|{{"object":"thread.run.step","usage":{{"prompt_tokens":{input},"completion_tokens":{output}}},"id":"s"}}"#
        )
    };
    let run = |kind: &str, usage: &str| format!(r#"thread.run.{kind}|{{"id":"run_1",{usage},"object":"thread.run"}}"#);
    let delta = r#"thread.message.delta|{"object":"thread.message.delta","delta":{"usage":{"prompt_tokens":9}}}"#;
    let (created, waiting) = (run("created", r#""usage":null"#), run("requires_action", r#""usage":null"#));
    let completed = run("completed", REAL);
    let (one, two) = (step(2, 3), step(3, 4));
    let error = r#"error|{"object":"error","message":"no","usage":{"prompt_tokens":9}}"#;
    let of = |name, documents: &[&str], usage| stream(name, Endpoint::ThreadsRuns, documents, usage);
    vec![
        of("steps of a run", &[&created, &one, delta, &two, &completed, "done|[DONE]"], Some(tokens(5, 7))),
        of("a run that waits for its caller", &[&created, &one, &waiting, "done|[DONE]"], None),
        of("a run that broke", &[&created, &one, error], None),
        of("a run that failed and says what it took", &[&created, &one, &run("failed", REAL)], Some(tokens(5, 7))),
    ]
}

/// Of Anthropic's own API: merged by field.
fn messages() -> Vec<Trap> {
    let start = r#"message_start|{"type":"message_start","message":{"id":"msg_1","model":"claude","usage":{"input_tokens":2,"cache_read_input_tokens":2,"cache_creation_input_tokens":1,"output_tokens":1}}}"#;
    let ping = r#"ping|{"type":"ping"}"#;
    let block = r#"content_block_delta|{"type":"content_block_delta","delta":{"usage":{"output_tokens":9},"partial_json":"\"usage\":{"}}"#;
    let output =
        r#"message_delta|{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7}}"#;
    let all = r#"message_delta|{"type":"message_delta","usage":{"input_tokens":5,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,"output_tokens":7}}"#;
    let nulls = r#"message_delta|{"type":"message_delta","usage":{"input_tokens":null,"cache_read_input_tokens":null,"output_tokens":7}}"#;
    let growing = r#"message_delta|{"type":"message_delta","usage":{"output_tokens":4}}"#;
    let error = r#"error|{"type":"error","error":{"type":"overloaded_error"}}"#;
    let (stop, other) = (r#"message_stop|{"type":"message_stop"}"#, start.replace("msg_1", "msg_2"));
    let twice = Some(Usage { cached_input_tokens: 4, cache_write_tokens: 2, ..tokens(10, 14) });
    let kept = Some(Usage { cached_input_tokens: 2, cache_write_tokens: 1, ..tokens(5, 7) });
    let of = |name, documents: &[&str], usage| stream(name, Endpoint::Messages, documents, usage);
    vec![
        of("only the output grows (Anthropic)", &[start, ping, block, output], kept),
        of("the output grows twice (Anthropic)", &[start, growing, output], kept),
        of("every number anew (Anthropic)", &[start, block, all], Some(tokens(5, 7))),
        of("nulls keep what was said (Anthropic)", &[start, nulls], kept),
        of("a message that was cut (Anthropic)", &[start, ping, block], None),
        of("a message that broke (Anthropic)", &[start, block, error], None),
        of("a message twice (Anthropic)", &[start, output, stop, start, output, stop], kept),
        of("two whole messages (Anthropic)", &[start, output, stop, &other, output, stop], twice),
    ]
}
