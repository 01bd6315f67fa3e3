//! Programs that tests hold the proxy against: found where they are installed, else the test is skipped aloud.

use super::skip;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The path of an installed program; also where Debian keeps servers, which an ordinary user's PATH lacks.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/usr/local/sbin"]);
    let found = folders.map(|folder| Path::new(folder).join(program)).find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("{program} is not installed"));
    }
    found
}

/// A Python (`HTTP_PYTHON`, else `python3`) that imports these modules, set to run a script of `tests/`.
pub fn python(modules: &str, script: &str) -> Option<Command> {
    let python = std::env::var("HTTP_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let missing = format!("no Python with {modules} (set HTTP_PYTHON)");
    able(&python, &["-c", &format!("import {modules}")], script, &missing)
}

/// Node, set to run a script of `tests/`; with a package, which is in `node_modules` of `HTTP_NODE_MODULES`.
pub fn node(package: Option<&str>, script: &str) -> Option<Command> {
    let folder = std::env::var("HTTP_NODE_MODULES").unwrap_or_default();
    let check = package.map_or_else(String::new, |name| format!("require({folder:?} + '/node_modules/' + {name:?})"));
    let missing =
        format!("no Node {} (set HTTP_NODE_MODULES)", package.map_or_else(String::new, |n| format!("with {n}")));
    able("node", &["-e", &check], script, &missing)
}

fn able(program: &str, check: &[&str], script: &str, missing: &str) -> Option<Command> {
    if !Command::new(program).args(check).output().is_ok_and(|output| output.status.success()) {
        skip(missing);
        return None;
    }
    let mut command = Command::new(program);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script));
    Some(command)
}
