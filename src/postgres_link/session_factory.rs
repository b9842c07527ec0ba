//! Makes connections that take writes, and knows which of them are older than the last time the database was lost.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postgres::Client;

use super::connect_error::ConnectError;
use super::connector::Connector;
use super::hosts::Connected;
use super::stream::Limit;

/// Before the database was lost for the first time.
const FIRST_EPOCH: u64 = 0;

/// Makes connections, and knows which of them are older than the last time the database was lost, or another server
/// took its place.
pub struct SessionFactory {
    pub connector: Connector,
    /// Grows whenever the connections that there are turn out to be of no use.
    epoch: AtomicU64,
    /// After which PostgreSQL gives up a statement, so that one that waits for a lock does not keep its worker.
    pub statement_timeout: Duration,
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

    /// Lets the pool have more than its first session, which it opens in the background.
    pub fn start(&self) {
        let _ = self.started.set(());
    }

    /// A connection that takes writes, to the server that takes them now. `limit` is for all hosts together.
    ///
    /// When that is another server than the last time, every connection made before this one began is of no use: its
    /// server may not hear of changes any more. This one is as old as those, since it may itself be the one that came
    /// late.
    ///
    /// # Errors
    /// Those of the last host; that one is read-only before all others.
    pub fn create(&self, limit: Duration) -> Result<NewSession, ConnectError> {
        self.create_with(self.statement_timeout, limit)
    }

    /// The same for a start, whose statements may take as long as they like.
    pub fn create_for_start(&self) -> Result<NewSession, ConnectError> {
        self.create_with(Duration::ZERO, Duration::MAX)
    }

    fn create_with(&self, statement_timeout: Duration, limit: Duration) -> Result<NewSession, ConnectError> {
        // Read first: a loss while we connect makes this connection an old one.
        let epoch = self.epoch.load(Ordering::Acquire);
        let Connected { client, limit, instance } = self.connector.connect(statement_timeout, limit)?;
        let mut last = self.instance.lock();
        if *last != instance {
            if !last.is_empty() {
                log::warn!("another PostgreSQL server answers now; sessions on the last one are given up");
                self.epoch.fetch_add(1, Ordering::AcqRel);
            }
            *last = instance;
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

/// Drops a session, or a link, that owes us an answer: the driver waits for that before it closes, so a thread has
/// to. It ends when the database answers, or its host does not any more.
pub fn release(silent: impl Send + 'static) {
    let thread = std::thread::Builder::new().name("farewell".to_owned());
    if let Err(error) = thread.spawn(move || drop(silent)) {
        log::error!("cannot start a thread: {error}");
    }
}
