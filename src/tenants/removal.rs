//! What a removal leaves for later: the objects, the role and the rows of removed tenants. Every server does it, one tenant
//! at a time, in small transactions, again and again until all is gone. The same thread renews the views.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::Transaction;
use postgres::error::{DbError, SqlState};
use uuid::Uuid;

use super::role::{has_role, has_schema, one_at_a_time, other_databases, removed_name};
use super::role_lock::roll_back_prepared;
use super::views;
use crate::app::App;
use crate::executions::store::removal as executions;
use crate::postgres_link::{end_sessions, quote_identifier};
use crate::store::{Cause, Store, StoreError};
use crate::workflows::store::removal::remove_some;

/// How often removed tenants are looked for, of which another server, or this one before, has not dropped everything.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How soon they are looked for again when a step failed: twice as long each time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How soon a command looks again at what another server is at.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// How long each statement may wait for a lock that a session has which has not ended yet.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '1s'";
/// Objects in one transaction: each is locked, and the lock table is shared by all.
const OBJECTS_AT_ONCE: i64 = 100;
/// Rows in one transaction.
const ROWS_AT_ONCE: i64 = 1000;

/// What is left of a tenant after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    Nothing,
    /// Another step may go on at once.
    More,
    /// Its role stays without login until nothing depends on it any more: in these databases, and as PostgreSQL says it.
    Role {
        databases: Vec<String>,
        why: String,
    },
    /// Another server is at it, or was.
    Taken,
    /// Tasks that run, which their hosts are to end first.
    Running,
}

/// A removed tenant of which something is left.
pub struct Unfinished {
    pub name: String,
    pub role: String,
    /// See `Left::Role`.
    pub databases: Vec<String>,
}

/// Runs until `stop` is set and it is unparked.
pub fn watch(app: &App, stop: &AtomicBool) {
    app.tenant_removal.wakes_this_thread();
    let mut known = Known::default();
    let mut again_after = AGAIN_AFTER;
    while !stop.load(Ordering::Acquire) {
        views::renew(&app.store, app.database_timeout);
        let is_done = finish_all(app, stop, &mut known).unwrap_or_else(|error| {
            log::debug!("cannot look for removed tenants: {error}");
            false
        });
        thread::park_timeout(if is_done { LOOK_EVERY } else { again_after });
        again_after = if is_done { AGAIN_AFTER } else { LOOK_EVERY.min(again_after * 2) };
    }
}

/// What earlier looks found.
#[derive(Default)]
struct Known {
    /// Tenants with which a step failed.
    failed: HashSet<Uuid>,
    /// Tenants of which the log has said already what is left, or why.
    named: HashSet<Uuid>,
}

/// Whether all was done that can be. A tenant with which a step fails keeps no other from being finished.
fn finish_all(app: &App, stop: &AtomicBool, known: &mut Known) -> Result<bool, StoreError> {
    let mut is_done = true;
    for (id, name) in removed(&app.store, Instant::now() + app.database_timeout)? {
        let mut left = Ok(Left::More);
        while matches!(left, Ok(Left::More)) && !stop.load(Ordering::Acquire) {
            left = finish(&app.store, id, Instant::now() + app.database_timeout);
        }
        match left {
            Ok(Left::Nothing) => log::info!(tenant = name; "all that a removed tenant had is dropped"),
            Ok(Left::Role { why, .. }) if known.named.insert(id) => log::warn!(
                tenant = name, role = removed_name(id), why = why;
                "the role of a removed tenant stays, without login, since something depends on it"
            ),
            Ok(Left::Running) => {
                is_done = false;
                app.execution_changes.committed();
            }
            Ok(Left::Role { .. } | Left::More | Left::Taken) => {}
            Err(error @ StoreError::Unavailable(Cause::NoSession(..))) => return Err(error),
            Err(error) => {
                is_done = false;
                log::debug!(tenant = name; "cannot drop what a removed tenant had: {error}");
                // The first time, a session that held a lock may not have ended yet.
                if !known.failed.insert(id) && known.named.insert(id) {
                    log::warn!(tenant = name; "cannot drop what a removed tenant had, and go on trying: {error}");
                }
            }
        }
    }
    Ok(is_done)
}

/// The tenants of which something is left.
fn removed(store: &Store, until: Instant) -> Result<Vec<(Uuid, String)>, StoreError> {
    store.read(until, |session| {
        let rows = session.query(
            // Any of them: those of which something stays must not keep others from their turn.
            "SELECT id, name FROM cloacina_tenants WHERE removed_at IS NOT NULL ORDER BY random() LIMIT 1000",
            &[],
        )?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    })
}

/// The same, with what is in the way.
///
/// # Errors
/// See `StoreError`; so for all of these.
pub fn unfinished(store: &Store, until: Instant) -> Result<Vec<Unfinished>, StoreError> {
    let removed = removed(store, until)?;
    store.read(until, |session| {
        let unfinished = |(id, name): &(Uuid, String)| {
            let role = removed_name(*id);
            let databases = other_databases(&mut session.client, &role)?;
            Ok(Unfinished { name: name.clone(), role, databases })
        };
        removed.iter().map(unfinished).collect()
    })
}

/// Takes step after step of what is left of a tenant, as long as there is time.
pub fn finish_until(store: &Store, id: Uuid, until: Instant) -> Result<Left, StoreError> {
    let mut left = Left::More;
    while matches!(left, Left::More | Left::Taken | Left::Running) && Instant::now() < until {
        left = finish(store, id, until)?;
        if let Left::Taken | Left::Running = left {
            if is_gone(store, id, until)? {
                return Ok(Left::Nothing);
            }
            thread::sleep(LOOK_AGAIN_AFTER);
        }
    }
    Ok(left)
}

fn is_gone(store: &Store, id: Uuid, until: Instant) -> Result<bool, StoreError> {
    store.read(until, |session| {
        Ok(session.query_opt("SELECT FROM cloacina_tenants WHERE id = $1", &[&id])?.is_none())
    })
}

/// Takes the next step of what is left of a tenant.
fn finish(store: &Store, id: Uuid, until: Instant) -> Result<Left, StoreError> {
    let step = store.write(until, |session| {
        let role = removed_name(id);
        roll_back_prepared(&mut session.client, &role)?;
        if has_role(&mut session.client, &role)? {
            end_sessions(&mut session.client, &role)?;
        }
        let mut transaction = session.client.transaction()?;
        transaction.batch_execute(LOCK_TIMEOUT)?;
        let row =
            "SELECT FROM cloacina_tenants WHERE id = $1 AND removed_at IS NOT NULL FOR UPDATE SKIP LOCKED";
        if transaction.query_opt(row, &[&id])?.is_none() {
            return Ok(Left::Taken);
        }
        let left = drop_next(&mut transaction, id, &role)?;
        transaction.commit()?;
        Ok(left)
    });
    step.map(|committed| committed.value)
}

/// Objects of the schema first, some at a time; then the schema with what is left in it, large objects, the role, and the
/// rows.
fn drop_next(transaction: &mut Transaction<'_>, id: Uuid, role: &str) -> Result<Left, postgres::Error> {
    let quoted = quote_identifier(role);
    if has_schema(transaction, role)? {
        if drop_objects(transaction, role)? == 0 {
            transaction.batch_execute(&format!("DROP SCHEMA {quoted} CASCADE"))?;
        }
        return Ok(Left::More);
    }
    if has_role(transaction, role)? {
        become_member(transaction, role)?;
        if unlink_large_objects(transaction, role)? > 0 {
            return Ok(Left::More);
        }
        one_at_a_time(transaction)?;
        drop_owned(transaction, role)?;
        let Some(why) = drop_role(transaction, role)? else { return Ok(Left::More) };
        transaction.batch_execute(&format!("REVOKE {quoted} FROM CURRENT_USER"))?;
        return Ok(Left::Role { databases: other_databases(transaction, role)?, why });
    }
    let keys = "DELETE FROM api_keys WHERE id IN (SELECT id FROM api_keys WHERE tenant = $1 LIMIT $2)";
    if transaction.execute(keys, &[&id, &ROWS_AT_ONCE])? > 0 {
        return Ok(Left::More);
    }
    match executions::remove_some(transaction, id)? {
        executions::Left::Running => return Ok(Left::Running),
        executions::Left::Nothing if !remove_some(transaction, id)? => {}
        _ => return Ok(Left::More),
    }
    transaction.execute("DELETE FROM cloacina_tenants WHERE id = $1", &[&id])?;
    Ok(Left::Nothing)
}

/// Drops some of what is in the schema, which its owner may though others made it, the newest first: how many it were. One that
/// takes too many others with it for the lock table is left until those are gone.
fn drop_objects(transaction: &mut Transaction<'_>, schema: &str) -> Result<usize, postgres::Error> {
    let rows = transaction.query(
        "SELECT CASE type WHEN 'statistics object' THEN 'statistics' ELSE type END, identity
         FROM (SELECT classid, objid FROM pg_depend
               WHERE refclassid = 'pg_namespace'::regclass AND refobjid = to_regnamespace(quote_ident($1::text)) AND deptype = 'n'
                 -- Others are parts of something, and go with that.
                 AND NOT EXISTS (SELECT FROM pg_depend AS part WHERE part.classid = pg_depend.classid
                                     AND part.objid = pg_depend.objid AND part.deptype IN ('i', 'e'))
               ORDER BY objid DESC LIMIT $2) AS newest, pg_identify_object(classid, objid, 0)",
        &[&schema, &OBJECTS_AT_ONCE],
    )?;
    let mut dropped = 0;
    for row in &rows {
        let (kind, name): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let mut attempt = transaction.transaction()?;
        // One that hangs on another went with it.
        match attempt.batch_execute(&format!("DROP {kind} IF EXISTS {name} CASCADE")) {
            Ok(()) => {
                attempt.commit()?;
                dropped += 1;
            }
            Err(error) if error.code() == Some(&SqlState::OUT_OF_MEMORY) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(dropped)
}

/// Drops what a role owns elsewhere than in its schema, and revokes what it was granted, which takes the rights of those
/// that own the objects: other tenants may have let it use theirs.
fn drop_owned(transaction: &mut Transaction<'_>, role: &str) -> Result<(), postgres::Error> {
    let rows = transaction.query(
        "SELECT DISTINCT owner.rolname::text
         FROM pg_shdepend AS granted JOIN pg_roles AS role ON role.oid = granted.refobjid
         JOIN pg_shdepend AS owned ON (owned.dbid, owned.classid, owned.objid) = (granted.dbid, granted.classid, granted.objid)
         JOIN pg_roles AS owner ON owner.oid = owned.refobjid
         JOIN cloacina_tenants ON owner.rolname = username AND removed_at IS NULL
         WHERE role.rolname = $1::text AND granted.deptype IN ('a', 'r') AND owned.deptype = 'o'
           AND granted.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
        &[&role],
    )?;
    let mut joined = Vec::new();
    for row in &rows {
        let owner: &str = row.try_get(0)?;
        if become_member(transaction, owner)? {
            joined.push(quote_identifier(owner));
        }
    }
    transaction.batch_execute(&format!("DROP OWNED BY {} CASCADE", quote_identifier(role)))?;
    for owner in joined {
        transaction.batch_execute(&format!("REVOKE {owner} FROM CURRENT_USER"))?;
    }
    Ok(())
}

/// Drops a role, or returns what depends on it, which may be in another database of the cluster.
fn drop_role(transaction: &mut Transaction<'_>, role: &str) -> Result<Option<String>, postgres::Error> {
    let elsewhere = other_databases(transaction, role)?;
    if !elsewhere.is_empty() {
        return Ok(Some(format!("it owns something, or was granted something, in {}", elsewhere.join(", "))));
    }
    let mut attempt = transaction.transaction()?;
    match attempt.batch_execute(&format!("DROP ROLE {}", quote_identifier(role))) {
        Ok(()) => attempt.commit().map(|()| None),
        Err(error) if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
            Ok(Some(error.as_db_error().and_then(DbError::detail).unwrap_or_default().replace('\n', "; ")))
        }
        Err(error) => Err(error),
    }
}

/// Of what a role owns, all but a superuser may drop only what is theirs as members: whether we were made one. It ends with
/// the role, or has to be revoked.
fn become_member(transaction: &mut Transaction<'_>, role: &str) -> Result<bool, postgres::Error> {
    let row = transaction.query_one(
        "SELECT pg_has_role($1::text, 'USAGE'), current_setting('server_version_num')::int",
        &[&role],
    )?;
    if row.try_get(0)? {
        return Ok(false);
    }
    let option = if row.try_get::<_, i32>(1)? < 160_000 { "" } else { " WITH INHERIT TRUE" };
    transaction.batch_execute(&format!("GRANT {} TO CURRENT_USER{option}", quote_identifier(role)))?;
    Ok(true)
}

fn unlink_large_objects(transaction: &mut Transaction<'_>, role: &str) -> Result<u64, postgres::Error> {
    transaction.execute(
        "SELECT lo_unlink(oid) FROM (SELECT pg_largeobject_metadata.oid FROM pg_largeobject_metadata
             JOIN pg_roles ON pg_roles.oid = lomowner WHERE rolname = $1::text LIMIT $2) AS owned",
        &[&role, &OBJECTS_AT_ONCE],
    )
}
