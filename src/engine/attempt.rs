//! The directory of one attempt: what its supervisor is told, and what the supervisor leaves behind. A later version of
//! this program may have to read it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use nix::sys::signal::{SigmaskHow, Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::attempt_files::{make_directory, new_file, read_json, write_new};
use super::cgroup::AttemptCgroup;
use super::log::{self, Piece};
use super::remove_tree::remove_tree;
use super::sandbox::Sandbox;

/// The format of an attempt directory that this program writes, and the only one that it reads.
pub const FORMAT: u32 = 1;

pub const SPEC_NAME: &str = "spec.json";
pub const LOCK_NAME: &str = "attempt.lock";
pub const OUTCOME_NAME: &str = "outcome.json";
pub const TASK_NAME: &str = "task";

/// What the lock's file holds when nothing has been started, and nothing is to be.
pub const NEVER: &str = "never";

/// In `task/`.
pub const OUTPUT_NAME: &str = "output.json";

/// What a supervisor is told. Secrets are not in it; they go through its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub format: u32,
    pub command: Vec<String>,
    pub working_directory: PathBuf,
    /// All of the task's environment but its secrets.
    pub environment: BTreeMap<String, String>,
    pub timeout_ms: u64,
    /// Between SIGTERM and SIGKILL.
    pub grace_ms: u64,
    pub log_limit_bytes: u64,
    pub output_limit_bytes: u64,
    /// Of the files in `task/`.
    pub scratch_limit_bytes: Option<u64>,
    /// The soft limit of open files.
    pub open_files: u64,
    /// None: the supervisor's own.
    pub user: Option<TaskUser>,
    pub sandbox: Sandbox,
    /// None where no cgroup is delegated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<AttemptCgroup>,
    /// Whether the end of the supervisor's standard input cancels the task.
    pub ends_with_parent: bool,
    /// Of the system that it was made in. None where its parent does not outlive it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Uuid>,
}

/// The user that a task runs as, under a supervisor that is root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskUser {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// How an attempt ended. It is written once no process of it is left, unless `warnings` says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub format: u32,
    pub end: End,
    /// The text of the JSON object that the task wrote, if it wrote one and succeeded.
    pub output: Option<String>,
    /// Since the Unix epoch.
    pub started_at_ms: u64,
    pub ended_at_ms: u64,
    /// What the task printed, secrets masked; the offsets of the log are offsets in it.
    pub log_bytes: u64,
    /// What of it can be read.
    pub log_kept_bytes: u64,
    /// What went wrong without changing the end: a log that could not be written, files that could not be removed.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Exited(i32),
    Signaled {
        signal: i32,
        name: String,
    },
    TimedOut,
    Cancelled,
    /// Not started, or ended or refused by the supervisor: why.
    Failed(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exited(code) => write!(f, "exit code {code}"),
            End::Signaled { name, .. } => write!(f, "killed by {name}"),
            End::TimedOut => f.write_str("timed out"),
            End::Cancelled => f.write_str("cancelled"),
            End::Failed(why) => f.write_str(why),
        }
    }
}

/// An attempt directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    directory: PathBuf,
}

/// A supervisor that is a child of this process.
#[derive(Debug)]
pub struct Supervised {
    child: Child,
    /// Open as long as the task may run, if it ends with its parent.
    _stdin: Option<ChildStdin>,
}

impl Attempt {
    /// An attempt directory that exists.
    ///
    /// # Errors
    /// The path is empty.
    pub fn at(directory: &Path) -> io::Result<Attempt> {
        Ok(Attempt { directory: std::path::absolute(directory)? })
    }

    /// Makes the directory, with everything that a supervisor needs. The task's user must be able to reach it.
    ///
    /// # Errors
    /// It is there already, or it cannot be written; what has been made by then stays.
    pub fn create(directory: &Path, spec: &Spec, context: &Map<String, Value>) -> io::Result<Attempt> {
        let attempt = Attempt::at(directory)?;
        let user = spec.user.as_ref();
        // A task of another user passes through to its own directory, and can list none of this one.
        make_directory(&attempt.directory, if user.is_some() { 0o711 } else { 0o700 })?;
        write_new(&attempt.spec_path(), spec)?;
        new_file(&attempt.lock_path())?;
        let context_path = attempt.context_path();
        for made in [attempt.task_path(), attempt.home_path()] {
            make_directory(&made, 0o700)?;
        }
        write_new(&context_path, context)?;
        if let Some(TaskUser { uid, gid, .. }) = user {
            for its_own in [context_path, attempt.home_path(), attempt.task_path()] {
                chown(its_own, Some(*uid), Some(*gid))?;
            }
        }
        Ok(attempt)
    }

    /// Starts its supervisor, which gets the secrets as one line.
    ///
    /// # Errors
    /// The specification cannot be read, or the process cannot be started.
    pub fn start(&self, secrets: &BTreeMap<String, String>) -> io::Result<Supervised> {
        self.start_by(Path::new("/proc/self/exe"), secrets)
    }

    /// The same, with a program that is called as this one would be.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_by(&self, program: &Path, secrets: &BTreeMap<String, String>) -> io::Result<Supervised> {
        let ends_with_parent = self.spec()?.ends_with_parent;
        let mut command = Command::new(program);
        command.arg("supervise-task").arg(&self.directory).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // It starts with them blocked, so that none that comes early can end it without an outcome. All but the first come
        // from a terminal, and reach it until it has a session of its own.
        let early = Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGHUP;
        let before = early.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let spawned = command.spawn();
        before.thread_set_mask()?;
        let mut child = spawned?;
        let mut stdin = child.stdin.take();
        let mut line = serde_json::to_vec(secrets)?;
        line.push(b'\n');
        // One that gave up before it read them leaves an outcome, or none: either is found where every end is.
        let _ = stdin.as_mut().map(|stdin| stdin.write_all(&line));
        Ok(Supervised { child, _stdin: stdin.filter(|_| ends_with_parent) })
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The outcome cannot be read, or is of another format.
    pub fn outcome(&self) -> io::Result<Option<Outcome>> {
        let path = self.outcome_path();
        match self.as_owner(&path, || read_json::<Outcome>(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            outcome => outcome.map(Some),
        }
    }

    /// A piece of the log: see `log::read`.
    pub fn log(&self, after: u64, most_bytes: usize) -> io::Result<Piece> {
        log::read(&self.directory, after, most_bytes)
    }

    /// Removes the directory with all that is in it.
    ///
    /// # Errors
    /// A supervisor lives, or something in it cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        let lock = match self.open_lock() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            lock => Some(lock?),
        };
        match lock.as_ref().map(File::try_lock) {
            Some(Err(TryLockError::WouldBlock)) => Err(io::Error::other("its supervisor still runs")),
            Some(Err(TryLockError::Error(error))) => Err(error),
            Some(Ok(())) | None => remove_tree(&self.directory),
        }
    }

    /// What its supervisor is told.
    ///
    /// # Errors
    /// It cannot be read, or is of another format.
    pub fn spec(&self) -> io::Result<Spec> {
        let path = self.spec_path();
        self.as_owner(&path, || read_json(&path))
    }

    /// Why this program cannot read what is in it, where that is since another version has written it.
    pub fn other_format(&self) -> Option<io::Error> {
        let errors = [self.spec().err(), self.outcome().err()];
        errors.into_iter().flatten().find(|error| error.kind() == io::ErrorKind::Unsupported)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn spec_path(&self) -> PathBuf {
        self.directory.join(SPEC_NAME)
    }

    /// The task's own directory, removed before the outcome is written.
    pub fn task_path(&self) -> PathBuf {
        self.directory.join(TASK_NAME)
    }

    /// `HOME` and `TMPDIR`.
    pub fn home_path(&self) -> PathBuf {
        self.task_path().join("home")
    }

    /// `CLOACINA_CONTEXT`.
    pub fn context_path(&self) -> PathBuf {
        self.task_path().join("context.json")
    }

    /// `CLOACINA_OUTPUT`.
    pub fn output_path(&self) -> PathBuf {
        self.task_path().join(OUTPUT_NAME)
    }

    pub fn outcome_path(&self) -> PathBuf {
        self.directory.join(OUTCOME_NAME)
    }

    /// Locked by the supervisor as long as it lives. It is empty until the supervisor is about to start the task, and has the
    /// supervisor's process id from then on; or `NEVER`, written by a parent that found it free and empty. A supervisor
    /// that does not find it empty starts nothing.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open_lock(&self) -> io::Result<File> {
        let path = self.lock_path();
        self.as_owner(&path, || OpenOptions::new().read(true).write(true).open(&path))
    }

    /// Does something with a file in it. A task of the same user may have closed it, and its supervisor may have been killed.
    fn as_owner<T>(&self, path: &Path, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
                act()
            }
            done => done,
        }
    }

    fn lock_path(&self) -> PathBuf {
        self.directory.join(LOCK_NAME)
    }
}

impl Supervised {
    /// Its process id, which stays its own until `wait` has returned a status.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Has it end its task, with the grace; told again, without. Waits for nothing.
    ///
    /// # Errors
    /// None that the system documents.
    pub fn cancel(&self) -> io::Result<()> {
        // Not waited for, so the id is still its own, also where it has ended.
        let pid = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        Ok(kill(Pid::from_raw(pid), Signal::SIGTERM)?)
    }

    /// Waits until it has ended: 0 if there is an outcome.
    ///
    /// # Errors
    /// None that the system documents.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        // `Child::wait` closes a standard input that it still holds; this one is held here.
        self.child.wait()
    }
}
