//! Small sources that break each rule of `tidy`, and what is found in them: a rule that stopped looking fails here.

use super::coupling::coupling;
use super::graph::Source;
use super::{
    COLUMNS_MAX, FILE_LINES_MAX, FUNCTION_LINES_MAX, TABLE, UNFINISHED, faults_fit, joint_files, justified, layering,
    long_files, module_names, names_once, no_circles, opening, ownership, proofs, purity, sizes, strangers, top_level,
    unfinished, unsafe_forbidden,
};

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
fn strangers_catches_who_knows_too_much() {
    let text = "use crate::ledger::Question;\nuse crate::{base, ledger as store};\n// crate::ledger";
    caught(&strangers("src/config/value.rs", text), &["src/config/value.rs:1", "src/config/value.rs:2"]);
    caught(&strangers("src/ledger.rs", "fn f() { crate::local::Answer::new() }"), &["src/ledger.rs:1"]);
    caught(&strangers("src/reactor.rs", text), &[]);
}

fn planted(files: &[(&str, &str)]) -> Vec<Source> {
    files.iter().map(|(file, text)| (file.to_string(), text.to_string())).collect()
}

#[test]
fn no_circles_catches_new_ones_and_those_that_are_gone() {
    let circle = planted(&[("src/a/b.rs", "use super::c::C;"), ("src/a/c.rs", "use crate::a::b::B;")]);
    caught(&no_circles(&circle, &[]), &["src/a"]);
    caught(&no_circles(&circle, &[("src/a", &["b", "c"], "why")]), &[]);
    caught(&no_circles(&circle, &[("src/a", &["b", "c", "d"], "why")]), &["src/a", "src/a"]);
    let line = planted(&[("src/a/b.rs", "use super::c::C;"), ("src/a/c.rs", "")]);
    caught(&no_circles(&line, &[("src/a", &["b", "c"], "why")]), &["src/a"]);
}

#[test]
fn joint_files_catches_an_impl_elsewhere() {
    let text = "struct Proxy;\nimpl Proxy {}\nimpl fmt::Debug for super::Proxy<'_> where X: Y {}";
    let files =
        planted(&[("src/proxy.rs", text), ("src/proxy/retry.rs", "\nimpl<'a, T: Into<u8>> super::Proxy<'a, T> {}")]);
    caught(&joint_files(&files, &["src/proxy.rs"]), &["src/proxy/retry.rs:2"]);
    caught(&joint_files(&files, &[]), &["src/proxy.rs:2", "src/proxy.rs:3", "src/proxy/retry.rs:2"]);
    let others =
        "impl ProxyState {}\nimpl From<Proxy> for u8 {}\nfn f(p: impl Fn(Proxy) -> Proxy) {}\n// impl Proxy {}";
    let files = planted(&[("src/proxy.rs", others)]);
    caught(&joint_files(&files, &[]), &[]);
    caught(&joint_files(&files, &["src/proxy.rs", "src/gone.rs"]), &["src/proxy.rs", "src/gone.rs"]);
}

#[test]
fn coupling_counts_calls_between_files() {
    let files = planted(&[
        ("src/proxy.rs", "impl Proxy { fn a(&self) { self.b(); self.slab.d() } fn e() { Self::a() } }"),
        ("src/proxy/b.rs", "impl super::Proxy { fn b(&self) { self.c() } }"),
        ("src/proxy/c.rs", "impl Proxy { fn c(&self) { Self::b() } }\nimpl Other { fn d(&self) { self.a() } }"),
    ]);
    let found = coupling(&files, "Proxy");
    assert_eq!((found.files.len(), found.methods, found.calls.len()), (3, 4, 3));
    assert_eq!(Vec::from_iter(&found.largest), ["src/proxy/b.rs", "src/proxy/c.rs"]);
}

#[test]
fn names_once_catches_a_second_file_of_a_name() {
    let files = ["src/a.rs", "src/b/a.rs", "src/b/tests.rs", "src/c/tests.rs"].map(String::from);
    caught(&names_once(&files, &[]), &["src/a.rs"]);
    caught(&names_once(&files, &[(&["src/a.rs", "src/b/a.rs"], "why")]), &[]);
    caught(&names_once(&files, &[(&["src/a.rs", "src/b/a.rs", "src/c/a.rs"], "why")]), &["src/a.rs", "src/a.rs"]);
    caught(&names_once(&files[1..], &[(&["src/a.rs", "src/b/a.rs"], "why")]), &["src/a.rs"]);
}

#[test]
fn long_files_catches_what_is_longer_and_what_is_not() {
    let long = "//! x\n".repeat(FILE_LINES_MAX + 1);
    let tests = format!("{}#[cfg(test)]\nmod tests {{\n{long}}}\n", "\n".repeat(FILE_LINES_MAX));
    let files = planted(&[("src/long.rs", &long), ("src/short.rs", &tests), ("src/a/tests.rs", &long)]);
    caught(&long_files(&files, &[]), &["src/long.rs"]);
    caught(&long_files(&files, &[("src/long.rs", "why")]), &[]);
    let known = [("src/long.rs", "why"), ("src/short.rs", "why"), ("src/gone.rs", "why")];
    caught(&long_files(&files, &known), &["src/short.rs", "src/gone.rs"]);
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
    let data = format!("// {}\n", "x".repeat(COLUMNS_MAX)).repeat(50);
    caught(&sizes("src/a.rs", &format!("#[cfg(test)]\nmod tests {{\n{data}}}\n")), &[]);
    caught(&sizes("src/a/tests.rs", &data), &[]);
    let function = |lines: usize| format!("\nfn f() {{\n{}}}\n", "g();\n".repeat(lines - 2));
    caught(&sizes("src/a.rs", &function(FUNCTION_LINES_MAX)), &[]);
    caught(&sizes("src/a.rs", &function(FUNCTION_LINES_MAX + 1)), &["src/a.rs:2"]);
    let wide = |columns: usize| format!("\n// {}", "é".repeat(columns - 3));
    caught(&sizes("src/a.rs", &wide(COLUMNS_MAX)), &[]);
    caught(&sizes("src/a.rs", &wide(COLUMNS_MAX + 1)), &["src/a.rs:2"]);
}

#[test]
fn proofs_catches_a_promise_without_a_test() {
    let read = |file: &str| (file == "tests/a.rs").then(|| "fn helper() {}\n#[test]\nfn holds() {}".to_string());
    let table = |rows: &str| format!("# Title\n\n| promise | file | test |\n|---|---|---|\n{rows}");
    let there = "| **Part** | | |\n| It holds | `tests/a.rs` | `holds` |\n| | `tests/a.rs` | `holds` |\n";
    caught(&proofs("src/proofs.md", &table(there), read), &[]);
    let gone =
        "| It holds | `tests/a.rs` | `held` |\n| It helps | `tests/a.rs` | `helper` |\n| It is | `b.rs` | `holds` |\n";
    caught(&proofs("src/proofs.md", &table(gone), read), &["src/proofs.md:5", "src/proofs.md:6", "src/proofs.md:7"]);
    let nothing = "| **Part** | | |\n| | `tests/a.rs` | `holds` |\n| It holds | `tests/a.rs` |\n";
    caught(&proofs("src/proofs.md", &table(nothing), read), &["src/proofs.md:6", "src/proofs.md:7"]);
    caught(&proofs("src/proofs.md", &table(""), read), &["src/proofs.md:1"]);
}

#[test]
fn faults_fit_catches_text_that_has_moved() {
    let read = |file: &str| (file == "src/a.rs").then(|| "once();\ntwice();\ntwice();\n".to_string());
    let entry = |name: &str, file: &str, old: &str| {
        format!("\n== {name}\nWhy.\nfile: {file}\ntests: --lib\n<<<<\n{old}====\nnew();\n>>>>\n")
    };
    let list = |entries: &[String]| format!("About.\n{}", entries.concat());
    caught(&faults_fit(&list(&[entry("fits", "src/a.rs", "once();\n")]), read), &[]);
    let odd = [
        entry("gone", "src/a.rs", "never();\n"),
        entry("twice", "src/a.rs", "twice();\n"),
        entry("moved", "src/b.rs", "once();\n"),
        entry("empty", "src/a.rs", ""),
    ];
    assert_eq!(faults_fit(&list(&odd), read).len(), odd.len());
    let endless = entry("endless", "src/a.rs", "once();\n").replace(">>>>\n", "");
    assert_eq!(faults_fit(&list(&[endless]), read).len(), 1);
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
