//! Every endpoint's answers, read directly and through the proxy: the same bytes, and in the ledger the same usage,
//! wherever the upstream cuts them and however it frames them.

use super::responses::{Made, essence, number};
use super::support::answers::{self, Answer, Counted};
use super::support::client::Client;
use super::support::proxy::Proxy;
use super::support::rng::Rng;
use super::support::script::Ending;
use super::support::upstream::{SeenRequest, Upstream};
use openai_api_proxy::usage::record::Usage;
use serde_json::{Value, json};

/// Serves the answers by the number in `x-answer`, framed and cut as the request says.
fn upstream(answers: Vec<Answer>) -> Upstream {
    Upstream::plain(move |request: &SeenRequest| {
        let answer = &answers[number(request, "x-answer")];
        assert_eq!((&*request.method, &*request.target), (answer.method, answer.target));
        let ending = match number(request, "x-ending") {
            0 => Ending::Chunked(1 << 20),
            1 => Ending::Length,
            _ => Ending::Close,
        };
        Made { reply: answer.reply().ending(ending), cut: number(request, "x-cut") }.steps()
    })
}

/// The columns of the ledger that a usage fills, and how.
fn columns(usage: &Usage) -> [(&'static str, Value); 13] {
    [
        ("input_tokens", json!(usage.input_tokens)),
        ("cached_input_tokens", json!(usage.cached_input_tokens)),
        ("cache_write_tokens", json!(usage.cache_write_tokens)),
        ("input_audio_tokens", json!(usage.input_audio_tokens)),
        ("input_image_tokens", json!(usage.input_image_tokens)),
        ("output_tokens", json!(usage.output_tokens)),
        ("reasoning_tokens", json!(usage.reasoning_tokens)),
        ("output_audio_tokens", json!(usage.output_audio_tokens)),
        ("output_image_tokens", json!(usage.output_image_tokens)),
        ("total_tokens", json!(usage.total_tokens)),
        ("audio_us", json!(usage.audio_us)),
        ("images", json!(usage.images)),
        ("tool_calls", json!(usage.tool_calls)),
    ]
}

/// A row's number; seconds are told as such.
fn column(row: &Value, name: &str) -> Value {
    match name {
        "audio_us" => json!((row["audio_seconds"].as_f64().unwrap_or(0.0) * 1e6).round() as u64),
        _ => row[name].clone(),
    }
}

/// All rows of an answer say the same, and what is expected.
fn check_rows(proxy: &Proxy, user: &str, answer: &Answer, requests: u64) {
    let usage = proxy.usage(&format!("user_id={user}&limit=1000"));
    let totals = &usage["totals"];
    assert_eq!(totals["requests"], json!(requests), "{}", answer.name);
    let expected = match answer.counted {
        Counted::Once(usage) => {
            // Never more than once, whoever looks how often.
            let total = totals["total_tokens"].as_u64().unwrap();
            return assert!(total == 0 || total == usage.total_tokens, "{}: {totals}", answer.name);
        }
        counted => counted.usage().unwrap_or_default(),
    };
    for name in ["input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens", "total_tokens"] {
        let (_, each) = columns(&expected).into_iter().find(|column| column.0 == name).unwrap();
        assert_eq!(totals[name], json!(requests * each.as_u64().unwrap()), "{}: {name}", answer.name);
    }
    let source = match answer.counted {
        Counted::Reported(_) => "reported",
        Counted::Unknown => "unknown",
        Counted::Nothing | Counted::Once(_) => "none",
    };
    // A stream has no status any more to say that it has failed.
    let outcome = if answer.name == "responses: failed" { "upstream_error" } else { "completed" };
    for row in usage["data"].as_array().unwrap() {
        assert_eq!((&row["usage_source"], &row["endpoint"]), (&json!(source), &json!(answer.endpoint())), "{row}");
        assert_eq!((&row["status"], &row["outcome"]), (&json!(answer.status), &json!(outcome)), "{row}");
        for (name, expected) in columns(&expected) {
            assert_eq!(column(row, name), expected, "{}: {name} in {row}", answer.name);
        }
    }
}

/// The request for an answer, framed and cut in a way of its own.
fn ask(client: &mut Client, answer: &Answer, fields: &[(&str, String)]) -> super::support::client::Response {
    let body: &[u8] = if answer.method == "POST" { br#"{"model":"m","input":"x"}"# } else { b"" };
    let mut all = vec![("content-type", "application/json")];
    all.extend(fields.iter().map(|(name, value)| (*name, value.as_str())));
    client.request(answer.method, answer.target, &all, body)
}

#[test]
fn every_endpoints_answers_are_the_same_and_counted_the_same_cut_at_every_byte() {
    let answers = answers::all();
    let upstream = upstream(answers.clone());
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("RATE_LIMIT_RPM", "0")]);
    let mut through = Client::connect(proxy.addr());
    let mut all = 0;
    for (index, answer) in answers.iter().enumerate() {
        let (user, mut requests) = (format!("answer-{index}"), 0);
        for ending in 0..3 {
            let fields = |cut: usize| {
                let place = [("x-answer", index.to_string()), ("x-ending", ending.to_string())];
                [&place[..], &[("x-cut", cut.to_string()), ("x-user-id", user.clone())]].concat()
            };
            let direct = ask(&mut Client::connect(upstream.addr()), answer, &fields(0));
            let expected = essence(&direct);
            assert!(expected.2 == answer.body);
            let length = answer.body.len();
            // A connection of its own for each is worth a few places, not all.
            let cuts: Vec<usize> = if ending == 2 { vec![0, 1, length / 2, length] } else { (0..=length).collect() };
            for cut in cuts {
                let response = ask(&mut through, answer, &fields(cut));
                assert_eq!(essence(&response), expected, "{}, ending {ending}, cut at {cut}", answer.name);
                assert_eq!(response.head.get("content-length"), direct.head.get("content-length"), "{}", answer.name);
                requests += 1;
            }
        }
        check_rows(&proxy, &user, answer, requests);
        all += requests;
    }
    println!("{} kinds of answers, {all} of them", answers.len());
}

/// Bodies of megabytes, cut in many places at random.
#[test]
fn large_answers_are_the_same_and_counted_the_same() {
    let mut rng = Rng::from_env();
    let image = "A".repeat(3 << 20);
    let grow = |answer: Answer| {
        let text = String::from_utf8(answer.body).unwrap();
        let body = text.replacen("iVBORw0KGgo=", &image, 1).replacen(
            "[0.25",
            &format!("[{}0.25", "0.125,".repeat(300_000)),
            1,
        );
        Answer { body: body.into_bytes(), ..answer }
    };
    let large = ["images/generations", "images/generations: stream", "images/edits: stream", "embeddings"];
    let answers: Vec<Answer> = answers::all().into_iter().filter(|a| large.contains(&a.name)).map(grow).collect();
    assert_eq!(answers.len(), large.len());
    let (served, seed) = (answers.clone(), rng.next());
    let upstream = Upstream::plain(move |request| {
        let reply = served[number(request, "x-answer")].reply().ending(Ending::Chunked(70_000));
        reply.steps_cut(&mut Rng::new(seed ^ number(request, "x-cut") as u64), 40)
    });
    let proxy = Proxy::start(&[("PROXY_TARGET", &upstream.url()), ("RATE_LIMIT_RPM", "0")]);
    let mut through = Client::connect(proxy.addr());
    for (index, answer) in answers.iter().enumerate() {
        let user = format!("answer-{index}");
        for cut in 0..4 {
            let fields = [("x-answer", index.to_string()), ("x-cut", cut.to_string()), ("x-user-id", user.clone())];
            let direct = ask(&mut Client::connect(upstream.addr()), answer, &fields);
            assert!(essence(&ask(&mut through, answer, &fields)) == essence(&direct), "{}", answer.name);
            assert!(direct.body == answer.body && direct.body.len() > 1 << 20, "{}", answer.name);
        }
        check_rows(&proxy, &user, answer, 4);
    }
}
