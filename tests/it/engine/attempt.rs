//! An attempt directory as it is documented, and `supervise-task` on it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

use serde_json::{Value, json};

use super::task::{is_root, made_up_user};
use crate::support::directory::Directory;
use crate::support::program::{Process, binary};
use crate::support::wait_for;

/// Who supervises: root, for a task of another user, or the user whom the task runs as too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum As {
    Root,
    Plain,
}

/// Both of them, where the tests run as root.
pub fn both() -> impl Iterator<Item = As> {
    [As::Root, As::Plain].into_iter().filter(|one| *one == As::Plain || is_root())
}

pub struct Attempt {
    pub directory: Directory,
    pub spec: Value,
    pub secrets: Value,
    pub context: Value,
    supervisor: As,
}

impl Attempt {
    pub fn new(supervisor: As, command: &[&str]) -> Attempt {
        let directory = Directory::new();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let task = directory.join("attempt/task");
        let user = match supervisor {
            As::Root => json!({"uid": made_up_user(), "gid": made_up_user(), "groups": []}),
            As::Plain => Value::Null,
        };
        let spec = json!({
            "format": 1, "command": command, "working_directory": "/",
            "environment": {
                "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": task.join("home"),
                "TMPDIR": task.join("home"), "OUT": task.join("output.json"), "HERE": directory.path(),
            },
            "timeout_ms": 60_000, "grace_ms": 10_000, "log_limit_bytes": 1_048_576, "output_limit_bytes": 1_048_576,
            "scratch_limit_bytes": null, "open_files": 512, "user": user,
            "sandbox": {"mode": "off", "readable": [], "writable": []},
            "ends_with_parent": false,
        });
        Attempt { directory, spec, secrets: json!({}), context: json!({}), supervisor }
    }

    /// Runs a script of sh.
    pub fn script(supervisor: As, script: &str) -> Attempt {
        Attempt::new(supervisor, &["sh", "-c", script])
    }

    pub fn python(supervisor: As, script: &str) -> Attempt {
        Attempt::new(supervisor, &["python3", "-c", script])
    }

    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Attempt {
        assert!(self.spec.get(field).is_some(), "{field} is no field of a specification");
        self.spec[field] = value.into();
        self
    }

    pub fn path(&self) -> PathBuf {
        self.directory.join("attempt")
    }

    /// A directory that the task may write to, beside its own.
    pub fn shared(&self) -> PathBuf {
        let path = self.directory.join("shared");
        if !path.exists() {
            DirBuilder::new().mode(0o700).create(&path).unwrap();
            self.give(&path);
        }
        path
    }

    /// Makes the directory.
    pub fn make(&self) {
        let path = self.path();
        DirBuilder::new().mode(0o711).create(&path).unwrap();
        fs::write(path.join("spec.json"), self.spec.to_string()).unwrap();
        fs::write(path.join("attempt.lock"), "").unwrap();
        let task = path.join("task");
        for made in [&task, &task.join("home")] {
            DirBuilder::new().mode(0o700).create(made).unwrap();
        }
        fs::write(task.join("context.json"), self.context.to_string()).unwrap();
        for given in ["task", "task/home", "task/context.json"] {
            self.give(&path.join(given));
        }
        if self.supervisor == As::Plain {
            for given in ["", "spec.json", "attempt.lock"] {
                self.give(&path.join(given));
            }
        }
    }

    fn give(&self, path: &Path) {
        if is_root() {
            chown(path, Some(made_up_user()), Some(made_up_user())).unwrap();
        }
    }

    /// The command that supervises it.
    pub fn command(&self) -> Command {
        let mut command = if self.supervisor == As::Plain && is_root() {
            let user = made_up_user();
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
            command.arg(binary());
            command
        } else {
            Command::new(binary())
        };
        command.arg("supervise-task").arg(self.path()).env_clear().env("PATH", "/usr/bin:/bin");
        command
    }

    /// Makes the directory and starts its supervisor, which gets the secrets.
    pub fn start(self) -> Running {
        self.make();
        let command = self.command();
        self.start_as(command)
    }

    pub fn start_as(self, mut command: Command) -> Running {
        command.stdin(Stdio::piped());
        let mut process = Process::start_with_stdin(command);
        let mut stdin = process.child.stdin.take().unwrap();
        // A supervisor that has given up reads none.
        let _ = writeln!(stdin, "{}", self.secrets);
        Running { attempt: self, process, stdin: Some(stdin) }
    }

    /// Runs it until there is an outcome.
    #[track_caller]
    pub fn run(self) -> Outcome {
        self.start().ended()
    }
}

pub struct Running {
    pub attempt: Attempt,
    pub process: Process,
    pub stdin: Option<ChildStdin>,
}

impl Running {
    /// Until then a signal ends the supervisor without an outcome, and nothing has run.
    pub fn wait_until_it_works(&self) {
        let paths = ["outcome.partial", "outcome.json"].map(|name| self.attempt.path().join(name));
        wait_for("a supervisor at work", || paths.iter().any(|path| path.exists()).then_some(()));
    }

    #[track_caller]
    pub fn ended(self) -> Outcome {
        // Open until it has ended: the end of standard input is another thing.
        let Running { attempt, process, stdin } = self;
        let ended = process.ended();
        drop(stdin);
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        Outcome::of(attempt)
    }
}

/// What a supervisor left behind.
pub struct Outcome {
    pub attempt: Attempt,
    pub outcome: Value,
}

impl Outcome {
    #[track_caller]
    pub fn of(attempt: Attempt) -> Outcome {
        let path = attempt.path();
        let outcome = fs::read(path.join("outcome.json")).unwrap();
        let outcome: Value = serde_json::from_slice(&outcome).unwrap();
        assert_eq!(outcome["format"], 1, "{outcome}");
        assert!(!path.join("task").exists(), "files of the task are left: {outcome}");
        let (started, ended) = (outcome["started_at_ms"].as_u64(), outcome["ended_at_ms"].as_u64());
        assert!(started.unwrap() <= ended.unwrap(), "{outcome}");
        File::open(path.join("attempt.lock")).unwrap().try_lock().unwrap();
        Outcome { attempt, outcome }
    }

    pub fn end(&self) -> &Value {
        &self.outcome["end"]
    }

    /// Why it failed.
    #[track_caller]
    pub fn failed(&self) -> &str {
        self.end()["failed"].as_str().unwrap_or_else(|| panic!("{} is no failure", self.outcome))
    }

    /// Nothing went wrong, and it ended so.
    #[track_caller]
    pub fn expect_end(self, end: impl Into<Value>) -> Outcome {
        let log = self.log_text();
        assert_eq!(self.end(), &end.into(), "{} {log:?}", self.outcome);
        assert_eq!(self.outcome["warnings"], json!([]));
        self
    }

    /// The log's pieces, by where they begin.
    pub fn log(&self) -> BTreeMap<u64, Vec<u8>> {
        log_of(&self.attempt.path())
    }

    /// All of a log that has one piece.
    #[track_caller]
    pub fn log_text(&self) -> String {
        let log = self.log();
        assert!(log.len() <= 1, "a log of {} pieces", log.len());
        String::from_utf8_lossy(log.get(&0).map_or(&[], Vec::as_slice)).into_owned()
    }
}

pub fn log_of(directory: &Path) -> BTreeMap<u64, Vec<u8>> {
    let mut pieces = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let start = match name.strip_prefix("log") {
            Some("") => 0,
            Some(start) => start.trim_start_matches('.').parse().unwrap(),
            None => continue,
        };
        // One that is listed may be gone by now.
        pieces.extend(fs::read(entry.path()).ok().map(|bytes| (start, bytes)));
    }
    pieces
}
