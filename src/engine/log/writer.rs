//! What a task prints goes to the disk as it comes, and never takes more of it than the limit.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::name_of;
use crate::engine::held_directory::HeldDirectory;

/// A smaller limit would be files rather than text.
const LEAST_LIMIT_BYTES: u64 = 16 << 10;

/// The files after the first one that are kept, each of a quarter of the limit.
const TAIL_FILES: usize = 2;

/// Writes one log. An error loses what was to be written, and nothing else: the next write is tried in a file of its own.
#[derive(Debug)]
pub struct LogWriter {
    directory: HeldDirectory,
    head_bytes: u64,
    quarter_bytes: u64,
    current: Option<Segment>,
    /// Those after the first, with the current one: where they begin.
    tail: VecDeque<u64>,
    printed: u64,
    lost: u64,
    first_error: Option<io::Error>,
}

#[derive(Debug)]
struct Segment {
    file: File,
    start: u64,
    length: u64,
    most: u64,
}

impl LogWriter {
    pub fn new(directory: HeldDirectory, limit_bytes: u64) -> LogWriter {
        let limit = limit_bytes.max(LEAST_LIMIT_BYTES);
        let quarter_bytes = limit / 4;
        LogWriter {
            directory,
            head_bytes: limit - 2 * quarter_bytes,
            quarter_bytes,
            current: None,
            tail: VecDeque::new(),
            printed: 0,
            lost: 0,
            first_error: None,
        }
    }

    /// Takes all of it, whatever happens.
    pub fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.write_some(bytes) {
                Ok(written) => {
                    self.printed += written as u64;
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.give_up();
                    self.printed += bytes.len() as u64;
                    self.lost += bytes.len() as u64;
                    self.first_error.get_or_insert(error);
                    return;
                }
            }
        }
    }

    /// How many bytes there were.
    pub fn printed(&self) -> u64 {
        self.printed
    }

    /// How many of them can be read.
    pub fn kept(&self) -> u64 {
        let files = self.names().map(|name| {
            self.directory.with(&name, |directory, name| fstatat(directory, name, AtFlags::empty()))
        });
        files.flatten().map(|file| u64::try_from(file.st_size).unwrap_or(0)).sum()
    }

    /// What an error took, and the first error.
    pub fn lost(&self) -> Option<(u64, &io::Error)> {
        self.first_error.as_ref().map(|error| (self.lost, error))
    }

    /// Waits until the disk has what is kept.
    ///
    /// # Errors
    /// The disk says so.
    pub fn sync(&self) -> io::Result<()> {
        for name in self.names() {
            match self.open(&name, OFlag::O_RDONLY) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => file?.sync_data()?,
            }
        }
        Ok(())
    }

    /// Of the files that are kept.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.tail.iter().chain(&[0]).copied().map(name_of)
    }

    fn open(&self, name: &str, flags: OFlag) -> io::Result<File> {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let opened = self
            .directory
            .with(name, |directory, name| openat(directory, name, flags | OFlag::O_CLOEXEC, mode))?;
        Ok(opened.into())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.directory.with(name, |directory, name| unlinkat(directory, name, UnlinkatFlags::NoRemoveDir))
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let segment = match &mut self.current {
            Some(segment) if segment.length < segment.most => segment,
            _ => {
                let next = self.next_segment()?;
                self.current.insert(next)
            }
        };
        let room = usize::try_from(segment.most - segment.length).unwrap_or(usize::MAX);
        let written = segment.file.write(&bytes[..bytes.len().min(room)])?;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero));
        }
        segment.length += written as u64;
        Ok(written)
    }

    /// A file for what comes now; the oldest but the first goes for it, before it takes any space.
    fn next_segment(&mut self) -> io::Result<Segment> {
        let start = self.printed;
        let most = if start == 0 { self.head_bytes } else { self.quarter_bytes };
        if start > 0 && self.tail.len() == TAIL_FILES {
            let oldest = self.tail.pop_front().map(name_of).unwrap_or_default();
            self.remove(&oldest)?;
        }
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_EXCL;
        let file = self.open(&name_of(start), flags)?;
        if start > 0 {
            self.tail.push_back(start);
        }
        Ok(Segment { file, start, length: 0, most })
    }

    /// After an error: a file that holds nothing would only be in the way.
    fn give_up(&mut self) {
        let Some(Segment { start, length: 0, .. }) = self.current.take() else { return };
        self.tail.retain(|one| *one != start);
        let _ = self.remove(&name_of(start));
    }
}
