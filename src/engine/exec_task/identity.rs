//! Whom a task runs as: never root, and with no privileges.

use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

use super::TaskUser;
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
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}
