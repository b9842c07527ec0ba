//! Removes a tree that a hostile task made: of any depth, with directories that it closed to its own user, in bounded
//! memory and with few descriptors, and never through a link.

use std::ffi::CStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// What is open to the owner alone, and whole.
const OWN: u32 = 0o700;

/// Millions of files take a minute or two; a process that makes new ones all the same takes for ever.
const PATIENCE: Duration = Duration::from_secs(300);

/// Removes the file or the directory at this path, if there is one.
///
/// Directories in directories are moved up to the top, so that no path grows with the depth of the tree: each pass over the
/// top removes what it finds there, and moves up what is one level below.
///
/// # Errors
/// Something in it cannot be removed, with its first error; the rest is gone then. Or it is not done after minutes.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    remove_tree_in(AT_FDCWD, path)
}

/// The same for a path below an open directory.
///
/// # Errors
/// The same.
pub fn remove_tree_in(parent: impl AsFd, path: &Path) -> io::Result<()> {
    remove_until(parent, path, Instant::now() + PATIENCE)
}

fn remove_until(parent: impl AsFd, path: &Path, give_up: Instant) -> io::Result<()> {
    let mut top = match open(&parent, path) {
        Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::ENOTDIR | Errno::ELOOP) => {
            return Ok(unlinkat(&parent, path, UnlinkatFlags::NoRemoveDir)?);
        }
        top => top?,
    };
    let mut moved = 0;
    loop {
        let mut pass = Pass { has_changed: false, first_error: None, give_up };
        pass.over(&mut top, &mut moved)?;
        // What was moved up in this pass is there still; nothing else is left but what has an error.
        match unlinkat(&parent, path, UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOTEMPTY) if pass.has_changed => {}
            Err(Errno::ENOTEMPTY) => return Err(pass.first_error.unwrap_or(Errno::ENOTEMPTY).into()),
            done => return Ok(done?),
        }
    }
}

struct Pass {
    has_changed: bool,
    first_error: Option<Errno>,
    give_up: Instant,
}

impl Pass {
    /// Removes what lies in the top, but for directories that still hold one another.
    fn over(&mut self, top: &mut Dir, moved: &mut u64) -> Result<(), Errno> {
        // Reads the directory by a descriptor of its own, since the iterator keeps it.
        let mut listed = open(top.as_fd(), c".")?;
        for entry in listed.iter() {
            let entry = entry?;
            self.expect_time()?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            let done = match remove_entry(top, name, entry.file_type()) {
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => self.empty(top, name, moved),
                done => done,
            };
            if done == Err(Errno::ETIMEDOUT) {
                return done;
            }
            self.note(done);
        }
        Ok(())
    }

    /// Removes a directory of the top; what it holds goes, or goes up.
    fn empty(&mut self, top: &Dir, name: &CStr, moved: &mut u64) -> Result<(), Errno> {
        let mut below = open(top.as_fd(), name)?;
        let listed = open(below.as_fd(), c".");
        for entry in listed?.iter() {
            let entry = entry?;
            self.expect_time()?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            let done = match remove_entry(&below, name, entry.file_type()) {
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => move_up(&mut below, name, top, moved),
                done => done,
            };
            self.note(done);
        }
        unlinkat(top, name, UnlinkatFlags::RemoveDir)
    }

    /// A listing of a directory that files are still made in may be as endless as the passes.
    fn expect_time(&self) -> Result<(), Errno> {
        if Instant::now() < self.give_up { Ok(()) } else { Err(Errno::ETIMEDOUT) }
    }

    fn note(&mut self, done: Result<(), Errno>) {
        match done {
            Ok(()) => self.has_changed = true,
            Err(error) => _ = self.first_error.get_or_insert(error),
        }
    }
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

fn remove_entry(parent: &Dir, name: &CStr, kind: Option<Type>) -> Result<(), Errno> {
    if kind != Some(Type::Directory) {
        // Linux says EISDIR, others EPERM.
        match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR | Errno::EPERM) if kind.is_none() => {}
            done => return done,
        }
    }
    unlinkat(parent, name, UnlinkatFlags::RemoveDir)
}

/// The name it gets may be taken, by what the task made: then another one.
fn move_up(parent: &mut Dir, name: &CStr, top: &Dir, moved: &mut u64) -> Result<(), Errno> {
    // A directory that changes its parent must be writable itself.
    drop(open(parent.as_fd(), name)?);
    loop {
        *moved += 1;
        match renameat(&*parent, name, top, format!("moved-up-{moved}").as_str()) {
            Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR | Errno::EISDIR) => {}
            done => return done,
        }
    }
}

/// Opens a directory, and opens it to its owner.
fn open<Name: ?Sized + nix::NixPath>(parent: impl AsFd, name: &Name) -> Result<Dir, Errno> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let found = openat(parent.as_fd(), name, flags | OFlag::O_PATH, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    // By its descriptor: a name may have become a link meanwhile. Whether it helped is seen by what follows.
    if fs::metadata(&path).is_ok_and(|found| found.permissions().mode() & OWN != OWN) {
        let _ = fs::set_permissions(&path, Permissions::from_mode(OWN));
    }
    Dir::from_fd(openat(&found, c".", flags | OFlag::O_RDONLY, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_that_is_never_done_is_given_up() {
        let path = std::env::temp_dir().join(format!("cloacinactl-remove-{}", std::process::id()));
        fs::create_dir_all(path.join("a/b")).unwrap();
        let error = remove_until(AT_FDCWD, &path, Instant::now()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        remove_tree(&path).unwrap();
        assert!(!path.exists());
        remove_tree(&path).unwrap();
        fs::write(&path, "").unwrap();
        remove_tree(&path).unwrap();
        assert!(!path.exists());
    }
}
