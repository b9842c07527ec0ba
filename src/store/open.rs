//! From a database URL to a store: wait for a PostgreSQL that is coming up, and look whether it is as it should be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::Client;

use super::migrations::State;
use super::pool::{self, SESSION_WAIT};
use super::session::{Session, TableStatements};
use super::{COMMAND_LIMIT, Store, migrations};
use crate::command_error::CommandError;
use crate::config::Settings;
use crate::metrics::Metrics;
use crate::postgres_link::{Connector, NewSession, SessionFactory, describe, time_limits};

const RETRY_EVERY: Duration = Duration::from_millis(250);

impl Store {
    /// Connects, has the database set up, and opens the pool with one session. `set_up` gets for how long it may wait for
    /// each lock.
    ///
    /// # Errors
    /// One line that says which database, and why not.
    pub fn start(
        settings: &Settings,
        metrics: Arc<Metrics>,
        tables: &[TableStatements],
        set_up: impl FnOnce(&mut Client, Duration) -> Result<(), CommandError>,
    ) -> Result<Store, CommandError> {
        let factory = factory(settings, SESSION_WAIT, settings.database_timeout)?;
        let mut new_session = connect(&factory, settings.database_wait)?;
        set_up(&mut new_session.client, settings.database_wait)?;
        let session = first_session(&factory, new_session, tables)?;
        let pool = pool::open(&factory, session, settings.pool_size);
        let store = Store::new(pool, factory, metrics)?;
        // The first session was used just now, so `/ready` is right from the first request on.
        store.status.reached(Instant::now());
        Ok(store)
    }

    /// For a command that changes keys and ends: it migrates nothing and makes no first key.
    ///
    /// # Errors
    /// As `start`, and if the database is not as a server of this release would leave it.
    pub fn to_change(settings: &Settings, tables: &[TableStatements]) -> Result<Store, CommandError> {
        let (factory, session) = migrated(settings, tables, "")?;
        let pool = pool::open(&factory, session, settings.pool_size);
        factory.start();
        Store::new(pool, factory, Arc::new(Metrics::new()?))
    }

    /// For a command that only looks, on a single session that cannot change anything.
    ///
    /// # Errors
    /// As `to_change`.
    pub fn to_look(settings: &Settings, tables: &[TableStatements]) -> Result<Store, CommandError> {
        let (factory, session) = migrated(settings, tables, "SET default_transaction_read_only = on")?;
        let pool = pool::open(&factory, session, 1);
        Store::new(pool, factory, Arc::new(Metrics::new()?))
    }
}

/// Connects to a database that needs no migration, and does `setup` there.
fn migrated(
    settings: &Settings,
    tables: &[TableStatements],
    setup: &str,
) -> Result<(Arc<SessionFactory>, Session), CommandError> {
    let factory = factory(settings, COMMAND_LIMIT, COMMAND_LIMIT)?;
    let mut new_session = connect(&factory, settings.database_wait)?;
    let place = &factory.connector.place;
    let (state, _) = migrations::state(&mut new_session.client)?;
    if let State::Behind { from, to } = state {
        let what = match from {
            0 => "has not been set up yet".to_owned(),
            from => format!("has version {from} of the schema, and this program needs {to}"),
        };
        return Err(CommandError::Runtime(format!(
            "{place} {what}; nothing was changed: start `cloacinactl serve` there once, which migrates it"
        )));
    }
    new_session.client.batch_execute(setup).map_err(|error| lost(place, &error))?;
    let session = first_session(&factory, new_session, tables)?;
    Ok((factory, session))
}

/// The session that was there until now without time-outs, with everything prepared.
fn first_session(
    factory: &SessionFactory,
    mut new_session: NewSession,
    tables: &[TableStatements],
) -> Result<Session, CommandError> {
    let place = &factory.connector.place;
    new_session
        .client
        .batch_execute(&time_limits(factory.statement_timeout))
        .map_err(|error| lost(place, &error))?;
    let mut session = Session::new(new_session);
    session.prepare_all(tables).map_err(|(table, error)| {
        CommandError::Runtime(format!(
            "the table {table} of {place} is not as expected: {}",
            describe(&error)
        ))
    })?;
    Ok(session)
}

fn lost(place: &str, error: &postgres::Error) -> CommandError {
    CommandError::Runtime(format!("lost {place}: {}", describe(error)))
}

/// What makes connections to the database of these settings.
///
/// # Errors
/// `Usage`: the URL, or a file that it names, is not as it should be.
pub fn factory(
    settings: &Settings,
    session_wait: Duration,
    statement_timeout: Duration,
) -> Result<Arc<SessionFactory>, CommandError> {
    let connector = Connector::new(&settings.database_url, settings.database_url_file.clone())?;
    Ok(Arc::new(SessionFactory::new(connector, session_wait, statement_timeout)))
}

/// A connection that takes writes, to a database that may still be coming up, or a standby that is to be promoted.
///
/// # Errors
/// One line that says which database, and why there is none.
pub fn connect(factory: &SessionFactory, patience: Duration) -> Result<NewSession, CommandError> {
    let connector = &factory.connector;
    let place = &connector.place;
    let until = Instant::now() + patience;
    let mut said = false;
    loop {
        let error = match factory.create_for_start() {
            Ok(new_session) => return Ok(new_session),
            Err(error) => error,
        };
        let reason = connector.hosts().explain(&error);
        if !error.may_pass() || Instant::now() + RETRY_EVERY >= until {
            return Err(CommandError::Runtime(format!("cannot connect to {place}: {reason}")));
        }
        if !said {
            log::warn!("waiting up to {patience:?} for {place}: {reason}");
            said = true;
        }
        std::thread::sleep(RETRY_EVERY);
    }
}
