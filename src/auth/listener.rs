//! A server's own session, on which it hears of changes to keys that other servers make; see `announcement`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::fallible_iterator::FallibleIterator as _;
use postgres::{Client, Statement};
use uuid::Uuid;

use super::announcement::{channel, last_number};
use super::lease::{LEASE, since_boot};
use crate::postgres_link::{ConnectError, Limit, NewSession, SessionFactory, quote_identifier, release};

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
    pub fn open(factory: &Arc<SessionFactory>, server: Uuid) -> Result<Listener, ConnectError> {
        let NewSession { mut client, limit, epoch } = factory.create(Duration::MAX)?;
        limit.set(Some(Instant::now() + LEASE));
        // Nothing that is written here may wait for a synchronous standby: with another primary, it is all made anew.
        let channel: String = client.query_one(concat!("SELECT ", channel!()), &[])?.try_get(0)?;
        let channel = quote_identifier(&channel);
        client.batch_execute(&format!("SET synchronous_commit = local; LISTEN {channel}"))?;
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
