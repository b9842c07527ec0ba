//! Ends what a supervisor that was killed has left behind. Its command ends with it, but not what that had started. Those
//! processes are in the cgroup of the attempt, where it has one. Else they are known by their environment, which has a path of
//! the attempt in it, or by the session of the supervisor; and as orphans they become children of this process, if it had
//! started that supervisor.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem;
use nix::unistd::Pid;
use uuid::Uuid;

use super::own_children::{OwnChildren, Stat, stat};
use super::recovery::Abandoned;
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

/// Attempts whose supervisors are gone.
pub struct Leftovers<'a> {
    pub attempts: &'a HashMap<Uuid, Abandoned>,
    /// Whom tasks run as.
    pub uid: u32,
    pub own: &'a OwnChildren,
}

impl Leftovers<'_> {
    /// Ends all processes of these attempts. How many there still are, of each that has any.
    pub fn end_all(&self, patience: Duration) -> HashMap<Uuid, usize> {
        let until = Instant::now() + patience;
        let mut empty_looks = 0;
        loop {
            let mut orphans = 0;
            self.own.each_orphan(|orphan, stat| orphans += usize::from(self.kill_orphan(orphan, stat)));
            let mut left = self.end_cgroups();
            for (attempt, found) in self.kill_others() {
                let processes = left.entry(attempt).or_default();
                *processes = found.max(*processes);
            }
            if orphans > 0 {
                // Of which attempt they are is not known.
                self.attempts.keys().for_each(|attempt| *left.entry(*attempt).or_default() += orphans);
            }
            empty_looks = if left.is_empty() { empty_looks + 1 } else { 0 };
            if empty_looks == EMPTY_LOOKS || Instant::now() >= until {
                return left;
            }
            thread::sleep(LOOK);
        }
    }

    /// Where an attempt has one, none of its processes is outside of it. Of each how many are left.
    fn end_cgroups(&self) -> HashMap<Uuid, usize> {
        let cgroups =
            self.attempts.iter().filter_map(|(attempt, gone)| Some((*attempt, gone.cgroup.as_ref()?)));
        cgroups.map(|(attempt, cgroup)| (attempt, cgroup.end())).filter(|(_, left)| *left > 0).collect()
    }

    /// Whether an orphan was one of a task. It is not waited for elsewhere, so its id is its own.
    fn kill_orphan(&self, orphan: Pid, stat: Stat) -> bool {
        let is_of_a_task = || self.of_session(stat).is_some() || self.marked(orphan).is_some();
        if self.own.has_others() && !is_of_a_task() {
            return false;
        }
        if let Some(descriptor) = descendants::open(orphan) {
            descendants::kill_opened(orphan, descriptor);
        }
        true
    }

    /// Kills all that are known as a task's, and what is below them. Of each attempt how many were there.
    fn kill_others(&self) -> HashMap<Uuid, usize> {
        let mut found = HashMap::new();
        for process in processes() {
            let Some(attempt) = self.attempt_of(process) else { continue };
            // Looked at again: its id may be another one's since.
            if let Some(descriptor) = descendants::open(process)
                && self.attempt_of(process) == Some(attempt)
            {
                *found.entry(attempt).or_default() += 1;
                descendants::kill_opened(process, descriptor);
            }
        }
        found
    }

    /// Which of these attempts a process is of. One that has ended is of none.
    fn attempt_of(&self, process: Pid) -> Option<Uuid> {
        self.marked(process).or_else(|| {
            let attempt = self.of_session(stat(process).filter(|stat| !stat.has_ended)?)?;
            is_confined(process, self.uid).then_some(attempt)
        })
    }

    fn of_session(&self, stat: Stat) -> Option<Uuid> {
        let is_its = |abandoned: &Abandoned| abandoned.supervisor == Some(stat.session);
        self.attempts.iter().find(|(_, abandoned)| is_its(abandoned)).map(|(attempt, _)| *attempt)
    }

    fn marked(&self, process: Pid) -> Option<Uuid> {
        let mut environment = Vec::new();
        let file = File::open(format!("/proc/{process}/environ")).ok()?;
        file.take(MOST_ENVIRONMENT_BYTES).read_to_end(&mut environment).ok()?;
        mark(&environment).filter(|attempt| self.attempts.contains_key(attempt))
    }
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw)
}

/// The attempt whose output's path is in an environment. Where the home lies does not matter.
fn mark(environment: &[u8]) -> Option<Uuid> {
    let is_first = |at: usize| at == 0 || environment[at - 1] == 0;
    let at = memmem::find_iter(environment, MARK).find(|at| is_first(*at))?;
    let value = environment[at + MARK.len()..].split(|byte| *byte == 0).next()?;
    let path = Path::new(OsStr::from_bytes(value));
    let task = path.parent().filter(|task| path.ends_with(OUTPUT_NAME) && task.ends_with(TASK_NAME))?;
    Uuid::parse_str(task.parent()?.file_name()?.to_str()?).ok()
}

/// Whether it has what every task in a sandbox has and cannot lose. The number of a session whose processes are all gone
/// may be another one's by now, so that alone says too little.
fn is_confined(process: Pid, uid: u32) -> bool {
    let read = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}")).unwrap_or_default();
    let status = read("status");
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|value| value.split_ascii_whitespace().next()?.parse::<u32>().ok())
    };
    field("Uid") == Some(uid)
        && field("NoNewPrivs") == Some(1)
        && field("Seccomp") == Some(2)
        && read("oom_score_adj").trim().parse::<i32>().is_ok_and(|adjustment| adjustment >= 500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_environment() {
        let id = Uuid::from_u128(1);
        for (environment, is_its) in [
            (format!("CLOACINA_OUTPUT=/home/attempts/{id}/task/output.json\0"), true),
            (format!("A=b\0CLOACINA_OUTPUT=/elsewhere/{id}/task/output.json"), true),
            (format!("X_CLOACINA_OUTPUT=/h/{id}/task/output.json\0"), false),
            (format!("A=CLOACINA_OUTPUT=/h/{id}/task/output.json\0"), false),
            (format!("A=CLOACINA_OUTPUT=x\0CLOACINA_OUTPUT=/h/{id}/task/output.json\0"), true),
            (format!("CLOACINA_OUTPUT=/h/{id}/task/other.json\0"), false),
            (format!("CLOACINA_OUTPUT=/h/{id}/output.json\0"), false),
            ("CLOACINA_OUTPUT=/h/t-1/task/output.json\0".to_owned(), false),
            ("CLOACINA_OUTPUT=\0".to_owned(), false),
            ("CLOACINA_OUTPUT=".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(mark(environment.as_bytes()), is_its.then_some(id), "{environment:?}");
        }
    }
}
