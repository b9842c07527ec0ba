//! A change of a tenant's role in whose way the role's own sessions and transactions cannot stay.

use std::time::Instant;

use postgres::error::SqlState;
use postgres::{Client, Transaction};

use crate::postgres_link::end_sessions;

/// How long a removal or a new password waits for a row that the tenant's own session has, before that session is ended.
const LOCK_TIMEOUT_MILLIS: u32 = 200;

/// Runs a change of a tenant, and of its role if it has one, in a transaction. A session of that role can keep the role's
/// row from being changed, by changing it in a transaction of its own: then its sessions and transactions are ended. It is
/// tried again until it has what it needs.
///
/// # Errors
/// That of the change, or the time is over.
pub fn alone_with_role<T>(
    client: &mut Client,
    username: Option<&str>,
    until: Instant,
    mut change: impl FnMut(&mut Transaction<'_>) -> Result<T, postgres::Error>,
) -> Result<T, postgres::Error> {
    loop {
        let mut transaction = client.transaction()?;
        transaction.batch_execute(&format!("SET LOCAL lock_timeout = {LOCK_TIMEOUT_MILLIS}"))?;
        let error = match change(&mut transaction) {
            Ok(value) => return transaction.commit().map(|()| value),
            Err(error) => error,
        };
        drop(transaction);
        if !is_concurrent(&error) || Instant::now() >= until {
            return Err(error);
        }
        let Some(username) = username else { continue };
        end_sessions(client, username)?;
        if !roll_back_prepared(client, username)? {
            log::warn!(role = username; "a prepared transaction of a tenant's role is in the way: only a superuser can end it");
            return Err(error);
        }
    }
}

/// Whether another session has, or has just changed, what a statement was to change. Of rows in catalogs PostgreSQL says
/// the latter as an internal error.
fn is_concurrent(error: &postgres::Error) -> bool {
    let codes = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::INTERNAL_ERROR];
    error.code().is_some_and(|code| codes.contains(code))
}

/// Ends the transactions that a role prepared for a two-phase commit, which keep their locks without a session: whether it
/// could. Only a superuser may end another role's.
///
/// # Errors
/// The session broke.
pub fn roll_back_prepared(client: &mut Client, role: &str) -> Result<bool, postgres::Error> {
    let prepared = client.query(
        "SELECT quote_literal(gid) FROM pg_prepared_xacts WHERE owner = $1::text AND database = current_database()",
        &[&role],
    )?;
    for row in &prepared {
        match client.batch_execute(&format!("ROLLBACK PREPARED {}", row.try_get::<_, &str>(0)?)) {
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => return Ok(false),
            // Another session has ended it.
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => {}
            ended => ended?,
        }
    }
    Ok(true)
}
