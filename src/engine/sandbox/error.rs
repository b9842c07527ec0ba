//! Why a sandbox could not be set up, in words that say what to do.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use super::landlock::NEEDED_ABI;
use crate::terminal::shown;

#[derive(Debug)]
pub enum SandboxError {
    /// A path that the task was given is not there, or its user cannot open it.
    Path { path: PathBuf, source: Box<dyn Error + Send + Sync> },
    /// What only the server may read lies in a directory that every task reads.
    Readable { path: PathBuf, below: &'static str },
    /// There is no Landlock: what the kernel answered.
    NoLandlock(Errno),
    /// There is a Landlock that does not do all that is needed.
    OldLandlock { abi: landlock::ABI, open: Vec<&'static str> },
    /// Landlock is there and refuses.
    Landlock(Box<dyn Error + Send + Sync>),
    /// Seccomp is not there or refuses.
    Seccomp(Box<dyn Error + Send + Sync>),
    /// `no_new_privs` cannot be set.
    Privileges(io::Error),
}

/// What is there to be done about a missing part.
const INSTEAD: &str = "`--sandbox partial` runs tasks with what is there, and lists what stays open";

impl fmt::Display for SandboxError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SandboxError::Path { path, source } => {
                let path = shown(&path.to_string_lossy());
                write!(formatter, "a path that the task may use cannot be opened: {path}: {source}")
            }
            SandboxError::Readable { path, below } => {
                let path = shown(&path.to_string_lossy());
                write!(
                    formatter,
                    "{path} lies below {below}, which every task can read: keep the server's files elsewhere, or let \
                     tasks run as another user. {INSTEAD}"
                )
            }
            SandboxError::NoLandlock(errno) => {
                let why = match *errno {
                    Errno::ENOSYS => "this kernel has no Landlock: Linux 6.12 or later has all of it".to_owned(),
                    Errno::EOPNOTSUPP => {
                        "Landlock is built into this kernel and not active: add `landlock` to what `lsm=` lists on its \
                         command line"
                            .to_owned()
                    }
                    Errno::EPERM | Errno::EACCES => {
                        "what started this process refuses the system calls of Landlock: let the container's seccomp \
                         profile or the unit's SystemCallFilter allow landlock_create_ruleset, landlock_add_rule and \
                         landlock_restrict_self"
                            .to_owned()
                    }
                    errno => format!("Landlock cannot be asked: {errno}"),
                };
                write!(formatter, "{why}. {INSTEAD}")
            }
            SandboxError::OldLandlock { abi, open } => write!(
                formatter,
                "this kernel's Landlock has version {abi}, and {NEEDED_ABI} (Linux 6.12) is needed: {} would stay open. \
                 {INSTEAD}",
                open.join("; ")
            ),
            SandboxError::Landlock(source) => write!(formatter, "Landlock refuses: {source}. {INSTEAD}"),
            SandboxError::Seccomp(source) => write!(
                formatter,
                "system calls cannot be filtered: {source}. Let what started this process allow seccomp, or build the \
                 kernel with CONFIG_SECCOMP_FILTER. {INSTEAD}"
            ),
            SandboxError::Privileges(source) => write!(formatter, "no_new_privs cannot be set: {source}"),
        }
    }
}

impl Error for SandboxError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SandboxError::Path { source, .. }
            | SandboxError::Landlock(source)
            | SandboxError::Seccomp(source) => Some(source.as_ref()),
            SandboxError::Privileges(source) => Some(source),
            SandboxError::Readable { .. }
            | SandboxError::NoLandlock(_)
            | SandboxError::OldLandlock { .. } => None,
        }
    }
}
