//! Control groups of version 2. Where systemd has delegated one to this process, each attempt gets one of its own in it: its
//! limits hold there, and what is left of it is ended in one stroke, however many processes that is.

mod attempt;
mod directory;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use attempt::{AttemptCgroup, Limits, size};
pub use directory::delegated;

use self::attempt::{as_owner, write};

/// Where this process and the supervisors are, so that a task's limits are not theirs. A cgroup with limits for those below it
/// has no processes of its own.
const SERVER: &str = "server";

/// How often processes that are in the way are moved, while they make new ones.
const MOST_ROUNDS: usize = 10;

/// What the names of those of attempts begin with.
const ATTEMPT: &str = "attempt-";

/// A limit that is not set.
const UNLIMITED: &str = "max";

/// What tasks can take where they have no limits, and why.
pub fn not_held(why: &str) -> String {
    format!("max_memory is not held, and tasks can take all memory and processes of this host: {why}")
}

/// A cgroup that is this process's to divide.
#[derive(Debug, Clone)]
pub struct Cgroups {
    directory: PathBuf,
    /// What an attempt may take where its manifest does not say; or why there are no limits.
    limits: Result<Limits, String>,
}

/// Takes over the cgroup that was delegated to this process, if one was.
///
/// # Errors
/// Why there is none.
pub fn enter() -> Result<Cgroups, String> {
    let directory = directory::delegated()?;
    for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(ATTEMPT.as_bytes()) {
            // Where nothing is in it any more. One that is still to be entered is made again then.
            let _ = fs::remove_dir(entry.path());
        }
    }
    // systemd cannot start a service again whose cgroup has limits for those below it. The unit of this program takes them
    // away before that, and has made this directory.
    let is_prepared =
        directory.extension().is_none_or(|kind| kind != "service") || directory.join(SERVER).is_dir();
    let limits = if is_prepared {
        hold_limits(&directory).map_err(|error| format!("limits cannot be set: {error}"))
    } else {
        Err("its unit does not take limits away before its next start, as the one in scripts/deploy does"
            .to_owned())
    };
    Ok(Cgroups { directory, limits })
}

fn hold_limits(directory: &Path) -> io::Result<Limits> {
    let server = directory.join(SERVER);
    match as_owner(&server, |path| fs::create_dir(path)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for _ in 0..MOST_ROUNDS {
        // This one, and what an earlier version of it has started.
        for process in as_owner(&directory.join("cgroup.procs"), |path| fs::read_to_string(path))?.lines() {
            match write(&server, "cgroup.procs", process) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32) => {}
                moved => moved?,
            }
        }
        match write(directory, "cgroup.subtree_control", "+memory +pids") {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            held => return held.and_then(|()| defaults(directory)),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Half of the memory, and a quarter of the processes, of this host or of the cgroup.
fn defaults(directory: &Path) -> io::Result<Limits> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB"));
    let memory = memory.and_then(|kib| kib.trim().parse::<u64>().ok()).map_or(u64::MAX, |kib| kib << 10);
    let threads = fs::read_to_string("/proc/sys/kernel/threads-max")?;
    let threads = threads.trim().parse().map_err(io::Error::other)?;
    let least = |name: &str, of_host: u64| {
        let own = as_owner(&directory.join(name), |path| fs::read_to_string(path))?;
        let own = own.trim();
        let own = if own == UNLIMITED { of_host } else { own.parse().map_err(io::Error::other)? };
        io::Result::Ok(own.min(of_host))
    };
    let (memory, processes) = (least("memory.max", memory)? / 2, least("pids.max", threads)? / 4);
    Ok(Limits { memory_bytes: (memory >> 20).max(1) << 20, processes: processes.max(1) })
}

impl Cgroups {
    /// One for an attempt, which has to be made yet.
    pub fn of_attempt(&self, name: &str, max_memory: Option<u64>) -> AttemptCgroup {
        let limits = self
            .limits
            .as_ref()
            .ok()
            .map(|limits| Limits { memory_bytes: max_memory.unwrap_or(limits.memory_bytes), ..*limits });
        AttemptCgroup { directory: self.directory.join(format!("{ATTEMPT}{name}")), limits }
    }

    /// What every attempt may take that does not say.
    ///
    /// # Errors
    /// Why they may take anything.
    pub fn limits(&self) -> Result<&Limits, &str> {
        self.limits.as_ref().map_err(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_has_the_memory_that_its_manifest_says() {
        let limits = Limits { memory_bytes: 2 << 30, processes: 900 };
        let held = Cgroups { directory: "/c".into(), limits: Ok(limits) };
        assert_eq!(held.of_attempt("1", None).limits, Some(limits));
        let more = held.of_attempt("1", Some(3 << 30));
        assert_eq!(more.limits, Some(Limits { memory_bytes: 3 << 30, processes: 900 }));
        assert_eq!(more.directory, Path::new("/c/attempt-1"));
        let none = Cgroups { limits: Err("why".to_owned()), ..held };
        assert_eq!(none.of_attempt("1", Some(1)).limits, None);
    }
}
