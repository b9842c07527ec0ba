//! The man page: mandoc finds nothing wrong with it, and it says of commands, flags and exit codes what the help texts
//! say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scratch::Scratch;
use crate::support::program::Process;

/// The help text of a command, or of a command and its action; of neither, the overview.
fn help(place: &str) -> String {
    let mut arguments: Vec<_> = place.split_whitespace().collect();
    arguments.push("--help");
    let outcome = Scratch::new().run(&arguments);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy/cloacinactl.1")
}

/// The page as people read it, on a screen so wide that no line is broken.
fn shown() -> String {
    let mut command = Command::new("mandoc");
    command.args(["-T", "utf8", "-O", "width=900"]).arg(page());
    let printed = Process::start(command).ended().expect_code(0).stdout;
    // What is bold or underlined is struck twice.
    let mut text = String::new();
    for c in printed.chars() {
        match c {
            '\u{8}' => drop(text.pop()),
            c => text.push(c),
        }
    }
    assert!(text.contains("EXIT STATUS\n"), "{text}");
    text
}

/// The commands, and those with an action, each with its help.
fn places() -> BTreeMap<String, String> {
    let overview = help("");
    let commands = overview.split_once("Commands:\n").unwrap().1.lines().take_while(|line| !line.is_empty());
    let mut places = BTreeMap::new();
    for command in commands.filter_map(|line| line.split_whitespace().next()) {
        let text = help(command);
        for usage in usages(&text) {
            let action = usage.split(' ').nth(1).filter(|word| word.chars().all(|c| c.is_ascii_lowercase()));
            if let Some(action) = action {
                let place = format!("{command} {action}");
                places.insert(place.clone(), help(&place));
            }
        }
        places.insert(command.to_owned(), text);
    }
    assert!(places.len() >= 15, "{:?}", places.keys());
    places
}

/// How the commands of a help text are used, without the flags that stand before every command.
fn usages(help: &str) -> Vec<&str> {
    let lines =
        help.lines().filter_map(|line| line.split_once("cloacinactl [--home DIR] ").map(|(_, usage)| usage));
    let lines = lines.map(|usage| usage.trim_start_matches("[-v|--verbose] "));
    lines.filter(|usage| *usage != "COMMAND").collect()
}

/// Each flag that a text explains, with its value, and the explanation.
fn flags(text: &str) -> BTreeSet<(String, String)> {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<_> = text.lines().collect();
    let mut flags = BTreeSet::new();
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.trim_start().starts_with('-')) {
        let explained = lines[index + 1..].iter().take_while(|below| depth(below) > depth(line));
        let explained = explained.flat_map(|line| line.split_whitespace()).collect::<Vec<_>>().join(" ");
        assert!(!explained.is_empty(), "{line}");
        flags.insert((line.trim().to_owned(), explained));
    }
    assert!(flags.len() >= 4, "{text}");
    flags
}

#[test]
fn mandoc_finds_nothing_wrong() {
    let mut command = Command::new("mandoc");
    command.args(["-T", "lint", "-W", "warning"]).arg(page());
    let ended = Process::start(command).ended();
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""));
    ended.expect_code(0);
}

#[test]
fn every_command_stands_in_it_as_it_is_used() {
    let page = shown();
    let lines: Vec<_> = page.lines().map(str::trim).collect();
    for (place, help) in places() {
        let begins =
            |line: &&str| line.split(" [").next() == Some(&place) || line.starts_with(&format!("{place} "));
        let is_there = lines.iter().any(begins)
            || ["config", "keys", "tenants", "hosts", "workflow"].contains(&place.as_str());
        assert!(is_there, "no {place} in {page}");
        // What the help of a command says in short says that of its action in full.
        for usage in usages(&help).into_iter().filter(|usage| {
            !["keys", "tenants", "hosts", "workflow"].contains(&place.as_str()) && usage.starts_with(&place)
        }) {
            assert!(lines.contains(&usage), "no line {usage:?} in {page}");
        }
    }
}

#[test]
fn it_says_of_flags_what_the_help_texts_say() {
    let page = flags(&shown());
    let mut told = BTreeSet::new();
    for help in places().values() {
        told.extend(flags(help));
    }
    assert!(told.len() >= 29, "{told:?}");
    assert_eq!(page, told);
    // Variables, keys of config.toml and defaults are among it.
    let bind = page.iter().find(|(flag, _)| flag == "--bind ADDR:PORT").unwrap();
    assert!(bind.1.contains("[env: CLOACINA_BIND, key: bind, default: 0.0.0.0:8080]"));
}

#[test]
fn exit_codes_and_the_other_variables_stand_in_it() {
    let page = shown();
    let (before, codes) = page.split_once("EXIT STATUS\n").unwrap();
    let codes = codes.split_whitespace().collect::<Vec<_>>().join(" ");
    let overview = help("");
    let line = overview.lines().find_map(|line| line.strip_prefix("Exit code: ")).unwrap();
    let mut told: Vec<_> = line.trim_end_matches('.').split(", ").map(str::to_owned).collect();
    let explain = help("keys explain");
    let lines = explain.split_once("Exit code:\n").unwrap().1.lines().take_while(|line| !line.is_empty());
    told.extend(lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")));
    assert!(told.len() >= 11, "{told:?}");
    for code in told {
        assert!(codes.contains(&code), "no {code:?} in {codes}");
    }
    let variables = before.split_once("ENVIRONMENT\n").unwrap().1;
    for variable in ["RUST_LOG", "HOME"] {
        assert!(overview.contains(variable) && variables.contains(variable), "no {variable} in {variables}");
    }
}

#[test]
fn the_fields_of_a_manifest_stand_in_it() {
    let help = help("workflow schema");
    let (_, fields) = help.split_once("these tables and fields:\n\n").unwrap();
    let (fields, _) = fields.split_once("\nFlags of every command").unwrap();
    let page = shown();
    let lines: Vec<_> = page.lines().map(str::trim).collect();
    assert!(fields.lines().count() > 50, "{fields}");
    for line in fields.lines().map(str::trim) {
        assert!(lines.contains(&line), "no {line:?} in {page}");
    }
}
