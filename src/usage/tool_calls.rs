//! Calls of the target's own tools in the course of one answer, which have a fee beside its tokens.
//!
//! In: the values at a few places of the answer's output. Out: their number, in a [`Usage`]. What a client runs itself
//! (functions) is no such call.

use super::dialects::number;
use super::record::{Endpoint, Usage};
use super::shapes::Attribute;
use crate::json::string;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Containers that are told apart in one answer; more are counted as one.
const CONTAINERS_MAX: usize = 256;

/// True for a model of chat completions that searches the web, which it does once for each request and does not report.
pub fn searches_by_itself(endpoint: Endpoint, model: &str) -> bool {
    endpoint == Endpoint::ChatCompletions && model.contains("-search-")
}

/// What has been found in one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCalls {
    /// The target's own number of searches of the web.
    web_searches: Option<u64>,
    /// Items of the output that are calls of that tool; of these, those that only looked into a page, which is free.
    web_items: u64,
    page_items: u64,
    file_searches: u64,
    /// Hashes of the names of the code interpreter's containers, each of which is a session.
    containers: Vec<u64>,
    /// Where searches with this context size stand in [`Usage::web_searches`].
    context: Context,
}

/// How much of what a search finds goes to the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Context {
    Low = 0,
    #[default]
    Medium = 1,
    High = 2,
}

impl ToolCalls {
    /// Takes a value of the answer's.
    pub fn take(&mut self, attribute: Attribute, raw: &[u8]) {
        let text = string(raw);
        match (attribute, text.as_deref()) {
            (Attribute::WebSearches, _) => self.web_searches = number(raw).or(self.web_searches),
            (Attribute::OutputKind, Some("web_search_call")) => self.web_items += 1,
            (Attribute::OutputKind, Some("file_search_call")) => self.file_searches += 1,
            (Attribute::ActionKind, Some("open_page" | "find_in_page" | "find")) => self.page_items += 1,
            (Attribute::SearchContext, Some("low")) => self.context = Context::Low,
            (Attribute::SearchContext, Some("high")) => self.context = Context::High,
            (Attribute::Container, Some(name)) => {
                let mut hasher = DefaultHasher::new();
                name.hash(&mut hasher);
                let hash = hasher.finish();
                if !self.containers.contains(&hash) && self.containers.len() < CONTAINERS_MAX {
                    self.containers.push(hash);
                }
            }
            _ => {}
        }
    }

    /// Puts what was found into the answer's usage.
    pub fn count_in(&self, usage: &mut Usage) {
        let web_searches = self.web_searches.unwrap_or(self.web_items.saturating_sub(self.page_items));
        usage.web_searches[self.context as usize] = web_searches;
        usage.file_searches = self.file_searches;
        let all = web_searches.saturating_add(self.file_searches);
        usage.tool_calls = all.saturating_add(self.containers.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(values: &[(Attribute, &str)]) -> Usage {
        let (mut calls, mut usage) = (ToolCalls::default(), Usage::NOTHING);
        values.iter().for_each(|(attribute, raw)| calls.take(*attribute, raw.as_bytes()));
        calls.count_in(&mut usage);
        usage
    }

    #[test]
    fn calls_are_the_items_of_the_output_unless_the_target_says_their_number() {
        use Attribute::{ActionKind, Container, OutputKind, SearchContext, WebSearches};
        let items = [
            (OutputKind, r#""web_search_call""#),
            (ActionKind, r#""search""#),
            (ActionKind, r#""open_page""#),
            (OutputKind, r#""web_search_call""#),
            (OutputKind, r#""message""#),
            (OutputKind, r#""function_call""#),
            (OutputKind, r#""file_search_call""#),
            (OutputKind, r#""code_interpreter_call""#),
            (Container, r#""cntr_1""#),
            (Container, r#""cntr_1""#),
            (Container, r#""cntr_2""#),
            (SearchContext, r#""high""#),
        ];
        let usage = Usage { tool_calls: 4, web_searches: [0, 0, 1], file_searches: 1, ..Usage::NOTHING };
        assert_eq!(counted(&items), usage);
        let told = [&items[..], &[(WebSearches, "4"), (WebSearches, "null"), (SearchContext, "null")]].concat();
        assert_eq!(counted(&told), Usage { tool_calls: 7, web_searches: [0, 0, 4], ..usage });
        assert_eq!(counted(&[(WebSearches, "2")]).web_searches, [0, 2, 0]);
        assert_eq!(counted(&[(OutputKind, r#""message""#), (Container, "null")]), Usage::NOTHING);
    }

    #[test]
    fn memory_is_bounded() {
        let mut calls = ToolCalls::default();
        for n in 0..1_000 {
            calls.take(Attribute::Container, format!("\"cntr_{n}\"").as_bytes());
        }
        assert_eq!(calls.containers.len(), CONTAINERS_MAX);
    }
}
