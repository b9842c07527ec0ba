//! What is written down of attempts: their starts, what they print, and their ends.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Scheduler, TRY_AGAIN_AFTER};
use crate::engine::attempt::End;
use crate::engine::log::Piece;
use crate::engine::retry::random;
use crate::executions::store::attempt_end::{AttemptEnd, Ending, Recorded, Written, record, record_start};
use crate::executions::store::claim_next::ClaimNext;
use crate::executions::store::log_copy::{NewPiece, copy_log};
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
    /// It has not been tried.
    is_first: bool,
}

impl Ended {
    pub fn new(attempt: Uuid, end: AttemptEnd) -> Ended {
        Ended { attempt, end, not_before: Instant::now(), wait: FIRST_WAIT, is_first: true }
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
            return self.make_ends_durable();
        }
        let now = Instant::now();
        let mut due: Vec<Ended> = self.ends.extract_if(.., |ended| ended.not_before <= now).collect();
        if due.is_empty() {
            return;
        }
        due.sort_by_key(|ended| ended.wait);
        let (mut has_failed, mut has_work) = (false, false);
        for mut ended in due {
            // Each may take all the time that a statement has: no more than one bad one at once.
            if self.state.is_none() || has_failed && ended.wait > FIRST_WAIT {
                self.ends.push(ended);
                continue;
            }
            let output = match self.output_of(&ended) {
                Ok(output) => output,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    ended.end = AttemptEnd::Abandoned(
                        "its directory was removed before its output was read".to_owned(),
                    );
                    None
                }
                Err(error) => {
                    if self.errors.allows(now) {
                        log::warn!(attempt:% = ended.attempt, error:%; "a task's output cannot be read");
                    }
                    self.ends.push(ended.failed());
                    continue;
                }
            };
            // What follows it must not be what keeps it, or another one, from being written.
            let claims_next = ended.is_first && !has_failed && self.claim_next().is_some();
            match self.record_end(ended.attempt, &ended.end, output, claims_next) {
                Ok(written) if written.value.recorded == Recorded::Locked => {
                    self.make_durable(&mut ended);
                    self.ends.push(ended.locked());
                }
                Ok(written) => {
                    self.running.remove(&ended.attempt);
                    // What was ready may have waited for the slot, and more may be ready.
                    has_work |= written.value.has_work;
                    // A void one wrote nothing that a standby could confirm; it may have been written before.
                    match written.is_confirmed && written.value.recorded != Recorded::Void {
                        true => self.attempts.remove(ended.attempt),
                        false => {
                            self.attempts.make_durable(ended.attempt);
                            self.unconfirmed.insert(ended.attempt, ended.end);
                        }
                    }
                    written.value.claimed.into_iter().for_each(|claimed| self.start(claimed));
                }
                Err(error) => {
                    (has_failed, has_work) = (true, true);
                    // What follows it may have been claimed.
                    self.has_to_compare |= claims_next && matches!(error, StoreError::Unknown(_));
                    self.failed("write down how a task ended", &error);
                    self.make_durable(&mut ended);
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
        if let Some(state) = &mut self.state {
            state.has_work |= has_work;
        }
        self.app.execution_changes.recorded();
    }

    /// Of what is not written down yet.
    fn make_ends_durable(&mut self) {
        let mut ends = mem::take(&mut self.ends);
        ends.iter_mut().for_each(|ended| self.make_durable(ended));
        self.ends = ends;
    }

    fn make_durable(&self, ended: &mut Ended) {
        // Once: it may be tried for hours.
        if mem::take(&mut ended.is_first) && matches!(ended.end, AttemptEnd::Ended(_)) {
            self.attempts.make_durable(ended.attempt);
        }
    }

    /// Tries all that are left, once more.
    pub(super) fn record_last_ends(&mut self) {
        let now = Instant::now();
        self.ends.iter_mut().for_each(|ended| ended.not_before = now);
        self.record_ends();
    }

    fn record_end(
        &mut self,
        attempt: Uuid,
        end: &AttemptEnd,
        output: Option<Arc<str>>,
        claims_next: bool,
    ) -> Result<Committed<Written>, StoreError> {
        if self.running.get(&attempt).is_some_and(|running| running.is_void) {
            return Ok(Committed { value: Written::nothing(Recorded::Void), is_confirmed: true });
        }
        let rest = match end {
            AttemptEnd::Ended(outcome) => self.rest_of_log(attempt, outcome.log_bytes)?,
            _ => None,
        };
        let log = rest.as_ref().map(|piece| self.new_piece(piece));
        let next = self.claim_next().filter(|_| claims_next);
        record(&self.app.store, &Ending { attempt, end, output, log, random: random(), next }, self.until())
    }

    /// What a task that has succeeded leaves to those after it.
    fn output_of(&self, ended: &Ended) -> io::Result<Option<Arc<str>>> {
        let is_void = self.running.get(&ended.attempt).is_some_and(|running| running.is_void);
        match &ended.end {
            AttemptEnd::Ended(outcome) if outcome.end == End::Exited(0) && !is_void => {
                Ok(self.attempts.output(ended.attempt)?.map(Arc::from))
            }
            _ => Ok(None),
        }
    }

    /// Who takes what becomes ready, where nothing else waits for a slot: in the place of what has ended.
    fn claim_next(&self) -> Option<ClaimNext<'_>> {
        let state = self.state.as_ref()?;
        let has_others = !self.candidates.is_empty() || state.has_work;
        let may_replace = self.may_claim() && state.all_have_said && self.may_replace();
        let timeline = self.timeline.filter(|_| may_replace && !has_others)?;
        Some(ClaimNext { host: &self.host, timeline })
    }

    /// The last piece of a log that has so many bytes; what comes before it is copied.
    fn rest_of_log(&mut self, attempt: Uuid, log_bytes: u64) -> Result<Option<Piece>, StoreError> {
        loop {
            let Some(running) = self.running.get(&attempt) else { return Ok(None) };
            // What cannot be read is missing in the log, and keeps nothing else from being written.
            let Ok(piece) = self.attempts.log(attempt, running.log_bytes, PIECE_BYTES) else {
                return Ok(None);
            };
            if piece.bytes.is_empty() || piece.next >= log_bytes {
                return Ok(Some(piece).filter(|piece| !piece.bytes.is_empty()));
            }
            self.copy_piece(attempt, &piece)?;
        }
    }

    fn new_piece<'a>(&self, piece: &'a Piece) -> NewPiece<'a> {
        let at = piece.next - piece.bytes.len() as u64;
        NewPiece { at, bytes: &piece.bytes, limit: self.settings.task_log_limit as u64 }
    }

    fn copy_piece(&mut self, attempt: Uuid, piece: &Piece) -> Result<(), StoreError> {
        copy_log(&self.app.store, attempt, &self.new_piece(piece), self.until())?;
        if let Some(running) = self.running.get_mut(&attempt) {
            running.log_bytes = piece.next;
        }
        Ok(())
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
            match self.copy_log(attempt) {
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

    /// Copies what was printed since the last time, a few pieces of it: whether it was anything.
    fn copy_log(&mut self, attempt: Uuid) -> Result<bool, StoreError> {
        for copied in 0..PIECES_AT_ONCE {
            let Some(running) = self.running.get(&attempt) else { return Ok(copied > 0) };
            // What cannot be read is missing in the log, and keeps nothing else from being written.
            let Ok(piece) = self.attempts.log(attempt, running.log_bytes, PIECE_BYTES) else {
                return Ok(copied > 0);
            };
            if piece.bytes.is_empty() {
                return Ok(copied > 0);
            }
            self.copy_piece(attempt, &piece)?;
            // Of one that prints fast, each piece more would have a gap before it.
            if piece.bytes.len() < PIECE_BYTES {
                break;
            }
        }
        Ok(true)
    }
}
