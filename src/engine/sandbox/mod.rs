//! What a task cannot do: Landlock for files and signals, seccomp for system calls, and no privileges to gain. Applied by
//! the process that becomes the task.

mod attempts;
mod error;
mod landlock;
mod seccomp;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::thread::{CapabilityFlags, CapabilitySets, capabilities, set_capabilities};
use serde::{Deserialize, Serialize};

pub use attempts::main as probe_main;
pub use error::SandboxError;

/// How much of the sandbox has to be there for a task to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All of it.
    #[default]
    Required,
    /// As much as the kernel has.
    Partial,
    /// None of it, on purpose.
    Off,
}

impl Mode {
    pub const ALL: [Mode; 3] = [Mode::Required, Mode::Partial, Mode::Off];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Required => "required",
            Mode::Partial => "partial",
            Mode::Off => "off",
        }
    }

    pub fn from_name(name: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// What one task may reach. The system's programs, libraries and settings are readable in any case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    pub mode: Mode,
    /// To read and to execute. Each must be there.
    pub readable: Vec<PathBuf>,
    /// To write as well. Each must be there.
    pub writable: Vec<PathBuf>,
}

/// What of the sandbox is in force.
struct Level {
    files_and_signals: landlock::Level,
    system_calls: Result<(), SandboxError>,
}

/// Also those of root, and ambient ones, which a process that is executed would keep.
///
/// # Errors
/// None that the system documents.
pub fn give_up_capabilities() -> io::Result<()> {
    let none = CapabilityFlags::empty();
    let held = capabilities(None)?;
    // A filter of what started this process may refuse the system call that gives up what it has not.
    if (held.effective | held.permitted | held.inheritable) == none {
        return Ok(());
    }
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(set_capabilities(None, none)?)
}

impl Sandbox {
    /// Confines this process for good, and what it executes. It has to have one thread: the others would stay free.
    ///
    /// # Errors
    /// A path is not there; or the mode is `required` and the system does not do all of it.
    pub fn confine(&self) -> Result<(), SandboxError> {
        if self.mode == Mode::Off {
            return Ok(());
        }
        self.apply().map(drop)
    }

    /// Whether tasks of the server's own user are kept out of a directory of the server's.
    ///
    /// # Errors
    /// The mode is `required`, and every task can read it.
    pub fn expect_closed(&self, directory: &Path) -> Result<(), SandboxError> {
        match landlock::readable_above(directory) {
            Some(below) if self.mode == Mode::Required => {
                Err(SandboxError::Readable { path: directory.to_owned(), below })
            }
            _ => Ok(()),
        }
    }

    fn apply(&self) -> Result<Level, SandboxError> {
        nix::sys::prctl::set_no_new_privs().map_err(|error| SandboxError::Privileges(error.into()))?;
        let files_and_signals = landlock::restrict(&self.readable, &self.writable)?;
        let level = Level { files_and_signals, system_calls: seccomp::restrict() };
        if self.mode == Mode::Required { level.expect_whole() } else { Ok(level) }
    }
}

impl Level {
    fn expect_whole(self) -> Result<Level, SandboxError> {
        self.system_calls?;
        Ok(Level { files_and_signals: self.files_and_signals.expect_whole()?, system_calls: Ok(()) })
    }

    /// What a task can still do of what it should not, a line each.
    fn open(&self) -> Vec<String> {
        let mut open: Vec<_> = self.files_and_signals.open().into_iter().map(str::to_owned).collect();
        if self.system_calls.is_err() {
            open.extend(seccomp::OPEN_WITHOUT.map(str::to_owned));
        }
        open
    }
}

/// Sets the sandbox up in a process of its own and tries there what a task must not do. What stays open here: for
/// `required` nothing.
///
/// # Errors
/// The mode cannot be held here: why, and what to do.
pub fn probe(mode: Mode) -> Result<Vec<String>, String> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["exec-task", "--probe", mode.name()]).env_clear();
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let cannot = |why: String| format!("the sandbox could not be tried: {why}");
    let output = command.output().map_err(|error| cannot(error.to_string()))?;
    let lines = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    match output.status.code() {
        Some(0) => Ok(lines.lines().map(str::to_owned).collect()),
        Some(1) if !lines.is_empty() => Err(lines),
        _ => Err(cannot(format!("its process ended with {}", output.status))),
    }
}
