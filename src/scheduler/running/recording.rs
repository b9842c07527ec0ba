//! What is written down of attempts: their starts, what they print, and their ends.

use std::mem;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Scheduler, TRY_AGAIN_AFTER, random};
use crate::executions::store::attempt_end::{AttemptEnd, Recorded, record, record_start};
use crate::scheduler::store;
use crate::store::{Committed, StoreError};

/// A command that has run for so long is written down as started; of shorter ones that comes with their end.
const STARTED_AFTER: Duration = Duration::from_secs(1);
/// Of a log that are copied at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Of an attempt that runs, so many such pieces: others wait meanwhile.
const PIECES_AT_ONCE: usize = 4;

impl Scheduler<'_> {
    /// Writes down how attempts ended, each with the rest of its log before.
    pub(super) fn record_ends(&mut self) {
        if self.ends.is_empty() || self.state.is_none() {
            return;
        }
        let mut left = Vec::new();
        for (attempt, end) in mem::take(&mut self.ends) {
            match self.record_end(attempt, &end) {
                Ok(recorded) => {
                    self.running.remove(&attempt);
                    match recorded.is_confirmed {
                        true => self.attempts.remove(attempt),
                        false => drop(self.unconfirmed.insert(attempt, end)),
                    }
                }
                Err(error) => {
                    self.failed("write down how a task ended", &error);
                    left.push((attempt, end));
                    // What is wrong with the database is so for the others too.
                    if matches!(error, StoreError::Unavailable(_) | StoreError::Unknown(_)) {
                        self.state = None;
                        self.next_look = Instant::now() + TRY_AGAIN_AFTER;
                    }
                }
            }
        }
        self.ends.extend(left);
        // What was ready may have waited for a slot, and more may be ready.
        if let Some(state) = &mut self.state {
            state.has_work = true;
        }
        self.app.execution_changes.recorded();
    }

    pub(super) fn record_end(
        &mut self,
        attempt: Uuid,
        end: &AttemptEnd,
    ) -> Result<Committed<Recorded>, StoreError> {
        if self.running.get(&attempt).is_some_and(|running| running.is_void) {
            return Ok(Committed { value: Recorded::Void, is_confirmed: true });
        }
        if let AttemptEnd::Ended(outcome) = end {
            self.copy_log(attempt, Some(outcome.log_bytes))?;
        }
        record(&self.app.store, attempt, end, random(), self.until())
    }

    /// What was written before a statement that a standby has confirmed is there as well.
    pub(super) fn forget_unconfirmed(&mut self) {
        for (attempt, _) in mem::take(&mut self.unconfirmed) {
            self.attempts.remove(attempt);
        }
    }

    pub(super) fn copy_logs(&mut self) {
        let attempts: Vec<Uuid> = self
            .running
            .iter()
            .filter(|(_, running)| !running.is_void && running.tenant.is_some())
            .map(|(id, _)| *id)
            .collect();
        let mut has_news = false;
        for attempt in attempts {
            match self.copy_log(attempt, None) {
                Ok(has_more) => has_news |= has_more,
                Err(error) => return self.failed("copy what a task has printed", &error),
            }
            if let Err(error) = self.record_start(attempt) {
                return self.failed("write down that a task has started", &error);
            }
        }
        if has_news {
            self.app.execution_changes.recorded();
        }
    }

    pub(super) fn record_start(&mut self, attempt: Uuid) -> Result<(), StoreError> {
        let until = self.until();
        let Some(running) = self.running.get_mut(&attempt) else { return Ok(()) };
        let Some(ago) = running.started.map(|started| started.elapsed()) else { return Ok(()) };
        if running.start_is_recorded || ago < STARTED_AFTER {
            return Ok(());
        }
        record_start(&self.app.store, attempt, ago, until)?;
        running.start_is_recorded = true;
        Ok(())
    }

    /// Copies what was printed since the last time: whether it was anything. To its end, where that is known; else a few
    /// pieces.
    pub(super) fn copy_log(&mut self, attempt: Uuid, end: Option<u64>) -> Result<bool, StoreError> {
        let limit = self.settings.task_log_limit as u64;
        let mut has_news = false;
        let mut pieces = if end.is_some() { usize::MAX } else { PIECES_AT_ONCE };
        loop {
            let (until, Some(running)) = (self.until(), self.running.get_mut(&attempt)) else {
                return Ok(has_news);
            };
            // What cannot be read is missing in the log, and keeps nothing else from being written.
            let Ok(piece) = self.attempts.log(attempt, running.log_bytes, PIECE_BYTES) else {
                return Ok(has_news);
            };
            if piece.bytes.is_empty() {
                return Ok(has_news);
            }
            let at = piece.next - piece.bytes.len() as u64;
            store::copy_log(&self.app.store, attempt, at, &piece.bytes, limit, until)?;
            running.log_bytes = piece.next;
            has_news = true;
            pieces -= 1;
            // Of one that prints fast, each piece more would have a gap before it.
            let is_enough = end.map_or(piece.bytes.len() < PIECE_BYTES, |end| running.log_bytes >= end);
            if pieces == 0 || is_enough {
                return Ok(has_news);
            }
        }
    }
}
