//! What goes by itself: executions that ended longer ago than their tenant keeps them, logs that are more than it may have,
//! and idempotency keys. Each call takes a few rows that no other server is at, by the database's clock.

use std::time::Instant;

use postgres::Transaction;
use time::OffsetDateTime;
use uuid::Uuid;

use super::removal::remove_rows;
use crate::store::{Store, StoreError};

/// No client waits for this, so it waits for no one that has locked a table.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '200ms'";
/// Pieces of logs in one transaction, each of which may be large.
const PIECES_AT_ONCE: i64 = 500;
/// Attempts whose logs are looked at in one.
const ATTEMPTS_AT_ONCE: i64 = 100;

// `now()` rather than `clock_timestamp()`, which no index can be asked by.
const TENANTS_WITH_OLD: &str = "SELECT tenant.id FROM cloacina_tenants AS tenant CROSS JOIN LATERAL (
         SELECT FROM cloacina_executions AS execution
         WHERE execution.tenant = tenant.id AND completed_at < now() - make_interval(secs => retention_seconds)
         ORDER BY completed_at LIMIT 1) AS old
     WHERE removed_at IS NULL";
const OLD: &str = "SELECT id, completed_at FROM cloacina_executions
     WHERE tenant = $1 AND completed_at >= COALESCE($2::timestamptz, '-infinity') AND completed_at < now() - make_interval(
         secs => (SELECT retention_seconds FROM cloacina_tenants WHERE id = $1))
     ORDER BY completed_at LIMIT $3 FOR UPDATE SKIP LOCKED";
/// Nothing finds them any more.
const HIDE: &str = "UPDATE cloacina_executions SET tenant = NULL WHERE id = ANY($1)";
const HIDDEN: &str =
    "SELECT id FROM cloacina_executions WHERE tenant IS NULL LIMIT $1 FOR UPDATE SKIP LOCKED";
const KEYS: &str = "DELETE FROM cloacina_idempotency_keys WHERE (tenant, workflow, key) IN (
         SELECT tenant, workflow, key FROM cloacina_idempotency_keys WHERE created_at < now() - interval '1 day'
         ORDER BY created_at LIMIT $1 FOR UPDATE SKIP LOCKED)";
const TENANTS_WITH_LIMIT: &str = "SELECT id, max_log_bytes FROM cloacina_tenants
     WHERE removed_at IS NULL AND max_log_bytes IS NOT NULL";
const LOG_BYTES: &str = "SELECT COALESCE(sum(log_kept_bytes), 0)::bigint FROM cloacina_attempts
     WHERE tenant = $1 AND log_kept_bytes > 0";
/// An execution is looked up for each attempt in turn, and never all of them.
const WITH_LOG: &str = "SELECT id, ended_at, log_kept_bytes FROM cloacina_attempts AS attempt
     WHERE tenant = $1 AND log_kept_bytes > 0 AND ended_at >= COALESCE($2::timestamptz, '-infinity') AND ($3 OR (
         SELECT completed_at FROM cloacina_executions WHERE id = attempt.execution) IS NOT NULL)
     ORDER BY ended_at LIMIT $4 FOR UPDATE SKIP LOCKED";
const PIECES: &str = "DELETE FROM cloacina_log_pieces WHERE attempt = $1 AND at IN (
         SELECT at FROM cloacina_log_pieces WHERE attempt = $1 ORDER BY at LIMIT $2)";
const HAS_NO_LOG: &str = "UPDATE cloacina_attempts SET log_kept_bytes = 0 WHERE id = $1";

/// Whose executions' logs may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    OfEnded,
    /// Those too of executions that run, though of no attempt that does.
    OfAll,
}

/// Where to go on: what is before is done, or another server is at it. `None`: there is nothing more.
pub type Next = Option<Option<OffsetDateTime>>;

/// Tenants that have executions which they keep no longer.
///
/// # Errors
/// See `StoreError`; so for all of these.
pub fn tenants_with_old(store: &Store, until: Instant) -> Result<Vec<Uuid>, StoreError> {
    store.read(until, |session| {
        session.query(TENANTS_WITH_OLD, &[])?.iter().map(|row| row.try_get(0)).collect()
    })
}

/// Removes some of a tenant's executions that it keeps no longer: how many, and where to go on. Where that is too much for
/// one transaction, `remove_hidden` removes the rest of them.
pub fn remove_old(
    store: &Store,
    tenant: Uuid,
    after: Option<OffsetDateTime>,
    most: i64,
    until: Instant,
) -> Result<(usize, Next), StoreError> {
    change(store, until, |transaction| {
        let rows = transaction.query(OLD, &[&tenant, &after, &most])?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let Some(last) = rows.last() else { return Ok((0, None)) };
        if !remove_rows(transaction, &ids)? {
            transaction.execute(HIDE, &[&ids])?;
        }
        Ok((ids.len(), Some(last.try_get(1)?)))
    })
}

/// Removes some more of executions of which a part is gone: whether there were any.
pub fn remove_hidden(store: &Store, most: i64, until: Instant) -> Result<bool, StoreError> {
    change(store, until, |transaction| {
        let rows = transaction.query(HIDDEN, &[&most])?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        if ids.is_empty() {
            return Ok(false);
        }
        remove_rows(transaction, &ids)?;
        Ok(true)
    })
}

/// Removes idempotency keys that are older than a day: how many.
pub fn remove_keys(store: &Store, most: i64, until: Instant) -> Result<u64, StoreError> {
    change(store, until, |transaction| transaction.execute(KEYS, &[&most]))
}

/// Tenants whose logs have a limit, and that.
pub fn tenants_with_limit(store: &Store, until: Instant) -> Result<Vec<(Uuid, i64)>, StoreError> {
    store.read(until, |session| {
        let rows = session.query(TENANTS_WITH_LIMIT, &[])?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    })
}

/// What is kept of a tenant's logs, but for attempts that run.
pub fn log_bytes(store: &Store, tenant: Uuid, until: Instant) -> Result<i64, StoreError> {
    store.read(until, |session| session.query_one(LOG_BYTES, &[&tenant])?.try_get(0))
}

/// Removes some of a tenant's logs, the oldest first, until so many bytes are gone: how many are, and where to go on.
pub fn remove_logs(
    store: &Store,
    tenant: Uuid,
    whose: Whose,
    after: Option<OffsetDateTime>,
    excess: i64,
    until: Instant,
) -> Result<(i64, Next), StoreError> {
    change(store, until, |transaction| {
        let with_log =
            transaction.query(WITH_LOG, &[&tenant, &after, &(whose == Whose::OfAll), &ATTEMPTS_AT_ONCE])?;
        let (mut gone, mut next, mut pieces_left) = (0, None, PIECES_AT_ONCE);
        for row in with_log {
            if gone >= excess {
                break;
            }
            let (attempt, kept): (Uuid, i64) = (row.try_get(0)?, row.try_get(2)?);
            next = Some(row.try_get(1)?);
            let removed = transaction.execute(PIECES, &[&attempt, &pieces_left])? as i64;
            pieces_left -= removed;
            if pieces_left == 0 {
                break;
            }
            transaction.execute(HAS_NO_LOG, &[&attempt])?;
            gone += kept;
        }
        Ok((gone, next))
    })
}

fn change<T>(
    store: &Store,
    until: Instant,
    change: impl Fn(&mut Transaction<'_>) -> Result<T, postgres::Error>,
) -> Result<T, StoreError> {
    let changed = store.write(until, |session| {
        let mut transaction = session.client.transaction()?;
        transaction.batch_execute(LOCK_TIMEOUT)?;
        let changed = change(&mut transaction)?;
        transaction.commit()?;
        Ok(changed)
    });
    changed.map(|committed| committed.value)
}
