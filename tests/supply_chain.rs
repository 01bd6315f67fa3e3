//! What the crate is built from: licences that allow it, one version of each crate, one registry, locked, and no unsafe
//! code of ours.
//!
//! In: both lock files as text (all platforms), and `cargo metadata` for this platform (of the others the sources are
//! not here). Out: findings. Nothing is fetched.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Licences under which a crate may come in: permissive ones, that ask for no more than their text.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0", // data: Mozilla's trust anchors
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that are there in two versions which do not replace each other, and why.
const TWICE: &[(&str, &str)] = &[
    ("base64", "postgres-protocol 0.6 stays at 0.22"),
    ("fallible-iterator", "postgres-protocol 0.6 stays at 0.2; rusqlite 0.41 needs 0.3"),
    ("getrandom", "ring 0.17 stays at 0.2; tempfile and others in tests need 0.4"),
    ("syn", "only while building derives: zerocopy's, in benchmarks, are still at 2"),
    ("windows-sys", "for Windows only, where ring 0.17 stays at 0.52"),
];

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// A package in a lock file.
#[derive(Debug, PartialEq, Eq)]
struct Locked {
    name: String,
    version: String,
    source: Option<String>,
    has_checksum: bool,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn packages(lock: &str) -> Vec<Locked> {
    let value = |package: &str, key: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(&format!("{key} = \"")));
        line.and_then(|value| value.strip_suffix('"')).map(str::to_owned)
    };
    let parse = |package: &str| Locked {
        name: value(package, "name").expect("a name"),
        version: value(package, "version").expect("a version"),
        source: value(package, "source"),
        has_checksum: value(package, "checksum").is_some(),
    };
    lock.split("[[package]]\n").skip(1).map(parse).collect()
}

/// The part of a version within which one replaces another: `1`, `0.4`, `0.0.3`.
fn major(version: &str) -> String {
    let mut parts: Vec<&str> = version.split(['.', '+', '-']).take(3).collect();
    let first = parts.iter().position(|&part| part != "0").unwrap_or(2);
    parts.truncate(first + 1);
    parts.join(".")
}

fn check_lock(packages: &[Locked], allowed_twice: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut majors: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for Locked { name, version, source, has_checksum } in packages {
        majors.entry(name).or_default().insert(major(version));
        let is_ours = name.starts_with("openai-api-proxy");
        match source.as_deref() {
            None if is_ours => {}
            Some(REGISTRY) if *has_checksum => {}
            other => found.push(format!("{name} {version} comes from {other:?}, checksum {has_checksum}")),
        }
    }
    for (name, majors) in majors {
        if majors.len() > 1 && !allowed_twice.contains(&name) {
            found.push(format!("{name} is there as {majors:?}"));
        }
    }
    found
}

/// True where the expression (SPDX, or crates.io's older `A/B`) can be met with the licences of the list.
fn is_allowed(expression: &str) -> bool {
    let plain = expression.replace('/', " OR ").replace("Apache-2.0 WITH LLVM-exception", "Apache-2.0");
    let mut words = Vec::new();
    for word in plain.split_whitespace() {
        let name = word.trim_start_matches('(');
        words.extend(std::iter::repeat_n("(", word.len() - name.len()));
        let inner = name.trim_end_matches(')');
        words.push(inner);
        words.extend(std::iter::repeat_n(")", name.len() - inner.len()));
    }
    let mut rest = &words[..];
    any(&mut rest) && rest.is_empty()
}

/// `A OR B`, which binds less than `AND`.
fn any(words: &mut &[&str]) -> bool {
    let mut allowed = all(words);
    while let Some(rest) = words.strip_prefix(&["OR"]) {
        *words = rest;
        allowed |= all(words);
    }
    allowed
}

fn all(words: &mut &[&str]) -> bool {
    let mut allowed = one(words);
    while let Some(rest) = words.strip_prefix(&["AND"]) {
        *words = rest;
        allowed &= one(words);
    }
    allowed
}

fn one(words: &mut &[&str]) -> bool {
    let Some((&first, rest)) = words.split_first() else { return false };
    *words = rest;
    if first != "(" {
        return LICENCES.contains(&first);
    }
    let allowed = any(words);
    let closed = words.strip_prefix(&[")"]);
    *words = closed.unwrap_or_default();
    allowed && closed.is_some()
}

/// `cargo metadata` for this platform.
fn metadata() -> Value {
    let cargo = || Command::new(env!("CARGO"));
    let version = cargo().arg("-vV").output().expect("cargo runs");
    let version = String::from_utf8(version.stdout).expect("text");
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let arguments = ["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", host];
    let output = cargo().args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn one_registry_and_one_version_of_each() {
    let mut twice = BTreeSet::new();
    for lock in ["Cargo.lock", "tests/fuzz/Cargo.lock"] {
        let packages = packages(&read(lock));
        assert!(packages.len() > 20, "{lock}: {} packages", packages.len());
        let allowed: Vec<&str> = TWICE.iter().map(|&(name, _)| name).collect();
        assert_eq!(check_lock(&packages, &allowed), [""; 0], "{lock}");
        let without = check_lock(&packages, &[]);
        twice.extend(without.iter().filter_map(|found| Some(found.split_once(" is there")?.0.to_owned())));
        println!("{lock}: {} packages", packages.len());
    }
    let listed: BTreeSet<String> = TWICE.iter().map(|&(name, _)| name.to_owned()).collect();
    assert_eq!(twice, listed, "what the list allows is there");
}

#[test]
fn every_licence_is_on_the_list() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    for package in packages {
        let (name, licence) = (&package["name"], package["license"].as_str().unwrap_or_default());
        assert!(is_allowed(licence), "{name}: {licence:?} is not on the list");
    }
    println!("{} packages for this platform", packages.len());
}

#[test]
fn every_crate_of_ours_forbids_unsafe_code() {
    let metadata = metadata();
    let ours = metadata["packages"].as_array().expect("packages").iter().find(|package| package["source"].is_null());
    let targets = ours.expect("our package")["targets"].as_array().expect("targets");
    let mut roots = 0;
    for target in targets {
        let kinds: Vec<&str> = target["kind"].as_array().expect("kinds").iter().filter_map(Value::as_str).collect();
        if kinds.iter().any(|kind| matches!(*kind, "lib" | "bin" | "custom-build")) {
            let path = target["src_path"].as_str().expect("a path");
            let text = std::fs::read_to_string(path).expect("a root");
            assert!(text.lines().any(|line| line == "#![forbid(unsafe_code)]"), "{path}");
            roots += 1;
        }
    }
    assert_eq!(roots, 2, "the library and the binary");
}

/// A lock file that is not in the repository locks nothing. Outside of a repository there is nothing to look at.
#[test]
fn the_lock_files_are_committed() {
    let listed = Command::new("git").args(["ls-files", "*Cargo.lock"]).current_dir(root()).output();
    let listed = listed.ok().filter(|output| output.status.success());
    let ignored = read(".gitignore").lines().any(|line| line.trim_start_matches('/').starts_with("Cargo.lock"));
    assert!(!ignored, "Cargo.lock is ignored");
    let Some(listed) = listed else { return println!("SKIPPED: no repository") };
    let listed = String::from_utf8(listed.stdout).expect("text");
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["Cargo.lock", "tests/fuzz/Cargo.lock"]);
}

#[test]
fn the_rules_find_what_breaks_them() {
    let locked = |name: &str, version: &str, source: Option<&str>, has_checksum| Locked {
        name: name.to_owned(),
        version: version.to_owned(),
        source: source.map(str::to_owned),
        has_checksum,
    };
    let fine = [locked("a", "0.2.9", Some(REGISTRY), true), locked("a", "0.2.11", Some(REGISTRY), true)];
    assert_eq!(check_lock(&fine, &[]), [""; 0]);
    let second = [locked("a", "0.2.9", Some(REGISTRY), true), locked("a", "0.3.0", Some(REGISTRY), true)];
    assert_eq!((check_lock(&second, &[]).len(), check_lock(&second, &["a"]).len()), (1, 0));
    for source in [None, Some("git+https://example.com/a#1"), Some("registry+https://example.com/index")] {
        assert_eq!(check_lock(&[locked("a", "1.0.0", source, true)], &[]).len(), 1);
    }
    assert_eq!(check_lock(&[locked("a", "1.0.0", Some(REGISTRY), false)], &[]).len(), 1);
    let text = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.2.3\"\ndependencies = [\n \"b\",\n]\n";
    assert_eq!(packages(text), [locked("a", "1.2.3", None, false)]);
    for (version, part) in [("1.2.3", "1"), ("0.4.1", "0.4"), ("0.0.3", "0.0.3"), ("2.0.0-rc.1", "2")] {
        assert_eq!(major(version), part);
    }
    for (expression, allowed) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("(MIT OR ISC) AND GPL-3.0", false),
        ("Unlicense/MIT", true),
        ("MIT ISC", false),
        ("(MIT", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression), allowed, "{expression:?}");
    }
}
