//! The help texts. What they say of settings comes from the table of settings.

use std::fmt::Write as _;

use crate::config::SETTINGS;

/// Flags without a value.
pub const SWITCHES: &[&str] = &["-v", "--verbose", "-h", "--help", "-V", "--version"];

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
    for topic in TOPICS {
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
        "serve" => {
            for setting in SETTINGS {
                let default = setting.default.map_or(String::new(), |value| format!(", default: {value}"));
                let _ = write!(
                    text,
                    "\n  {} {}\n      {}\n      [env: {}, key: {}{default}]",
                    setting.flag, setting.placeholder, setting.help, setting.variable, setting.key
                );
            }
            text += "\n";
        }
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

/// All commands, for messages.
pub fn commands() -> String {
    TOPICS.iter().map(|topic| topic.name).collect::<Vec<_>>().join(", ")
}

/// All flags that a command knows, for messages.
pub fn flags_of(command: &str) -> Vec<&'static str> {
    let mut flags = match command {
        "serve" => SETTINGS.iter().map(|setting| setting.flag).collect(),
        "health" => vec!["--url"],
        _ => Vec::new(),
    };
    flags.extend(["--home", "--verbose", "--help"]);
    flags
}
