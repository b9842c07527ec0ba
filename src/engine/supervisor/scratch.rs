//! How much a task's own directory takes, looked at every now and then, a few files at a time. Against accidents: what a
//! task has deleted and keeps open, or keeps in a directory that it closed to itself, is not seen.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::dir::{Dir, OwningIter};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};

/// Between two looks at everything.
const EVERY: Duration = Duration::from_secs(1);

/// Between two steps of a look, for a step takes as long as some milliseconds.
const STEP: Duration = Duration::from_millis(20);
const STEP_ENTRIES: usize = 4_000;

/// Each holds two descriptors open.
const MOST_LEVELS: usize = 128;

/// What a file takes beside its blocks: without it, empty ones would be free.
const INODE_BYTES: u64 = 256;

/// Counts the bytes below a directory, sparse files by the blocks that they have.
#[derive(Debug)]
pub struct Scratch {
    top: OwnedFd,
    limit_bytes: u64,
    /// Directories that are being read, each in the one before it.
    open: Vec<Level>,
    bytes: u64,
    steps: u32,
    /// Whether the last look, in more than one step, found too much: files may have moved under it.
    was_over: bool,
    pub next_look: Instant,
}

#[derive(Debug)]
struct Level {
    directory: OwnedFd,
    entries: OwningIter,
}

impl Scratch {
    pub fn new(top: OwnedFd, limit_bytes: u64) -> Scratch {
        let next_look = Instant::now() + EVERY;
        Scratch { top, limit_bytes, open: Vec::new(), bytes: 0, steps: 0, was_over: false, next_look }
    }

    /// Goes on counting.
    ///
    /// # Errors
    /// There is too much: what to tell.
    pub fn step(&mut self) -> Result<(), String> {
        if self.open.is_empty() {
            (self.bytes, self.steps) = (0, 0);
            self.enter(None)?;
        }
        self.steps += 1;
        for _ in 0..STEP_ENTRIES {
            let Some(level) = self.open.last_mut() else { break };
            let Some(Ok(entry)) = level.entries.next() else {
                self.open.pop();
                continue;
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(found) = fstatat(&level.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            // A block of `stat` has 512 bytes, whatever the file system's have.
            self.bytes += u64::try_from(found.st_blocks).unwrap_or(0) * 512 + INODE_BYTES;
            if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR {
                let name = name.to_owned();
                self.enter(Some(&name))?;
            }
        }
        self.next_look = Instant::now() + if self.open.is_empty() { EVERY } else { STEP };
        self.judge()
    }

    fn judge(&mut self) -> Result<(), String> {
        let is_over = self.bytes > self.limit_bytes;
        if is_over && (self.steps == 1 || self.was_over) {
            let (bytes, limit) = (self.bytes, self.limit_bytes);
            return Err(format!("its files take {bytes} bytes or more; at most {limit} are allowed"));
        }
        if is_over || self.open.is_empty() {
            self.was_over = is_over;
            self.open.clear();
        }
        Ok(())
    }

    /// Reads the directory of this name, in the one that is being read, or the top. One that cannot be read counts as empty.
    fn enter(&mut self, name: Option<&std::ffi::CStr>) -> Result<(), String> {
        if self.open.len() == MOST_LEVELS {
            return Err(format!("its directories are nested more than {MOST_LEVELS} levels deep"));
        }
        let parent = self.open.last().map_or(self.top.as_fd(), |level| level.directory.as_fd());
        if let Ok(level) = open(parent, name.unwrap_or(c".")) {
            self.open.push(level);
        }
        Ok(())
    }
}

fn open(parent: impl AsFd, name: &std::ffi::CStr) -> Result<Level, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    let listed = openat(&directory, c".", flags, Mode::empty())?;
    Ok(Level { entries: Dir::from_fd(listed)?.into_iter(), directory })
}
