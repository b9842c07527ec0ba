//! The user that tasks run as.

use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};

use super::attempt::TaskUser;
use crate::terminal::start_of;

/// Whom tasks of this process run as: `None` is its own user. One that is root needs another; one that is not can have
/// no other.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn of_process(name: Option<&str>) -> Result<Option<TaskUser>, String> {
    let own = geteuid();
    match name {
        None if own.is_root() => Err(
            "tasks never run as root: name another user, such as `--task-user nobody`, or run this as one"
                .to_owned(),
        ),
        None => Ok(None),
        Some(name) => {
            let user = find(name)?;
            match (user.uid.is_root(), own.is_root()) {
                (true, _) => {
                    Err(format!("`--task-user {}` is root, and tasks never run as root", start_of(name)))
                }
                (false, true) => with_groups(&user).map(Some),
                (false, false) if user.uid == own => Ok(None),
                (false, false) => {
                    Err("`--task-user` can be another user only where root runs this".to_owned())
                }
            }
        }
    }
}

/// By its name, or else by its number.
fn find(name: &str) -> Result<User, String> {
    let number = name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.parse().ok()).flatten();
    let found = match (User::from_name(name), number) {
        (Ok(None), Some(number)) => User::from_uid(Uid::from_raw(number)),
        (found, _) => found,
    };
    let found = found.map_err(|error| format!("`--task-user {}`: {error}", start_of(name)))?;
    found.ok_or_else(|| format!("`--task-user {}`: there is no such user", start_of(name)))
}

fn with_groups(user: &User) -> Result<TaskUser, String> {
    let name = std::ffi::CString::new(user.name.as_bytes()).map_err(|error| error.to_string())?;
    let groups = getgrouplist(&name, user.gid)
        .map_err(|error| format!("cannot list the groups of {}: {error}", user.name))?;
    let groups = groups.into_iter().map(Gid::as_raw).collect();
    Ok(TaskUser { uid: Uid::as_raw(user.uid), gid: user.gid.as_raw(), groups })
}
