//! The command line: what was asked for, and how the program speaks to the terminal.

mod action;
pub mod completions;
pub mod config;
mod flags;
pub mod health;
mod help;
mod hosts;
mod keys;
pub mod table;
mod tenants;
mod topics;
mod workflow;

use std::ffi::OsString;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::net::SocketAddr;

use pico_args::Arguments;

use crate::command_error::CommandError::{self, Runtime, Usage};
use crate::config::{Flags, mask_url};
use crate::logging;
use crate::suggestion::did_you_mean;

use crate::terminal;
use flags::{Flag, Given};
pub use hosts::HostsAction;
pub use keys::KeysAction;
pub use tenants::TenantsAction;
pub use workflow::{RunFlags, WorkflowAction};

/// A command line that is right in form. Its values are not looked at yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation {
    /// `--home`.
    pub home: Option<String>,
    pub verbose: bool,
    pub command: Command,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Serve(Flags),
    /// `serve --check`.
    Check(Flags),
    /// `config get KEY`.
    ConfigGet(String),
    /// `config set KEY VALUE`.
    ConfigSet(String, String),
    /// `config unset KEY`.
    ConfigUnset(String),
    ConfigList,
    /// The flags of this and the next two are those of settings.
    Keys(KeysAction, Flags),
    Tenants(TenantsAction, Flags),
    Hosts(HostsAction, Flags),
    Workflow(WorkflowAction),
    /// The server's URL, if it is given.
    Health(Option<String>),
    /// Print this text: a help, the version, or a script for a shell.
    Print(String),
}

/// Reads the command line, without the program's own name.
///
/// # Errors
/// `Usage` that names the argument that is wrong and what would be right.
pub fn parse(arguments: Vec<OsString>) -> Result<Invocation, CommandError> {
    let (mut arguments, literal) = readable(arguments)?;
    let help = switch(&mut arguments, ["-h", "--help"]);
    let version = switch(&mut arguments, ["-V", "--version"]);
    let verbose = switch(&mut arguments, ["-v", "--verbose"]);
    let home = value(&mut arguments, &topics::HOME)?;
    let name = arguments.subcommand().map_err(|error| Usage(error.to_string()))?;
    let command = match name.as_deref() {
        _ if version => Command::Print(concat!("cloacinactl ", env!("CARGO_PKG_VERSION"), "\n").to_owned()),
        None if help => Command::Print(help::overview()),
        None => return Err(no_command(arguments)),
        Some(topic) if help => {
            let action = arguments.subcommand().ok().flatten();
            Command::Print(help_of(topic, action.as_deref())?)
        }
        Some("help") => match operands("help", arguments, literal)?.as_slice() {
            [] => Command::Print(help::overview()),
            [topic] => Command::Print(help_of(topic, None)?),
            [topic, action] if !topics::actions(topic).is_empty() => {
                Command::Print(help_of(topic, Some(action))?)
            }
            [_, extra, ..] => return Err(unexpected("help", extra)),
        },
        Some("serve") => {
            let given = Given::take("serve", &mut arguments)?;
            no_operands("serve", arguments, literal)?;
            let checks = given.switch("--check");
            if checks { Command::Check(given.settings) } else { Command::Serve(given.settings) }
        }
        Some("config") => config::parse(&operands("config", arguments, literal)?)?,
        Some("keys") => {
            let (action, flags) = keys::parse(arguments, literal)?;
            Command::Keys(action, flags)
        }
        Some("tenants") => {
            let (action, flags) = tenants::parse(arguments, literal)?;
            Command::Tenants(action, flags)
        }
        Some("hosts") => {
            let (action, flags) = hosts::parse(arguments, literal)?;
            Command::Hosts(action, flags)
        }
        Some("workflow") => Command::Workflow(workflow::parse(arguments, literal)?),
        Some("health") => {
            let mut given = Given::take("health", &mut arguments)?;
            no_operands("health", arguments, literal)?;
            Command::Health(given.value("--url"))
        }
        Some("completions") => Command::Print(completions(&operands("completions", arguments, literal)?)?),
        Some(other) => return Err(unknown_command(other)),
    };
    Ok(Invocation { home, verbose, command })
}

/// Prints a result on stdout. A reader that is gone (`| head`) is no failure.
///
/// # Errors
/// `Runtime` when it cannot be written for another reason, such as a full disk.
pub fn print(text: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Runtime(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// All that stdin has, as far as these bytes go; from a terminal, a line. `what` is asked for there.
///
/// # Errors
/// `Runtime`: it cannot be read.
pub fn read_stdin(what: &str, most_bytes: u64) -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    let stdin = io::stdin().lock();
    let is_terminal = stdin.is_terminal();
    let mut limited = stdin.take(most_bytes);
    match is_terminal {
        true => {
            remark(&format!("type or paste the {what}, then press Enter:"));
            limited.read_until(b'\n', &mut bytes)
        }
        false => limited.read_to_end(&mut bytes),
    }
    .map_err(|error| Runtime(format!("cannot read the {what} from stdin: {error}")))?;
    Ok(bytes)
}

/// Says on stderr why a command failed, where that is still possible.
pub fn print_error(failure: &CommandError) {
    remark(&format!("cloacinactl: {failure}"));
}

/// Prints a line on stderr, where that is still possible: for people, beside the result.
pub fn remark(line: &str) {
    logging::write_stderr(format!("{line}\n").as_bytes());
}

fn completions(operands: &[String]) -> Result<String, CommandError> {
    let shells = completions::SHELLS.join(", ");
    match operands {
        [] => Err(Usage(format!("`completions` needs the name of a shell, one of {shells}"))),
        [shell] => completions::script(shell).ok_or_else(|| {
            let meant = did_you_mean(shell, completions::SHELLS.iter().copied());
            Usage(format!("unknown shell {}{meant}: it is one of {shells}", shown(shell)))
        }),
        [_, extra, ..] => Err(unexpected("completions", extra)),
    }
}

/// The arguments as text, and apart from them those after `--`, which are operands whatever they look like.
fn readable(arguments: Vec<OsString>) -> Result<(Arguments, Vec<String>), CommandError> {
    let mut readable = Vec::new();
    for (index, argument) in arguments.into_iter().enumerate() {
        readable.push(argument.into_string().map_err(|raw| {
            Usage(format!("argument {} is not UTF-8: {}", index + 1, shown(&raw.to_string_lossy())))
        })?);
    }
    let end = readable.iter().position(|argument| argument == "--").unwrap_or(readable.len());
    let literal = readable.iter().skip(end + 1).cloned().collect();
    readable.truncate(end);
    Ok((Arguments::from_vec(readable.into_iter().map(OsString::from).collect()), literal))
}

/// A flag without a value; more than once is as good as once.
fn switch(arguments: &mut Arguments, names: impl Into<pico_args::Keys> + Copy) -> bool {
    let mut given = false;
    while arguments.contains(names) {
        given = true;
    }
    given
}

/// A flag's value, as `--flag value` or `--flag=value`, and behind its one dash where it has a short form.
fn value(arguments: &mut Arguments, flag: &Flag) -> Result<Option<String>, CommandError> {
    let mut values = values(arguments, flag)?;
    match values.len() {
        0 | 1 => Ok(values.pop()),
        _ => Err(Usage(format!("`{}` is given twice; once is enough", flag.name))),
    }
}

/// The same of a flag that may be given more than once.
fn values(arguments: &mut Arguments, flag: &Flag) -> Result<Vec<String>, CommandError> {
    let name = flag.name;
    let missing =
        || Usage(format!("`{name}` needs a value (one that begins with `--` is written {name}=VALUE)"));
    let is_flag = |argument: &OsString| argument == name || flag.short.is_some_and(|short| argument == short);
    let mut found = Vec::new();
    loop {
        let all = arguments.clone().finish();
        if let Some(at) = all.iter().position(is_flag) {
            match all.get(at + 1) {
                Some(next) if !next.to_string_lossy().starts_with("--") => {}
                _ => return Err(missing()),
            }
        }
        let next = match flag.short {
            Some(short) => arguments.opt_value_from_str::<_, String>([short, name]),
            None => arguments.opt_value_from_str::<_, String>(name),
        };
        match next.map_err(|_| missing())? {
            Some(value) => found.push(value),
            None => return Ok(found),
        }
    }
}

/// What is left when all flags are taken: no flag that we do not know.
fn operands(command: &str, arguments: Arguments, literal: Vec<String>) -> Result<Vec<String>, CommandError> {
    let mut operands = Vec::new();
    for argument in arguments.finish() {
        let argument = argument.to_string_lossy().into_owned();
        if argument.starts_with('-') && argument.len() > 1 {
            return Err(unknown_flag(command, &argument));
        }
        operands.push(argument);
    }
    operands.extend(literal);
    Ok(operands)
}

fn no_operands(command: &str, arguments: Arguments, literal: Vec<String>) -> Result<(), CommandError> {
    match operands(command, arguments, literal)?.first() {
        Some(extra) => Err(unexpected(command, extra)),
        None => Ok(()),
    }
}

/// The help of a command, or of one of its actions that has a help of its own.
pub fn help_of(topic: &str, action: Option<&str>) -> Result<String, CommandError> {
    action
        .and_then(|action| help::of(&format!("{topic} {action}")))
        .or_else(|| help::of(topic))
        .ok_or_else(|| unknown_command(topic))
}

fn no_command(arguments: Arguments) -> CommandError {
    let commands = command_names();
    Usage(match arguments.finish().first() {
        Some(flag) => {
            let flag = flag.to_string_lossy();
            let meant = did_you_mean(name_of(&flag), topics::GLOBAL.iter().map(|flag| flag.name));
            let flag = shown(&flag);
            format!(
                "unknown flag {flag}{meant} before the command (its own flags follow it); commands are {commands}"
            )
        }
        None => format!("no command given; commands are {commands}"),
    })
}

fn unknown_command(name: &str) -> CommandError {
    let meant = did_you_mean(name, topics::commands().map(|topic| topic.name));
    Usage(format!("unknown command {}{meant}; commands are {}", shown(name), command_names()))
}

/// `actions` is how the message names all of them.
fn unknown_action(command: &str, action: &str, actions: &str) -> CommandError {
    let meant = did_you_mean(action, topics::actions(command).into_iter().map(|(name, _)| name));
    Usage(format!("unknown action {}{meant} of `{command}`: it is {actions}", shown(action)))
}

fn command_names() -> String {
    topics::commands().map(|topic| topic.name).collect::<Vec<_>>().join(", ")
}

fn unknown_flag(command: &str, flag: &str) -> CommandError {
    let known = topics::flags(command);
    // Those that take a value have been taken.
    let is_known = |known: &flags::Flag| known.name == name_of(flag) || known.short == Some(name_of(flag));
    let names: Vec<_> = known.iter().map(|flag| flag.name).collect();
    let what = match known.iter().any(is_known) {
        true => "takes no value".to_owned(),
        false => format!("is unknown{}", did_you_mean(name_of(flag), names.iter().copied())),
    };
    Usage(format!("the flag {} {what}; `{command}` knows {}", shown(flag), names.join(", ")))
}

fn unexpected(command: &str, argument: &str) -> CommandError {
    Usage(format!("unexpected argument {}; see `cloacinactl {command} --help`", shown(argument)))
}

/// An argument as it may be repeated in a message: no value of a flag, no password of a URL, one line.
fn shown(argument: &str) -> String {
    match argument.starts_with('-') {
        true => format!("`{}`", terminal::shown(name_of(argument))),
        // An address and its port are no secret.
        false if argument.replacen("localhost:", "127.0.0.1:", 1).parse::<SocketAddr>().is_ok() => {
            format!("`{argument}`")
        }
        false if argument.contains(['@', '=', ':']) => format!("`{}`", mask_url(argument)),
        false => format!("`{}`", terminal::shown(argument)),
    }
}

fn name_of(flag: &str) -> &str {
    flag.split_once('=').map_or(flag, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;

    fn parsed(line: &[&str]) -> Result<Invocation, String> {
        parse(line.iter().map(OsString::from).collect()).map_err(|failure| {
            assert_eq!(failure.exit_code(), 2);
            failure.to_string()
        })
    }

    fn served(line: &[&str]) -> Flags {
        match parsed(line).unwrap().command {
            Command::Serve(flags) => flags,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_stand_anywhere_and_in_both_forms() {
        for line in [
            ["--home", "h", "-v", "serve", "--bind", "b"].as_slice(),
            &["-v", "serve", "--bind=b", "--home=h", "--verbose"],
            &["serve", "--bind", "b", "--home", "h", "-v"],
        ] {
            let invocation = parsed(line).unwrap();
            assert_eq!(invocation.home.as_deref(), Some("h"));
            assert!(invocation.verbose);
            assert_eq!(invocation.command, Command::Serve(Flags::from([("bind", "b".to_owned())])));
        }
        assert_eq!(served(&["serve", "--bind", "-"]), Flags::from([("bind", "-".to_owned())]));
        assert_eq!(
            served(&["serve", "--bootstrap-key=--x"]),
            Flags::from([("bootstrap_key", "--x".to_owned())])
        );
        assert_eq!(
            served(&["serve", "--bootstrap-key=a=b"]),
            Flags::from([("bootstrap_key", "a=b".to_owned())])
        );
    }

    #[test]
    fn operands_after_two_dashes_are_taken_as_they_are() {
        let command = parsed(&["config", "set", "bootstrap_key", "--", "--help"]).unwrap().command;
        assert_eq!(command, Command::ConfigSet("bootstrap_key".to_owned(), "--help".to_owned()));
    }

    #[test]
    fn keys_have_actions() {
        let flags = Flags::from([("database_url", "u".to_owned())]);
        for line in [
            ["keys", "--database-url", "u", "rotate", "x", "--grace=1h"].as_slice(),
            &["keys", "rotate", "--grace", "1h", "--database-url=u", "--", "x"],
        ] {
            let action = KeysAction::Rotate { id: "x".to_owned(), grace: Some("1h".to_owned()) };
            assert_eq!(parsed(line).unwrap().command, Command::Keys(action, flags.clone()));
        }
        for (line, text) in [
            (["keys", "--help"].as_slice(), "keys ACTION --help"),
            (&["help", "keys"], "keys ACTION --help"),
            (&["keys", "nonsense", "--help"], "keys ACTION --help"),
            (&["keys", "explain", "-h"], "14  expired"),
            (&["help", "keys", "explain"], "14  expired"),
            (&["keys", "apply", "--help"], "sha256sum"),
        ] {
            let Command::Print(help) = parsed(line).unwrap().command else { panic!("{line:?}") };
            assert!(help.contains(text), "{line:?}: {help}");
        }
    }

    #[test]
    fn help_anywhere() {
        for line in [
            ["--help"].as_slice(),
            &["help"],
            &["-h", "serve"],
            &["serve", "--nonsense", "--help"],
            &["help", "serve"],
            &["config", "get", "--help"],
            &["--home", "x", "health", "-h"],
        ] {
            assert!(matches!(parsed(line).unwrap().command, Command::Print(_)), "{line:?}");
        }
        let version = Command::Print(format!("cloacinactl {}\n", env!("CARGO_PKG_VERSION")));
        assert_eq!(parsed(&["--version"]).unwrap().command, version);
        let Command::Print(text) = parsed(&["serve", "--help"]).unwrap().command else { panic!() };
        for setting in SETTINGS {
            assert!(
                text.contains(setting.flag) && text.contains(setting.variable) && text.contains(setting.help)
            );
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (line, message) in [
            (
                [].as_slice(),
                "no command given; commands are serve, config, keys, tenants, hosts, workflow, health, completions, help",
            ),
            (&["srve"], "unknown command `srve` (did you mean `serve`?); commands are serve"),
            (&["srve", "--help"], "unknown command `srve`"),
            (&["help", "srve"], "unknown command `srve`"),
            (&["--bind", "x", "serve"], "unknown flag `--bind` before the command"),
            (
                &["serve", "--bnd=x"],
                "the flag `--bnd` is unknown (did you mean `--bind`?); `serve` knows --check, --bind, ",
            ),
            (&["serve", "-x"], "the flag `-x` is unknown"),
            (&["health", "--bind", "x"], "the flag `--bind` is unknown; `health` knows --url, --home"),
            (&["serve", "localhost:80"], "unexpected argument `localhost:80`"),
            (&["serve", "[::1]:80"], "unexpected argument `[::1]:80`"),
            (&["serve", "user:secret"], "unexpected argument `***`"),
            (&["--hoem=x", "serve"], "unknown flag `--hoem` (did you mean `--home`?) before the command"),
            (&["completions", "bahs"], "unknown shell `bahs` (did you mean `bash`?)"),
            (&["config", "unest", "x"], "unknown action `unest` (did you mean `unset`?) of `config`"),
            (&["config", "unset"], "`config unset` takes one KEY"),
            (&["serve", "x"], "unexpected argument `x`; see `cloacinactl serve --help`"),
            (&["serve", "--bind"], "`--bind` needs a value"),
            (&["serve", "--bind="], "`--bind` needs a value"),
            (&["serve", "--bind", "--workers", "1"], "`--bind` needs a value"),
            (&["serve", "--bind", "--"], "`--bind` needs a value"),
            (&["serve", "--bind", "a", "--bind", "b"], "`--bind` is given twice"),
            (&["serve", "--bind=a", "--bind", "b"], "`--bind` is given twice"),
            (&["serve", "--bind=a", "--bind=b"], "`--bind` is given twice"),
            (&["--home=a", "serve", "--home", "b"], "`--home` is given twice"),
            (&["serve", "--verbose=1"], "the flag `--verbose` takes no value"),
            (&["serve", "--check=yes"], "the flag `--check` takes no value"),
            (&["completions"], "`completions` needs the name of a shell, one of bash, zsh, fish"),
            (&["completions", "tcsh"], "unknown shell `tcsh`: it is one of bash, zsh, fish"),
            (&["completions", "bash", "zsh"], "unexpected argument `zsh`"),
            (&["completions", "--bash"], "the flag `--bash` is unknown; `completions` knows --home"),
            (&["config"], "`config` needs an action: `config get KEY`"),
            (&["config", "show"], "unknown action `show` of `config`"),
            (&["config", "get"], "`config get` takes one KEY"),
            (&["config", "set", "a"], "`config set` takes one KEY and one VALUE"),
            (&["config", "list", "a"], "`config list` takes no argument"),
            (&["config", "get", "a", "--bind", "b"], "the flag `--bind` is unknown"),
            (&["keys"], "`keys` needs an action, one of create, list"),
            (&["keys", "crate"], "unknown action `crate` (did you mean `create`?) of `keys`"),
            (&["keys", "--json", "list"], "the flag `--json` is unknown; `keys` knows --database-url"),
            (
                &["keys", "list", "--json=yes"],
                "the flag `--json` takes no value; `keys list` knows --tenant, --active, --json",
            ),
            (
                &["keys", "list", "--bind", "b"],
                "the flag `--bind` is unknown; `keys list` knows --tenant, --active, --json",
            ),
            (&["keys", "create", "x"], "unexpected argument `x`; see `cloacinactl keys create --help`"),
            (&["keys", "rotate", "a", "b"], "unexpected argument `b`"),
            (&["keys", "rotate", ""], "`keys rotate` takes one ID"),
            (&["hosts"], "`hosts` needs an action, one of list, forget"),
            (&["hosts", "forget"], "`hosts forget` takes one NAME"),
            (&["hosts", "forgte", "a"], "unknown action `forgte` (did you mean `forget`?)"),
            (&["tenants"], "`tenants` needs an action, one of create, list, show, password, remove"),
            (&["tenants", "create"], "`tenants create` takes one NAME"),
            (
                &["tenants", "show", "a", "b"],
                "unexpected argument `b`; see `cloacinactl tenants show --help`",
            ),
            (&["tenants", "remove"], "`tenants remove` takes one NAME"),
            (&["tenants", "create", "a", "--password-file", "f"], "`--password-file` needs `--username`"),
            (
                &["tenants", "create", "a", "--password", "b"],
                "the flag `--password` is unknown (did you mean `--password-file`?); `tenants create` knows --username, ",
            ),
            (&["tenants", "list", "--max-key-lifetime", "1d"], "the flag `--max-key-lifetime` is unknown"),
        ] {
            let failure = parsed(line).expect_err(message);
            assert!(failure.contains(message), "{failure}");
        }
    }

    #[test]
    fn mistakes_do_not_repeat_secrets() {
        for line in [
            ["serve", "--databse-url=postgresql://u:topsecret@h"].as_slice(),
            &["serve", "--databse-url", "postgresql://u:topsecret@h"],
            &["serve", "postgresql://u:topsecret@h"],
            &["postgresql://u:topsecret@h"],
            &["config", "set", "bootstrap_key", "a", "topsecret"],
            &["keys", "explain", "topsecret"],
            &["serve", "--bootstrap-key=topsecret", "--bootstrap-key", "topsecret"],
            &["tenants", "create", "a", "--username", "u", "topsecret"],
            &["tenants", "create", "a", "--password", "topsecret"],
            &["tenants", "create", "a", "--password=topsecret"],
            &["tenants", "password", "a", "topsecret"],
        ] {
            let failure = parsed(line).expect_err("accepted");
            assert!(!failure.contains("topsecret"), "{failure}");
        }
    }

    #[test]
    fn what_is_not_utf_8_is_pointed_at() {
        use std::os::unix::ffi::OsStringExt as _;
        let failure = parse(vec!["serve".into(), OsString::from_vec(vec![b'a', 0xff])]).unwrap_err();
        assert_eq!(failure.to_string(), "argument 2 is not UTF-8: `a\u{fffd}`");
    }
}
