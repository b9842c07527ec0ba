//! What is known of the database now: told by the look that the server takes at it twice a second, and by each request
//! that could not use it in between; `/ready` says it.

use std::sync::OnceLock;
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a successful look at the database counts.
const FRESH_FOR: Duration = Duration::from_millis(1900);

/// Why requests cannot be served from the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No session can be made, or none answers.
    Unreachable,
    /// Every session that can be made is read-only: that of a standby, say.
    ReadOnly,
    /// It answers, but all sessions of the pool are in use.
    Busy,
}

impl Trouble {
    /// The reason that `/ready` gives.
    pub fn reason(self) -> &'static str {
        match self {
            Trouble::Unreachable => "database unreachable",
            Trouble::ReadOnly => "database is read-only",
            Trouble::Busy => "every database session is busy",
        }
    }
}

/// Shared by the store, which tells it, and by what answers `/ready`.
#[derive(Default)]
pub struct DatabaseStatus {
    seen: Mutex<Seen>,
    /// Takes the looks, and is woken for one when a request has failed.
    watcher: OnceLock<Thread>,
}

#[derive(Default)]
struct Seen {
    /// When the database was last asked whether it takes writes, and said yes.
    answered: Option<Instant>,
    /// When the last look began that found all well, the pool included.
    reached: Option<Instant>,
    /// What was wrong last, and when that was known.
    trouble: Option<(Instant, Trouble)>,
}

impl DatabaseStatus {
    /// The database was asked at this moment, and answered that it takes writes.
    pub fn answered(&self, asked: Instant) {
        self.seen.lock().answered = Some(asked);
    }

    /// A look that began at this moment found that besides, a request can have a session.
    pub fn reached(&self, began: Instant) {
        let mut seen = self.seen.lock();
        seen.answered = seen.answered.max(Some(began));
        seen.reached = Some(began);
    }

    /// From now on, and until a look that begins later succeeds, requests cannot be served.
    pub fn failed(&self, trouble: Trouble) {
        self.seen.lock().trouble = Some((Instant::now(), trouble));
    }

    /// A request found that there is no session at all. Whether those that could be made are read-only is for a look to
    /// say.
    pub fn has_no_session(&self) {
        if self.seen.lock().known() != Some(Trouble::ReadOnly) {
            self.failed(Trouble::Unreachable);
        }
    }

    /// The calling thread takes the looks.
    pub fn watch_from_here(&self) {
        let _ = self.watcher.set(std::thread::current());
    }

    /// Asks for a look now.
    pub fn look_now(&self) {
        if let Some(watcher) = self.watcher.get() {
            watcher.unpark();
        }
    }

    /// Nothing when requests can be served.
    pub fn trouble(&self) -> Option<Trouble> {
        let seen = self.seen.lock();
        match (seen.known(), seen.answered) {
            (Some(trouble @ (Trouble::Unreachable | Trouble::ReadOnly)), _) => Some(trouble),
            (trouble, Some(answered)) if answered.elapsed() < FRESH_FOR => trouble,
            _ => Some(Trouble::Unreachable),
        }
    }

    /// Whether requests found, or a look, that no session can be used. Not so where nothing is known.
    pub fn is_down(&self) -> bool {
        matches!(self.seen.lock().known(), Some(Trouble::Unreachable | Trouble::ReadOnly))
    }

    /// Whether the database answered within the last two seconds, though all sessions may be in use.
    pub fn answers(&self) -> bool {
        matches!(self.trouble(), None | Some(Trouble::Busy))
    }
}

impl Seen {
    /// What was found to be wrong, and not to be right again since.
    fn known(&self) -> Option<Trouble> {
        let (known, trouble) = self.trouble?;
        self.reached.is_none_or(|reached| reached < known).then_some(trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_known_last_counts() {
        let status = DatabaseStatus::default();
        assert_eq!(status.trouble(), Some(Trouble::Unreachable), "nothing is known yet");
        let began = Instant::now();
        status.reached(began);
        assert_eq!(status.trouble(), None);
        status.failed(Trouble::ReadOnly);
        assert_eq!(status.trouble(), Some(Trouble::ReadOnly));
        status.reached(began);
        assert_eq!(status.trouble(), Some(Trouble::ReadOnly), "that look began before the failure");
        status.reached(Instant::now());
        assert_eq!(status.trouble(), None);
        status.failed(Trouble::Busy);
        assert!(status.answers() && !status.is_down());
        status.has_no_session();
        assert_eq!(status.trouble(), Some(Trouble::Unreachable));
        status.failed(Trouble::ReadOnly);
        status.has_no_session();
        assert_eq!(status.trouble(), Some(Trouble::ReadOnly));
        status.failed(Trouble::Unreachable);
        assert!(!status.answers());
    }
}
