//! Writes what has changed of a locked execution: its tasks, its events, what it has in the queue, and its own row. Says what
//! ended with it, for the metrics.

use std::time::Duration;

use postgres::types::ToSql;
use serde_json::Value;
use uuid::Uuid;

use super::locked::LockedExecution;
use super::output;
use crate::engine::graph::TaskState;
use crate::executions::{ExecutionStatus, TaskStatus};
use crate::store::{Store, Transaction};

/// An event that has no number yet.
#[derive(Debug)]
pub struct NewEvent {
    pub event_type: &'static str,
    pub data: Option<Value>,
    /// Before it is written.
    pub ago: Duration,
}

/// What a change has ended. It is counted once that is committed.
#[derive(Debug, Default)]
#[must_use]
pub struct Ends {
    execution: Option<ExecutionStatus>,
    tasks: Vec<&'static str>,
    abandoned: usize,
}

impl Ends {
    /// An execution, and so many of its tasks.
    pub fn of(execution: ExecutionStatus, task: TaskStatus, tasks: usize) -> Ends {
        Ends { execution: Some(execution), tasks: vec![task.name(); tasks], abandoned: 0 }
    }

    pub fn count(&self, store: &Store) {
        let metrics = &store.metrics.tasks;
        self.execution.iter().for_each(|status| metrics.execution_ended(status.name()));
        self.tasks.iter().for_each(|status| metrics.task_ended(status));
        metrics.attempts_abandoned.inc_by(self.abandoned as u64);
    }
}

/// All of it in one statement: none of its parts needs to see another one's rows.
const SAVE: &str = "WITH changed_tasks AS (
         UPDATE cloacina_tasks AS task
         SET status = new.status, attempts = new.attempts, earlier_attempts = new.earlier_attempts,
             abandoned = new.abandoned, attempt = new.attempt, exit_code = new.exit_code, error = new.error,
             output = new.output,
             started_at = CASE WHEN new.is_reset THEN NULL
                               WHEN new.status = 'Running' THEN COALESCE(task.started_at, clock_timestamp())
                               ELSE task.started_at END,
             completed_at = CASE WHEN new.has_ended THEN clock_timestamp() END
         FROM unnest($2::int[], $3::text[], $4::int[], $5::int[], $6::int[], $7::uuid[], $8::int[], $9::text[],
                     $10::text[], $11::bool[], $12::bool[])
              AS new (number, status, attempts, earlier_attempts, abandoned, attempt, exit_code, error, output,
                      is_reset, has_ended)
         WHERE task.execution = $1 AND task.number = new.number
     ), new_events AS (
         INSERT INTO cloacina_events (execution, number, event_type, event_data, created_at)
         SELECT $1, $13 + position::int - 1, event_type, event_data, clock_timestamp() - make_interval(secs => ago)
         FROM unnest($14::text[], $15::text[], $16::float8[]) WITH ORDINALITY
              AS new (event_type, event_data, ago, position)
     ), left_queue AS (
         DELETE FROM cloacina_queue WHERE execution = $1 AND $17
     ), queued_tasks AS (
         INSERT INTO cloacina_queue (tenant, workflow, is_start, created_at, execution, task, due_at, timeline)
         SELECT $18, $19, false, $20, $1, task, clock_timestamp() + make_interval(secs => wait),
                (SELECT timeline FROM cloacina_executions WHERE id = $1)
         FROM unnest($21::int[], $22::float8[]) AS new (task, wait)
     ), queued_start AS (
         INSERT INTO cloacina_queue (tenant, workflow, is_start, created_at, execution, task, max_running, timeline)
         SELECT $18, $19, true, $20, $1, -1, $23, (SELECT timeline FROM cloacina_executions WHERE id = $1)
         WHERE $24
     )
     UPDATE cloacina_executions
     SET status = $25, is_cancelled = $26, last_event = $27, error = $28,
         started_at = CASE WHEN $24 THEN NULL WHEN $25 = 'Running' OR $30 THEN COALESCE(started_at, clock_timestamp())
                           ELSE started_at END,
         completed_at = CASE WHEN $29 THEN clock_timestamp() END
     WHERE id = $1";

impl LockedExecution {
    /// Writes it, in the transaction that has locked it.
    pub fn save(self, transaction: &mut Transaction<'_>) -> Result<Ends, postgres::Error> {
        let ends = self.ends();
        let changed = || self.changed.iter().map(|task| (*task, &self.tasks[*task]));
        let numbers: Vec<i32> = changed().map(|(number, _)| number as i32).collect();
        let states: Vec<TaskState> = changed().map(|(number, _)| self.progress.state(number)).collect();
        let statuses: Vec<&str> = states.iter().map(|state| TaskStatus::from(*state).name()).collect();
        let attempts: Vec<i32> = changed().map(|(_, task)| task.attempts).collect();
        let earlier: Vec<i32> = changed().map(|(_, task)| task.earlier_attempts).collect();
        let abandoned: Vec<i32> = changed().map(|(_, task)| task.abandoned).collect();
        let attempt: Vec<Option<Uuid>> = changed().map(|(_, task)| task.attempt).collect();
        let exit_codes: Vec<Option<i32>> = changed().map(|(_, task)| task.exit_code).collect();
        let errors: Vec<Option<&str>> = changed().map(|(_, task)| task.error.as_deref()).collect();
        let is_small = |output: &&str| output.len() <= output::MOST_AT_ONCE_BYTES;
        let outputs: Vec<Option<&str>> =
            changed().map(|(_, task)| task.output.as_deref().filter(is_small)).collect();
        let resets: Vec<bool> = changed().map(|(_, task)| task.is_reset).collect();
        let ended: Vec<bool> = states.iter().map(|state| matches!(state, TaskState::Ended(_))).collect();
        let types: Vec<&str> = self.events.iter().map(|event| event.event_type).collect();
        let data: Vec<Option<String>> =
            self.events.iter().map(|event| event.data.as_ref().map(Value::to_string)).collect();
        let ago: Vec<f64> = self.events.iter().map(|event| event.ago.as_secs_f64()).collect();
        let ready: Vec<i32> = self.ready.iter().map(|(task, _)| *task as i32).collect();
        let waits: Vec<_> = self.ready.iter().map(|(_, wait)| wait.map(|wait| wait.as_secs_f64())).collect();
        let row = &self.row;
        let values: &[&(dyn ToSql + Sync)] = &[
            &row.id,
            &numbers,
            &statuses,
            &attempts,
            &earlier,
            &abandoned,
            &attempt,
            &exit_codes,
            &errors,
            &outputs,
            &resets,
            &ended,
            &self.first_new_event(),
            &types,
            &data,
            &ago,
            &self.leaves_queue,
            &row.tenant,
            &row.workflow,
            &row.created_at,
            &ready,
            &waits,
            &self.max_running(),
            &self.is_retried,
            &row.status.name(),
            &row.is_cancelled,
            &self.last_event(),
            &self.error,
            &row.status.has_ended(),
            // It may end as it starts.
            &self.events.iter().any(|event| event.event_type == "pipeline_started"),
        ];
        transaction.execute(SAVE, values)?;
        for (number, task) in changed() {
            if let Some(output) = task.output.as_deref().filter(|output| !is_small(output)) {
                output::write(transaction, row.id, number, output)?;
            }
        }
        Ok(ends)
    }

    fn ends(&self) -> Ends {
        let ended = |task: &usize| match self.progress.state(*task) {
            state @ TaskState::Ended(_) => Some(TaskStatus::from(state).name()),
            _ => None,
        };
        Ends {
            execution: Some(self.row.status).filter(|status| status.has_ended()),
            tasks: self.changed.iter().filter_map(ended).collect(),
            abandoned: self.events.iter().filter(|event| event.event_type == "task_abandoned").count(),
        }
    }

    /// Of its version's workflow.
    fn max_running(&self) -> Option<i32> {
        self.manifest.max_running.map(|most| i32::try_from(most).unwrap_or(i32::MAX))
    }
}
