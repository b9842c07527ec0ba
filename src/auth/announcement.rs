//! How servers that share a database learn of a change to its keys before the client that made it is answered.
//!
//! A change is committed first and numbered afterwards (`api_key_changes`). A server that caches keys has a row in
//! `auth_caches` with the number up to which it has emptied its cache. The server that made the change waits for the rows.

use std::time::{Duration, Instant};

use postgres::error::SqlState;
use uuid::Uuid;

use super::lease::LONGEST_LEASE;
use crate::postgres_link::describe;
use crate::store::{Cause, Committed, Session, Store, StoreError};

/// The number of the last change, 0 before the first. A sequence that was restarted shows its next number as its last.
macro_rules! last_number {
    () => {
        "(SELECT last_value - (NOT is_called)::int FROM api_key_changes)"
    };
}
pub(super) use last_number;

/// What notifications are sent on; their text means nothing. Any role may send on a channel whose name it knows, and this
/// one only the servers know.
macro_rules! channel {
    () => {
        "COALESCE((SELECT channel FROM cloacina_notifications), 'api_key_changes')"
    };
}
pub(crate) use channel;

/// What a statement selects, where it is told to, to notify the other servers as it is committed. One notification at a
/// time is put into the queue, for which it must not wait long.
macro_rules! notify {
    () => {
        concat!(
            "pg_notify(",
            crate::auth::announcement::channel!(),
            ", ''), set_config('lock_timeout', '500', true)"
        )
    };
}
pub(crate) use notify;

/// How long the announcement of a change may take at least, whatever its request has left.
const ANNOUNCEMENT_LIMIT: Duration = Duration::from_secs(1);
/// How long a look at what other servers have seen may take: a session on which it takes longer is given up.
pub const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// A change that other servers have been told of.
#[derive(Debug, Clone, Copy)]
pub struct Announced {
    /// A server that has seen this number knows of it. `None`: that could not be told, and only the lease's end is
    /// certain.
    pub number: Option<i64>,
    /// By then no server trusts what it knew before.
    pub until: Instant,
}

impl Announced {
    /// Whether all that have seen this number know of it.
    pub fn is_seen(&self, seen_by_all: Option<i64>) -> bool {
        self.number.zip(seen_by_all).is_some_and(|(number, seen)| seen >= number)
    }
}

/// Runs a change that notifies the other servers with its commit when it is told to, as `Store::write` does.
///
/// Where PostgreSQL takes no notification, which any role can bring about, it is run again without one. Then a number is
/// drawn here, since the others would not hear of it should the database be lost before `announce`.
///
/// # Errors
/// As `Store::write`; the number could not be drawn: `Unknown`.
pub fn write_notifying<T>(
    store: &Store,
    until: Instant,
    mut write: impl FnMut(&mut Session, bool) -> Result<T, postgres::Error>,
) -> Result<Committed<T>, StoreError> {
    let Committed { value: (value, drawn), is_confirmed } = store.write(until, |session| {
        let (value, is_notified) = notifying(session, &mut write)?;
        Ok((value, if is_notified { Ok(None) } else { draw(session, Uuid::nil(), false) }))
    })?;
    drawn.map_err(|error| StoreError::Unknown(Cause::Driver(error)))?;
    Ok(Committed { value, is_confirmed })
}

/// Runs it with a notification, else without: which of them comes with the result.
fn notifying<T>(
    session: &mut Session,
    mut write: impl FnMut(&mut Session, bool) -> Result<T, postgres::Error>,
) -> Result<(T, bool), postgres::Error> {
    match write(session, true) {
        // The queue is full, or locked by the commit of another session.
        Err(error)
            if [SqlState::PROGRAM_LIMIT_EXCEEDED, SqlState::LOCK_NOT_AVAILABLE]
                .iter()
                .any(|code| error.code() == Some(code)) =>
        {
            log::warn!("other servers are not notified of a change, and will find it: {}", describe(&error));
            Ok((write(session, false)?, false))
        }
        outcome => Ok((outcome?, true)),
    }
}

/// The number of a change, if any server caches but this one.
fn draw(session: &mut Session, own: Uuid, is_notifying: bool) -> Result<Option<i64>, postgres::Error> {
    // On disk, so that no number comes twice, and without a wait for a standby: the number means nothing there.
    let row = session.query_one(
        concat!(
            "WITH told AS (SELECT ",
            notify!(),
            " WHERE $2)
             SELECT CASE WHEN EXISTS (SELECT FROM auth_caches WHERE server <> $1) THEN nextval('api_key_changes') END,
                    (SELECT count(*) FROM told), set_config('synchronous_commit', 'local', true),
                    -- What has been read leaves a full queue only when PostgreSQL is asked how full it is.
                    CASE WHEN NOT $2 THEN pg_notification_queue_usage() END"
        ),
        &[&own, &is_notifying],
    )?;
    row.try_get(0)
}

/// Draws the number of a change, and notifies the other servers; `None` when no other server caches. The change must
/// have been committed before, by `write_notifying`; `own` is not waited for.
///
/// Should the database be away, the end of a lease has to be waited for: a server that still has a link has heard
/// the notification, and one that has none trusts nothing by then.
pub fn announce(store: &Store, own: Uuid, until: Instant) -> Option<Announced> {
    // The change is made: what is left of the request's time must not be the reason for a long wait.
    let until = until.max(Instant::now() + ANNOUNCEMENT_LIMIT);
    let number = store
        .write(until, |session| notifying(session, |session, is_notifying| draw(session, own, is_notifying)));
    let number = match number {
        Ok(announced) => Some(announced.value.0?),
        Err(error) => {
            log::warn!("cannot announce a change, so the leases of other servers are waited for: {error}");
            None
        }
    };
    // The number may have been drawn late; the lease of a silent server ends a lease after that.
    Some(Announced { number, until: Instant::now() + LONGEST_LEASE })
}

/// The lowest number that some other server has seen, `i64::MAX` where there is none. Takes little longer than
/// `limit`, also when the database is silent.
///
/// # Errors
/// See `StoreError`.
pub fn seen_by_all(store: &Store, own: Uuid, limit: Duration) -> Result<i64, StoreError> {
    store.read(Instant::now() + limit, |session| {
        // A query has no time limit of its own.
        if let Err(error) = session.client.is_valid(limit) {
            session.give_up();
            return Err(error);
        }
        let row = session.query_one(
            // One that has seen more than there is has not heard that the sequence went back.
            concat!(
                "SELECT COALESCE(min(CASE WHEN seen <= ",
                last_number!(),
                " THEN seen ELSE 0 END), $2) FROM auth_caches WHERE server <> $1"
            ),
            &[&own, &i64::MAX],
        )?;
        row.try_get(0)
    })
}

/// Takes away the rows of servers that were behind for a whole lease: how many.
///
/// # Errors
/// See `StoreError`.
pub fn forget_who_is_behind(
    store: &Store,
    own: Uuid,
    number: i64,
    until: Instant,
) -> Result<u64, StoreError> {
    let forgotten = store.write(until, |session| {
        let mut transaction = session.client.transaction()?;
        transaction.batch_execute("SET LOCAL synchronous_commit = off")?;
        let forgotten = transaction.execute(
            concat!(
                "DELETE FROM auth_caches WHERE server <> $1 AND (seen < $2 OR seen > ",
                last_number!(),
                ")"
            ),
            &[&own, &number],
        )?;
        transaction.commit()?;
        Ok(forgotten)
    });
    forgotten.map(|forgotten| forgotten.value)
}

/// Returns once no other server lets a key in by what it read before this call, for a command that has nothing
/// else to do. Holds no session while it waits.
pub fn wait_for_servers(store: &Store, own: Uuid) {
    let Some(announced) = announce(store, own, Instant::now()) else { return };
    while Instant::now() < announced.until {
        let seen = seen_by_all(store, own, LOOK_LIMIT);
        if announced.is_seen(seen.ok()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    if let Some(number) = announced.number {
        let _ = forget_who_is_behind(store, own, number, Instant::now() + ANNOUNCEMENT_LIMIT);
    }
}
