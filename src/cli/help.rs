//! The help texts. What they say of settings comes from the table of settings.

use std::fmt::Write as _;

use super::flags::Flag;
use super::topics::{GLOBAL, commands, topic};
use crate::config::{SETTINGS, Setting};

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
