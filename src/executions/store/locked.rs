//! An execution whose row is locked: its tasks as the graph sees them, and what may become of them. Nothing is written before
//! `save`, which is in a file of its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::context::Contexts;
use super::save::NewEvent;
use crate::engine::graph::{AttemptOutcome, Progress};
use crate::engine::graph::{TaskOutcome, TaskState};
use crate::executions::{ExecutionStatus, TaskStatus};
use crate::store::Transaction;
use crate::workflows::manifest::Manifest;
use crate::workflows::manifest_cache;

/// The row of an execution that no other transaction changes before this one has ended.
pub struct LockedRow {
    pub id: Uuid,
    pub tenant: Uuid,
    pub workflow: String,
    pub version: String,
    pub status: ExecutionStatus,
    pub is_cancelled: bool,
    pub created_at: OffsetDateTime,
    last_event: i32,
}

/// Such an execution with its tasks.
pub struct LockedExecution {
    pub row: LockedRow,
    pub manifest: Arc<Manifest>,
    pub(super) progress: Progress,
    pub(super) tasks: Vec<Task>,
    pub(super) contexts: Contexts,
    /// Tasks whose rows differ from what they were.
    pub(super) changed: BTreeSet<usize>,
    /// Tasks that were made ready and not claimed since, and how long they have to wait.
    pub(super) ready: Vec<(usize, Option<Duration>)>,
    pub(super) events: Vec<NewEvent>,
    /// Its row in the queue, and those of its tasks, have to go.
    pub(super) leaves_queue: bool,
    /// It was begun again, so its times are those of its new beginning.
    pub(super) is_retried: bool,
    /// Of the execution, once it has failed.
    pub(super) error: Option<String>,
}

/// A task's row.
#[derive(Debug, Clone, Default)]
pub struct Task {
    pub attempts: i32,
    pub earlier_attempts: i32,
    pub abandoned: i32,
    pub attempt: Option<Uuid>,
    pub exit_code: Option<i32>,
    pub error: Option<String>,
    /// What it has written now.
    pub output: Option<Arc<str>>,
    /// Of the output in the table.
    pub stored_bytes: Option<usize>,
    /// It starts anew, as if it had never run.
    pub is_reset: bool,
}

const LOCK: &str = "SELECT tenant, workflow, version, status, is_cancelled, created_at, last_event
     FROM cloacina_executions WHERE id = $1 AND ($2::uuid IS NULL OR tenant = $2) FOR UPDATE";
const MANIFEST: &str = "SELECT manifest FROM cloacina_packages
     WHERE tenant = $1 AND name = $2 AND version = $3 AND deleted_at IS NULL";
/// Takes no output out of where the long ones are.
const TASKS: &str = "SELECT status, attempts, earlier_attempts, abandoned, attempt, CASE WHEN status = 'Failed' THEN error END,
            octet_length(output)
     FROM cloacina_tasks WHERE execution = $1 ORDER BY number";

impl LockedRow {
    /// Locks the row of an execution; of this tenant, where one is given. `None`: there is none.
    pub fn lock(
        transaction: &mut Transaction<'_>,
        id: Uuid,
        tenant: Option<Uuid>,
    ) -> Result<Option<LockedRow>, postgres::Error> {
        let row = transaction.query_opt(LOCK, &[&id, &tenant])?;
        row.map(|row| LockedRow::of(id, &row)).transpose()
    }

    /// What a statement has locked whose first columns are those of `lock`.
    pub fn of(id: Uuid, row: &postgres::Row) -> Result<LockedRow, postgres::Error> {
        let status: &str = row.try_get(3)?;
        Ok(LockedRow {
            id,
            tenant: row.try_get(0)?,
            workflow: row.try_get(1)?,
            version: row.try_get(2)?,
            // Another program's status is none that anything is done for.
            status: ExecutionStatus::from_name(status).unwrap_or(ExecutionStatus::Failed),
            is_cancelled: row.try_get(4)?,
            created_at: row.try_get(5)?,
            last_event: row.try_get(6)?,
        })
    }

    /// Of the last event that is written.
    pub fn last_event(&self) -> i32 {
        self.last_event
    }

    /// Reads its tasks. The row comes back where its version was deleted, or its manifest is not read any more, which the log
    /// says.
    pub fn load(
        self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Result<LockedExecution, LockedRow>, postgres::Error> {
        let Some(manifest) = manifest(transaction, self.tenant, &self.workflow, &self.version)? else {
            return Ok(Err(self));
        };
        let (mut states, mut tasks) = (Vec::new(), Vec::new());
        for row in transaction.query(TASKS, &[&self.id])? {
            let status = TaskStatus::from_name(row.try_get(0)?).unwrap_or(TaskStatus::Cancelled);
            states.push(status.state());
            tasks.push(Task {
                attempts: row.try_get(1)?,
                earlier_attempts: row.try_get(2)?,
                abandoned: row.try_get(3)?,
                attempt: row.try_get(4)?,
                error: row.try_get(5)?,
                stored_bytes: row.try_get::<_, Option<i32>>(6)?.map(|bytes| bytes as usize),
                ..Task::default()
            });
        }
        if tasks.len() != manifest.tasks.len() {
            log::error!(execution:% = self.id; "an execution has other tasks than its manifest");
            return Ok(Err(self));
        }
        let progress = Progress::restore(Arc::clone(&manifest.graph), |task| states[task], self.is_cancelled);
        Ok(Ok(LockedExecution::new(self, manifest, progress, tasks)))
    }
}

/// The manifest of a version that is not deleted.
pub fn manifest(
    transaction: &mut Transaction<'_>,
    tenant: Uuid,
    workflow: &str,
    version: &str,
) -> Result<Option<Arc<Manifest>>, postgres::Error> {
    if let Some(manifest) = manifest_cache::cached(tenant, workflow, version) {
        return Ok(Some(manifest));
    }
    let Some(row) = transaction.query_opt(MANIFEST, &[&tenant, &workflow, &version])? else {
        return Ok(None);
    };
    let read = manifest_cache::read(tenant, workflow, version, row.try_get(0)?);
    Ok(read
        .inspect_err(|problems| {
            let first = problems.first().map(ToString::to_string).unwrap_or_default();
            log::error!(workflow = workflow, version = version; "a stored manifest is not read any more: {first}");
        })
        .ok())
}

impl LockedExecution {
    fn new(row: LockedRow, manifest: Arc<Manifest>, progress: Progress, tasks: Vec<Task>) -> LockedExecution {
        LockedExecution {
            row,
            manifest,
            progress,
            tasks,
            contexts: Contexts::default(),
            changed: BTreeSet::new(),
            ready: Vec::new(),
            events: Vec::new(),
            leaves_queue: false,
            is_retried: false,
            error: None,
        }
    }

    pub fn id_of(&self, task: usize) -> &str {
        self.manifest.graph.id(task)
    }

    pub fn state(&self, task: usize) -> TaskState {
        self.progress.state(task)
    }

    pub fn task(&self, task: usize) -> &Task {
        &self.tasks[task]
    }

    /// The number of the last event, with those that are still to be written.
    pub(super) fn last_event(&self) -> i32 {
        self.row.last_event + self.events.len() as i32
    }

    pub(super) fn first_new_event(&self) -> i32 {
        self.row.last_event + 1
    }

    pub(super) fn event(&mut self, event_type: &'static str, data: serde_json::Value) {
        self.event_ago(event_type, data, Duration::ZERO);
    }

    /// An event that was a while ago.
    pub(super) fn event_ago(&mut self, event_type: &'static str, data: serde_json::Value, ago: Duration) {
        self.events.push(NewEvent { event_type, data: Some(data), ago });
    }

    pub(super) fn bare_event(&mut self, event_type: &'static str, data: Option<serde_json::Value>) {
        self.events.push(NewEvent { event_type, data, ago: Duration::ZERO });
    }

    pub(super) fn task_event(&mut self, event_type: &'static str, task: usize) {
        let data = json!({ "task": self.id_of(task) });
        self.event(event_type, data);
    }

    /// Its first tasks may start.
    pub fn start(&mut self, transaction: &mut Transaction<'_>) -> Result<(), postgres::Error> {
        self.row.status = ExecutionStatus::Running;
        self.leaves_queue = true;
        self.bare_event("pipeline_started", None);
        self.decide(transaction)
    }

    /// An attempt of a task that is ready is to run. Says its number.
    pub fn claim(&mut self, task: usize, attempt: Uuid, host: &str) -> Option<i32> {
        self.progress.started(task).ok()?;
        self.ready.retain(|(ready, _)| *ready != task);
        self.changed.insert(task);
        let row = &mut self.tasks[task];
        row.attempts += 1;
        row.attempt = Some(attempt);
        (row.exit_code, row.error, row.output, row.stored_bytes) = (None, None, None, None);
        let number = row.attempts;
        let data = json!({ "task": self.id_of(task), "attempt": number, "host": host });
        self.event("task_claimed", data);
        Some(number)
    }

    /// The attempt of a running task has ended for good: with success and an output, or with the error of the last one.
    pub fn task_ended(&mut self, task: usize, outcome: AttemptOutcome, event_type: &'static str) {
        let Ok(outcome) = self.progress.ended(task, outcome) else { return };
        self.changed.insert(task);
        let row = &self.tasks[task];
        let mut data = json!({ "task": self.id_of(task), "attempt": row.attempts });
        if let Some(error) = &row.error {
            data["error"] = json!(error);
        }
        if let Some(exit_code) = row.exit_code {
            data["exit_code"] = json!(exit_code);
        }
        let is_cancelled = outcome == TaskOutcome::Cancelled;
        self.event(if is_cancelled { "task_cancelled" } else { event_type }, data);
    }

    /// The attempt of a running task has ended, and another one follows after a wait.
    pub fn task_runs_again(&mut self, task: usize, wait: Option<Duration>) {
        self.changed.insert(task);
        match self.progress.retry_scheduled(task) {
            Ok(TaskState::Ready) => self.ready.push((task, wait)),
            Ok(_) => self.task_event("task_cancelled", task),
            Err(_) => {}
        }
    }

    /// Cancels it, unless it has ended. Attempts that run go on until they are ended.
    pub fn cancel(&mut self) {
        let was_cancelled = std::mem::replace(&mut self.row.is_cancelled, true);
        let Some(cancelled) = self.progress.cancel().filter(|_| !was_cancelled) else { return };
        self.leaves_queue = true;
        self.ready.clear();
        for task in cancelled {
            self.changed.insert(task);
            self.task_event("task_cancelled", task);
        }
        self.end();
    }

    /// Begins it again where it failed: whether there was anything to begin again.
    pub fn retry(&mut self) -> bool {
        let Some(tasks) = self.progress.retry() else { return false };
        (self.row.is_cancelled, self.is_retried) = (false, true);
        self.row.status = ExecutionStatus::Pending;
        let ids: Vec<_> = tasks.iter().map(|task| self.id_of(*task).to_owned()).collect();
        for task in tasks {
            self.changed.insert(task);
            let row = &mut self.tasks[task];
            (row.earlier_attempts, row.abandoned, row.is_reset) = (row.attempts, 0, true);
            row.stored_bytes = None;
        }
        self.event("pipeline_retried", json!({ "tasks": ids }));
        true
    }
}
