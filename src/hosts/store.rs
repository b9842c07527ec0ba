//! The statements on `cloacina_hosts`.

use std::time::Instant;

use postgres::Row;
use postgres::error::SqlState;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Forgotten, NewHost, Registered, RunningAttempt, plain_name};
use crate::store::{Committed, Store, StoreError, TableStatements};

/// What a check tries on the table, and the commands before they begin.
pub const TABLE: TableStatements = TableStatements {
    table: "cloacina_hosts",
    statements: &[
        REGISTER,
        TAKE_OVER,
        RETIRE,
        RUNS,
        SEEN,
        LIST,
        SILENT,
        FORGET,
        RUNNING,
        RUNNING_OF_FORGOTTEN,
    ],
};

/// A host that is not forgotten.
#[derive(Debug, Clone)]
pub struct HostRow {
    pub id: Uuid,
    pub name: String,
    pub slots: i32,
    pub running_attempts: i64,
    pub obstacle: Option<String>,
    pub is_silent: bool,
    pub created_at: OffsetDateTime,
    pub seen_at: OffsetDateTime,
}

/// How many there are and the first of their names.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Silent {
    pub count: usize,
    pub names: Vec<String>,
}

/// Two servers of the same name that register at the same time get in each other's way once.
const REGISTER_TRIES: usize = 3;
/// Silent hosts that are named.
const MOST_NAMES: i64 = 100;

/// Longer than this a host that lives is not silent, by the database's clock.
macro_rules! is_silent {
    ($host:literal) => {
        concat!(
            "(slots > 0 OR EXISTS (SELECT FROM cloacina_attempts WHERE host = ",
            $host,
            ".id AND ended_at IS NULL)) AND seen_at < clock_timestamp() - interval '60 seconds'"
        )
    };
}

/// A host that is known has said on its timeline what it runs, and its next server knows no less.
const REGISTER: &str = "
    INSERT INTO cloacina_hosts AS host (id, name, slots, obstacle, session, timeline)
    VALUES ($1::uuid,
            CASE WHEN EXISTS (SELECT FROM cloacina_hosts WHERE name = $2::text AND id <> $1 AND forgotten_at IS NULL)
                 THEN $2::text || '-' || left($1::uuid::text, 8) ELSE $2::text END,
            $3, $4, $5, 0)
    ON CONFLICT (id) DO UPDATE
    SET name = excluded.name, slots = excluded.slots, obstacle = excluded.obstacle, session = excluded.session,
        seen_at = clock_timestamp(), forgotten_at = NULL
    WHERE host.forgotten_at IS NULL OR $6::boolean
    RETURNING name";
/// From now on no other server speaks for it, though it is forgotten.
const TAKE_OVER: &str = "UPDATE cloacina_hosts SET session = $2 WHERE id = $1";
/// One that was forgotten stays so.
const RETIRE: &str = "
    UPDATE cloacina_hosts SET slots = 0, obstacle = NULL, session = $2, seen_at = clock_timestamp() WHERE id = $1";
const RUNS: &str = "SELECT EXISTS (SELECT FROM cloacina_attempts WHERE host = $1 AND ended_at IS NULL)";
const SEEN: &str = "
    UPDATE cloacina_hosts SET seen_at = clock_timestamp(), obstacle = $3
    WHERE id = $1 AND session = $2 AND forgotten_at IS NULL";
const LIST: &str = concat!(
    "SELECT id, name, slots, (SELECT count(*) FROM cloacina_attempts WHERE host = listed.id AND ended_at IS NULL),
            obstacle, ",
    is_silent!("listed"),
    ", created_at, seen_at
     FROM cloacina_hosts AS listed WHERE forgotten_at IS NULL AND name > $1 ORDER BY name LIMIT $2"
);
const SILENT: &str = concat!(
    "SELECT name, count(*) OVER () FROM cloacina_hosts WHERE forgotten_at IS NULL AND ",
    is_silent!("cloacina_hosts"),
    " ORDER BY name LIMIT $1"
);
const FORGET: &str = "
    UPDATE cloacina_hosts SET forgotten_at = clock_timestamp() WHERE name = $1 AND forgotten_at IS NULL
    RETURNING id, extract(epoch FROM clock_timestamp() - seen_at)::bigint";
const RUNNING: &str =
    "SELECT id, execution FROM cloacina_attempts WHERE host = $1 AND ended_at IS NULL ORDER BY claimed_at";
const RUNNING_OF_FORGOTTEN: &str = "
    SELECT attempt.id, attempt.execution
    FROM cloacina_hosts AS host JOIN cloacina_attempts AS attempt ON attempt.host = host.id AND attempt.ended_at IS NULL
    WHERE host.forgotten_at IS NOT NULL LIMIT $1";

/// Says that a server, which calls itself `session`, speaks for its host now. One that was forgotten stays so, and the
/// server has it all the same: none that spoke for it before does any more.
///
/// # Errors
/// See `StoreError`; so for all of these.
pub fn register(
    store: &Store,
    host: &NewHost,
    session: Uuid,
    until: Instant,
) -> Result<Committed<Registered>, StoreError> {
    register_as(store, host, session, false, until)
}

/// The same of a host that was forgotten, once nothing that it ran before is left: from now on it is not.
pub fn come_back(
    store: &Store,
    host: &NewHost,
    session: Uuid,
    until: Instant,
) -> Result<Committed<Registered>, StoreError> {
    register_as(store, host, session, true, until)
}

fn register_as(
    store: &Store,
    host: &NewHost,
    session: Uuid,
    comes_back: bool,
    until: Instant,
) -> Result<Committed<Registered>, StoreError> {
    let name = plain_name(&host.name);
    let slots = i32::try_from(host.slots).unwrap_or(i32::MAX);
    store.write(until, |connection| {
        let mut tries = 1..=REGISTER_TRIES;
        loop {
            let is_last = tries.next().is_none_or(|number| number == REGISTER_TRIES);
            let mut transaction = connection.client.transaction()?;
            let row = transaction
                .query_opt(REGISTER, &[&host.id, &name, &slots, &host.obstacle, &session, &comes_back]);
            let registered = match row {
                Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) && !is_last => continue,
                Err(error) => return Err(error),
                Ok(None) => {
                    transaction.execute(TAKE_OVER, &[&host.id, &session])?;
                    Registered::WasForgotten
                }
                Ok(Some(row)) => Registered::As(row.try_get(0)?),
            };
            transaction.commit()?;
            return Ok(registered);
        }
    })
}

/// Says of a host, if it is one, that its server starts no tasks any more. Whether the database takes any to run there, which
/// an earlier server of it has claimed.
pub fn retire(store: &Store, id: Uuid, session: Uuid, until: Instant) -> Result<Committed<bool>, StoreError> {
    store.write(until, |connection| {
        let mut transaction = connection.client.transaction()?;
        // Claims whose outcome is not known hold the row until they are done.
        transaction.execute(RETIRE, &[&id, &session])?;
        let runs = transaction.query_one(RUNS, &[&id])?.try_get(0)?;
        transaction.commit()?;
        Ok(runs)
    })
}

/// Says that a host lives, and what keeps it from starting tasks now, as long as this server speaks for it. Waits for no
/// standby.
pub fn seen(
    store: &Store,
    id: Uuid,
    session: Uuid,
    obstacle: Option<&str>,
    until: Instant,
) -> Result<(), StoreError> {
    let seen = store.write(until, |connection| {
        let mut transaction = connection.client.transaction()?;
        transaction.batch_execute("SET LOCAL synchronous_commit = off")?;
        transaction.execute(SEEN, &[&id, &session, &obstacle])?;
        transaction.commit()
    });
    seen.map(drop)
}

/// At most `limit` hosts with names after this one, by name.
pub fn list(store: &Store, after: &str, limit: usize, until: Instant) -> Result<Vec<HostRow>, StoreError> {
    let host_row = |row: &Row| {
        Ok(HostRow {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            slots: row.try_get(2)?,
            running_attempts: row.try_get(3)?,
            obstacle: row.try_get(4)?,
            is_silent: row.try_get(5)?,
            created_at: row.try_get(6)?,
            seen_at: row.try_get(7)?,
        })
    };
    store.read(until, |session| {
        session.query(LIST, &[&after, &(limit as i64)])?.iter().map(host_row).collect()
    })
}

/// Hosts that should start tasks, or run some, and have not been heard of for a minute.
pub fn silent(store: &Store, until: Instant) -> Result<Silent, StoreError> {
    store.read(until, |session| {
        let rows = session.query(SILENT, &[&MOST_NAMES])?;
        let count: i64 = rows.first().map_or(Ok(0), |row| row.try_get(1))?;
        let names = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        Ok(Silent { count: usize::try_from(count).unwrap_or_default(), names })
    })
}

/// Marks a host as gone, for good unless it comes back. `None`: there is none of that name.
pub fn forget(store: &Store, name: &str, until: Instant) -> Result<Committed<Option<Forgotten>>, StoreError> {
    store.write(until, |session| {
        let mut transaction = session.client.transaction()?;
        let Some(row) = transaction.query_opt(FORGET, &[&name])? else { return Ok(None) };
        let id: Uuid = row.try_get(0)?;
        let running = transaction.query(RUNNING, &[&id])?;
        transaction.commit()?;
        let running = running.iter().map(running_attempt).collect::<Result<_, _>>()?;
        Ok(Some(Forgotten { id, silent_seconds: row.try_get(1)?, running }))
    })
}

/// What forgotten hosts ran and nothing has ended yet, as where a server or a command died before it could.
pub fn left_of_forgotten(
    store: &Store,
    limit: usize,
    until: Instant,
) -> Result<Vec<RunningAttempt>, StoreError> {
    store.read(until, |session| {
        session.query(RUNNING_OF_FORGOTTEN, &[&(limit as i64)])?.iter().map(running_attempt).collect()
    })
}

fn running_attempt(row: &Row) -> Result<RunningAttempt, postgres::Error> {
    Ok(RunningAttempt { attempt: row.try_get(0)?, execution: row.try_get(1)? })
}
