//! Every dialect of a usage object, and what is no number.

use super::*;

#[test]
fn chat_responses_and_embeddings() {
    let chat = br#"{"prompt_tokens":48,"completion_tokens":14,"total_tokens":62,"prompt_tokens_details":
        {"cached_tokens":5,"audio_tokens":2,"cache_write_tokens":3,"image_tokens":1},
        "completion_tokens_details":{"reasoning_tokens":7,"audio_tokens":4,"accepted_prediction_tokens":9}}"#;
    let expected = Usage {
        input_tokens: 48,
        cached_input_tokens: 5,
        cache_write_tokens: 3,
        input_audio_tokens: 2,
        input_image_tokens: 1,
        output_tokens: 14,
        reasoning_tokens: 7,
        output_audio_tokens: 4,
        total_tokens: 62,
        ..Usage::default()
    };
    assert_eq!(read(chat), Some(expected));
    let responses = br#"{"input_tokens":9,"input_tokens_details":{"cached_tokens":1,"cache_write_tokens":2},
        "output_tokens":3,"output_tokens_details":{"reasoning_tokens":2},"total_tokens":12}"#;
    let expected = Usage {
        input_tokens: 9,
        cached_input_tokens: 1,
        cache_write_tokens: 2,
        output_tokens: 3,
        reasoning_tokens: 2,
        total_tokens: 12,
        ..Usage::default()
    };
    assert_eq!(read(responses), Some(expected));
    let embeddings = Usage { input_tokens: 8, total_tokens: 8, ..Usage::default() };
    assert_eq!(read(br#"{"prompt_tokens":8,"total_tokens":8}"#), Some(embeddings));
}

#[test]
fn nulls_floats_and_nonsense_are_passed_over() {
    assert_eq!(read(b"null"), None);
    let odd = br#"{"prompt_tokens":4.0,"completion_tokens":"seven","prompt_tokens_details":null,"queue_time":0.5,
        "completion_tokens_details":[1],"x":{"prompt_tokens":99},"total_tokens":null}"#;
    assert_eq!(read(odd), Some(Usage { input_tokens: 4, total_tokens: 4, ..Usage::default() }));
    assert_eq!(read(br#"{"prompt_tokens":-4,"total_tokens":1e300}"#), None);
}

fn read(raw: &[u8]) -> Option<Usage> {
    UsageObject::parse(raw).map(|object| object.usage(false))
}

fn tokens(input_tokens: u64, output_tokens: u64) -> Usage {
    Usage { input_tokens, output_tokens, total_tokens: input_tokens + output_tokens, ..Usage::default() }
}

#[test]
fn an_object_without_a_number_reports_nothing_and_a_zero_does() {
    assert_eq!(read(b"{}"), None);
    assert_eq!(read(br#"{"prompt_tokens":null,"prompt_tokens_details":{"cached_tokens":null},"cost":1}"#), None);
    assert_eq!(read(br#"{"prompt_tokens":0}"#), Some(Usage::default()));
}

#[test]
fn a_count_may_stand_in_quotes() {
    let quoted = br#"{"prompt_tokens":"12","completion_tokens":"7","total_tokens":"19"}"#;
    assert_eq!(read(quoted), Some(tokens(12, 7)));
    assert_eq!(read(br#"{"prompt_tokens":"twelve"}"#), None);
}

#[test]
fn transcription_by_tokens_and_by_duration() {
    let by_tokens = br#"{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":4,"audio_tokens":10},
        "output_tokens":45,"total_tokens":59}"#;
    assert_eq!(read(by_tokens), Some(Usage { input_audio_tokens: 10, ..tokens(14, 45) }));
    let seconds = |seconds: &str| read(format!(r#"{{"type":"duration","seconds":{seconds}}}"#).as_bytes());
    assert_eq!(seconds("7"), Some(Usage { audio_us: 7_000_000, ..Usage::default() }));
    assert_eq!(seconds("\"7\""), seconds("7"));
    assert_eq!(seconds("1.234567"), Some(Usage { audio_us: 1_234_567, ..Usage::default() }));
    assert_eq!(seconds("0"), Some(Usage::default()));
    for nonsense in ["-1", "1e300", "\"x\"", "null"] {
        assert_eq!(seconds(nonsense), None, "{nonsense}");
    }
}

#[test]
fn realtime_with_the_media_of_its_cached_tokens() {
    let realtime = br#"{"total_tokens":300,"input_tokens":200,"output_tokens":100,"input_token_details":
        {"text_tokens":60,"audio_tokens":110,"image_tokens":30,"cached_tokens":96,
        "cached_tokens_details":{"text_tokens":32,"audio_tokens":56,"image_tokens":8}},
        "output_token_details":{"text_tokens":20,"audio_tokens":80,"reasoning_tokens":5}}"#;
    let cached = |text, audio, image| Usage {
        cached_input_tokens: text + audio + image,
        cached_text_tokens: text,
        cached_audio_tokens: audio,
        cached_image_tokens: image,
        ..Usage::default()
    };
    let expected = Usage {
        input_tokens: 200,
        input_audio_tokens: 110,
        input_image_tokens: 30,
        output_tokens: 100,
        output_audio_tokens: 80,
        reasoning_tokens: 5,
        total_tokens: 300,
        ..cached(32, 56, 8)
    };
    assert_eq!(read(realtime), Some(expected));
    let tool = br#"{"input_tokens":50,"input_tokens_details":{"image_tokens":40,"text_tokens":10},"output_tokens":9,
        "cached_tokens":12,"cached_tokens_details":{"cached_image_tokens":8,"cached_text_tokens":4},"total_tokens":59}"#;
    let expected =
        Usage { input_tokens: 50, input_image_tokens: 40, output_tokens: 9, total_tokens: 59, ..cached(4, 0, 8) };
    assert_eq!(read(tool), Some(expected));
}

#[test]
fn images_and_runs() {
    let image = br#"{"input_tokens":50,"input_tokens_details":{"image_tokens":40,"text_tokens":10},"output_tokens":100,
        "output_tokens_details":{"image_tokens":90,"text_tokens":10},"total_tokens":150}"#;
    assert_eq!(read(image), Some(Usage { input_image_tokens: 40, output_image_tokens: 90, ..tokens(50, 100) }));
    let run = br#"{"prompt_tokens":20,"completion_tokens":5,"total_tokens":25,
        "prompt_token_details":{"cached_tokens":16},"completion_tokens_details":{"reasoning_tokens":3}}"#;
    assert_eq!(read(run), Some(Usage { cached_input_tokens: 16, reasoning_tokens: 3, ..tokens(20, 5) }));
}

#[test]
fn compatible_servers() {
    let usage = Usage { cached_input_tokens: 6, ..tokens(10, 4) };
    for (server, fields) in [
        (
            "DeepSeek",
            r#""prompt_tokens_details":{"cached_tokens":6},"prompt_cache_hit_tokens":6,"prompt_cache_miss_tokens":4"#,
        ),
        ("DeepSeek, older", r#""prompt_cache_hit_tokens":6,"prompt_cache_miss_tokens":4"#),
        (
            "Mistral",
            r#""num_cached_tokens":6,"prompt_tokens_details":null,"prompt_token_details":null,"prompt_audio_seconds":null"#,
        ),
        ("Together", r#""cached_tokens":6,"prompt_tokens_details":null"#),
        (
            "OpenRouter",
            r#""cost":0.01,"cost_details":{"prompt_tokens":9},"is_byok":false,"prompt_tokens_details":{"cached_tokens":6,"video_tokens":0}"#,
        ),
        ("one name at zero", r#""prompt_tokens_details":{"cached_tokens":6},"cache_read_input_tokens":0"#),
    ] {
        let object = format!(r#"{{"prompt_tokens":10,"completion_tokens":4.0,{fields},"total_tokens":14}}"#);
        assert_eq!(read(object.as_bytes()), Some(usage), "{server}");
    }
    let copilot = br#"{"prompt_tokens":10,"completion_tokens":4,"reasoning_tokens":2,"total_tokens":14}"#;
    assert_eq!(read(copilot), Some(Usage { reasoning_tokens: 2, ..tokens(10, 4) }));
}

#[test]
fn a_later_number_replaces_an_earlier_one_and_a_null_does_not() {
    let parse = |text: &str| UsageObject::parse(text.as_bytes()).unwrap();
    let mut object = parse(r#"{"input_tokens":10,"cache_read_input_tokens":7,"output_tokens":1}"#);
    object.merge(&parse(r#"{"input_tokens":null,"cache_read_input_tokens":0,"output_tokens":30}"#));
    assert_eq!(object.usage(true), tokens(10, 30));
}

#[test]
fn the_cache_beside_the_input_becomes_a_part_of_it() {
    let anthropic = br#"{"input_tokens":3,"cache_read_input_tokens":100,"cache_creation_input_tokens":20,
        "cache_creation":{"ephemeral_5m_input_tokens":20},"output_tokens":5}"#;
    let expected = Usage { cached_input_tokens: 100, cache_write_tokens: 20, ..tokens(123, 5) };
    assert_eq!(UsageObject::parse(anthropic).unwrap().usage(true), expected);
}
