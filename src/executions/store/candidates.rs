//! What may start.

use std::time::Instant;

use postgres::Row;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store::{Store, StoreError};

/// An entry of the queue whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub tenant: Uuid,
    pub execution: Uuid,
    /// `None`: an execution of which no task has started.
    pub task: Option<usize>,
    /// Of the execution.
    pub created_at: OffsetDateTime,
    /// How many more tasks its tenant may run on all hosts together.
    pub free_of_tenant: Option<i64>,
}

/// The first ones of each workflow of which anything may start, by tenant and age.
const CANDIDATES: &str = "WITH RECURSIVE head AS (
         (SELECT tenant, workflow, is_start FROM cloacina_queue
          WHERE due_at IS NULL ORDER BY tenant, workflow, is_start LIMIT 1)
         UNION ALL
         SELECT next.tenant, next.workflow, next.is_start FROM head CROSS JOIN LATERAL (
             SELECT tenant, workflow, is_start FROM cloacina_queue
             WHERE due_at IS NULL AND (tenant, workflow, is_start) > (head.tenant, head.workflow, head.is_start)
             ORDER BY tenant, workflow, is_start LIMIT 1) AS next
     )
     SELECT entry.tenant, entry.execution, CASE WHEN head.is_start THEN NULL ELSE entry.task END, entry.created_at,
            tenant.max_running_tasks - CASE WHEN tenant.max_running_tasks IS NOT NULL THEN
                (SELECT count(*) FROM cloacina_attempts AS attempt WHERE attempt.tenant = head.tenant AND ended_at IS NULL) END
     FROM head
     JOIN cloacina_tenants AS tenant ON tenant.id = head.tenant AND tenant.removed_at IS NULL
     JOIN cloacina_workflows AS workflow
         ON workflow.tenant = head.tenant AND workflow.name = head.workflow AND NOT workflow.is_paused
     CROSS JOIN LATERAL (
         SELECT * FROM cloacina_queue AS queue
         WHERE (queue.tenant, queue.workflow, queue.is_start) = (head.tenant, head.workflow, head.is_start)
           AND due_at IS NULL AND ($2 OR timeline = $3)
         ORDER BY created_at, execution, task LIMIT $1) AS entry
     WHERE NOT head.is_start OR entry.max_running IS NULL OR entry.max_running > (
         SELECT count(*) FROM (
             SELECT FROM cloacina_executions AS running
             WHERE running.tenant = head.tenant AND running.workflow = head.workflow AND running.status = 'Running'
             LIMIT entry.max_running) AS counted)
     ORDER BY entry.created_at, entry.execution, entry.task";
/// What may start, the oldest first. `timeline`: entries that were written since the database got it, unless all hosts have
/// said since then what they run.
///
/// # Errors
/// See `StoreError`.
pub fn candidates(
    store: &Store,
    timeline: i64,
    all_have_said: bool,
    most_of_workflow: usize,
    until: Instant,
) -> Result<Vec<Candidate>, StoreError> {
    store.read(until, |session| {
        let rows = session.query(CANDIDATES, &[&(most_of_workflow as i64), &all_have_said, &timeline])?;
        let candidate = |row: &Row| {
            let task: Option<i32> = row.try_get(2)?;
            Ok(Candidate {
                tenant: row.try_get(0)?,
                execution: row.try_get(1)?,
                task: task.map(|task| task as usize),
                created_at: row.try_get(3)?,
                free_of_tenant: row.try_get(4)?,
            })
        };
        rows.iter().map(candidate).collect()
    })
}
