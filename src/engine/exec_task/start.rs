//! How a supervisor starts a task's process: as a process is started that has no history.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, PipeReader};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

use super::{REPORT, SECRET};

/// A process that is to become a task's command, the leader of a process group of its own. It is not waited for here.
#[derive(Debug)]
pub struct Started {
    pub pid: Pid,
    /// At its end without a byte the command is being executed. Else it has one line: why it could not be.
    pub report: PipeReader,
}

/// Starts it with every signal as it is by default, with three descriptors, and with nothing of this process's
/// environment. It is killed when the calling thread ends, so that has to be one that stays.
///
/// # Errors
/// The system starts no process, or a secret holds a NUL byte.
pub fn start(
    spec: &Path,
    secrets: &BTreeMap<String, String>,
    input: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
) -> io::Result<Started> {
    let (report, writer) = io::pipe()?;
    let mut actions = PosixSpawnFileActions::init()?;
    // In this order: what is here at 3 may be one of the others.
    for (from, to) in [(input, 0), (output, 1), (output, 2)] {
        actions.add_dup2(from.as_raw_fd(), to)?;
    }
    actions.add_dup2(writer.as_raw_fd(), REPORT)?;
    // Where a parent of this process ignores a signal, as `nohup` does, every process below would; std can't undo that.
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
    )?;
    attributes.set_pgroup(Pid::from_raw(0))?;
    attributes.set_sigdefault(&SigSet::all())?;
    attributes.set_sigmask(&SigSet::empty())?;
    let parent = std::process::id().to_string();
    let arguments: [&[u8]; 4] =
        [b"cloacinactl", b"exec-task", spec.as_os_str().as_bytes(), parent.as_bytes()];
    let arguments = arguments.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
    let environment = secrets.iter().map(|(name, value)| CString::new(format!("{SECRET}{name}={value}")));
    let environment = environment.collect::<Result<Vec<_>, _>>()?;
    let pid = posix_spawn("/proc/self/exe", &actions, &attributes, &arguments, &environment)?;
    Ok(Started { pid, report })
}
