//! Sessions as servers send them, cut at every byte: what is reported, where, and what is left at the end.

mod lanes;

use super::*;
use crate::usage::record::Usage;
use proptest::prelude::*;

const NOW: Now = Now { mono: 7, unix: 1_007 };
const FIN: u8 = 0x80;
const TEXT: u8 = 1;
const PING: &[u8] = b"\x89\x02hi";
const CLOSE: &[u8] = b"\x88\x02\x03\xe8";

const CREATED: &str = r#"{"type":"session.created","event_id":"event_1","session":{"type":"realtime","object":"realtime.session","id":"sess_1","model":"gpt-realtime","tools":[],"audio":{"input":{"transcription":null}}}}"#;
const UPDATED: &str = r#"{"type":"session.updated","event_id":"event_2","session":{"id":"sess_1","model":"gpt-realtime","audio":{"input":{"format":{"type":"audio/pcm"},"transcription":{"model":"gpt-realtime-whisper","language":null}}}}}"#;
const BEGUN: &str = r#"{"type":"response.created","event_id":"event_3","response":{"object":"realtime.response","id":"resp_1","status":"in_progress","usage":null}}"#;
const AUDIO: &str =
    r#"{"type":"response.output_audio.delta","event_id":"event_4","item_id":"item_9","delta":"AAAA/+8BAAD="}"#;
const DONE: &str = r#"{"type":"response.done","event_id":"event_5","response":{"object":"realtime.response","id":"resp_1","status":"completed","output":[{"id":"item_9","usage":{"input_tokens":999}}],"usage":{"total_tokens":102,"input_tokens":42,"output_tokens":60,"input_token_details":{"text_tokens":15,"audio_tokens":27,"cached_tokens":0},"output_token_details":{"text_tokens":18,"audio_tokens":42}},"metadata":{"usage":"{}"}}}"#;
const HEARD: &str = r#"{"type":"conversation.item.input_audio_transcription.completed","event_id":"event_6","item_id":"item_1","transcript":"my \"usage\":{\"input_tokens\":7}","usage":{"type":"duration","seconds":3}}"#;

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        length @ 0..126 => out.push(length as u8),
        length => {
            out.push(126);
            out.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

fn frames(messages: &[&str]) -> Vec<u8> {
    messages.iter().flat_map(|message| frame(FIN | TEXT, message.as_bytes())).collect()
}

/// The reports, each with the bytes used when it came, and the end.
fn run(endpoint: Endpoint, stream: &[u8], cuts: &[usize]) -> (Vec<(usize, Report)>, Ended) {
    let (mut session, mut reports, mut at, mut total) = (Session::new(endpoint), Vec::new(), 0, 0);
    for cut in cuts.iter().copied().chain([stream.len()]) {
        let end = cut.clamp(at, stream.len());
        let mut part = &stream[at..end];
        at = end;
        loop {
            let (used, report) = session.feed(NOW, part);
            let report = report.map(|report| Report { began: None, ..report }); // another test's part
            (part, total) = (&part[used..], total + used);
            // What scalars and a cut value can take: a usage object at its cap, in a vector that has doubled.
            assert!(session.message.held() <= 2 * 16 * 1024);
            match report {
                Some(report) => reports.push((total, report)),
                None => break assert!(part.is_empty(), "without a report all is used"),
            }
        }
    }
    (reports, session.finish())
}

/// The same, whichever byte the stream is cut at.
fn everywhere(endpoint: Endpoint, messages: &[&str]) -> (Vec<Report>, Ended) {
    let stream = frames(messages);
    let whole = run(endpoint, &stream, &[]);
    for cut in 0..stream.len() {
        assert_eq!(run(endpoint, &stream, &[cut]), whole, "cut at {cut}");
    }
    assert_eq!(run(endpoint, &stream, &(0..stream.len()).collect::<Vec<_>>()), whole, "byte by byte");
    (whole.0.into_iter().map(|(_, report)| report).collect(), whole.1)
}

fn realtime(messages: &[&str]) -> (Vec<Report>, Ended) {
    everywhere(Endpoint::RealtimeSession, messages)
}

fn tokens(input: u64, output: u64) -> Usage {
    Usage { input_tokens: input, output_tokens: output, total_tokens: input + output, ..Usage::default() }
}

fn seconds(seconds: f64) -> Usage {
    Usage { audio_us: (seconds * 1e6) as u64, ..Usage::default() }
}

fn report(endpoint: Endpoint, id: Option<&str>, model: Option<&str>, usage: Usage) -> Report {
    let (id, model) = (id.map(Into::into), model.map(Into::into));
    let reported = Reported { usage: Some(usage), id, model, ..Reported::default() };
    Report { endpoint, reported, began: None, model_requested: None }
}

fn response_done() -> Report {
    let usage = Usage { input_audio_tokens: 27, output_audio_tokens: 42, ..tokens(42, 60) };
    report(Endpoint::Realtime, Some("resp_1"), Some("gpt-realtime"), usage)
}

fn heard() -> Report {
    report(Endpoint::RealtimeTranscription, Some("item_1"), Some("gpt-realtime-whisper"), seconds(3.0))
}

#[test]
fn a_realtime_session() {
    let (reports, ended) = realtime(&[CREATED, UPDATED, BEGUN, AUDIO, HEARD, AUDIO, DONE]);
    assert_eq!(reports, [heard(), response_done()]);
    let names = (ended.reported.id.as_deref(), ended.reported.model.as_deref());
    assert_eq!((names, ended.reported.usage), ((Some("sess_1"), Some("gpt-realtime")), None));
    assert!(!ended.unreported && !ended.closed && !ended.reported.unreadable);
}

#[test]
fn a_report_comes_with_the_last_byte_of_its_message() {
    let before = [frames(&[UPDATED, BEGUN]), PING.to_vec(), frames(&[DONE])].concat();
    let stream = [&before, CLOSE, &frames(&[DONE])].concat();
    let mut session = Session::new(Endpoint::RealtimeSession);
    assert_eq!(session.feed(NOW, &before[..before.len() - 1]), (before.len() - 1, None));
    let (used, first) = session.feed(NOW, &stream[before.len() - 1..]);
    assert_eq!((used, first), (1, Some(Report { began: Some(NOW), ..response_done() })));
    assert_eq!(session.feed(NOW, &stream[before.len()..]), (stream.len() - before.len(), None));
    let ended = session.finish();
    assert!(ended.closed && !ended.unreported, "nothing counts behind a close");
}

#[test]
fn usage_elsewhere_counts_for_nothing() {
    let usage = r#"{"input_tokens":9,"output_tokens":9,"seconds":9}"#;
    for message in [
        format!(r#"{{"type":"response.output_item.done","item":{{"usage":{usage}}},"usage":{usage}}}"#),
        format!(r#"{{"type":"response.created.x","response":{{"usage":{usage}}}}}"#),
        format!(r#"{{"type":"conversation.item.done","usage":{usage},"response":{{"usage":{usage}}}}}"#),
        format!(r#"{{"type":"session.updated","usage":{usage},"session":{{"usage":{usage}}}}}"#),
        format!(r#"{{"type":"response.event","event":{{"type":"response.done","response":{{"usage":{usage}}}}}}}"#),
        format!(r#"{{"usage":{usage},"response":{{"usage":{usage}}}}}"#),
        format!(r#"{{"type":["response.done"],"usage":{usage}}}"#),
        format!(r#"{{"x":{{"type":"response.done"}},"response":{{"usage":{usage}}}}}"#),
        format!(r#"[{{"type":"response.done","response":{{"usage":{usage}}}}}]"#),
    ] {
        for endpoint in [Endpoint::RealtimeSession, Endpoint::ResponsesSession] {
            let (reports, ended) = everywhere(endpoint, &[&message]);
            assert_eq!((reports, ended.reported.usage), (vec![], None), "{message}");
        }
    }
    assert_eq!(everywhere(Endpoint::Other, &[CREATED, BEGUN, DONE, HEARD]), (vec![], Ended::default()));
}

#[test]
fn the_type_may_stand_anywhere() {
    let done =
        r#"{"response":{"usage":{"input_tokens":3,"output_tokens":4},"id":"r"},"usage":{},"type":"response.done"}"#;
    let late = format!(r#"{{"delta":"{}","type":"response.output_audio.delta"}}"#, "A".repeat(600));
    let heard = HEARD.replace(r#""type":"conversation.item.input_audio_transcription.completed","#, "");
    let heard = heard.replace("}}", r#"},"type":"conversation.item.input_audio_transcription\u002ecompleted"}"#);
    let (reports, ended) = realtime(&[&late, done, &late, &heard]);
    let transcription = report(Endpoint::RealtimeTranscription, Some("item_1"), None, seconds(3.0));
    assert_eq!(reports, [report(Endpoint::Realtime, Some("r"), None, tokens(3, 4)), transcription]);
    assert!(!ended.unreported);
    // Whatever follows a type that reports nothing is not looked at, in any cut.
    let (reports, ended) = realtime(&[r#"{"type":"x","type":"response.done","usage":{"input_tokens":1}} {"#]);
    assert_eq!((reports, ended), (vec![], Ended { unreported: true, ..Ended::default() }));
}

#[test]
fn xai_puts_its_usage_beside_the_response() {
    let session = r#"{"session":{"model":"grok-voice","input_audio_transcription":{"model":"grok-transcribe"}},"type":"session.updated"}"#;
    let begun = r#"{"type":"response.created","response":{"id":"74fbdfd7","usage":{}}}"#;
    let done = r#"{"type":"response.done","response":{"id":"74fbdfd7","usage":{}},"response_id":"74fbdfd7","usage":{"input_tokens":8,"output_tokens":301,"output_token_details":{"audio_tokens":279,"grok_tokens":0},"total_tokens":309,"billable_audio_seconds":3}}"#;
    let (reports, ended) = realtime(&[session, begun, HEARD, done]);
    let usage = Usage { output_audio_tokens: 279, ..tokens(8, 301) };
    let transcription = report(Endpoint::RealtimeTranscription, Some("item_1"), Some("grok-transcribe"), seconds(3.0));
    assert_eq!(reports, [transcription, report(Endpoint::Realtime, Some("74fbdfd7"), Some("grok-voice"), usage)]);
    assert!(!ended.unreported);
    let (reports, ended) = realtime(&[begun, r#"{"type":"response.done","response":{"usage":{}},"usage":{}}"#]);
    assert_eq!((reports, ended.unreported), (vec![], true));
}

#[test]
fn the_last_transcription_model_named_holds() {
    let named = |model: &str| {
        format!(
            r#"{{"type":"transcription_session.updated","session":{{"id":"sess_2","input_audio_transcription":{{"model":"{model}"}}}}}}"#
        )
    };
    let (reports, ended) = realtime(&[HEARD, &named("whisper-1"), HEARD, &named("gpt-4o-transcribe"), CREATED, HEARD]);
    let models: Vec<Option<&str>> = reports.iter().map(|report| report.reported.model.as_deref()).collect();
    assert_eq!(models, [None, Some("whisper-1"), Some("gpt-4o-transcribe")]);
    assert_eq!(ended.reported.id.as_deref(), Some("sess_1"));
    let tokens_of_it = r#"{"type":"conversation.item.input_audio_transcription.completed","item_id":"i","usage":{"type":"tokens","total_tokens":35,"input_tokens":26,"input_token_details":{"text_tokens":0,"audio_tokens":26},"output_tokens":9}}"#;
    let (reports, _) = realtime(&[tokens_of_it]);
    assert_eq!(reports[0].reported.usage, Some(Usage { input_audio_tokens: 26, ..tokens(26, 9) }));
    let without = r#"{"type":"conversation.item.input_audio_transcription.completed","item_id":"i","transcript":"a"}"#;
    assert!(!realtime(&[without, HEARD]).1.unreported, "what does not report it does not bill it by itself");
    assert!(realtime(&[CREATED, without]).1.unreported, "nothing at all was reported");
}

#[test]
fn images_made_in_the_course_of_a_response() {
    let done = r#"{"type":"response.completed","response":{"id":"r","tools":[{"model":"gpt-image-1"}],"usage":{"input_tokens":1},"tool_usage":{"image_gen":{"output_tokens":2}}}}"#;
    let (reports, _) = everywhere(Endpoint::ResponsesSession, &[done, &done.replace("\"output_tokens\":2", "")]);
    let images: Vec<_> = reports
        .into_iter()
        .map(|report| report.reported.images.map(|images| (images.usage.output_tokens, images.model)))
        .collect();
    assert_eq!(images, [Some((2, Some("gpt-image-1".into()))), None]);
}

#[test]
fn responses_in_lanes() {
    let event = |kind: &str, id: &str, rest: &str| {
        format!(
            r#"{{"type":"response.{kind}","response":{{"id":"{id}","model":"gpt-5","service_tier":"priority","usage":{rest}}},"stream_id":"{id}","sequence_number":1}}"#
        )
    };
    let usage = |n: u64| format!(r#"{{"input_tokens":{n},"output_tokens":1,"total_tokens":{}}}"#, n + 1);
    let messages = [
        event("created", "a", "null"),
        event("in_progress", "a", "null"),
        event("created", "b", "null"),
        event("output_text.delta", "b", &usage(99)),
        event("incomplete", "a", &usage(1)),
        event("created", "c", "null"),
        event("completed", "c", &usage(0)),
        event("failed", "b", &usage(3)),
    ];
    let messages: Vec<&str> = messages.iter().map(String::as_str).collect();
    let (reports, ended) = everywhere(Endpoint::ResponsesSession, &messages);
    let expected = [("a", 1), ("c", 0), ("b", 3)].map(|(id, input)| {
        let mut report = report(Endpoint::Responses, Some(id), Some("gpt-5"), tokens(input, 1));
        report.reported.service_tier = Some("priority".into());
        report
    });
    assert_eq!(reports, expected);
    assert_eq!(ended, Ended::default());
    let (reports, ended) = everywhere(Endpoint::ResponsesSession, &messages[..5]);
    assert_eq!((reports.len(), ended.unreported), (1, true), "lane b never ended");
    let failed = [event("created", "a", "null"), event("failed", "a", "null")];
    let (reports, ended) = everywhere(Endpoint::ResponsesSession, &[&failed[0], &failed[1]]);
    assert_eq!((reports, ended.unreported), (vec![], true), "it does not say what it consumed");
}

#[test]
fn a_live_session() {
    let started = r#"{"type":"session.started","event_id":"e","session":{"id":"sess_3","model":"gpt-live","usage":{"seconds":77}}}"#;
    let length = |seconds: &str| {
        format!(
            r#"{{"type":"session.usage.updated","context_window":{{"usage_ratio":0.5}},"usage":{{"seconds":{seconds}}}}}"#
        )
    };
    let event = |kind: &str, usage: &str| {
        format!(
            r#"{{"type":"response.event","event":{{"type":"response.{kind}","response":{{"id":"resp_1","model":"gpt-5","service_tier":"default","usage":{usage}}}}},"delegation_id":"d"}}"#
        )
    };
    let text = r#"{"event":{"delta":"usage","type":"response.output_text.delta"},"type":"response.event"}"#;
    let decision = r#"{"type":"decision.event","event":{"decision":{"answers":[{"usage":{"input_tokens":99}}],"model":"gpt-decide","usage":{"input_tokens":5,"output_tokens":2,"total_tokens":7}},"type":"decision.completed"}}"#;
    let closed = r#"{"type":"session.closed","reason":"expired","session":{"id":"sess_3","model":"gpt-live"},"usage":{"seconds":12.25}}"#;
    let usage = r#"{"input_tokens":3,"output_tokens":4,"total_tokens":7}"#;
    let (first, second) = (length("4.5"), length("9"));
    let (begun, completed) = (event("created", "null"), event("completed", usage));
    let messages = [started, &first, &begun, text, &completed, &second, decision, closed];
    let (reports, ended) = everywhere(Endpoint::LiveSession, &messages);
    let mut response = report(Endpoint::Responses, Some("resp_1"), Some("gpt-5"), tokens(3, 4));
    response.reported.service_tier = Some("default".into());
    assert_eq!(reports, [response, report(Endpoint::Decisions, None, Some("gpt-decide"), tokens(5, 2))]);
    let whole = report(Endpoint::LiveSession, Some("sess_3"), Some("gpt-live"), seconds(12.25));
    assert_eq!((ended.reported, ended.unreported), (whole.reported, false));

    let cut = everywhere(Endpoint::LiveSession, &messages[..7]).1;
    assert_eq!((cut.reported.usage, cut.unreported), (Some(seconds(9.0)), false), "as far as it was told");
    assert!(everywhere(Endpoint::LiveSession, &messages[..1]).1.unreported, "it never told its length");
    assert!(everywhere(Endpoint::LiveSession, &messages[..3]).1.unreported, "a response was under way");
    let undecided = decision.replace(r#""usage":{"input_tokens":5,"#, r#""u":{"input_tokens":5,"#);
    assert!(everywhere(Endpoint::LiveSession, &[&undecided]).1.unreported);
    let unknown = Ended { unreported: true, ..Ended::default() };
    assert_eq!(everywhere(Endpoint::LiveSession, &[BEGUN, DONE, HEARD]), (vec![], unknown));
}

#[test]
fn what_cannot_be_read_is_owned_up_to() {
    let readable = frames(&[CREATED, BEGUN, DONE]);
    let broken = |parts: &[&[u8]]| {
        let (reports, ended) = run(Endpoint::RealtimeSession, &[&readable, &parts.concat()[..]].concat(), &[]);
        (reports.len(), ended.unreported && ended.reported.unreadable)
    };
    assert_eq!(broken(&[]), (1, false));
    assert_eq!(broken(&[&frame(FIN | 0x40 | TEXT, b"packed"), &readable]), (2, true), "compressed");
    let half = frame(TEXT, &DONE.as_bytes()[..300]);
    assert_eq!(
        broken(&[&half, &frame(FIN | 0x40, &DONE.as_bytes()[300..]), &readable]),
        (2, true),
        "in its second half"
    );
    assert_eq!(broken(&[&frame(FIN | 0x3, b"x"), &readable]), (1, true), "lost");
    assert_eq!(broken(&[&frame(FIN | TEXT, b"<html>"), &readable]), (2, true), "no JSON");
    assert_eq!(broken(&[&frame(FIN | TEXT, &DONE.as_bytes()[..300]), &readable]), (2, true), "half a document");
    let whole = frames(&[DONE]);
    assert_eq!(broken(&[&whole[..whole.len() - 1]]), (1, true), "cut before its end");
    assert_eq!(broken(&[&half, CLOSE]), (1, true), "closed before its end");
    let audio = frames(&[AUDIO]);
    assert_eq!(broken(&[&audio[..audio.len() - 1]]), (1, false), "nothing is lost with half a piece of audio");
    assert_eq!(broken(&[&frame(FIN | TEXT, b""), &frame(FIN | 2, b"\0"), PING, &frame(FIN | 2, b"")]), (1, false));
    let (_, ended) = run(Endpoint::RealtimeSession, &frames(&[CREATED, BEGUN, AUDIO]), &[]);
    assert!(ended.unreported && !ended.reported.unreadable, "the response never ended");
}

#[test]
fn names_and_values_have_their_bounds() {
    let long = DONE.replace("resp_1", &"r".repeat(400)).replace("gpt-realtime", &"m".repeat(10_000));
    let (reports, _) = run(Endpoint::RealtimeSession, &frames(&[&long]), &[100, 500, 900]);
    let id = reports[0].1.reported.id.clone().unwrap();
    assert_eq!((id.len(), &id[..96]), (128, &*format!("{}~", "r".repeat(95))));
    let huge = DONE.replace(r#""total_tokens":102"#, &format!(r#""x":"{}""#, "x".repeat(20_000)));
    let (reports, ended) = run(Endpoint::RealtimeSession, &frames(&[&huge]), &[1000, 9000]);
    assert_eq!((reports, ended.unreported), (vec![], true));
    // Between messages it holds nothing but what it has learnt.
    let mut session = Session::new(Endpoint::RealtimeSession);
    for byte in frames(&[CREATED, UPDATED, DONE, AUDIO]) {
        session.feed(NOW, &[byte]);
    }
    assert_eq!(session.message.held(), 0);
    assert!(size_of::<Session>() <= 704, "{}", size_of::<Session>());
}

/// A message of each kind, with what it reports.
fn message() -> impl Strategy<Value = (String, Option<Report>)> {
    let done = (0u64..1000, 0u64..1000, "[a-z]{1,9}", any::<bool>()).prop_map(|(input, output, id, late)| {
        let usage =
            format!(r#""response":{{"id":"{id}","usage":{{"input_tokens":{input},"output_tokens":{output}}}}}"#);
        let kind = r#""type":"response.done""#;
        let message = if late { format!("{{{usage},{kind}}}") } else { format!("{{{kind},{usage}}}") };
        (message, Some(report(Endpoint::Realtime, Some(&id), None, tokens(input, output))))
    });
    let heard = (1u32..100).prop_map(|length| {
        let message = format!(
            r#"{{"type":"conversation.item.input_audio_transcription.completed","usage":{{"seconds":{length}}}}}"#
        );
        (message, Some(report(Endpoint::RealtimeTranscription, None, None, seconds(f64::from(length)))))
    });
    let other = prop_oneof![
        "[A-Za-z0-9+/]{0,900}"
            .prop_map(|audio| format!(r#"{{"type":"response.output_audio.delta","delta":"{audio}"}}"#)),
        "[A-Za-z0-9+/]{0,900}"
            .prop_map(|audio| format!(r#"{{"delta":"{audio}","type":"response.output_audio.delta"}}"#)),
        Just(
            r#"{"type":"conversation.item.done","item":{"usage":{"input_tokens":5}},"usage":{"input_tokens":5}}"#
                .into()
        ),
        Just(BEGUN.into()),
        Just(String::new()),
    ];
    prop_oneof![done, heard, other.prop_map(|message| (message, None))]
}

proptest! {
    /// Any fragments, any pings between them, any cuts: the same reports, each at its message's last byte.
    #[test]
    fn fragments_and_cuts_change_nothing(
        messages in proptest::collection::vec((message(), proptest::collection::vec(0usize..1000, 0..4)), 0..6),
        pings in proptest::collection::vec(any::<bool>(), 30),
        mut cuts in proptest::collection::vec(0usize..5000, 0..20),
    ) {
        cuts.sort_unstable();
        let (mut stream, mut expected, mut pings) = (Vec::new(), Vec::new(), pings.into_iter().cycle());
        for ((message, report), mut splits) in messages {
            splits.push(message.len());
            splits.iter_mut().for_each(|split| *split = (*split).min(message.len()));
            splits.sort_unstable();
            let mut at = 0;
            for (index, split) in splits.iter().enumerate() {
                if pings.next() == Some(true) {
                    stream.extend_from_slice(PING);
                }
                let fin = if index + 1 == splits.len() { FIN } else { 0 };
                let opcode = if index == 0 { TEXT } else { 0 };
                stream.extend_from_slice(&frame(fin | opcode, &message.as_bytes()[at..*split]));
                at = *split;
            }
            expected.extend(report.map(|report| (stream.len(), report)));
        }
        let (reports, ended) = run(Endpoint::RealtimeSession, &stream, &cuts);
        prop_assert_eq!(reports, expected);
        prop_assert!(!ended.reported.unreadable && !ended.closed);
    }

    /// No bytes make it panic or hold more than its bound, and any split says the same.
    #[test]
    fn survives_anything(
        bytes in proptest::collection::vec(prop_oneof![
            Just(frame(FIN | TEXT, DONE.as_bytes())),
            Just(frame(FIN | TEXT, HEARD.as_bytes())),
            proptest::collection::vec(any::<u8>(), 0..9),
            "[\\[{\"type:usage,}\\\\\\]]{0,60}".prop_map(|text| frame(FIN | TEXT, text.as_bytes())),
        ], 0..9),
        flips in proptest::collection::vec((0usize..3000, any::<u8>()), 0..3),
        mut cuts in proptest::collection::vec(0usize..3000, 0..9),
    ) {
        let mut bytes = bytes.concat();
        for (at, byte) in flips {
            if let Some(old) = bytes.get_mut(at) {
                *old = byte;
            }
        }
        cuts.sort_unstable();
        for endpoint in [Endpoint::RealtimeSession, Endpoint::ResponsesSession, Endpoint::LiveSession] {
            prop_assert_eq!(run(endpoint, &bytes, &cuts), run(endpoint, &bytes, &[]));
        }
    }
}
