//! The processes of a task are children of its supervisor, or become ones when their parents end. No id is signalled but
//! of a child that has not been waited for, so none can be a stranger's.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use rustix::io::Errno;
use rustix::process::{WaitId, WaitidOptions, waitid};

use super::descendants;
use super::signals::Signals;
use crate::engine::attempt::End;

/// How long what has been killed may take to be gone, as one that waits for a disk does.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long processes may make new ones all the same.
const MOST_PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at processes that have been killed, unless one ends.
const LOOK: Duration = Duration::from_millis(5);

/// The task's command: a child, and the leader of a process group. It is waited for last of all, so that neither its id
/// nor its group's is ever another one's.
#[derive(Debug, Clone, Copy)]
pub struct TaskCommand(pub Pid);

impl TaskCommand {
    /// How it ended, if it has.
    pub fn end(self) -> Option<End> {
        let status = wait(self.0, WaitidOptions::NOWAIT).ok()??;
        if let Some(code) = status.exit_status() {
            return Some(End::Exited(i32::try_from(code).unwrap_or(-1)));
        }
        // Else it has only stopped.
        let signal = i32::try_from(status.terminating_signal()?).ok()?;
        let name =
            Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |known| known.to_string());
        Some(End::Signaled { signal, name })
    }

    /// Asks its group to end. One that has been stopped goes on, to hear of it.
    pub fn terminate(self) {
        let _ = killpg(self.0, Signal::SIGTERM);
        let _ = killpg(self.0, Signal::SIGCONT);
    }
}

/// Asks those to end that became children because their parents ended.
pub fn terminate_adopted(command: TaskCommand) {
    for child in children().unwrap_or_default().into_iter().filter(|child| *child != command.0) {
        let _ = kill(child, Signal::SIGTERM);
    }
}

/// Waits for those of the adopted ones that have ended.
pub fn reap_adopted(command: TaskCommand) {
    for child in children().unwrap_or_default().into_iter().filter(|child| *child != command.0) {
        let _ = wait(child, WaitidOptions::empty());
    }
}

/// Ends every process that is left, the command too, and waits for them. How many are still there.
pub fn end_all(command: Option<TaskCommand>, signals: &Signals) -> usize {
    let give_up = Instant::now() + MOST_PATIENCE;
    let mut until = Instant::now() + PATIENCE;
    let mut command = command;
    for round in 0.. {
        if let Some(TaskCommand(group)) = command {
            let _ = killpg(group, Signal::SIGKILL);
        }
        let listed = children();
        // First all of them: one that has been waited for makes room for another where their number is limited.
        for child in listed.iter().flatten() {
            if round > 0 {
                descendants::kill_below(*child);
            }
            let _ = kill(*child, Signal::SIGKILL);
        }
        let mut left = 0;
        for child in
            listed.iter().flatten().filter(|child| command.is_none_or(|command| command.0 != **child))
        {
            match wait(*child, WaitidOptions::empty()) {
                Ok(None) => left += 1,
                // As long as some of them end, more are only being made.
                _ => until = Instant::now() + PATIENCE,
            }
        }
        left += usize::from(command.is_some_and(|command| command.end().is_none()));
        if left == 0 {
            // All that were listed have ended, so what they left behind is a child by now, or gone.
            match command.map(|command| command.0) {
                Some(leader) if listed.as_ref().is_ok_and(|listed| *listed == [leader]) => {
                    let _ = wait(leader, WaitidOptions::empty());
                    command = None;
                }
                None if has_none() => return 0,
                _ => {}
            }
        }
        if Instant::now() >= until.min(give_up) {
            return left.max(1);
        }
        if left > 0 || listed.is_err() {
            signals.wait(LOOK);
        }
    }
    0
}

fn wait(child: Pid, options: WaitidOptions) -> Result<Option<rustix::process::WaitidStatus>, Errno> {
    let id = rustix::process::Pid::from_raw(child.as_raw()).ok_or(Errno::INVAL)?;
    waitid(WaitId::Pid(id), options | WaitidOptions::EXITED | WaitidOptions::NOHANG)
}

fn has_none() -> bool {
    let options = WaitidOptions::EXITED | WaitidOptions::NOHANG | WaitidOptions::NOWAIT;
    matches!(waitid(WaitId::All, options), Err(Errno::CHILD))
}

/// The children of this thread, the only one there is.
fn children() -> io::Result<Vec<Pid>> {
    let list = fs::read_to_string("/proc/thread-self/children")?;
    Ok(list.split_ascii_whitespace().filter_map(|id| id.parse().ok()).map(Pid::from_raw).collect())
}
