//! What a host asks the database about itself.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::executions::store::claim::ClaimingHost;
use crate::executions::store::{has_not_ended, may_run_tasks, timeline};
use crate::store::{Committed, Store, StoreError};
use crate::workflows::store::PIECE_BYTES;

/// How things stand with this host.
#[derive(Debug)]
pub struct State {
    /// Its row is there, and another server speaks for it by now.
    pub has_successor: bool,
    /// Its row is gone, or a person said that the host is.
    pub is_forgotten: bool,
    /// Of the database.
    pub timeline: i64,
    /// Every host has said what it runs since the database got this timeline.
    pub all_have_said: bool,
    /// Running attempts of this host that are to be ended.
    pub cancelled: Vec<Uuid>,
    /// How many attempts of this host the database takes to run, where that was asked for.
    pub running: Option<usize>,
    /// Of the queue's table, with all dead rows.
    pub queue_bytes: u64,
    /// Whether anything may start.
    pub has_work: bool,
    /// How long until something more may start; `None`: nothing waits for its time.
    pub until_due: Option<Duration>,
}

/// A running attempt of this host, as the database has it.
#[derive(Debug)]
pub struct Known {
    pub attempt: Uuid,
    pub tenant: Uuid,
    /// Of the system that it was claimed on.
    pub boot: Uuid,
    /// Of the database, when it was claimed.
    pub timeline: i64,
    /// Of what it printed, so many bytes are in the database.
    pub log_bytes: u64,
    pub was_started: bool,
}

const LOOK: &str = concat!(
    "WITH host AS (SELECT session, forgotten_at FROM cloacina_hosts WHERE id = $1),
          line AS (SELECT ",
    timeline!(),
    " AS timeline)
     SELECT (SELECT session <> $2 FROM host), NOT EXISTS (SELECT FROM host WHERE forgotten_at IS NULL), line.timeline,
            NOT EXISTS (SELECT FROM cloacina_hosts
                        WHERE cloacina_hosts.timeline <> line.timeline AND ",
    may_run_tasks!(),
    "),
            ARRAY(SELECT id FROM cloacina_attempts WHERE id = ANY($3) AND is_cancelled AND ",
    has_not_ended!("ended_at"),
    "),
            EXISTS (SELECT FROM cloacina_queue WHERE due_at IS NULL),
            (SELECT EXTRACT(epoch FROM min(due_at) - clock_timestamp())::float8 FROM cloacina_queue WHERE due_at IS NOT NULL),
            CASE WHEN $4 THEN (SELECT count(*) FROM cloacina_attempts WHERE host = $1 AND ended_at IS NULL) END,
            pg_relation_size('cloacina_queue')
     FROM line"
);
const SAID: &str = "UPDATE cloacina_hosts SET timeline = $3, seen_at = clock_timestamp()
     WHERE id = $1 AND session = $2 AND forgotten_at IS NULL";
/// The same, whichever timeline that is.
const SAID_ON_CURRENT: &str = concat!(
    "UPDATE cloacina_hosts SET timeline = ",
    timeline!(),
    " WHERE id = $1 AND session = $2 AND forgotten_at IS NULL
          AND NOT EXISTS (SELECT FROM cloacina_attempts WHERE host = $1 AND ended_at IS NULL)"
);
const WAIT_FOR_CLAIMS: &str = "SELECT FROM cloacina_hosts WHERE id = $1 FOR NO KEY UPDATE";
const KNOWN: &str = "SELECT id, tenant, boot, log_bytes, started_at IS NOT NULL, timeline
     FROM cloacina_attempts WHERE host = $1 AND ended_at IS NULL";
/// Of the piece with this number, all that comes behind so many bytes.
const PACKAGE_BYTES: &str =
    "SELECT substr(bytes, $3) FROM cloacina_package_pieces WHERE package = $1 AND number = $2";
/// Some at a time, and none that another transaction is at: one that waits for the other could wait for this one.
const DUE: &str = "UPDATE cloacina_queue SET due_at = NULL, ready_at = due_at
     WHERE due_at <= clock_timestamp() AND (execution, task) IN (
         SELECT execution, task FROM cloacina_queue WHERE due_at <= now()
         ORDER BY due_at LIMIT 1000 FOR UPDATE SKIP LOCKED)";
/// Looks at everything that this host has to know, in one statement: which of these attempts are to be ended, and, where it
/// counts, how many run.
///
/// # Errors
/// See `StoreError`; so for all of these.
pub fn look(
    store: &Store,
    host: &ClaimingHost,
    attempts: &[Uuid],
    counts: bool,
    until: Instant,
) -> Result<State, StoreError> {
    store.read(until, |session| {
        let row = session.query_one(LOOK, &[&host.id, &host.session, &attempts, &counts])?;
        let has_successor: Option<bool> = row.try_get(0)?;
        let due: Option<f64> = row.try_get(6)?;
        Ok(State {
            has_successor: has_successor.unwrap_or(false),
            is_forgotten: row.try_get(1)?,
            timeline: row.try_get(2)?,
            all_have_said: row.try_get(3)?,
            cancelled: row.try_get(4)?,
            running: row.try_get::<_, Option<i64>>(7)?.map(|running| usize::try_from(running).unwrap_or(0)),
            queue_bytes: row.try_get::<_, i64>(8)?.unsigned_abs(),
            has_work: row.try_get(5)?,
            // Some may be due in a thousand years.
            until_due: due.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 3600.0))),
        })
    })
}

/// The host has said what it runs, since the database got this timeline.
pub fn said(
    store: &Store,
    host: &ClaimingHost,
    timeline: i64,
    until: Instant,
) -> Result<Committed<bool>, StoreError> {
    store.write(until, |session| Ok(session.client.execute(SAID, &[&host.id, &host.session, &timeline])? > 0))
}

/// Nothing runs here, on the timeline that the database has now; unless that takes something to run here.
pub fn said_on_current(store: &Store, host: &ClaimingHost, until: Instant) -> Result<(), StoreError> {
    store
        .write(until, |session| session.client.execute(SAID_ON_CURRENT, &[&host.id, &host.session]))
        .map(drop)
}

/// What the database takes to run on this host. Claims that may still be committed, after their sessions broke, are waited
/// for: they hold the host's row until then.
pub fn known(store: &Store, host: Uuid, until: Instant) -> Result<Vec<Known>, StoreError> {
    let outcome = store.transact(until, |transaction| {
        transaction.query_opt(WAIT_FOR_CLAIMS, &[&host])?;
        let rows = transaction.query(KNOWN, &[&host])?;
        let known = |row: &postgres::Row| {
            Ok(Known {
                attempt: row.try_get(0)?,
                tenant: row.try_get(1)?,
                boot: row.try_get(2)?,
                log_bytes: row.try_get::<_, i64>(3)?.unsigned_abs(),
                was_started: row.try_get(4)?,
                timeline: row.try_get(5)?,
            })
        };
        let known: Result<Vec<_>, _> = rows.iter().map(known).collect();
        known.map(Ok::<_, std::convert::Infallible>)
    })?;
    Ok(outcome.map_or_else(|never| match never {}, |known| known.value))
}

/// What is due may start: how much of it does from now on.
pub fn make_due_ready(store: &Store, until: Instant) -> Result<u64, StoreError> {
    store.write(until, |session| session.client.execute(DUE, &[])).map(|made| made.value)
}

/// Bytes of a package's archive from an offset on; none at its end.
pub fn package_bytes(
    store: &Store,
    package: Uuid,
    offset: u64,
    until: Instant,
) -> Result<Vec<u8>, StoreError> {
    let piece_bytes = PIECE_BYTES as u64;
    let (number, from) = ((offset / piece_bytes) as i32, (offset % piece_bytes) as i32 + 1);
    store.read(until, |session| {
        let row = session.query_opt(PACKAGE_BYTES, &[&package, &number, &from])?;
        row.map_or(Ok(Vec::new()), |row| row.try_get(0))
    })
}
