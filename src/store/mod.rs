//! The database behind a pool of sessions: what runs on them, within which time, and what it means when that fails.

mod apart;
mod database_status;
mod error;
pub mod locks;
pub mod migrations;
mod open;
mod pool;
pub mod preflight;
mod probe;
mod row_types;
pub mod schema;
mod session;
mod transaction;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postgres::error::SqlState;
use time::OffsetDateTime;

use crate::command_error::{CommandError, runtime};
use crate::metrics::Metrics;
use crate::postgres_link::{SessionFactory, cancel, first_value};
use database_status::DatabaseStatus;
pub use database_status::Trouble;
pub use error::{Cause, StoreError};
use pool::Sessions;
use probe::Probe;
pub use session::{Session, TableStatements};
pub use transaction::Transaction;

/// For how long a read is tried again on other sessions when the database had been restarted under them.
const READ_AGAIN_FOR: Duration = Duration::from_secs(2);

/// For so long after an answer a session is taken to be alive, and a write does not ask it first: that costs as much as
/// the write itself.
const TRUSTED_FOR: Duration = Duration::from_millis(100);

/// How long a request waits for a session of a database that is known to be down: no worker is held for long.
const SESSION_WAIT_WHEN_DOWN: Duration = Duration::from_millis(100);

/// What a statement gets beyond its time, to be cancelled in. Then its session is given up.
const CANCEL_WAIT: Duration = Duration::from_secs(1);

/// How long the database may take for what a command asks of it.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// The database, behind a pool of sessions.
pub struct Store {
    pool: r2d2::Pool<Sessions>,
    /// Makes the sessions of the pool, and those that are not of it.
    pub factory: Arc<SessionFactory>,
    running: cancel::Watched,
    pub metrics: Arc<Metrics>,
    /// What requests find out, and the looks.
    pub status: DatabaseStatus,
    probe: Mutex<Probe>,
}

type PooledSession = r2d2::PooledConnection<Sessions>;

/// A change that was carried out.
#[derive(Debug)]
pub struct Committed<T> {
    pub value: T,
    /// `false`: the wait for a synchronous standby was given up, so a failover may undo the change.
    pub is_confirmed: bool,
}

impl Store {
    fn new(
        pool: r2d2::Pool<Sessions>,
        factory: Arc<SessionFactory>,
        metrics: Arc<Metrics>,
    ) -> Result<Store, CommandError> {
        let running = cancel::Running::start(&factory).map_err(runtime("cannot start a thread"))?;
        Ok(Store {
            pool,
            factory,
            running,
            metrics,
            status: DatabaseStatus::default(),
            probe: Mutex::default(),
        })
    }

    /// Runs a statement that may be run again: on a session that turns out to be dead, the next one is tried. All of it
    /// is over at `until`, unless the database is silent.
    pub fn read<T>(
        &self,
        until: Instant,
        mut read: impl FnMut(&mut Session) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let again_until = until.min(Instant::now() + READ_AGAIN_FOR);
        loop {
            let mut session = self.session(until)?;
            match self.run(&mut session, until, &mut read).0 {
                Ok(answer) => {
                    give_back(session);
                    return Ok(answer);
                }
                Err(error) => self.after_failed_read(session, error, again_until)?,
            }
        }
    }

    /// Whether it may be tried again.
    #[inline(never)]
    fn after_failed_read(
        &self,
        mut session: PooledSession,
        error: postgres::Error,
        again_until: Instant,
    ) -> Result<(), StoreError> {
        let session_is_dead = self.is_dead(&mut session, &error);
        if session_is_dead && Instant::now() < again_until { Ok(()) } else { Err(StoreError::from(error)) }
    }

    /// Runs a change, once, on a session that has answered a moment ago. Where it was not begun, since the session is
    /// read-only or broke while the statement was prepared, another session is tried. All of it is over at `until`, unless
    /// the database is silent.
    ///
    /// # Errors
    /// `Unknown` when the session broke: PostgreSQL may end one between a commit and the word of it. All other errors
    /// say that nothing was changed.
    pub fn write<T>(
        &self,
        until: Instant,
        mut write: impl FnMut(&mut Session) -> Result<T, postgres::Error>,
    ) -> Result<Committed<T>, StoreError> {
        let again_until = until.min(Instant::now() + READ_AGAIN_FOR);
        loop {
            let mut session = self.session_for_write(until)?;
            session.unprepared = false;
            let (result, is_cancelled) = self.run(&mut session, until, &mut write);
            match result {
                Ok(value) => {
                    after_commit(session, is_cancelled);
                    return Ok(Committed { value, is_confirmed: !is_cancelled });
                }
                Err(error) => self.after_failed_write(session, error, again_until)?,
            }
        }
    }

    /// Whether it may be tried again.
    #[inline(never)]
    fn after_failed_write(
        &self,
        mut session: PooledSession,
        error: postgres::Error,
        again_until: Instant,
    ) -> Result<(), StoreError> {
        let is_dead = self.is_dead(&mut session, &error);
        let is_read_only = error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
        match is_read_only || session.unprepared {
            true if is_dead && Instant::now() < again_until => Ok(()),
            false if is_dead => Err(StoreError::Unknown(Cause::Driver(error))),
            _ => Err(StoreError::from(error)),
        }
    }

    /// Runs a change in a transaction, as `write` does. What it refuses itself is rolled back.
    ///
    /// # Errors
    /// As `write`.
    pub fn transact<T, R>(
        &self,
        until: Instant,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<Result<T, R>, postgres::Error>,
    ) -> Result<Result<Committed<T>, R>, StoreError> {
        let Committed { value, is_confirmed } = self.write(until, |session| session.transact(&mut work))?;
        Ok(value.map(|value| Committed { value, is_confirmed }))
    }

    /// The database's clock, which decides when a key ends.
    pub fn now(&self, until: Instant) -> Result<OffsetDateTime, StoreError> {
        self.read(until, |session| session.query_one("SELECT now()", &[])?.try_get(0))
    }

    /// Whether it was cancelled comes with the result: a commit that is cancelled while it waits for a standby is done.
    fn run<T>(
        &self,
        session: &mut Session,
        until: Instant,
        run: impl FnOnce(&mut Session) -> Result<T, postgres::Error>,
    ) -> (Result<T, postgres::Error>, bool) {
        let number = self.begin(session, until);
        let result = run(session);
        let is_cancelled = self.end(session, number, result.is_ok());
        (result, is_cancelled)
    }

    #[inline(never)]
    fn begin(&self, session: &Session, until: Instant) -> u64 {
        session.limit.set(Some(until + CANCEL_WAIT));
        self.running.begin(session.cancel.clone(), until)
    }

    /// Whether it was cancelled.
    #[inline(never)]
    fn end(&self, session: &mut Session, number: u64, is_ok: bool) -> bool {
        let is_cancelled = self.running.end(number);
        session.limit.set(None);
        if is_ok {
            session.answered = Instant::now();
        }
        if is_cancelled {
            session.give_up();
        }
        is_cancelled
    }

    /// A session that has answered a moment ago, or now says that it lives and may write: what is sent on a session that
    /// was lost meanwhile has an unknown outcome.
    fn session_for_write(&self, until: Instant) -> Result<PooledSession, StoreError> {
        let again_until = until.min(Instant::now() + READ_AGAIN_FOR);
        loop {
            let mut session = self.session(until)?;
            if session.answered.elapsed() < TRUSTED_FOR {
                return Ok(session);
            }
            let ask = |session: &mut Session| {
                first_value(&mut session.client, "SELECT current_setting('transaction_read_only')")
            };
            let (answer, is_cancelled) = self.run(&mut session, until, ask);
            match answer {
                // The session is given up: what is sent on it now would fail, with an unknown outcome.
                Ok(_) if is_cancelled => {
                    return Err(StoreError::Unavailable(Cause::TimeOver));
                }
                Ok(read_only) if read_only.as_deref() == Some("off") => return Ok(session),
                // Others of its age are read-only as well.
                Ok(_) => self.factory.forget(session.epoch),
                Err(error) => {
                    if !self.is_dead(&mut session, &error) || Instant::now() >= again_until {
                        return Err(StoreError::from(error));
                    }
                }
            }
        }
    }

    /// Whether this error has ended the session. All that are as old go with it.
    fn is_dead(&self, session: &mut Session, error: &postgres::Error) -> bool {
        let dead = session.is_dead(error);
        if dead {
            // One that is merely silent says nothing of the others.
            if !session.silent {
                self.factory.forget(session.epoch);
            }
            self.status.look_now();
        }
        dead
    }

    /// A session from the pool that is not known to be dead.
    fn session(&self, until: Instant) -> Result<PooledSession, StoreError> {
        let asked = Instant::now();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Unavailable(Cause::TimeOver));
            }
            let patience =
                if self.status.is_down() { SESSION_WAIT_WHEN_DOWN } else { self.factory.session_wait };
            let session = self.pool.get_timeout(patience.min(left)).map_err(|error| {
                // That is known to `/ready` at once; whether the pool is merely busy is for the look to say.
                if self.pool.state().connections == 0 {
                    self.status.has_no_session();
                }
                self.status.look_now();
                StoreError::Unavailable(Cause::NoSession(asked.elapsed(), error))
            })?;
            if self.factory.is_current(session.epoch) {
                self.metrics.pool_wait_seconds.observe(asked.elapsed().as_secs_f64());
                return Ok(session);
            }
        }
    }
}

// What is never inlined here would be in the program once for each statement.
#[inline(never)]
fn after_commit(session: PooledSession, is_cancelled: bool) {
    if is_cancelled {
        log::warn!("a commit took too long, and a synchronous standby may not have it");
    }
    drop(session);
}

#[inline(never)]
fn give_back(session: PooledSession) {
    drop(session);
}
