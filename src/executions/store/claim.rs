//! How a host takes what may start: under the lock of the execution's row, so that no two hosts take the same.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::Row;
use postgres::types::ToSql;
use uuid::Uuid;

use super::context::{self, NoContext};
use super::locked::{LockedExecution, LockedRow};
use super::of_tenant::OfTenant;
use super::save::Ends;
use super::timeline;
use super::unread;
use crate::engine::graph::{Context, TaskState};
use crate::executions::ExecutionStatus;
use crate::store::{Committed, Store, StoreError, Transaction};
use crate::workflows::manifest::Manifest;

/// The host that claims.
#[derive(Debug, Clone)]
pub struct ClaimingHost {
    pub id: Uuid,
    pub name: String,
    pub boot: Uuid,
    /// Of its server, whose claims end where another one speaks for the host.
    pub session: Uuid,
}

/// What is to be claimed of one execution.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub execution: Uuid,
    /// Those of them that are still to be had; of an execution that has not started its first ones instead.
    pub tasks: &'a [usize],
    pub most: usize,
    /// Of the database, when that was decided.
    pub timeline: i64,
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
    /// Since it could have started.
    pub waited: Duration,
}

/// What a claim came to.
#[derive(Debug)]
pub enum Claim {
    /// Another transaction has the lock of the execution; or nothing of it may start here any more.
    Locked,
    /// Nothing of it may start, or not here.
    Nothing,
    /// These attempts are this host's; none, where all of it was skipped.
    Claimed(Vec<Claimed>),
}

/// An execution that this host may claim something of, as it stands, unless another transaction has it. The host has said
/// what it runs on the timeline that the claim was decided on, which is still the database's. Out of turn only where nothing
/// else of its tenant is ready.
const LOCK: &str = concat!(
    "SELECT execution.tenant, execution.workflow, execution.version, execution.status, execution.is_cancelled,
            execution.created_at, execution.last_event,
            tenant.name, tenant.max_running_tasks, tenant.max_scratch_bytes, tenant.paths::text, package.id, package.sha256,
            execution.context
     FROM cloacina_executions AS execution
     JOIN cloacina_hosts AS host ON host.id = $2 AND host.session = $3 AND host.forgotten_at IS NULL
         AND host.timeline = $4 AND $4 = ",
    timeline!(),
    " JOIN cloacina_workflows AS workflow ON workflow.tenant = execution.tenant AND workflow.name = execution.workflow
         AND NOT workflow.is_paused
     JOIN cloacina_tenants AS tenant ON tenant.id = execution.tenant AND tenant.removed_at IS NULL
     JOIN cloacina_packages AS package ON package.tenant = execution.tenant AND package.name = execution.workflow
         AND package.version = execution.version AND package.deleted_at IS NULL
     WHERE execution.id = $1
         AND ($5 OR NOT EXISTS (SELECT FROM cloacina_queue WHERE tenant = execution.tenant AND due_at IS NULL))
     FOR UPDATE OF execution SKIP LOCKED FOR SHARE OF host"
);
const START: &str =
    "SELECT max_running, EXTRACT(epoch FROM clock_timestamp() - ready_at)::float8 FROM cloacina_queue
     WHERE execution = $1 AND task = -1 AND due_at IS NULL";
/// Of those that start while the number of running ones is limited, one at a time.
const WORKFLOW_IN_TURN: &str =
    "SELECT FROM cloacina_workflows WHERE tenant = $1 AND name = $2 FOR NO KEY UPDATE";
const RUNNING_OF_WORKFLOW: &str = "SELECT count(*) FROM (
         SELECT FROM cloacina_executions WHERE tenant = $1 AND workflow = $2 AND status = 'Running' LIMIT $3) AS running";
const TAKE: &str = "DELETE FROM cloacina_queue WHERE execution = $1 AND task = ANY($2) AND due_at IS NULL
     RETURNING task, EXTRACT(epoch FROM clock_timestamp() - ready_at)::float8";
const INSERT: &str = concat!(
    "INSERT INTO cloacina_attempts (id, tenant, execution, task, number, host, boot, timeline)
     SELECT id, $1, $2, task, number, $3, $4, ",
    timeline!(),
    " FROM unnest($5::uuid[], $6::int[], $7::int[]) AS new (id, task, number)"
);

/// Takes tasks of an execution.
///
/// # Errors
/// See `StoreError`.
pub fn claim(
    store: &Store,
    host: &ClaimingHost,
    wanted: &Wanted<'_>,
    until: Instant,
) -> Result<Claim, StoreError> {
    let outcome = store.transact(until, |transaction| {
        let row = lock(transaction, host, wanted.execution, wanted.timeline, true)?;
        let Some(row) = row else { return Ok(Err(Claim::Locked)) };
        claim_locked(transaction, host, &row, wanted)
    })?;
    Ok(outcome.map_or_else(
        |none| none,
        |Committed { value: (claimed, ends), .. }| {
            ends.count(store);
            Claim::Claimed(claimed)
        },
    ))
}

pub(super) fn lock(
    transaction: &mut Transaction<'_>,
    host: &ClaimingHost,
    execution: Uuid,
    timeline: i64,
    is_in_turn: bool,
) -> Result<Option<Row>, postgres::Error> {
    let values: &[&(dyn ToSql + Sync)] = &[&execution, &host.id, &host.session, &timeline, &is_in_turn];
    transaction.query_opt(LOCK, values)
}

fn claim_locked(
    transaction: &mut Transaction<'_>,
    host: &ClaimingHost,
    row: &Row,
    wanted: &Wanted<'_>,
) -> Result<Result<(Vec<Claimed>, Ends), Claim>, postgres::Error> {
    let nothing = Ok(Err(Claim::Nothing));
    let of_tenant = OfTenant::read(transaction, row)?;
    let context = row.try_get(13)?;
    let row = LockedRow::of(wanted.execution, row)?;
    if row.status.has_ended() || row.is_cancelled {
        return nothing;
    }
    let most = of_tenant.free.map_or(wanted.most, |free| wanted.most.min(free));
    if most == 0 {
        return nothing;
    }
    let mut start_waited = Duration::ZERO;
    if row.status == ExecutionStatus::Pending {
        let Some(waited) = may_start(transaction, &row)? else { return nothing };
        start_waited = waited;
    }
    let mut execution = match row.load(transaction)? {
        Ok(execution) => execution,
        // Else it would stand before all others of its workflow for ever.
        Err(row) => {
            let (_, ends) = unread::end(transaction, &row, false)?;
            return Ok(Ok((Vec::new(), ends)));
        }
    };
    execution.contexts.own = Some(context);
    let tasks = match execution.row.status {
        ExecutionStatus::Pending => {
            execution.start(transaction)?;
            execution.ready.iter().map(|(task, _)| (*task, start_waited)).take(most).collect()
        }
        _ => take(transaction, &execution, &wanted.tasks[..most.min(wanted.tasks.len())])?,
    };
    let mut claimed = Vec::new();
    for (task, waited) in tasks {
        let new = claim_task(transaction, host, &mut execution, task, &of_tenant)?;
        claimed.extend(new.map(|claimed| Claimed { waited, ..claimed }));
    }
    insert(transaction, host, &execution, &claimed)?;
    execution.decide(transaction)?;
    Ok(Ok((claimed, execution.save(transaction)?)))
}

/// For how long an execution that is pending has waited, if it may start now.
fn may_start(
    transaction: &mut Transaction<'_>,
    row: &LockedRow,
) -> Result<Option<Duration>, postgres::Error> {
    let Some(start) = transaction.query_opt(START, &[&row.id])? else { return Ok(None) };
    let waited = waited(&start)?;
    let Some(max_running) = start.try_get::<_, Option<i32>>(0)? else { return Ok(Some(waited)) };
    transaction.query_opt(WORKFLOW_IN_TURN, &[&row.tenant, &row.workflow])?;
    let most = i64::from(max_running);
    let running = transaction.query_one(RUNNING_OF_WORKFLOW, &[&row.tenant, &row.workflow, &most])?;
    Ok((running.try_get::<_, i64>(0)? < most).then_some(waited))
}

/// How long ago an entry became ready, from the second column of a row. The database's clock may have been set back.
fn waited(row: &postgres::Row) -> Result<Duration, postgres::Error> {
    Ok(Duration::try_from_secs_f64(row.try_get(1)?).unwrap_or(Duration::ZERO))
}

/// Takes tasks out of the queue: those that were still there, and are ready, each with the time that it waited.
fn take(
    transaction: &mut Transaction<'_>,
    execution: &LockedExecution,
    tasks: &[usize],
) -> Result<Vec<(usize, Duration)>, postgres::Error> {
    let numbers: Vec<i32> = tasks.iter().map(|task| *task as i32).collect();
    let mut taken = Vec::new();
    for row in transaction.query(TAKE, &[&execution.row.id, &numbers])? {
        let task = row.try_get::<_, i32>(0)? as usize;
        if execution.state(task) == TaskState::Ready {
            taken.push((task, waited(&row)?));
        }
    }
    taken.sort_unstable();
    Ok(taken)
}

/// Claims one task, or writes down why it cannot run: then there is nothing to start.
pub(super) fn claim_task(
    transaction: &mut Transaction<'_>,
    host: &ClaimingHost,
    execution: &mut LockedExecution,
    task: usize,
    of_tenant: &OfTenant,
) -> Result<Option<Claimed>, postgres::Error> {
    let (id, manifest) = (execution.row.id, Arc::clone(&execution.manifest));
    let secrets = &manifest.tasks[task].secrets;
    if !secrets.is_empty() {
        // It would run without them, and perhaps do what it must not.
        execution
            .fail_unclaimed(task, format!("it needs secrets that are not there: {}", secrets.join(", ")));
        return Ok(None);
    }
    let of = context::Of { execution: id, graph: &manifest.graph, tasks: &execution.tasks };
    let context = match execution.contexts.of_attempt(transaction, of, task) {
        Ok(context) => context,
        Err(NoContext::TooLarge(why)) => {
            execution.fail_unclaimed(task, why);
            return Ok(None);
        }
        Err(NoContext::Later) => {
            execution.stays_ready(task);
            return Ok(None);
        }
        Err(NoContext::Database(error)) => return Err(error),
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
        package: of_tenant.package,
        package_sha256: of_tenant.package_sha256.clone(),
        readable: of_tenant.readable.clone(),
        writable: of_tenant.writable.clone(),
        scratch_limit_bytes: of_tenant.scratch_limit_bytes,
        waited: Duration::ZERO,
    }))
}

pub(super) fn insert(
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
