//! What is under way in a session, and what it comes to: each response's own start, where one may end, and sessions in
//! which nothing is reported.

use super::*;

/// What goes by and what is known of its cost, where nothing is reported.
#[test]
fn a_session_that_reports_nothing_is_free_only_where_nothing_happened() {
    const REALTIME: Endpoint = Endpoint::RealtimeSession;
    let of = |kind: &str| format!(r#"{{"type":"{kind}","event_id":"e"}}"#);
    for (endpoint, kind, is_unknown) in [
        (REALTIME, "session.updated", false),
        (REALTIME, "transcription_session.updated", false),
        (REALTIME, "session.closed", false),
        (REALTIME, "error", false),
        (REALTIME, "ping", false),
        (REALTIME, "rate_limits.updated", false),
        (REALTIME, "conversation.created", false),
        (REALTIME, "conversation.item.added", false),
        (REALTIME, "conversation.item.deleted", false),
        (REALTIME, "input_audio_buffer.cleared", false),
        (REALTIME, "conversation.item.input_audio_transcription.completed", true),
        (REALTIME, "conversation.item.input_audio_transcription.delta", true),
        (REALTIME, "conversation.item.input_audio_transcription.failed", true),
        (REALTIME, "input_audio_buffer.speech_started", true),
        (REALTIME, "session.output_audio.delta", true),
        (REALTIME, "session.output_transcript.delta", true),
        (REALTIME, "response.output_text.delta", true),
        (REALTIME, "something.new", true),
        (Endpoint::ResponsesSession, "error", false),
        (Endpoint::ResponsesSession, "response.output_text.delta", true),
        (Endpoint::Other, "something.new", false),
    ] {
        assert_eq!(everywhere(endpoint, &[&of(kind)]).1.unreported, is_unknown, "{kind}");
        let reported = everywhere(endpoint, &[&of(kind), DONE, &of(kind)]).1.unreported;
        assert!(!reported, "{kind} beside a report");
    }
    let binary = [frames(&[CREATED]), frame(FIN | 2, b"audio"), PING.to_vec()].concat();
    assert!(run(REALTIME, &binary, &[]).1.unreported);
    assert_eq!(run(REALTIME, &[PING, CLOSE].concat(), &[]).1, Ended { closed: true, ..Ended::default() });
}

/// Each response by its own beginning, in whatever order and lane. What is told, at one instant after another: an
/// event, an id (`-`: none) and perhaps a lane. What is expected is when those that end began, and whether one is under
/// way then.
#[test]
fn each_response_has_its_own_start() {
    const LANES: Endpoint = Endpoint::ResponsesSession;
    const CALLS: Endpoint = Endpoint::RealtimeSession;
    type Case = (&'static str, Endpoint, &'static str, &'static [Option<u64>], bool);
    #[rustfmt::skip] // a table
    let cases: [Case; 11] = [
        ("one after another", LANES, "created a, completed a, created b, completed b", &[Some(0), Some(2)], false),
        ("lanes", LANES, "created a, created b x, failed a, created c, incomplete b x, completed c",
            &[Some(0), Some(1), Some(3)], false),
        ("after an error", LANES, "created a, error -, created b, completed b", &[Some(2)], false),
        ("an error ends its lane's", LANES, "created a, created b x, error - x, completed a", &[Some(0)], false),
        ("and not another's", LANES, "created a, error - x", &[], true),
        ("which may still report", LANES, "created a, error -, failed a", &[Some(0)], false),
        ("at once without lanes", LANES, "created a, created b, completed a, completed b", &[Some(0), Some(1)], false),
        ("a realtime error is another thing's", CALLS, "created a, error -", &[], true),
        ("out of band", CALLS, "created a, created b, done b, done a", &[Some(1), Some(0)], false),
        ("without ids", CALLS, "created -, done -, created -, done a", &[Some(0), Some(2)], false),
        ("without a beginning", LANES, "completed a, created b x", &[None], true),
    ];
    for (what, endpoint, told, expected, is_responding) in cases {
        let (mut session, mut began) = (Session::new(endpoint), Vec::new());
        for (at, told) in told.split(", ").enumerate() {
            let now = Now { mono: at as u64, unix: 0 };
            let report = session.feed(now, &frames(&[&event(told)])).1;
            began.extend(report.map(|report| report.began.map(|began| began.mono)));
        }
        assert_eq!((began.as_slice(), session.is_responding()), (expected, is_responding), "{what}");
    }
}

fn event(told: &str) -> String {
    let mut words = told.split(' ');
    let (kind, id, lane) = (words.next().unwrap(), words.next().unwrap(), words.next());
    let lane = lane.map_or(String::new(), |lane| format!(r#","stream_id":"{lane}""#));
    let id = if id == "-" { String::new() } else { format!(r#""id":"{id}","#) };
    match kind {
        "error" => format!(r#"{{"type":"error","error":{{"code":"server_error"}}{lane}}}"#),
        "created" => format!(r#"{{"type":"response.created","response":{{{id}"usage":null}}{lane}}}"#),
        _ => format!(r#"{{"type":"response.{kind}","response":{{{id}"usage":{{"input_tokens":1}}}}{lane}}}"#),
    }
}

/// Which model each response was asked of, and whether the client may go. What is told is as above, and by the client:
/// `ask`, a model (`-`: none) and perhaps a lane; `say`, which asks for nothing; `part`, of a message.
#[test]
fn each_response_has_the_model_that_its_client_names() {
    const LANES: Endpoint = Endpoint::ResponsesSession;
    const CALLS: Endpoint = Endpoint::RealtimeSession;
    type Case = (&'static str, Endpoint, &'static str, &'static [Option<&'static str>], bool);
    #[rustfmt::skip] // a table
    let cases: [Case; 15] = [
        ("two, one after another", LANES, "ask m, created a, completed a, ask n, created b, completed b",
            &[Some("m"), Some("n")], true),
        ("both asked for first", LANES, "ask m, ask n, created a, completed a, created b, completed b",
            &[Some("m"), Some("n")], true),
        ("lanes", LANES, "ask m x, ask n, ask o x, created a, created b x, completed a, completed b x, completed c x",
            &[Some("n"), Some("m"), Some("o")], true),
        ("no name", LANES, "ask m, created a, completed a, ask -, created b, completed b", &[Some("m"), None], true),
        ("a successor that nobody asked for", LANES, "ask m, created a, incomplete a, created b, completed b",
            &[Some("m"), Some("m")], true),
        ("refused", LANES, "ask m, error -, ask n, created a, completed a", &[Some("n")], true),
        ("what fails is what runs", LANES, "ask m, created a, ask n, error -, created b, completed b, completed a",
            &[Some("n"), Some("m")], true),
        ("without a beginning", LANES, "ask m, completed a, ask n, completed b", &[Some("m"), Some("n")], true),
        ("what asks for nothing", LANES, "say m, say -", &[], true),
        ("asked for, and not taken up", LANES, "ask m, created a, completed a, ask n", &[Some("m")], false),
        ("half a message", LANES, "part m", &[], false),
        ("under way", LANES, "ask m, created a", &[], false),
        ("a call", CALLS, "ask -, created a, done a", &[None], true),
        ("a call that is not answered", CALLS, "say m, ask -", &[], false),
        ("a call that is refused", CALLS, "ask -, error -", &[], true),
    ];
    for (what, endpoint, told, expected, is_done) in cases {
        let (mut session, mut named) = (Session::new(endpoint), Vec::new());
        for told in told.split(", ") {
            if let Some((text, is_whole)) = said(told) {
                for byte in text.as_bytes().chunks(1) {
                    session.hear(Piece::Text(byte));
                }
                _ = is_whole && session.hear(Piece::TextEnd);
            } else {
                named.extend(session.feed(NOW, &frames(&[&event(told)])).1.map(|report| report.model_requested));
            }
        }
        let named: Vec<_> = named.iter().map(Option::as_deref).collect();
        assert_eq!((named.as_slice(), session.is_done()), (expected, is_done), "{what}");
        assert_eq!(session.finish().unreported, !is_done, "{what}");
    }
}

/// A message of the client's, and whether that is all of it.
fn said(told: &str) -> Option<(String, bool)> {
    let mut words = told.split(' ');
    let (kind, model, lane) = (words.next().unwrap(), words.next().unwrap(), words.next());
    let lane = lane.map_or(String::new(), |lane| format!(r#","stream_id":"{lane}""#));
    let model = if model == "-" { String::new() } else { format!(r#","model":"{model}""#) };
    match kind {
        "ask" => Some((format!(r#"{{"type":"response.create"{lane},"input":[{{"model":"x"}}]{model}}}"#), true)),
        "say" => Some((format!(r#"{{"type":"session.update"{model}{lane}}}"#), true)),
        "part" => Some((format!(r#"{{"type":"response.create"{model}"#), false)),
        _ => None,
    }
}

/// Nobody fills our memory by asking: beyond a bound, names are not told, and the session is not taken to be done.
#[test]
fn what_is_asked_for_has_a_bound() {
    let mut session = Session::new(Endpoint::ResponsesSession);
    for n in 0..1_000 {
        session.hear(Piece::Text(format!(r#"{{"type":"response.create","model":"m{n}"}}"#).as_bytes()));
        session.hear(Piece::TextEnd);
    }
    for n in 0..1_000 {
        let events = frames(&[&event(&format!("created r{n}")), &event(&format!("completed r{n}"))]);
        let report = session.feed(NOW, &events).1.expect("its usage");
        assert_eq!(report.model_requested, None);
    }
    assert!(!session.is_done());
}

/// More at once than are remembered: none is lost count of, and the others keep their start.
#[test]
fn the_responses_that_are_remembered_have_a_bound() {
    let name = |kind: &str, n: u64| {
        format!(r#"{{"type":"response.{kind}","response":{{"id":"r{n}","usage":{{"input_tokens":1}}}}}}"#)
    };
    let mut session = Session::new(Endpoint::RealtimeSession);
    for n in 0..1_000 {
        session.feed(Now { mono: n, unix: 0 }, &frames(&[&name("created", n)]));
    }
    for n in (0..1_000).rev() {
        assert!(session.is_responding(), "{n}");
        let report = session.feed(NOW, &frames(&[&name("done", n)])).1.expect("its usage");
        assert_eq!(report.began.map(|began| began.mono), (n >= 1_000 - 32).then_some(n));
    }
    assert!(!session.is_responding() && !session.finish().unreported);
}

/// Where one that is to stop does: behind what was under way, between two messages, at any cut.
#[test]
fn it_stops_at_rest() {
    let before = [frames(&[BEGUN, AUDIO]), PING.to_vec(), frames(&[DONE])].concat();
    let fragments = [frame(TEXT, &AUDIO.as_bytes()[..9]), PING.to_vec(), frame(FIN, &AUDIO.as_bytes()[9..])].concat();
    for (begun, stream, rest_at) in [
        (0, before.clone(), 0),
        (1, [&before[..], PING].concat(), before.len()),
        (1, [&fragments[..], &frames(&[AUDIO])].concat(), fragments.len()),
        (1, [&frame(FIN | 2, b"audio")[..], &frames(&[AUDIO])].concat(), 7),
    ] {
        for cut in begun..=stream.len() {
            let (mut session, mut at) = (Session::new(Endpoint::RealtimeSession), begun);
            session.feed(NOW, &stream[..begun]);
            session.stop_at_rest(true);
            for part in [cut, stream.len()] {
                while at < part && !session.is_at_rest() {
                    at += session.feed(NOW, &stream[at..part]).0;
                }
            }
            assert_eq!((at, session.is_at_rest()), (rest_at, true), "cut at {cut}");
            assert_eq!(session.feed(NOW, &stream[at..]).0, 0);
        }
    }
}
