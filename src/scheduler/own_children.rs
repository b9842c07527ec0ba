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

/// The supervisors that this process has started and not waited for. Each has a session of its own soon, as every orphan
/// of one has; every other child that std waits for stays in the session of this process.
#[derive(Debug, Default)]
pub struct OwnChildren(Mutex<HashSet<i32>>);

/// A child that this process has not started.
#[derive(Debug, Clone, Copy)]
pub struct Orphan {
    pub pid: Pid,
    /// It has ended, and is not waited for yet.
    pub has_ended: bool,
}

impl OwnChildren {
    /// Starts a supervisor: no look at the children sees it before it is known.
    pub fn start(&self, start: impl FnOnce() -> io::Result<Supervised>) -> io::Result<Supervised> {
        let mut own = self.0.lock();
        let supervised = start()?;
        own.extend(i32::try_from(supervised.id()));
        Ok(supervised)
    }

    /// Waits for one that has ended. Its id may be another one's right after that.
    pub fn wait(&self, supervised: Supervised) -> io::Result<ExitStatus> {
        let mut own = self.0.lock();
        let id = i32::try_from(supervised.id());
        let status = supervised.wait();
        id.into_iter().for_each(|id| _ = own.remove(&id));
        status
    }

    /// Does something with each child that this process has not started, while none of them is waited for elsewhere. Those
    /// that have ended are waited for first.
    pub fn each_orphan(&self, mut act: impl FnMut(Pid)) -> usize {
        let own = self.0.lock();
        let Ok(session) = getsid(None) else { return 0 };
        let mut left = 0;
        for orphan in children().into_iter().filter_map(|child| orphan(child, session, &own)) {
            if orphan.has_ended {
                let _ = waitpid(orphan.pid, Some(WaitPidFlag::WNOHANG));
            } else {
                left += 1;
                act(orphan.pid);
            }
        }
        left
    }
}

fn orphan(child: Pid, session: Pid, own: &HashSet<i32>) -> Option<Orphan> {
    if own.contains(&child.as_raw()) {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
    // The name before may hold anything: state, parent, group and session follow it.
    let mut fields = status.rsplit(')').next()?.split_ascii_whitespace();
    let (state, its_session) = (fields.next()?, fields.nth(2)?);
    let is_foreign = its_session.parse() != Ok(session.as_raw());
    is_foreign.then_some(Orphan { pid: child, has_ended: matches!(state, "Z" | "X") })
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
