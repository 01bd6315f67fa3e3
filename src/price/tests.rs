//! Costs against values worked out by hand from `prices.json`, and against exact rational arithmetic.

use super::*;
use proptest::prelude::*;

fn cost(model: &str, usage: Usage) -> Option<u64> {
    PriceTable::built_in().cost_nano_usd(model, &usage, None)
}

fn tokens(input_tokens: u64, output_tokens: u64) -> Usage {
    Usage { input_tokens, output_tokens, total_tokens: input_tokens + output_tokens, ..Usage::default() }
}

#[test]
fn plain_tokens() {
    // gpt-4o: 2.50 USD and 10 USD a million, that is 2,500 and 10,000 nano-dollars a token.
    assert_eq!(cost("gpt-4o", tokens(19, 10)), Some(19 * 2_500 + 10 * 10_000));
    assert_eq!(cost("gpt-4o", tokens(0, 0)), Some(0));
    // text-embedding-3-small: 0.02 USD a million.
    assert_eq!(cost("text-embedding-3-small", tokens(5, 0)), Some(100));
    // A million dollars' worth, exactly.
    assert_eq!(cost("gpt-4o", tokens(400_000_000_000, 0)), Some(1_000_000_000_000_000));
}

#[test]
fn each_token_is_charged_once() {
    // 1,000 in, 600 of them cached at 1.25 USD a million; reasoning is output like any other.
    let usage = Usage { cached_input_tokens: 600, reasoning_tokens: 64, ..tokens(1_000, 100) };
    assert_eq!(cost("gpt-4o", usage), Some(400 * 2_500 + 600 * 1_250 + 100 * 10_000));
    // gpt-6.1-sol: 2 in, 0.1 cached, 2.5 written, 10 out.
    let usage = Usage { cached_input_tokens: 600, cache_write_tokens: 300, ..tokens(1_000, 1) };
    assert_eq!(cost("gpt-6.1-sol", usage), Some(100 * 2_000 + 600 * 100 + 300 * 2_500 + 10_000));
    // gpt-audio: 2.5 text in, 32 audio in, 10 text out, 64 audio out.
    let usage = Usage { input_audio_tokens: 30, output_audio_tokens: 200, ..tokens(50, 250) };
    assert_eq!(cost("gpt-audio", usage), Some(20 * 2_500 + 30 * 32_000 + 50 * 10_000 + 200 * 64_000));
    // gpt-4o-mini-tts: 0.6 in, 12 audio out.
    assert_eq!(
        cost("gpt-4o-mini-tts", Usage { output_audio_tokens: 101, ..tokens(14, 101) }),
        Some(14 * 600 + 101 * 12_000)
    );
    // gpt-image-1: 5 text in, 10 image in, 40 image out.
    let usage = Usage { input_image_tokens: 300, output_image_tokens: 1_056, images: 1, ..tokens(350, 1_056) };
    assert_eq!(cost("gpt-image-1", usage), Some(50 * 5_000 + 300 * 10_000 + 1_056 * 40_000));
    // gpt-4o has no price for image tokens: they are text tokens.
    let usage = Usage { input_image_tokens: 300, cached_input_tokens: 100, ..tokens(350, 0) };
    assert_eq!(cost("gpt-4o", usage), Some(250 * 2_500 + 100 * 1_250));
}

#[test]
fn cached_tokens_of_one_medium_or_no_price() {
    // gpt-realtime: text 4, audio 32, cached audio 0.4.
    let audio_only = Usage { input_audio_tokens: 500, cached_input_tokens: 100, ..tokens(500, 0) };
    assert_eq!(cost("gpt-realtime", audio_only), Some(400 * 32_000 + 100 * 400));
    let mixed = Usage { input_audio_tokens: 499, ..audio_only };
    assert_eq!(cost("gpt-realtime", mixed), None);
    // All of it cached: no medium is in doubt. More than all of it: nonsense.
    assert_eq!(cost("gpt-realtime", Usage { cached_input_tokens: 500, ..mixed }), Some(499 * 400 + 400));
    assert_eq!(cost("gpt-realtime", Usage { cached_input_tokens: 501, ..mixed }), None);
}

#[test]
fn cached_tokens_whose_media_are_told() {
    // gpt-realtime-mini: text 0.6, audio 10, image 0.8; cached 0.06, 0.3, 0.08.
    let usage = Usage {
        input_audio_tokens: 500,
        input_image_tokens: 200,
        cached_input_tokens: 170,
        cached_text_tokens: 60,
        cached_audio_tokens: 100,
        cached_image_tokens: 10,
        ..tokens(1_000, 0)
    };
    let plain = 240 * 600 + 400 * 10_000 + 190 * 800;
    assert_eq!(cost("gpt-realtime-mini", usage), Some(plain + 60 * 60 + 100 * 300 + 10 * 80));
    // The parts are not the whole, or more of a medium is cached than there is.
    assert_eq!(cost("gpt-realtime-mini", Usage { cached_text_tokens: 61, ..usage }), None);
    let too_much = Usage { cached_text_tokens: 159, cached_audio_tokens: 1, ..usage };
    assert_eq!(cost("gpt-realtime-mini", Usage { input_audio_tokens: 700, ..too_much }), None);
    // gpt-4o bills images as text: the cached ones too.
    let usage = Usage { input_audio_tokens: 0, cached_text_tokens: 160, cached_audio_tokens: 0, ..usage };
    assert_eq!(cost("gpt-4o", usage), Some(830 * 2_500 + 170 * 1_250));
}

#[test]
fn cached_tokens_of_any_medium_where_each_gets_the_same_off() {
    let table = r#"{"same": {"input_cost_per_token": 4e-6, "cache_read_input_token_cost": 1e-6,
            "input_cost_per_audio_token": 9e-6, "cache_read_input_audio_token_cost": 6e-6,
            "input_cost_per_image_token": 5e-6, "cache_read_input_image_token_cost": 1e-6}}"#;
    let table = PriceTable::parse(table).unwrap();
    let cost = |usage: Usage| table.cost_nano_usd("same", &usage, None);
    let usage = Usage { input_audio_tokens: 40, cached_input_tokens: 30, ..tokens(100, 0) };
    assert_eq!(cost(usage), Some(60 * 4_000 + 40 * 9_000 - 30 * 3_000));
    assert_eq!(cost(Usage { cached_input_tokens: 101, ..usage }), None);
    assert_eq!(cost(Usage { cache_write_tokens: 1, ..usage }), None);
    assert_eq!(cost(Usage { input_image_tokens: 1, ..usage }), None, "an image token gets another amount off");
}

/// The sum of a thousand prompts of a batch is none above the threshold.
#[test]
fn a_batch_is_no_long_prompt() {
    let table = r#"{"m": {"input_cost_per_token": 4e-6, "input_cost_per_token_above_200k_tokens": 9e-6,
            "input_cost_per_token_batches": 2e-6, "input_cost_per_token_above_200k_tokens_batches": 5e-6}}"#;
    let table = PriceTable::parse(table).unwrap();
    let cost = |tier| table.cost_nano_usd("m", &tokens(1_000_000, 0), tier);
    assert_eq!((cost(None), cost(Some("batch"))), (Some(9_000_000_000), Some(2_000_000_000)));
}

#[test]
fn nothing_costs_nothing_and_a_total_alone_is_unknown() {
    assert_eq!(cost("nobody-knows", Usage::default()), Some(0));
    assert_eq!(PriceTable::built_in().cost_nano_usd("", &Usage::default(), Some("scale")), Some(0));
    assert_eq!(cost("gpt-4o", Usage { total_tokens: 9, ..Usage::default() }), None);
}

#[test]
fn images_by_quality_and_size_or_by_their_tokens() {
    let table = PriceTable::built_in();
    let cost = |model: &str, quality: &str, size: &str, images: u64| {
        table.images_cost_nano_usd(model, &Usage { images, ..Usage::default() }, quality, size)
    };
    assert_eq!(cost("gpt-image-1", "high", "1024x1536", 2), Some(2 * 250_000_000));
    assert_eq!(cost("gpt-image-1.5-2025-12-16", "low", "1024x1024", 1), Some(9_000_000));
    assert_eq!(cost("gpt-image-1-2030-01-01", "medium", "1536x1024", 1), Some(63_000_000));
    for (quality, size) in [("", "1024x1024"), ("high", ""), ("auto", "1024x1024"), ("high", "auto"), ("high", "9x9")] {
        assert_eq!(cost("gpt-image-1", quality, size, 1), None, "{quality} {size}");
    }
    assert_eq!(cost("dall-e-3", "hd", "1024x1792", 1), None);
    let own = PriceTable::parse(r#"{"dall-e-3": {"input_cost_per_image": 0.08}}"#).unwrap();
    let two = Usage { images: 2, ..Usage::default() };
    assert_eq!(own.images_cost_nano_usd("dall-e-3", &two, "", ""), Some(160_000_000));
    // gpt-image-1.5: 32 an image token, 10 a text token. Which they are is what the usage says.
    let streamed = Usage { images: 1, ..tokens(10, 1_056) };
    assert_eq!(table.cost_nano_usd("gpt-image-1.5", &streamed, None), Some(10 * 5_000 + 1_056 * 10_000));
    let unsaid = Usage { unsaid_output_tokens: 1_056, ..streamed };
    assert_eq!(table.cost_nano_usd("gpt-image-1.5", &unsaid, None), Some(10 * 5_000 + 1_056 * 32_000));
    assert_eq!(table.cost_nano_usd("gpt-4o", &unsaid, None), Some(10 * 2_500 + 1_056 * 10_000));
    let said = Usage { output_image_tokens: 1_000, ..streamed };
    let expected = 10 * 5_000 + 1_000 * 32_000 + 56 * 10_000;
    assert_eq!(table.cost_nano_usd("gpt-image-1.5", &said, None), Some(expected));
    assert_eq!(table.cost_nano_usd("gpt-4o", &streamed, None), Some(10 * 2_500 + 1_056 * 10_000));
}

#[test]
fn media_without_tokens() {
    // whisper-1: 0.0001 USD a second.
    assert_eq!(cost("whisper-1", Usage { audio_us: 12_345_678, ..Usage::default() }), Some(1_234_568));
    // Half a nano-dollar rounds up, a hair less does not: 5 us and 4 us at 100 nano-dollars a millisecond.
    assert_eq!(cost("whisper-1", Usage { audio_us: 5, ..Usage::default() }), Some(1));
    assert_eq!(cost("whisper-1", Usage { audio_us: 4, ..Usage::default() }), Some(0));
    assert_eq!(cost("high/1024-x-1024/gpt-image-1", Usage { images: 2, ..Usage::default() }), Some(2 * 167_000_000));
    // A transcription that reports tokens is billed by them, not by its length as well.
    let usage = Usage { input_audio_tokens: 10, audio_us: 1_000_000, ..tokens(10, 0) };
    assert_eq!(cost("gpt-4o-transcribe", usage), Some(10 * 2_500));
}

#[test]
fn tiers_and_long_context() {
    let table = PriceTable::built_in();
    let cost = |model: &str, usage: &Usage, tier: &str| table.cost_nano_usd(model, usage, Some(tier));
    let usage = Usage { cached_input_tokens: 10, ..tokens(110, 7) };
    assert_eq!(cost("o3", &usage, "default"), Some(100 * 2_000 + 10 * 500 + 7 * 8_000));
    for same in ["auto", "standard", "on_demand", "performance"] {
        assert_eq!(cost("o3", &usage, same), cost("o3", &usage, "default"), "{same}");
    }
    assert_eq!(cost("o3", &usage, "flex"), Some(100 * 1_000 + 10 * 250 + 7 * 4_000));
    assert_eq!(cost("o3", &usage, "priority"), Some(100 * 3_500 + 10 * 875 + 7 * 14_000));
    // A tier that the model has no price in, a price that the tier lacks, and a tier that nobody knows.
    assert_eq!(cost("gpt-4o", &usage, "flex"), None);
    assert_eq!(cost("o3", &usage, "batch"), None);
    assert_eq!(cost("o3", &tokens(110, 7), "batch"), Some(110 * 1_000 + 7 * 4_000));
    assert_eq!(cost("o3", &usage, "scale"), None);
    // Above 272,000 input tokens the whole request is at the higher prices.
    assert_eq!(cost("gpt-5.5", &tokens(272_000, 1), "default"), Some(272_000 * 5_000 + 30_000));
    assert_eq!(cost("gpt-5.5", &tokens(272_001, 1), "default"), Some(272_001 * 10_000 + 45_000));
    assert_eq!(cost("gpt-5.5", &tokens(272_001, 1), "flex"), Some(272_001 * 5_000 + 22_500));
    assert_eq!(cost("gpt-5.5", &tokens(272_001, 1), "priority"), None);
}

#[test]
fn names_of_snapshots_and_fine_tunes() {
    let table = PriceTable::built_in();
    let found = |name: &str| table.find(name).map(|(model, _)| model.clone());
    assert_eq!(found("gpt-4o-2030-01-31"), found("gpt-4o"));
    assert_ne!(found("gpt-4o-2024-05-13"), found("gpt-4o"), "the dated model has a price of its own");
    assert_eq!(found("gpt-3.5-turbo-instruct:20230824-v2"), found("gpt-3.5-turbo-instruct"));
    assert!(found("gpt-3.5-turbo-instruct:20230824-v2").is_some());
    assert_eq!(found("ft:gpt-4o-2024-08-06:org::id"), table.get("ft:gpt-4o-2024-08-06").map(|found| found.0.clone()));
    assert!(found("davinci-002").is_some() && found("ft:babbage-002:org:name:id").is_some());
    assert!(found("ft:gpt-4o-2024-08-06:org::id").is_some());
    assert_ne!(found("ft:gpt-4o-2024-08-06"), found("gpt-4o-2024-08-06"));
    for unknown in [
        "",
        "ft:",
        "ft:gpt-5",
        "gpt-4o-2030-13-01",
        "gpt-4o-2030-00-01",
        "gpt-4-1232",
        "gpt-3.5-turbo-instruct:v2",
        "gpt-3.5-turbo-instruct:20231324",
        "gpt-4o:latest",
        "gpt-4-12345",
        "-0101",
        "モデル",
    ] {
        assert_eq!(found(unknown), None, "{unknown}");
    }
}

/// An older version may have cost anything: gpt-3.5-turbo-0613 was three times as dear as gpt-3.5-turbo is.
#[test]
fn an_older_version_is_not_priced_like_the_present_one() {
    let table = PriceTable::parse(
        r#"{"m": {"input_cost_per_token": 1}, "m-2025-05-05": {}, "m-0613": {}, "old": {"input_cost_per_token": 1},
            "old-0613": {}, "lone": {"input_cost_per_token": 1}, "m-mini-2030-01-01": {}}"#,
    );
    let mut table = table.unwrap();
    for (name, is_priced) in [
        ("m-2025-05-06", true),
        ("m-2025-05-04", false),
        ("m-2024-12-31", false),
        ("m:20250506-v1", true),
        ("m:20250504-v1", false),
        ("m-0614", false),
        ("old-2023-01-01", true),
        ("old-0614", false),
        ("lone-0301", true),
        ("ft:m-2025-05-06:org", false),
    ] {
        assert_eq!(table.find(name).is_some(), is_priced, "{name}");
    }
    // A later one that another source knows makes it an older one too.
    let fetched = PriceTable::parse(r#"{"m-2026-01-01": {"input_cost_per_token": 2}}"#).unwrap();
    table.merge(fetched.of(PriceSource::Url, 7));
    assert!(table.find("m-2025-05-06").is_none() && table.find("m-2026-01-02").is_some());
    let built_in = PriceTable::built_in();
    for older in ["gpt-3.5-turbo-0613", "gpt-4-1231", "ft:gpt-3.5-turbo-0901:org:name:id", "gpt-4o-2024-01-01"] {
        assert!(built_in.find(older).is_none(), "{older}");
    }
}

#[test]
fn fees_of_tools_stand_beside_the_tokens() {
    // gpt-5: 1.25 in, 10 out; a search 0.01, whatever its context; a session 0.03, by `openai/container`.
    let tools =
        |low, medium, high, tool_calls| Usage { web_searches: [low, medium, high], tool_calls, ..tokens(100, 10) };
    let plain = 100 * 1_250 + 10 * 10_000;
    assert_eq!(cost("gpt-5", tools(1, 0, 0, 1)), Some(plain + 10_000_000));
    assert_eq!(cost("gpt-5", tools(1, 2, 3, 8)), Some(plain + 6 * 10_000_000 + 2 * 30_000_000));
    // A usage of nothing but fees; and no tier changes them.
    let alone = Usage { web_searches: [0, 1, 0], tool_calls: 1, ..Usage::default() };
    assert_eq!(cost("gpt-4.1", alone), Some(25_000_000));
    let flex = PriceTable::built_in().cost_nano_usd("gpt-5", &tools(0, 1, 0, 1), Some("flex"));
    assert_eq!(flex, Some(100 * 625 + 10 * 5_000 + 10_000_000));
    // Fewer calls than their parts; no fee for file searches is built in; none for a search by gpt-4o.
    assert_eq!(cost("gpt-5", tools(1, 1, 0, 1)), None);
    assert_eq!(cost("gpt-5", Usage { file_searches: 1, tool_calls: 1, ..tokens(100, 10) }), None);
    assert_eq!(cost("gpt-4o", tools(0, 1, 0, 1)), None);
    let own = r#"{"m": {"input_cost_per_token": 0, "file_search_cost_per_1k_calls": 2.5,
            "code_interpreter_cost_per_session": 0, "search_context_cost_per_query": {"search_context_size_low": 0.002}}}"#;
    let own = PriceTable::parse(own).unwrap();
    let cost = |usage: Usage| own.cost_nano_usd("m", &usage, None);
    let searches = Usage { file_searches: 3, tool_calls: 4, ..tokens(1, 0) };
    assert_eq!(cost(searches), Some(3 * 2_500_000), "zero is a price");
    assert_eq!(cost(Usage { web_searches: [1, 0, 0], tool_calls: 5, ..searches }), Some(3 * 2_500_000 + 2_000_000));
    assert_eq!(cost(Usage { web_searches: [0, 1, 0], tool_calls: 5, ..searches }), None, "missing is none");
}

#[test]
fn what_is_kept_for_long_in_the_cache_has_a_price_of_its_own() {
    // gpt-6.1-sol: 2 in, 2.5 written, 5 written for 12 hours; above 272,000 the double.
    let usage = Usage { cache_write_tokens: 60, cache_write_12h_tokens: 20, ..tokens(100, 0) };
    assert_eq!(cost("gpt-6.1-sol", usage), Some(40 * 2_000 + 40 * 2_500 + 20 * 5_000));
    let long = Usage { input_tokens: 300_000, cache_write_12h_tokens: 60, ..usage };
    assert_eq!(cost("gpt-6.1-sol", long), Some(299_940 * 4_000 + 60 * 10_000));
    let batch = PriceTable::built_in().cost_nano_usd("gpt-6.1-sol", &usage, Some("batch"));
    assert_eq!(batch, Some(40 * 1_000 + 40 * 1_250 + 20 * 2_500));
    assert_eq!(cost("gpt-6.1-sol", Usage { cache_write_12h_tokens: 61, ..usage }), None);
    let table = r#"{"m": {"input_cost_per_token": 1, "cache_creation_input_token_cost": 1}}"#;
    assert_eq!(PriceTable::parse(table).unwrap().cost_nano_usd("m", &usage, None), None, "no price for so long");
    // Audio alone: it is audio that was written.
    let audio = Usage { input_audio_tokens: 100, cache_write_12h_tokens: 0, ..usage };
    assert_eq!(cost("gpt-4o-mini-realtime-preview-2024-12-17", audio), Some(40 * 10_000 + 60 * 300));
}

#[test]
fn decisions_have_prices_of_their_own_where_the_table_has_any() {
    let table = PriceTable::built_in();
    let cost = |model| table.cost_nano_usd(model, &tokens(100, 10), Some("decisions"));
    assert_eq!(cost("gpt-6-luna"), Some(100 * 100), "the output is free");
    assert_eq!(cost("gpt-4o"), Some(100 * 2_500 + 10 * 10_000));
    let worst = |tier| table.worst_case("gpt-6-luna", 100, Some(10), tier).unwrap().nano_usd;
    assert_eq!(worst(Some("decisions")), worst(None));
}

#[test]
fn factors_are_exact_and_on_the_whole() {
    let factor = |factor, host| PriceTable::built_in().adjusted(Ratio::parse(factor).unwrap(), host);
    let usage = Usage { web_searches: [0, 1, 0], tool_calls: 1, ..tokens(1_000, 100) };
    let cost = |table: &PriceTable, model| table.cost_nano_usd(model, &usage, None);
    // gpt-5.5: 5 in, 30 out, 0.01 a search.
    let (of_tokens, of_search) = (1_000 * 5_000 + 100 * 30_000, 10_000_000);
    for (by, host, expected) in [
        ("1", "api.openai.com", of_tokens + of_search),
        ("0.85", "api.openai.com", (of_tokens + of_search) * 85 / 100),
        ("1", "eu.api.openai.com", of_tokens * 11 / 10 + of_search),
        ("0.5", "us.api.openai.com.", (of_tokens * 11 / 10 + of_search) / 2),
        ("1", "gov.api.openai.com", of_tokens * 11 / 10 + of_search),
        ("1", "eu.api.openai.com.example.com", of_tokens + of_search),
    ] {
        assert_eq!(cost(&factor(by, host), "gpt-5.5"), Some(expected), "{by} {host}");
    }
    // Half a nano-dollar after the factor rounds up, and nothing is rounded before.
    let table = PriceTable::parse(r#"{"m": {"input_cost_per_token": 1e-9}}"#).unwrap();
    let cost_of =
        |by, count| table.clone().adjusted(Ratio::parse(by).unwrap(), "").cost_nano_usd("m", &tokens(count, 0), None);
    assert_eq!((cost_of("0.5", 1), cost_of("0.499999", 1), cost_of("0.1", 25)), (Some(1), Some(0), Some(3)));
    // A region whose factor nobody has told, of a model that regions do make dearer: unknown, and at most the known.
    let jp = factor("1", "jp.api.openai.com");
    assert_eq!((cost(&jp, "gpt-5.5"), jp.at_most_nano_usd("gpt-5.5", &usage, None)), (None, Some(18_800_000)));
    assert_eq!(jp.cost_nano_usd("gpt-4o", &tokens(1, 0), None), Some(2_500), "of others nothing is known to differ");
    let stated = r#"{"gpt-5.5": {"input_cost_per_token": 1e-6, "regional_processing_uplift_multiplier_jp": 1.2}}"#;
    let mut own = jp;
    own.merge(PriceTable::parse(stated).unwrap());
    assert_eq!(own.cost_nano_usd("gpt-5.5", &tokens(10, 0), None), Some(12_000));
    // Reservations too, rounded up.
    let worst = |table: &PriceTable| table.worst_case("gpt-5.5", 1, Some(1), None).unwrap().nano_usd;
    assert_eq!(worst(&factor("0.3333", "eu.api.openai.com")), (35_000u64 * 11 * 3_333).div_ceil(100_000));
    assert_eq!(worst(&factor("1", "jp.api.openai.com")), 38_500);
}

#[test]
fn what_has_no_certain_cost_has_one_at_most() {
    let table = PriceTable::built_in();
    let at_most = |model, usage: Usage, tier| table.at_most_nano_usd(model, &usage, tier);
    // Known: the cost itself.
    assert_eq!(at_most("gpt-4o", tokens(10, 1), None), Some(35_000));
    // o3 has no price for what is cached of a batch: its dearest input, 3.5 in priority.
    let usage = Usage { cached_input_tokens: 10, ..tokens(110, 7) };
    assert_eq!(table.cost_nano_usd("o3", &usage, Some("batch")), None);
    assert_eq!(at_most("o3", usage, Some("batch")), Some(100 * 1_000 + 10 * 3_500 + 7 * 4_000));
    // A tier that nobody knows: all at the dearest. Counts that contradict each other: all of them.
    assert_eq!(at_most("o3", usage, Some("scale")), Some(110 * 3_500 + 7 * 14_000));
    let nonsense = Usage { cached_input_tokens: 200, ..tokens(110, 7) };
    assert_eq!(at_most("o3", nonsense, None), Some(200 * 3_500 + 7 * 8_000));
    // A total alone; a fee that is not known, at the dearest of all: a session.
    assert_eq!(at_most("o3", Usage { total_tokens: 9, ..Usage::default() }, None), Some(9 * 14_000));
    let searches = Usage { file_searches: 2, tool_calls: 2, ..tokens(10, 0) };
    assert_eq!(at_most("o3", searches, None), Some(10 * 2_000 + 2 * 30_000_000));
    assert_eq!(at_most("nobody-knows", tokens(1, 1), None), None);
    let images = Usage { images: 2, ..Usage::default() };
    assert_eq!(table.images_at_most_nano_usd("gpt-image-1-2030-01-01", &images), Some(2 * 250_000_000));
    assert_eq!(table.images_at_most_nano_usd("dall-e-9", &images), None);
}

#[test]
fn counts_that_contradict_each_other_have_no_cost() {
    for usage in [
        Usage { cached_input_tokens: 11, ..tokens(10, 0) },
        Usage { cached_input_tokens: 6, cache_write_tokens: 5, ..tokens(10, 0) },
        Usage { input_audio_tokens: 11, ..tokens(10, 0) },
        Usage { output_audio_tokens: 11, ..tokens(0, 10) },
        Usage { input_tokens: u64::MAX, ..Usage::default() },
    ] {
        assert_eq!(cost("gpt-6.1-sol", usage), None, "{usage:?}");
    }
    assert_eq!(cost("gpt-4o", Usage { cache_write_tokens: 1, ..tokens(10, 0) }), None, "no price for it");
    assert_eq!(cost("gpt-4o", Usage { audio_us: 1, ..Usage::default() }), None, "no price for it");
}

#[test]
fn an_operators_table_replaces_whole_models_and_adds_others() {
    let mut table = PriceTable::built_in();
    let before = table.all_listed().len();
    let own = PriceTable::parse(r#"{"_note": 1, "gpt-4o": {"input_cost_per_token": 1e-6}, "mine": {}}"#).unwrap();
    assert_eq!(own.all_listed().len(), 2);
    table.merge(own);
    assert_eq!(table.all_listed().len(), before + 1);
    assert_eq!(table.cost_nano_usd("gpt-4o", &tokens(3, 0), None), Some(3_000));
    assert_eq!(table.cost_nano_usd("gpt-4o", &tokens(3, 1), None), None);
}

#[test]
fn faults_in_a_table_are_named() {
    for (json, fault) in [
        ("[]", "not a JSON object: invalid type: sequence, expected a map at line 1 column 0"),
        (r#"{"m": 1}"#, r#""m": expected an object of price fields"#),
        (r#"{"m": {"input_cost_per_tokens": 1}}"#, r#""m": unknown price field "input_cost_per_tokens""#),
        (
            r#"{"m": {"search_context_cost_per_query": {"search_context_size_huge": 1}}}"#,
            r#""m": search_context_cost_per_query: unknown size "search_context_size_huge""#,
        ),
        (
            r#"{"m": {"regional_processing_uplift_multiplier_eu": 0}}"#,
            r#""m": regional_processing_uplift_multiplier_eu: expected a factor above 0, at most 1000, with at most 6 decimal places"#,
        ),
        (
            r#"{"m": {"code_interpreter_cost_per_session_flex": 1}}"#,
            r#""m": unknown price field "code_interpreter_cost_per_session_flex""#,
        ),
        (r#"{"m": {"input_cost_per_token_scale": 1}}"#, r#""m": unknown price field "input_cost_per_token_scale""#),
        (
            r#"{"m": {"input_cost_per_token": "1"}}"#,
            r#""m": input_cost_per_token: expected a number of USD, zero or more"#,
        ),
        (
            r#"{"m": {"input_cost_per_token": -1}}"#,
            r#""m": input_cost_per_token: expected a number of USD, zero or more"#,
        ),
        (r#"{"m": {"max_output_tokens": 1.5}}"#, r#""m": max_output_tokens: expected a whole number of tokens"#),
        (r#"{"m": {"max_input_tokens": "9"}}"#, r#""m": max_input_tokens: expected a whole number of tokens"#),
        (r#"{"m": {"input_cost_per_token": 1e-16}}"#, r#""m": input_cost_per_token: has more than 15 decimal places"#),
        (
            r#"{"m": {"input_cost_per_token_above_1k_tokens": 1, "input_cost_per_token_above_01k_tokens": 1}}"#,
            r#""m": input_cost_per_token_above_1k_tokens: the same price is given twice"#,
        ),
    ] {
        assert_eq!(PriceTable::parse(json).unwrap_err().to_string(), fault);
    }
}

/// A price literal as its digits and its number of decimal places: the rational `digits / 10^places`.
fn literals() -> impl Strategy<Value = Vec<(u32, u32)>> {
    prop::collection::vec((0..18_000u32, 0..=15u32), 8)
}

proptest! {
    /// The cost is the exact rational sum of price times count, rounded half up to a nano-dollar.
    #[test]
    fn costs_are_exact(
        prices in literals(),
        text in prop::array::uniform3(0..10_000_000u64),
        audio_in in 0..10_000_000u64,
        out in prop::array::uniform3(0..10_000_000u64),
    ) {
        let fields = ["input_cost_per_token", "cache_read_input_token_cost", "cache_creation_input_token_cost",
            "input_cost_per_audio_token", "output_cost_per_token", "output_cost_per_audio_token",
            "output_cost_per_image_token", "input_cost_per_image"];
        let body: Vec<String> =
            fields.iter().zip(&prices).map(|(field, (digits, places))| format!("\"{field}\": {digits}e-{places}")).collect();
        let table = PriceTable::parse(&format!("{{\"m\": {{{}}}}}", body.join(", "))).unwrap();

        // Cached tokens and audio never meet in one request here: that has no certain price.
        let [plain, cached, written] = if audio_in > 5_000_000 { [text[0], 0, 0] } else { text };
        let audio_in = if audio_in > 5_000_000 { audio_in } else { 0 };
        let usage = Usage {
            input_tokens: plain + cached + written + audio_in,
            cached_input_tokens: cached,
            cache_write_tokens: written,
            input_audio_tokens: audio_in,
            output_tokens: out.iter().sum(),
            reasoning_tokens: out[0] / 2,
            output_audio_tokens: out[1],
            output_image_tokens: out[2],
            ..Usage::default()
        };
        // All over the common denominator 10^15.
        let counts = [plain, cached, written, audio_in, out[0], out[1], out[2]];
        let exact: u128 = counts
            .iter()
            .zip(&prices)
            .map(|(&count, &(digits, places))| u128::from(count) * u128::from(digits) * 10u128.pow(15 - places))
            .sum();
        let expected = u64::try_from((exact * 2 + 1_000_000) / 2_000_000).ok();
        prop_assert_eq!(table.cost_nano_usd("m", &usage, None), expected);
    }

    /// No numbers that a peer may send make it panic.
    #[test]
    fn any_usage_has_a_cost_or_none(numbers in prop::array::uniform12(any::<u64>()), name in ".{0,40}") {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = numbers;
        let usage = Usage {
            input_tokens: a, cached_input_tokens: b, cache_write_tokens: c, input_audio_tokens: d,
            input_image_tokens: e, output_tokens: f, reasoning_tokens: g, output_audio_tokens: h,
            output_image_tokens: i, total_tokens: j, audio_us: k, images: l,
            cached_text_tokens: l, cached_audio_tokens: k, cached_image_tokens: j, tool_calls: i,
            cache_write_12h_tokens: h, web_searches: [g, f, e], file_searches: d, unsaid_output_tokens: c,
        };
        let table = PriceTable::parse(r#"{"m": {"input_cost_per_token": 18446, "output_cost_per_token": 18446}}"#).unwrap();
        let _ = table.cost_nano_usd("m", &usage, None);
        let _ = table.cost_nano_usd(&name, &usage, None);
        for tier in [None, Some("scale"), Some("decisions")] {
            let exact = table.cost_nano_usd("m", &usage, tier);
            let at_most = table.at_most_nano_usd("m", &usage, tier);
            prop_assert!(exact.is_none() || exact == at_most);
        }
    }
}
