//! Transactions that need a lock which another session may hold: they give it up soon, so that no other session queues
//! behind them, try again, say what they wait for, and end. Which
//! lock another session holds is asked with the names of all tables, since any of them may be what is waited for.

use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, Transaction};

use crate::command_error::CommandError;
use crate::postgres_link::{describe, first_value};

/// Session lock of earlier releases while they migrated or bootstrapped, in the database's own space of advisory
/// locks: "cloacina" in ASCII. Every role of the database can take it.
pub const EARLIER_RELEASES: i64 = 0x636c_6f61_6369_6e61;

/// How long the requests of running servers may have to wait behind us.
const LOCK_TIMEOUT_MILLIS: u32 = 500;
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// How long a wait goes on before it is mentioned.
const SAY_AFTER: Duration = Duration::from_secs(2);

/// Who holds a lock that can be in our way, the longest one first.
const HOLDER: &str = "SELECT format('the session with pid %s (%s, user %s, %s since %s)', pid,
            COALESCE('application ' || NULLIF(application_name, ''), 'no application name'), usename,
            COALESCE(state, 'connected'), COALESCE(to_char(COALESCE(xact_start, state_change, backend_start)
                AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS+00:00'), 'an unknown time'))
     FROM pg_locks JOIN pg_stat_activity USING (pid)
     WHERE granted AND pid <> pg_backend_pid()
       AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND (locktype = 'advisory' AND classid = 1668050785 AND objid = 1667853921 AND objsubid = 1
            OR locktype = 'relation' AND relation IN (to_regclass('api_keys'), to_regclass('auth_caches'),
                                                      to_regclass('refinery_schema_history')))
     ORDER BY locktype, COALESCE(xact_start, state_change, backend_start) LIMIT 1";

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
