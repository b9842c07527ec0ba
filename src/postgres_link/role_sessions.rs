//! Ends sessions of another role. PostgreSQL lets a superuser do so, a member of that role, or one of `pg_signal_backend`;
//! a role that may merely create roles makes itself a member for as long as that takes.

use postgres::GenericClient;

use super::quote_identifier;

/// How long to wait for another session that gives itself the same right at the same moment.
const LOCK_TIMEOUT_MILLIS: u32 = 1000;

/// Asks PostgreSQL to end all sessions of a role, in whatever database: how many there were. They take a moment to go,
/// and one that was logging in may be missed: ask again until there are none.
///
/// # Errors
/// The user may not do that, or the session broke. A transaction that this is part of can go on.
pub fn end_sessions(client: &mut impl GenericClient, role: &str) -> Result<u64, postgres::Error> {
    end_sessions_where(client, role, "true")
}

/// The same for those of which this condition on `pg_stat_activity` holds.
///
/// # Errors
/// As `end_sessions`.
pub fn end_sessions_where(
    client: &mut impl GenericClient,
    role: &str,
    condition: &str,
) -> Result<u64, postgres::Error> {
    // Rolled back when it is dropped: a lasting membership would make tables of that role look like the server's own.
    let mut transaction = client.transaction()?;
    if let Some(grant) = right_to_end(&mut transaction, role)? {
        transaction.batch_execute(&format!("SET LOCAL lock_timeout = {LOCK_TIMEOUT_MILLIS}; {grant}"))?;
    }
    // A transaction goes on seeing the sessions that there were when it first asked.
    transaction.batch_execute("SELECT pg_stat_clear_snapshot()")?;
    let ended = transaction.query_one(
        &format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE usename = $1::text AND pid <> pg_backend_pid() AND {condition}"
        ),
        &[&role],
    )?;
    Ok(ended.try_get::<_, i64>(0)?.unsigned_abs())
}

/// What to grant for the right to see and end its sessions, where we have none.
///
/// Up to PostgreSQL 15 it is not membership: there the role itself could be granting that in a transaction that does not
/// end, for which we would wait.
fn right_to_end(client: &mut impl GenericClient, role: &str) -> Result<Option<String>, postgres::Error> {
    let row = client.query_opt(
        "SELECT pg_has_role(oid, 'USAGE')
                OR pg_has_role('pg_signal_backend', 'USAGE') AND pg_has_role('pg_read_all_stats', 'USAGE'),
                current_setting('server_version_num')::int
         FROM pg_roles WHERE rolname = $1::text",
        &[&role],
    )?;
    let Some(row) = row else { return Ok(None) };
    let (has_right, version): (bool, i32) = (row.try_get(0)?, row.try_get(1)?);
    Ok((!has_right).then(|| {
        if version < 160_000 {
            "GRANT pg_signal_backend, pg_read_all_stats TO CURRENT_USER".to_owned()
        } else {
            format!("GRANT {} TO CURRENT_USER WITH INHERIT TRUE", quote_identifier(role))
        }
    }))
}
