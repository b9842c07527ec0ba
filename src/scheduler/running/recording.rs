//! What is written down of attempts: their starts, what they print, and their ends.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Scheduler, TRY_AGAIN_AFTER};
use crate::engine::attempt::End;
use crate::engine::retry::random;
use crate::executions::store::attempt_end::{AttemptEnd, Recorded, record, record_start};
use crate::scheduler::store;
use crate::store::{Cause, Committed, StoreError};

/// A command that has run for so long is written down as started; of shorter ones that comes with their end.
const STARTED_AFTER: Duration = Duration::from_secs(1);
/// Of a log that are copied at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Of an attempt that runs, so many such pieces: others wait meanwhile.
const PIECES_AT_ONCE: usize = 4;

/// Before an end is tried again whose execution another session has locked.
const LOCKED_WAIT: Duration = Duration::from_millis(20);
/// Before an end is tried again that the database refuses, or takes too long for.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// An end that is to be written down.
#[derive(Debug)]
pub struct Ended {
    pub attempt: Uuid,
    end: AttemptEnd,
    /// It failed before: one bad end keeps no other one waiting.
    pub not_before: Instant,
    wait: Duration,
}

impl Ended {
    pub fn new(attempt: Uuid, end: AttemptEnd) -> Ended {
        Ended { attempt, end, not_before: Instant::now(), wait: FIRST_WAIT }
    }

    fn locked(mut self) -> Ended {
        self.not_before = Instant::now() + LOCKED_WAIT;
        self
    }

    fn failed(mut self) -> Ended {
        self.not_before = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        self
    }
}

impl Scheduler<'_> {
    /// Writes down how attempts ended, each with the rest of its log before.
    pub(super) fn record_ends(&mut self) {
        if self.state.is_none() {
            return;
        }
        let now = Instant::now();
        let mut due: Vec<Ended> = self.ends.extract_if(.., |ended| ended.not_before <= now).collect();
        if due.is_empty() {
            return;
        }
        due.sort_by_key(|ended| ended.wait);
        let mut has_failed = false;
        for ended in due {
            // Each may take all the time that a statement has: no more than one bad one at once.
            if self.state.is_none() || has_failed && ended.wait > FIRST_WAIT {
                self.ends.push(ended);
                continue;
            }
            match self.record_end(ended.attempt, &ended.end) {
                Ok(recorded) if recorded.value == Recorded::Locked => self.ends.push(ended.locked()),
                Ok(recorded) => {
                    self.running.remove(&ended.attempt);
                    // A void one wrote nothing that a standby could confirm; it may have been written before.
                    match recorded.is_confirmed && recorded.value != Recorded::Void {
                        true => self.attempts.remove(ended.attempt),
                        false => drop(self.unconfirmed.insert(ended.attempt, ended.end)),
                    }
                }
                Err(error) => {
                    has_failed = true;
                    self.failed("write down how a task ended", &error);
                    // What is wrong with the database is so for the others too.
                    if error.is_away() {
                        self.state = None;
                        self.next_look = Instant::now() + TRY_AGAIN_AFTER;
                    }
                    self.ends.push(match error {
                        // It was not asked.
                        StoreError::Unavailable(Cause::NoSession(..) | Cause::NotConnected(_)) => ended,
                        _ => ended.failed(),
                    });
                }
            }
        }
        // What was ready may have waited for a slot, and more may be ready.
        if let Some(state) = &mut self.state {
            state.has_work = true;
        }
        self.app.execution_changes.recorded();
    }

    /// Tries all that are left, once more.
    pub(super) fn record_last_ends(&mut self) {
        let now = Instant::now();
        self.ends.iter_mut().for_each(|ended| ended.not_before = now);
        self.record_ends();
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
        let output = match end {
            AttemptEnd::Ended(outcome) if outcome.end == End::Exited(0) => self.attempts.output(attempt),
            _ => Ok(None),
        };
        let unread = output
            .as_ref()
            .err()
            .map(|error| AttemptEnd::Abandoned(format!("what came of it cannot be read: {error}")));
        let (end, output) = (unread.as_ref().unwrap_or(end), output.ok().flatten().map(Arc::from));
        record(&self.app.store, attempt, end, output.as_ref(), random(), self.until())
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
