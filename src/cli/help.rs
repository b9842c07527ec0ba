//! The help texts. What they say of settings comes from the table of settings.

use std::fmt::Write as _;

use crate::config::{SETTINGS, Setting};

/// Flags without a value.
pub const SWITCHES: &[&str] = &["-v", "--verbose", "-h", "--help", "-V", "--version"];

/// The one flag of `serve` that is no setting.
const CHECK: &str = "  --check
      Do not serve: say what a start would find in configuration, files and database, change nothing, and exit with
      0, or with 1 or 2 when something is wrong.
";

/// A command, the line of the overview, and its own text but for what `of` adds.
struct Topic {
    name: &'static str,
    summary: &'static str,
    text: &'static str,
}

const TOPICS: &[Topic] = &[
    Topic {
        name: "serve",
        summary: "run the API server",
        text: "\
Usage: cloacinactl [--home DIR] [-v|--verbose] serve [FLAGS]

Connects to PostgreSQL, migrates the database, makes the first key if there is none, and serves until it is told to
stop (SIGINT or SIGTERM).

Every setting is a flag, an environment variable, or a key in config.toml. A flag counts more than a variable, a
variable more than config.toml. An empty variable counts as not set. Durations are written 500ms, 30s, 5m or 2h; a
bare number is seconds. A secret in a file is better kept than one on a command line; a line end behind it is dropped.

The database URL is one of PostgreSQL's own, in either form; psql takes it as well. sslmode is prefer when it does not
say otherwise: TLS where the server has it, and nobody verifies with whom. sslmode=verify-full with sslrootcert=FILE or
sslrootcert=system does. A URL without a password takes one from ~/.pgpass.
",
    },
    Topic {
        name: "config",
        summary: "show and change config.toml: get KEY, set KEY VALUE, list",
        text: "\
Usage: cloacinactl [--home DIR] config get KEY
       cloacinactl [--home DIR] config set KEY VALUE
       cloacinactl [--home DIR] config list

  get   prints the value that counts: environment, else config.toml, else default; passwords are not masked
  set   changes config.toml and keeps its comments; a VALUE that begins with `-` comes after `--`
  list  prints all values that count, passwords masked
",
    },
    Topic {
        name: "keys",
        summary: "create, list, revoke, rotate, explain, apply: keys straight on the database",
        text: "\
Usage: cloacinactl [--home DIR] keys create --name NAME [--permissions P] [--expires-in D]
       cloacinactl [--home DIR] keys list [--json]
       cloacinactl [--home DIR] keys revoke ID
       cloacinactl [--home DIR] keys rotate ID [--grace D]
       cloacinactl [--home DIR] keys explain
       cloacinactl [--home DIR] keys apply FILE [--dry-run]

Works straight on the database, whether a server runs or not: whoever lost every key but holds the database gets back
in with `keys create`. Servers that share the database act upon a change before the command ends. The database is
migrated first, as `serve` does; a first key is not made.

`cloacinactl keys ACTION --help` says more. These settings count, as for `serve`:
",
    },
    Topic {
        name: "keys create",
        summary: "",
        text: "\
Usage: cloacinactl [--home DIR] keys create --name NAME [--permissions P] [--expires-in D]

Makes a key and prints it, and nothing else, on stdout: the only time that it is shown. Its id and name go to stderr.

  --name NAME
      What to call it: 1 to 255 characters.
  --permissions P
      admin, write or read. [default: admin]
  --expires-in D
      For how long it is valid: 90d, 12h, 30m or 45s. [default: for ever, or as long as --max-key-lifetime allows]
",
    },
    Topic {
        name: "keys list",
        summary: "",
        text: "\
Usage: cloacinactl [--home DIR] keys list [--json]

Prints a table of all keys, newest first, revoked and expired ones too. Long names are cut, and what a terminal would
obey is escaped.

  --json
      Print one JSON array instead, of objects as GET /auth/keys has them.
",
    },
    Topic {
        name: "keys revoke",
        summary: "",
        text: "\
Usage: cloacinactl [--home DIR] keys revoke ID

Revokes a key for good. When this ends, no server lets it in any more.
",
    },
    Topic {
        name: "keys rotate",
        summary: "",
        text: "\
Usage: cloacinactl [--home DIR] keys rotate ID [--grace D]

Makes a new key with the name, permissions and lifetime of an old one and prints it, and nothing else, on stdout: the
only time that it is shown. Ids go to stderr.

  --grace D
      For how long the old key stays valid beside the new one: 7d, 12h, 30m or 45s. [default: not at all]
",
    },
    Topic {
        name: "keys explain",
        summary: "",
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
    },
    Topic {
        name: "keys apply",
        summary: "",
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

  --dry-run
      Say what would be done, and do nothing.
",
    },
    Topic {
        name: "health",
        summary: "ask a running server whether it is ready",
        text: "\
Usage: cloacinactl [--home DIR] health [--url URL]

Exits with 0 when the server answers GET /ready with 200, else with 1 and a line that says why. Gives up after 5 s.

  --url URL
      Where the server is, such as http://127.0.0.1:8080. Only http://.
      [default: the configured `bind`, on this machine]
",
    },
    Topic { name: "help", summary: "print this, or the help of a COMMAND", text: "" },
];

const GLOBAL: &str = "
Flags of every command:
  --home DIR
      Holds config.toml, bootstrap-key and logs/. [default: ~/.cloacina]
  -v, --verbose
      Log debug lines.
  -h, --help
      Print help, of the command if there is one.
  -V, --version
      Print the version.
";

/// What `cloacinactl help` prints.
pub fn overview() -> String {
    let mut text = String::from(
        "\
The API server of Cloacina: API keys over HTTP, kept in PostgreSQL.

Usage: cloacinactl [--home DIR] [-v|--verbose] COMMAND

Commands:
",
    );
    for topic in TOPICS.iter().filter(|topic| !topic.summary.is_empty()) {
        let _ = writeln!(text, "  {:8}{}", topic.name, topic.summary);
    }
    text += GLOBAL;
    text += "
Environment: the settings that `cloacinactl serve --help` lists; RUST_LOG=LEVEL or TARGET=LEVEL,… for what is logged
(default: info); HOME for the default of --home.
Exit code: 0 done, 1 failed, 2 wrong usage or configuration.
";
    text
}

/// What `cloacinactl COMMAND --help` prints; `None` for a command that there is not.
pub fn of(command: &str) -> Option<String> {
    let topic = TOPICS.iter().find(|topic| topic.name == command)?;
    let mut text = topic.text.to_owned();
    match command {
        "help" => return Some(overview()),
        "serve" => text += &format!("\n{CHECK}{}", settings(|_| true)),
        keys if keys.starts_with("keys") => text += &settings(Setting::is_for_keys),
        "config" => {
            text += "\nKeys (`cloacinactl serve --help` says what they mean):\n";
            for setting in SETTINGS {
                let _ = writeln!(text, "  {}", setting.key);
            }
        }
        _ => {}
    }
    Some(text + GLOBAL)
}

/// What there is to say of these settings.
fn settings(which: impl Fn(&Setting) -> bool) -> String {
    let mut text = String::new();
    for setting in SETTINGS.iter().filter(|setting| which(setting)) {
        let default = setting.default.map_or(String::new(), |value| format!(", default: {value}"));
        let _ = write!(
            text,
            "\n  {} {}\n      {}\n      [env: {}, key: {}{default}]",
            setting.flag, setting.placeholder, setting.help, setting.variable, setting.key
        );
    }
    text + "\n"
}

/// All commands, for messages.
pub fn commands() -> String {
    let topics = TOPICS.iter().filter(|topic| !topic.summary.is_empty());
    topics.map(|topic| topic.name).collect::<Vec<_>>().join(", ")
}

/// All flags that a command knows, for messages.
pub fn flags_of(command: &str) -> Vec<&'static str> {
    let mut flags = match command {
        "serve" => vec!["--check"],
        "health" => vec!["--url"],
        "keys create" => vec!["--name", "--permissions", "--expires-in"],
        "keys list" => vec!["--json"],
        "keys rotate" => vec!["--grace"],
        "keys apply" => vec!["--dry-run"],
        _ => Vec::new(),
    };
    let settings = SETTINGS.iter().filter(|setting| match command {
        "serve" => true,
        _ => command.starts_with("keys") && setting.is_for_keys(),
    });
    flags.extend(settings.map(|setting| setting.flag));
    flags.extend(["--home", "--verbose", "--help"]);
    flags
}
