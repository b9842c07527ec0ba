//! r2d2 over sessions that carry their prepared statements: a statement is parsed once for each session, and no
//! checkout for a read costs a round trip.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use postgres::{CancelToken, Client};
use r2d2::ManageConnection;

use super::keys::Statements;
use crate::postgres_link::{ConnectError, Limit, NewSession, SessionFactory, ends_session, release};
use crate::rate_limit::RateLimit;

/// How long a request waits for a session. Half of it also bounds the pause between r2d2's attempts to connect, so
/// that a database that is back is in use again within half a second.
pub const SESSION_WAIT: Duration = Duration::from_secs(1);
/// r2d2 tries to connect again and again while the database is down; that is one line in so long.
const ERROR_LINE_EVERY: Duration = Duration::from_secs(30);

/// A connection and what was prepared on it.
pub struct Session {
    pub client: Client,
    pub statements: Statements,
    pub cancel: Arc<CancelToken>,
    limit: Limit,
    epoch: u64,
    /// A statement has failed in a way that leaves nothing to hope for.
    dead: bool,
    /// It owes us an answer, and nobody waits for that any more.
    silent: bool,
}

impl Session {
    /// The first session of the connection on which everything was prepared, without a time-out of statements.
    ///
    /// # Errors
    /// As `new`.
    pub fn first(mut new_session: NewSession, factory: &SessionFactory) -> Result<Session, postgres::Error> {
        let milliseconds = factory.statement_timeout.as_millis();
        new_session.client.batch_execute(&format!("SET statement_timeout = {milliseconds}"))?;
        Session::new(new_session)
    }

    /// Prepares what the pool's sessions have.
    ///
    /// # Errors
    /// The session broke, or the table is not as the statements expect it.
    pub fn new(new_session: NewSession) -> Result<Session, postgres::Error> {
        let NewSession { mut client, limit, epoch } = new_session;
        let statements = Statements::prepare(&mut client)?;
        let cancel = Arc::new(client.cancel_token());
        Ok(Session { client, statements, cancel, limit, epoch, dead: false, silent: false })
    }

    /// Whether this error means that the session is of no use any more, and with it all that are as old.
    pub fn is_dead(&mut self, error: &postgres::Error) -> bool {
        let dead = ends_session(error) || self.client.is_closed();
        self.dead |= dead;
        dead
    }

    /// Until when the driver waits for an answer on it.
    pub fn limit(&self, until: Option<Instant>) {
        self.limit.set(until);
    }

    /// Whether nobody waits for what it owes us.
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// Nothing is known to be wrong with it, but it does not answer in time.
    pub fn give_up(&mut self) {
        self.silent = true;
        self.limit.set(Some(Instant::now()));
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// r2d2's view of the sessions.
pub struct Sessions {
    factory: Arc<SessionFactory>,
    /// There already when the pool is opened, so that nobody waits for another one.
    first: Mutex<Option<Session>>,
}

impl ManageConnection for Sessions {
    type Connection = Session;
    type Error = ConnectError;

    fn connect(&self) -> Result<Session, ConnectError> {
        let first = self.first.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(first) = first {
            return Ok(first);
        }
        self.factory.wait_for_start();
        Ok(Session::new(self.factory.create()?)?)
    }

    fn is_valid(&self, session: &mut Session) -> Result<(), ConnectError> {
        Ok(session.client.simple_query("").map(|_| ())?)
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        session.dead
            || session.silent
            || session.client.is_closed()
            || !self.factory.is_current(session.epoch)
    }
}

/// A pool that begins with one session and fills itself in the background once its factory has been started.
pub fn open(factory: &Arc<SessionFactory>, first: Session, size: u32) -> r2d2::Pool<Sessions> {
    r2d2::Pool::builder()
        .max_size(size)
        .test_on_check_out(false)
        .connection_timeout(SESSION_WAIT)
        .error_handler(Box::new(LogErrors(RateLimit::new(1, ERROR_LINE_EVERY))))
        .connection_customizer(Box::new(Farewell))
        .build_unchecked(Sessions { factory: Arc::clone(factory), first: Mutex::new(Some(first)) })
}

/// Lets go of sessions.
#[derive(Debug)]
struct Farewell;

impl r2d2::CustomizeConnection<Session, ConnectError> for Farewell {
    fn on_release(&self, session: Session) {
        if session.silent {
            release(session);
        }
    }
}

/// Says that the database cannot be reached, now and then.
#[derive(Debug)]
struct LogErrors(RateLimit);

impl r2d2::HandleError<ConnectError> for LogErrors {
    fn handle_error(&self, error: ConnectError) {
        if self.0.allows(Instant::now()) {
            log::warn!("cannot use the database: {error}");
        }
    }
}
