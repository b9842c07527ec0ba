//! The outcome is written last, at once or not at all, and also on a disk that has become full meanwhile.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::time::Duration;

use nix::fcntl::{OFlag, openat, posix_fallocate, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::fsync;

use super::signals::Signals;
use crate::engine::attempt::{End, OUTCOME_NAME, Outcome};
use crate::engine::held_directory::HeldDirectory;

/// What it is called until it is whole.
const TEMPORARY_NAME: &str = "outcome.partial";

/// What an outcome without output takes.
const RESERVED_BYTES: i64 = 16 << 10;

/// Between two tries on a disk that takes nothing.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A temporary file with space of its own, and where it goes.
#[derive(Debug)]
pub struct OutcomeFile(HeldDirectory);

impl OutcomeFile {
    /// Where this fails, it is tried again at the end.
    pub fn reserve(directory: HeldDirectory) -> OutcomeFile {
        let reserved = OutcomeFile(directory);
        if let Ok(file) = reserved.open() {
            let _ = posix_fallocate(&file, 0, RESERVED_BYTES);
        }
        reserved
    }

    /// Writes it. While that is impossible the attempt stays held and the outcome is tried again, until a signal asks for
    /// the end.
    ///
    /// # Errors
    /// It could not be written by then, or the attempt's directory is gone.
    pub fn write(&self, outcome: &Outcome, is_durable: bool, signals: &Signals) -> io::Result<()> {
        loop {
            let Err(error) = self.try_to_write(outcome, is_durable) else { return Ok(()) };
            if outcome.output.is_some() && error.kind() == io::ErrorKind::StorageFull {
                let end = End::Failed(format!("its output cannot be kept: {error}"));
                let without = Outcome { end, output: None, ..outcome.clone() };
                if self.try_to_write(&without, is_durable).is_ok() {
                    return Ok(());
                }
            }
            if error.kind() == io::ErrorKind::NotFound || signals.wait(TRY_AGAIN).is_cancelled {
                return Err(error);
            }
        }
    }

    fn try_to_write(&self, outcome: &Outcome, is_durable: bool) -> io::Result<()> {
        let bytes = serde_json::to_vec(outcome)?;
        let mut file = self.open()?;
        // It may be open to be written, and closed to be read.
        fchmod(&file, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // Over what is reserved, which a truncation would give back.
        file.rewind()?;
        file.write_all(&bytes)?;
        file.set_len(bytes.len() as u64)?;
        if is_durable {
            file.sync_all()?;
        }
        self.0.with(TEMPORARY_NAME, |directory, name| renameat(directory, name, directory, OUTCOME_NAME))?;
        if is_durable {
            fsync(&self.0)?;
        }
        Ok(())
    }

    fn open(&self) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let opened = self.0.with(TEMPORARY_NAME, |directory, name| openat(directory, name, flags, mode))?;
        Ok(opened.into())
    }
}
