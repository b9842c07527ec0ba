//! Processes that fork faster than they can be killed one generation at a time: those below a child are killed with it.
//! They are no children of this process, so each is known by a descriptor before it is signalled.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Descriptors that are held at the same time. Those below the others come in the next round.
const MOST_OPEN: usize = 256;

/// Kills what is below a child of this process, parents first: a process with this signal pending forks no more.
pub fn kill_below(child: Pid) {
    if let Some(opened) = open(child) {
        kill_opened(child, opened);
    }
}

/// Kills a process and what is below it, parents first. The descriptor is that process's.
pub fn kill_opened(process: Pid, descriptor: OwnedFd) {
    let mut open_ones = vec![(process, descriptor)];
    while let Some((parent, descriptor)) = open_ones.pop() {
        for below in children_of(parent) {
            if open_ones.len() < MOST_OPEN
                && let Some(opened) = open(below)
                && parent_of(below) == Some(parent)
                && is_running(&descriptor)
            {
                open_ones.push((below, opened));
            }
        }
        let _ = pidfd_send_signal(descriptor, Signal::Kill);
    }
}

/// A descriptor of the process that has this id now.
pub fn open(process: Pid) -> Option<OwnedFd> {
    let process = rustix::process::Pid::from_raw(process.as_raw())?;
    pidfd_open(process, PidfdFlags::empty()).ok()
}

/// Then its id is still its own, and what had that id as its parent's is its child.
fn is_running(descriptor: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO) == Ok(0)
}

fn children_of(process: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    let lists = threads.into_iter().flatten().flatten().map(|thread| thread.path().join("children"));
    let mut children = Vec::new();
    for list in lists.filter_map(|list| fs::read_to_string(list).ok()) {
        children.extend(list.split_ascii_whitespace().filter_map(|id| id.parse().ok()).map(Pid::from_raw));
    }
    children
}

fn parent_of(process: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before may hold anything; the state follows it, and then the parent.
    let parent = status.rsplit(')').next()?.split_ascii_whitespace().nth(1)?;
    parent.parse().ok().map(Pid::from_raw)
}
