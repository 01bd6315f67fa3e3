//! Traps in the usage that servers report, one by one: what stands in the body, and what it must be counted as. Left to
//! others: the bytes that pass (`transparency`), regular answers of every endpoint (`transparency/endpoints`), recorded
//! ones (`recorded`), what is looked at twice (`retrievals`), streams that do not end (`aborts`).
//!
//! Each trap is read in every form that a server may send it in (line ends, comments, an end without its blank line,
//! compressed), cut at every byte; and once through the binary into the ledger.

#[path = "traps/bodies.rs"]
mod bodies;
#[path = "traps/streams.rs"]
mod streams;
mod support;

use flate2::{Compression, write::GzEncoder};
use openai_api_proxy::usage::capture::Reported;
use openai_api_proxy::usage::reader::{Coding, Form, UsageReader};
use openai_api_proxy::usage::record::{Endpoint, Usage};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use support::answers::{self, Answer};
use support::client::Client;
use support::proxy::Proxy;
use support::script::Reply;
use support::upstream::Upstream;

/// A trap: what an endpoint answers, and the usage that it must be counted as.
pub struct Trap {
    /// What is special about it; unique.
    pub name: &'static str,
    pub endpoint: Endpoint,
    pub body: Body,
    /// `None` where nothing of it may count.
    pub usage: Option<Usage>,
}

/// An answer as a server may divide it.
pub enum Body {
    /// One document.
    Json(String),
    /// The data of events. A name before a bar is the event's.
    Events(Vec<String>),
    /// Documents, one a line.
    Lines(Vec<String>),
}

impl Body {
    fn form(&self) -> Form {
        match self {
            Self::Json(_) => Form::Json,
            Self::Events(_) => Form::Events,
            Self::Lines(_) => Form::Lines,
        }
    }

    fn content_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json",
            Self::Events(_) => "text/event-stream",
            Self::Lines(_) => "application/x-ndjson",
        }
    }

    /// The body in the plainest form.
    fn plain(&self) -> Vec<u8> {
        self.written("\n", false, false)
    }

    /// The body with these line ends, perhaps with comments among its events, perhaps without its very end.
    fn written(&self, end: &str, comments: bool, open: bool) -> Vec<u8> {
        let text = match self {
            Self::Json(document) => document.clone(),
            Self::Lines(documents) => documents.iter().map(|document| format!("{document}{end}")).collect(),
            Self::Events(documents) => {
                let event = |document: &String| {
                    let comment = if comments { format!(": \"usage\":{{{end}{end}id: 1{end}") } else { String::new() };
                    match document.split_once('|') {
                        Some((name, data)) => format!("{comment}event: {name}{end}data: {data}{end}{end}"),
                        None => format!("{comment}data: {document}{end}{end}"),
                    }
                };
                documents.iter().map(event).collect()
            }
        };
        let text = if open { text.trim_end_matches(['\r', '\n']) } else { &text };
        text.as_bytes().to_vec()
    }

    /// The body in all forms.
    fn forms(&self) -> Vec<Vec<u8>> {
        let ends: &[&str] = match self {
            Self::Json(_) => &["\n"],
            Self::Lines(_) => &["\n", "\r\n"],
            Self::Events(_) => &["\n", "\r\n", "\r"],
        };
        let shapes = ends.iter().flat_map(|end| [(*end, false, false), (*end, true, false), (*end, false, true)]);
        shapes.map(|(end, comments, open)| self.written(end, comments, open)).collect()
    }
}

fn all() -> Vec<Trap> {
    bodies::traps().into_iter().chain(streams::traps()).collect()
}

/// What is reported of a body that comes in these parts.
fn report<'a>(endpoint: Endpoint, form: Form, coding: Coding, parts: impl IntoIterator<Item = &'a [u8]>) -> Reported {
    let mut reader = UsageReader::new(endpoint, form, coding, false);
    for part in parts {
        reader.feed(part, &mut Vec::new()).expect("it is not edited");
    }
    reader.finish()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// The same report in one piece, in two (all ways), byte by byte, and compressed.
fn in_all_parts(name: &str, endpoint: Endpoint, form: Form, body: &[u8]) -> Reported {
    let whole = report(endpoint, form, Coding::Identity, [body]);
    for cut in 1..body.len() {
        let (first, second) = body.split_at(cut);
        assert_eq!(report(endpoint, form, Coding::Identity, [first, second]), whole, "{name}: cut at {cut}");
    }
    assert_eq!(report(endpoint, form, Coding::Identity, body.chunks(1)), whole, "{name}: byte by byte");
    let packed = gzip(body);
    assert_eq!(report(endpoint, form, Coding::Gzip, [&packed[..]]), whole, "{name}: compressed");
    assert_eq!(report(endpoint, form, Coding::Gzip, packed.chunks(1)), whole, "{name}: compressed, byte by byte");
    whole
}

#[test]
fn every_trap_in_every_form_cut_at_every_byte() {
    let traps = all();
    let names: BTreeSet<_> = traps.iter().map(|trap| trap.name).collect();
    assert_eq!(names.len(), traps.len(), "names are unique");
    for trap in &traps {
        for body in trap.body.forms() {
            let reported = in_all_parts(trap.name, trap.endpoint, trap.body.form(), &body);
            assert_eq!(reported.usage, trap.usage, "{}: {}", trap.name, String::from_utf8_lossy(&body));
        }
    }
    println!("{} traps", traps.len());
}

/// The form in which an answer of this type is read.
fn form(content_type: &str) -> Form {
    match content_type.split(';').next().unwrap() {
        "application/json" => Form::Json,
        "text/event-stream" => Form::Events,
        "application/x-ndjson" => Form::Lines,
        _ => Form::Opaque,
    }
}

/// The answers of endpoints that the ledger has a name for.
fn answers() -> Vec<(Endpoint, Answer)> {
    let endpoint = |answer: &Answer| Endpoint::ALL.iter().copied().find(|known| known.as_str() == answer.endpoint());
    let named = answers::all().into_iter().filter_map(|answer| Some((endpoint(&answer)?, answer)));
    named.filter(|(endpoint, _)| *endpoint != Endpoint::Other).collect()
}

#[test]
fn every_endpoints_answers_cut_at_every_byte() {
    for (endpoint, answer) in answers() {
        let reported = in_all_parts(answer.name, endpoint, form(answer.content_type), &answer.body);
        assert_eq!(reported.usage, answer.counted.usage(), "{}", answer.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any endpoint's answer, any trap, compressed or not, in any parts: the same report.
    #[test]
    fn any_split_of_any_answer_reports_the_same(
        pick in any::<proptest::sample::Index>(),
        shape in any::<proptest::sample::Index>(),
        packed: bool,
        mut cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..30),
    ) {
        let of_traps = all().into_iter().map(|trap| (trap.endpoint, trap.body.form(), trap.body.forms(), trap.usage));
        let of_answers = answers().into_iter().map(|(endpoint, answer)| {
            (endpoint, form(answer.content_type), vec![answer.body.clone()], answer.counted.usage())
        });
        let all: Vec<_> = of_traps.chain(of_answers).collect();
        let (endpoint, form, forms, usage) = pick.get(&all);
        let body: &Vec<u8> = shape.get(forms);
        let (body, coding) = if packed { (gzip(body), Coding::Gzip) } else { (body.clone(), Coding::Identity) };
        let mut places: Vec<usize> = cuts.drain(..).map(|cut| cut.index(body.len() + 1)).chain([0, body.len()]).collect();
        places.sort_unstable();
        let parts: Vec<&[u8]> = places.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect();
        let reported = report(*endpoint, *form, coding, parts);
        prop_assert_eq!(&reported, &report(*endpoint, *form, coding, [&body[..]]));
        prop_assert_eq!(reported.usage, *usage);
    }
}

/// The path that asks for an operation.
fn target(endpoint: Endpoint) -> String {
    match endpoint {
        Endpoint::ApiChat | Endpoint::ApiGenerate => format!("/{}", endpoint.as_str()),
        _ => format!("/v1/{}", endpoint.as_str()),
    }
}

/// A row's numbers, in the order of [`numbers`].
fn row_numbers(row: &Value) -> Vec<Value> {
    let names =
        ["input_tokens", "cached_input_tokens", "cache_write_tokens", "input_audio_tokens", "input_image_tokens"];
    let more = ["output_tokens", "reasoning_tokens", "output_audio_tokens", "output_image_tokens", "total_tokens"];
    names.iter().chain(&more).map(|name| row[name].clone()).collect()
}

fn numbers(usage: &Usage) -> Vec<Value> {
    let input = [usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens, usage.input_audio_tokens];
    let output = [usage.output_tokens, usage.reasoning_tokens, usage.output_audio_tokens, usage.output_image_tokens];
    let all = input.into_iter().chain([usage.input_image_tokens]).chain(output).chain([usage.total_tokens]);
    all.map(|number| json!(number)).collect()
}

#[test]
fn every_trap_through_the_binary() {
    let served = all();
    let upstream = Upstream::plain(move |request| {
        let trap = &served[request.head.get("x-trap").unwrap().parse::<usize>().unwrap()];
        Reply::new(200, trap.body.plain()).field("content-type", trap.body.content_type()).steps()
    });
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("RATE_LIMIT_RPM", "0")]);
    let mut client = Client::connect(proxy.addr());
    for (index, trap) in all().iter().enumerate() {
        let (number, user) = (index.to_string(), format!("trap-{index}"));
        let fields = [("content-type", "application/json"), ("x-trap", &*number), ("x-user-id", &*user)];
        // Usage is asked for by the client itself, so that nothing is taken out.
        let request = br#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#;
        let response = client.request("POST", &target(trap.endpoint), &fields, request).expect(200);
        assert!(response.body == trap.body.plain(), "{}: {}", trap.name, response.text());
        let answer = proxy.usage(&format!("user_id={user}"));
        let is_of_tool = |row: &&Value| row["endpoint"] == "responses/images"; // which stand beside the response's own
        let (beside, rows): (Vec<_>, Vec<_>) = answer["data"].as_array().unwrap().iter().partition(is_of_tool);
        let [row] = rows[..] else { panic!("{}: {rows:?}", trap.name) };
        assert!(beside.len() <= usize::from(trap.body.plain().windows(9).any(|text| text == b"image_gen")));
        assert_eq!(row["endpoint"], json!(trap.endpoint.as_str()), "{}", trap.name);
        assert_eq!(row["usage_source"] == "reported", trap.usage.is_some(), "{}: {row}", trap.name);
        if row["usage_source"] == "estimated" {
            assert_ne!(row["output_tokens"], 0, "{}: a stream that never reported, by its text: {row}", trap.name);
        } else {
            assert_eq!(row_numbers(row), numbers(&trap.usage.unwrap_or_default()), "{}: {row}", trap.name);
        }
    }
}

/// What nobody can have consumed is stored as far as it goes, and breaks no sum.
#[test]
fn numbers_as_large_as_can_be_break_nothing() {
    let upstream = Upstream::plain(|_| {
        let most = u64::MAX;
        Reply::json(format!(
            r#"{{"usage":{{"prompt_tokens":{most},"completion_tokens":{most},"total_tokens":{most},"seconds":8e9}}}}"#
        ))
        .steps()
    });
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("RATE_LIMIT_RPM", "0"), ("RATE_LIMIT_TPM", "0")]);
    let mut client = Client::connect(proxy.addr());
    for _ in 0..20 {
        let json = [("content-type", "application/json"), ("x-user-id", "u")];
        client.request("POST", "/v1/chat/completions", &json, br#"{"model":"gpt-4o"}"#).expect(200);
    }
    for query in ["user_id=u", ""] {
        let usage = proxy.usage(query);
        assert_eq!(usage["totals"]["requests"], 20, "{usage}");
        assert!(usage["totals"]["total_tokens"].as_u64().unwrap() >= 1 << 50, "{usage}");
    }
    assert!(proxy.metrics().values().all(|value| value.is_finite() && *value >= 0.0));
}

/// An event of many megabytes passes, edited or not, without being held, and the usage behind it is found.
#[test]
fn a_line_of_megabytes_passes_in_bounded_memory() {
    const LINE_BYTES: usize = 48 << 20;
    const HELD_BYTES_MAX: f64 = 16.0 * 1024.0 * 1024.0;
    for (options, edited) in [("", true), (r#","stream_options":{"include_usage":true}"#, false)] {
        let (goes_on, wait) = support::script::gate();
        let wait = std::sync::Mutex::new(Some(wait));
        let upstream = Upstream::plain(move |_| {
            let part = support::script::chunk(&vec![b'x'; 1 << 20]);
            let parts = (0..LINE_BYTES >> 20).map(|_| support::script::Step::Send(part.clone()));
            let first = [Reply::sse("").head(), support::script::chunk(b"data: {\"choices\":[{\"text\":\"")].concat();
            let rest = "\"}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7}}\n\n";
            let last = [&support::script::chunk(rest.as_bytes())[..], b"0\r\n\r\n"].concat();
            let mut steps = vec![support::script::Step::Send(first)];
            steps.extend(parts);
            steps.extend([wait.lock().unwrap().take().unwrap(), support::script::Step::Send(last)]);
            steps
        });
        let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url())]);
        let resident = || proxy.metrics().get("process_resident_memory_bytes").copied();
        let Some(before) = resident() else { return support::skip("this system does not tell what is resident") };
        let mut client = Client::connect(proxy.addr());
        let body = format!(r#"{{"model":"m","stream":true{options}}}"#);
        let fields = [("content-type", "application/json"), ("x-user-id", "u")];
        client.send_request("POST", "/v1/chat/completions", &fields, body.as_bytes());
        let head = client.head().unwrap().unwrap();
        let mut framing = support::client::response_framing("POST", &head).unwrap();
        let mut received = 0;
        while received < LINE_BYTES {
            received += client.body_piece(&mut framing).unwrap().expect("the line goes on").len();
        }
        let held = resident().unwrap() - before;
        assert!(held < HELD_BYTES_MAX, "{held} bytes more are resident");
        goes_on.send(()).unwrap();
        let mut rest = Vec::new();
        while let Some(piece) = client.body_piece(&mut framing).unwrap() {
            rest.extend(piece);
        }
        assert_eq!(memchr::memmem::find(&rest, b"prompt_tokens").is_none(), edited);
        let row = proxy.only_row("u");
        assert_eq!((&row["total_tokens"], &row["usage_source"]), (&json!(12), &json!("reported")));
    }
}
