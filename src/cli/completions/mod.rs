//! The scripts of `cloacinactl completions`. What they offer comes from the tables of commands, flags and settings.
//!
//! All of them go the same way: the words before the cursor say in which place it is (a command, or a command and its
//! action) and behind how many operands; of each place is known what may come next.

use std::collections::BTreeMap;

use super::flags::{Flag, Kind};
use super::topics;
use crate::config::SETTINGS;

/// Those that there is a script for.
pub const SHELLS: &[&str] = &["bash", "zsh", "fish"];

/// The script for a shell; `None` for one that is not among `SHELLS`.
pub fn script(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(like_bourne(include_str!("template.bash"), |choice| quoted(choice.word))),
        "zsh" => Some(like_bourne(include_str!("template.zsh"), |choice| match choice.summary {
            "" => quoted(choice.word),
            summary => quoted(&format!("{}:{summary}", choice.word)),
        })),
        "fish" => Some(fish(include_str!("template.fish"))),
        _ => None,
    }
}

/// A word that may come next.
struct Choice {
    word: &'static str,
    /// Empty where the word says it all.
    summary: &'static str,
}

/// What a value may be, as far as that is known.
fn choices(kind: Kind) -> Vec<Choice> {
    let choice = |word, summary| Choice { word, summary };
    match kind {
        Kind::Free | Kind::File | Kind::Directory => Vec::new(),
        Kind::OneOf(words) => words.iter().map(|word| choice(word, "")).collect(),
        Kind::Setting => SETTINGS.iter().map(|setting| choice(setting.key, setting.help)).collect(),
        Kind::Command => topics::commands().map(|topic| choice(topic.name, topic.summary)).collect(),
        Kind::Action(command) => {
            topics::actions(command).into_iter().map(|(word, action)| choice(word, action.summary)).collect()
        }
    }
}

/// Commands, and commands with an action.
fn places() -> Vec<&'static str> {
    topics::TOPICS.iter().map(|topic| topic.name).collect()
}

/// What may come next in which place behind how many operands, as `PLACE:COUNT`; else only flags may.
fn operands() -> Vec<(String, Kind)> {
    let mut all = vec![(":0".to_owned(), Kind::Command)];
    for topic in topics::TOPICS {
        if !topics::actions(topic.name).is_empty() {
            all.push((format!("{}:0", topic.name), Kind::Action(topic.name)));
        }
        for (count, operand) in topic.operands.iter().enumerate() {
            all.push((format!("{}:{count}", topic.name), operand.kind));
        }
    }
    all
}

/// The flags of all places that have a value. One name means the same in each of them.
fn valued() -> BTreeMap<&'static str, Kind> {
    let all = topics::TOPICS.iter().flat_map(|topic| topics::flags(topic.name));
    all.filter_map(|flag| Some((flag.name, flag.value?.kind))).collect()
}

/// Fills in the names of flags with a value, and those of places.
fn with_names(template: &str, separator: &str) -> String {
    let flags: Vec<_> = valued().into_keys().collect();
    let places: Vec<_> = places().into_iter().map(quoted).collect();
    template
        .replace("@FLAGS_WITH_VALUE@", &flags.join(separator))
        .replace("@PLACES@", &places.join(separator))
}

/// Fills the marked places of a script whose `case` is that of the Bourne shell.
fn like_bourne(template: &str, choice: impl Fn(&Choice) -> String) -> String {
    let arm = |(pattern, kind): (String, Kind)| {
        let what = match kind {
            Kind::Free => "kind='nothing'".to_owned(),
            Kind::File => "kind='file'".to_owned(),
            Kind::Directory => "kind='directory'".to_owned(),
            kind => format!("kind='choice' choices=({})", joined(choices(kind).iter().map(&choice))),
        };
        format!("    ({}) {what} ;;\n", quoted(&pattern))
    };
    let flags = |place: &str| {
        let flags = topics::flags(place);
        let flags = flags.iter().map(|flag| choice(&Choice { word: flag.name, summary: flag.summary() }));
        format!("    ({}) flags=({}) ;;\n", quoted(place), joined(flags))
    };
    with_names(template, " | ")
        .replace(
            "@VALUES@\n",
            &valued().into_iter().map(|(flag, kind)| arm((flag.to_owned(), kind))).collect::<String>(),
        )
        .replace("@OPERANDS@\n", &operands().into_iter().map(arm).collect::<String>())
        .replace("@FLAGS@\n", &[""].into_iter().chain(places()).map(flags).collect::<String>())
}

fn fish(template: &str) -> String {
    let mut script = with_names(template, " ");
    for flag in topics::GLOBAL {
        script += &fish_flag("", flag);
    }
    for place in places() {
        let condition = format!(" -n {}", fish_quoted(&format!("__cloacinactl_in {}", quoted(place))));
        let is_global = |flag: &Flag| topics::GLOBAL.iter().any(|global| global.name == flag.name);
        for flag in topics::flags(place).iter().filter(|flag| !is_global(flag)) {
            script += &fish_flag(&condition, flag);
        }
    }
    for (place, kind) in operands() {
        let place = format!(
            "complete -c cloacinactl -n {}",
            fish_quoted(&format!("__cloacinactl_at {}", quoted(&place)))
        );
        match kind {
            Kind::Free => {}
            Kind::File => script += &format!("{place} -F\n"),
            Kind::Directory => script += &format!("{place} -a '(__fish_complete_directories)'\n"),
            kind => {
                for Choice { word, summary } in choices(kind) {
                    script += &format!("{place} -a {word} -d {}\n", fish_quoted(summary));
                }
            }
        }
    }
    script
}

fn fish_flag(condition: &str, flag: &Flag) -> String {
    let short = flag.short.map_or(String::new(), |short| format!(" -s {}", short.trim_start_matches('-')));
    let value = match flag.value.map(|value| value.kind) {
        None => String::new(),
        Some(Kind::Free) => " -x".to_owned(),
        Some(Kind::File) => " -r -F".to_owned(),
        Some(Kind::Directory) => " -x -a '(__fish_complete_directories)'".to_owned(),
        Some(kind) => {
            let words: Vec<_> = choices(kind).iter().map(|choice| choice.word).collect();
            format!(" -x -a {}", fish_quoted(&words.join(" ")))
        }
    };
    let long = flag.name.trim_start_matches('-');
    let summary = fish_quoted(flag.summary());
    format!("complete -c cloacinactl{condition}{short} -l {long}{value} -d {summary}\n")
}

fn joined(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(" ")
}

/// A word as the Bourne shell, bash and zsh read it; a word without `'` and `\` as fish reads it, too.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn fish_quoted(word: &str) -> String {
    format!("'{}'", word.replace('\\', r"\\").replace('\'', r"\'"))
}
