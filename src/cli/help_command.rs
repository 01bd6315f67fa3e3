//! `proxy-server help`: the commands, and the manual's pages.
//!
//! In: a name. Out: a text. A command has its own help, which comes first where a page of the manual has the same name.

use super::{COMMANDS, Command, HELP, next, unexpected};
use crate::base::edit_distance::nearest;
use crate::local::language::Language;
use crate::local::manual::plain::plain;
use crate::local::manual::subjects::{SUBJECTS, Subject};
use crate::local::manual::{Pages, UNIT, subject};
use lexopt::{Arg, Parser};
use std::io::{IsTerminal as _, Write as _};
use std::process::Stdio;

/// What of the manual is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelpCommand {
    List,
    Page(&'static Subject),
}

/// Places in a line where nobody says how many there are, and at most: longer lines are hard to read.
const COLUMNS: usize = 80;
const COLUMNS_MAX: usize = 100;

/// The page that has a file for systemd.
const WITH_UNIT: &str = "systemd";

pub(super) fn parse(parser: &mut Parser) -> Result<Command, String> {
    let (mut name, mut list, mut is_page, mut unit) = (None, false, false, false);
    while let Some(argument) = next(parser)? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Print(HELP)),
            Arg::Long("list") => list = true,
            Arg::Long("page") => is_page = true,
            Arg::Long("unit") => unit = true,
            Arg::Value(value) if name.is_none() => name = Some(value.to_string_lossy().into_owned()),
            extra => return Err(unexpected(&extra)),
        }
    }
    match name.as_deref() {
        None if is_page || unit => Err("of which page? help --list has them".to_owned()),
        None if list => Ok(Command::Help(HelpCommand::List)),
        None => Ok(Command::Print(HELP)),
        Some(_) if list => Err("--list has all pages; try help --list".to_owned()),
        Some(WITH_UNIT) if unit => Ok(Command::Print(UNIT)),
        Some(_) if unit => Err(format!("--unit belongs to help {WITH_UNIT}")),
        Some(name) => named(name, is_page),
    }
}

fn named(name: &str, is_page: bool) -> Result<Command, String> {
    if let Some((_, help)) = COMMANDS.iter().find(|(known, _)| *known == name && !is_page) {
        return Ok(Command::Print(help));
    }
    if let Some(subject) = subject(name) {
        return Ok(Command::Help(HelpCommand::Page(subject)));
    }
    let commands = COMMANDS.iter().map(|(known, _)| *known).filter(|_| !is_page);
    match nearest(name, commands.chain(SUBJECTS.iter().map(|subject| subject.name))) {
        Some(near) => Err(format!("no command and no page {name:?}; did you mean {near}?")),
        None => Err(format!("no command and no page {name:?}; try help --list")),
    }
}

/// The text that is asked for, in lines of so many places, if somebody says.
pub fn text(command: HelpCommand, columns: Option<usize>, language: Language) -> String {
    match command {
        HelpCommand::Page(subject) => {
            plain(Pages::unpacked().page(subject, language), columns.unwrap_or(COLUMNS).min(COLUMNS_MAX))
        }
        HelpCommand::List => {
            let about = |subject: &Subject| match language {
                Language::English => subject.about[0],
                Language::Japanese => subject.about[1],
            };
            SUBJECTS.iter().map(|subject| format!("{:14} {}\n", subject.name, about(subject))).collect()
        }
    }
}

/// The language of whoever runs the program: what the first of these variables says that says anything (POSIX, *Base
/// Definitions* 8.2).
pub fn language(variable: impl Fn(&str) -> Option<String>) -> Language {
    let locale = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().filter_map(variable).find(|locale| !locale.is_empty());
    match locale {
        Some(locale) if locale.starts_with("ja") => Language::Japanese,
        _ => Language::English,
    }
}

/// Shows a text page by page, where somebody looks: by `PAGER`, else by `less`. False where that cannot be.
pub fn paged(text: &str, pager: Option<String>) -> bool {
    let pager = pager.unwrap_or_else(|| "less -F -X".to_owned());
    if pager.trim().is_empty() || !std::io::stdout().is_terminal() {
        return false;
    }
    let started = std::process::Command::new("sh").args(["-c", &pager]).stdin(Stdio::piped()).spawn();
    let Ok(mut child) = started else { return false };
    if let Some(mut input) = child.stdin.take() {
        // Who has read enough closes it.
        let _ = input.write_all(text.as_bytes());
    }
    // What the shell says of a command that is not there (POSIX, 2.8.2), in words as well.
    child.wait().is_ok_and(|status| !matches!(status.code(), Some(126 | 127)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;
    use super::*;

    #[test]
    fn commands_come_first_and_pages_are_found() {
        let of = |name| Ok(Command::Help(HelpCommand::Page(subject(name).unwrap())));
        for (line, found) in [
            ("help tls", of("tls")),
            ("help tls --page", of("tls")),
            ("help usage --page", of("usage")),
            ("help usage", Ok(Command::Print(super::super::usage_command::HELP))),
            ("help --list", Ok(Command::Help(HelpCommand::List))),
            ("help systemd --unit", Ok(Command::Print(UNIT))),
        ] {
            assert_eq!(parse(line), found, "{line}");
        }
        for (line, why) in [
            ("help durabilty", "no command and no page \"durabilty\"; did you mean durability?"),
            ("help serve --page", "no command and no page \"serve\"; try help --list"),
            ("help tls --unit", "--unit belongs to help systemd"),
            ("help --page", "of which page? help --list has them"),
            ("help tls --list", "--list has all pages; try help --list"),
            ("help tls log", "unexpected argument \"log\"; try help --help"),
        ] {
            assert_eq!(parse(line), Err(why.to_owned()), "{line}");
        }
    }

    #[test]
    fn a_commands_help_names_the_page_of_the_same_name() {
        for (name, help) in COMMANDS.iter().filter(|(name, _)| subject(name).is_some()) {
            assert!(help.contains(&format!("proxy-server help {name} --page")), "{name}");
        }
    }

    #[test]
    fn the_environment_says_the_language() {
        let of = |set: &'static [(&str, &str)]| {
            language(|name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(of(&[("LANG", "ja_JP.UTF-8")]), Language::Japanese);
        assert_eq!(of(&[("LC_ALL", ""), ("LC_MESSAGES", "ja"), ("LANG", "C")]), Language::Japanese);
        assert_eq!(of(&[("LC_ALL", "C"), ("LANG", "ja_JP.UTF-8")]), Language::English);
        assert_eq!(of(&[]), Language::English);
    }

    #[test]
    fn the_list_has_a_line_for_each_page() {
        let list = text(HelpCommand::List, None, Language::Japanese);
        assert_eq!(list.lines().count(), SUBJECTS.len());
        assert!(list.contains("\ntls            クライアントとの HTTPS\n"), "{list}");
    }
}
