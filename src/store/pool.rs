//! r2d2 over sessions that carry their prepared statements: a statement is parsed once for each session, and no
//! checkout costs a round trip.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use postgres::{CancelToken, Client};
use r2d2::ManageConnection;

use super::connector::Connector;
use super::keys::Statements;

/// How long a request waits for a session. Half of it also bounds the pause between r2d2's attempts to connect, so
/// that a database that is back is in use again within half a second.
pub const SESSION_WAIT: Duration = Duration::from_secs(1);
/// The same while the last one who waited did so in vain: no worker is held for long by a database that is down.
const SESSION_WAIT_WHEN_DOWN: Duration = Duration::from_millis(100);
/// r2d2 tries to connect again and again while the database is down; that is one line in so long.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// Before the database was lost for the first time.
const FIRST_EPOCH: u64 = 0;

/// Makes connections, and knows which of them are older than the last time the database was lost.
pub struct Dialer {
    pub connector: Connector,
    epoch: AtomicU64,
    /// For how long to wait for a session of a database that is not known to be down.
    session_wait: Duration,
    is_down: AtomicBool,
    /// Set when the pool may fill itself.
    started: OnceLock<()>,
}

impl Dialer {
    pub fn new(connector: Connector, session_wait: Duration) -> Dialer {
        Dialer {
            connector,
            epoch: AtomicU64::new(FIRST_EPOCH),
            session_wait,
            is_down: AtomicBool::new(false),
            started: OnceLock::new(),
        }
    }

    /// Lets the pool have more than its first session.
    pub fn start(&self) {
        let _ = self.started.set(());
    }

    /// For how long to wait for a session now.
    pub fn patience(&self) -> Duration {
        if self.is_down.load(Ordering::Relaxed) { SESSION_WAIT_WHEN_DOWN } else { self.session_wait }
    }

    /// Whether the last one who waited for a session did so in vain.
    pub fn note(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Relaxed);
    }

    /// A connection whose commits are on disk when they return, whatever the database's own default: a revocation
    /// that a crash undoes would let a key in again.
    pub fn dial(&self) -> Result<Client, postgres::Error> {
        let mut client = self.connector.connect()?;
        client.batch_execute(
            "SELECT set_config('synchronous_commit', 'on', false)
             WHERE current_setting('synchronous_commit') = 'off'",
        )?;
        Ok(client)
    }

    /// This session is dead, and so are all that are as old. One that was already known to be old says nothing of
    /// those that were made since.
    pub fn forget(&self, dead: &Session) {
        let next = dead.epoch + 1;
        let _ = self.epoch.compare_exchange(dead.epoch, next, Ordering::AcqRel, Ordering::Acquire);
    }

    pub fn is_current(&self, session: &Session) -> bool {
        session.epoch == self.epoch.load(Ordering::Acquire)
    }
}

/// A connection and what was prepared on it.
pub struct Session {
    pub client: Client,
    pub statements: Statements,
    pub cancel: Arc<CancelToken>,
    epoch: u64,
    /// A statement has failed in a way that leaves nothing to hope for.
    dead: bool,
    /// It owes us an answer, and nobody waits for that any more.
    silent: bool,
}

impl Session {
    /// Makes a session of a connection that is as old as `epoch`.
    fn begin(
        mut client: Client,
        epoch: u64,
        statement_timeout: Duration,
    ) -> Result<Session, postgres::Error> {
        client.batch_execute(&format!("SET statement_timeout = {}", statement_timeout.as_millis()))?;
        let statements = Statements::prepare(&mut client)?;
        let cancel = Arc::new(client.cancel_token());
        Ok(Session { client, statements, cancel, epoch, dead: false, silent: false })
    }

    /// Makes the first session of the connection on which everything was prepared.
    ///
    /// # Errors
    /// The session broke, or the table is not as the statements expect it.
    pub fn first(client: Client, statement_timeout: Duration) -> Result<Session, postgres::Error> {
        Session::begin(client, FIRST_EPOCH, statement_timeout)
    }

    /// Whether this error means that the session is of no use any more, and with it all that are as old.
    pub fn is_dead(&mut self, error: &postgres::Error) -> bool {
        use postgres::error::SqlState;
        let told_so = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN];
        let dead = match error.code() {
            Some(code) => told_so.contains(code),
            None => {
                use std::error::Error as _;
                let is_io = error.source().is_some_and(|cause| cause.is::<std::io::Error>());
                is_io || error.is_closed() || self.client.is_closed()
            }
        };
        self.dead |= dead;
        dead
    }

    /// Nothing is known to be wrong with it, but it does not answer in time.
    pub fn give_up(&mut self) {
        self.silent = true;
    }
}

/// r2d2's view of the sessions.
pub struct Sessions {
    dialer: Arc<Dialer>,
    /// After which PostgreSQL gives up a statement, so that one that waits for a lock does not keep its worker.
    statement_timeout: Duration,
    /// There already when the pool is opened, so that nobody waits for another one.
    first: Mutex<Option<Session>>,
}

impl ManageConnection for Sessions {
    type Connection = Session;
    type Error = postgres::Error;

    fn connect(&self) -> Result<Session, postgres::Error> {
        let first = self.first.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(first) = first {
            return Ok(first);
        }
        self.dialer.started.wait();
        // Read first: a loss while we connect makes this session an old one.
        let epoch = self.dialer.epoch.load(Ordering::Acquire);
        Session::begin(self.dialer.dial()?, epoch, self.statement_timeout)
    }

    fn is_valid(&self, session: &mut Session) -> Result<(), postgres::Error> {
        session.client.simple_query("").map(|_| ())
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        session.dead || session.silent || session.client.is_closed() || !self.dialer.is_current(session)
    }
}

/// A pool that begins with one session and fills itself in the background once its dialer has been started.
pub fn open(
    dialer: &Arc<Dialer>,
    first: Session,
    size: u32,
    statement_timeout: Duration,
) -> r2d2::Pool<Sessions> {
    r2d2::Pool::builder()
        .max_size(size)
        .test_on_check_out(false)
        .connection_timeout(SESSION_WAIT)
        .error_handler(Box::new(Complaints::default()))
        .connection_customizer(Box::new(Farewell))
        .build_unchecked(Sessions {
            dialer: Arc::clone(dialer),
            statement_timeout,
            first: Mutex::new(Some(first)),
        })
}

/// Lets go of sessions.
#[derive(Debug)]
struct Farewell;

impl r2d2::CustomizeConnection<Session, postgres::Error> for Farewell {
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
#[derive(Debug, Default)]
struct Complaints {
    last: Mutex<Option<Instant>>,
}

impl r2d2::HandleError<postgres::Error> for Complaints {
    fn handle_error(&self, error: postgres::Error) {
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if last.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            *last = Some(Instant::now());
            log::warn!("cannot connect to the database: {}", super::describe(&error));
        }
    }
}
