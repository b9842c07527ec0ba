//! An attempt's directory, held by a descriptor. Landlock lets a task change modes: one of the same user may close this
//! directory, those above it and the files in it to its own user, at any time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, fstat};

/// A process that closes it again and again loses one of so many races, each of a few microseconds.
const MOST_TRIES: usize = 1_000;

const FILE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

#[derive(Debug, Clone)]
pub struct HeldDirectory(Rc<OwnedFd>);

impl HeldDirectory {
    /// # Errors
    /// It is not there, is a link, or cannot be read.
    pub fn open(path: &Path) -> io::Result<HeldDirectory> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Ok(HeldDirectory(Rc::new(open(path, flags, Mode::empty())?)))
    }

    /// Does something with a file in it. Where the directory or the file is closed to its user, they are opened first.
    ///
    /// # Errors
    /// Those of what is done.
    pub fn with<T>(&self, name: &str, act: impl Fn(BorrowedFd<'_>, &str) -> nix::Result<T>) -> io::Result<T> {
        for _ in 0..MOST_TRIES {
            match act(self.as_fd(), name) {
                Err(Errno::EACCES) => self.open_to_owner(&[name]),
                done => return Ok(done?),
            }
        }
        Err(Errno::EACCES.into())
    }

    /// Gives its user back the directory and these files, as far as they are there. A directory that others may pass
    /// through stays so.
    pub fn open_to_owner(&self, names: &[&str]) {
        let mode = fstat(&*self.0).map(|found| Mode::from_bits_truncate(found.st_mode));
        if let Ok(mode) = mode
            && !mode.contains(Mode::S_IRWXU)
        {
            let _ = fchmod(&*self.0, mode | Mode::S_IRWXU);
        }
        for name in names {
            // Whether it helped is seen by what follows. No task can put a link here.
            let _ = fchmodat(&*self.0, *name, FILE, FchmodatFlags::FollowSymlink);
        }
    }
}

impl AsFd for HeldDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
