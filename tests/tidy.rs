//! Holds the architecture by reading the sources as text: which layer may name which, who owns which dependency, that
//! cores stay pure, that no circle of files grows unseen, that one object does not spread over many files, that files
//! and functions stay readable, that the proofs which the crate's docs name are there, that nothing is left half done.
//!
//! Where a rule has exceptions, a table here lists each with its reason, and an entry that is needed no longer is a
//! finding too: the tables can only tell the truth. What the README and the licences say is in `readme` and
//! `supply_chain`.
//!
//! Every rule is a function from text to findings (`file:line: what is wrong`), and has a test of its own on a small
//! sample that breaks it (`tidy/planted.rs`), so that a rule which stopped looking would be seen. Comments and literals
//! are skipped by the small tokeniser in `tidy/rust_text.rs`.

#[path = "tidy/coupling.rs"]
mod coupling;
#[path = "tidy/graph.rs"]
mod graph;
#[path = "tidy/planted.rs"]
mod planted;
#[path = "tidy/rust_text.rs"]
mod rust_text;

use coupling::{coupling, impls};
use graph::{Source, absolute, circles, module_path};
use rust_text::{Kind, PathUse, functions, paths, test_modules, tokens, without_tests};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Top-level modules and their layer (DESIGN: imports point down only).
const LAYERS: &[(&str, u8)] = &[
    ("base", 0),
    ("access", 1),
    ("door", 1),
    ("http", 1),
    ("json", 1),
    ("limit", 1),
    ("local", 1),
    ("metrics", 1),
    ("policy", 1),
    ("price", 1),
    ("reconcile", 1),
    ("reporting", 1),
    ("sse", 1),
    ("tls", 1),
    ("usage", 1),
    ("websocket", 1),
    ("proxy", 2),
    ("config", 3),
    ("fleet", 3),
    ("io", 3),
    ("ledger", 3),
    ("postgres", 3),
    ("worker", 3),
    ("cli", 4),
    ("reactor", 4),
    ("reload", 4),
    ("signal", 4),
    ("systemd", 4),
];
/// `main.rs` and `lib.rs` wire everything.
const ROOT_LAYER: u8 = 4;
/// The lowest layer that touches the outside world: below it no clocks, sockets, threads, files.
const OUTSIDE_LAYER: u8 = 3;

/// What runs while the program is built, and is no part of it.
const BUILD_SCRIPT: &str = "src/manual/pack.rs";

/// Modules that know nothing of others although their layers would allow it: (who, of whom, why).
const STRANGERS: &[(&str, &[&str], &str)] = &[
    ("config", &["ledger", "worker"], "a setting is a value of its own"),
    ("ledger", &["local", "worker"], "the store has words of its own, and no thread"),
    ("fleet", &["local", "worker"], "the engine's side knows nothing of presentation, and no thread"),
    ("io", &["ledger", "worker"], "sockets carry bytes"),
    ("postgres", &["ledger", "worker"], "a client carries statements"),
];

/// Dependencies that only these top-level modules may name (`""` is the crate's root).
const OWNERS: &[(&str, &[&str])] = &[
    ("rustls", &["tls"]),
    ("ring", &["access", "local", "usage", "worker"]),
    ("base64", &["access", "config", "local"]),
    ("maud", &["local"]),
    ("plotters", &["local"]),
    ("webpki_roots", &["tls"]),
    ("prometheus", &["metrics"]),
    ("rusqlite", &["ledger", "worker"]),
    ("postgres_protocol", &["postgres"]),
    ("bytes", &["postgres"]),
    ("fallible_iterator", &["postgres"]),
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

/// Circles that are known of: the folder, which of its entries (a file, with the folder of its name), and why.
const CIRCLES: &[(&str, &[&str], &str)] = &[
    (
        "src/cli",
        &[
            "cli",
            "fleet_command",
            "help_command",
            "keys_command",
            "limits_command",
            "prices_command",
            "reconcile_command",
            "usage_command",
            "users_command",
        ],
        "a command reads its arguments with the helpers beside `Command`",
    ),
    ("src/proxy", &["invariants", "proxy"], "the invariants are of the whole object, for tests alone"),
    (
        "src/proxy",
        &["actions", "dialer", "downstream", "exchange", "timing", "upstream"],
        "a key has the type of what it finds, and what it finds holds keys; deadlines follow from the states they end",
    ),
];

/// The object that joins everything, and the only files in which its `impl` stands.
const JOINT: &str = "Proxy";
const JOINT_FILES: &[&str] = &["src/proxy.rs", "src/proxy/downstream_side.rs", "src/proxy/upstream_side.rs"];
/// From how many of these files to how many others a method is called, and how many reach each other so: what there is,
/// to be lowered with it.
const JOINT_CALLS_MAX: usize = 6;
const JOINT_COMPONENT_MAX: usize = 3;

/// Names that more files than one have, which ones, and why.
const NAMES: &[(&[&str], &str)] =
    &[(&["src/ledger.rs", "src/worker/ledger.rs"], "the store, and the thread that writes it")];

/// Lines of a file in `src`, its tests not counted, from which on it has to say why.
const FILE_LINES_MAX: usize = 400;
/// Files that are longer, and why.
const LONG_FILES: &[(&str, &str)] = &[
    ("src/proxy.rs", "every way into the object stands in one file"),
    ("src/metrics.rs", "all counters that a record moves, and what a scrape takes of them"),
    ("src/usage/record.rs", "one record, with all that is a part of it"),
    ("src/proxy/downstream_side.rs", "one of the two files of the object's methods: a client's side of an exchange"),
    ("src/proxy/upstream_side.rs", "the other: the target's side"),
    ("src/tls.rs", "the library is known to this file only, so that it can be swapped here"),
    ("src/worker/ledger.rs", "the ledger's thread: what it does between two commits, in the order in which it does it"),
];
/// Lines of a function, from `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 69;
const COLUMNS_MAX: usize = 120;
/// The tables of the crate's docs: which test holds which promise.
const PROOFS: [&str; 2] = ["src/proofs.md", "src/threats.md"];
/// The faults that `tests/mutations/run` puts into the sources.
const FAULTS: &str = "tests/mutations/faults.txt";
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

/// A module does not name those that it is to know nothing of.
fn strangers(file: &str, text: &str) -> Vec<String> {
    let (top, _) = place(file);
    let Some((_, unknown, why)) = STRANGERS.iter().find(|(who, ..)| *who == top) else { return Vec::new() };
    let named = paths(&without_tests(&tokens(text)));
    let targets = named.iter().filter_map(|path| Some((path.line, crate_module(file, path)?)));
    let met = targets.filter(|(_, target)| unknown.contains(&target.as_str()));
    met.map(|(line, target)| format!("{file}:{line}: `{top}` knows nothing of `{target}`: {why}")).collect()
}

/// No circle among the entries of a folder but those of this list, each of which is there.
fn no_circles(sources: &[Source], known: &[(&str, &[&str], &str)]) -> Vec<String> {
    let circles = circles(sources);
    let mut left: Vec<_> = known.iter().map(|(folder, entries, _)| (*folder, entries.to_vec())).collect();
    let mut found = Vec::new();
    for circle in &circles {
        let entries: Vec<&str> = circle.entries.iter().map(String::as_str).collect();
        match left.iter().position(|known| *known == (circle.folder.as_str(), entries.clone())) {
            Some(at) => drop(left.swap_remove(at)),
            None => {
                found.push(format!("{}: a circle of {entries:?}:\n    {}", circle.folder, circle.places.join("\n    ")))
            }
        }
    }
    found.extend(left.iter().map(|(folder, entries)| format!("{folder}: {entries:?} are no circle: strike them out")));
    found
}

/// The `impl` of the object that joins everything stands in these files, and in each of them.
fn joint_files(sources: &[Source], allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in sources {
        let lines = impls(text, JOINT);
        match allowed.contains(&file.as_str()) {
            true if lines.is_empty() => found.push(format!("{file}: no `impl {JOINT}` any more: strike it out")),
            true => {}
            false => {
                found.extend(lines.iter().map(|line| format!("{file}:{line}: `impl {JOINT}` does not belong here")))
            }
        }
    }
    let gone = allowed.iter().filter(|file| !sources.iter().any(|(name, _)| name == *file));
    found.extend(gone.map(|file| format!("{file}: is gone: strike it out")));
    found
}

/// A file's name stands once in the tree, so that whoever hears it knows where to look.
fn names_once(files: &[String], known: &[(&[&str], &str)]) -> Vec<String> {
    let mut by_name: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.ends_with("/tests.rs")) {
        by_name.entry(file.rsplit('/').next().expect("a name")).or_default().insert(file);
    }
    let twice: BTreeSet<_> = by_name.into_values().filter(|files| files.len() > 1).collect();
    let known: BTreeSet<BTreeSet<&str>> = known.iter().map(|(files, _)| files.iter().copied().collect()).collect();
    let say = |files: &BTreeSet<&str>, what| format!("{}: {what} {files:?}", files.first().expect("two"));
    let new = twice.difference(&known).map(|files| say(files, "one name, several files:"));
    new.chain(known.difference(&twice).map(|files| say(files, "are not all the files of a name: strike out"))).collect()
}

/// A long file is a known one, and a known one is long.
fn long_files(sources: &[Source], known: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in sources.iter().filter(|(file, _)| !file.ends_with("/tests.rs")) {
        let all = tokens(text);
        let tests = test_modules(&all).iter().map(|&(from, to)| all[to].line - all[from].line + 1).sum::<usize>();
        let lines = text.lines().count() - tests;
        match known.iter().any(|(name, _)| name == file) {
            false if lines > FILE_LINES_MAX => {
                found.push(format!("{file}: {lines} lines: say why it is more than {FILE_LINES_MAX}, or part it"));
            }
            true if lines <= FILE_LINES_MAX => found.push(format!("{file}: is not long: strike it out")),
            _ => {}
        }
    }
    let gone = known.iter().filter(|(file, _)| !sources.iter().any(|(name, _)| name == file));
    found.extend(gone.map(|(file, _)| format!("{file}: is gone: strike it out")));
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

/// Functions and lines that fit a reader's eye. Tests hold data as it is recorded.
fn sizes(file: &str, text: &str) -> Vec<String> {
    if file.ends_with("/tests.rs") {
        return Vec::new();
    }
    let mut found = Vec::new();
    let all = tokens(text);
    let tests: Vec<_> = test_modules(&all).iter().map(|&(from, to)| all[from].line..=all[to].line).collect();
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

/// Every row of the table of proofs has a promise, of its own or of the row above, and names a test that is there.
/// `read` gives a file's text.
fn proofs(name: &str, table: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    let (mut promised, mut tests) = (false, 0);
    for (line, text) in (1..).zip(table.lines()).filter(|(_, text)| text.starts_with("| ")) {
        let cells: Vec<&str> = text.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let ["", promise, file, test, ""] = cells[..] else {
            found.push(format!("{name}:{line}: not three cells"));
            continue;
        };
        if [promise, file, test] == ["promise", "file", "test"] || promise.starts_with("**") {
            promised = false;
            continue;
        }
        promised |= !promise.is_empty();
        tests += 1;
        let is_there = read(file).is_some_and(|text| has_test(&text, test));
        if !promised {
            found.push(format!("{name}:{line}: proves nothing"));
        }
        if !is_there {
            found.push(format!("{name}:{line}: no test `{test}` in {file}"));
        }
    }
    if tests == 0 {
        found.push(format!("{name}:1: no table"));
    }
    found
}

/// Whether a file has a test of this name.
fn has_test(text: &str, name: &str) -> bool {
    let wanted = [Kind::Word("test"), Kind::Mark(']'), Kind::Word("fn"), Kind::Word(name)];
    tokens(text).windows(wanted.len()).any(|window| window.iter().map(|token| token.kind).eq(wanted))
}

/// Each deliberate fault stands where it is to be put in: its text is in its file, once. `read` gives a file's text.
fn faults_fit(list: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    for entry in list.split("\n== ").skip(1) {
        let name = entry.lines().next().unwrap_or_default();
        let file = entry.lines().find_map(|line| line.strip_prefix("file: ")).unwrap_or_default();
        let old = entry.split_once("\n<<<<\n").and_then(|(_, rest)| rest.split_once("====\n"));
        let count = match (old, read(file)) {
            (Some((old, _)), Some(text)) if !old.is_empty() => text.matches(old).count(),
            _ => 0,
        };
        if !entry.trim_end().ends_with("\n>>>>") {
            found.push(format!("{FAULTS}: {name}: does not end with `>>>>`"));
        }
        if count != 1 {
            found.push(format!("{FAULTS}: {name}: its text stands {count} times in {file:?}, not once"));
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
        _ if file == BUILD_SCRIPT => (String::new(), ROOT_LAYER),
        None => (String::new(), ROOT_LAYER),
        Some(top) => (top.clone(), layer_of(top).unwrap_or(0)),
    }
}

fn layer_of(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

/// The top-level module that a path of this crate leads to; `None` for paths of other crates and local names.
fn crate_module(file: &str, path: &PathUse) -> Option<String> {
    let to = absolute(file, path, |_| false)?;
    Some(to.into_iter().next().unwrap_or_else(|| String::from("*")))
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

/// Every file of `src` with its text.
fn sources() -> Vec<Source> {
    rust_files("src").into_iter().map(|file| (file.clone(), read(&file))).collect()
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
    sweep(&["src"], &[layering, strangers, ownership, purity]);
    none(no_circles(&sources(), CIRCLES));
    none(["src/main.rs", "src/lib.rs"].iter().flat_map(|file| unsafe_forbidden(file, &read(file))));
    none(module_names(&rust_files("src")));
}

/// `cargo test --test tidy one_object -- --nocapture` says how it stands.
#[test]
fn one_object_does_not_spread() {
    let sources = sources();
    none(joint_files(&sources, JOINT_FILES));
    let of = coupling(&sources, JOINT);
    let (files, methods, calls, largest) = (of.files.len(), of.methods, of.calls.len(), of.largest.len());
    println!(
        "{JOINT}: {methods} methods in {files} files; {calls} times one file calls into another; {largest} files are one \
         circle: {:?}",
        of.largest
    );
    assert!(files > 0, "there is no {JOINT}");
    assert!(calls <= JOINT_CALLS_MAX && largest <= JOINT_COMPONENT_MAX, "{:#?}", of.calls);
}

#[test]
fn files_are_readable_and_finished() {
    none(long_files(&sources(), LONG_FILES));
    none(names_once(&rust_files("src"), NAMES));
    sweep(&["src", "tests", "benches"], &[opening, unfinished]);
    sweep(&["src"], &[sizes]);
    none([".ci/run", "Cargo.toml", "tests/fuzz/Cargo.toml"].iter().flat_map(|file| unfinished(file, &read(file))));
}

#[test]
fn every_promise_has_its_test_and_every_fault_its_place() {
    let there = |file: &str| std::fs::read_to_string(root().join(file)).ok();
    PROOFS.iter().for_each(|name| none(proofs(name, &read(name), there)));
    none(faults_fit(&read(FAULTS), there));
}

#[test]
fn the_repository_stays_small() {
    none(["Cargo.toml", "tests/fuzz/Cargo.toml"].iter().flat_map(|file| justified(&read(file))));
    let entries = std::fs::read_dir(root()).expect("the repository");
    let names: Vec<String> = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    none(top_level(&names, &read(".gitignore")));
}
