//! What may start, and how a host takes it: under the lock of the execution's row, so that no two hosts take the same.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use time::OffsetDateTime;
use uuid::Uuid;

use super::context;
use super::locked::{IfLocked, LockedExecution, LockedRow};
use super::timeline;
use crate::engine::graph::{AttemptOutcome, Context, TaskState};
use crate::executions::ExecutionStatus;
use crate::store::{Store, StoreError, Transaction};
use crate::workflows::manifest::Manifest;

/// Entries of one workflow that are looked at at once.
const MOST_OF_WORKFLOW: i64 = 64;

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

/// The host that claims.
#[derive(Debug, Clone)]
pub struct ClaimingHost {
    pub id: Uuid,
    pub name: String,
    pub boot: Uuid,
    /// Of its server, whose claims end where another one speaks for the host.
    pub session: Uuid,
}

/// An attempt that a host has claimed, with all that it takes to start it.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub attempt: Uuid,
    pub tenant: Uuid,
    pub tenant_name: String,
    pub execution: Uuid,
    pub manifest: Arc<Manifest>,
    /// Of the manifest.
    pub task: usize,
    /// Of this task in this execution, from 1.
    pub number: u32,
    pub context: Context,
    /// The package's row, and the hash of its archive in hex.
    pub package: Uuid,
    pub package_sha256: String,
    /// Further directories that the tenant's tasks may read, and those that they may write as well.
    pub readable: Vec<PathBuf>,
    pub writable: Vec<PathBuf>,
    pub scratch_limit_bytes: Option<u64>,
}

/// What a claim came to.
#[derive(Debug)]
pub enum Claim {
    /// Another transaction has the lock of the execution.
    Locked,
    /// Nothing of it may start, or not here.
    Nothing,
    /// These attempts are this host's; none, where all of it was skipped.
    Claimed(Vec<Claimed>),
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
const HOST: &str =
    "SELECT FROM cloacina_hosts WHERE id = $1 AND session = $2 AND forgotten_at IS NULL FOR SHARE";
const START: &str =
    "SELECT max_running FROM cloacina_queue WHERE execution = $1 AND task = -1 AND due_at IS NULL";
const IS_PAUSED: &str = "SELECT is_paused FROM cloacina_workflows WHERE tenant = $1 AND name = $2";
/// Of those that start while the number of running ones is limited, one at a time.
const WORKFLOW_IN_TURN: &str =
    "SELECT FROM cloacina_workflows WHERE tenant = $1 AND name = $2 FOR NO KEY UPDATE";
const RUNNING_OF_WORKFLOW: &str = "SELECT count(*) FROM (
         SELECT FROM cloacina_executions WHERE tenant = $1 AND workflow = $2 AND status = 'Running' LIMIT $3) AS running";
const TENANT: &str = "SELECT name, max_running_tasks, max_scratch_bytes, paths::text
     FROM cloacina_tenants WHERE id = $1 AND removed_at IS NULL";
const TENANT_IN_TURN: &str = "SELECT FROM cloacina_tenants WHERE id = $1 FOR NO KEY UPDATE";
const RUNNING_OF_TENANT: &str =
    "SELECT count(*) FROM cloacina_attempts WHERE tenant = $1 AND ended_at IS NULL";
const PACKAGE: &str = "SELECT id, sha256 FROM cloacina_packages
     WHERE tenant = $1 AND name = $2 AND version = $3 AND deleted_at IS NULL";
const TAKE: &str =
    "DELETE FROM cloacina_queue WHERE execution = $1 AND task = ANY($2) AND due_at IS NULL RETURNING task";
const INSERT: &str = concat!(
    "INSERT INTO cloacina_attempts (id, tenant, execution, task, number, host, boot, timeline)
     SELECT id, $1, $2, task, number, $3, $4, ",
    timeline!(),
    " FROM unnest($5::uuid[], $6::int[], $7::int[]) AS new (id, task, number)"
);

/// What may start, the oldest first. `timeline`: entries that were written since the database got it, unless all hosts have
/// said since then what they run.
///
/// # Errors
/// See `StoreError`.
pub fn candidates(
    store: &Store,
    timeline: i64,
    all_have_said: bool,
    until: Instant,
) -> Result<Vec<Candidate>, StoreError> {
    store.read(until, |session| {
        let rows = session.query(CANDIDATES, &[&MOST_OF_WORKFLOW, &all_have_said, &timeline])?;
        let candidate = |row: &postgres::Row| {
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

/// Takes tasks of an execution: its first ones, where it has not started, else those of these that are still to be had; no
/// more than `most`.
///
/// # Errors
/// See `StoreError`.
pub fn claim(
    store: &Store,
    host: &ClaimingHost,
    execution: Uuid,
    tasks: &[usize],
    most: usize,
    until: Instant,
) -> Result<Claim, StoreError> {
    let outcome = store.transact(until, |transaction| {
        let Some(row) = LockedRow::lock(transaction, execution, None, IfLocked::Skip)? else {
            return Ok(Err(Claim::Locked));
        };
        claim_locked(transaction, host, row, tasks, most)
    })?;
    Ok(outcome.map_or_else(|none| none, |claimed| Claim::Claimed(claimed.value)))
}

fn claim_locked(
    transaction: &mut Transaction<'_>,
    host: &ClaimingHost,
    row: LockedRow,
    tasks: &[usize],
    most: usize,
) -> Result<Result<Vec<Claimed>, Claim>, postgres::Error> {
    let nothing = Ok(Err(Claim::Nothing));
    if row.status.has_ended() || row.is_cancelled {
        return nothing;
    }
    if transaction.query_opt(HOST, &[&host.id, &host.session])?.is_none() {
        return nothing;
    }
    let paused = transaction.query_opt(IS_PAUSED, &[&row.tenant, &row.workflow])?;
    if paused.map_or(Ok(true), |row| row.try_get(0))? {
        return nothing;
    }
    let Some(of_tenant) = OfTenant::read(transaction, row.tenant)? else { return nothing };
    let most = of_tenant.free.map_or(most, |free| most.min(free));
    if most == 0 || row.status == ExecutionStatus::Pending && !may_start(transaction, &row)? {
        return nothing;
    }
    let package = transaction.query_opt(PACKAGE, &[&row.tenant, &row.workflow, &row.version])?;
    let Some(package) = package else { return nothing };
    let package = (package.try_get(0)?, package.try_get(1)?);
    let Some(mut execution) = row.load(transaction)? else { return nothing };
    let wanted = match execution.row.status {
        ExecutionStatus::Pending => {
            execution.start(transaction)?;
            execution.ready.iter().map(|(task, _)| *task).take(most).collect()
        }
        _ => take(transaction, &execution, &tasks[..most.min(tasks.len())])?,
    };
    let mut claimed = Vec::new();
    for task in wanted {
        claimed.extend(claim_task(transaction, host, &mut execution, task, &of_tenant, &package)?);
    }
    insert(transaction, host, &execution, &claimed)?;
    execution.decide(transaction)?;
    execution.save(transaction)?;
    Ok(Ok(claimed))
}

/// Whether an execution that is pending may start now.
fn may_start(transaction: &mut Transaction<'_>, row: &LockedRow) -> Result<bool, postgres::Error> {
    let Some(start) = transaction.query_opt(START, &[&row.id])? else { return Ok(false) };
    let Some(max_running) = start.try_get::<_, Option<i32>>(0)? else { return Ok(true) };
    transaction.query_opt(WORKFLOW_IN_TURN, &[&row.tenant, &row.workflow])?;
    let most = i64::from(max_running);
    let running = transaction.query_one(RUNNING_OF_WORKFLOW, &[&row.tenant, &row.workflow, &most])?;
    Ok(running.try_get::<_, i64>(0)? < most)
}

/// Takes tasks out of the queue: those that were still there, and are ready.
fn take(
    transaction: &mut Transaction<'_>,
    execution: &LockedExecution,
    tasks: &[usize],
) -> Result<Vec<usize>, postgres::Error> {
    let numbers: Vec<i32> = tasks.iter().map(|task| *task as i32).collect();
    let mut taken = Vec::new();
    for row in transaction.query(TAKE, &[&execution.row.id, &numbers])? {
        let task = row.try_get::<_, i32>(0)? as usize;
        if execution.state(task) == TaskState::Ready {
            taken.push(task);
        }
    }
    taken.sort_unstable();
    Ok(taken)
}

/// What a tenant's tasks get, and how many of them may start.
struct OfTenant {
    name: String,
    free: Option<usize>,
    scratch_limit_bytes: Option<u64>,
    readable: Vec<PathBuf>,
    writable: Vec<PathBuf>,
}

impl OfTenant {
    fn read(transaction: &mut Transaction<'_>, tenant: Uuid) -> Result<Option<OfTenant>, postgres::Error> {
        let Some(row) = transaction.query_opt(TENANT, &[&tenant])? else { return Ok(None) };
        let free = match row.try_get::<_, Option<i64>>(1)? {
            None => None,
            Some(most) => {
                transaction.query_opt(TENANT_IN_TURN, &[&tenant])?;
                let running: i64 = transaction.query_one(RUNNING_OF_TENANT, &[&tenant])?.try_get(0)?;
                Some(usize::try_from(most - running).unwrap_or(0))
            }
        };
        let scratch: Option<i64> = row.try_get(2)?;
        let paths: serde_json::Value = serde_json::from_str(row.try_get(3)?).unwrap_or_default();
        let of_access = |wanted: &str| {
            let paths = paths.as_object().into_iter().flatten();
            paths.filter(|(_, access)| *access == wanted).map(|(path, _)| PathBuf::from(path)).collect()
        };
        Ok(Some(OfTenant {
            name: row.try_get(0)?,
            free,
            scratch_limit_bytes: scratch.map(i64::unsigned_abs),
            readable: of_access("r"),
            writable: of_access("rw"),
        }))
    }
}

/// Claims one task, or writes down why it cannot run: then there is nothing to start.
fn claim_task(
    transaction: &mut Transaction<'_>,
    host: &ClaimingHost,
    execution: &mut LockedExecution,
    task: usize,
    of_tenant: &OfTenant,
    (package, package_sha256): &(Uuid, String),
) -> Result<Option<Claimed>, postgres::Error> {
    let (id, manifest) = (execution.row.id, Arc::clone(&execution.manifest));
    let context = context::of_attempt(transaction, id, &manifest.graph, &execution.tasks, task)?;
    let Some(context) = context else {
        let why =
            format!("its context, with the outputs upstream, has more than {} bytes", context::MOST_BYTES);
        execution.fail_unclaimed(task, why);
        return Ok(None);
    };
    let attempt = Uuid::new_v4();
    let Some(number) = execution.claim(task, attempt, &host.name) else { return Ok(None) };
    Ok(Some(Claimed {
        attempt,
        tenant: execution.row.tenant,
        tenant_name: of_tenant.name.clone(),
        execution: id,
        manifest,
        task,
        number: number.unsigned_abs(),
        context,
        package: *package,
        package_sha256: package_sha256.clone(),
        readable: of_tenant.readable.clone(),
        writable: of_tenant.writable.clone(),
        scratch_limit_bytes: of_tenant.scratch_limit_bytes,
    }))
}

fn insert(
    transaction: &mut Transaction<'_>,
    host: &ClaimingHost,
    execution: &LockedExecution,
    claimed: &[Claimed],
) -> Result<(), postgres::Error> {
    if claimed.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = claimed.iter().map(|claimed| claimed.attempt).collect();
    let tasks: Vec<i32> = claimed.iter().map(|claimed| claimed.task as i32).collect();
    let numbers: Vec<i32> = claimed.iter().map(|claimed| claimed.number as i32).collect();
    let row = &execution.row;
    transaction.execute(INSERT, &[&row.tenant, &row.id, &host.id, &host.boot, &ids, &tasks, &numbers])?;
    Ok(())
}

impl LockedExecution {
    /// A task that is ready has failed without an attempt.
    fn fail_unclaimed(&mut self, task: usize, why: String) {
        if self.progress.started(task).is_err() {
            return;
        }
        self.ready.retain(|(ready, _)| *ready != task);
        self.tasks[task].error = Some(why);
        self.task_ended(task, AttemptOutcome::Failed, "task_failed");
    }
}
