//! What may start.

use std::time::Instant;

use postgres::Row;
use postgres::types::ToSql;
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

/// What is looked for.
#[derive(Debug)]
pub struct Sought {
    /// Entries that were written since the database got this timeline, unless all hosts have said since then what they run.
    pub timeline: i64,
    pub all_have_said: bool,
    /// Tenants behind this one come first, then those from the beginning, it last.
    pub last_tenant: Uuid,
    /// Of these nothing more may run here.
    pub full_tenants: Vec<Uuid>,
    /// Of these executions nothing is to start now.
    pub put_off: Vec<Uuid>,
    pub most_of_tenant: usize,
}

#[derive(Debug)]
pub struct Found {
    /// The oldest first.
    pub candidates: Vec<Candidate>,
    /// There are no further tenants with work.
    pub is_all: bool,
}

/// Candidates that are found at once.
const MOST: i64 = 64;

/// Goes from tenant to tenant, and in each from workflow to workflow, by the index, until there are enough. Of a tenant come
/// the oldest ones of which anything may start. `LIMIT 1` keeps what is looked up of each from becoming a join of all.
const CANDIDATES: &str = "WITH RECURSIVE turn AS (
         SELECT $3::uuid AS tenant, false AS is_round, false AS is_there
         UNION ALL
         SELECT next.tenant, next.is_round, true FROM turn CROSS JOIN LATERAL (
             (SELECT tenant, turn.is_round FROM cloacina_queue
              WHERE due_at IS NULL AND tenant > turn.tenant AND (NOT turn.is_round OR tenant <= $3)
              ORDER BY tenant LIMIT 1)
             UNION ALL
             (SELECT tenant, true FROM cloacina_queue
              WHERE due_at IS NULL AND NOT turn.is_round AND tenant <= $3 ORDER BY tenant LIMIT 1)
             ORDER BY is_round LIMIT 1) AS next
     )
     SELECT turn.tenant, entry.execution, entry.task, entry.created_at, free.free
     FROM turn
     CROSS JOIN LATERAL (
         SELECT max_running_tasks FROM cloacina_tenants
         WHERE id = turn.tenant AND removed_at IS NULL AND turn.is_there AND turn.tenant <> ALL($4::uuid[]) LIMIT 1) AS tenant
     CROSS JOIN LATERAL (
         SELECT tenant.max_running_tasks - CASE WHEN tenant.max_running_tasks IS NOT NULL THEN
             (SELECT count(*) FROM cloacina_attempts AS attempt
              WHERE attempt.tenant = turn.tenant AND ended_at IS NULL) END AS free LIMIT 1) AS free
     CROSS JOIN LATERAL (
         WITH RECURSIVE head AS (
             (SELECT workflow, is_start FROM cloacina_queue
              WHERE due_at IS NULL AND tenant = turn.tenant AND (free.free IS NULL OR free.free > 0)
              ORDER BY workflow, is_start LIMIT 1)
             UNION ALL
             SELECT next.workflow, next.is_start FROM head CROSS JOIN LATERAL (
                 SELECT workflow, is_start FROM cloacina_queue
                 WHERE due_at IS NULL AND tenant = turn.tenant AND (workflow, is_start) > (head.workflow, head.is_start)
                 ORDER BY workflow, is_start LIMIT 1) AS next
         )
         SELECT entry.execution, CASE WHEN head.is_start THEN NULL ELSE entry.task END AS task, entry.created_at
         FROM head
         CROSS JOIN LATERAL (
             SELECT FROM cloacina_workflows
             WHERE tenant = turn.tenant AND name = head.workflow AND NOT is_paused LIMIT 1) AS workflow
         CROSS JOIN LATERAL (
             SELECT execution, task, created_at, max_running FROM cloacina_queue
             WHERE tenant = turn.tenant AND workflow = head.workflow AND is_start = head.is_start
               AND due_at IS NULL AND ($1 OR timeline = $2) AND execution <> ALL($5::uuid[])
             ORDER BY created_at, execution, task LIMIT $6) AS entry
         WHERE NOT head.is_start OR entry.max_running IS NULL OR entry.max_running > (
             SELECT count(*) FROM (
                 SELECT FROM cloacina_executions AS running
                 WHERE running.tenant = turn.tenant AND running.workflow = head.workflow AND running.status = 'Running'
                 LIMIT entry.max_running) AS counted)
         ORDER BY entry.created_at, entry.execution, entry.task LIMIT $6) AS entry
     LIMIT $7";

/// What may start, of as many tenants as are needed.
///
/// # Errors
/// See `StoreError`.
pub fn candidates(store: &Store, sought: &Sought, until: Instant) -> Result<Found, StoreError> {
    store.read(until, |session| {
        let values: &[&(dyn ToSql + Sync)] = &[
            &sought.all_have_said,
            &sought.timeline,
            &sought.last_tenant,
            &sought.full_tenants,
            &sought.put_off,
            &(sought.most_of_tenant as i64),
            &MOST,
        ];
        let rows = session.query(CANDIDATES, values)?;
        let is_all = (rows.len() as i64) < MOST;
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
        let mut candidates = rows.iter().map(candidate).collect::<Result<Vec<_>, postgres::Error>>()?;
        candidates.sort_by_key(|candidate| (candidate.created_at, candidate.execution, candidate.task));
        Ok(Found { candidates, is_all })
    })
}
