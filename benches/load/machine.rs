//! Where a table was made: the machine, and the versions of what was measured.
//!
//! In: `/proc` and the peers' own words. Out: lines of text. Never: a name of a host or a user.

use crate::peers;
use crate::process;
use crate::target::Kind;
use std::process::Command;

/// Prints machine and versions.
pub fn print(targets: &[Kind]) {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown CPU");
    let model = model.trim_start_matches([':', ' ', '\t']);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let kernel = read("/proc/sys/kernel/osrelease");
    println!("machine: {model}, {cores} cores, {} {}", std::env::consts::OS, kernel.trim());
    let versions = targets.iter().filter(|kind| kind.is_peer()).map(|kind| format!(", {}", version(*kind)));
    println!("versions: proxy {}{}", env!("CARGO_PKG_VERSION"), versions.collect::<String>());
    match process::are_pinned() {
        true => println!("the target has core 0, mock and generator share core 1"),
        false => println!("no cores of their own: there is only one, or no taskset"),
    }
}

/// Name and version of a peer, as it tells it.
fn version(kind: Kind) -> String {
    let flag = if kind == Kind::Litellm { "--version" } else { "-v" };
    let said = peers::executable(kind.name()).and_then(|file| Command::new(file).arg(flag).output().ok());
    let said = said.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    format!("{} {}", kind.name(), said.split([' ', '/', '\n']).find(is_version).unwrap_or("of unknown version"))
}
