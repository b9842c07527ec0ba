//! How far all those executions and logs are for which clients wait, asked for at once.

use std::time::Instant;

use uuid::Uuid;

use crate::store::{Store, StoreError};

/// What a client waits for.
#[derive(Debug)]
pub struct Question {
    pub key: Uuid,
    pub execution: Uuid,
    /// Where it is a log: the task's number, and which attempt, if not the last one.
    pub task: Option<i32>,
    pub attempt: Option<i32>,
}

/// How far it is.
#[derive(Debug, Default, Clone, Copy)]
pub struct Progress {
    /// The client's key is still let in.
    pub is_let_in: bool,
    pub has_ended: bool,
    pub last_event: i32,
    /// Of the attempt, where there is one: how much it has printed, and whether it has ended.
    pub printed: Option<i64>,
    pub attempt_has_ended: bool,
}

/// An execution that is not there any more has ended.
const LOOK: &str =
    "SELECT api_keys.id IS NOT NULL, execution.id IS NULL OR execution.status NOT IN ('Pending', 'Running'),
            COALESCE(execution.last_event, 0), attempt.log_bytes, attempt.ended_at IS NOT NULL
     FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::int[]) WITH ORDINALITY
         AS question (key, execution, task, attempt, place)
     LEFT JOIN api_keys ON api_keys.id = question.key AND revoked_at IS NULL AND COALESCE(expires_at > now(), true)
     LEFT JOIN cloacina_executions AS execution ON execution.id = question.execution
     LEFT JOIN cloacina_tasks AS task ON task.execution = question.execution AND task.number = question.task
     LEFT JOIN cloacina_attempts AS attempt ON attempt.execution = question.execution AND attempt.task = question.task
         AND attempt.number = COALESCE(question.attempt, task.attempts)
     ORDER BY place";

/// The answers are in the order of the questions.
///
/// # Errors
/// See `StoreError`.
pub fn look(store: &Store, questions: &[Question], until: Instant) -> Result<Vec<Progress>, StoreError> {
    let keys: Vec<Uuid> = questions.iter().map(|question| question.key).collect();
    let executions: Vec<Uuid> = questions.iter().map(|question| question.execution).collect();
    let tasks: Vec<Option<i32>> = questions.iter().map(|question| question.task).collect();
    let attempts: Vec<Option<i32>> = questions.iter().map(|question| question.attempt).collect();
    store.read(until, |session| {
        let rows = session.query(LOOK, &[&keys, &executions, &tasks, &attempts])?;
        let progress = |row: &postgres::Row| {
            Ok(Progress {
                is_let_in: row.try_get(0)?,
                has_ended: row.try_get(1)?,
                last_event: row.try_get(2)?,
                printed: row.try_get(3)?,
                attempt_has_ended: row.try_get(4)?,
            })
        };
        rows.iter().map(progress).collect()
    })
}
