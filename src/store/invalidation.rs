//! How servers that share a database learn of a change to its keys before the client that made it is answered.
//!
//! A change is committed first and numbered afterwards (`api_key_changes`). A server that caches keys has a row in
//! `auth_caches` with the number up to which it has emptied its cache. Whoever made the change waits for the rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use postgres::fallible_iterator::FallibleIterator as _;
use postgres::{Client, Statement};
use uuid::Uuid;

use super::{Store, StoreError};
use crate::postgres_link::{ConnectError, Limit, NewSession, SessionFactory, release};

/// The number of the last change, 0 before the first. A sequence that was restarted shows its next number as its last.
macro_rules! last_number {
    () => {
        "(SELECT last_value - (NOT is_called)::int FROM api_key_changes)"
    };
}

/// What a notification is sent on; its text means nothing.
const CHANNEL: &str = "api_key_changes";
/// For how long a server may trust its cache after the moment when it last asked the database for news. Whoever
/// waits for a server that is silent waits for no longer than this.
pub const LEASE: Duration = Duration::from_secs(3);
/// Beyond the lease, for clocks that do not run quite alike.
const LEASE_MARGIN: Duration = Duration::from_millis(100);
/// For how long a server can go on by what it knew, as seen from here.
pub const LONGEST_LEASE: Duration = LEASE.saturating_add(LEASE_MARGIN);
/// How long the announcement of a change may take at least, whatever its request has left.
const ANNOUNCEMENT_LIMIT: Duration = Duration::from_secs(1);
/// How long a look at what other servers have seen may take: a session on which it takes longer is given up.
pub const LOOK_LIMIT: Duration = Duration::from_secs(1);
/// A lease and its margin, and the time that statements take before and after.
pub const LONGEST_WAIT_FOR_SERVERS: Duration = Duration::from_secs(5);

/// The clock of leases, which goes on while the host sleeps: other servers do not wait for one that does.
/// `Duration::MAX`, when no lease holds, on a system without such a clock.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

/// A server's own session for news. Given up, it is cut off; the row stays until another server waits for it in vain.
pub struct Listener {
    client: Client,
    limit: Limit,
    epoch: u64,
    factory: Arc<SessionFactory>,
    server: Uuid,
    seen: i64,
    ask: Statement,
    acknowledge: Statement,
}

/// What the database had to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalidation {
    /// No change since the last time: the cache may be trusted for a lease from the moment when this was asked, a time
    /// `since_boot`.
    None { asked: Duration },
    /// Keys have changed: the cache has to be emptied, and `acknowledge` called, before it may be trusted again.
    Change,
}

impl Listener {
    /// Listens, and enters the server's row. The cache must be empty and distrusted when this begins.
    ///
    /// # Errors
    /// There is no session that takes writes, or it broke.
    fn open(factory: &Arc<SessionFactory>, server: Uuid) -> Result<Listener, ConnectError> {
        let NewSession { mut client, limit, epoch } = factory.create()?;
        limit.set(Some(Instant::now() + LEASE));
        // Nothing that is written here may wait for a synchronous standby: with another primary, it is all made anew.
        client.batch_execute(&format!("SET synchronous_commit = local; LISTEN {CHANNEL}"))?;
        let row = client.query_one(
            concat!(
                "INSERT INTO auth_caches (server, seen) VALUES ($1, ",
                last_number!(),
                ") ON CONFLICT (server) DO UPDATE SET seen = excluded.seen, since = now() RETURNING seen"
            ),
            &[&server],
        )?;
        // A number that a crash takes back makes others wait for a while and nothing worse. The row itself must stay.
        client.batch_execute("SET synchronous_commit = off")?;
        let ask =
            client.prepare(concat!("SELECT ", last_number!(), " FROM auth_caches WHERE server = $1"))?;
        let acknowledge = client.prepare(concat!(
            "UPDATE auth_caches SET seen = ",
            last_number!(),
            " WHERE server = $1 RETURNING seen"
        ))?;
        let (seen, factory) = (row.try_get(0)?, Arc::clone(factory));
        Ok(Listener { client, limit, epoch, factory, server, seen, ask, acknowledge })
    }

    /// Waits for a notification, for at most `limit`, then asks how things stand.
    ///
    /// # Errors
    /// The session broke, or is on a server whose place another has taken, or a server that waited for this one has
    /// taken its row away: the link has to be opened anew.
    pub fn wait(&mut self, limit: Duration) -> Result<Invalidation, ConnectError> {
        self.limit.set(None);
        if self.client.notifications().timeout_iter(limit).next()?.is_some() {
            return Ok(Invalidation::Change);
        }
        if !self.factory.is_current(self.epoch) {
            return Err(ConnectError::Replaced);
        }
        // A query has no time limit, and a link that has gone silent would never be made anew.
        self.limit.set(Some(Instant::now() + LEASE));
        self.client.is_valid(LEASE)?;
        let asked = since_boot();
        let row = self.client.query_one(&self.ask, &[&self.server])?;
        let last: i64 = row.try_get(0)?;
        if !self.factory.is_current(self.epoch) {
            return Err(ConnectError::Replaced);
        }
        Ok(if last == self.seen { Invalidation::None { asked } } else { Invalidation::Change })
    }

    /// Tells all other servers that the cache is empty of all that was read before now.
    ///
    /// # Errors
    /// As `wait`.
    pub fn acknowledge(&mut self) -> Result<(), ConnectError> {
        self.limit.set(Some(Instant::now() + LEASE));
        // Whatever is announced from here on will come again; what was announced before is covered by the number.
        while self.client.notifications().iter().next()?.is_some() {}
        let row = self.client.query_one(&self.acknowledge, &[&self.server])?;
        self.seen = row.try_get(0)?;
        if self.factory.is_current(self.epoch) { Ok(()) } else { Err(ConnectError::Replaced) }
    }

    /// Ends a link that broke, without waiting for anything.
    pub fn give_up(self) {
        self.limit.set(Some(Instant::now()));
        release(self);
    }

    /// Takes the server's row away: no other server waits for it any more.
    ///
    /// # Errors
    /// The session broke.
    pub fn close(mut self) -> Result<(), postgres::Error> {
        self.limit.set(Some(Instant::now() + LEASE));
        self.client.execute("DELETE FROM auth_caches WHERE server = $1", &[&self.server]).map(|_| ())
    }
}

/// A change that other servers have been told of.
#[derive(Debug, Clone, Copy)]
pub struct Announced {
    /// A server that has seen this number knows of it. `None`: that could not be told, and only the lease's end is
    /// certain.
    pub number: Option<i64>,
    /// By then no server trusts what it knew before.
    pub until: Instant,
}

impl Store {
    /// A session of its own for `server`, on which it hears of changes that other servers make.
    ///
    /// # Errors
    /// The database is down or read-only.
    pub fn listener(&self, server: Uuid) -> Result<Listener, ConnectError> {
        Listener::open(&self.factory, server)
    }

    /// Draws the number of a change, and notifies the other servers; `None` when no other server caches. The change must
    /// have been committed before, with its notification; `own` is not waited for.
    ///
    /// Should the database be away, the end of a lease has to be waited for: a server that still has a link has heard
    /// the notification, and one that has none trusts nothing by then.
    pub fn announce(&self, own: Uuid, until: Instant) -> Option<Announced> {
        // The change is made: what is left of the request's time must not be the reason for a long wait.
        let until = until.max(Instant::now() + ANNOUNCEMENT_LIMIT);
        let number = self.write(until, |session| {
            // On disk, so that no number comes twice, and without a wait for a standby: the number means nothing there.
            session
                .query_one(
                    "SELECT CASE WHEN EXISTS (SELECT FROM auth_caches WHERE server <> $1) THEN nextval('api_key_changes') END,
                            pg_notify('api_key_changes', ''), set_config('synchronous_commit', 'local', true)",
                    &[&own],
                )?
                .try_get::<_, Option<i64>>(0)
        });
        let number = match number {
            Ok(announced) => Some(announced.value?),
            Err(error) => {
                log::warn!(
                    "cannot announce a change, so the leases of other servers are waited for: {error}"
                );
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
    pub fn seen_by_all(&self, own: Uuid, limit: Duration) -> Result<i64, StoreError> {
        self.read(Instant::now() + limit, |session| {
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
    pub fn forget_who_is_behind(&self, own: Uuid, number: i64, until: Instant) -> Result<u64, StoreError> {
        let forgotten = self.write(until, |session| {
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

    /// Returns once no other server lets anybody in by what it read before this call, for a command that has nothing
    /// else to do. Holds no session while it waits.
    pub fn wait_for_servers(&self, own: Uuid) {
        let Some(announced) = self.announce(own, Instant::now()) else { return };
        while Instant::now() < announced.until {
            let seen = self.seen_by_all(own, LOOK_LIMIT);
            if announced.number.zip(seen.ok()).is_some_and(|(number, seen)| seen >= number) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(number) = announced.number {
            let _ = self.forget_who_is_behind(own, number, Instant::now() + ANNOUNCEMENT_LIMIT);
        }
    }
}
