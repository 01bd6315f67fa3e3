//! A target that takes whatever it can make sense of, and keeps books of what that truly costs.
//!
//! In: a request's bytes, and how it is to be answered. Out: nano-dollars, and an answer. It reads as the most lenient
//! of servers do: paths and methods are normalised, bodies decoded by whatever they say or look like, keys are taken in
//! any case, and the last of a repeated one counts. What it is asked for it puts out to the last token, and reports it
//! where the API would.

use super::support::script::{Reply, Step, chunk, gate};
use super::support::upstream::{SeenRequest, Upstream};
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use flate2::{Compression, write::GzEncoder};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Input tokens of a request that shows all of its input: 28 bytes of text.
pub const INPUT: u64 = 7;
/// The largest input and output of the model that answers.
const CONTEXT: u64 = 128_000;
const OUTPUT: u64 = 16_384;

/// How a request is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// As the API does.
    Honest,
    /// The same under another `Content-Type`; none where empty.
    Called(&'static str),
    /// The same compressed, although nobody asked for it, under this `Content-Encoding`.
    Gzip(&'static str),
    /// A stream in which nothing is reported, whatever was asked for.
    Silent,
    /// A stream that reports this first, then puts its text out, and is cut.
    Early(&'static str),
    /// As the API does where nearly all of the output is thought, and not shown.
    Thought,
    /// Something else: its type, its body, and what it costs, nano-dollars.
    Fixed(&'static str, &'static str, u64),
}

/// A request as it was sent, or as it arrived.
pub struct Asked<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub fields: Vec<(&'a str, &'a str)>,
    pub body: &'a [u8],
}

/// What a request came to.
pub struct Served {
    pub nano_usd: u64,
    pub tokens: u64,
    pub reply: Reply,
    /// The reply ends with a cut.
    pub is_cut: bool,
}

/// What the target keeps.
#[derive(Default)]
pub struct Books {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub struct State {
    /// What each request of a user truly cost.
    pub spent: BTreeMap<String, Vec<u64>>,
    pub tokens: BTreeMap<String, u64>,
    /// What arrived last: target and body.
    pub last: (String, Vec<u8>),
    /// Requests that wait, and whether they must.
    pub waiting: usize,
    pub is_held: bool,
    /// Answers of which a first part has gone out.
    pub begun: Vec<Sender<()>>,
}

impl Books {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn hold(&self, held: bool) {
        let mut state = self.lock();
        (state.is_held, state.waiting) = (held, 0);
        self.changed.notify_all();
    }

    fn enter(&self, user: &str, request: &SeenRequest, served: &Served) {
        let mut state = self.lock();
        state.spent.entry(user.to_owned()).or_default().push(served.nano_usd);
        *state.tokens.entry(user.to_owned()).or_default() += served.tokens;
        state.last = (request.target.clone(), request.body.clone());
        state.waiting += 1;
        drop(self.changed.wait_timeout_while(state, super::support::DEADLINE, |state| state.is_held).unwrap());
    }
}

/// A running target; `answers` says how each user's requests are answered, and whether the first half of an answer goes
/// ahead of the rest.
pub fn start(answers: impl Fn(&str) -> (Answer, bool) + Send + Sync + 'static) -> (Upstream, Arc<Books>) {
    let books = Arc::new(Books::default());
    let for_thread = Arc::clone(&books);
    let upstream = Upstream::plain(move |request| {
        let user = request.head.get("x-row").unwrap_or_default().to_owned();
        let (answer, in_halves) = answers(&user);
        let fields = request.head.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let asked = Asked { method: &request.method, target: &request.target, fields, body: &request.body };
        let served = serve(&asked, &answer);
        for_thread.enter(&user, request, &served);
        let mut steps = served.reply.steps();
        if in_halves && let Some(Step::Send(bytes)) = steps.pop() {
            let (open, wait) = gate();
            for_thread.lock().begun.push(open);
            let (first, rest) = bytes.split_at(bytes.len() / 2);
            steps.extend([Step::Send(first.to_vec()), wait, Step::Send(rest.to_vec())]);
        }
        if served.is_cut {
            let begun = [served.reply.head(), chunk(&served.reply.body)].concat();
            steps = vec![Step::Send(begun), Step::Cut];
        }
        steps
    });
    (upstream, books)
}

/// Acts on a request.
pub fn serve(asked: &Asked<'_>, answer: &Answer) -> Served {
    let path = path(asked.target);
    let nothing = |status| Served { nano_usd: 0, tokens: 0, reply: Reply::new(status, "{}"), is_cut: false };
    if let Answer::Fixed(kind, body, nano_usd) = *answer {
        return Served { nano_usd, reply: Reply::new(200, body).field("content-type", kind), ..nothing(200) };
    }
    if !asked.method.eq_ignore_ascii_case("post") {
        return nothing(200);
    }
    let Some(members) = members(asked) else { return nothing(400) };
    if path.ends_with("/embeddings") {
        return embeddings(&members);
    }
    if path.ends_with("/images/generations") || path.ends_with("/images/edits") {
        return images(&members);
    }
    let is_chat = path.ends_with("/completions");
    if !is_chat && !path.ends_with("/responses") {
        return nothing(404);
    }
    completion(&path, &members, answer)
}

type Members = BTreeMap<String, Value>;

fn completion(path: &str, members: &Members, answer: &Answer) -> Served {
    let number = |key: &str| members.get(key).and_then(lenient_number);
    let is_chat = path.ends_with("/completions");
    let maxima: &[&str] = if is_chat { &["max_tokens", "max_completion_tokens"] } else { &["max_output_tokens"] };
    let stated = maxima.iter().filter_map(|key| number(key)).filter(|&max| max > 0).max();
    let prompts = match (path.ends_with("/chat/completions"), members.get("prompt")) {
        (false, Some(Value::Array(prompts))) if !prompts.iter().any(Value::is_number) => prompts.len() as u64,
        _ => 1,
    };
    let answers = number("n").unwrap_or(1).max(number("best_of").unwrap_or(1)).max(1) * prompts.max(1);
    let output = stated.unwrap_or(OUTPUT) * answers;
    let text = Value::from_iter(members.clone()).to_string();
    let refers = ["previous_response_id", "\"msg_1\"", "web_search", "\"audio\":{\"id\"", "image_url"];
    let input = match text.len() as u64 {
        _ if refers.iter().any(|sign| text.contains(sign)) => CONTEXT,
        // Nobody gets more tokens out of a text than it has bytes.
        bytes if bytes > 4096 => (bytes / 2).min(CONTEXT),
        _ => INPUT,
    };
    let tier = members.get("service_tier").and_then(Value::as_str);
    let (model, price_in, price_out) = match (members.get("model").and_then(Value::as_str), tier) {
        (Some("gpt-3.5-turbo-instruct"), _) => ("gpt-3.5-turbo-instruct", 1_500, 2_000),
        (_, Some("priority")) => ("gpt-4o", 4_250, 17_000),
        _ => ("gpt-4o", 2_500, 10_000),
    };
    let usage = match is_chat {
        true => json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}),
        false => json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output}),
    };
    let options = members.get("stream_options").and_then(|options| options.as_object().cloned()).unwrap_or_default();
    // Of keys that differ in case only, one reader takes this, another that: the worst.
    let asks: Vec<bool> =
        options.iter().filter(|(key, _)| fold(key) == "include_usage").map(|(_, value)| truthy(value)).collect();
    let asks = !asks.is_empty() && !asks.contains(&false);
    let shown = if *answer == Answer::Thought { 1 } else { output.min(OUTPUT) };
    let words = "word".repeat(shown as usize);
    let is_stream = members.get("stream").is_some_and(truthy) || matches!(answer, Answer::Early(_));
    let about = (model, tier.unwrap_or("default"));
    let mut reply = match (is_stream, is_chat) {
        (true, true) => Reply::sse(chunks(about, &words, &usage, asks, answer)),
        (true, false) => Reply::sse(events(about, &words, &usage)),
        (false, true) => Reply::json(
            json!({"id": "c", "model": model, "service_tier": tier, "choices": [{"message": {"content": "words"}}],
                "pad": "x".repeat(2000), "usage": usage})
            .to_string(),
        ),
        (false, false) => {
            let waits = members.get("background").is_some_and(truthy);
            let (status, usage) = if waits { ("queued", Value::Null) } else { ("completed", usage) };
            let body = json!({"id": "resp_1", "object": "response", "status": status, "model": model, "usage": usage});
            Reply::json(body.to_string())
        }
    };
    dress(&mut reply, answer);
    let nano_usd = input * price_in + output * price_out;
    Served { nano_usd, tokens: input + output, reply, is_cut: matches!(answer, Answer::Early(_)) }
}

/// A stream of chunks; usage only where it is asked for.
fn chunks((model, tier): (&str, &str), words: &str, usage: &Value, asks: bool, answer: &Answer) -> String {
    let mut out = String::new();
    let mut put = |choices: Value, usage: Option<Value>| {
        let mut event = json!({"id": "c", "model": model, "service_tier": tier, "choices": choices});
        if let Some(usage) = usage {
            event["usage"] = usage;
        }
        out.push_str(&format!("data: {event}\n\n"));
    };
    let reports = asks && *answer != Answer::Silent;
    let before = match answer {
        Answer::Early(usage) => Some(serde_json::from_str(usage).unwrap()),
        _ => reports.then_some(Value::Null),
    };
    put(json!([{"index": 0, "delta": {"role": "assistant", "content": ""}}]), before.clone());
    let after = if matches!(answer, Answer::Early(_)) { None } else { before };
    put(json!([{"index": 0, "delta": {"content": words}}]), after);
    if reports && !matches!(answer, Answer::Early(_)) {
        put(json!([]), Some(usage.clone()));
    }
    if !matches!(answer, Answer::Early(_)) {
        out.push_str("data: [DONE]\n\n");
    }
    out
}

fn events((model, tier): (&str, &str), words: &str, usage: &Value) -> String {
    let of = |status: &str, usage: &Value| {
        let response = json!({"id": "resp_1", "model": model, "service_tier": tier, "status": status, "usage": usage});
        format!("data: {}\n\n", json!({"type": format!("response.{status}"), "response": response}))
    };
    let delta = json!({"type": "response.output_text.delta", "delta": words});
    format!("{}data: {delta}\n\n{}", of("created", &Value::Null), of("completed", usage))
}

fn dress(reply: &mut Reply, answer: &Answer) {
    match answer {
        Answer::Called(kind) => {
            reply.fields.retain(|(name, _)| name != "content-type");
            if !kind.is_empty() {
                reply.fields.push(("content-type".into(), (*kind).into()));
            }
        }
        Answer::Gzip(coding) => {
            let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
            packed.write_all(&reply.body).unwrap();
            reply.body = packed.finish().unwrap();
            reply.fields.push(("content-encoding".into(), (*coding).into()));
        }
        Answer::Honest | Answer::Silent | Answer::Thought | Answer::Early(_) | Answer::Fixed(..) => {}
    }
}

/// What a compressed body holds.
pub fn unpacked(body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(body).read_to_end(&mut plain).unwrap();
    plain
}

/// text-embedding-3-large: 130 nano-dollars a token. A number is a token, a text has one in four bytes.
fn embeddings(members: &Members) -> Served {
    fn tokens(value: &Value) -> u64 {
        match value {
            Value::Array(values) => values.iter().map(tokens).sum(),
            Value::String(text) => text.len() as u64 / 4,
            _ => 1,
        }
    }
    let input = members.get("input").map_or(INPUT, tokens);
    let body = json!({"object": "list", "data": [{"embedding": vec![0.1; 500]}], "model": "text-embedding-3-large",
        "usage": {"prompt_tokens": input, "total_tokens": input}});
    Served { nano_usd: input * 130, tokens: input, reply: Reply::json(body.to_string()), is_cut: false }
}

/// gpt-image-1 in high quality: 4160 tokens of 40 micro-dollars each.
fn images(members: &Members) -> Served {
    let count = members.get("n").and_then(lenient_number).unwrap_or(1).max(1);
    let output = count * 4160;
    let usage = json!({"input_tokens": INPUT, "output_tokens": output, "total_tokens": INPUT + output,
        "input_tokens_details": {"text_tokens": INPUT, "image_tokens": 0}});
    let data = vec![json!({"b64_json": "iVBO"}); count as usize];
    let body = json!({"created": 1, "data": data, "model": "gpt-image-1", "usage": usage});
    let nano_usd = INPUT * 5_000 + output * 40_000;
    Served { nano_usd, tokens: INPUT + output, reply: Reply::json(body.to_string()), is_cut: false }
}

/// A path as a server normalises it that finds a meaning in everything.
fn path(target: &str) -> String {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let mut plain = path.to_owned();
    for _ in 0..2 {
        plain = openai_api_proxy::base::percent::decode(&plain).unwrap_or(plain);
    }
    let mut segments: Vec<String> = Vec::new();
    for segment in plain.to_lowercase().replace('\\', "/").split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        match name.trim() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name.trim_matches('.').trim_end_matches(".json").trim().to_owned()),
        }
    }
    format!("/{}", segments.join("/"))
}

/// What a body says, its keys in lower case; `None` where not even a lenient reader finds an object in it.
fn members(asked: &Asked<'_>) -> Option<Members> {
    let mut body = asked.body.to_vec();
    let of = |name: &str| -> Vec<&str> {
        let lines = asked.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        lines.flat_map(|(_, value)| value.split(',')).collect()
    };
    for coding in of("content-encoding").iter().map(|coding| coding.trim()).rev() {
        let mut decoded = Vec::new();
        let _ = match coding.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => MultiGzDecoder::new(&body[..]).read_to_end(&mut decoded),
            "deflate" if body.first() == Some(&0x78) => ZlibDecoder::new(&body[..]).read_to_end(&mut decoded),
            "deflate" => DeflateDecoder::new(&body[..]).read_to_end(&mut decoded),
            _ => Ok(0),
        };
        if !decoded.is_empty() {
            body = decoded; // as far as it goes
        }
    }
    let mut text = text(&body);
    if of("content-type").iter().any(|kind| kind.to_ascii_lowercase().contains("utf-7")) {
        for (escaped, plain) in [("+ACI-", "\""), ("+AHs-", "{"), ("+AH0-", "}")] {
            text = text.replace(escaped, plain);
        }
    }
    object(&text).or_else(|| object(&text.replace('\'', "\"").replace("NaN", "null")))
}

/// The object that a text begins with, whatever stands around it; of keys that differ in case only, the last.
fn object(text: &str) -> Option<Members> {
    let start = text.find('{')?;
    let mut documents =
        serde_json::Deserializer::from_str(&text[start..]).into_iter::<BTreeMap<String, Box<RawValue>>>();
    let members = documents.next()?.ok()?;
    // What is nested too deeply for this reader is not for others.
    let value = |raw: &RawValue| serde_json::from_str(raw.get()).unwrap_or(Value::Bool(true));
    Some(members.iter().map(|(key, raw)| (fold(key), value(raw))).collect())
}

/// Bytes in whichever encoding they seem to be.
fn text(body: &[u8]) -> String {
    let wide = |of: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = body.chunks_exact(2).map(|pair| of([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    match body {
        [0xfe, 0xff, ..] | [0, _, ..] => wide(u16::from_be_bytes),
        [0xff, 0xfe, ..] | [_, 0, ..] => wide(u16::from_le_bytes),
        _ => String::from_utf8_lossy(body).into_owned(),
    }
}

/// A key without regard to case, as Unicode folds it.
fn fold(key: &str) -> String {
    key.replace('\u{17f}', "s").replace('\u{212a}', "k").to_lowercase()
}

fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !["", "false", "0", "no", "off"].contains(&text.trim().to_lowercase().as_str()),
        Value::Array(_) | Value::Object(_) => true,
    }
}

fn lenient_number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_f64().map(|number| number as u64),
        Value::String(text) => text.trim().parse::<f64>().ok().map(|number| number as u64),
        _ => None,
    }
}
