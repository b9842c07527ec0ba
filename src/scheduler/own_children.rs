//! Which children of this process it has started itself. Others become its children when a supervisor is killed and leaves
//! processes behind; and in a container, where it is the first process, when any process there ends.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::process::ExitStatus;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid};
use parking_lot::Mutex;

use crate::engine::attempt::Supervised;

#[derive(Debug)]
pub struct OwnChildren {
    /// The supervisors that this process has started and not waited for. Each has a session of its own soon, as every
    /// orphan of one has; every other child that std waits for stays in the session of this process.
    supervisors: Mutex<HashSet<i32>>,
    /// Whether an orphan can be of something else than of a task.
    has_others: bool,
}

/// What the system says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub has_ended: bool,
    pub session: i32,
}

impl OwnChildren {
    /// To be made before this process starts any.
    pub fn new() -> OwnChildren {
        // Some are here already where a script has started them, and then executed this program.
        let has_others = std::process::id() == 1 || !children().is_empty();
        OwnChildren { supervisors: Mutex::default(), has_others }
    }

    pub fn has_others(&self) -> bool {
        self.has_others
    }

    /// Starts a supervisor: no look at the children sees it before it is known.
    pub fn start(&self, start: impl FnOnce() -> io::Result<Supervised>) -> io::Result<Supervised> {
        let mut supervisors = self.supervisors.lock();
        let supervised = start()?;
        supervisors.extend(i32::try_from(supervised.id()));
        Ok(supervised)
    }

    /// Waits for one that has ended. Its id may be another one's right after that.
    pub fn wait(&self, supervised: Supervised) -> io::Result<ExitStatus> {
        let mut supervisors = self.supervisors.lock();
        let id = i32::try_from(supervised.id());
        let status = supervised.wait();
        id.into_iter().for_each(|id| _ = supervisors.remove(&id));
        status
    }

    /// Waits for those that have ended and that this process has not started.
    pub fn reap(&self) {
        self.each_orphan(|_, _| {});
    }

    /// Does something with each child that this process has not started, while none of them is waited for elsewhere. Those
    /// that have ended are waited for first.
    pub fn each_orphan(&self, mut act: impl FnMut(Pid, Stat)) {
        let supervisors = self.supervisors.lock();
        let Ok(own_session) = getsid(None) else { return };
        for child in children().into_iter().filter(|child| !supervisors.contains(&child.as_raw())) {
            match stat(child) {
                Some(stat) if stat.session == own_session.as_raw() => {}
                Some(Stat { has_ended: true, .. }) => _ = waitpid(child, Some(WaitPidFlag::WNOHANG)),
                Some(stat) => act(child, stat),
                None => {}
            }
        }
    }
}

pub fn stat(process: Pid) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// The name may hold anything: state, parent, group and session follow it.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit(')').next()?.split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    Some(Stat { has_ended, session: fields.nth(2)?.parse().ok()? })
}

/// Those of all threads of this process.
fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task");
    let lists = threads.into_iter().flatten().flatten().map(|thread| thread.path().join("children"));
    let mut children = Vec::new();
    for list in lists.filter_map(|list| fs::read_to_string(list).ok()) {
        children.extend(list.split_ascii_whitespace().filter_map(|id| id.parse().ok()).map(Pid::from_raw));
    }
    children
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_any_name() {
        let stat = |name: &str, state: &str| parse_stat(&format!("17 ({name}) {state} 1 16 15 0 -1 4194560"));
        for name in ["sh", "a b", ") Z 1 1 1", "(", ""] {
            assert_eq!(stat(name, "S"), Some(Stat { has_ended: false, session: 15 }), "{name}");
            assert_eq!(stat(name, "Z"), Some(Stat { has_ended: true, session: 15 }), "{name}");
        }
        assert_eq!(parse_stat(""), None);
        let own = super::stat(Pid::this()).unwrap();
        assert_eq!((own.has_ended, own.session), (false, getsid(None).unwrap().as_raw()));
    }
}
