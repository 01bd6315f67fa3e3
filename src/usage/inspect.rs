//! What a JSON request asks for, and the two edits that SPEC allows in it: a model where none is named, and usage where
//! a stream would come without. All other bytes stay as they are.
//!
//! In: the whole body. Out: facts, and splices by position; the body itself is never copied here.

use super::record::Endpoint;
use crate::base::digits::whole_number;
use crate::json::{self, Found, Path, Paths, Scanner};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Longest model name that is recorded, bytes.
pub const MODEL_BYTES_MAX: usize = 128;

/// Longest number that is read as a count, bytes.
const COUNT_BYTES_MAX: usize = 18;

/// Room for an edit: for all of them, but a model with a long name.
const EDIT_BYTES: usize = 64;

/// Model, stream, stream options, choices, maxima of output: the order in which [`inspect`] takes them apart.
const PATHS: Paths = Paths::new(&[
    Path { keys: &["model"], value_bytes_max: 6 * MODEL_BYTES_MAX },
    Path { keys: &["stream"], value_bytes_max: 8 },
    Path { keys: &["stream_options"], value_bytes_max: 4096 },
    Path { keys: &["n"], value_bytes_max: COUNT_BYTES_MAX },
    Path { keys: &["max_tokens"], value_bytes_max: COUNT_BYTES_MAX },
    Path { keys: &["max_completion_tokens"], value_bytes_max: COUNT_BYTES_MAX },
    Path { keys: &["max_output_tokens"], value_bytes_max: COUNT_BYTES_MAX },
    Path { keys: &["options", "num_predict"], value_bytes_max: COUNT_BYTES_MAX },
]);
const OPTION_PATHS: Paths = Paths::new(&[Path { keys: &["include_usage"], value_bytes_max: 8 }]);

/// Replacement of a range of the body.
#[derive(Debug, PartialEq, Eq)]
pub struct Splice {
    pub at: Range<usize>,
    pub with: Vec<u8>,
}

/// What the proxy needs to know of a JSON request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inspected {
    /// The model it names, or that was put in; `None` where neither.
    pub model: Option<Arc<str>>,
    /// It asks for a stream of events.
    pub stream: bool,
    /// The maximum of output tokens that it sets, over all choices; `None` where it sets none.
    pub output_max: Option<u64>,
    /// We ask for usage in its place, and must take the traces out of the response again.
    pub usage_asked: bool,
    /// The edits, in order of position, none overlapping.
    pub splices: Vec<Splice>,
}

/// Where a value stands, and its bytes where it is not over its cap.
type Seen<'b> = (Range<usize>, Option<&'b [u8]>);

/// Reads a body. Not an object, or not JSON at all: nothing is known and nothing is changed; the upstream will say what
/// is wrong with it.
pub fn inspect(body: &[u8], endpoint: Endpoint, default_model: Option<&str>) -> Inspected {
    let mut seen: [Option<Seen<'_>>; PATHS.len()] = [const { None }; PATHS.len()];
    let mut scanner = Scanner::new(&PATHS);
    // Of a repeated key the last counts, as every common parser has it. The whole body is one piece, so each value is a
    // part of it.
    scanner.feed(body, |Found { path, at, raw }| {
        let at = at.start as usize..at.end as usize;
        let raw = raw.map(|_| &body[at.clone()]);
        seen[path] = Some((at, raw));
    });
    let Some(brace) = body.iter().position(|byte| !byte.is_ascii_whitespace()).filter(|&at| body[at] == b'{') else {
        return Inspected::default();
    };
    if !scanner.is_done() {
        return Inspected::default();
    }
    let [model, stream, options, choices, maxima @ ..] = seen;
    let stream = match stream.and_then(|(_, raw)| raw) {
        None | Some(b"null") => streams_unasked(endpoint),
        raw => raw == Some(b"true"),
    };
    let mut edit = Edit { brace, empty: is_empty_object(body, brace), splices: Vec::new() };
    let named = model.as_ref().and_then(|(_, raw)| *raw).and_then(json::string);
    let is_null = model.as_ref().is_some_and(|(_, raw)| *raw == Some(b"null"));
    let model = match (named, default_model) {
        (None, Some(default)) if needs_model(endpoint) && (model.is_none() || is_null) => {
            edit.set("model", model.map(|(at, _)| at), |out| json::write_string(out, default));
            Some(Cow::Borrowed(default))
        }
        (named, _) => named,
    };
    let wants_usage = stream && matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Completions);
    let usage_asked = wants_usage && ask_for_usage(&mut edit, options);
    let output_max = maxima.iter().filter_map(count).max();
    let output_max = output_max.map(|max| max.saturating_mul(count(&choices).unwrap_or(1).max(1)));
    let model = model.map(|model| clip(&model).into());
    Inspected { model, stream, output_max, usage_asked, splices: edit.into_splices() }
}

/// A value that is a whole number.
fn count(seen: &Option<Seen<'_>>) -> Option<u64> {
    let (_, raw) = seen.as_ref()?;
    whole_number((*raw)?)
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
/// the upstream must refuse.
fn ask_for_usage(edit: &mut Edit, options: Option<Seen<'_>>) -> bool {
    let Some((at, raw)) = options else {
        edit.set("stream_options", None, |out| out.extend_from_slice(br#"{"include_usage":true}"#));
        return true;
    };
    match raw {
        Some(b"null") => edit.replace(at, br#"{"include_usage":true}"#),
        Some(raw) if raw.starts_with(b"{") => {
            let mut asked = None;
            Scanner::new(&OPTION_PATHS).feed(raw, |found| {
                asked = Some((found.at.start as usize..found.at.end as usize, found.raw == Some(b"true")));
            });
            match asked {
                Some((_, true)) => return false,
                Some((value, false)) => edit.replace(at.start + value.start..at.start + value.end, b"true"),
                None if is_empty_object(raw, 0) => edit.replace(at.start + 1..at.start + 1, br#""include_usage":true"#),
                None => edit.replace(at.start + 1..at.start + 1, br#""include_usage":true,"#),
            }
        }
        _ => return false,
    }
    true
}

struct Edit {
    brace: usize,
    empty: bool,
    splices: Vec<Splice>,
}

impl Edit {
    /// Gives a top-level key a value: in place of the old one, or first in the object.
    fn set(&mut self, key: &str, old: Option<Range<usize>>, value: impl FnOnce(&mut Vec<u8>)) {
        let mut with = Vec::with_capacity(EDIT_BYTES);
        if old.is_none() {
            json::write_string(&mut with, key);
            with.push(b':');
        }
        value(&mut with);
        let first = self.brace + 1..self.brace + 1;
        if old.is_none() && !std::mem::take(&mut self.empty) {
            with.push(b',');
        }
        self.splices.push(Splice { at: old.unwrap_or(first), with });
    }

    fn replace(&mut self, at: Range<usize>, with: &[u8]) {
        self.splices.push(Splice { at, with: with.to_vec() });
    }

    fn into_splices(mut self) -> Vec<Splice> {
        // Stable and reversed for equal places: what was set later stands first, before the comma of the earlier.
        self.splices.reverse();
        self.splices.sort_by_key(|splice| splice.at.start);
        self.splices
    }
}

fn is_empty_object(body: &[u8], brace: usize) -> bool {
    body[brace + 1..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}')
}

/// Cuts a name to what is recorded, at a character's boundary.
pub fn clip(name: &str) -> &str {
    &name[..name.floor_char_boundary(MODEL_BYTES_MAX)]
}

/// Appends `body` with the splices made.
pub fn write_spliced(out: &mut Vec<u8>, body: &[u8], splices: &[Splice]) {
    let mut at = 0;
    for splice in splices {
        out.extend_from_slice(&body[at..splice.at.start]);
        out.extend_from_slice(&splice.with);
        at = splice.at.end;
    }
    out.extend_from_slice(&body[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn the_maximum_of_output_is_over_all_choices() {
        let output_max = |body: &str| inspect(body.as_bytes(), Endpoint::ChatCompletions, None).output_max;
        assert_eq!(output_max(r#"{"model":"m"}"#), None);
        assert_eq!(output_max(r#"{"max_tokens":663}"#), Some(663));
        assert_eq!(output_max(r#"{"max_completion_tokens":5,"n":3,"max_tokens":null}"#), Some(15));
        assert_eq!(output_max(r#"{"max_output_tokens":7,"n":0}"#), Some(7));
        assert_eq!(output_max(r#"{"options":{"num_predict":9},"num_predict":1}"#), Some(9));
        assert_eq!(output_max(r#"{"options":{"num_predict":-1}}"#), None, "as much as it likes");
        assert_eq!(output_max(r#"{"max_tokens":999999999999999999,"n":99}"#), Some(u64::MAX));
        assert_eq!(output_max(r#"{"max_tokens":"5","n":2.5}"#), None);
    }

    #[test]
    fn other_endpoints_are_not_asked_for_usage() {
        let inspected = inspect(br#"{"stream":true}"#, Endpoint::Responses, None);
        assert!(inspected.stream && !inspected.usage_asked && inspected.splices.is_empty());
    }
}
