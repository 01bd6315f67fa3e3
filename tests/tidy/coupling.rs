//! How far an object is spread over files: where its `impl` stands, and which of these files call each other through
//! `self`. Imports do not show this, for a method needs none.

use super::graph::{Source, components};
use super::rust_text::{Kind, Token, blocks, tokens, without_tests};
use std::collections::{BTreeMap, BTreeSet};

/// Lines on which an `impl` of this type begins, also one of a trait for it.
pub fn impls(text: &str, name: &str) -> Vec<usize> {
    let all = without_tests(&tokens(text));
    bodies(&all, name).into_iter().map(|(at, _)| all[at].line).collect()
}

/// Positions of each `impl` of this type, and of the brace that ends it. One in a function's head is a type.
fn bodies(tokens: &[Token], name: &str) -> Vec<(usize, usize)> {
    let is_item = |at: usize| {
        let before = at.checked_sub(1).map(|before| tokens[before].kind);
        matches!(before, None | Some(Kind::Mark('}' | ';' | ']' | '{') | Kind::Word("unsafe")))
    };
    let all = blocks(tokens, "impl").into_iter();
    let of_it = all.filter(|&(at, open, _)| is_item(at) && of_type(&tokens[at + 1..open], name));
    of_it.map(|(at, _, end)| (at, end)).collect()
}

/// Whether the head of an `impl` is of this type: `<'a, T> super::Proxy<'a, T> where …`, or `… for Proxy`.
fn of_type(head: &[Token], name: &str) -> bool {
    let (mut depth, mut last) = (0, None);
    for (at, token) in head.iter().enumerate() {
        match token.kind {
            Kind::Mark('<') => depth += 1,
            Kind::Mark('>') if at > 0 && head[at - 1].kind != Kind::Mark('-') => depth -= 1,
            Kind::Word("where") if depth == 0 => break,
            Kind::Word("for") if depth == 0 => last = None,
            Kind::Word(word) if depth == 0 => last = Some(word),
            _ => {}
        }
    }
    last == Some(name)
}

/// What one object's files have to do with each other.
pub struct Coupling {
    pub files: BTreeSet<String>,
    pub methods: usize,
    /// One file calls a method that another defines.
    pub calls: BTreeSet<(String, String)>,
    /// The largest set of files that all reach each other by calls.
    pub largest: BTreeSet<String>,
}

/// The coupling of a type's files.
pub fn coupling(sources: &[Source], name: &str) -> Coupling {
    let (mut defined, mut called) = (BTreeMap::new(), Vec::new());
    for (file, text) in sources {
        let all = without_tests(&tokens(text));
        for (at, end) in bodies(&all, name) {
            let body = &all[at..end];
            let method = |two: &[Token]| match (two[0].kind, two[1].kind) {
                (Kind::Word("fn"), Kind::Word(method)) => Some(method.to_string()),
                _ => None,
            };
            defined.extend(body.windows(2).filter_map(method).map(|method| (method, file.clone())));
            called.extend(body.windows(4).filter_map(call).map(|method| (file.clone(), method.to_string())));
        }
    }
    let calls = called.into_iter().filter_map(|(from, method)| Some((from, defined.get(&method)?.clone())));
    let calls: BTreeSet<_> = calls.filter(|(from, to)| from != to).collect();
    let largest = components(&calls).into_iter().max_by_key(BTreeSet::len).unwrap_or_default();
    Coupling { files: defined.values().cloned().collect(), methods: defined.len(), calls, largest }
}

/// `self.name(` or `Self::name(`.
fn call<'a>(four: &[Token<'a>]) -> Option<&'a str> {
    match [four[0].kind, four[1].kind, four[2].kind, four[3].kind] {
        [Kind::Word("self"), Kind::Mark('.'), Kind::Word(name), Kind::Mark('(')]
        | [Kind::Word("Self"), Kind::Colons, Kind::Word(name), Kind::Mark('(')] => Some(name),
        _ => None,
    }
}
