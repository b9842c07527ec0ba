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
        text: "\
Usage: cloacinactl [--home DIR] [-v|--verbose] serve [FLAGS]

Connects to PostgreSQL, migrates the database, makes the first key if there is none, and serves until it is told to
stop (SIGINT or SIGTERM; a second signal ends it at once). SIGHUP reads the configuration again: trusted_proxies,
request_timeout, idle_timeout, write_timeout and access_log change in the running server, all else needs a restart, and
a line of the log says which. SIGUSR1 and SIGUSR2 are ignored.

Every setting is a flag, an environment variable, or a key in config.toml. A flag counts more than a variable, a
variable more than config.toml. An empty variable counts as not set. Durations are written 500ms, 30s, 5m or 2h; a
bare number is seconds. A secret in a file is better kept than one on a command line; a line end behind it is dropped.

The database URL is one of PostgreSQL's own, in either form; psql takes it as well. sslmode is prefer when it does not
say otherwise: TLS where the server has it, and nobody verifies with whom. sslmode=verify-full with sslrootcert=FILE or
sslrootcert=system does. A URL without a password takes one from ~/.pgpass.
",
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
        text: "\
Usage: cloacinactl [--home DIR] config get KEY
       cloacinactl [--home DIR] config set KEY VALUE
       cloacinactl [--home DIR] config unset KEY
       cloacinactl [--home DIR] config list

  get    prints the value that counts: environment, else config.toml, else default; passwords are not masked
  set    changes config.toml and keeps its comments; a VALUE that begins with `-` comes after `--`
  unset  takes a value out of config.toml again
  list   prints all values that count, passwords masked
",
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
        text: "\
Usage: cloacinactl [--home DIR] keys create --name NAME [--permissions P] [--expires-in D]
       cloacinactl [--home DIR] keys list [--active] [--json]
       cloacinactl [--home DIR] keys revoke ID
       cloacinactl [--home DIR] keys rotate ID [--grace D]
       cloacinactl [--home DIR] keys explain
       cloacinactl [--home DIR] keys apply FILE [--dry-run]

Works straight on the database, whether a server runs or not: whoever lost every key but holds the database gets back
in with `keys create`. Servers that share the database act upon a change before the command ends. Only `serve` migrates
a database: in one that is new, or older than this program, nothing is changed, and the command says so and fails.

`cloacinactl keys ACTION --help` says more. These settings count, as for `serve`:
",
        ..KEYS
    },
    Topic {
        name: "keys create",
        summary: "make a key and print it",
        text: "\
Usage: cloacinactl [--home DIR] keys create --name NAME [--permissions P] [--expires-in D]

Makes a key and prints it, and nothing else, on stdout: the only time that it is shown. Its id and name go to stderr.
",
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
        ],
        ..KEYS
    },
    Topic {
        name: "keys list",
        summary: "print all keys",
        text: "\
Usage: cloacinactl [--home DIR] keys list [--active] [--json]

Prints a table of all keys, newest first. On a terminal it is made to fit: columns on the right are left out, and long
names are cut; what goes to a file or a pipe is whole. What a terminal would obey is escaped.
",
        flags: &[
            Flag::switch("--active", "Leave out keys that are revoked or expired."),
            Flag::switch("--json", "Print one JSON array instead, of objects as GET /auth/keys has them."),
        ],
        ..KEYS
    },
    Topic {
        name: "keys revoke",
        summary: "revoke a key for good",
        text: "\
Usage: cloacinactl [--home DIR] keys revoke ID

Revokes a key for good. When this ends, no server lets it in any more.
",
        operands: &[ID],
        ..KEYS
    },
    Topic {
        name: "keys rotate",
        summary: "replace a key by a new one and print that",
        text: "\
Usage: cloacinactl [--home DIR] keys rotate ID [--grace D]

Makes a new key with the name, permissions and lifetime of an old one and prints it, and nothing else, on stdout: the
only time that it is shown. Ids go to stderr. A key has one successor: to rotate it again is an error, in its grace too.
",
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
        text: "\
Usage: cloacinactl [--home DIR] keys explain < FILE

Reads a key from stdin, one line, and says what is the matter with it. The key is not printed. To type a key in unseen:

  stty -echo; cloacinactl keys explain; stty echo

Exit code:
   0  valid
  10  malformed: no key looks like that, so it was not even looked up
  11  mistyped: it looks like one of ours, and its checksum is wrong
  12  unknown: not in this database
  13  revoked
  14  expired
   1  it could not be found out, as when the database is down
   2  wrong usage or configuration

Malformed and mistyped are found out without a database. For the others these settings say where it is:
",
        ..KEYS
    },
    Topic {
        name: "keys apply",
        summary: "make the keys those that a file declares",
        text: "\
Usage: cloacinactl [--home DIR] keys apply FILE [--dry-run]

Makes the keys in the database those that FILE declares, so that keys can be set up without anybody seeing one:

  [[key]]
  name = \"ci-deploy\"
  sha256 = \"…\"                          # 64 hex digits: printf %s \"$KEY\" | sha256sum
  permissions = \"read\"                  # admin, write or read
  expires_at = \"2027-01-31T12:00:00Z\"   # never, when it is left out

Only the hash is known here, so see to it yourself that KEY is long and random. A key is told by its hash: another
name, other permissions or another expiry change it, another hash makes another key. A key that an earlier FILE
declared and this one does not is revoked. Keys that no file declared are never touched: a hash that one of them has is
an error. A key that was revoked or rotated stays as it is, though FILE still has it; that is said on stderr, and the
exit code is 1. An empty list is written `key = []`; a FILE without any key is an error.

All of it is done or nothing. Each change is a line on stdout, and then `unchanged N`; again with the same FILE changes
nothing. A mistake in FILE is exit code 2.
",
        flags: &[Flag::switch("--dry-run", "Say what would be done, and do nothing.")],
        operands: &[Value { placeholder: "FILE", kind: Kind::File }],
        ..KEYS
    },
    Topic {
        name: "health",
        summary: "ask a running server whether it is ready",
        text: "\
Usage: cloacinactl [--home DIR] health [--url URL]

Exits with 0 when the server answers GET /ready with 200, else with 1 and a line that says why. Gives up after 5 s.
",
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
        text: "\
Usage: cloacinactl completions bash|zsh|fish

Prints a script with which a shell completes commands, flags, and what is known of their values. Type one of these, or
write it into ~/.bashrc, into ~/.zshrc behind `compinit`, or into ~/.config/fish/config.fish:

  source <(cloacinactl completions bash)
  source <(cloacinactl completions zsh)
  cloacinactl completions fish | source
",
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
