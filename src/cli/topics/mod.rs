//! Every command, and every action of one: what may stand behind it, and where its help text is.

mod rows;

use super::flags::{Flag, Kind, Value};
use crate::config::{SETTINGS, Setting};
pub use rows::TOPICS;

/// A command or an action of one.
pub struct Topic {
    /// An action's begins with its command's and a space.
    pub name: &'static str,
    /// In the overview and in completions.
    pub summary: &'static str,
    /// Its own help but for what `of` adds; empty for an action whose command says it all.
    pub text: &'static str,
    /// Those that are neither settings nor of every command.
    pub flags: &'static [Flag],
    settings: fn(&Setting) -> bool,
    pub operands: &'static [Value],
}

pub const HOME: Flag = Flag::with_value(
    "--home",
    "DIR",
    Kind::Directory,
    "Holds config.toml, bootstrap-key and logs/. [default: ~/.cloacina]",
);

/// Those of every command.
pub const GLOBAL: &[Flag] = &[
    HOME,
    Flag { short: Some("-v"), ..Flag::switch("--verbose", "Log debug lines.") },
    Flag { short: Some("-h"), ..Flag::switch("--help", "Print help, of the command if there is one.") },
    Flag { short: Some("-V"), ..Flag::switch("--version", "Print the version.") },
];

/// All commands, without their actions.
pub fn commands() -> impl Iterator<Item = &'static Topic> {
    TOPICS.iter().filter(|topic| !topic.name.contains(' '))
}

/// The actions of a command, by their own names.
pub fn actions(command: &str) -> Vec<(&'static str, &'static Topic)> {
    let action = |topic: &'static Topic| Some((topic.name.strip_prefix(command)?.strip_prefix(' ')?, topic));
    TOPICS.iter().filter_map(action).collect()
}

/// The command or the action of one that has this name.
pub fn topic(name: &str) -> Option<&'static Topic> {
    TOPICS.iter().find(|topic| topic.name == name)
}

impl Topic {
    /// The settings whose flags it takes.
    pub fn settings(&self) -> impl Iterator<Item = &'static Setting> {
        SETTINGS.iter().filter(|setting| (self.settings)(setting))
    }
}

/// All flags that may stand behind a command, or before any.
pub fn flags(command: &str) -> Vec<Flag> {
    let mut flags = Vec::new();
    if let Some(topic) = topic(command) {
        flags.extend(topic.flags);
        flags.extend(topic.settings().map(Flag::of_setting));
    }
    flags.extend(GLOBAL);
    flags
}
