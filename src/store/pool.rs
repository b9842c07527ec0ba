//! r2d2 over sessions: no checkout for a read costs a round trip.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use r2d2::ManageConnection;

use super::session::Session;
use crate::postgres_link::{ConnectError, SessionFactory, release};
use crate::rate_limit::RateLimit;

/// How long a request waits for a session. Half of it also bounds the pause between r2d2's attempts to connect, so
/// that a database that is back is in use again within half a second.
pub const SESSION_WAIT: Duration = Duration::from_secs(1);
/// r2d2 tries to connect again and again while the database is down; that is one line in so long.
const ERROR_LINE_EVERY: Duration = Duration::from_secs(30);

/// r2d2's view of the sessions.
pub struct Sessions {
    factory: Arc<SessionFactory>,
    /// There already when the pool is opened, so that no request waits for another one.
    first: Mutex<Option<Session>>,
}

impl ManageConnection for Sessions {
    type Connection = Session;
    type Error = ConnectError;

    fn connect(&self) -> Result<Session, ConnectError> {
        if let Some(first) = self.first.lock().take() {
            return Ok(first);
        }
        self.factory.wait_for_start();
        Ok(Session::new(self.factory.create(Duration::MAX)?))
    }

    fn is_valid(&self, session: &mut Session) -> Result<(), ConnectError> {
        Ok(session.client.simple_query("").map(|_| ())?)
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        session.is_broken() || !self.factory.is_current(session.epoch)
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
