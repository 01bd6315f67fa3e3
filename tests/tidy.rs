//! Holds the architecture by reading the sources as text: which layer may name which, who owns which dependency, that
//! cores stay pure, that files and functions stay readable, that nothing is left half done.
//!
//! Every rule is a function from text to findings (`file:line: what is wrong`), and has a test of its own on a small
//! sample that breaks it, so that a rule which stopped looking would be seen. Comments and literals are skipped by the
//! small tokeniser in `tidy/rust_text.rs`.

#[path = "tidy/rust_text.rs"]
mod rust_text;

use rust_text::{PathUse, functions, paths, test_modules, tokens, without_tests};
use std::path::Path;

/// Top-level modules and their layer (DESIGN: imports point down only).
const LAYERS: &[(&str, u8)] = &[
    ("base", 0),
    ("access", 1),
    ("http", 1),
    ("json", 1),
    ("limit", 1),
    ("local", 1),
    ("metrics", 1),
    ("policy", 1),
    ("price", 1),
    ("reporting", 1),
    ("sse", 1),
    ("tls", 1),
    ("usage", 1),
    ("websocket", 1),
    ("proxy", 2),
    ("io", 3),
    ("ledger", 3),
    ("worker", 3),
    ("cli", 4),
    ("config", 4),
    ("reactor", 4),
    ("reload", 4),
    ("signal", 4),
    ("systemd", 4),
];
/// `main.rs` and `lib.rs` wire everything.
const ROOT_LAYER: u8 = 4;
/// The lowest layer that touches the outside world: below it no clocks, sockets, threads, files.
const OUTSIDE_LAYER: u8 = 3;

/// Dependencies that only these top-level modules may name (`""` is the crate's root).
const OWNERS: &[(&str, &[&str])] = &[
    ("rustls", &["tls"]),
    ("ring", &["access", "cli", "local"]),
    ("base64", &["access", "config", "local"]),
    ("maud", &["local"]),
    ("plotters", &["local"]),
    ("webpki_roots", &["tls"]),
    ("prometheus", &["metrics"]),
    ("rusqlite", &["ledger", "worker"]),
    ("ureq", &["worker"]),
    ("influxdb_line_protocol", &["worker"]),
    ("mio", &["io", "reactor", ""]),
];

/// Names that no layer below the outside world may use: (path, why). A path matches with all that lies under it.
const IMPURE: &[(&[&str], &str)] = &[
    (&["std", "net"], "sockets belong to io"),
    (&["std", "thread"], "threads belong to worker"),
    (&["std", "fs"], "files belong to worker and config"),
    (&["std", "env"], "the environment belongs to config"),
    (&["std", "process"], "processes belong to main"),
    (&["Instant", "now"], "take `now` from the turn"),
    (&["SystemTime", "now"], "take `now` from the turn"),
    (&["HashMap"], "its order is random: use BTreeMap or base::table"),
    (&["HashSet"], "its order is random: use BTreeSet or base::table"),
    (&["clippy", "disallowed_methods"], "the ban on clocks is not lifted here"),
    (&["clippy", "disallowed_types"], "the ban on random order is not lifted here"),
];
/// Addresses are plain values: the only names of `std::net` that a core may know.
const ADDRESS_TYPES: &[&str] =
    &["SocketAddr", "SocketAddrV4", "SocketAddrV6", "IpAddr", "Ipv4Addr", "Ipv6Addr", "AddrParseError"];
/// The one place that wraps a hash map, so that all others need none.
const TABLE: &str = "src/base/table.rs";

/// Lines of a file in `src`, its test module not counted.
const FILE_LINES_MAX: usize = 450;
/// Lines of a function, from `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 69;
const COLUMNS_MAX: usize = 120;
/// What the repository's top level may hold beside dot files and what `.gitignore` names.
const TOP_LEVEL: &[&str] =
    &["Cargo.toml", "Cargo.lock", "src", "tests", "benches", ".env.example", "README.md", "LICENSE"];
/// Marks of unfinished work, split so that this file does not find itself.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("unimplemented", "!"),
    concat!("todo", "!"),
    concat!("dbg", "!"),
    concat!("#[", "ignore"),
];

// ---------------------------------------------------------------------------------------------------- the rules

/// Imports point down only, and the outside world (L3) does not know the proxy's decisions (L2).
fn layering(file: &str, text: &str) -> Vec<String> {
    let (top, own) = place(file);
    let mut found = Vec::new();
    for path in paths(&tokens(text)) {
        let Some(target) = crate_module(file, &path) else { continue };
        if target == top && !top.is_empty() {
            continue;
        }
        match layer_of(&target) {
            None => found.push(format!("{file}:{}: `{target}` has no layer in tests/tidy.rs", path.line)),
            Some(layer) if layer > own || (own == OUTSIDE_LAYER && layer == 2) => {
                found.push(format!("{file}:{}: L{own} names `{target}` of L{layer}", path.line));
            }
            Some(_) => {}
        }
    }
    found
}

/// A dependency with an owner is named nowhere else.
fn ownership(file: &str, text: &str) -> Vec<String> {
    let (top, _) = place(file);
    let named = paths(&without_tests(&tokens(text)));
    let foreign = named.iter().filter_map(|path| {
        let (name, owners) = OWNERS.iter().find(|(name, _)| path.segments[0] == *name)?;
        let imported = path.segments.len() > 1 || path.in_use;
        (imported && !owners.contains(&top.as_str()))
            .then(|| format!("{file}:{}: `{name}` belongs to {owners:?}", path.line))
    });
    foreign.collect()
}

/// Below the outside world nothing reads a clock, opens a socket, starts a thread or iterates in random order.
fn purity(file: &str, text: &str) -> Vec<String> {
    if place(file).1 >= OUTSIDE_LAYER {
        return Vec::new();
    }
    let named = paths(&without_tests(&tokens(text)));
    let impure = named.iter().filter_map(|path| {
        let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
        let (_, why) = IMPURE.iter().find(|(banned, _)| segments.windows(banned.len()).any(|part| part == *banned))?;
        let address =
            segments.starts_with(&["std", "net"]) && segments.get(2).is_some_and(|s| ADDRESS_TYPES.contains(s));
        let table = file == TABLE && (segments.iter().any(|s| s.starts_with("Hash")) || segments[0] == "clippy");
        (!address && !table).then(|| format!("{file}:{}: `{}`: {why}", path.line, segments.join("::")))
    });
    impure.collect()
}

/// A file opens by saying what it is for.
fn opening(file: &str, text: &str) -> Vec<String> {
    if text.starts_with("//! ") { Vec::new() } else { vec![format!("{file}:1: does not open with `//!`")] }
}

/// Files, functions and lines that fit a reader's eye. Test modules hold data as it is recorded: only a `tests.rs` has
/// a size.
fn sizes(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let all = tokens(text);
    let tests: Vec<_> = test_modules(&all).iter().map(|&(from, to)| all[from].line..=all[to].line).collect();
    let lines = text.lines().count() - tests.iter().map(|lines| lines.clone().count()).sum::<usize>();
    if lines > FILE_LINES_MAX {
        found.push(format!("{file}:1: {lines} lines, at most {FILE_LINES_MAX}"));
    }
    if file.ends_with("/tests.rs") {
        return found;
    }
    for (name, line, length) in functions(&without_tests(&all)) {
        if length > FUNCTION_LINES_MAX {
            found.push(format!("{file}:{line}: fn {name} has {length} lines, at most {FUNCTION_LINES_MAX}"));
        }
    }
    for (line, columns) in (1..).zip(text.lines().map(|line| line.chars().count())) {
        if columns > COLUMNS_MAX && !tests.iter().any(|lines| lines.contains(&line)) {
            found.push(format!("{file}:{line}: {columns} columns, at most {COLUMNS_MAX}"));
        }
    }
    found
}

/// Nothing is left half done.
fn unfinished(file: &str, text: &str) -> Vec<String> {
    let marked = text.lines().enumerate().filter_map(|(n, line)| {
        let mark = UNFINISHED.iter().find(|mark| line.contains(**mark))?;
        Some(format!("{file}:{}: `{mark}`", n + 1))
    });
    marked.collect()
}

/// Every dependency says on the line above what it is for.
fn justified(manifest: &str) -> Vec<String> {
    let (mut found, mut in_dependencies, mut above) = (Vec::new(), false, "");
    for (n, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            in_dependencies = line.ends_with("dependencies]");
            if !in_dependencies && line.contains("dependencies.") {
                found.push(format!("Cargo.toml:{}: one line a dependency: {line}", n + 1));
            }
        } else if in_dependencies && line.contains('=') && !line.starts_with('#') && !above.starts_with("# ") {
            found.push(format!("Cargo.toml:{}: no comment above: {line}", n + 1));
        }
        above = line;
    }
    found
}

/// The top level stays as small as the project.
fn top_level(entries: &[String], gitignore: &str) -> Vec<String> {
    let ignored = |name: &str| {
        gitignore.lines().any(|rule| match rule.strip_prefix('*') {
            Some(ending) => name.ends_with(ending),
            None => rule.trim_matches('/') == name,
        })
    };
    let odd = entries
        .iter()
        .filter(|name| !TOP_LEVEL.contains(&name.as_str()) && !name.starts_with('.') && !ignored(name.as_str()));
    odd.map(|name| format!("{name}: does not belong at the top level")).collect()
}

/// One way to name a module's file: `name.rs` beside a folder `name`.
fn module_names(files: &[String]) -> Vec<String> {
    let twice = files.iter().filter(|file| file.starts_with("src/") && file.ends_with("/mod.rs"));
    twice.map(|file| format!("{file}: use name.rs beside the folder")).collect()
}

/// Both crate roots forbid unsafe code.
fn unsafe_forbidden(file: &str, text: &str) -> Vec<String> {
    let forbids = text.lines().any(|line| line == "#![forbid(unsafe_code)]");
    if forbids { Vec::new() } else { vec![format!("{file}:1: does not forbid unsafe_code")] }
}

// ------------------------------------------------------------------------------------------- layers of the crate

/// The top-level module of a file in `src` (`""` for the crate's roots) and its layer.
fn place(file: &str) -> (String, u8) {
    let module = module_path(file);
    match module.first() {
        None => (String::new(), ROOT_LAYER),
        Some(top) => (top.clone(), layer_of(top).unwrap_or(0)),
    }
}

fn layer_of(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

/// `src/http/head.rs` is `[http, head]`, `src/main.rs` and `src/lib.rs` are `[]`.
fn module_path(file: &str) -> Vec<String> {
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
    if matches!(inner, "main" | "lib") { Vec::new() } else { inner.split('/').map(String::from).collect() }
}

/// The top-level module that a path of this crate leads to; `None` for paths of other crates and local names.
fn crate_module(file: &str, path: &PathUse) -> Option<String> {
    let mut segments = path.segments.iter().map(String::as_str).skip_while(|s| *s == "self").peekable();
    match *segments.peek()? {
        "crate" if path.segments.len() == 1 && !path.in_use => None, // pub(crate)
        "crate" | "openai_api_proxy" => Some(segments.nth(1).unwrap_or("*").to_string()),
        "super" => {
            let mut at = module_path(file);
            at.extend((0..path.inline_depth).map(|_| String::from("inline")));
            while segments.next_if_eq(&"super").is_some() {
                at.pop();
            }
            Some(at.into_iter().next().unwrap_or_else(|| segments.next().unwrap_or("*").to_string()))
        }
        _ => None,
    }
}

// ------------------------------------------------------------------------------------------ the repository itself

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// Rust files under a folder of the repository, as paths from its root with `/`, sorted.
fn rust_files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(folder)).into_iter().flatten() {
        let entry = entry.expect("a readable folder");
        let name = format!("{folder}/{}", entry.file_name().to_str().expect("file names are UTF-8"));
        match entry.path().is_dir() {
            true => found.extend(rust_files(&name)),
            false if name.ends_with(".rs") => found.push(name),
            false => {}
        }
    }
    found.sort();
    found
}

fn sweep(folders: &[&str], rules: &[fn(&str, &str) -> Vec<String>]) {
    let files: Vec<String> = folders.iter().flat_map(|folder| rust_files(folder)).collect();
    assert!(files.contains(&format!("{}/{}", folders[0], "lib.rs")), "the sources are not where they were: {files:?}");
    none(files.iter().flat_map(|file| rules.iter().flat_map(|rule| rule(file, &read(file))).collect::<Vec<_>>()));
}

fn none(findings: impl IntoIterator<Item = String>) {
    let findings: Vec<String> = findings.into_iter().collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn the_architecture_holds() {
    sweep(&["src"], &[layering, ownership, purity]);
    none(["src/main.rs", "src/lib.rs"].iter().flat_map(|file| unsafe_forbidden(file, &read(file))));
    none(module_names(&rust_files("src")));
}

#[test]
fn files_are_readable_and_finished() {
    sweep(&["src"], &[sizes]);
    sweep(&["src", "tests", "benches"], &[opening, unfinished]);
    none([".ci/run", "Cargo.toml", "tests/fuzz/Cargo.toml"].iter().flat_map(|file| unfinished(file, &read(file))));
}

#[test]
fn the_repository_stays_small() {
    none(["Cargo.toml", "tests/fuzz/Cargo.toml"].iter().flat_map(|file| justified(&read(file))));
    let entries = std::fs::read_dir(root()).expect("the repository");
    let names: Vec<String> = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    none(top_level(&names, &read(".gitignore")));
}

// ------------------------------------------------------------------ each rule catches what it is there to catch

/// `found` names exactly these places (`file:line`), in order.
fn caught(found: &[String], places: &[&str]) {
    let at: Vec<&str> = found.iter().map(|f| f.split(": ").next().expect("a place")).collect();
    assert_eq!(at, places, "{found:#?}");
}

#[test]
fn layering_catches_imports_that_point_up() {
    let up = "use crate::http::Head;\nuse crate::{json, worker::WorkerEvent};\nfn f() { crate::reactor::run() }";
    caught(&layering("src/sse.rs", up), &["src/sse.rs:2", "src/sse.rs:3"]);
    caught(&layering("src/base/slab.rs", "use crate::http::Head;"), &["src/base/slab.rs:1"]);
    let chain = "use super::chunked;\nuse super::super::proxy::Exchange;\nmod m { use super::super::super::io; }";
    caught(&layering("src/http/head.rs", chain), &["src/http/head.rs:2", "src/http/head.rs:3"]);
    caught(&layering("src/worker/ledger.rs", "use crate::proxy::Exchange;"), &["src/worker/ledger.rs:1"]);
    caught(&layering("src/proxy.rs", "use crate::*;\nuse crate as root;"), &["src/proxy.rs:1", "src/proxy.rs:2"]);
    caught(&layering("src/sse.rs", "pub(crate) fn f() {} // crate::worker\nconst A: &str = \"crate::io::x\";"), &[]);
    caught(&layering("src/main.rs", "use openai_api_proxy::{config, reactor, nowhere};"), &["src/main.rs:1"]);
}

#[test]
fn ownership_catches_borrowed_dependencies() {
    let text = "use rustls::ClientConfig;\nfn f() { mio::Poll::new() }\nuse crate::tls::rustls;";
    caught(&ownership("src/proxy/upstream.rs", text), &["src/proxy/upstream.rs:1", "src/proxy/upstream.rs:2"]);
    caught(&ownership("src/tls.rs", "use rustls::{ClientConfig, RootCertStore};"), &[]);
    caught(
        &ownership("src/local/usage.rs", "use rusqlite;\nuse prometheus::*;"),
        &["src/local/usage.rs:1", "src/local/usage.rs:2"],
    );
}

#[test]
fn purity_catches_the_outside_world_in_a_core() {
    let sockets =
        "use std::net::{IpAddr, SocketAddr, TcpStream};\nuse std::{net, thread};\nfn f() { std::fs::read(p) }";
    caught(&purity("src/http.rs", sockets), &["src/http.rs:1", "src/http.rs:2", "src/http.rs:2", "src/http.rs:3"]);
    let clocks =
        "use std::time::{Duration, Instant};\nfn f() { let now = Instant::now(); std::time::SystemTime::now(); }";
    caught(&purity("src/proxy/exchange.rs", clocks), &["src/proxy/exchange.rs:2", "src/proxy/exchange.rs:2"]);
    let maps = "#![allow(clippy::disallowed_types)]\nuse std::collections::{BTreeMap, HashMap, HashSet};";
    caught(&purity("src/base/slab.rs", maps), &["src/base/slab.rs:1", "src/base/slab.rs:2", "src/base/slab.rs:2"]);
    caught(&purity(TABLE, maps), &[]);
    caught(&purity("src/worker.rs", clocks), &[]);
}

#[test]
fn opening_and_unsafe_catch_silent_files() {
    caught(&opening("src/a.rs", "use std::fmt;\n//! Late."), &["src/a.rs:1"]);
    caught(&opening("src/a.rs", "//! Its job."), &[]);
    caught(&unsafe_forbidden("src/lib.rs", "//! #![forbid(unsafe_code)]\n"), &["src/lib.rs:1"]);
}

#[test]
fn sizes_catch_what_outgrew_its_purpose() {
    let long = "//! x\n".repeat(FILE_LINES_MAX + 1);
    caught(&sizes("src/a.rs", &long), &["src/a.rs:1"]);
    caught(&sizes("src/a/tests.rs", &long), &["src/a/tests.rs:1"]);
    let data = format!("// {}\n", "x".repeat(COLUMNS_MAX)).repeat(50);
    let tests = format!("{}#[cfg(test)]\nmod tests {{\n{data}}}\n", "\n".repeat(FILE_LINES_MAX));
    caught(&sizes("src/a.rs", &tests), &[]);
    let function = |lines: usize| format!("\nfn f() {{\n{}}}\n", "g();\n".repeat(lines - 2));
    caught(&sizes("src/a.rs", &function(FUNCTION_LINES_MAX)), &[]);
    caught(&sizes("src/a.rs", &function(FUNCTION_LINES_MAX + 1)), &["src/a.rs:2"]);
    let wide = |columns: usize| format!("\n// {}", "é".repeat(columns - 3));
    caught(&sizes("src/a.rs", &wide(COLUMNS_MAX)), &[]);
    caught(&sizes("src/a.rs", &wide(COLUMNS_MAX + 1)), &["src/a.rs:2"]);
}

#[test]
fn unfinished_catches_every_mark() {
    for mark in UNFINISHED {
        caught(&unfinished("src/a.rs", &format!("fn f() {{\n    {mark}(1)]\n}}")), &["src/a.rs:2"]);
    }
}

#[test]
fn justified_catches_a_dependency_without_a_reason() {
    let manifest =
        "[package]\nname = \"x\"\n[dependencies]\n# Why.\na = \"1\"\nb = \"1\"\n[dev-dependencies]\nc = \"1\"\n";
    caught(&justified(manifest), &["Cargo.toml:6", "Cargo.toml:8"]);
    caught(
        &justified("[target.'cfg(unix)'.dependencies]\na = \"1\"\n[dependencies.b]\n"),
        &["Cargo.toml:2", "Cargo.toml:3"],
    );
}

#[test]
fn top_level_and_module_names_catch_strays() {
    let names = ["Cargo.toml", ".ci", "src", "target", "usage.db", "notes.md", "docs"].map(String::from);
    caught(&top_level(&names, "/target\n*.db\n"), &["notes.md", "docs"]);
    let files = ["src/http.rs", "src/http/mod.rs", "tests/support/mod.rs"].map(String::from);
    caught(&module_names(&files), &["src/http/mod.rs"]);
}
