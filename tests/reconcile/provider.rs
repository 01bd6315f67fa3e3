//! A target that keeps true books of what it answers, and shows them as OpenAI's published description has them: by
//! bucket, in pages, to an administrator's key alone, as slowly as it likes. Single numbers of them can be made wrong.

use super::support::script::{Reply, Step, gate};
use super::support::upstream::{SeenRequest, Upstream};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

pub const ADMIN_KEY: &str = "sk-admin-hush";
pub const DAY: u64 = 86_400;
pub const CHAT: &str = "gpt-4o-mini-2024-07-18";
pub const RESPONSE: &str = "gpt-5-mini-2025-08-07";
pub const ABORTED: &str = "gpt-4.1-nano-2025-04-14";

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// What one answer has in one book, or in the costs.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Seconds since the Unix epoch.
    pub at: u64,
    pub book: &'static str,
    /// `model`, `batch` and the like, or `line_item` and `quantity_unit`: what results are grouped by.
    pub group: Map<String, Value>,
    pub numbers: BTreeMap<&'static str, f64>,
}

/// What a result is of, and its numbers.
type Sum = (Map<String, Value>, BTreeMap<&'static str, f64>);

/// What of a book is shown otherwise than it is.
pub type Fault = Box<dyn Fn(&mut Entry) + Send>;

#[derive(Default)]
pub struct State {
    pub entries: Vec<Entry>,
    /// So much earlier than it was all is booked.
    pub shift: u64,
    pub fault: Option<Fault>,
    /// Each request of so many is refused with 429; none where 0.
    pub refuses_each: usize,
    /// So many more pages are shown before the key is refused.
    pub pages_left: Option<usize>,
    /// The answer to all questions for the books.
    pub says: Option<Reply>,
    /// Questions for the books, and those that were answered.
    pub asked: usize,
    pub shown: Vec<String>,
    /// Holds the stream open that a client leaves.
    held: Vec<Sender<()>>,
}

pub struct Provider {
    pub upstream: Upstream,
    state: Arc<Mutex<State>>,
}

impl Provider {
    pub fn start() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let upstream = Upstream::plain(move |request| {
            let mut state = shared.lock().unwrap();
            match request.target.starts_with("/v1/organization/") {
                true => state.books(request).steps(),
                false => state.answer(request),
            }
        });
        Self { upstream, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn group(pairs: &[(&str, Value)]) -> Map<String, Value> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// US dollars for a million tokens of input, cached input and output.
fn price(model: &str, tier: &str) -> [f64; 3] {
    match (model, tier) {
        (CHAT, "priority") => [0.25, 0.125, 1.0],
        (CHAT, _) => [0.15, 0.075, 0.6],
        (RESPONSE, "batch") => [0.125, 0.0125, 1.0],
        (RESPONSE, _) => [0.25, 0.025, 2.0],
        (ABORTED, _) => [0.1, 0.025, 0.4],
        _ => [1.1, 0.55, 4.4],
    }
}

impl State {
    fn book(&mut self, book: &'static str, of: &[(&str, Value)], numbers: &[(&'static str, u64)]) {
        let numbers = numbers.iter().map(|&(name, number)| (name, number as f64)).collect();
        self.entries.push(Entry { at: now(), book, group: group(of), numbers });
    }

    fn charge(&mut self, item: &str, unit: &str, quantity: f64, usd: f64) {
        let of = group(&[("line_item", json!(item)), ("quantity_unit", json!(unit))]);
        let numbers = [("quantity", quantity), ("usd", usd)].into();
        self.entries.push(Entry { at: now(), book: "costs", group: of, numbers });
    }

    /// Tokens of a model: requests, input, of which cached, output.
    pub fn completions(&mut self, model: &str, tier: &str, [requests, input, cached, output]: [u64; 4]) {
        let is_batch = tier == "batch";
        let shown_tier = if is_batch { "default" } else { tier };
        let of = [("model", json!(model)), ("batch", json!(is_batch)), ("service_tier", json!(shown_tier))];
        let numbers = [
            ("num_model_requests", requests),
            ("input_tokens", input),
            ("input_cached_tokens", cached),
            ("output_tokens", output),
            ("input_cache_write_tokens", 0),
            ("input_uncached_tokens", input - cached),
            ("input_audio_tokens", 0),
            ("output_audio_tokens", 0),
            ("input_image_tokens", 0),
            ("output_image_tokens", 0),
        ];
        self.book("completions", &of, &numbers);
        let word = if matches!(tier, "default") { String::new() } else { format!("{tier} ") };
        let kinds = ["input", "cached_input", "output"].into_iter().zip([input - cached, cached, output]);
        for ((kind, tokens), usd) in kinds.zip(price(model, tier)) {
            self.charge(&format!("{model}, {word}{kind}"), "tokens", tokens as f64, tokens as f64 * usd / 1e6);
        }
    }

    fn answer(&mut self, request: &SeenRequest) -> Vec<Step> {
        let json_reply = |value: Value| Reply::json(value.to_string()).steps();
        let usage = |input: u64, output: u64, cached: u64| {
            json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output,
                "input_tokens_details": {"cached_tokens": cached}})
        };
        match (&*request.method, &*request.target) {
            ("POST", "/v1/chat/completions") => self.chat(request),
            ("POST", "/v1/responses") if request.json()["background"] == true => json_reply(
                json!({"id": "resp_b", "object": "response", "status": "queued", "model": RESPONSE, "usage": null}),
            ),
            ("POST", "/v1/responses") => {
                self.completions(RESPONSE, "default", [1, 3_000, 1_000, 400]);
                self.book(
                    "web_search_calls",
                    &[("model", json!(RESPONSE))],
                    &[("num_requests", 2), ("num_model_requests", 1)],
                );
                self.charge("web search tool calls", "", 2.0, 0.02);
                json_reply(json!({"id": "resp_1", "object": "response", "status": "completed", "model": RESPONSE,
                    "usage": usage(3_000, 400, 1_000), "tool_usage": {"web_search": {"num_requests": 2}}}))
            }
            ("GET", "/v1/responses/resp_b") => {
                if !self.entries.iter().any(|entry| entry.numbers.get("input_tokens") == Some(&777.0)) {
                    self.completions(RESPONSE, "default", [1, 777, 0, 90]);
                }
                json_reply(
                    json!({"id": "resp_b", "object": "response", "status": "completed", "model": RESPONSE, "usage": usage(777, 90, 0)}),
                )
            }
            ("POST", "/v1/embeddings") => {
                let model = "text-embedding-3-small";
                self.book(
                    "embeddings",
                    &[("model", json!(model))],
                    &[("num_model_requests", 1), ("input_tokens", 500)],
                );
                self.charge(&format!("{model}, input"), "tokens", 500.0, 500.0 * 0.02 / 1e6);
                json_reply(
                    json!({"object": "list", "data": [], "model": model, "usage": {"prompt_tokens": 500, "total_tokens": 500}}),
                )
            }
            ("POST", "/v1/moderations") => {
                let model = json!("omni-moderation-latest");
                self.book(
                    "moderations",
                    &[("model", model.clone())],
                    &[("num_model_requests", 1), ("input_tokens", 9)],
                );
                json_reply(json!({"id": "modr-1", "model": model, "results": []}))
            }
            ("POST", "/v1/images/generations") => {
                let of = [("model", json!("gpt-image-1"))];
                self.book("images", &of, &[("num_model_requests", 1), ("images", 2)]);
                self.charge("gpt-image-1, low 1024x1536", "images", 2.0, 0.032);
                let image = json!({"b64_json": "iVBO"});
                json_reply(json!({"created": 1, "data": [image, image], "quality": "low", "size": "1024x1536"}))
            }
            ("POST", "/v1/audio/transcriptions") => {
                self.book(
                    "audio_transcriptions",
                    &[("model", json!("whisper-1"))],
                    &[("num_model_requests", 1), ("seconds", 60)],
                );
                self.charge("whisper-1, transcription", "duration_seconds", 60.0, 0.006);
                json_reply(json!({"text": "", "usage": {"type": "duration", "seconds": 60}}))
            }
            ("POST", "/v1/audio/speech") => {
                self.book(
                    "audio_speeches",
                    &[("model", json!("tts-1"))],
                    &[("num_model_requests", 1), ("characters", 5)],
                );
                Reply::new(200, "ID3").field("content-type", "audio/mpeg").steps()
            }
            ("POST", "/v1/batches") => {
                let batch = json!({"id": "batch_1", "object": "batch", "model": RESPONSE, "usage": usage(0, 0, 0)});
                json_reply(batch)
            }
            ("GET", "/v1/batches/batch_1") => {
                self.completions(RESPONSE, "batch", [4, 10_000, 0, 800]);
                json_reply(
                    json!({"id": "batch_1", "object": "batch", "model": RESPONSE, "usage": usage(10_000, 800, 0)}),
                )
            }
            ("GET", "/v1/models") => json_reply(json!({"object": "list", "data": []})),
            what => panic!("{what:?}"),
        }
    }

    fn chat(&mut self, request: &SeenRequest) -> Vec<Step> {
        let asked = request.json();
        if asked["model"] == "bad" {
            return Reply::new(400, r#"{"error":{"message":"no","type":"invalid_request_error"}}"#).steps();
        }
        if asked["model"] == "gpt-4.1-nano" {
            self.completions(ABORTED, "default", [1, 5_000, 0, 3_000]);
            let (open, wait) = gate();
            self.held.push(open);
            let delta = json!({"id": "c", "model": ABORTED, "choices": [{"index": 0, "delta": {"content": "word"}}]});
            let head = Reply::sse("").head();
            let chunk = super::support::script::chunk(format!("data: {delta}\n\n").as_bytes());
            return vec![Step::Send([head, chunk].concat()), wait, Step::Close];
        }
        let tier = asked["service_tier"].as_str().unwrap_or("default").to_owned();
        self.completions(CHAT, &tier, [1, 1_000, 200, 50]);
        let usage = json!({"prompt_tokens": 1_000, "completion_tokens": 50, "total_tokens": 1_050,
            "prompt_tokens_details": {"cached_tokens": 200}});
        let answer = json!({"id": "c", "model": CHAT, "service_tier": tier, "choices": [], "usage": usage});
        match asked["stream"] == true {
            true => Reply::sse(format!("data: {answer}\n\ndata: [DONE]\n\n")).steps(),
            false => Reply::json(answer.to_string()).steps(),
        }
    }

    /// An answer of the books.
    fn books(&mut self, request: &SeenRequest) -> Reply {
        self.asked += 1;
        if let Some(says) = &self.says {
            return says.clone();
        }
        if request.head.get("authorization") != Some(&format!("Bearer {ADMIN_KEY}")) {
            return Reply::new(401, r#"{"error":{"message":"Incorrect API key"}}"#);
        }
        if self.refuses_each > 0 && self.asked.is_multiple_of(self.refuses_each) {
            return Reply::new(429, "slow down").field("retry-after", "0");
        }
        match &mut self.pages_left {
            Some(0) => return Reply::new(403, "no more"),
            Some(left) => *left -= 1,
            None => {}
        }
        self.shown.push(request.target.clone());
        Reply::json(self.page(&request.target).to_string())
    }

    /// One page of one bucket.
    pub fn page(&self, target: &str) -> Value {
        let (path, query) = target.split_once('?').unwrap();
        let book = path.rsplit('/').next().unwrap();
        let of = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let number = |name: &str| of(name).map(|text| text.parse::<u64>().unwrap());
        let width = if of("bucket_width") == Some("1h") { 3_600 } else { DAY };
        let (start, end) = (number("start_time").unwrap(), number("end_time").unwrap());
        let groups: BTreeSet<&str> =
            query.split('&').filter_map(|pair| pair.strip_prefix("group_by[]=")).chain(["quantity_unit"]).collect();
        let bucket = start + number("page").unwrap_or(0) * width;
        let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.book == book) {
            let mut entry = entry.clone();
            entry.at -= self.shift;
            if let Some(fault) = &self.fault {
                fault(&mut entry);
            }
            if !(bucket..bucket + width).contains(&entry.at) {
                continue;
            }
            entry.group.retain(|name, _| groups.contains(&**name));
            let (_, numbers) = sums
                .entry(Value::Object(entry.group.clone()).to_string())
                .or_insert((entry.group.clone(), BTreeMap::new()));
            entry.numbers.iter().for_each(|(name, number)| *numbers.entry(name).or_default() += number);
        }
        let results: Vec<Value> = sums.into_values().map(|(group, numbers)| result(book, group, &numbers)).collect();
        let next = (bucket + width < end).then(|| ((bucket + width - start) / width).to_string());
        json!({
            "object": "page", "has_more": next.is_some(), "next_page": next,
            "data": [{"object": "bucket", "start_time": bucket, "end_time": bucket + width, "results": results}],
        })
    }
}

/// A result as the description has it.
fn result(book: &str, group: Map<String, Value>, numbers: &BTreeMap<&str, f64>) -> Value {
    let object = match book {
        "costs" => "organization.costs.result".to_owned(),
        "web_search_calls" => "organization.usage.web_searches.result".to_owned(),
        "file_search_calls" => "organization.usage.file_searches.result".to_owned(),
        book => format!("organization.usage.{book}.result"),
    };
    let mut result = group;
    result.insert("object".to_owned(), json!(object));
    result.insert("project_id".to_owned(), Value::Null);
    if book == "costs" {
        result.insert("amount".to_owned(), json!({"value": numbers["usd"], "currency": "usd"}));
        result.insert("quantity".to_owned(), json!(numbers["quantity"]));
        let is_unknown = result["quantity_unit"] == "";
        if is_unknown {
            result.insert("quantity_unit".to_owned(), Value::Null);
        }
    } else {
        result.extend(numbers.iter().map(|(name, number)| ((*name).to_owned(), json!(*number as u64))));
    }
    Value::Object(result)
}
