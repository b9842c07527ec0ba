//! The attempts on this host: their directories, their supervisors, and what comes of them. Knows no table.

use std::time::Duration;

use uuid::Uuid;

use crate::engine::attempt::Outcome;
use crate::engine::log::Piece;
use crate::executions::store::claim::Claimed;

/// What has happened to an attempt.
#[derive(Debug)]
pub enum Event {
    /// Its supervisor runs.
    Started(Uuid),
    /// No process of it is left, and this came of it.
    Ended(Uuid, Outcome),
    /// Its supervisor is gone without an outcome; what it ran was ended and seen to be gone.
    Abandoned(Uuid, String),
    /// Nothing of it has ever run, and nothing will.
    NeverStarted(Uuid),
}

/// What of an attempt was found in the home at the start.
#[derive(Debug)]
pub enum Found {
    /// Its supervisor lives, and is followed from now on.
    Running(Uuid),
    /// As the event says, which does not come again.
    Over(Event),
}

/// The attempts of this host.
pub struct Attempts {}

impl Attempts {
    /// What an earlier server with this home has left. Called once, before anything is started.
    pub fn find(&mut self) -> Vec<Found> {
        todo!()
    }

    /// Starts one. Returns at once: `Started`, `Ended` with why it could not be, or `NeverStarted` follows.
    pub fn start(&mut self, claimed: Claimed) {
        let _ = claimed;
        todo!()
    }

    /// Has one end, with the grace; `Ended` follows. One that has not started yet will not.
    pub fn cancel(&mut self, attempt: Uuid) {
        let _ = attempt;
        todo!()
    }

    /// Waits for events until one comes, `wake` is called, or this time is over.
    pub fn wait(&mut self, limit: Duration) -> Vec<Event> {
        let _ = limit;
        todo!()
    }

    /// A piece of the log of one that runs or has ended, from an offset in all that it printed.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn log(&self, attempt: Uuid, after: u64, most_bytes: usize) -> std::io::Result<Piece> {
        let _ = (attempt, after, most_bytes);
        todo!()
    }

    /// What came of one is known to the database, or the database does not know it: its directory may go.
    pub fn remove(&mut self, attempt: Uuid) {
        let _ = attempt;
        todo!()
    }
}
