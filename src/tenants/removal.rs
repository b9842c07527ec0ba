//! What a removal leaves for later: the objects, the role and the rows of removed tenants. Every server does it, one tenant
//! at a time, in small transactions, again and again until all is gone.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, Transaction};
use uuid::Uuid;

use super::role::{has_role, has_schema, other_databases, removed_name};
use crate::app::App;
use crate::postgres_link::{describe, end_sessions, quote_identifier};
use crate::store::{Store, StoreError};

/// How often removed tenants are looked for, of which another server, or this one before, has not dropped everything.
const LOOK_EVERY: Duration = Duration::from_secs(30);
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
    /// Its role has something in these databases, and stays without login until that is gone.
    Role(Vec<String>),
    /// Another server is at it, or was.
    Taken,
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
    let mut named = HashSet::new();
    while !stop.load(Ordering::Acquire) {
        if let Err(error) = finish_all(app, stop, &mut named) {
            log::debug!("cannot look for removed tenants: {error}");
        }
        thread::park_timeout(LOOK_EVERY);
    }
}

/// `named`: the tenants of which the log has said already what is left.
fn finish_all(app: &App, stop: &AtomicBool, named: &mut HashSet<Uuid>) -> Result<(), StoreError> {
    for (id, name) in removed(&app.store, Instant::now() + app.database_timeout)? {
        let mut left = Left::More;
        while left == Left::More && !stop.load(Ordering::Acquire) {
            left = finish(&app.store, id, Instant::now() + app.database_timeout)?;
        }
        match left {
            Left::Nothing => log::info!(tenant = name; "all that a removed tenant had is dropped"),
            Left::Role(databases) if named.insert(id) => log::warn!(
                tenant = name, role = removed_name(id), databases = databases.join(", ");
                "the role of a removed tenant stays, without login: it owns something, or was granted something, in other databases"
            ),
            Left::Role(_) | Left::More | Left::Taken => {}
        }
    }
    Ok(())
}

/// The tenants of which something is left.
fn removed(store: &Store, until: Instant) -> Result<Vec<(Uuid, String)>, StoreError> {
    store.read(until, |session| {
        let rows = session.query(
            "SELECT id, name FROM cloacina_tenants WHERE removed_at IS NOT NULL ORDER BY removed_at LIMIT 1000",
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
    while matches!(left, Left::More | Left::Taken) && Instant::now() < until {
        left = finish(store, id, until)?;
        if left == Left::Taken {
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
    match step {
        Ok(committed) => Ok(committed.value),
        Err(error) => {
            log::debug!(tenant_id:% = id; "cannot drop what a removed tenant had: {error}");
            Err(error)
        }
    }
}

/// Relations first, some at a time; then the schema with what is left in it, large objects, the role, and the rows.
fn drop_next(transaction: &mut Transaction<'_>, id: Uuid, role: &str) -> Result<Left, postgres::Error> {
    let quoted = quote_identifier(role);
    if has_schema(transaction, role)? {
        if drop_relations(transaction, role)? == 0 {
            transaction.batch_execute(&format!("DROP SCHEMA {quoted} CASCADE"))?;
        }
        return Ok(Left::More);
    }
    if has_role(transaction, role)? {
        let elsewhere = other_databases(transaction, role)?;
        become_member(transaction, role)?;
        if unlink_large_objects(transaction, role)? > 0 {
            return Ok(Left::More);
        }
        transaction.batch_execute(&format!("DROP OWNED BY {quoted} CASCADE"))?;
        if !elsewhere.is_empty() {
            transaction.batch_execute(&format!("REVOKE {quoted} FROM CURRENT_USER"))?;
            return Ok(Left::Role(elsewhere));
        }
        transaction.batch_execute(&format!("DROP ROLE {quoted}"))?;
        return Ok(Left::More);
    }
    let keys = "DELETE FROM api_keys WHERE id IN (SELECT id FROM api_keys WHERE tenant = $1 LIMIT $2)";
    if transaction.execute(keys, &[&id, &ROWS_AT_ONCE])? > 0 {
        return Ok(Left::More);
    }
    transaction.execute("DELETE FROM cloacina_tenants WHERE id = $1", &[&id])?;
    Ok(Left::Nothing)
}

/// The schema's owner may drop whatever is in it.
fn drop_relations(transaction: &mut Transaction<'_>, schema: &str) -> Result<usize, postgres::Error> {
    let rows = transaction.query(
        "SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                             WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, quote_ident(relname)
         FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident($1::text)) AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
         ORDER BY relkind, oid LIMIT $2",
        &[&schema, &OBJECTS_AT_ONCE],
    )?;
    for row in &rows {
        let (kind, name): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        // One that hangs on another went with it.
        let schema = quote_identifier(schema);
        transaction.batch_execute(&format!("DROP {kind} IF EXISTS {schema}.{name} CASCADE"))?;
    }
    Ok(rows.len())
}

/// Of what a role owns, all but a superuser may drop only what is theirs as members. It ends with the role.
fn become_member(transaction: &mut Transaction<'_>, role: &str) -> Result<(), postgres::Error> {
    let row = transaction.query_one(
        "SELECT pg_has_role($1::text, 'USAGE'), current_setting('server_version_num')::int",
        &[&role],
    )?;
    if row.try_get(0)? {
        return Ok(());
    }
    let option = if row.try_get::<_, i32>(1)? < 160_000 { "" } else { " WITH INHERIT TRUE" };
    transaction.batch_execute(&format!("GRANT {} TO CURRENT_USER{option}", quote_identifier(role)))
}

fn unlink_large_objects(transaction: &mut Transaction<'_>, role: &str) -> Result<u64, postgres::Error> {
    transaction.execute(
        "SELECT lo_unlink(oid) FROM (SELECT pg_largeobject_metadata.oid FROM pg_largeobject_metadata
             JOIN pg_roles ON pg_roles.oid = lomowner WHERE rolname = $1::text LIMIT $2) AS owned",
        &[&role, &ROWS_AT_ONCE],
    )
}

/// A transaction that was prepared for a two-phase commit keeps its locks, though its session has ended. Only a superuser
/// may end another role's.
fn roll_back_prepared(client: &mut Client, role: &str) -> Result<(), postgres::Error> {
    let prepared = client.query(
        "SELECT quote_literal(gid) FROM pg_prepared_xacts WHERE owner = $1::text AND database = current_database()",
        &[&role],
    )?;
    for row in &prepared {
        match client.batch_execute(&format!("ROLLBACK PREPARED {}", row.try_get::<_, &str>(0)?)) {
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                log::warn!(role = role; "a prepared transaction of a removed tenant's role keeps its locks until a superuser ends it: {}", describe(&error));
            }
            ended => ended?,
        }
    }
    Ok(())
}
