//! Why a statement was not answered. What is shown of it has no key, no hash and no password in it: not even the detail
//! that PostgreSQL gives, which may quote a row.

use std::fmt;
use std::time::Duration;

use crate::postgres_link::{ConnectError, describe, ends_session, is_fatal, is_passing};

/// What it means for the statement.
#[derive(Debug)]
pub enum StoreError {
    /// The database is down, too slow, or does not take work now.
    Unavailable(Cause),
    /// It refused what we asked: a bug, or a table that another program has changed.
    Refused(Cause),
    /// The session broke during a change: it is not known whether the database carried that out.
    Unknown(Cause),
}

impl StoreError {
    /// Whether the database cannot be reached, rather than that it took too long for one statement, or refused it.
    pub fn is_away(&self) -> bool {
        match self {
            StoreError::Unknown(_) => true,
            StoreError::Refused(_) => false,
            StoreError::Unavailable(Cause::Driver(error)) => ends_session(error),
            StoreError::Unavailable(_) => true,
        }
    }

    /// What happened, whatever it means.
    pub fn into_cause(self) -> Cause {
        let (StoreError::Unavailable(cause) | StoreError::Refused(cause) | StoreError::Unknown(cause)) = self;
        cause
    }
}

/// What happened.
pub enum Cause {
    Driver(postgres::Error),
    /// The pool had none for so long.
    NoSession(Duration, r2d2::Error),
    /// A session that is not of the pool could not be made.
    NotConnected(ConnectError),
    TimeOver,
    /// The statement changed nothing, though PostgreSQL refused nothing: what it was to do.
    NotTaken(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Driver(error) => formatter.write_str(&describe(error)),
            Cause::NoSession(waited, error) => write!(formatter, "no session within {waited:?}: {error}"),
            Cause::NotConnected(error) => write!(formatter, "no session: {error}"),
            Cause::TimeOver => formatter.write_str("the request's time was over"),
            Cause::NotTaken(what) => write!(formatter, "the table did not take {what}"),
        }
    }
}

/// As `Display`: the driver's own would show the detail.
impl fmt::Debug for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (StoreError::Unavailable(cause) | StoreError::Refused(cause) | StoreError::Unknown(cause)) = self;
        cause.fmt(formatter)
    }
}

impl std::error::Error for StoreError {}

impl From<postgres::Error> for StoreError {
    fn from(error: postgres::Error) -> StoreError {
        let is_passing = match error.code() {
            Some(code) => is_fatal(&error) || is_passing(code),
            // Else it is a value that is not what we expect.
            None => ends_session(&error),
        };
        let cause = Cause::Driver(error);
        if is_passing { StoreError::Unavailable(cause) } else { StoreError::Refused(cause) }
    }
}
