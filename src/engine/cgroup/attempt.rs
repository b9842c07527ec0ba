//! The cgroup of one attempt: made and removed by its supervisor, entered by the process that becomes the command.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::attempt::End;

/// Between two looks at processes that have been killed.
const LOOK: Duration = Duration::from_millis(5);

/// How often a task of the same user may close what was opened again.
const MOST_TRIES: usize = 1_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptCgroup {
    pub directory: PathBuf,
    /// `None`: it is there for its end alone.
    pub limits: Option<Limits>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub memory_bytes: u64,
    /// Threads count too.
    pub processes: u64,
}

impl AttemptCgroup {
    /// # Errors
    /// It is there, or cannot be made.
    pub fn make(&self) -> io::Result<()> {
        as_owner(&self.directory, |path| fs::create_dir(path))?;
        match self.set_limits() {
            // A server is being started, and will set them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            set => set,
        }
    }

    /// Also sets them again: a server that starts takes all of them away for a moment.
    ///
    /// # Errors
    /// It is not there, or has no limits.
    pub fn set_limits(&self) -> io::Result<()> {
        let Some(limits) = self.limits else { return Ok(()) };
        // All of it ends then, rather than any one of its processes.
        write(&self.directory, "memory.oom.group", "1")?;
        // Not there without swap.
        let _ = write(&self.directory, "memory.swap.max", "0");
        write(&self.directory, "memory.max", &limits.memory_bytes.to_string())?;
        write(&self.directory, "pids.max", &limits.processes.to_string())
    }

    /// Moves this process into it.
    ///
    /// # Errors
    /// It cannot be made, or is closed to this process.
    pub fn enter(&self) -> io::Result<()> {
        let enter = || write(&self.directory, "cgroup.procs", "0");
        match enter() {
            // systemd removes empty ones when the server ends.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make().and_then(|()| enter()),
            entered => entered,
        }
    }

    /// Kills all that is in it. What is being started by it is killed as well.
    pub fn kill(&self) {
        // Where it cannot be, what is left is seen at its end.
        let _ = write(&self.directory, "cgroup.kill", "1");
    }

    /// Kills all that is in it, and removes it. How many processes are left; once there are none, none can come.
    pub fn end(&self) -> usize {
        let read = |name: &str| as_owner(&self.directory.join(name), |path| fs::read_to_string(path));
        let is_gone = match read("cgroup.events") {
            Err(error) => error.kind() == io::ErrorKind::NotFound,
            Ok(events) => value(&events, "populated") == 0 && remove(&self.directory),
        };
        if is_gone {
            return 0;
        }
        self.kill();
        read("cgroup.procs").map_or(1, |processes| processes.lines().count().max(1))
    }

    /// The same, while they end.
    pub fn end_within(&self, patience: Duration) -> usize {
        let until = Instant::now() + patience;
        loop {
            let left = self.end();
            if left == 0 || Instant::now() >= until {
                return left;
            }
            thread::sleep(LOOK);
        }
    }

    /// How its command has ended, with the limit that was the reason, if one was.
    pub fn explain(&self, end: End) -> End {
        let Some(limits) = self.limits else { return end };
        let read = |name: &str| as_owner(&self.directory.join(name), |path| fs::read_to_string(path));
        limits.explain(
            end,
            &read("memory.events").unwrap_or_default(),
            &read("pids.events").unwrap_or_default(),
        )
    }
}

impl Limits {
    fn explain(self, end: End, memory_events: &str, pids_events: &str) -> End {
        let is_by_itself = matches!(end, End::Signaled { .. } | End::Exited(_)) && end != End::Exited(0);
        if is_by_itself && value(memory_events, "oom_kill") > 0 {
            return End::Failed(match value(memory_events, "oom") {
                0 => "killed: the host has no memory left".to_owned(),
                _ => format!("killed: more than max_memory = {}", size(self.memory_bytes)),
            });
        }
        if (is_by_itself || end == End::TimedOut) && value(pids_events, "max") > 0 {
            let most = self.processes;
            return End::Failed(format!(
                "{end}; it wanted more than the {most} processes and threads of a task"
            ));
        }
        end
    }
}

/// What stands behind a name in a file of the kernel's, a line each.
fn value(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_default()
}

/// As a manifest has it.
pub fn size(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K"), (0, "")];
    let fitting = units.into_iter().find(|(shift, _)| bytes.is_multiple_of(1 << shift));
    fitting.map_or_else(String::new, |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// With those that a task without a sandbox has made in it. Whether nothing of it is there.
fn remove(directory: &Path) -> bool {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    as_owner(directory, |path| fs::remove_dir(path)).is_ok() || !directory.exists()
}

pub fn write(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    as_owner(&directory.join(name), |path| {
        OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
    })
}

/// Does something with a file. Where a task of the same user has closed it, or the two directories above it, to that user,
/// which Landlock lets it, they are opened first.
pub fn as_owner<T>(path: &Path, act: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    for _ in 0..MOST_TRIES {
        match act(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            done => return done,
        }
        let above: Vec<_> = path.ancestors().take(3).collect();
        let opened = above.into_iter().rev().filter(|path| {
            let mode = if path.is_dir() { 0o755 } else { 0o644 };
            fs::set_permissions(path, Permissions::from_mode(mode)).is_ok()
        });
        if opened.count() == 0 {
            break;
        }
    }
    act(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_says_which_limit_was_its_reason() {
        let limits = Limits { memory_bytes: 512 << 20, processes: 900 };
        let killed = End::Signaled { signal: 9, name: "SIGKILL".to_owned() };
        let memory = |max, oom, kill| {
            format!("low 0\nhigh 0\nmax {max}\noom {oom}\noom_kill {kill}\noom_group_kill {kill}\n")
        };
        let (none, over, by_host) = (memory(0, 0, 0), memory(9, 1, 3), memory(0, 0, 1));
        let wanted = "; it wanted more than the 900 processes and threads of a task";
        for (end, memory, pids, said) in [
            (killed.clone(), &none, "max 0\n", "killed by SIGKILL".to_owned()),
            (killed.clone(), &over, "max 0\n", "killed: more than max_memory = 512M".to_owned()),
            (killed.clone(), &by_host, "max 0\n", "killed: the host has no memory left".to_owned()),
            (End::Exited(137), &over, "max 0\n", "killed: more than max_memory = 512M".to_owned()),
            // Something of it was killed, and the command has ended well, or was ended by another.
            (End::Exited(0), &over, "max 1\n", "exit code 0".to_owned()),
            (End::Cancelled, &over, "max 1\n", "cancelled".to_owned()),
            (End::Exited(2), &none, "max 1\n", format!("exit code 2{wanted}")),
            (End::TimedOut, &none, "max 70000\n", format!("timed out{wanted}")),
            (End::TimedOut, &none, "max 0\n", "timed out".to_owned()),
            // There are none while a server is being started.
            (killed, &String::new(), "", "killed by SIGKILL".to_owned()),
        ] {
            assert_eq!(
                limits.explain(end.clone(), memory, pids).to_string(),
                said,
                "{end:?} {memory} {pids}"
            );
        }
    }

    #[test]
    fn a_size_is_said_as_in_a_manifest() {
        for (bytes, said) in
            [(512 << 20, "512M"), (3 << 29, "1536M"), (2 << 30, "2G"), (1 << 40, "1T"), (1000, "1000")]
        {
            assert_eq!(size(bytes), said);
        }
    }

    /// In a directory that is no cgroup: what matters is which files are written, and whether they can be.
    #[test]
    fn what_a_task_has_closed_is_opened_again() {
        let base = std::env::temp_dir().join(format!("cloacina-cgroup-{}", std::process::id()));
        let limits = Some(Limits { memory_bytes: 1 << 20, processes: 5 });
        let cgroup = AttemptCgroup { directory: base.join("attempt-1"), limits };
        fs::create_dir_all(&base).unwrap();
        // Without limits for now, as while a server is being started.
        cgroup.make().unwrap();
        let names = ["memory.oom.group", "memory.swap.max", "memory.max", "pids.max", "cgroup.procs"];
        for name in names {
            fs::write(cgroup.directory.join(name), "").unwrap();
        }
        let close = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o0)).unwrap();
        names.iter().for_each(|name| close(&cgroup.directory.join(name)));
        close(&cgroup.directory);
        close(&base);
        cgroup.set_limits().unwrap();
        cgroup.enter().unwrap();
        let written = names.map(|name| fs::read_to_string(cgroup.directory.join(name)).unwrap());
        assert_eq!(written, ["1", "0", "1048576", "5", "0"]);
        fs::remove_dir_all(&base).unwrap();
        assert_eq!(cgroup.end_within(Duration::ZERO), 0);
    }
}
