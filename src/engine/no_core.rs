//! A process whose memory has secrets in it, and leaves them nowhere.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Before there are secrets in this process's memory, which no process of its user reads either from now on. What it starts
/// has the limit, and is like any other process once it is executed.
///
/// # Errors
/// None that the system documents.
pub fn leave_no_core() -> io::Result<()> {
    // 0 would still hand a core to a program that /proc/sys/kernel/core_pattern names.
    let (_, most) = getrlimit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, most.min(1), most.min(1))?;
    Ok(nix::sys::prctl::set_dumpable(false)?)
}
