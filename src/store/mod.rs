//! The only room where SQL is written.

mod cancel;
mod certificate;
pub mod changes;
pub mod check;
mod connector;
mod credentials;
pub mod declared;
pub mod keys;
mod locks;
mod migrations;
mod password_file;
mod pool;
mod schema;
mod start;
mod tls;
mod verifier;

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, SimpleQueryMessage};

use crate::metrics::Metrics;
use pool::{Dialer, Session, Sessions};

/// For how long a read is tried again on other sessions when the database had been restarted under them.
const READ_AGAIN_FOR: Duration = Duration::from_secs(2);

/// How long the database may take for what a command asks of it.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// The database, behind a pool of sessions that carry their prepared statements.
pub struct Store {
    pool: r2d2::Pool<Sessions>,
    dialer: Arc<Dialer>,
    running: cancel::Watched,
    metrics: Arc<Metrics>,
}

/// Why a statement was not answered. Neither text has a key, a hash or a password in it.
#[derive(Debug)]
pub enum StoreError {
    /// The database is down, too slow, or does not take work now.
    Unavailable(String),
    /// It refused what we asked: a bug, or a table that somebody has changed.
    Refused(String),
    /// The session broke during a change: it is not known whether the database carried that out.
    Unknown(String),
}

/// A change that was carried out.
#[derive(Debug)]
pub struct Committed<T> {
    pub value: T,
    /// `false`: the wait for a synchronous standby was given up, so a failover may undo the change.
    pub is_confirmed: bool,
}

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Unavailable(text) | StoreError::Refused(text) | StoreError::Unknown(text) => {
                formatter.write_str(text)
            }
        }
    }
}

impl From<postgres::Error> for StoreError {
    fn from(error: postgres::Error) -> StoreError {
        let text = describe(&error);
        let is_passing = match error.code() {
            Some(code) => is_passing(code),
            // Else it is a value that is not what we expect.
            None => error.is_closed() || error.source().is_some_and(|cause| cause.is::<std::io::Error>()),
        };
        if is_passing { StoreError::Unavailable(text) } else { StoreError::Refused(text) }
    }
}

/// States of the server rather than of the statement: class 08, 40, 53, 57 and 58, and a standby's refusal to write.
fn is_passing(code: &SqlState) -> bool {
    ["08", "40", "53", "57", "58"].iter().any(|class| code.code().starts_with(class))
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        || *code == SqlState::LOCK_NOT_AVAILABLE
}

/// What went wrong, with its cause. PostgreSQL's own detail is left out: it may quote the row, and with it a hash.
pub fn describe(error: &postgres::Error) -> String {
    if let Some(refusal) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", refusal.message(), refusal.code().code());
    }
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The first column of a query's first row as text, in one round trip.
fn first_value(client: &mut Client, query: &str) -> Result<Option<String>, postgres::Error> {
    let messages = client.simple_query(query)?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.map_or(Ok(None), |row| Ok(row.try_get(0)?.map(str::to_owned)))
}

/// Whether a query of one boolean says so.
fn is_true(client: &mut Client, query: &str) -> Result<bool, postgres::Error> {
    Ok(first_value(client, query)?.as_deref() == Some("t"))
}

impl Store {
    /// Runs a statement that may be run again: on a session that turns out to be dead, the next one is tried. All of it
    /// is over at `until`, unless the database is silent.
    fn read<T>(
        &self,
        until: Instant,
        mut read: impl FnMut(&mut Session) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let again_until = until.min(Instant::now() + READ_AGAIN_FOR);
        loop {
            let mut session = self.session(until)?;
            match self.run(&mut session, until, &mut read).0 {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let session_is_dead = session.is_dead(&error);
                    let error = StoreError::from(error);
                    if !session_is_dead || Instant::now() >= again_until {
                        return Err(error);
                    }
                    self.dialer.forget(&session);
                }
            }
        }
    }

    /// Runs a statement that is never repeated. All of it is over at `until`, unless the database is silent.
    ///
    /// # Errors
    /// `Unknown` when the session broke: PostgreSQL may end one between a commit and the word of it. All other errors
    /// say that nothing was changed.
    fn write<T>(
        &self,
        until: Instant,
        write: impl FnOnce(&mut Session) -> Result<T, postgres::Error>,
    ) -> Result<Committed<T>, StoreError> {
        let mut session = self.session(until)?;
        let (result, is_cancelled) = self.run(&mut session, until, write);
        match result {
            Ok(value) => {
                if is_cancelled {
                    log::warn!("a commit took too long, and a synchronous standby may not have it");
                }
                Ok(Committed { value, is_confirmed: !is_cancelled })
            }
            Err(error) if session.is_dead(&error) => {
                self.dialer.forget(&session);
                Err(StoreError::Unknown(describe(&error)))
            }
            Err(error) => Err(StoreError::from(error)),
        }
    }

    /// Whether it was cancelled comes with the result: a commit that is cancelled while it waits for a standby is done.
    fn run<T>(
        &self,
        session: &mut Session,
        until: Instant,
        run: impl FnOnce(&mut Session) -> Result<T, postgres::Error>,
    ) -> (Result<T, postgres::Error>, bool) {
        let token = session.cancel.clone();
        let (result, is_cancelled) = self.running.run(token, until, || run(session));
        if is_cancelled {
            session.give_up();
        }
        (result, is_cancelled)
    }

    /// A session from the pool that is not known to be dead.
    fn session(&self, until: Instant) -> Result<r2d2::PooledConnection<Sessions>, StoreError> {
        let asked = Instant::now();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Unavailable("the request's time was over".to_owned()));
            }
            let session = self.pool.get_timeout(self.dialer.patience().min(left));
            self.dialer.note(session.is_err());
            let session = session.map_err(|error| {
                StoreError::Unavailable(format!("no session within {:?}: {error}", asked.elapsed()))
            })?;
            if self.dialer.is_current(&session) {
                self.metrics.pool_wait_seconds.observe(asked.elapsed().as_secs_f64());
                return Ok(session);
            }
        }
    }

    /// Whether a session can be had within `limit`, and the database answers on it. Also brings the pool's metrics
    /// up to date.
    pub fn check(&self, limit: Duration) -> bool {
        let answers = self.pool.get_timeout(limit).is_ok_and(|mut session| {
            let answer = session.client.is_valid(limit);
            if let Err(error) = &answer {
                if session.is_dead(error) {
                    self.dialer.forget(&session);
                }
                // Also one that is merely silent: it would be the first to be handed out again.
                session.give_up();
            }
            answer.is_ok()
        });
        let state = self.pool.state();
        self.metrics.pool_size.set(i64::from(state.connections));
        self.metrics.pool_idle.set(i64::from(state.idle_connections));
        answers
    }
}
