//! r2d2 over sessions that carry their prepared statements: a statement is parsed once for each session, and no
//! checkout for a read costs a round trip.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use postgres::{CancelToken, Client};
use r2d2::ManageConnection;

use super::connector::{ConnectError, Connected, Connector};
use super::keys::Statements;
use super::stream::Limit;
use crate::rate_limit::RateLimit;

/// How long a request waits for a session. Half of it also bounds the pause between r2d2's attempts to connect, so
/// that a database that is back is in use again within half a second.
pub const SESSION_WAIT: Duration = Duration::from_secs(1);
/// r2d2 tries to connect again and again while the database is down; that is one line in so long.
const ERROR_LINE_EVERY: Duration = Duration::from_secs(30);

/// Before the database was lost for the first time.
const FIRST_EPOCH: u64 = 0;

/// Makes connections, and knows which of them are older than the last time the database was lost, or another server
/// took its place.
pub struct SessionFactory {
    pub connector: Connector,
    epoch: AtomicU64,
    /// After which PostgreSQL gives up a statement, so that one that waits for a lock does not keep its worker.
    statement_timeout: Duration,
    /// For how long to wait for a session of a database that is not known to be down.
    pub session_wait: Duration,
    /// The server that took the last connection.
    instance: Mutex<String>,
    /// Set when the pool may fill itself.
    started: OnceLock<()>,
}

/// A connection that takes writes, and how old it is.
pub struct NewSession {
    pub client: Client,
    pub limit: Limit,
    pub epoch: u64,
}

impl SessionFactory {
    pub fn new(connector: Connector, session_wait: Duration, statement_timeout: Duration) -> SessionFactory {
        SessionFactory {
            connector,
            epoch: AtomicU64::new(FIRST_EPOCH),
            statement_timeout,
            session_wait,
            instance: Mutex::default(),
            started: OnceLock::new(),
        }
    }

    /// Lets the pool have more than its first session.
    pub fn start(&self) {
        let _ = self.started.set(());
    }

    /// A connection that takes writes, to the server that takes them now.
    ///
    /// When that is another server than the last time, every connection made before this one began is of no use: its
    /// server may not hear of changes any more. This one is as old as those, since it may itself be the one that came
    /// late.
    pub fn create(&self) -> Result<NewSession, ConnectError> {
        self.create_with(self.statement_timeout, Duration::MAX)
    }

    /// The same, with this limit for all hosts together.
    pub fn create_within(&self, limit: Duration) -> Result<NewSession, ConnectError> {
        self.create_with(self.statement_timeout, limit)
    }

    /// The same for a start, whose statements may take as long as they like.
    pub fn create_for_start(&self) -> Result<NewSession, ConnectError> {
        self.create_with(Duration::ZERO, Duration::MAX)
    }

    fn create_with(&self, statement_timeout: Duration, limit: Duration) -> Result<NewSession, ConnectError> {
        // Read first: a loss while we connect makes this connection an old one.
        let epoch = self.epoch.load(Ordering::Acquire);
        let Connected { client, limit, pinned } = self.connector.connect(statement_timeout, limit)?;
        let mut instance = self.instance.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if *instance != pinned.instance {
            if !instance.is_empty() {
                log::warn!("another PostgreSQL server answers now; sessions on the last one are given up");
                self.epoch.fetch_add(1, Ordering::AcqRel);
            }
            *instance = pinned.instance;
        }
        Ok(NewSession { client, limit, epoch })
    }

    /// Waits until the pool may fill itself.
    pub fn wait_for_start(&self) {
        self.started.wait();
    }

    /// What is of this epoch is dead, and so is all that is as old. What was already known to be old says nothing of
    /// what was made since.
    pub fn forget(&self, epoch: u64) {
        let _ = self.epoch.compare_exchange(epoch, epoch + 1, Ordering::AcqRel, Ordering::Acquire);
    }

    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub fn is_current(&self, epoch: u64) -> bool {
        epoch == self.epoch()
    }
}

impl NewSession {
    /// Drops a connection that may owe us an answer, without waiting for that.
    pub fn give_up(self) {
        self.limit.set(Some(Instant::now()));
        release(self);
    }
}

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
        let dead = super::ends_session(error) || self.client.is_closed();
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

/// Drops a session, or a link, that owes us an answer: the driver waits for that before it closes, so a thread has
/// to. It ends when the database answers, or its host does not any more.
pub fn release(silent: impl Send + 'static) {
    let thread = std::thread::Builder::new().name("farewell".to_owned());
    if let Err(error) = thread.spawn(move || drop(silent)) {
        log::error!("cannot start a thread: {error}");
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
