//! What the ledger is to hold for a usage object of the API: the tests' own reading of it, apart from the proxy's.

use serde_json::Value;

/// The ledger's columns for a usage object of the API, whichever dialect.
pub fn columns(usage: &Value) -> Vec<(&'static str, u64)> {
    let input_groups = ["prompt_tokens_details", "input_tokens_details", "prompt_token_details", "input_token_details"];
    let output_groups = ["completion_tokens_details", "output_tokens_details", "output_token_details"];
    let details = |groups: &[&str], name: &str, elsewhere: &[&str]| {
        let paths: Vec<String> = groups.iter().map(|group| format!("/{group}/{name}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).chain(elsewhere.iter().copied()).collect();
        at(usage, &paths)
    };
    let elsewhere = ["/num_cached_tokens", "/prompt_cache_hit_tokens", "/cached_tokens", "/cache_read_input_tokens"];
    let cached = details(&input_groups, "cached_tokens", &elsewhere);
    let written = details(&input_groups, "cache_write_tokens", &["/cache_creation_input_tokens"]);
    let output = at(usage, &["/completion_tokens", "/output_tokens"]);
    // Anthropic counts what the cache did beside the input, the ledger as a part of it.
    let beside = if usage.get("cache_read_input_tokens").is_some() { cached + written } else { 0 };
    let input = at(usage, &["/prompt_tokens", "/input_tokens"]) + beside;
    vec![
        ("input_tokens", input),
        ("output_tokens", output),
        ("total_tokens", usage["total_tokens"].as_u64().unwrap_or(input + output)),
        ("cached_input_tokens", cached),
        ("cache_write_tokens", written),
        ("input_audio_tokens", details(&input_groups, "audio_tokens", &[])),
        ("input_image_tokens", details(&input_groups, "image_tokens", &[])),
        ("reasoning_tokens", details(&output_groups, "reasoning_tokens", &["/reasoning_tokens"])),
        ("output_audio_tokens", details(&output_groups, "audio_tokens", &[])),
        ("output_image_tokens", details(&output_groups, "image_tokens", &[])),
        ("audio_seconds", at(usage, &["/seconds"])),
    ]
}

fn at(usage: &Value, paths: &[&str]) -> u64 {
    paths.iter().find_map(|path| usage.pointer(path)).and_then(Value::as_u64).unwrap_or(0)
}
