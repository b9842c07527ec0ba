//! What becomes of a task when an attempt of it has ended: written once, and only for the attempt that the task has.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::attempt_row::{END_ATTEMPT, END_VOID, FORGET_ATTEMPT, IS_THERE, LOCK, LOCK_NOW, START_ATTEMPT};
use super::claim::Claimed;
use super::claim_next::{ClaimNext, claim_next};
use super::locked::{LockedExecution, LockedRow};
use super::log_copy::{NewPiece, copy};
use super::save::Ends;
use super::task_end::storable;
use super::unread;
use crate::engine::attempt::{End, Outcome};
use crate::engine::graph::TaskState;
use crate::executions::ExecutionStatus;
use crate::store::{Committed, Store, StoreError, Transaction};

/// Why an attempt was abandoned that its server ended with itself.
const STOPPED: &str = "its server was stopped";

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

/// The end of an attempt of this host, as it is written down.
#[derive(Debug)]
pub struct Ending<'a> {
    pub attempt: Uuid,
    pub end: &'a AttemptEnd,
    /// Of one that has succeeded.
    pub output: Option<Arc<str>>,
    /// The rest of its log.
    pub log: Option<NewPiece<'a>>,
    /// At least 0 and below 1.
    pub random: f64,
    /// Who takes a task that becomes ready with it.
    pub next: Option<ClaimNext<'a>>,
}

/// What came of it, and of what follows.
#[derive(Debug)]
pub struct Written {
    pub recorded: Recorded,
    pub claimed: Option<Claimed>,
    /// More may start now.
    pub has_work: bool,
}

impl Written {
    pub fn nothing(recorded: Recorded) -> Written {
        Written { recorded, claimed: None, has_work: false }
    }
}

/// Writes down how an attempt ended, what becomes of its task, and what may start after it.
///
/// # Errors
/// See `StoreError`. Written down twice, it is void the second time.
pub fn record(store: &Store, ending: &Ending<'_>, until: Instant) -> Result<Committed<Written>, StoreError> {
    let attempt = ending.attempt;
    write(store, ending, until, |transaction| match lock(transaction, attempt, LOCK_NOW)? {
        Locked::NotFound if transaction.query_opt(IS_THERE, &[&attempt])?.is_some() => {
            Ok(Err(Recorded::Locked))
        }
        locked => Ok(Ok(locked)),
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
    let ending = Ending { attempt, end: &end, output: None, log: None, random, next: None };
    let written = write(store, &ending, until, |transaction| {
        match transaction.query_opt(LOCK_FORGOTTEN, &[&attempt])? {
            Some(_) => lock(transaction, attempt, LOCK).map(Ok),
            // It has come back.
            None => Ok(Err(Recorded::Void)),
        }
    })?;
    Ok(Committed { value: written.value.recorded, is_confirmed: written.is_confirmed })
}

fn write(
    store: &Store,
    ending: &Ending<'_>,
    until: Instant,
    lock: impl Fn(&mut Transaction<'_>) -> Result<Result<Locked, Recorded>, postgres::Error>,
) -> Result<Committed<Written>, StoreError> {
    let &Ending { attempt, end, random, .. } = ending;
    let outcome = store.transact(until, |transaction| {
        let nothing = |recorded| Ok(Ok::<_, Infallible>((Written::nothing(recorded), Ends::default())));
        let (mut execution, task) = match lock(transaction)? {
            Err(recorded) => return nothing(recorded),
            Ok(Locked::Running(execution, task)) => (*execution, task),
            Ok(Locked::Unread(row)) if !row.status.has_ended() => {
                transaction.execute(END_VOID, &[&attempt])?;
                let (status, ends) = unread::end(transaction, &row, row.is_cancelled)?;
                return Ok(Ok((Written::nothing(Recorded::Done(status)), ends)));
            }
            Ok(Locked::Unread(_) | Locked::Void | Locked::NotFound) => {
                transaction.execute(END_VOID, &[&attempt])?;
                return nothing(Recorded::Void);
            }
        };
        if let Some(piece) = &ending.log {
            copy(transaction, attempt, piece)?;
        }
        let is_written = match end {
            AttemptEnd::Ended(outcome) => {
                ended(transaction, &mut execution, task, attempt, (outcome, ending.output.as_ref()), random)?
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
            return nothing(Recorded::Void);
        }
        execution.decide(transaction)?;
        let claimed = match ending.next {
            Some(next) => claim_next(transaction, next, &mut execution, task)?,
            None => None,
        };
        let recorded = Recorded::Done(execution.row.status);
        let has_work = claimed.is_none() || !execution.ready.is_empty();
        Ok(Ok((Written { recorded, claimed, has_work }, execution.save(transaction)?)))
    })?;
    let Committed { value: (written, ends), is_confirmed } = outcome.unwrap_or_else(|never| match never {});
    ends.count(store);
    Ok(Committed { value: written, is_confirmed })
}

/// Writes down that the command of an attempt has been running for so long.
///
/// # Errors
/// See `StoreError`.
pub fn record_start(store: &Store, attempt: Uuid, ago: Duration, until: Instant) -> Result<(), StoreError> {
    let outcome = store.transact(until, |transaction| {
        let Locked::Running(mut execution, task) = lock(transaction, attempt, LOCK)? else {
            return Ok(Err(()));
        };
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
    /// It has ended, or is not there; or another session has its execution, for which this one has not waited.
    NotFound,
}

/// Locks the execution that an attempt is of.
fn lock(
    transaction: &mut Transaction<'_>,
    attempt: Uuid,
    statement: &'static str,
) -> Result<Locked, postgres::Error> {
    let Some(row) = transaction.query_opt(statement, &[&attempt])? else { return Ok(Locked::NotFound) };
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
