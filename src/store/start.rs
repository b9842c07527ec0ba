//! From a database URL to a store: wait for a PostgreSQL that is coming up, migrate, make the first key.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use postgres::Client;

use super::cancel::Running;
use super::connector::{Connector, may_come_up};
use super::migrations::State;
use super::pool::{self, Dialer, SESSION_WAIT, Session};
use super::{COMMAND_LIMIT, Store, describe, keys, migrations};
use crate::config::{Settings, database_url};
use crate::failure::Failure;
use crate::metrics::Metrics;

const RETRY_EVERY: Duration = Duration::from_millis(250);

impl Store {
    /// Connects, migrates, does `first` before any other server may do the same, and opens the pool with one session.
    /// Where there is no key yet, `before_first` comes before anything is changed.
    ///
    /// # Errors
    /// One line that says which database, and why not.
    pub fn start(
        settings: &Settings,
        metrics: Arc<Metrics>,
        before_first: impl FnOnce() -> Result<(), Failure>,
        first: impl FnOnce(&mut Client) -> Result<(), Failure>,
    ) -> Result<Store, Failure> {
        let timeout = settings.database_timeout;
        let (dialer, session) = prepare(settings, SESSION_WAIT, timeout, before_first, first)?;
        let pool = pool::open(&dialer, session, settings.pool_size, timeout);
        let running = Running::start(&dialer).map_err(no_thread)?;
        Ok(Store { pool, dialer, running, metrics })
    }

    /// Opens all other sessions, in the background. A start takes half as long without that beside it.
    pub fn fill(&self) {
        self.dialer.start();
    }

    /// The same for a command that does one thing and ends. It makes no first key. Nobody waits for its answer within
    /// a second, and the database may be far away.
    ///
    /// # Errors
    /// As `start`.
    pub fn for_command(settings: &Settings) -> Result<Store, Failure> {
        let (dialer, session) = prepare(settings, COMMAND_LIMIT, COMMAND_LIMIT, || Ok(()), |_| Ok(()))?;
        let pool = pool::open(&dialer, session, settings.pool_size, COMMAND_LIMIT);
        dialer.start();
        let running = Running::start(&dialer).map_err(no_thread)?;
        Ok(Store { pool, dialer, running, metrics: Arc::new(Metrics::new()?) })
    }
}

fn no_thread(error: std::io::Error) -> Failure {
    Failure::Runtime(format!("cannot start a thread: {error}"))
}

/// What makes connections to the database of these settings.
///
/// # Errors
/// `Usage`: the URL, or a file that it names, is not as it should be.
pub fn dialer(settings: &Settings, session_wait: Duration) -> Result<Arc<Dialer>, Failure> {
    let url = database_url::parse(&settings.database_url)
        .map_err(|reason| Failure::Usage(format!("the database URL {reason}")))?;
    Ok(Arc::new(Dialer::new(Connector::new(url)?, session_wait)))
}

/// Connects, migrates, and does `first` before any other server may do the same. Its connection goes on as the pool's
/// first session.
fn prepare(
    settings: &Settings,
    session_wait: Duration,
    statement_timeout: Duration,
    before_first: impl FnOnce() -> Result<(), Failure>,
    first: impl FnOnce(&mut Client) -> Result<(), Failure>,
) -> Result<(Arc<Dialer>, Session), Failure> {
    let dialer = dialer(settings, session_wait)?;
    let place = &dialer.connector.place;
    let mut client = connect(&dialer, settings.database_wait)?;
    let broken = |error: postgres::Error| Failure::Runtime(format!("lost {place}: {}", describe(&error)));
    migrations::lock(&mut client).map_err(broken)?;
    if migrations::state(&mut client)? != State::Current {
        if keys::is_absent_or_empty(&mut client).map_err(broken)? {
            before_first()?;
        }
        migrations::run(&mut client)?;
    }
    first(&mut client)?;
    migrations::unlock(&mut client).map_err(broken)?;
    let session = Session::first(client, statement_timeout).map_err(|error| {
        Failure::Runtime(format!("the table api_keys of {place} is not as expected: {}", describe(&error)))
    })?;
    Ok((dialer, session))
}

/// A connection to a database that may still be coming up.
///
/// # Errors
/// One line that says which database, and why there is none.
pub fn connect(dialer: &Arc<Dialer>, patience: Duration) -> Result<Client, Failure> {
    let connector = &dialer.connector;
    let place = &connector.place;
    let until = Instant::now() + patience;
    let mut said = false;
    loop {
        match dial_until(dialer, until.max(Instant::now() + connector.attempt_limit)) {
            None => {
                return Err(Failure::Runtime(format!(
                    "cannot connect to {place}: it takes connections and does not answer"
                )));
            }
            Some(Ok(client)) => return Ok(client),
            Some(Err(error)) if may_come_up(&error) && Instant::now() + RETRY_EVERY < until => {
                if !said {
                    log::warn!("waiting up to {patience:?} for {place}: {}", connector.explain(&error));
                    said = true;
                }
                std::thread::sleep(RETRY_EVERY);
            }
            Some(Err(error)) => {
                let reason = connector.explain(&error);
                return Err(Failure::Runtime(format!("cannot connect to {place}: {reason}")));
            }
        }
    }
}

/// `None` when nobody has said a word by then: the driver would wait for ever. The attempt is left to itself; the
/// process ends soon.
fn dial_until(dialer: &Arc<Dialer>, until: Instant) -> Option<Result<Client, postgres::Error>> {
    let dialer = Arc::clone(dialer);
    let (done, dialled) = mpsc::channel();
    std::thread::spawn(move || _ = done.send(dialer.dial()));
    dialled.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
}
