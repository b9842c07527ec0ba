//! How servers that share a database learn of a change to its keys before whoever made it is answered.
//!
//! A change is committed first and numbered afterwards (`api_key_changes`). A server that caches keys has a row in
//! `auth_caches` with the number up to which it has emptied its cache. Whoever made the change waits for the rows.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use postgres::fallible_iterator::FallibleIterator as _;
use postgres::{Client, Statement};
use uuid::Uuid;

use super::{Store, StoreError};

/// What a notification is sent on; its text means nothing.
const CHANNEL: &str = "api_key_changes";
/// For how long a server may trust its cache after the moment when it last asked the database for news. Whoever
/// waits for a server that is silent waits for no longer than this.
pub const LEASE: Duration = Duration::from_secs(3);
/// Beyond the lease, for clocks that do not run quite alike.
const LEASE_MARGIN: Duration = Duration::from_millis(100);
/// A lease and its margin, and the time that statements take before and after.
pub const LONGEST_WAIT_FOR_SERVERS: Duration = Duration::from_secs(5);

/// The clock of leases, which goes on while the host sleeps: other servers do not wait for one that does.
/// `Duration::MAX`, when no lease holds, on a system without such a clock.
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

/// A server's own session for news. Given up, it is cut off; the row stays until somebody misses it.
pub struct Link {
    client: Client,
    server: Uuid,
    seen: i64,
    ask: Statement,
    catch_up: Statement,
}

/// What the database had to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// No change since the last time: the cache may be trusted for a lease from the moment when this was asked, a time
    /// `since_boot`.
    None { asked: Duration },
    /// Keys have changed: the cache has to be emptied, and `catch_up` called, before it may be trusted again.
    Change,
}

impl Link {
    /// Listens, and enters the server's row. The cache must be empty and distrusted when this begins.
    ///
    /// # Errors
    /// The session broke, or the database is read-only.
    pub fn open(mut client: Client, server: Uuid) -> Result<Link, postgres::Error> {
        client.batch_execute(&format!("LISTEN {CHANNEL}"))?;
        let row = client.query_one(
            "INSERT INTO auth_caches (server, seen) SELECT $1, last_value FROM api_key_changes
             ON CONFLICT (server) DO UPDATE SET seen = excluded.seen, since = now() RETURNING seen",
            &[&server],
        )?;
        // A number that a crash takes back makes others wait for a while and nothing worse. The row itself must stay.
        client.batch_execute("SET synchronous_commit = off")?;
        let ask = client.prepare("SELECT last_value FROM api_key_changes, auth_caches WHERE server = $1")?;
        // A subquery, since a sequence cannot stand in the FROM of an UPDATE.
        let catch_up = client.prepare(
            "UPDATE auth_caches SET seen = (SELECT last_value FROM api_key_changes) WHERE server = $1 RETURNING seen",
        )?;
        Ok(Link { client, server, seen: row.try_get(0)?, ask, catch_up })
    }

    /// Waits for a notification, for at most `limit`, then asks how things stand.
    ///
    /// # Errors
    /// The session broke, or whoever waited for us has taken our row away: the link has to be opened anew.
    pub fn wait(&mut self, limit: Duration) -> Result<News, postgres::Error> {
        if self.client.notifications().timeout_iter(limit).next()?.is_some() {
            return Ok(News::Change);
        }
        // A query has no time limit, and a link that has gone silent would never be made anew.
        self.client.is_valid(LEASE)?;
        let asked = since_boot();
        let row = self.client.query_one(&self.ask, &[&self.server])?;
        let last: i64 = row.try_get(0)?;
        Ok(if last == self.seen { News::None { asked } } else { News::Change })
    }

    /// Tells everybody that the cache is empty of all that was read before now.
    ///
    /// # Errors
    /// As `wait`.
    pub fn catch_up(&mut self) -> Result<(), postgres::Error> {
        // Whatever is announced from here on will come again; what was announced before is covered by the number.
        while self.client.notifications().iter().next()?.is_some() {}
        let row = self.client.query_one(&self.catch_up, &[&self.server])?;
        self.seen = row.try_get(0)?;
        Ok(())
    }

    /// Ends a link that broke, without waiting for anything.
    pub fn give_up(self) {
        super::pool::release(self);
    }

    /// Takes the server's row away: a clean farewell that lets nobody wait.
    ///
    /// # Errors
    /// The session broke.
    pub fn close(mut self) -> Result<(), postgres::Error> {
        self.client.execute("DELETE FROM auth_caches WHERE server = $1", &[&self.server]).map(|_| ())
    }
}

/// Draws the number of a change that is committed, and tells everybody; `None` when nobody else caches.
///
/// # Errors
/// The session broke: it is not known who has heard of the change.
fn announce(client: &mut Client, own: Uuid) -> Result<Option<i64>, postgres::Error> {
    client
        .query_one(
            "SELECT CASE WHEN EXISTS (SELECT FROM auth_caches WHERE server <> $1) THEN nextval('api_key_changes') END,
                    pg_notify('api_key_changes', '')",
            &[&own],
        )?
        .try_get(0)
}

/// Whether some other server may still let in by what it read before this change.
///
/// # Errors
/// The session broke.
fn is_anybody_behind(client: &mut Client, own: Uuid, number: i64) -> Result<bool, postgres::Error> {
    client
        .query_one(
            "SELECT EXISTS (SELECT FROM auth_caches WHERE server <> $1 AND seen < $2)",
            &[&own, &number],
        )?
        .try_get(0)
}

/// Takes away the rows of servers that were behind for a whole lease: how many.
///
/// # Errors
/// The session broke.
fn forget_who_is_behind(client: &mut Client, own: Uuid, number: i64) -> Result<u64, postgres::Error> {
    client.execute("DELETE FROM auth_caches WHERE server <> $1 AND seen < $2", &[&own, &number])
}

impl Store {
    /// A session of its own for `server`, on which it hears of changes that other servers make.
    ///
    /// # Errors
    /// The database is down or read-only.
    pub fn link(&self, server: Uuid) -> Result<Link, postgres::Error> {
        Link::open(self.dialer.dial()?, server)
    }

    /// Returns once no other server lets anybody in by what it read before this call; `own` needs no telling. The
    /// change must have been committed, and notified with it, before. Holds no session while it waits.
    ///
    /// Should the database go away meanwhile, a lease is sat out: whoever still has a link has heard the notification,
    /// and whoever has none trusts nothing by then.
    pub fn wait_for_servers(&self, own: Uuid) {
        let until = Instant::now() + LEASE + LEASE_MARGIN;
        if let Err(error) = self.ask_servers(own, until) {
            log::warn!(
                "cannot ask whether other servers know of a change, so their leases are waited for: {error}"
            );
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
        }
    }

    fn ask_servers(&self, own: Uuid, until: Instant) -> Result<(), StoreError> {
        let Some(number) = self.write(|session| announce(&mut session.client, own))? else { return Ok(()) };
        // The number may have been drawn late; the lease of whoever is silent ends a lease after that.
        let until = until.max(Instant::now() + LEASE + LEASE_MARGIN);
        let mut pause = Duration::from_millis(1);
        while self.read(|session| is_anybody_behind(&mut session.client, own, number))? {
            if Instant::now() >= until {
                // They have not asked for news since the number was drawn, so they trust nothing that they remember.
                let gone = self.write(|session| forget_who_is_behind(&mut session.client, own, number))?;
                log::warn!(servers = gone; "servers that share the database are silent, and trust their caches no longer");
                break;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(())
    }
}
