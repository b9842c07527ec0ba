//! The home, as far as tasks come near it: closed to those of the server's own user by the sandbox, and passable for those
//! of another one by its mode.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::engine::attempt::TaskUser;
use crate::engine::sandbox::{Mode, Sandbox};

/// # Errors
/// Tasks could read what only the server may, and what to do.
pub fn expect_closed(home: &Path, mode: Mode, user: Option<&TaskUser>) -> Result<(), String> {
    // Files in it are open to the server's user alone.
    if user.is_some() {
        return Ok(());
    }
    let sandbox = Sandbox { mode, readable: Vec::new(), writable: Vec::new() };
    sandbox.expect_closed(home).map_err(|error| error.to_string())
}

/// Lets tasks of another user pass through the home to their own directories. The mode of directories in it that they pass
/// through as well.
///
/// # Errors
/// The home's mode cannot be changed.
pub fn open_to(home: &Path, user: Option<&TaskUser>) -> io::Result<u32> {
    let Some(user) = user else { return Ok(0o700) };
    let mode = fs::metadata(home)?.permissions().mode() & 0o7777;
    if mode & 0o011 != 0o011 {
        fs::set_permissions(home, fs::Permissions::from_mode(mode | 0o011))?;
    }
    for above in home.ancestors() {
        if !may_pass(above, user) {
            // Access control lists may let it pass all the same.
            log::warn!(path:% = above.display(), uid = user.uid;
                "the user that tasks run as may not pass through a directory above theirs, so no task will start: \
                 let it, with chmod o+x, or keep the home elsewhere");
        }
    }
    Ok(0o711)
}

fn may_pass(directory: &Path, user: &TaskUser) -> bool {
    let Ok(found) = fs::metadata(directory) else { return true };
    let shift = if found.uid() == user.uid {
        6
    } else if found.gid() == user.gid || user.groups.contains(&found.gid()) {
        3
    } else {
        0
    };
    found.mode() & (1 << shift) != 0
}
