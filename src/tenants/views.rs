//! The views in which a tenant's role reads what is its tenant's.

use std::time::{Duration, Instant};

use postgres::Transaction;

use super::role::{Refusal, one_at_a_time};
use crate::postgres_link::role_sessions::end_sessions_where;
use crate::store::{Store, StoreError};

const VIEWS: &str = include_str!("views.sql");
/// What the comment on their schema says, before the version of the server's tables that they are made for.
const COMMENT: &str = "cloacinactl: views of V";
/// That of `VIEWS`.
const VERSION: u32 = 11;
/// No one waits for them to be renewed.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '1s'";

/// Makes them, unless they are there as this release or a later one has them.
///
/// # Errors
/// See `Refusal`.
pub fn make(transaction: &mut Transaction<'_>) -> Result<(), Refusal> {
    if are_current(transaction)? {
        return Ok(());
    }
    one_at_a_time(transaction)?;
    if !are_current(transaction)? {
        end_lookers(transaction)?;
        transaction.batch_execute(VIEWS)?;
    }
    Ok(())
}

/// Makes them anew where they are an earlier release's, as after an upgrade, or where a server of that release has made a
/// tenant since.
pub fn renew(store: &Store, limit: Duration) {
    match renew_until(store, Instant::now() + limit) {
        Ok(true) => log::info!("the views in the schema cloacina_views are this release's now"),
        Ok(false) => {}
        Err(error) => log::debug!("cannot renew the views of tenants: {error}"),
    }
}

/// Whether they were an earlier release's. Where no tenant has had a role, there are none.
fn renew_until(store: &Store, until: Instant) -> Result<bool, StoreError> {
    let version = store.read(until, |session| {
        let mut transaction = session.client.transaction()?;
        match version(&mut transaction) {
            Err(Refusal::Failed(error)) => Err(error),
            // Another role's, which the next tenant with a role is told.
            Err(_) => Ok(None),
            Ok(version) => Ok(version),
        }
    })?;
    if version.is_none_or(|version| version >= VERSION) {
        return Ok(false);
    }
    let renewed = store.write(until, |session| {
        let mut transaction = session.client.transaction()?;
        transaction.batch_execute(LOCK_TIMEOUT)?;
        match make(&mut transaction) {
            Ok(()) => transaction.commit().map(|()| true),
            Err(Refusal::Failed(error)) => Err(error),
            Err(_) => Ok(false),
        }
    });
    renewed.map(|renewed| renewed.value)
}

/// Ends the sessions of tenants that have looked at views in a transaction that is still open: they would keep the views
/// from being renewed. Those that come later wait until that is done.
fn end_lookers(transaction: &mut Transaction<'_>) -> Result<(), postgres::Error> {
    let condition = "pid IN (SELECT pid FROM pg_locks JOIN pg_class ON pg_class.oid = relation
                             WHERE relnamespace = to_regnamespace('cloacina_views')
                               AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
    let rows = transaction.query(
        &format!(
            "SELECT DISTINCT username FROM pg_stat_activity JOIN cloacina_tenants ON usename = username
             WHERE removed_at IS NULL AND usename <> current_user AND {condition}"
        ),
        &[],
    )?;
    for row in &rows {
        end_sessions_where(transaction, row.try_get(0)?, condition)?;
    }
    Ok(())
}

fn are_current(transaction: &mut Transaction<'_>) -> Result<bool, Refusal> {
    Ok(version(transaction)?.is_some_and(|version| version >= VERSION))
}

/// What they are made for; `None`: there are none.
fn version(transaction: &mut Transaction<'_>) -> Result<Option<u32>, Refusal> {
    let row = transaction.query_opt(
        "SELECT obj_description(oid, 'pg_namespace'), pg_has_role(nspowner, 'USAGE') FROM pg_namespace
         WHERE nspname = 'cloacina_views'",
        &[],
    )?;
    let Some(row) = row else { return Ok(None) };
    if !row.try_get(1)? {
        let text = "the schema cloacina_views is another role's: the server needs one of its own";
        return Err(Refusal::Unable(text.to_owned()));
    }
    let comment: Option<&str> = row.try_get(0)?;
    let version = comment.and_then(|comment| comment.strip_prefix(COMMENT)?.parse().ok());
    Ok(Some(version.unwrap_or(0)))
}
