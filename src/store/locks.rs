//! Transactions that need a lock which another session may hold: they give it up soon, so that no other session queues
//! behind them, try again, say what they wait for, and end.

use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, Transaction};

use super::schema::is_ours;
use crate::command_error::CommandError;
use crate::postgres_link::role_sessions::end_sessions_where;
use crate::postgres_link::{describe, first_value, is_true, rows};

/// Session lock of earlier releases while they migrated or bootstrapped, in the database's own space of advisory
/// locks: "cloacina" in ASCII. Every role of the database can take it.
pub const EARLIER_RELEASES: i64 = 0x636c_6f61_6369_6e61;

/// How long the requests of running servers may have to wait behind us.
const LOCK_TIMEOUT_MILLIS: u32 = 500;
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// How long a wait goes on before it is mentioned.
const SAY_AFTER: Duration = Duration::from_secs(2);
/// From then on a tenant's transaction is not in our way, however young it is: one always is where new ones keep coming.
const TENANTS_LIMIT: Duration = Duration::from_secs(5);

/// Whether a row of `pg_locks` is about one of our tables, any of which may be what is waited for.
macro_rules! is_on_our_tables {
    () => {
        concat!(
            "granted AND locktype = 'relation'
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
             AND relation IN (SELECT oid FROM pg_class WHERE ",
            is_ours!(),
            ")"
        )
    };
}

/// Who holds a lock that can be in our way, the longest one first.
const HOLDER: &str = concat!("SELECT format('the session with pid %s (%s, user %s, %s since %s)', pid,
            COALESCE('application ' || NULLIF(application_name, ''), 'no application name'), usename,
            COALESCE(state, 'connected'), COALESCE(to_char(COALESCE(xact_start, state_change, backend_start)
                AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS+00:00'), 'an unknown time'))
     FROM pg_locks JOIN pg_stat_activity USING (pid)
     WHERE pid <> pg_backend_pid() AND (",
    is_on_our_tables!(),
    "    OR granted AND locktype = 'advisory' AND classid = 1668050785 AND objid = 1667853921 AND objsubid = 1
            AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
     ORDER BY locktype DESC, COALESCE(xact_start, state_change, backend_start) LIMIT 1"
);

/// The roles of tenants that hold one.
const TENANTS: &str = concat!(
    "SELECT DISTINCT usename FROM pg_locks JOIN pg_stat_activity USING (pid) JOIN cloacina_tenants ON usename = username
     WHERE removed_at IS NULL AND usename <> current_user AND ",
    is_on_our_tables!()
);

/// Why a transaction did not do its work.
pub enum Stopped {
    /// Another session holds a lock that it needs.
    Locked,
    Failed(CommandError),
}

impl From<CommandError> for Stopped {
    fn from(error: CommandError) -> Stopped {
        Stopped::Failed(error)
    }
}

impl Stopped {
    /// What became of a statement: `what` could not be done.
    pub fn by(what: &str, error: &postgres::Error) -> Stopped {
        match error.code() {
            Some(code) if [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED].contains(code) => {
                Stopped::Locked
            }
            _ => Stopped::Failed(CommandError::Runtime(format!("{what}: {}", describe(error)))),
        }
    }
}

/// Runs `work` in a transaction, which it has to commit, until it gets all its locks or `limit` is over.
///
/// # Errors
/// `work` failed, or another session kept a lock: the message says which.
pub fn with_locks<T>(
    client: &mut Client,
    what: &str,
    limit: Duration,
    mut work: impl FnMut(Transaction<'_>) -> Result<T, Stopped>,
) -> Result<T, CommandError> {
    let began = Instant::now();
    let mut said = false;
    loop {
        // Right before the attempt: what a tenant begins after that queues behind us.
        if began.elapsed() >= SAY_AFTER {
            let age = if began.elapsed() < TENANTS_LIMIT { SAY_AFTER } else { Duration::ZERO };
            match end_tenants(client, age) {
                Ok(0) => {}
                Ok(ended) => {
                    log::warn!(sessions = ended; "ended sessions of tenants that held a lock for too long")
                }
                Err(error) if !said => {
                    log::warn!("cannot end sessions of tenants that hold a lock: {}", describe(&error));
                }
                Err(_) => {}
            }
        }
        match attempt(client, what, &mut work) {
            Ok(done) => return Ok(done),
            Err(Stopped::Failed(failure)) => return Err(failure),
            Err(Stopped::Locked) => {}
        }
        let waited = began.elapsed();
        if waited < limit && (said || waited < SAY_AFTER) {
            std::thread::sleep(RETRY_AFTER);
            continue;
        }
        let holder = first_value(client, HOLDER)
            .map_err(|error| CommandError::Runtime(format!("{what}: {}", describe(&error))))?
            .unwrap_or_else(|| "another session".to_owned());
        if waited >= limit {
            return Err(CommandError::Runtime(format!(
                "{what}: {holder} holds a lock that is needed, and kept it for {} s (--database-wait)",
                waited.as_secs()
            )));
        }
        said = true;
        log::warn!("waiting up to {} s for a lock that {holder} holds", limit.as_secs());
    }
}

/// Ends the sessions of tenants that hold a lock in a transaction of at least this age: how many there were.
fn end_tenants(client: &mut Client, age: Duration) -> Result<u64, postgres::Error> {
    if !is_true(client, "SELECT to_regclass('cloacina_tenants') IS NOT NULL")? {
        return Ok(0);
    }
    let condition = format!(
        "xact_start <= clock_timestamp() - interval '{} s' AND pid IN (SELECT pid FROM pg_locks WHERE {})",
        age.as_secs(),
        is_on_our_tables!()
    );
    let roles = rows(client, TENANTS)?;
    let roles = roles.iter().filter_map(|row| row.get(0));
    roles.map(|role| end_sessions_where(client, role, &condition)).sum()
}

fn attempt<T>(
    client: &mut Client,
    what: &str,
    work: &mut impl FnMut(Transaction<'_>) -> Result<T, Stopped>,
) -> Result<T, Stopped> {
    let failed = |error: postgres::Error| Stopped::by(what, &error);
    let mut transaction = client.transaction().map_err(failed)?;
    transaction
        .batch_execute(&format!(
            "SET LOCAL lock_timeout = {LOCK_TIMEOUT_MILLIS}; SET LOCAL statement_timeout = 0"
        ))
        .map_err(failed)?;
    work(transaction)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PostgreSQL shows an advisory lock's number in two halves.
    #[test]
    fn the_lock_of_earlier_releases_is_looked_for() {
        let (high, low) = (EARLIER_RELEASES >> 32, EARLIER_RELEASES & 0xffff_ffff);
        assert!(HOLDER.contains(&format!("classid = {high} AND objid = {low}")));
    }
}
