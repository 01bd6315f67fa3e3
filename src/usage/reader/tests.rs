//! Every shape of an answer, cut anywhere, and the places that must not count.

use super::*;
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

fn capture(endpoint: Endpoint, form: Form, coding: Coding, body: &[u8], cuts: &[usize]) -> Reported {
    let (mut reader, mut at) = (UsageReader::new(endpoint, form, coding, false), 0);
    for cut in cuts.iter().copied().chain([body.len()]) {
        let end = cut.clamp(at, body.len());
        reader.feed(&body[at..end], &mut Vec::new()).unwrap();
        at = end;
    }
    reader.finish()
}

const CHAT: &str = concat!(
    "data: {\"id\":\"chatcmpl-1\",\"model\":\"gpt-4o-2024-08-06\",\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":{\"}}],\"usage\":null}\n\n",
    ": a comment\r\n\r\n",
    "data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"metadata\":{\"usage\":{\"prompt_tokens\":9999}}}\n\n",
    "data: {\"id\":\"chatcmpl-1\",\"service_tier\":\"default\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\"total_tokens\":9}}\n\n",
    "data: {\"id\":\"chatcmpl-1\",\"choices\":[],\"usage\":null}\n\n",
    "data: [DONE]\n\n",
);
const RESPONSES: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"model\":\"o3\",\"usage\":null}}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"x\",\"delta\":\"d\",\"usage\":{\"input_tokens\":1}}\n\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"usage\":{\"input_tokens\":3,\"output_tokens\":4,\"total_tokens\":7}}}",
);

fn usage(input_tokens: u64, output_tokens: u64) -> Option<Usage> {
    Some(Usage { input_tokens, output_tokens, total_tokens: input_tokens + output_tokens, ..Usage::default() })
}

#[test]
fn streams_cut_at_every_byte() {
    for cut in 0..CHAT.len() {
        let reported = capture(Endpoint::ChatCompletions, Form::Events, Coding::Identity, CHAT.as_bytes(), &[cut]);
        assert_eq!(reported.usage, usage(7, 2), "cut at {cut}");
        assert_eq!(reported.model.as_deref(), Some("gpt-4o-2024-08-06"));
        assert_eq!(reported.id.as_deref(), Some("chatcmpl-1"));
        assert_eq!(reported.service_tier.as_deref(), Some("default"));
    }
    for cut in 0..RESPONSES.len() {
        let reported = capture(Endpoint::Responses, Form::Events, Coding::Identity, RESPONSES.as_bytes(), &[cut]);
        assert_eq!(reported.usage, usage(3, 4), "cut at {cut}");
        assert_eq!((reported.id.as_deref(), reported.model.as_deref()), (Some("resp_1"), Some("o3")));
    }
}

#[test]
fn what_is_passed_over_is_no_matter_of_cuts() {
    let stream = concat!(
        "data: {\"id\":\"a\",\"model\":\"m\"}\n\n",
        "data: {\"id\":\"b\",\"model\":\"n\",\"service_tier\":\"flex\"}\n\n",
        "data: {\"id\":\"c\",\r\ndata: \"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\r\n\r\n",
        "data: {\"id\":\"d\",\"service_tier\":\"auto\"}\n\n",
    );
    for cut in 0..=stream.len() {
        let reported = capture(Endpoint::ChatCompletions, Form::Events, Coding::Identity, stream.as_bytes(), &[cut]);
        assert_eq!(reported.usage, usage(3, 4), "cut at {cut}");
        let names = [reported.model.as_deref(), reported.id.as_deref(), reported.service_tier.as_deref()];
        assert_eq!(names, [Some("m"), Some("c"), None], "cut at {cut}");
    }
}

#[test]
fn the_text_of_a_stream_is_counted_from_its_data() {
    let events = concat!(
        "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n",
        ": \"content\":\"a comment is no text\"\nid: \"content\":\"nor is an id\"\r\n\r\n",
        "event: x\ndata:{\"choices\":[{\"delta\":\ndata: {\"content\":\"twelve bytes\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"twelve bytes\"",
    );
    let lines = "{\"message\":{\"content\":\"Hi\"}}\r\n{\"message\":{\"content\":\"twelve bytes\"}}\n\n";
    for (endpoint, form, body, tokens) in [
        (Endpoint::ChatCompletions, Form::Events, events, Some(7)),
        (Endpoint::ApiChat, Form::Lines, lines, Some(4)),
        (Endpoint::ApiChat, Form::Json, "{}", None),
        (Endpoint::Embeddings, Form::Events, events, None),
    ] {
        for cut in 0..=body.len() {
            let mut reader = UsageReader::new(endpoint, form, Coding::Identity, false);
            reader.feed(&body.as_bytes()[..cut], &mut Vec::new()).unwrap();
            reader.feed(&body.as_bytes()[cut..], &mut Vec::new()).unwrap();
            let estimate = reader.estimate(10).map(|usage| (usage.input_tokens, usage.output_tokens));
            assert_eq!(estimate, tokens.map(|tokens| (10, tokens)), "{endpoint:?} cut at {cut}");
        }
    }
}

/// Whatever it calls itself: what it is, its first bytes tell.
#[test]
fn a_body_is_told_by_its_bytes() {
    let json = r#"{"model":"m","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#;
    for form in [Form::Json, Form::Events, Form::Opaque] {
        for body in [CHAT, &format!("\u{feff}{CHAT}"), &format!("id: 1\n{CHAT}"), &format!(": c\n\n{CHAT}"), json] {
            for cut in 0..body.len() {
                let body = [b" \n", body.as_bytes()].concat();
                let body = if form == Form::Events { &body[2..] } else { &body[..] };
                let reported = capture(Endpoint::ChatCompletions, form, Coding::Identity, body, &[cut]);
                assert_eq!(reported.usage, usage(7, 2), "{form:?} cut at {cut}");
            }
        }
    }
    let sound = capture(Endpoint::AudioSpeech, Form::Opaque, Coding::Identity, b"ID3 data: {}", &[]);
    assert_eq!((sound.usage, sound.unreadable), (None, true));
}

/// Some gateways send it while a model is at work; and a target could send it for ever.
#[test]
fn white_space_before_an_answer_is_not_kept() {
    let mut reader = UsageReader::new(Endpoint::ChatCompletions, Form::Json, Coding::Identity, false);
    for _ in 0..100 {
        reader.feed(&[b'\n'; 1000], &mut Vec::new()).unwrap();
        assert!(reader.decoded.body.as_ref().unwrap().start.capacity() < 100);
    }
    reader.feed(br#" {"usage":{"prompt_tokens":3,"completion_tokens":4}}"#, &mut Vec::new()).unwrap();
    assert_eq!(reader.finish().usage, usage(3, 4));
}

/// However a stream is cut: the text beside a report is of its own event, and no text goes over an event's end.
#[test]
fn what_text_there_is_beside_a_report_does_not_depend_on_cuts() {
    let own = r#"data: {"choices":[{"delta":{"content":"words"}}],"usage":{"prompt_tokens":0,"total_tokens":0}}"#;
    let open = "data: {\"choices\":[{\"delta\":{\"content\":[\n\ndata: {\"choices\":[],\"id\":\"some text\",\
                \"usage\":{\"prompt_tokens\":0,\"total_tokens\":0}}";
    for (event, is_reported) in [(own, false), (open, true)] {
        let stream = format!("{event}\n\ndata: [DONE]\n\n");
        for cut in 0..stream.len() {
            let reported =
                capture(Endpoint::ChatCompletions, Form::Events, Coding::Identity, stream.as_bytes(), &[cut]);
            assert_eq!(reported.usage.is_some(), is_reported, "{event} cut at {cut}");
        }
    }
}

fn edited(form: Form, coding: Coding, body: &[u8], cut: usize) -> String {
    let mut reader = UsageReader::new(Endpoint::ChatCompletions, form, coding, true);
    let mut out = Vec::new();
    reader.feed(&body[..cut], &mut out).unwrap();
    reader.feed(&body[cut..], &mut out).unwrap();
    reader.end(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_stream_is_edited_whatever_it_calls_itself_and_however_it_is_coded() {
    let chunk = "data: {\"choices\":[1]}\n\n";
    let stream = format!("{chunk}data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":1}}}}\n\n");
    for form in [Form::Events, Form::Json, Form::Opaque] {
        for (coding, body) in
            [(Coding::Identity, stream.clone().into_bytes()), (Coding::Gzip, packed(stream.as_bytes()))]
        {
            for cut in 0..body.len() {
                assert_eq!(edited(form, coding, &body, cut), chunk, "{form:?} {coding:?} cut at {cut}");
            }
        }
        let no_field = " data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\n";
        for other in ["{\"usage\":null}", "  ", "dat", "\u{feff}", "text", no_field] {
            for cut in 0..other.len() {
                let same = edited(form, Coding::Identity, other.as_bytes(), cut);
                assert_eq!(same, other, "{form:?} cut at {cut}");
            }
        }
    }
    let mut broken = UsageReader::new(Endpoint::ChatCompletions, Form::Events, Coding::Gzip, true);
    assert!(broken.feed(b"no gzip at all", &mut Vec::new()).is_err(), "the client would take it for whole");
}

#[test]
fn an_early_report_of_nothing_is_none_where_text_comes_after_it() {
    let text = "data: {\"choices\":[{\"delta\":{\"content\":\"some words\"}}]}\n\n";
    let report = |output: u64| {
        format!("data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":{output}}}}}\n\n")
    };
    let found = |stream: String| {
        capture(Endpoint::ChatCompletions, Form::Events, Coding::Identity, stream.as_bytes(), &[]).usage
    };
    assert_eq!(found(format!("{}{text}", report(0))), None);
    assert_eq!(found(format!("{}{text}", report(1))), None);
    assert_eq!(found(format!("{}{text}", report(2))), usage(7, 2));
    assert_eq!(found(format!("{text}{}", report(0))), usage(7, 0));
    let nothing = text.replace("}]}", "}],\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0,\"total_tokens\":0}}");
    assert_eq!(found(nothing), None, "in each chunk");
    assert_eq!(found(format!("{text}{}data: {{\"choices\":[]}}\n\n", report(1))), usage(7, 1));
}

#[test]
fn what_was_read_before_a_compressed_stream_broke_counts() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(CHAT.as_bytes()).unwrap();
    encoder.flush().unwrap();
    let body = encoder.get_ref().clone();
    let reported = capture(Endpoint::ChatCompletions, Form::Events, Coding::Gzip, &body, &[]);
    assert_eq!((reported.usage, reported.unreadable), (usage(7, 2), true));
}

fn packed(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// The same report of a gzip body, whichever byte it is cut at.
fn unpacked(body: &[u8]) -> Reported {
    let whole = capture(Endpoint::Completions, Form::Json, Coding::Gzip, body, &[]);
    for cut in 0..body.len() {
        let reported = capture(Endpoint::Completions, Form::Json, Coding::Gzip, body, &[cut, cut + 1]);
        assert_eq!(reported, whole, "cut at {cut}");
    }
    whole
}

const PACKED: &[u8] = br#"{"text":"abcabcabc","usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#;

#[test]
fn gzip_members_make_one_body() {
    let (first, second) = PACKED.split_at(50);
    let body = [packed(first), packed(b""), packed(second)].concat();
    assert_eq!(unpacked(&body).usage, usage(7, 2));
    // What follows the last member is no part of the body; clients pass it over, or call it broken.
    for junk in [&b"\0\0\0\0"[..], b"\x1f", b"\x1f\x8b\x08", b"\r\n", b"\x1f\x8b\x08\xff\xff\xff\xff\xff\xff\xff\xff"] {
        assert_eq!(unpacked(&[&body, junk].concat()).usage, usage(7, 2), "{}", junk.escape_ascii());
    }
}

#[test]
fn a_broken_gzip_body_never_gives_a_wrong_number() {
    let body = packed(PACKED);
    for end in 0..body.len() {
        let found = unpacked(&body[..end]).usage;
        assert!(found.is_none() || found == usage(7, 2), "of {end} bytes: {found:?}");
    }
    for at in 0..body.len() {
        for bit in 0..8 {
            let mut broken = body.clone();
            broken[at] ^= 1 << bit;
            let found = unpacked(&broken).usage;
            assert!(found.is_none() || found == usage(7, 2), "bit {bit} of byte {at}: {found:?}");
        }
    }
}

#[test]
fn what_cannot_be_read_says_so() {
    let whole = br#"{"usage":{"prompt_tokens":1}}"#;
    let json = |coding, body: &[u8]| capture(Endpoint::ChatCompletions, Form::Json, coding, body, &[]);
    assert!(!json(Coding::Identity, whole).unreadable);
    assert!(json(Coding::Identity, &whole[..20]).unreadable);
    assert!(json(Coding::Identity, b"<html>").unreadable);
    assert!(json(Coding::Gzip, whole).unreadable);
    assert!(json(Coding::Unknown, whole).unreadable);
    assert!(!capture(Endpoint::Other, Form::Opaque, Coding::Identity, b"<html>", &[]).unreadable);
}

proptest! {
    /// Compressed or not, cut anywhere: the same numbers.
    #[test]
    fn any_split_and_coding_reports_the_same(gzip: bool, pad in "[ -~]{0,2000}", mut cuts in proptest::collection::vec(0usize..2500, 0..9)) {
        cuts.sort_unstable();
        let document = serde_json::json!({"id": "a", "choices": [{"text": pad, "usage": {"prompt_tokens": 5}}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 22, "total_tokens": 33}, "model": "m"});
        let mut body = serde_json::to_vec_pretty(&document).unwrap();
        if gzip {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&body).unwrap();
            body = encoder.finish().unwrap();
        }
        let coding = if gzip { Coding::Gzip } else { Coding::Identity };
        let reported = capture(Endpoint::ChatCompletions, Form::Json, coding, &body, &cuts);
        prop_assert_eq!(reported.usage, usage(11, 22));
        prop_assert_eq!(reported.model.as_deref(), Some("m"));
        prop_assert!(!reported.unreadable);
    }
}

/// The same report, whichever byte the body is cut at.
fn everywhere(endpoint: Endpoint, form: Form, body: &str) -> Reported {
    let whole = capture(endpoint, form, Coding::Identity, body.as_bytes(), &[]);
    for cut in 0..body.len() {
        assert_eq!(capture(endpoint, form, Coding::Identity, body.as_bytes(), &[cut]), whole, "cut at {cut}");
    }
    whole
}

fn events(documents: &[&str], end: &str) -> String {
    documents.iter().map(|document| format!("data: {document}{end}{end}")).collect()
}

#[test]
fn a_run_counts_once_and_its_steps_never() {
    let run = |usage: &str| format!(r#"{{"usage":{usage},"id":"run_1","object":"thread.run","model":"gpt-4o"}}"#);
    let step = r#"{"id":"step_1","object":"thread.run.step","model":"no","usage":{"prompt_tokens":850,"completion_tokens":9}}"#;
    let total = run(r#"{"prompt_tokens":2000,"completion_tokens":68,"total_tokens":2068}"#);
    let body = events(&[&run("null"), step, &total, step, "[DONE]"], "\n");
    let reported = everywhere(Endpoint::ThreadsRuns, Form::Events, &body);
    assert_eq!(reported.usage, usage(2000, 68));
    assert_eq!((reported.id.as_deref(), reported.model.as_deref()), (Some("run_1"), Some("gpt-4o")));
    let steps_only = events(&[&run("null"), step], "\n");
    assert_eq!(everywhere(Endpoint::ThreadsRuns, Form::Events, &steps_only).usage, None);
    assert_eq!(everywhere(Endpoint::ThreadsRuns, Form::Json, &total).usage, usage(2000, 68));
    assert_eq!(everywhere(Endpoint::ThreadsRuns, Form::Json, step).usage, None);
}

#[test]
fn messages_are_merged_by_field() {
    let start = r#"{"type":"message_start","message":{"id":"msg_1","model":"claude","usage":{"input_tokens":2,"cache_read_input_tokens":30,"cache_creation_input_tokens":4,"output_tokens":1}}}"#;
    let tool = r#"{"type":"content_block_start","content_block":{"input":{"usage":{"output_tokens":999}}}}"#;
    let delta = r#"{"type":"message_delta","delta":{"usage":{"output_tokens":8}},"usage":{"output_tokens":50,"input_tokens":null}}"#;
    let reported = everywhere(Endpoint::Messages, Form::Events, &events(&[start, tool, delta], "\n"));
    let expected = Usage { cached_input_tokens: 30, cache_write_tokens: 4, ..usage(36, 50).unwrap() };
    assert_eq!(reported.usage, Some(expected));
    assert_eq!((reported.id.as_deref(), reported.model.as_deref()), (Some("msg_1"), Some("claude")));
    // Server tools: the delta's input is another than the start's, and holds.
    let grown = r#"{"type":"message_delta","usage":{"input_tokens":1591,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,"output_tokens":175}}"#;
    assert_eq!(everywhere(Endpoint::Messages, Form::Events, &events(&[start, grown], "\n")).usage, usage(1591, 175));
    // Cut before its end: what the start said is not what was consumed.
    assert_eq!(everywhere(Endpoint::Messages, Form::Events, &events(&[start, tool], "\n")).usage, None);
    let whole = r#"{"id":"msg_1","model":"claude","content":[{"usage":{"input_tokens":7}}],"usage":{"input_tokens":2,"cache_read_input_tokens":30,"cache_creation_input_tokens":4,"output_tokens":50}}"#;
    assert_eq!(everywhere(Endpoint::Messages, Form::Json, whole).usage, Some(expected));
}

#[test]
fn ollama_counts_stand_in_the_last_line() {
    let line = r#"{"model":"llama3","message":{"content":"{\"eval_count\":7}","eval_count":8},"done":false}"#;
    let last = r#"{"model":"llama3","done":true,"prompt_eval_count":26,"eval_count":298,"eval_duration":1}"#;
    for end in ["\n", "\r\n", ""] {
        let body = format!("{line}\n{line}\n{last}{end}");
        let reported = everywhere(Endpoint::ApiChat, Form::Lines, &body);
        assert_eq!((reported.usage, reported.model.as_deref()), (usage(26, 298), Some("llama3")));
        assert!(!reported.unreadable);
    }
    assert_eq!(everywhere(Endpoint::ApiGenerate, Form::Json, last).usage, usage(26, 298));
    assert_eq!(everywhere(Endpoint::ApiChat, Form::Lines, &format!("{line}\n{line}\n")).usage, None);
}

#[test]
fn audio_and_image_events_in_crlf() {
    let done = r#"{"type":"transcript.text.done","text":"\"usage\":{","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"audio_tokens":14},"output_tokens":4,"total_tokens":18}}"#;
    let body = events(&[r#"{"type":"transcript.text.delta","delta":"a"}"#, done, "[DONE]"], "\r\n");
    let expected = Usage { input_audio_tokens: 14, ..usage(14, 4).unwrap() };
    assert_eq!(everywhere(Endpoint::AudioTranscriptions, Form::Events, &body).usage, Some(expected));
    let done = r#"{"type":"speech.audio.done","usage":{"input_tokens":14,"output_tokens":101,"total_tokens":115}}"#;
    let body = events(&[r#"{"type":"speech.audio.delta","audio":"UklG"}"#, done], "\r\n");
    let spoken = Usage { output_audio_tokens: 101, ..usage(14, 101).unwrap() };
    assert_eq!(everywhere(Endpoint::AudioSpeech, Form::Events, &body).usage, Some(spoken));
    let partial = r#"{"type":"image_generation.partial_image","b64_json":"iVBO","partial_image_index":0}"#;
    for (endpoint, kind) in [(Endpoint::ImagesGenerations, "image_generation"), (Endpoint::ImagesEdits, "image_edit")] {
        let done = format!(
            r#"{{"type":"{kind}.completed","b64_json":"{}","usage":{{"total_tokens":100,"input_tokens":50,"output_tokens":50,"input_tokens_details":{{"text_tokens":10,"image_tokens":40}}}}}}"#,
            "A".repeat(300)
        );
        let expected = Usage { input_image_tokens: 40, images: 1, unsaid_output_tokens: 50, ..usage(50, 50).unwrap() };
        assert_eq!(everywhere(endpoint, Form::Events, &events(&[partial, &done], "\n")).usage, Some(expected));
    }
    let failed = r#"{"error":{"message":"no"},"usage":{"type":"duration","seconds":0}}"#;
    assert_eq!(everywhere(Endpoint::AudioTranscriptions, Form::Json, failed).usage, usage(0, 0));
}

#[test]
fn images_are_counted_with_tokens_and_without() {
    let image = format!(r#"{{"b64_json":"{}","revised_prompt":"\"usage\":[1,2]"}}"#, "A".repeat(300));
    let answer = |data: &str, rest: &str| format!(r#"{{"created":1,"data":[{data}]{rest}}}"#);
    let rest =
        r#","quality":"high","size":"1024x1536","usage":{"input_tokens":50,"output_tokens":9,"total_tokens":59}"#;
    let two = answer(&format!("{image},{image}"), rest);
    let reported = everywhere(Endpoint::ImagesGenerations, Form::Json, &two);
    assert_eq!(reported.usage, Some(Usage { images: 2, unsaid_output_tokens: 9, ..usage(50, 9).unwrap() }));
    let text = two.replace(r#""total_tokens":59"#, r#""total_tokens":59,"output_tokens_details":{"image_tokens":0}"#);
    let reported_text = everywhere(Endpoint::ImagesGenerations, Form::Json, &text);
    assert_eq!(reported_text.usage, Some(Usage { images: 2, ..usage(50, 9).unwrap() }), "it is said");
    assert_eq!((reported.quality.as_deref(), reported.size.as_deref()), (Some("high"), Some("1024x1536")));
    let by_address = answer(r#"{"url":"https://a"},{"url":"https://b"},{"url":"https://c"}"#, "");
    for endpoint in [Endpoint::ImagesGenerations, Endpoint::ImagesEdits, Endpoint::ImagesVariations] {
        let reported = everywhere(endpoint, Form::Json, &by_address);
        assert_eq!(reported.usage, Some(Usage { images: 3, ..Usage::default() }));
        assert_eq!((reported.quality, reported.unreadable), (None, false));
    }
    for none in [&answer("", ""), r#"{"error":{"data":[1]}}"#, r#"{"data":{"[]":{"b64_json":"A"}}}"#] {
        assert_eq!(everywhere(Endpoint::ImagesEdits, Form::Json, none).usage, None, "{none}");
    }
    // Elsewhere `data` is something else.
    assert_eq!(everywhere(Endpoint::Embeddings, Form::Json, &by_address).usage, None);
    // A cut answer may have been about to say more.
    let cut = capture(Endpoint::ImagesEdits, Form::Json, Coding::Identity, &two.as_bytes()[..two.len() - 60], &[]);
    assert_eq!((cut.usage, cut.unreadable), (None, true));
}

#[test]
fn each_completed_event_is_an_image_even_where_the_model_is_known() {
    let document = |kind: &str, rest: &str| format!(r#"{{"b64_json":"AAAA","model":"m","type":"{kind}"{rest}}}"#);
    let partial = document("image_generation.partial_image", "");
    let bare = document("image_generation.completed", r#","quality":"low","size":"1024x1024""#);
    let escaped = document("image_generation\\u002ecompleted", "");
    let hostile = document("image_generation.partial_image", r#","usage":{"input_tokens":7},"x":"image.completed""#);
    let full = document("image_edit.completed", r#","usage":{"input_tokens":5,"output_tokens":6}"#);
    let count = |documents: &[&str]| {
        let reported = everywhere(Endpoint::ImagesGenerations, Form::Events, &events(documents, "\n"));
        (reported.usage, reported.quality)
    };
    let images = |images| Some(Usage { images, ..Usage::default() });
    assert_eq!(count(&[&partial, &partial, "[DONE]"]), (None, None));
    assert_eq!(count(&[&partial, &bare, &partial, &bare, &escaped]), (images(3), Some("low".into())));
    assert_eq!(count(&[&partial, &hostile]), (None, None));
    let unsaid = Usage { images: 1, unsaid_output_tokens: 6, ..usage(5, 6).unwrap() };
    assert_eq!(count(&[&partial, &full]).0, Some(unsaid));
}

#[test]
fn every_terminal_event_of_a_responses_stream() {
    for terminal in ["completed", "incomplete", "failed"] {
        // In background streams usage precedes the output, which may hold anything.
        let last = format!(
            r#"{{"type":"response.{terminal}","response":{{"id":"resp_1","model":"o3","service_tier":"flex","usage":{{"input_tokens":3,"output_tokens":4,"total_tokens":7}},"output":[{{"usage":{{"input_tokens":999}}}}],"tool_usage":{{"image_gen":{{"input_tokens":888}}}}}}}}"#
        );
        let created =
            r#"{"type":"response.created","response":{"id":"resp_1","model":"o3","service_tier":"auto","usage":null}}"#;
        let reported = everywhere(Endpoint::Responses, Form::Events, &events(&[created, &last], "\n"));
        assert_eq!((reported.usage, reported.service_tier.as_deref()), (usage(3, 4), Some("flex")), "{terminal}");
    }
    let compaction = r#"{"id":"resp_2","object":"response.compaction","output":[{"usage":{"input_tokens":9}}],"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7}}"#;
    assert_eq!(everywhere(Endpoint::ResponsesCompact, Form::Json, compaction).usage, usage(3, 4));
}

#[test]
fn images_made_in_the_course_of_a_response_stand_beside_its_usage() {
    let response = |made: u64, tools: &str| {
        format!(
            r#"{{"object":"response","id":"r","tools":[{{"type":"function","name":"model"}},{tools}],"usage":{{"input_tokens":5,"output_tokens":7}},"tool_usage":{{"image_gen":{{"input_tokens":{made},"input_tokens_details":{{"text_tokens":1,"image_tokens":1}},"output_tokens":{made},"output_tokens_details":{{"image_tokens":{made},"text_tokens":0}},"total_tokens":{total}}},"web_search":{{"num_requests":3}}}},"metadata":{{"tool_usage":{{"image_gen":{{"total_tokens":9}}}}}}}}"#,
            total = 2 * made
        )
    };
    let named = r#"{"type":"image_generation","model":"gpt-image-1"}"#;
    let made = Usage { input_tokens: 2, input_image_tokens: 1, output_image_tokens: 2, ..usage(2, 2).unwrap() };
    for (made_tokens, tools, expected) in [
        (0, named, None),
        (2, named, Some((made, Some("gpt-image-1".into())))),
        (2, r#"{"type":"image_generation"}"#, Some((made, None))),
    ] {
        let whole = response(made_tokens, tools);
        let event = events(&[&format!(r#"{{"type":"response.completed","response":{whole}}}"#)], "\n");
        for (form, body) in [(Form::Json, whole), (Form::Events, event)] {
            for endpoint in [Endpoint::Responses, Endpoint::ResponsesRetrieve] {
                let reported = everywhere(endpoint, form, &body);
                let searched = Usage { tool_calls: 3, web_searches: [0, 3, 0], ..usage(5, 7).unwrap() };
                assert_eq!(reported.usage, Some(searched));
                assert_eq!(reported.images.map(|images| (images.usage, images.model)), expected);
            }
        }
    }
    let untold = r#"{"tool_usage":{"image_gen":{"input_tokens":1,"output_tokens":2,"total_tokens":3}}}"#;
    let images = everywhere(Endpoint::Responses, Form::Json, untold).images.unwrap();
    assert_eq!(images.usage, Usage { unsaid_output_tokens: 2, ..usage(1, 2).unwrap() });
}

#[test]
fn chat_chunks_are_never_added_up() {
    let chunk = |rest: &str| format!(r#"{{"id":"c","model":"m",{rest}}}"#);
    let one = r#""usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}"#;
    let groq = chunk(
        r#""choices":[{}],"x_groq":{"id":"r","usage":{"queue_time":0.1,"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#,
    );
    let finish = chunk(&format!(r#""choices":[{{"finish_reason":"stop"}}],{one}"#));
    let alone = chunk(&format!(r#""choices":[],{one}"#));
    let growing = chunk(r#""choices":[{}],"usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}"#);
    let audio = chunk(r#""delta":{"audio":{"expires_at":1}},"usage":null"#);
    let empty = chunk(r#""choices":[],"usage":{}"#);
    for documents in [
        vec![&groq],
        vec![&groq, &finish],
        vec![&finish, &alone],
        vec![&growing, &growing, &finish],
        vec![&audio, &audio, &alone, &audio],
        vec![&finish, &empty],
    ] {
        let documents: Vec<&str> = documents.into_iter().map(String::as_str).collect();
        let reported = everywhere(Endpoint::ChatCompletions, Form::Events, &events(&documents, "\n"));
        assert_eq!(reported.usage, usage(7, 2), "{documents:?}");
    }
}

#[test]
fn an_event_over_several_lines_is_one_document() {
    let body = concat!(
        "data: {\"model\":\"m\",\"choices\":[]}\n\n",
        "data: {\ndata: \"choices\": [],\ndata: \"usage\": {\"prompt_tokens\":7,\ndata: \"completion_tokens\":2}\ndata: }\n\n"
    );
    assert_eq!(everywhere(Endpoint::ChatCompletions, Form::Events, body).usage, usage(7, 2));
}

#[test]
fn a_stream_says_itself_that_it_has_failed() {
    const CHAT: Endpoint = Endpoint::ChatCompletions;
    const CHUNK: &str =
        "data: {\"id\":\"a\",\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"\\\"error\\\":1\"}}]}\n\n";
    let behind = |event: &str| format!("{CHUNK}data: {event}\n\n");
    for (endpoint, body, failed) in [
        (CHAT, behind(r#"{"error":{"message":"m"}}"#), true),
        (CHAT, behind(r#"{"id":"a","choices":[],"error":"overloaded"}"#), true),
        (CHAT, behind(r#"{"id":"a","choices":[],"error":null}"#), false),
        (CHAT, behind(r#"{"id":"a","choices":[{"error":{"code":1}}],"error":{}}"#), false),
        (CHAT, behind("[DONE]"), false),
        (Endpoint::Responses, "data: {\"type\":\"error\",\"message\":\"m\"}\n\n".to_owned(), true),
        (Endpoint::Responses, "data: {\"type\":\"response.failed\",\"response\":{\"error\":{}}}\n\n".into(), true),
        (Endpoint::Responses, "data: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n".into(), false),
        (Endpoint::Messages, "data: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n".into(), true),
        (Endpoint::ImagesGenerations, "data: {\"type\":\"error\",\"code\":\"x\"}\n\n".into(), true),
        (CHAT, String::new(), true),
        (CHAT, ": ping\n\n".into(), true),
        (Endpoint::ResponsesRetrieve, String::new(), false),
    ] {
        for cut in 0..=body.len() {
            let reported = capture(endpoint, Form::Events, Coding::Identity, body.as_bytes(), &[cut]);
            assert_eq!(reported.failed, failed, "{body} cut at {cut}");
        }
    }
    assert!(!capture(CHAT, Form::Json, Coding::Identity, br#"{"error":{"message":"m"}}"#, &[]).failed);
}
