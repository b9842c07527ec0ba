//! A server's own session, on which it hears of changes to keys that other servers make; see `announcement`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::fallible_iterator::FallibleIterator as _;
use postgres::{Client, Statement};
use uuid::Uuid;

use super::announcement::last_number;
use super::lease::{LEASE, since_boot};
use crate::postgres_link::{ConnectError, Limit, NewSession, SessionFactory, release};

/// A notification's text means nothing.
const LISTEN: &str = "LISTEN api_key_changes";
const UNLISTEN: &str = "UNLISTEN api_key_changes";

/// What a change sends at most: with its commit, and with its number. Any role can send more.
const NOTIFICATIONS_OF_A_CHANGE: i64 = 2;
/// So many others in so much time empty the cache at once, as those of a change do. After that only a number does, or a
/// moment of this length since a notification without one: a change is numbered right after its commit, and a server that
/// could not draw the number waits for a lease.
const PROMPT_NOTIFICATIONS: i64 = 20;
const COUNTED_FOR: Duration = Duration::from_secs(1);
const UNNUMBERED_LIMIT: Duration = Duration::from_millis(500);
const _: () = assert!(3 * UNNUMBERED_LIMIT.as_millis() < LEASE.as_millis());
/// Of so many, the session hears none for a while: the database is asked instead, as if one had come each time.
const MOST_NOTIFICATIONS: i64 = 200;
const DEAF_FOR: Duration = Duration::from_secs(10);
const ASK_DEAF_EVERY: Duration = Duration::from_millis(10);
/// How much may come while an answer is waited for: the driver keeps all of it.
const MOST_BYTES: usize = 1024 * 1024;

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
    /// `None`: it listens.
    deaf_until: Option<Instant>,
    /// Notifications since then that no number explains.
    notifications: i64,
    counted_since: Instant,
    /// When the first of them came that the cache has not been emptied for.
    unnumbered_since: Option<Instant>,
}

/// What the database had to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalidation {
    /// No change since the last time: the cache may be trusted for a lease from the moment when this was asked, a time
    /// `since_boot`.
    None { asked: Duration },
    /// The same once the cache has been emptied: keys may have changed without a number.
    Unnumbered { asked: Duration },
    /// Keys have changed: the cache has to be emptied, and `acknowledge` called, before it may be trusted again.
    Change,
}

impl Listener {
    /// Listens, unless it is to hear nothing yet, and enters the server's row. The cache must be empty and distrusted when
    /// this begins.
    ///
    /// # Errors
    /// There is no session that takes writes, or it broke.
    pub fn open(
        factory: &Arc<SessionFactory>,
        server: Uuid,
        is_deaf: bool,
    ) -> Result<Listener, ConnectError> {
        let NewSession { mut client, limit, epoch } = factory.create(Duration::MAX)?;
        limit.set(Some(Instant::now() + LEASE));
        limit.set_bytes(Some(MOST_BYTES));
        // Nothing that is written here may wait for a synchronous standby: with another primary, it is all made anew.
        client.batch_execute("SET synchronous_commit = local")?;
        if !is_deaf {
            client.batch_execute(LISTEN)?;
        }
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
        let (seen, factory, now) = (row.try_get(0)?, Arc::clone(factory), Instant::now());
        Ok(Listener {
            client,
            limit,
            epoch,
            factory,
            server,
            seen,
            ask,
            acknowledge,
            deaf_until: is_deaf.then(|| now + DEAF_FOR),
            notifications: 0,
            counted_since: now,
            unnumbered_since: None,
        })
    }

    /// Waits for a notification, for at most `limit`, then asks how things stand.
    ///
    /// # Errors
    /// The session broke, or is on a server whose place another has taken, or a server that waited for this one has
    /// taken its row away: the link has to be opened anew.
    pub fn wait(&mut self, limit: Duration) -> Result<Invalidation, ConnectError> {
        let has_heard = self.hear(limit)?;
        if has_heard {
            if self.deaf_until.is_none() && self.notifications <= PROMPT_NOTIFICATIONS {
                return Ok(Invalidation::Change);
            }
            self.unnumbered_since.get_or_insert_with(Instant::now);
        }
        if !self.factory.is_current(self.epoch) {
            return Err(ConnectError::Replaced);
        }
        if !has_heard {
            // A query has no time limit on a Unix socket, and a link that has gone silent would never be made anew.
            self.client.is_valid(LEASE)?;
        }
        let asked = since_boot();
        let row = self.client.query_one(&self.ask, &[&self.server])?;
        let last: i64 = row.try_get(0)?;
        if !self.factory.is_current(self.epoch) {
            return Err(ConnectError::Replaced);
        }
        if last != self.seen {
            return Ok(Invalidation::Change);
        }
        if self.unnumbered_since.is_some_and(|since| since.elapsed() >= UNNUMBERED_LIMIT) {
            self.unnumbered_since = None;
            return Ok(Invalidation::Unnumbered { asked });
        }
        Ok(Invalidation::None { asked })
    }

    /// Whether a notification has come, or may have come unheard.
    fn hear(&mut self, limit: Duration) -> Result<bool, ConnectError> {
        if let Some(until) = self.deaf_until {
            std::thread::sleep(ASK_DEAF_EVERY.min(limit));
            self.expect_answer();
            if Instant::now() >= until {
                self.client.batch_execute(LISTEN)?;
                self.deaf_until = None;
            }
            return Ok(true);
        }
        if self.counted_since.elapsed() >= COUNTED_FOR {
            (self.notifications, self.counted_since) = (0, Instant::now());
        }
        let before = self.notifications;
        // What comes is thrown away one by one.
        self.limit.set(None);
        self.limit.set_bytes(None);
        if self.client.notifications().timeout_iter(limit).next()?.is_some() {
            self.notifications += 1;
            let mut more = self.client.notifications();
            let mut more = more.iter();
            while self.notifications <= MOST_NOTIFICATIONS && more.next()?.is_some() {
                self.notifications += 1;
            }
        }
        self.expect_answer();
        if self.notifications > MOST_NOTIFICATIONS {
            log::info!(
                "many notifications come from the database: it is asked for changes instead for a while"
            );
            self.deaf_until = Some(Instant::now() + DEAF_FOR);
            self.client.batch_execute(UNLISTEN)?;
        }
        Ok(self.notifications > before)
    }

    /// Bounds what comes until the answer to a statement is there.
    fn expect_answer(&self) {
        self.limit.set(Some(Instant::now() + LEASE));
        self.limit.set_bytes(Some(MOST_BYTES));
    }

    /// Tells all other servers that the cache is empty of all that was read before now.
    ///
    /// # Errors
    /// As `wait`.
    pub fn acknowledge(&mut self) -> Result<(), ConnectError> {
        self.expect_answer();
        let row = self.client.query_one(&self.acknowledge, &[&self.server])?;
        let before = std::mem::replace(&mut self.seen, row.try_get(0)?);
        let changes = self.seen.saturating_sub(before).max(0);
        let explained = changes.saturating_mul(NOTIFICATIONS_OF_A_CHANGE);
        self.notifications = self.notifications.saturating_sub(explained).max(0);
        self.unnumbered_since = None;
        if self.factory.is_current(self.epoch) { Ok(()) } else { Err(ConnectError::Replaced) }
    }

    /// Ends a link that broke, without waiting for anything.
    pub fn give_up(self) {
        self.limit.set(Some(Instant::now()));
        self.limit.set_bytes(Some(0));
        release(self);
    }

    /// Takes the server's row away: no other server waits for it any more.
    ///
    /// # Errors
    /// The session broke.
    pub fn close(mut self) -> Result<(), postgres::Error> {
        self.expect_answer();
        self.client.execute("DELETE FROM auth_caches WHERE server = $1", &[&self.server]).map(|_| ())
    }
}
