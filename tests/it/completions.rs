//! `cloacinactl completions`: the real shells load the scripts and are asked what they offer.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scratch::Scratch;
use crate::support::program::{Process, binary};

type Words = BTreeSet<String>;

#[test]
fn bash_offers_what_the_help_texts_have() {
    offers_what_the_help_texts_have("bash");
}

#[test]
fn zsh_offers_what_the_help_texts_have() {
    offers_what_the_help_texts_have("zsh");
}

#[test]
fn fish_offers_what_the_help_texts_have() {
    offers_what_the_help_texts_have("fish");
}

fn offers_what_the_help_texts_have(name: &str) {
    let shell = Shell::new(name);
    let overview = shell.help("");
    let commands = first_words(&overview, "Commands:\n");
    assert!(commands.len() >= 6, "{commands:?}");
    assert_eq!(shell.offered(""), commands);
    assert_eq!(shell.offered("help "), commands);
    assert_eq!(shell.long_flags(""), flags(&overview));
    for command in &commands {
        let help = shell.help(command);
        assert_eq!(shell.long_flags(&format!("{command} ")), flags(&help), "{command}");
        let actions = actions(&help, command);
        if !actions.is_empty() {
            assert_eq!(shell.offered(&format!("{command} ")), actions);
        }
        for action in actions {
            let place = format!("{command} {action} ");
            assert_eq!(shell.long_flags(&place), flags(&shell.help(&place)), "{place}");
        }
    }
    let keys = first_words(&shell.help("config"), "mean):\n");
    assert!(keys.len() >= 19, "{keys:?}");
    assert_eq!(shell.offered("config get "), keys);
    assert_eq!(shell.offered("config set "), keys);
}

#[test]
fn bash_offers_values_where_they_are_known() {
    offers_values_where_they_are_known("bash");
}

#[test]
fn zsh_offers_values_where_they_are_known() {
    offers_values_where_they_are_known("zsh");
}

#[test]
fn fish_offers_values_where_they_are_known() {
    offers_values_where_they_are_known("fish");
}

fn offers_values_where_they_are_known(name: &str) {
    let shell = Shell::new(name);
    let directory = shell.scratch.path().join("here");
    fs::create_dir_all(directory.join("etc")).unwrap();
    fs::write(directory.join("extra.toml"), "").unwrap();
    for (line, offered) in [
        ("ser", "serve"),
        ("keys create --permissions ", "admin read write"),
        ("keys create --permissions w", "write"),
        ("keys create --permissions=", "admin read write"),
        ("keys create --permissions=r", "read"),
        ("completions ", "bash fish zsh"),
        ("serve --sandbox ", "off partial required"),
        ("config get bi", "bind"),
        ("keys apply e", "etc extra.toml"),
        ("tenants rem", "remove"),
        ("tenants create acme --password-file e", "etc extra.toml"),
        ("tenants password acme --pass", "--password-file"),
        ("serve --database-url-file e", "etc extra.toml"),
        ("serve --bootstrap-key-file=e", "etc extra.toml"),
        ("--home e", "etc"),
        ("--home=e", "etc"),
        ("keys list --home e", "etc"),
        // Values that look like commands, and those that a shell takes apart.
        ("--home serve con", "config"),
        ("--home=a:b keys appl", "apply"),
        ("-v keys --database-url postgresql://u:p@h:5432/d?sslmode=require cre", "create"),
        ("keys --database-url=postgresql://u:p@h:5432/d list --js", "--json"),
        ("keys revoke --grac", ""),
        // Nobody knows these.
        ("keys create --name ", ""),
        ("keys list --tenant ", ""),
        ("tenants show ", ""),
        ("serve --bind ", ""),
        ("serve --bind=", ""),
        ("keys revoke ", ""),
        ("config set bind ", ""),
    ] {
        assert_eq!(shell.offered(line), offered.split_whitespace().map(str::to_owned).collect(), "{line:?}");
    }
}

#[test]
fn the_lines_of_the_help_text_load_the_scripts() {
    for (name, before, after) in [
        ("bash", "", "complete -p cloacinactl"),
        ("zsh", "autoload -Uz compinit; compinit -u -D;", "print $_comps[cloacinactl]"),
        ("fish", "", "complete -c cloacinactl"),
    ] {
        let shell = Shell::new(name);
        fs::remove_file(shell.script()).unwrap();
        let help = shell.help("completions");
        let line = format!("cloacinactl completions {name}");
        let line = help.lines().find(|typed| typed.starts_with("  ") && typed.contains(&line)).unwrap();
        let mut command = shell.command();
        command.args(["-c", &format!("{before}{line}\n{after}")]);
        assert!(printed(command).contains("cloacinactl"), "{line}");
    }
}

#[test]
fn scripts_are_clean() {
    for (name, check) in [
        ("bash", ["bash", "-n"].as_slice()),
        ("bash", &["shellcheck", "--severity=style"]),
        ("zsh", &["zsh", "-n"]),
        ("fish", &["fish", "--no-execute"]),
    ] {
        let shell = Shell::new(name);
        let mut command = Command::new(check[0]);
        command.args(&check[1..]).arg(shell.script());
        assert_eq!(printed(command), "", "{check:?}");
    }
}

#[test]
fn a_shell_that_is_none_is_wrong_usage() {
    let scratch = Scratch::new();
    scratch.run(&["completions"]).failed(2, &["`completions` needs the name of a shell", "bash, zsh, fish"]);
    scratch.run(&["completions", "tcsh"]).failed(2, &["unknown shell `tcsh`", "bash, zsh, fish"]);
    scratch.run(&["completions", ""]).failed(2, &["unknown shell ``", "bash, zsh, fish"]);
    scratch.run(&["completions", "bash", "zsh"]).failed(2, &["unexpected argument `zsh`"]);
    scratch.run(&["completions", "--shell=bash"]).failed(2, &["`--shell`"]);
    assert!(!scratch.home("").exists());
}

/// A shell that has its script where it looks for one.
struct Shell {
    name: &'static str,
    scratch: Scratch,
}

impl Shell {
    fn new(name: &str) -> Shell {
        let scratch = Scratch::new();
        let outcome = scratch.run(&["completions", name]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
        let name = ["bash", "zsh", "fish"].into_iter().find(|known| *known == name).unwrap();
        let shell = Shell { name, scratch };
        fs::create_dir_all(shell.script().parent().unwrap()).unwrap();
        fs::create_dir(shell.scratch.path().join("here")).unwrap();
        // Whatever the program under test is called.
        fs::create_dir(shell.scratch.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(binary(), shell.scratch.path().join("bin/cloacinactl")).unwrap();
        fs::write(shell.script(), outcome.stdout).unwrap();
        shell
    }

    fn script(&self) -> PathBuf {
        self.scratch.path().join(match self.name {
            "bash" => ".local/share/bash-completion/completions/cloacinactl",
            "zsh" => ".zsh/_cloacinactl",
            _ => ".config/fish/completions/cloacinactl.fish",
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.name);
        command.env_clear().env("HOME", self.scratch.path()).env("TERM", "dumb");
        // fish loads the script of a command that it finds.
        let mut path = self.scratch.path().join("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        command.env("PATH", path);
        command.current_dir(self.scratch.path().join("here"));
        command
    }

    fn help(&self, place: &str) -> String {
        let mut arguments: Vec<_> = place.split_whitespace().collect();
        arguments.push("--help");
        self.scratch.run(&arguments).stdout
    }

    fn long_flags(&self, line: &str) -> Words {
        self.offered(&format!("{line}--"))
    }

    /// What is offered at the end of `cloacinactl LINE`, in the directory `here`; of `--flag=value` the value.
    fn offered(&self, line: &str) -> Words {
        let line = format!("cloacinactl {line}");
        let mut command = self.command();
        let probe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/completions/probe.zsh");
        match self.name {
            "bash" => {
                let run = "source \"$1\" && shift && COMP_WORDS=(\"$@\") && COMP_CWORD=$(($# - 1)) &&
                           complete -p cloacinactl >/dev/null && _cloacinactl && printf '%s\\n' \"${COMPREPLY[@]}\"";
                command.args(["--norc", "-c", run, "bash"]).arg(self.script()).args(taken_apart(&line))
            }
            "zsh" => command.arg("-f").arg(probe).arg(&line).arg(self.script().parent().unwrap()),
            _ => command.args(["-c", "complete -C $argv[1]", "--", &line]),
        };
        let printed = printed(command);
        let words = printed.lines().map(|line| line.split('\t').next().unwrap_or_default());
        let words = words.map(|word| word.split_once('=').map_or(word, |(_, value)| value));
        // A directory has its slash or gets it later.
        let words = words.map(|word| word.trim_end_matches('/'));
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }
}

/// What a command that has nothing to complain of prints.
#[track_caller]
fn printed(command: Command) -> String {
    let ended = Process::start(command).ended().expect_code(0);
    assert_eq!(ended.stderr, "");
    ended.stdout
}

/// The words of a line as bash's completion sees them: `=` and `:` are words of their own.
fn taken_apart(line: &str) -> Vec<String> {
    let mut all = Vec::new();
    for word in line.split(' ') {
        let before = all.len();
        for piece in word.split_inclusive(['=', ':']) {
            let (text, end) = piece.split_at(piece.trim_end_matches(['=', ':']).len());
            all.extend([text, end].into_iter().filter(|part| !part.is_empty()).map(str::to_owned));
        }
        if all.len() == before {
            all.push(String::new());
        }
    }
    all
}

/// The first words of the lines that stand indented under a heading.
fn first_words(text: &str, heading: &str) -> Words {
    let lines = text.split_once(heading).unwrap().1.lines().take_while(|line| line.starts_with("  "));
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The long flags that a help text explains: they begin a line, or follow a short one.
fn flags(help: &str) -> Words {
    let lines = help.lines().filter_map(|line| line.strip_prefix("  "));
    let flags = lines
        .filter(|line| line.starts_with('-'))
        .filter_map(|line| line.split([' ', ',']).find(|word| word.starts_with("--")));
    let flags: Words = flags.map(str::to_owned).collect();
    assert!(flags.len() >= 4, "{help}");
    flags
}

/// The actions of a command, by the lines that say how it is used.
fn actions(help: &str, command: &str) -> Words {
    let usage = help.lines().take_while(|line| !line.is_empty());
    let behind =
        usage.filter_map(|line| line.split_once(&format!(" {command} "))?.1.split_whitespace().next());
    behind.filter(|word| word.chars().all(|c| c.is_ascii_lowercase())).map(str::to_owned).collect()
}
