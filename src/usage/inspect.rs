//! What a JSON request asks for, and the two edits that SPEC allows in it: a model where none is named, and usage where
//! a stream would come without. All other bytes stay as they are.
//!
//! In: the whole body. Out: facts, and splices by position; the body itself is never copied here.

use super::each_member::each_member;
use super::record::Endpoint;
use super::splice::{Edit, Splice, is_empty_object};
use crate::base::digits::whole_number;
use crate::json::{self, EACH, Found, Path, Paths, Scanner};
use crate::sse::BYTE_ORDER_MARK;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Longest model name that is recorded, bytes.
pub const MODEL_BYTES_MAX: usize = 128;

/// The members of a request that matter, in the order of [`Members`].
const PATHS: Paths = Paths::new(&[
    Path { keys: &["model"], value_bytes_max: 0 },
    Path { keys: &["stream"], value_bytes_max: 0 },
    Path { keys: &["stream_options"], value_bytes_max: 0 },
    Path { keys: &["n"], value_bytes_max: 0 },
    Path { keys: &["best_of"], value_bytes_max: 0 },
    Path { keys: &["max_tokens"], value_bytes_max: 0 },
    Path { keys: &["max_completion_tokens"], value_bytes_max: 0 },
    Path { keys: &["max_output_tokens"], value_bytes_max: 0 },
    Path { keys: &["options"], value_bytes_max: 0 },
    Path { keys: &["service_tier"], value_bytes_max: 0 },
    Path { keys: &["background"], value_bytes_max: 0 },
    Path { keys: &["stream_format"], value_bytes_max: 0 },
    Path { keys: &["prompt"], value_bytes_max: 0 },
    Path { keys: &["max_tool_calls"], value_bytes_max: 0 },
    Path { keys: &["prompt_cache_retention"], value_bytes_max: 0 },
    Path { keys: &["prompt_cache_options", "ttl"], value_bytes_max: 0 },
    Path { keys: &["tools", EACH, "type"], value_bytes_max: 0 },
]);
const TOOL: usize = PATHS.len() - 1;
const OPTION_PATHS: Paths = Paths::new(&[
    Path { keys: &["include_usage"], value_bytes_max: 8 },
    Path { keys: &["continuous_usage_stats"], value_bytes_max: 8 },
]);

const PREDICT_PATHS: Paths = Paths::new(&[Path { keys: &["num_predict"], value_bytes_max: 20 }]);
const PROMPT_PATHS: Paths = Paths::new(&[Path { keys: &[EACH], value_bytes_max: 1 }]);

/// What the proxy needs to know of a JSON request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inspected {
    /// The model it names, or that was put in, at most 128 bytes; `None` where neither.
    pub model: Option<Arc<str>>,
    /// It asks for a stream of events.
    pub stream: bool,
    /// The maximum of output tokens that it sets for one choice; `None` where it sets none.
    pub output_max: Option<u64>,
    /// How many answers it wants, at least 1.
    pub choices: u64,
    /// The service tier that it asks for.
    pub service_tier: Option<Box<str>>,
    /// The target works on it beyond the answer.
    pub background: bool,
    /// Speech as events, which report; not as a sound file.
    pub speech_events: bool,
    /// It has the target run tools, which put more into the model than the request shows, or has a stored prompt.
    pub refers: bool,
    /// What the target may run for it.
    pub tools: HostedTools,
    /// What it writes to the prompt cache is kept for 12 hours or longer.
    pub caches_long: bool,
    /// Readers differ in what it says: why.
    pub unclear: Option<&'static str>,
    /// We ask for usage in its place, and must take the traces out of the response again.
    pub usage_asked: bool,
    /// The edits, in order of position, none overlapping.
    pub splices: Vec<Splice>,
}

/// Tools that the target runs itself, each of which costs more than its words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostedTools {
    /// It makes images, by another model.
    pub images: bool,
    pub web_search: bool,
    pub file_search: bool,
    pub code_interpreter: bool,
    /// How often they may be called together, where the request says so.
    pub calls_max: Option<u64>,
}

impl Inspected {
    /// Takes the asking for usage out of the edits.
    pub fn ask_nothing(&mut self) {
        self.usage_asked = false;
        self.splices.retain(|splice| !splice.asks);
    }
}

/// Where a value stands, and its bytes.
type Seen<'b> = (Range<usize>, &'b [u8]);

/// The last value of each member that was seen: of a repeated key the last counts, as every common parser has it.
struct Members<'b> {
    last: [Option<Seen<'b>>; PATHS.len()],
    runs_tools: bool,
    tools: HostedTools,
}

impl<'b> Members<'b> {
    /// Reads a body; false where it is no JSON object.
    fn read(&mut self, body: &'b [u8]) -> bool {
        let mut scanner = Scanner::new(&PATHS);
        // The whole body is one piece, so each value is a part of it.
        scanner.feed(body, |Found { path, at, .. }| {
            let at = at.start as usize..at.end as usize;
            let raw = &body[at.clone()];
            match path {
                TOOL => self.add_tool(raw),
                _ => self.last[path] = Some((at, raw)),
            }
        });
        scanner.is_done() && body.get(brace(body)) == Some(&b'{')
    }

    /// A tool of the request: one that the client runs itself costs no more than its words.
    fn add_tool(&mut self, raw: &[u8]) {
        let kind = json::string(raw);
        self.runs_tools |= !matches!(kind.as_deref(), Some("function" | "custom"));
        let (kind, tools) = (kind.as_deref().unwrap_or_default(), &mut self.tools);
        tools.images |= kind == "image_generation";
        tools.web_search |= kind.starts_with("web_search"); // with a version behind it
        tools.file_search |= kind == "file_search";
        tools.code_interpreter |= matches!(kind, "code_interpreter" | "shell");
    }
}

/// Reads a body. Not an object, or not JSON at all: nothing is known and nothing is changed; the upstream will say what
/// is wrong with it.
pub fn inspect(body: &[u8], endpoint: Endpoint, default_model: Option<&str>) -> Inspected {
    let mut members = Members { last: [const { None }; PATHS.len()], runs_tools: false, tools: HostedTools::default() };
    if !members.read(body) {
        let unclear = Some("its body is not a JSON object that can be read");
        return Inspected { choices: 1, unclear, ..Inspected::default() };
    }
    let raw = |member: &Option<Seen<'_>>| member.as_ref().map_or(Truth::No, |(_, raw)| Truth::of(raw));
    let Members { last, runs_tools, tools } = &members;
    let [model, stream, options, n, best_of, maxima @ .., tier, background, speech, prompt, calls, kept, kept_for, _] =
        last;
    let streams = match stream {
        None | Some((_, b"null")) if streams_unasked(endpoint) => Truth::Yes,
        stream => raw(stream),
    };
    let choices = choices(n).zip(choices(best_of)).map(|(n, best_of)| n.max(best_of).max(1));
    let stream = streams == Truth::Yes;
    let wants_usage = stream && matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Completions);
    let is_askable = options.as_ref().is_none_or(|(_, raw)| *raw == b"null" || raw.starts_with(b"{"));
    let unclear = match (streams, choices) {
        (Truth::Unclear, _) => Some("`stream` is neither true nor false"),
        (_, None) => Some("`n` and `best_of` must be whole numbers"),
        _ if raw(background) == Truth::Unclear => Some("`background` is neither true nor false"),
        _ if wants_usage && !is_askable => Some("`stream_options` is no object"),
        _ => None,
    };
    let start = brace(body);
    let mut edit = Edit::new(body, start);
    let model = set_model(&mut edit, model.as_ref(), endpoint, default_model);
    let usage_asked = wants_usage && ask_for_usage(&mut edit, options.clone());
    Inspected {
        model,
        stream,
        output_max: output_max(endpoint, maxima),
        choices: choices.unwrap_or(1).saturating_mul(prompts(endpoint, prompt)),
        service_tier: text(tier).map(|tier| clip(&tier).into()),
        background: raw(background) == Truth::Yes,
        speech_events: text(speech).is_some_and(|format| format == "sse"),
        refers: *runs_tools || prompt.as_ref().is_some_and(|(_, raw)| raw.starts_with(b"{")),
        tools: HostedTools { calls_max: calls.as_ref().and_then(|(_, raw)| whole_number(raw)), ..*tools },
        caches_long: [kept, kept_for].into_iter().filter_map(text).any(|time| is_long(&time)),
        unclear,
        usage_asked,
        splices: edit.into_splices(),
    }
}

/// Why a request whose meaning decides over money is not clear enough: readers differ in what it says. Beyond what
/// [`inspect`] finds: it must be what the strictest reader takes for JSON; some (Go's) take a key for another that
/// differs from it only in case; and of a repeated key most take the last value, some the first.
pub fn unclear_key(body: &[u8]) -> Option<&'static str> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let (mut odd, mut seen, mut repeated, mut options, mut predict) = (false, 0u64, false, None, None);
    let whole = each_member(body, |key, value| {
        odd |= is_odd(&PATHS, key);
        if let Some(place) = PATHS.first_keys().position(|watched| watched == key) {
            repeated |= seen & 1 << place != 0;
            seen |= 1 << place;
        }
        match key {
            "stream_options" => options = Some(value),
            "options" => predict = Some(value),
            _ => {}
        }
    });
    if whole.is_err() {
        return Some("its body is not a JSON object that can be read");
    }
    for nested in [options, predict].into_iter().flatten() {
        // What is no object has no keys.
        let is_odd = |key: &str| is_odd(&OPTION_PATHS, key) || is_odd(&PREDICT_PATHS, key);
        drop(each_member(nested.get().as_bytes(), |key, _| odd |= is_odd(key)));
    }
    match (repeated, odd) {
        (true, _) => Some("one of its keys is repeated"),
        (false, true) => Some("the case of one of its keys is not the API's"),
        (false, false) => None,
    }
}

/// True for a key that is a watched one but for its case. U+017F and U+212A are s and k without regard to it (Unicode's
/// simple folding).
fn is_odd(paths: &Paths, key: &str) -> bool {
    let mut watched = paths.first_keys();
    watched.any(|watched| watched != key && watched.eq_ignore_ascii_case(key)) || key.contains(['\u{17f}', '\u{212a}'])
}

/// What readers make of a value where they want true or false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    No,
    Yes,
    /// Some take it for the one, others for the other.
    Unclear,
}

impl Truth {
    /// Numbers and words are taken by readers that convert (Pydantic), or that ask whether something is there (Python).
    fn of(raw: &[u8]) -> Self {
        let is_zero = || raw.iter().all(|byte| b"-+0.eE".contains(byte));
        match raw {
            b"true" => Self::Yes,
            b"false" | b"null" | b"\"\"" => Self::No,
            [b'-' | b'0'..=b'9', ..] => {
                if is_zero() {
                    Self::No
                } else {
                    Self::Yes
                }
            }
            [b'{' | b'[', ..] | b"NaN" => Self::Unclear,
            [b'"', ..] => {
                let denies = |word: &str| {
                    ["false", "0", "no", "off", "f", "n", "null", "none"]
                        .iter()
                        .any(|no| word.trim().eq_ignore_ascii_case(no))
                };
                if json::string(raw).is_none_or(|word| denies(&word)) { Self::Unclear } else { Self::Yes }
            }
            _ => Self::Unclear,
        }
    }
}

/// True for 12 hours or longer, as in `24h`, `12h` or `1d`; not for `30m` or `in_memory`.
fn is_long(time: &str) -> bool {
    let hours = time.strip_suffix('h').and_then(|hours| hours.parse::<u64>().ok());
    hours.is_some_and(|hours| hours >= 12) || time.strip_suffix('d').is_some_and(|days| days.parse::<u64>().is_ok())
}

/// Where the object starts: behind white space and a byte order mark.
fn brace(body: &[u8]) -> usize {
    let mark = if body.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    mark + body[mark..].iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0)
}

fn text<'b>(member: &Option<Seen<'b>>) -> Option<Cow<'b, str>> {
    member.as_ref().and_then(|(_, raw)| json::string(raw))
}

/// How many answers a member asks for; `None` where that cannot be said.
fn choices(member: &Option<Seen<'_>>) -> Option<u64> {
    match member {
        None | Some((_, b"null")) => Some(1),
        Some((_, raw)) => whole_number(raw),
    }
}

/// How many prompts there are, each of which has answers of its own: an array of texts, or of arrays of tokens, is that
/// many; one of tokens is one.
fn prompts(endpoint: Endpoint, prompt: &Option<Seen<'_>>) -> u64 {
    let Some((_, raw)) = prompt.as_ref().filter(|_| endpoint == Endpoint::Completions) else { return 1 };
    let mut count = 0;
    // The whole value is one piece, so each element is a part of it.
    Scanner::new(&PROMPT_PATHS).feed(raw, |found| count += u64::from(!raw[found.at.start as usize].is_ascii_digit()));
    count.max(1)
}

/// The maximum that holds at this endpoint: another's would be passed over there. Zero or less is none.
fn output_max(endpoint: Endpoint, maxima: &[Option<Seen<'_>>]) -> Option<u64> {
    let [tokens, completion, output, options] = maxima else { return None };
    let of = |member: &Option<Seen<'_>>| whole_number(member.as_ref()?.1).filter(|&max| max > 0);
    let predicted = || {
        let mut max = None;
        Scanner::new(&PREDICT_PATHS).feed(options.as_ref()?.1, |found| max = found.raw.and_then(whole_number));
        max.filter(|&max| max > 0)
    };
    match endpoint {
        Endpoint::ChatCompletions => of(tokens).max(of(completion)),
        Endpoint::Completions | Endpoint::Messages => of(tokens),
        Endpoint::Responses | Endpoint::ResponsesCompact | Endpoint::Decisions => of(output),
        Endpoint::ApiChat | Endpoint::ApiGenerate => predicted(),
        _ => None,
    }
}

/// The model that a request names, or the default where it names none and needs one.
fn set_model(
    edit: &mut Edit,
    model: Option<&Seen<'_>>,
    endpoint: Endpoint,
    default_model: Option<&str>,
) -> Option<Arc<str>> {
    let named = model.and_then(|(_, raw)| json::string(raw));
    let is_null = model.is_none_or(|(_, raw)| *raw == b"null");
    match (named, default_model) {
        (None, Some(default)) if needs_model(endpoint) && is_null => {
            edit.set("model", model.map(|(at, _)| at.clone()), |out| json::write_string(out, default));
            Some(clip(default).into())
        }
        (named, _) => named.map(|named| clip(&named).into()),
    }
}

/// True for Ollama's own API, which streams unless asked not to.
fn streams_unasked(endpoint: Endpoint) -> bool {
    matches!(endpoint, Endpoint::ApiChat | Endpoint::ApiGenerate)
}

/// True where a request without a model would be refused. Elsewhere the upstream has a model of its own in mind (the
/// assistant's for a run, the newest for moderations and images), which a default for completions must not displace.
fn needs_model(endpoint: Endpoint) -> bool {
    !matches!(
        endpoint,
        Endpoint::ThreadsRuns
            | Endpoint::Moderations
            | Endpoint::ImagesGenerations
            | Endpoint::ImagesEdits
            | Endpoint::ImagesVariations
            | Endpoint::ResponsesRetrieve
            | Endpoint::ThreadsRunsRetrieve
            | Endpoint::Batches
    )
}

/// Sets `stream_options.include_usage` to true; false where it is already, or where `stream_options` is something that
/// the upstream must refuse. Usage in every chunk, which some servers give along with that, stays away.
fn ask_for_usage(edit: &mut Edit, options: Option<Seen<'_>>) -> bool {
    let Some((at, raw)) = options else {
        edit.set("stream_options", None, |out| out.extend_from_slice(br#"{"include_usage":true}"#));
        edit.marks_asking();
        return true;
    };
    if raw == b"null" {
        edit.replace(at, br#"{"include_usage":true}"#);
        return true;
    }
    if !raw.starts_with(b"{") {
        return false;
    }
    let (mut asked, mut continuous) = (None, None);
    Scanner::new(&OPTION_PATHS).feed(raw, |found| {
        let place = at.start + found.at.start as usize..at.start + found.at.end as usize;
        let slot = if found.path == 0 { &mut asked } else { &mut continuous };
        *slot = Some((place, found.raw == Some(b"true")));
    });
    let first = at.start + 1..at.start + 1;
    match asked {
        Some((_, true)) => return false,
        Some((value, false)) => edit.replace(value, b"true"),
        None if is_empty_object(raw, 0) => edit.replace(first, br#""include_usage":true"#),
        None => edit.replace(first, br#""include_usage":true,"#),
    }
    if let Some((value, true)) = continuous {
        edit.replace(value, b"false");
    }
    true
}

/// Cuts a name to what is recorded, at a character's boundary.
pub fn clip(name: &str) -> &str {
    &name[..name.floor_char_boundary(MODEL_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::splice::write_spliced;
    use serde_json::{Value, json};

    fn edited(body: &str, default_model: Option<&str>) -> (Inspected, String) {
        let inspected = inspect(body.as_bytes(), Endpoint::ChatCompletions, default_model);
        let mut out = Vec::new();
        write_spliced(&mut out, body.as_bytes(), &inspected.splices);
        (inspected, String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_needs_no_edit_gets_none() {
        for body in [
            r#"{"model":"m"}"#,
            r#"{"model":"m","stream":false}"#,
            r#" {"model":"m","stream":true,"stream_options":{"include_usage":true}} "#,
            r#"{"model":"m","stream":true,"stream_options":7}"#,
            r#"{"model":7}"#,
            r#"[{"stream":true}]"#,
            r#"{"stream":true"#,
            "",
        ] {
            let (inspected, out) = edited(body, Some("default").filter(|_| body.contains("model")));
            assert_eq!(out, body);
            assert!(!inspected.usage_asked);
        }
    }

    #[test]
    fn usage_is_asked_for_in_every_form_and_nothing_else_changes() {
        for (options, unedited) in [
            ("", json!({})),
            (r#","stream_options":null"#, json!({})),
            (r#","stream_options":{}"#, json!({})),
            (r#","stream_options":{ "include_usage" : false }"#, json!({})),
            (r#","stream_options":{"include_usage":null}"#, json!({})),
            (r#","stream_options":{"include_obfuscation":false}"#, json!({"include_obfuscation": false})),
        ] {
            let body = format!("\n{{ \"stream\" : true , \"model\":\"gpt\\u002d4\"{options} }}");
            let (inspected, out) = edited(&body, Some("unused"));
            assert!(inspected.usage_asked && inspected.stream, "{body}");
            assert_eq!(inspected.model.as_deref(), Some("gpt-4"));
            let mut expected: Value = serde_json::from_str(&body).unwrap();
            expected["stream_options"] = unedited;
            expected["stream_options"]["include_usage"] = json!(true);
            assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected, "{out}");
        }
    }

    #[test]
    fn the_model_is_put_in_only_where_none_is_named() {
        let (inspected, out) = edited(r#"{"messages":[]}"#, Some("a\"b"));
        assert_eq!(inspected.model.as_deref(), Some("a\"b"));
        assert_eq!(out, r#"{"model":"a\"b","messages":[]}"#);
        assert_eq!(edited("{ }", Some("m")).1, r#"{"model":"m" }"#);
        assert_eq!(edited(r#"{"model":null}"#, Some("m")).1, r#"{"model":"m"}"#);
        let (inspected, out) = edited(r#"{"stream":true}"#, Some("m"));
        assert!(inspected.usage_asked);
        let expected = json!({"stream": true, "model": "m", "stream_options": {"include_usage": true}});
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected);
    }

    #[test]
    fn a_model_of_the_upstreams_own_choice_is_not_displaced() {
        let with_default = |endpoint| inspect(br#"{"assistant_id":"asst_1"}"#, endpoint, Some("m")).splices.len();
        assert_eq!(with_default(Endpoint::ThreadsRuns), 0);
        assert_eq!(with_default(Endpoint::Moderations), 0);
        assert_eq!(with_default(Endpoint::ImagesEdits), 0);
        assert_eq!(with_default(Endpoint::Messages), 1);
    }

    #[test]
    fn a_stream_is_what_the_endpoint_takes_for_one() {
        let streams = |endpoint, body: &str| inspect(body.as_bytes(), endpoint, None).stream;
        for (body, ollama, others) in [
            (r#"{"model":"m"}"#, true, false),
            (r#"{"stream":null}"#, true, false),
            (r#"{"stream":true}"#, true, true),
            (r#"{"stream":false}"#, false, false),
        ] {
            assert_eq!(streams(Endpoint::ApiChat, body), ollama, "{body}");
            assert_eq!(streams(Endpoint::ApiGenerate, body), ollama, "{body}");
            assert_eq!(streams(Endpoint::ChatCompletions, body), others, "{body}");
        }
    }

    #[test]
    fn a_maximum_is_the_endpoints_own_and_choices_multiply_it() {
        let size = |endpoint, body: &str| {
            let inspected = inspect(body.as_bytes(), endpoint, None);
            (inspected.output_max, inspected.choices, inspected.unclear.is_some())
        };
        let chat = |body| size(Endpoint::ChatCompletions, body);
        assert_eq!(chat(r#"{"model":"m"}"#), (None, 1, false));
        assert_eq!(chat(r#"{"max_tokens":663}"#), (Some(663), 1, false));
        assert_eq!(chat(r#"{"max_completion_tokens":5,"n":3,"max_tokens":null}"#), (Some(5), 3, false));
        assert_eq!(chat(r#"{"max_tokens":5,"max_completion_tokens":9}"#), (Some(9), 1, false));
        assert_eq!(chat(r#"{"max_output_tokens":7,"n":0}"#), (None, 1, false), "not read at this endpoint");
        assert_eq!(chat(r#"{"max_tokens":0}"#), (None, 1, false), "some take it for no maximum");
        assert_eq!(chat(r#"{"max_tokens":"5","n":2.5}"#), (None, 1, true));
        assert_eq!(chat(r#"{"n":"64"}"#), (None, 1, true), "a lenient reader takes it for a number");
        assert_eq!(size(Endpoint::Completions, r#"{"n":2,"best_of":20}"#), (None, 20, false));
        assert_eq!(size(Endpoint::Responses, r#"{"max_output_tokens":7}"#), (Some(7), 1, false));
        assert_eq!(size(Endpoint::ApiChat, r#"{"options":{"num_predict":9},"num_predict":1}"#), (Some(9), 1, false));
        assert_eq!(size(Endpoint::ApiChat, r#"{"options":{"num_predict":-1}}"#), (None, 1, false));
        assert_eq!(size(Endpoint::ApiChat, r#"{"options":{"num_predict":9},"options":{}}"#), (None, 1, false));
        let prompts = |prompt: &str| size(Endpoint::Completions, &format!(r#"{{"prompt":{prompt},"n":2}}"#)).1;
        assert_eq!((prompts(r#""a""#), prompts("[]"), prompts("[1, 2, 3]")), (2, 2, 2));
        assert_eq!((prompts(r#"["a", "b","c"]"#), prompts("[[1,2] , [3]]")), (6, 4), "each has answers of its own");
    }

    #[test]
    fn a_stream_is_what_lenient_readers_take_for_one() {
        let stream = |body: &str| {
            let inspected = inspect(body.as_bytes(), Endpoint::ChatCompletions, None);
            (inspected.stream, inspected.usage_asked, inspected.unclear.is_some())
        };
        let (no, yes, unclear) = ((false, false, false), (true, true, false), (false, false, true));
        for (value, expected) in [
            ("true", yes),
            ("1", yes),
            ("-1.5e3", yes),
            ("\"true\"", yes),
            ("\"yes\"", yes),
            ("false", no),
            ("null", no),
            ("0", no),
            ("-0.0", no),
            ("\"\"", no),
            ("\"false\"", unclear),
            ("\" Off \"", unclear),
            ("[]", unclear),
            ("{\"a\":1}", unclear),
            ("NaN", unclear),
        ] {
            assert_eq!(stream(&format!(r#"{{"stream":{value}}}"#)), expected, "{value}");
        }
        for body in [
            "\u{feff} {\"stream\":true}",
            r#"{"str\u0065am":true}"#,
            r#"{"stream":true,"stream":false,"stream":true}"#,
            &format!(r#"{{"stream":true,"stream_options":{{"include_usage":false{}}}}}"#, " ".repeat(10_000)),
            &format!(r#"{{"x":{}{},"stream":true}}"#, "[".repeat(1000), "]".repeat(1000)),
        ] {
            assert_eq!(stream(body), yes, "{body:.80}");
        }
        for (options, is_unclear) in [("null", false), ("{}", false), ("[]", true), ("0", true), ("\"\"", true)] {
            let body = format!(r#"{{"stream":true,"stream_options":{options}}}"#);
            assert_eq!(stream(&body).2, is_unclear, "{body}");
        }
        for body in ["", "[]", "\"text\"", "{\"stream\":true", "\u{fffe}{\0\"\0s\0"] {
            assert_eq!(stream(body), unclear, "{body}");
        }
    }

    #[test]
    fn keys_that_some_readers_take_for_others_are_unclear() {
        for body in [
            r#"{"stream_options":{"Include_usage":false}}"#,
            r#"{"options":{"NUM_PREDICT":1}}"#,
            r#"{"Stream":true}"#,
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","mod\u0065l":"a"}"#,
            r#"{"MAX_TOKENS":5,"max_tokens":1}"#,
            "{\"\u{17f}tream\":true}",
            "[1]",
            "{",
            "\"x\"",
        ] {
            assert!(unclear_key(body.as_bytes()).is_some(), "{body}");
        }
        let deep = format!(r#"{{"x":{}{},"stream":true}}"#, "[".repeat(1000), "]".repeat(1000));
        for body in [r#"{"stream":true,"messages":[{"Model":"N"}],"Other":1}"#, "\u{feff}{}", &deep] {
            assert_eq!(unclear_key(body.as_bytes()), None, "{body:.80}");
        }
    }

    #[test]
    fn what_the_target_does_beside_the_answer() {
        let inspected = |body: &str| inspect(body.as_bytes(), Endpoint::Responses, None);
        let tools = inspected(r#"{"tools":[{"type":"function"},{"type":"web_search"},{"type":"image_generation"}]}"#);
        assert!(tools.refers);
        let hosted = HostedTools { images: true, web_search: true, ..HostedTools::default() };
        assert_eq!(tools.tools, hosted);
        let other = inspected(
            r#"{"tools":[{"type":"web_search_2025_08_26"},{"type":"file_search"},{"type":"shell"}],"max_tool_calls":7}"#,
        );
        let hosted =
            HostedTools { images: false, file_search: true, code_interpreter: true, calls_max: Some(7), ..hosted };
        assert_eq!(other.tools, hosted);
        for (body, long) in [
            (r#"{"prompt_cache_retention":"24h"}"#, true),
            (r#"{"prompt_cache_retention":"in_memory"}"#, false),
            (r#"{"prompt_cache_options":{"ttl":"12h"}}"#, true),
            (r#"{"prompt_cache_options":{"ttl":"30m"}}"#, false),
        ] {
            assert_eq!(inspected(body).caches_long, long, "{body}");
        }
        let own = inspected(r#"{"tools":[{"type":"function"},{"type":"custom"}],"prompt":"text","background":null}"#);
        assert!(!own.refers && own.tools == HostedTools::default() && !own.background);
        let stored = inspected(r#"{"prompt":{"id":"pmpt_1"},"background":true,"service_tier":"flex"}"#);
        assert!(stored.refers && stored.background);
        assert_eq!(stored.service_tier.as_deref(), Some("flex"));
        assert!(inspect(br#"{"stream_format":"sse"}"#, Endpoint::AudioSpeech, None).speech_events);
    }

    #[test]
    fn usage_in_every_chunk_is_not_asked_for_along_with_the_usage() {
        let (_, out) =
            edited(r#"{"stream":true,"stream_options":{"continuous_usage_stats":true,"include_usage":false}}"#, None);
        let options = r#""stream_options":{"continuous_usage_stats":false,"include_usage":true}"#;
        assert_eq!(out, format!(r#"{{"stream":true,{options}}}"#));
        let own = r#"{"stream":true,"stream_options":{"continuous_usage_stats":true,"include_usage":true}}"#;
        assert_eq!(edited(own, None).1, own);
    }

    #[test]
    fn other_endpoints_are_not_asked_for_usage() {
        let inspected = inspect(br#"{"stream":true}"#, Endpoint::Responses, None);
        assert!(inspected.stream && !inspected.usage_asked && inspected.splices.is_empty());
    }
}
