//! Who uses whom: from source texts to a graph of files, and to the circles in it.
//!
//! An edge is a path that leads into another file. A `mod` line is none, and neither is a re-export: both only say where
//! something is. A path is followed through `use` lines to the file in which its last name stands, so that
//! `crate::http::Head` is a use of `http/head.rs` where `http.rs` only passes the name on. Tests are left out, for they
//! look at what is private. Methods are not seen: what a method leads to is named where its type is imported.

use super::rust_text::{PathUse, paths, test_files, tokens, without_tests};
use std::collections::{BTreeMap, BTreeSet};

/// A file of `src` and its text.
pub type Source = (String, String);

/// `src/http/head.rs` is `[http, head]`, `src/main.rs` and `src/lib.rs` are `[]`.
pub fn module_path(file: &str) -> Vec<String> {
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
    if matches!(inner, "main" | "lib") { Vec::new() } else { inner.split('/').map(String::from).collect() }
}

/// Where a path of this crate leads, from its root; `None` for paths of other crates and for names of this file.
/// `is_child` says whether a first name is a module below this one.
pub fn absolute(file: &str, path: &PathUse, is_child: impl Fn(&str) -> bool) -> Option<Vec<String>> {
    let mut base = module_path(file);
    base.extend((0..path.inline_depth).map(|_| String::from("inline")));
    let mut rest = path.segments.as_slice();
    match rest[0].as_str() {
        "crate" | "self" | "super" if rest.len() == 1 && !path.in_use => return None, // pub(crate), `self` as a value
        "crate" | "openai_api_proxy" => return Some(rest[1..].to_vec()),
        "self" | "super" => {
            while let Some((first, after)) =
                rest.split_first().filter(|(first, _)| *first == "self" || *first == "super")
            {
                if first == "super" {
                    base.pop();
                }
                rest = after;
            }
        }
        first if (rest.len() > 1 || path.in_use) && path.inline_depth == 0 && is_child(first) => {}
        _ => return None,
    }
    base.extend_from_slice(rest);
    Some(base)
}

/// The files that are no tests, by the path of their module.
struct Crate<'a> {
    files: BTreeMap<Vec<String>, File<'a>>,
}

struct File<'a> {
    name: &'a str,
    paths: Vec<PathUse>,
    /// What its `use` lines make known, each as a path from the crate's root.
    imports: BTreeMap<String, Vec<String>>,
}

impl<'a> Crate<'a> {
    fn new(sources: &'a [Source]) -> Self {
        let for_tests: BTreeSet<Vec<String>> = sources
            .iter()
            .flat_map(|(file, text)| {
                let child = |name: &&str| [module_path(file), vec![name.to_string()]].concat();
                test_files(&tokens(text)).iter().map(child).collect::<Vec<_>>()
            })
            .collect();
        let modules = sources.iter().map(|(file, text)| (module_path(file), file, text));
        let kept = modules.filter(|(module, ..)| !module.is_empty() && !for_tests.contains(module));
        let read = kept.map(|(module, file, text)| {
            let paths = paths(&without_tests(&tokens(text)));
            (module, File { name: file, paths, imports: BTreeMap::new() })
        });
        let mut all = Self { files: read.collect() };
        let imports: Vec<_> =
            all.files.iter().map(|(module, file)| (module.clone(), all.imports(module, file))).collect();
        for (module, imports) in imports {
            all.files.get_mut(&module).expect("it is there").imports = imports;
        }
        all
    }

    fn is_child(&self, module: &[String], name: &str) -> bool {
        self.files.contains_key(&[module, &[name.to_string()]].concat())
    }

    fn imports(&self, module: &[String], file: &File) -> BTreeMap<String, Vec<String>> {
        let known = file.paths.iter().filter_map(|path| {
            let to = absolute(file.name, path, |name| self.is_child(module, name))?;
            Some((path.name()?.to_string(), to))
        });
        known.collect()
    }

    /// The module in whose file a path from the root ends, and whether it names the module itself.
    fn resolve(&self, path: &[String], hops: usize) -> Option<(&[String], bool)> {
        let (module, file) = (1..=path.len()).rev().find_map(|length| self.files.get_key_value(&path[..length]))?;
        let Some((name, rest)) = path[module.len()..].split_first() else { return Some((module, true)) };
        match file.imports.get(name) {
            Some(to) if hops > 0 && to != path => self.resolve(&[to.as_slice(), rest].concat(), hops - 1),
            _ => Some((module, false)),
        }
    }

    /// Modules that this file uses, and the first line of each use.
    fn used_by(&self, module: &[String], file: &File) -> BTreeMap<Vec<String>, usize> {
        let is_named = |name: &str| file.paths.iter().any(|path| !path.in_use && path.segments[0] == name);
        let mut found = BTreeMap::new();
        for path in &file.paths {
            let direct = absolute(file.name, path, |name| self.is_child(module, name));
            let imported = || {
                let known = file.imports.get(&path.segments[0]).filter(|_| !path.in_use && path.segments.len() > 1)?;
                Some([known, &path.segments[1..]].concat())
            };
            let Some((to, is_module)) =
                direct.or_else(imported).and_then(|path| self.resolve(&path, 8)).map(|(to, is)| (to.to_vec(), is))
            else {
                continue;
            };
            let passed_on = path.re_exported && path.name().is_some_and(|name| !is_named(name));
            if to != module && !(path.in_use && (is_module || passed_on)) {
                found.entry(to).or_insert(path.line);
            }
        }
        found
    }
}

/// One file uses another.
pub struct Edge {
    pub from: Vec<String>,
    pub to: Vec<String>,
    /// Where: `src/a.rs:7`.
    pub place: String,
}

/// Every use of a file by another.
pub fn edges(sources: &[Source]) -> Vec<Edge> {
    let all = Crate::new(sources);
    let edges = all.files.iter().flat_map(|(from, file)| {
        let used = all.used_by(from, file).into_iter();
        used.map(|(to, line)| Edge { from: from.clone(), to, place: format!("{}:{line}", file.name) })
    });
    edges.collect()
}

/// Sets of names that all reach each other, those of one name left out.
pub fn components(edges: &BTreeSet<(String, String)>) -> Vec<BTreeSet<String>> {
    let names: BTreeSet<&String> = edges.iter().flat_map(|(from, to)| [from, to]).collect();
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        names.iter().map(|name| (*name, reached(edges, name))).collect();
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for name in &names {
        let both = reached[*name].iter().filter(|other| reached[**other].contains(*name));
        let component: BTreeSet<String> = both.map(|other| other.to_string()).collect();
        if component.len() > 1 && !found.contains(&component) {
            found.push(component);
        }
    }
    found
}

fn reached<'a>(edges: &'a BTreeSet<(String, String)>, from: &str) -> BTreeSet<&'a String> {
    let (mut found, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(name) = next.pop() {
        for (_, to) in edges.iter().filter(|(from, _)| from == name) {
            if found.insert(to) {
                next.push(to);
            }
        }
    }
    found
}

/// A circle among the entries of a folder.
pub struct Circle {
    /// `src/http`
    pub folder: String,
    /// Names of its entries, and the folder's own name for the file beside it.
    pub entries: BTreeSet<String>,
    /// Where one entry uses another.
    pub places: Vec<String>,
}

/// The circles of every folder. Its entries are files, each together with the folder of its name, and the file beside
/// the folder (`http.rs` beside `http/`). So a circle between two files is found in the folder that both stand in, and
/// one between two folders in the folder above them.
pub fn circles(sources: &[Source]) -> Vec<Circle> {
    let edges = edges(sources);
    let folders: BTreeSet<&[String]> = edges
        .iter()
        .flat_map(|edge| [&edge.from, &edge.to])
        .flat_map(|module| (0..module.len()).map(|n| &module[..n]))
        .collect();
    let mut found = Vec::new();
    for folder in folders {
        let entry = |module: &Vec<String>| {
            let inside = module.strip_prefix(folder)?;
            inside.first().or(folder.last()).cloned()
        };
        let between = edges.iter().filter_map(|edge| Some((entry(&edge.from)?, entry(&edge.to)?, edge)));
        let between: Vec<_> = between.filter(|(from, to, _)| from != to).collect();
        let pairs = between.iter().map(|(from, to, _)| (from.clone(), to.clone())).collect();
        for entries in components(&pairs) {
            let inside = between.iter().filter(|(from, to, _)| entries.contains(from) && entries.contains(to));
            let places = inside.map(|(_, to, edge)| format!("{} uses {to}", edge.place)).collect();
            let folder = std::iter::once("src").chain(folder.iter().map(String::as_str)).collect::<Vec<_>>().join("/");
            found.push(Circle { folder, entries, places });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Vec<Source> {
        files.iter().map(|(file, text)| (file.to_string(), text.to_string())).collect()
    }

    /// Edges as `a -> b`.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let written = |edge: &Edge| format!("{} -> {}", edge.from.join("/"), edge.to.join("/"));
        edges(&sources(files)).iter().map(written).collect()
    }

    #[test]
    fn a_path_is_followed_to_the_file_where_its_name_stands() {
        let http = ("src/http.rs", "mod head;\npub use head::{Head as Start, Length};");
        let head = ("src/http/head.rs", "pub struct Head;");
        for user in [
            "use crate::http::Start;",
            "fn f() { crate::http::Start::new() }",
            "use crate::{http, base};\nfn f(_: http::Start) {}",
            "use crate::http::head as parts;\nfn f() { parts::parse() }",
            "mod inner { use super::super::http::head::Head; }",
        ] {
            assert_eq!(found(&[http, head, ("src/sse.rs", user)]), ["sse -> http/head"], "{user}");
        }
        assert_eq!(found(&[http, head, ("src/sse.rs", "use crate::http::Other;")]), ["sse -> http"]);
        assert_eq!(found(&[http, head, ("src/sse.rs", "use crate::http::*;")]), ["sse -> http"]);
    }

    #[test]
    fn what_only_says_where_something_is_is_no_edge() {
        let child = ("src/a/b.rs", "pub(super) struct B;\nimpl B { fn f(self) { self::g() } }");
        assert_eq!(found(&[("src/a.rs", "mod b;\npub use b::B;"), child]), [""; 0]);
        assert_eq!(found(&[("src/a.rs", "pub(crate) use b::B;\nfn f(_: B) {}"), child]), ["a -> a/b"]);
        assert_eq!(found(&[("src/a.rs", "mod b;\nfn f() { b::g() }"), child]), ["a -> a/b"]);
    }

    #[test]
    fn tests_and_roots_have_no_edges() {
        let tested = ("src/a.rs", "#[cfg(test)]\nmod tests { use crate::b::B; }\n#[cfg(test)]\nmod fixture;");
        let fixture = ("src/a/fixture.rs", "use crate::b::B;");
        let root = ("src/main.rs", "use openai_api_proxy::b::B;");
        assert_eq!(found(&[tested, fixture, root, ("src/b.rs", "use crate::a::A;")]), ["b -> a"]);
    }

    #[test]
    fn a_circle_is_found_in_the_folder_that_holds_it() {
        let circle = |files: &[(&str, &str)]| {
            let all = circles(&sources(files));
            all.into_iter().map(|circle| (circle.folder, Vec::from_iter(circle.entries))).collect::<Vec<_>>()
        };
        let named =
            |folder: &str, entries: &[&str]| (folder.to_string(), entries.iter().map(|e| e.to_string()).collect());
        // A child and its parent.
        let both = [("src/a.rs", "use b::B;\nstruct A;"), ("src/a/b.rs", "use super::A;")];
        assert_eq!(circle(&both), [named("src/a", &["a", "b"])]);
        // Two folders whose files are no circle.
        let crossed = [
            ("src/a/b.rs", "use crate::c::d::D;"),
            ("src/c/e.rs", "use crate::a::f::F;"),
            ("src/c/d.rs", ""),
            ("src/a/f.rs", ""),
        ];
        assert_eq!(circle(&crossed), [named("src", &["a", "c"])]);
        // Three files, one of them in a folder of its own; and a fourth that only uses them.
        let three = [
            ("src/a/b.rs", "use super::c::C;"),
            ("src/a/c/inner.rs", "use crate::a::d::D;"),
            ("src/a/c.rs", "pub use inner::C;"),
            ("src/a/d.rs", "fn f() { super::b::g() }"),
            ("src/a/e.rs", "use super::b::B;"),
        ];
        assert_eq!(circle(&three), [named("src/a", &["b", "c", "d"])]);
    }
}
