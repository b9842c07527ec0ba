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
        close_files(home)?;
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

/// What was closed by the directory alone, to all that could not pass through it, is closed by its own mode from here on.
fn close_files(home: &Path) -> io::Result<()> {
    for entry in fs::read_dir(home)? {
        let entry = entry?;
        let mode = entry.metadata()?.permissions().mode() & 0o7777;
        if !entry.file_type()?.is_symlink() && mode & 0o077 != 0 {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode & !0o077))?;
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::attempts::tests::Home;

    #[test]
    fn a_home_is_opened_to_pass_through_and_what_is_in_it_stays_closed() {
        let home = Home::new();
        let mode = |name: &str| fs::metadata(home.0.join(name)).unwrap().permissions().mode() & 0o777;
        let set = |name: &str, mode| {
            fs::set_permissions(home.0.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        fs::write(home.0.join("config.toml"), "").unwrap();
        fs::create_dir(home.0.join("logs")).unwrap();
        set("config.toml", 0o644);
        set("logs", 0o755);
        set("", 0o700);
        assert_eq!(open_to(&home.0, None).unwrap(), 0o700);
        assert_eq!([mode("config.toml"), mode("logs"), mode("")], [0o644, 0o755, 0o700]);
        let user = TaskUser { uid: 60_000, gid: 60_000, groups: Vec::new() };
        assert_eq!(open_to(&home.0, Some(&user)).unwrap(), 0o711);
        assert_eq!([mode("config.toml"), mode("logs"), mode("")], [0o600, 0o700, 0o711]);
        // Where it is open already, a person has chosen the modes.
        set("config.toml", 0o640);
        open_to(&home.0, Some(&user)).unwrap();
        assert_eq!(mode("config.toml"), 0o640);
        assert!(may_pass(&home.0, &user));
        set("", 0o700);
        assert!(!may_pass(&home.0, &user));
    }

    #[test]
    fn a_home_that_every_task_can_read_is_refused_unless_they_are_of_another_user() {
        let home = Path::new("/usr/none");
        let why = expect_closed(home, Mode::Required, None).unwrap_err();
        assert!(why.starts_with("/usr/none lies below /usr, which every task can read"), "{why}");
        let user = TaskUser { uid: 60_000, gid: 60_000, groups: Vec::new() };
        expect_closed(home, Mode::Required, Some(&user)).unwrap();
        expect_closed(home, Mode::Partial, None).unwrap();
        expect_closed(Path::new("/var/lib/none"), Mode::Required, None).unwrap();
    }
}
