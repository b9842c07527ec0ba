//! Whom a task runs as: never root, and with no privileges.

use std::io;

use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Gid, Uid, fchown, geteuid, setgroups, setresgid, setresuid};

use crate::engine::attempt::TaskUser;
use crate::engine::sandbox;

/// Gives up what the server may do beyond what its user may.
///
/// # Errors
/// This would run as root, or the user cannot be had.
pub fn assume(user: Option<&TaskUser>) -> Result<(), String> {
    let own = geteuid();
    match user {
        Some(user) if user.uid == 0 => return Err(NEVER_ROOT.to_owned()),
        Some(user) if own.is_root() => {
            become_user(user).map_err(|error| {
                format!("the task cannot run as the user with id {}: {}", user.uid, error.desc())
            })?;
        }
        Some(user) if user.uid != own.as_raw() => {
            return Err(format!("only root runs tasks as another user, here the one with id {}", user.uid));
        }
        None if own.is_root() => return Err(NEVER_ROOT.to_owned()),
        _ => {}
    }
    sandbox::give_up_capabilities().map_err(|error| format!("capabilities cannot be given up: {error}"))
}

const NEVER_ROOT: &str = "tasks never run as root: name a user for them with `--task-user`";

fn become_user(user: &TaskUser) -> nix::Result<()> {
    let groups: Vec<_> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    // Else it could write to the pipe, and not open it again as /dev/stdout.
    if fstat(io::stdout())
        .is_ok_and(|found| SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO)
    {
        fchown(io::stdout(), Some(uid), Some(gid))?;
    }
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}
