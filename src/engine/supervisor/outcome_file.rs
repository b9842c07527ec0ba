//! The outcome is written last, at once or not at all, and also on a disk that has become full meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use nix::fcntl::posix_fallocate;

use super::signals::Signals;
use crate::engine::attempt::{Attempt, End, Outcome};

/// What an outcome without output takes.
const RESERVED_BYTES: i64 = 16 << 10;

/// Between two tries on a disk that takes nothing.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A temporary file with space of its own, and where it goes.
#[derive(Debug)]
pub struct OutcomeFile {
    temporary: PathBuf,
    destination: PathBuf,
}

impl OutcomeFile {
    /// Where this fails, it is tried again at the end.
    pub fn reserve(attempt: &Attempt) -> OutcomeFile {
        let destination = attempt.outcome_path();
        let temporary = destination.with_extension("partial");
        let reserved = OutcomeFile { temporary, destination };
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
        // Over what is reserved, which a truncation would give back.
        file.rewind()?;
        file.write_all(&bytes)?;
        file.set_len(bytes.len() as u64)?;
        if is_durable {
            file.sync_all()?;
        }
        fs::rename(&self.temporary, &self.destination)?;
        match self.destination.parent() {
            Some(directory) if is_durable => File::open(directory)?.sync_all(),
            _ => Ok(()),
        }
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.temporary)
    }
}
