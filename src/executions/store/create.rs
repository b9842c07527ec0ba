//! Makes an execution.

use std::num::NonZeroUsize;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use time::OffsetDateTime;
use uuid::Uuid;

use super::locked::manifest;
use super::timeline;
use crate::auth::Tenant;
use crate::store::{Committed, Store, StoreError, Transaction};
use crate::workflows::manifest::Manifest;
use crate::workflows::names::{Version, WorkflowName};

/// Where a tenant has nearly as many pending executions as it may have, its requests take turns. No more are made at the same
/// moment by those that do not.
const MOST_AT_ONCE: i64 = 1000;

/// Those that are pending are counted again when a part of the room that there was is used up, and after this time. Servers do
/// not know of each other: so many of them may use up a part each.
const SERVERS: i64 = 16;
const COUNT_AFTER: Duration = Duration::from_secs(1);
/// Tenants of which that is remembered.
const MOST_TENANTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// How many more a tenant may have here before they are counted.
struct Room {
    limit: i64,
    left: i64,
    until: Instant,
}

static ROOM: LazyLock<Mutex<LruCache<Uuid, Room>>> =
    LazyLock::new(|| Mutex::new(LruCache::new(MOST_TENANTS)));

/// What is to be run.
#[derive(Debug)]
pub struct NewExecution<'a> {
    pub tenant: &'a Tenant,
    pub workflow: &'a WorkflowName,
    /// `None`: the highest release.
    pub version: Option<&'a Version>,
    /// Not before.
    pub run_at: Option<OffsetDateTime>,
    /// A JSON object, as its client wrote it.
    pub context: &'a str,
    pub idempotency: Option<Idempotency<'a>>,
}

/// What makes a request that is sent twice one.
#[derive(Debug)]
pub struct Idempotency<'a> {
    pub key: &'a str,
    /// Of the request's body, in hex.
    pub body_sha256: &'a str,
}

/// What a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    New(Uuid),
    /// An earlier request with its key made this one.
    Known(Uuid),
}

/// Why none was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    NoWorkflow,
    NoVersion,
    /// No version was asked for, and there are only pre-releases.
    NoRelease,
    /// No server runs tasks; why the hosts that there are do not.
    NoHost(Option<String>),
    /// As many wait as the tenant may have.
    TooManyPending(i64),
    /// An earlier request had the same idempotency key and another body.
    OtherBody,
    /// The tenant was removed meanwhile.
    NoTenant,
    /// What is kept of the version is not read any more, which the log says.
    Unreadable,
}

/// A key is new, or older than a day; else nothing comes back.
const TAKE_KEY: &str =
    "INSERT INTO cloacina_idempotency_keys AS known (tenant, workflow, key, body_sha256, execution)
     VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (tenant, workflow, key) DO UPDATE
     SET body_sha256 = excluded.body_sha256, execution = excluded.execution, created_at = clock_timestamp()
     WHERE known.created_at < clock_timestamp() - interval '1 day'
     RETURNING true";
const KNOWN_KEY: &str = "SELECT execution, body_sha256 FROM cloacina_idempotency_keys
     WHERE tenant = $1 AND workflow = $2 AND key = $3";
/// Nor may the tenant be removed.
const LIMIT: &str = "SELECT max_pending_executions FROM cloacina_tenants
     WHERE id = $1 AND removed_at IS NULL FOR KEY SHARE";
const LIMIT_IN_TURN: &str = "SELECT max_pending_executions FROM cloacina_tenants
     WHERE id = $1 AND removed_at IS NULL FOR NO KEY UPDATE";
const PENDING: &str = "SELECT count(*) FROM (
         SELECT FROM cloacina_executions WHERE tenant = $1 AND status = 'Pending' LIMIT $2) AS pending";
/// The version may not be deleted before the end of the transaction.
const RELEASE: &str = "SELECT version FROM cloacina_packages
     WHERE tenant = $1 AND name = $2 AND deleted_at IS NULL AND NOT is_pre_release
     ORDER BY precedence DESC LIMIT 1 FOR KEY SHARE";
const VERSION: &str = "SELECT version FROM cloacina_packages
     WHERE tenant = $1 AND name = $2 AND version = $3 AND deleted_at IS NULL FOR KEY SHARE";
const ANY_VERSION: &str =
    "SELECT FROM cloacina_packages WHERE tenant = $1 AND name = $2 AND deleted_at IS NULL LIMIT 1";
const HOSTS: &str = "SELECT count(*) FILTER (WHERE obstacle IS NULL), max(obstacle)
     FROM cloacina_hosts WHERE slots > 0 AND forgotten_at IS NULL";
const INSERT: &str = concat!(
    "WITH execution AS (
         INSERT INTO cloacina_executions (id, tenant, workflow, version, context, run_at, last_event, timeline)
         SELECT $1, $2, $3, $4, $5, $6, cardinality($8::text[]), ",
    timeline!(),
    " RETURNING created_at, timeline
     ), tasks AS (
         INSERT INTO cloacina_tasks (execution, number, id, dependencies)
         SELECT $1, position - 1, id, dependencies::int[]
         FROM unnest($8::text[], $9::text[]) WITH ORDINALITY AS task (id, dependencies, position)
     ), events AS (
         INSERT INTO cloacina_events (execution, number, event_type, event_data)
         SELECT $1, position, 'task_created', '{\"task\":' || to_json(id)::text || '}'
         FROM unnest($8::text[]) WITH ORDINALITY AS task (id, position)
     )
     INSERT INTO cloacina_queue (tenant, workflow, is_start, created_at, execution, task, due_at, max_running, timeline)
     SELECT $2, $3, true, created_at, $1, -1, CASE WHEN $6 > clock_timestamp() THEN $6::timestamptz END, $7, timeline
     FROM execution"
);

/// Makes an execution, with its first events and its row in the queue: all of it, or nothing.
///
/// # Errors
/// See `StoreError`.
pub fn create(
    store: &Store,
    new: &NewExecution<'_>,
    until: Instant,
) -> Result<Result<Committed<Created>, Refusal>, StoreError> {
    store.transact(until, |transaction| create_in(transaction, new))
}

fn create_in(
    transaction: &mut Transaction<'_>,
    new: &NewExecution<'_>,
) -> Result<Result<Created, Refusal>, postgres::Error> {
    let (id, tenant, workflow) = (Uuid::new_v4(), new.tenant.id(), new.workflow.as_str());
    // Whatever has changed since the first request, the same one has the same answer.
    if let Some(known) = take_key(transaction, new, id)? {
        return Ok(known);
    }
    if let Some(refusal) = refusal_by_tenant(transaction, tenant)? {
        return Ok(Err(refusal));
    }
    let version = match version(transaction, new)? {
        Ok(version) => version,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let hosts = transaction.query_one(HOSTS, &[])?;
    if hosts.try_get::<_, i64>(0)? == 0 {
        return Ok(Err(Refusal::NoHost(hosts.try_get(1)?)));
    }
    let Some(manifest) = manifest(transaction, tenant, workflow, &version)? else {
        return Ok(Err(Refusal::Unreadable));
    };
    let max_running = manifest.max_running.map(|most| i32::try_from(most).unwrap_or(i32::MAX));
    let ids: Vec<&str> = manifest.tasks.iter().map(|task| task.id.as_str()).collect();
    let dependencies = dependencies(&manifest);
    transaction.execute(
        INSERT,
        &[&id, &tenant, &workflow, &version, &new.context, &new.run_at, &max_running, &ids, &dependencies],
    )?;
    Ok(Ok(Created::New(id)))
}

/// What an earlier request with the same key came to.
fn take_key(
    transaction: &mut Transaction<'_>,
    new: &NewExecution<'_>,
    id: Uuid,
) -> Result<Option<Result<Created, Refusal>>, postgres::Error> {
    let Some(Idempotency { key, body_sha256 }) = &new.idempotency else { return Ok(None) };
    let (tenant, workflow) = (new.tenant.id(), new.workflow.as_str());
    if transaction.query_opt(TAKE_KEY, &[&tenant, &workflow, key, body_sha256, &id])?.is_some() {
        return Ok(None);
    }
    let row = transaction.query_one(KNOWN_KEY, &[&tenant, &workflow, key])?;
    let is_same = row.try_get::<_, &str>(1)? == *body_sha256;
    Ok(Some(if is_same { Ok(Created::Known(row.try_get(0)?)) } else { Err(Refusal::OtherBody) }))
}

fn refusal_by_tenant(
    transaction: &mut Transaction<'_>,
    tenant: Uuid,
) -> Result<Option<Refusal>, postgres::Error> {
    for (limit, margin) in [(LIMIT, MOST_AT_ONCE), (LIMIT_IN_TURN, 0)] {
        let Some(row) = transaction.query_opt(limit, &[&tenant])? else {
            return Ok(Some(Refusal::NoTenant));
        };
        let Some(limit) = row.try_get::<_, Option<i64>>(0)? else { return Ok(None) };
        if takes_room(tenant, limit) {
            return Ok(None);
        }
        let pending: i64 = transaction.query_one(PENDING, &[&tenant, &limit])?.try_get(0)?;
        let left = limit.saturating_sub(pending.saturating_add(margin));
        if left > 0 {
            let room = Room { limit, left: left / SERVERS, until: Instant::now() + COUNT_AFTER };
            if margin > 0 {
                ROOM.lock().put(tenant, room);
            }
            return Ok(None);
        }
        if margin == 0 {
            return Ok(Some(Refusal::TooManyPending(limit)));
        }
    }
    Ok(None)
}

/// Whether there is room for one more that was found when they were counted last.
fn takes_room(tenant: Uuid, limit: i64) -> bool {
    let mut rooms = ROOM.lock();
    let Some(room) = rooms.get_mut(&tenant).filter(|room| room.limit == limit && room.left > 0) else {
        return false;
    };
    room.left -= 1;
    Instant::now() < room.until
}

fn version(
    transaction: &mut Transaction<'_>,
    new: &NewExecution<'_>,
) -> Result<Result<String, Refusal>, postgres::Error> {
    let (tenant, workflow) = (new.tenant.id(), new.workflow.as_str());
    let row = match new.version {
        Some(version) => transaction.query_opt(VERSION, &[&tenant, &workflow, &version.to_string()])?,
        None => transaction.query_opt(RELEASE, &[&tenant, &workflow])?,
    };
    if let Some(row) = row {
        return Ok(Ok(row.try_get(0)?));
    }
    let has_versions = transaction.query_opt(ANY_VERSION, &[&tenant, &workflow])?.is_some();
    Ok(Err(match (has_versions, new.version) {
        (false, _) => Refusal::NoWorkflow,
        (true, Some(_)) => Refusal::NoVersion,
        (true, None) => Refusal::NoRelease,
    }))
}

/// Of each task, as an array that PostgreSQL reads.
fn dependencies(manifest: &Manifest) -> Vec<String> {
    let of_task = |task: usize| {
        let numbers: Vec<_> = manifest.graph.dependencies(task).iter().map(usize::to_string).collect();
        format!("{{{}}}", numbers.join(","))
    };
    (0..manifest.tasks.len()).map(of_task).collect()
}
