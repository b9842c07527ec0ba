//! Ends what a supervisor that was killed has left behind. Its command ends with it, but not what that had started. Those
//! processes are known by their environment, which has a path of the attempt in it; and as orphans they become children of
//! this process, if it had started that supervisor.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem;
use nix::unistd::Pid;
use uuid::Uuid;

use super::own_children::OwnChildren;
use crate::engine::attempt::{OUTPUT_NAME, TASK_NAME};
use crate::engine::supervisor::descendants;

/// How long what has been killed may take to be gone, as one that waits for a disk does.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Looks that have to find nothing: one that is executing a program right now has no environment for a moment.
const EMPTY_LOOKS: usize = 2;

const MARK: &[u8] = b"CLOACINA_OUTPUT=";

/// Far more than the system takes for arguments and environment of a process by default.
const MOST_ENVIRONMENT_BYTES: u64 = 8 << 20;

/// Ends all processes of these attempts, whose supervisors are gone. How many there still are, of each that has any.
pub fn end_all(attempts: &HashSet<Uuid>, own: &OwnChildren, patience: Duration) -> HashMap<Uuid, usize> {
    let until = Instant::now() + patience;
    let mut empty_looks = 0;
    loop {
        let orphans = own.each_orphan(|orphan| kill_orphan(orphan, attempts));
        let left = kill_marked(attempts);
        empty_looks = if left.is_empty() && orphans == 0 { empty_looks + 1 } else { 0 };
        // An orphan of another attempt is none of these; it only makes the looks more.
        if empty_looks == EMPTY_LOOKS || Instant::now() >= until {
            return left;
        }
        thread::sleep(LOOK);
    }
}

/// The first process of a container gets orphans that are of no task.
fn kill_orphan(orphan: Pid, attempts: &HashSet<Uuid>) {
    let is_of_a_task = std::process::id() != 1 || attempt_of(orphan).is_some_and(|id| attempts.contains(&id));
    if is_of_a_task && let Some(descriptor) = descendants::open(orphan) {
        descendants::kill_opened(orphan, descriptor);
    }
}

/// Kills those that have the mark, and what is below them. Of each attempt how many were there.
fn kill_marked(attempts: &HashSet<Uuid>) -> HashMap<Uuid, usize> {
    let mut found = HashMap::new();
    for process in processes() {
        let Some(attempt) = attempt_of(process).filter(|attempt| attempts.contains(attempt)) else {
            continue;
        };
        // Looked at again: its id may be another one's since.
        if let Some(descriptor) = descendants::open(process)
            && attempt_of(process) == Some(attempt)
        {
            *found.entry(attempt).or_default() += 1;
            descendants::kill_opened(process, descriptor);
        }
    }
    found
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw)
}

/// The attempt that a process says it is of. One that has ended, or that is another user's, says nothing.
fn attempt_of(process: Pid) -> Option<Uuid> {
    let mut environment = Vec::new();
    let file = File::open(format!("/proc/{process}/environ")).ok()?;
    file.take(MOST_ENVIRONMENT_BYTES).read_to_end(&mut environment).ok()?;
    marked(&environment)
}

/// The attempt whose output's path is in an environment. Where the home lies does not matter.
fn marked(environment: &[u8]) -> Option<Uuid> {
    for at in memmem::find_iter(environment, MARK) {
        if at > 0 && environment[at - 1] != 0 {
            continue;
        }
        let value = &environment[at + MARK.len()..];
        let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
        let path = Path::new(std::ffi::OsStr::from_bytes(value));
        let attempt =
            path.parent().filter(|parent| path.ends_with(OUTPUT_NAME) && parent.ends_with(TASK_NAME));
        let name = attempt.and_then(Path::parent).and_then(Path::file_name);
        return name.and_then(|name| Uuid::parse_str(name.to_str()?).ok());
    }
    None
}
