//! What becomes of a task when an attempt of it has ended: written once, and only for the attempt that the task has.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use super::attempt_row::{END_ATTEMPT, END_VOID, FORGET_ATTEMPT, IS_LOCKED, LOCK, START_ATTEMPT};
use super::locked::{LockedExecution, LockedRow};
use super::save::Ends;
use super::unread;
use crate::engine::attempt::{End, Outcome};
use crate::engine::graph::{AttemptOutcome, TaskState};
use crate::executions::ExecutionStatus;
use crate::store::{Committed, Store, StoreError, Transaction};

/// How often a task that is `restart_safe` runs again after its host died, whatever its retries.
const MOST_ABANDONED: i32 = 5;
/// Why an attempt was abandoned that its server ended with itself.
const STOPPED: &str = "its server was stopped";
/// Of an error's text.
const MOST_ERROR_BYTES: usize = 4096;

/// How an attempt ended, as its host saw it.
#[derive(Debug)]
pub enum AttemptEnd {
    Ended(Outcome),
    /// It is gone without an outcome: why.
    Abandoned(String),
    /// Nothing of it has ever run. Its task is ready again after this.
    NeverStarted(Duration),
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The status of its execution since then.
    Done(ExecutionStatus),
    /// Another session has locked the execution: nothing was written yet.
    Locked,
    /// The task has another attempt by now, or none, or is not there any more: nothing was written.
    Void,
}

/// A host that comes back waits for this.
const LOCK_FORGOTTEN: &str = "SELECT FROM cloacina_hosts AS host
     JOIN cloacina_attempts AS attempt ON attempt.host = host.id AND attempt.id = $1
     WHERE host.forgotten_at IS NOT NULL FOR SHARE OF host";

/// Writes down how an attempt ended, what becomes of its task, and what may start after it. An output is of one that has
/// succeeded. `random` is at least 0 and below 1.
///
/// # Errors
/// See `StoreError`. Written down twice, it is void the second time.
pub fn record(
    store: &Store,
    attempt: Uuid,
    end: &AttemptEnd,
    output: Option<&Arc<str>>,
    random: f64,
    until: Instant,
) -> Result<Committed<Recorded>, StoreError> {
    record_if(store, attempt, (end, output), random, until, |transaction| {
        let is_locked = transaction.query_opt(IS_LOCKED, &[&attempt])?.is_some();
        Ok(if is_locked { Err(Recorded::Locked) } else { Ok(()) })
    })
}

/// Writes down that an attempt was abandoned since its host was forgotten; nothing, where the host has come back meanwhile.
///
/// # Errors
/// See `StoreError`.
pub fn record_forgotten(
    store: &Store,
    attempt: Uuid,
    random: f64,
    until: Instant,
) -> Result<Committed<Recorded>, StoreError> {
    let end = AttemptEnd::Abandoned("its host was forgotten".to_owned());
    record_if(store, attempt, (&end, None), random, until, |transaction| {
        let is_forgotten = transaction.query_opt(LOCK_FORGOTTEN, &[&attempt])?.is_some();
        Ok(if is_forgotten { Ok(()) } else { Err(Recorded::Void) })
    })
}

fn record_if(
    store: &Store,
    attempt: Uuid,
    (end, output): (&AttemptEnd, Option<&Arc<str>>),
    random: f64,
    until: Instant,
    expect: impl Fn(&mut Transaction<'_>) -> Result<Result<(), Recorded>, postgres::Error>,
) -> Result<Committed<Recorded>, StoreError> {
    let outcome = store.transact(until, |transaction| {
        if let Err(recorded) = expect(transaction)? {
            return Ok(Ok::<_, Infallible>((recorded, Ends::default())));
        }
        let (mut execution, task) = match lock(transaction, attempt)? {
            Locked::Running(execution, task) => (*execution, task),
            Locked::Unread(row) if !row.status.has_ended() => {
                transaction.execute(END_VOID, &[&attempt])?;
                let (status, ends) = unread::end(transaction, &row, row.is_cancelled)?;
                return Ok(Ok((Recorded::Done(status), ends)));
            }
            Locked::Unread(_) | Locked::Void => {
                transaction.execute(END_VOID, &[&attempt])?;
                return Ok(Ok((Recorded::Void, Ends::default())));
            }
        };
        let is_written = match end {
            AttemptEnd::Ended(outcome) => {
                ended(transaction, &mut execution, task, attempt, (outcome, output), random)?
            }
            AttemptEnd::Abandoned(reason) => {
                let is_written = end_attempt(transaction, attempt, None, Some(reason), None)?.is_some();
                execution.abandoned(task, reason, random);
                is_written
            }
            AttemptEnd::NeverStarted(wait) => {
                execution.never_started(task, *wait);
                transaction.execute(FORGET_ATTEMPT, &[&attempt])? > 0
            }
        };
        if !is_written {
            return Ok(Ok((Recorded::Void, Ends::default())));
        }
        execution.decide(transaction)?;
        let status = execution.row.status;
        Ok(Ok((Recorded::Done(status), execution.save(transaction)?)))
    })?;
    let Committed { value: (recorded, ends), is_confirmed } = outcome.unwrap_or_else(|never| match never {});
    ends.count(store);
    Ok(Committed { value: recorded, is_confirmed })
}

/// Writes down that the command of an attempt has been running for so long.
///
/// # Errors
/// See `StoreError`.
pub fn record_start(store: &Store, attempt: Uuid, ago: Duration, until: Instant) -> Result<(), StoreError> {
    let outcome = store.transact(until, |transaction| {
        let Locked::Running(mut execution, task) = lock(transaction, attempt)? else { return Ok(Err(())) };
        if transaction.execute(START_ATTEMPT, &[&attempt, &ago.as_secs_f64()])? == 0 {
            return Ok(Err(()));
        }
        execution.started(task, ago);
        execution.save(transaction).map(Ok)
    });
    outcome.map(drop)
}

/// What an attempt is of.
enum Locked {
    /// The task whose attempt this is now.
    Running(Box<LockedExecution>, usize),
    /// An execution whose manifest is not read any more.
    Unread(LockedRow),
    /// Its task has another one, or has ended.
    Void,
}

/// Locks the execution that an attempt is of.
fn lock(transaction: &mut Transaction<'_>, attempt: Uuid) -> Result<Locked, postgres::Error> {
    let Some(row) = transaction.query_opt(LOCK, &[&attempt])? else { return Ok(Locked::Void) };
    let (id, task) = (row.try_get(7)?, row.try_get::<_, i32>(8)? as usize);
    let execution = match LockedRow::of(id, &row)?.load(transaction)? {
        Ok(execution) => execution,
        Err(row) => return Ok(Locked::Unread(row)),
    };
    let is_current = task < execution.manifest.tasks.len()
        && execution.task(task).attempt == Some(attempt)
        && execution.state(task) == TaskState::Running;
    Ok(if is_current { Locked::Running(Box::new(execution), task) } else { Locked::Void })
}

/// Whether the command had been written down as started comes back; nothing, if the attempt had ended.
fn end_attempt(
    transaction: &mut Transaction<'_>,
    attempt: Uuid,
    exit_code: Option<i32>,
    error: Option<&str>,
    outcome: Option<&Outcome>,
) -> Result<Option<bool>, postgres::Error> {
    let ran = outcome.and_then(ran).map(|ran| ran.as_secs_f64());
    let log_bytes = outcome.map(|outcome| outcome.log_bytes as i64);
    let row = transaction.query_opt(END_ATTEMPT, &[&attempt, &exit_code, &error, &ran, &log_bytes])?;
    row.map(|row| row.try_get(0)).transpose()
}

/// By its host's clock. `None`: it could not be started.
fn ran(outcome: &Outcome) -> Option<Duration> {
    let ran = Duration::from_millis(outcome.ended_at_ms.saturating_sub(outcome.started_at_ms));
    (outcome.started_at_ms > 0).then_some(ran)
}

fn ended(
    transaction: &mut Transaction<'_>,
    execution: &mut LockedExecution,
    task: usize,
    attempt: Uuid,
    (outcome, output): (&Outcome, Option<&Arc<str>>),
    random: f64,
) -> Result<bool, postgres::Error> {
    let exit_code = match outcome.end {
        End::Exited(code) => Some(code),
        _ => None,
    };
    // Its server was told to stop it, and no client asked for that.
    let is_stopped = outcome.end == End::Cancelled && !execution.row.is_cancelled;
    let error = match &outcome.end {
        End::Exited(0) => None,
        _ if is_stopped => Some(STOPPED.to_owned()),
        end => Some(storable(&end.to_string())),
    };
    let was_started = end_attempt(transaction, attempt, exit_code, error.as_deref(), Some(outcome))?;
    let Some(was_started) = was_started else { return Ok(false) };
    if let Some(ran) = ran(outcome).filter(|_| !was_started) {
        execution.started(task, ran);
    }
    match error {
        None => execution.completed(task, output.cloned()),
        Some(error) if is_stopped => execution.abandoned(task, &error, random),
        Some(error) => execution.failed(task, exit_code, error, random),
    }
    Ok(true)
}

/// Text that PostgreSQL takes: no more of it than is of use, and no zero byte.
fn storable(text: &str) -> String {
    text[..text.floor_char_boundary(MOST_ERROR_BYTES)].replace('\0', "\u{fffd}")
}

impl LockedExecution {
    fn started(&mut self, task: usize, ago: Duration) {
        let data = json!({ "task": self.id_of(task), "attempt": self.task(task).attempts });
        self.event_ago("task_started", data, ago);
    }

    fn completed(&mut self, task: usize, output: Option<Arc<str>>) {
        let row = &mut self.tasks[task];
        (row.exit_code, row.error, row.output) = (Some(0), None, output);
        self.task_ended(task, AttemptOutcome::Completed, "task_completed");
    }

    fn failed(&mut self, task: usize, exit_code: Option<i32>, error: String, random: f64) {
        let row = &mut self.tasks[task];
        (row.exit_code, row.error) = (exit_code, Some(error));
        let attempt = row.attempts - row.earlier_attempts;
        let wait = self.manifest.tasks[task].retries.wait_after(attempt.unsigned_abs(), random);
        match wait.filter(|_| !self.row.is_cancelled) {
            Some(wait) => {
                let row = &self.tasks[task];
                let mut data =
                    json!({ "task": self.id_of(task), "attempt": row.attempts, "error": row.error });
                if let Some(exit_code) = exit_code {
                    data["exit_code"] = json!(exit_code);
                }
                self.event("task_failed", data);
                self.runs_again(task, Some(wait));
            }
            None => self.task_ended(task, AttemptOutcome::Failed, "task_failed"),
        }
    }

    fn abandoned(&mut self, task: usize, reason: &str, random: f64) {
        let row = &mut self.tasks[task];
        row.abandoned += 1;
        (row.exit_code, row.error) = (None, Some(storable(reason)));
        let (attempt, abandoned) = (row.attempts - row.earlier_attempts, row.abandoned);
        let data =
            json!({ "task": self.id_of(task), "attempt": self.tasks[task].attempts, "reason": reason });
        self.event("task_abandoned", data);
        let manifest = &self.manifest.tasks[task];
        let by_retries = manifest.retries.wait_after(attempt.unsigned_abs(), random);
        let is_again = by_retries.is_some() || manifest.restart_safe && abandoned <= MOST_ABANDONED;
        match is_again && !self.row.is_cancelled {
            true => self.runs_again(task, by_retries),
            false => self.task_ended(task, AttemptOutcome::Failed, "task_failed"),
        }
    }

    fn runs_again(&mut self, task: usize, wait: Option<Duration>) {
        let wait_ms = wait.map_or(0, |wait| wait.as_millis() as u64);
        let data =
            json!({ "task": self.id_of(task), "attempt": self.task(task).attempts + 1, "delay_ms": wait_ms });
        self.event("task_retry_scheduled", data);
        self.task_runs_again(task, wait.filter(|wait| !wait.is_zero()));
    }

    /// It is as if it had never been claimed.
    fn never_started(&mut self, task: usize, wait: Duration) {
        let row = &mut self.tasks[task];
        row.attempts -= 1;
        row.attempt = None;
        let wait = Some(wait).filter(|wait| !wait.is_zero());
        if !self.row.is_cancelled {
            let mut data = json!({ "task": self.id_of(task) });
            if let Some(wait) = wait {
                data["delay_ms"] = json!(wait.as_millis() as u64);
            }
            self.event("task_marked_ready", data);
        }
        self.task_runs_again(task, wait);
    }
}
