//! The help texts. What they say of settings comes from the table of settings.

use std::fmt::Write as _;

use super::completions::SHELLS;
use super::flags::{Flag, Kind, Value};
use crate::config::{SETTINGS, Setting};

/// A command or an action of one.
pub struct Topic {
    /// An action's begins with its command's and a space.
    pub name: &'static str,
    /// In the overview and in completions.
    pub summary: &'static str,
    /// Its own help but for what `of` adds; empty for an action whose command says it all.
    text: &'static str,
    /// Those that are neither settings nor of every command.
    pub flags: &'static [Flag],
    settings: fn(&Setting) -> bool,
    pub operands: &'static [Value],
}

/// What commands have in common that have neither flags nor operands.
const PLAIN: Topic =
    Topic { name: "", summary: "", text: "", flags: &[], settings: |_| false, operands: &[] };

const KEYS: Topic = Topic { settings: Setting::is_for_keys, ..PLAIN };

const ID: Value = Value { placeholder: "ID", kind: Kind::Free };

const KEY: Value = Value { placeholder: "KEY", kind: Kind::Setting };

/// Commands, each with its actions behind it.
pub const TOPICS: &[Topic] = &[
    Topic {
        name: "serve",
        summary: "run the API server",
        text: include_str!("help/serve.txt"),
        flags: &[Flag::switch(
            "--check",
            "\
Do not serve: say what a start would find in configuration, files and database, change nothing, and exit with
0, or with 1 or 2 when something is wrong.",
        )],
        settings: |_| true,
        ..PLAIN
    },
    Topic {
        name: "config",
        summary: "show and change config.toml: get KEY, set KEY VALUE, unset KEY, list",
        text: include_str!("help/config.txt"),
        ..PLAIN
    },
    Topic { name: "config get", summary: "print the value that counts", operands: &[KEY], ..PLAIN },
    Topic {
        name: "config set",
        summary: "change config.toml",
        operands: &[KEY, Value { placeholder: "VALUE", kind: Kind::Free }],
        ..PLAIN
    },
    Topic { name: "config unset", summary: "take a value out of config.toml", operands: &[KEY], ..PLAIN },
    Topic { name: "config list", summary: "print all values that count, passwords masked", ..PLAIN },
    Topic {
        name: "keys",
        summary: "create, list, revoke, rotate, explain, apply: keys straight on the database",
        text: include_str!("help/keys.txt"),
        ..KEYS
    },
    Topic {
        name: "keys create",
        summary: "make a key and print it",
        text: include_str!("help/keys-create.txt"),
        flags: &[
            Flag::with_value("--name", "NAME", Kind::Free, "What to call it: 1 to 255 characters."),
            Flag::with_value(
                "--permissions",
                "P",
                Kind::OneOf(&["admin", "write", "read"]),
                "admin, write or read. [default: admin]",
            ),
            Flag::with_value(
                "--expires-in",
                "D",
                Kind::Free,
                "For how long it is valid: 90d, 12h, 30m or 45s. [default: for ever, or as long as --max-key-lifetime allows]",
            ),
            Flag::with_value(
                "--tenant",
                "NAME",
                Kind::Free,
                "Make it a key of this tenant. [default: a key of the server's own]",
            ),
        ],
        ..KEYS
    },
    Topic {
        name: "keys list",
        summary: "print all keys",
        text: include_str!("help/keys-list.txt"),
        flags: &[
            Flag::with_value("--tenant", "NAME", Kind::Free, "Only keys of this tenant. [default: all keys]"),
            Flag::switch("--active", "Leave out keys that are revoked or expired."),
            Flag::switch("--json", "Print one JSON array instead, of objects as GET /auth/keys has them."),
        ],
        ..KEYS
    },
    Topic {
        name: "keys revoke",
        summary: "revoke a key for good",
        text: include_str!("help/keys-revoke.txt"),
        operands: &[ID],
        ..KEYS
    },
    Topic {
        name: "keys rotate",
        summary: "replace a key by a new one and print that",
        text: include_str!("help/keys-rotate.txt"),
        flags: &[Flag::with_value(
            "--grace",
            "D",
            Kind::Free,
            "For how long the old key stays valid beside the new one: 7d, 12h, 30m or 45s. [default: not at all]",
        )],
        operands: &[ID],
        ..KEYS
    },
    Topic {
        name: "keys explain",
        summary: "say what is the matter with a key, read from stdin",
        text: include_str!("help/keys-explain.txt"),
        ..KEYS
    },
    Topic {
        name: "keys apply",
        summary: "make the keys those that a file declares",
        text: include_str!("help/keys-apply.txt"),
        flags: &[Flag::switch("--dry-run", "Say what would be done, and do nothing.")],
        operands: &[Value { placeholder: "FILE", kind: Kind::File }],
        ..KEYS
    },
    Topic {
        name: "health",
        summary: "ask a running server whether it is ready",
        text: include_str!("help/health.txt"),
        flags: &[Flag::with_value(
            "--url",
            "URL",
            Kind::Free,
            "Where the server is, such as http://127.0.0.1:8080. Only http://.\n\
             [default: the configured `bind`, on this machine]",
        )],
        ..PLAIN
    },
    Topic {
        name: "completions",
        summary: "print a script that lets a shell complete commands: bash, zsh or fish",
        text: include_str!("help/completions.txt"),
        operands: &[Value { placeholder: "SHELL", kind: Kind::OneOf(SHELLS) }],
        ..PLAIN
    },
    Topic {
        name: "help",
        summary: "print this, or the help of a COMMAND",
        operands: &[Value { placeholder: "COMMAND", kind: Kind::Command }],
        ..PLAIN
    },
];

/// Those of every command.
pub const GLOBAL: &[Flag] = &[
    Flag::with_value(
        "--home",
        "DIR",
        Kind::Directory,
        "Holds config.toml, bootstrap-key and logs/. [default: ~/.cloacina]",
    ),
    Flag { short: Some("-v"), ..Flag::switch("--verbose", "Log debug lines.") },
    Flag { short: Some("-h"), ..Flag::switch("--help", "Print help, of the command if there is one.") },
    Flag { short: Some("-V"), ..Flag::switch("--version", "Print the version.") },
];

/// What `cloacinactl help` prints.
pub fn overview() -> String {
    let mut text = String::from(
        "\
The API server of Cloacina: API keys over HTTP, kept in PostgreSQL.

Usage: cloacinactl [--home DIR] [-v|--verbose] COMMAND

Commands:
",
    );
    for topic in commands() {
        let _ = writeln!(text, "  {:13}{}", topic.name, topic.summary);
    }
    text += &global();
    text += "
Environment: the settings that `cloacinactl serve --help` lists; RUST_LOG=LEVEL or TARGET=LEVEL,… for what is logged
(default: warn,cloacinactl=info); HOME for the default of --home.
Exit code: 0 done, 1 failed, 2 wrong usage or configuration.
";
    text
}

/// What `cloacinactl COMMAND --help` prints; `None` for a command that there is not, and for an action without a text
/// of its own.
pub fn of(command: &str) -> Option<String> {
    if command == "help" {
        return Some(overview());
    }
    let topic = topic(command).filter(|topic| !topic.text.is_empty())?;
    let mut text = topic.text.to_owned();
    if !topic.flags.is_empty() {
        text.push('\n');
    }
    text.extend(topic.flags.iter().map(shown));
    let settings: String = topic.settings().map(shown_setting).collect();
    if !settings.is_empty() {
        text += &(settings + "\n");
    }
    if command == "config" {
        text += "\nKeys (`cloacinactl serve --help` says what they mean):\n";
        for setting in SETTINGS {
            let _ = writeln!(text, "  {}", setting.key);
        }
    }
    Some(text + &global())
}

fn global() -> String {
    "\nFlags of every command:\n".to_owned() + &GLOBAL.iter().map(shown).collect::<String>()
}

/// A flag and what there is to say of it.
fn shown(flag: &Flag) -> String {
    let short = flag.short.map_or(String::new(), |short| format!("{short}, "));
    let value = flag.value.map_or(String::new(), |value| format!(" {}", value.placeholder));
    format!("  {short}{}{value}\n      {}\n", flag.name, flag.help.replace('\n', "\n      "))
}

fn shown_setting(setting: &Setting) -> String {
    let default = setting.default.map_or(String::new(), |value| format!(", default: {value}"));
    format!(
        "\n{}      [env: {}, key: {}{default}]",
        shown(&Flag::of_setting(setting)),
        setting.variable,
        setting.key
    )
}

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
