//! Removes a tree that a hostile task made: of any depth, with directories that it closed to its own user, in bounded
//! memory and with few descriptors, and never through a link.

use std::ffi::CStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// What is open to the owner alone, and whole.
const OWN: u32 = 0o700;

/// Removes the file or the directory at this path, if there is one.
///
/// Directories in directories are moved up to the top, so that no path grows with the depth of the tree: each pass over the
/// top removes what it finds there, and moves up what is one level below.
///
/// # Errors
/// Something in it cannot be removed, with its first error; the rest is gone then.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open(nix::fcntl::AT_FDCWD, path) {
        Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::ENOTDIR | Errno::ELOOP) => return fs::remove_file(path),
        top => top?,
    };
    let mut top = top;
    let mut moved = 0;
    loop {
        let mut pass = Pass::default();
        pass.over(&mut top, &mut moved)?;
        let removed = fs::remove_dir(path);
        // What was moved up in this pass is there still; nothing else is left but what has an error.
        match removed {
            Err(error) if error.raw_os_error() != Some(Errno::ENOTEMPTY as i32) => return Err(error),
            Err(error) if !pass.has_changed => return Err(pass.first_error.map_or(error, io::Error::from)),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
    }
}

#[derive(Default)]
struct Pass {
    has_changed: bool,
    first_error: Option<Errno>,
}

impl Pass {
    /// Removes what lies in the top, but for directories that still hold one another.
    fn over(&mut self, top: &mut Dir, moved: &mut u64) -> io::Result<()> {
        // Reads the directory by a descriptor of its own, since the iterator keeps it.
        let mut listed = open(top.as_fd(), c".")?;
        for entry in listed.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            let done = match remove_entry(top, name, entry.file_type()) {
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => self.empty(top, name, moved),
                done => done,
            };
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
