//! What a key is, who may pass, and the endpoints under `/auth`.

mod authenticate;
pub mod bootstrap;
pub mod cache;
pub mod command;
pub mod expiry;
pub mod handlers;
pub mod invalidation;
pub mod key;
mod last_use;
mod listing;
mod request_body;
mod undelivered;
pub mod waiting_responses;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use uuid::Uuid;

use crate::config::Settings;
use crate::http::response::Error;
use crate::metrics::Metrics;
use crate::random;
use crate::store::invalidation::since_boot;
use crate::store::{Store, StoreError};
use cache::Cache;
use last_use::LastUsedRecorder;
use undelivered::Undelivered;
use waiting_responses::WaitingResponses;

/// What a second rotation of a key is told: it has its one successor, so no client with an old key can make new ones.
const ALREADY_ROTATED: &str = "key was already rotated";

/// The room's state: what its handlers work on.
pub struct Keys {
    pub store: Store,
    pub cache: Cache,
    /// This process among those that share the database.
    pub server: Uuid,
    last_used: LastUsedRecorder,
    /// Answers that wait for other servers.
    waiting: Arc<WaitingResponses>,
    lost: Arc<Undelivered>,
    /// How long the database may take for what no request waits for.
    database_timeout: Duration,
    /// Longest life of a new key; zero is no limit.
    max_lifetime: Duration,
    metrics: Arc<Metrics>,
}

/// Who asks: the row of the key that came with the request.
#[derive(Debug)]
pub struct Principal {
    pub id: Uuid,
    /// As stored, but no longer than the name of a new key; so is `permissions`.
    pub name: String,
    /// See `permission`.
    pub permissions: String,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
    /// A later server's key for a tenant, which does not exist here: it opens nothing.
    pub is_tenants: bool,
    /// The last use that was noted, in seconds since 1970; 0: none.
    pub noted_use: AtomicI64,
    pub clock: DatabaseClock,
}

/// The database's clock as a lookup saw it; it goes on by our own count of time, not by what our clock says it is.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseClock {
    pub then: OffsetDateTime,
    /// When that was, `since_boot`.
    pub since_boot: Duration,
}

impl DatabaseClock {
    pub fn now(self) -> OffsetDateTime {
        self.then.saturating_add(
            time::Duration::try_from(since_boot().saturating_sub(self.since_boot)).unwrap_or_default(),
        )
    }
}

/// What a key may do. Only `Admin` manages keys; what the others mean is up to whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    Read,
    Write,
    Admin,
}

impl Permission {
    pub const NAMES: &'static str = "admin, write or read";

    pub fn parse(name: &str) -> Option<Permission> {
        match name {
            "admin" => Some(Permission::Admin),
            "write" => Some(Permission::Write),
            "read" => Some(Permission::Read),
            _ => None,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Permission::Admin => "admin",
            Permission::Write => "write",
            Permission::Read => "read",
        }
    }
}

impl Principal {
    /// `None` for what an older server may have stored and this one does not know, and for a tenant's key: it opens
    /// nothing.
    pub fn permission(&self) -> Option<Permission> {
        Permission::parse(&self.permissions).filter(|_| !self.is_tenants)
    }

    #[cfg(test)]
    pub fn for_tests(name: &str) -> Principal {
        Principal {
            id: Uuid::nil(),
            name: name.to_owned(),
            permissions: "admin".to_owned(),
            created_at: OffsetDateTime::UNIX_EPOCH,
            expires_at: None,
            is_tenants: false,
            noted_use: AtomicI64::new(0),
            clock: DatabaseClock { then: OffsetDateTime::UNIX_EPOCH, since_boot: Duration::ZERO },
        }
    }
}

impl Keys {
    pub fn new(store: Store, settings: &Settings, metrics: Arc<Metrics>) -> Result<Keys, Error> {
        let cache = Cache::new(settings.cache_size, settings.cache_ttl);
        let max_lifetime = settings.max_key_lifetime;
        Ok(Keys {
            store,
            cache,
            server: fresh_id()?,
            last_used: LastUsedRecorder::default(),
            waiting: Arc::default(),
            lost: Arc::default(),
            database_timeout: settings.database_timeout,
            max_lifetime,
            metrics,
        })
    }

    /// Writes down when keys were last used; what cannot be written now is kept for the next time.
    pub fn write_uses(&self) {
        self.last_used.write(&self.store, self.database_timeout);
    }

    /// Undoes creations and rotations whose answers could not be given.
    pub fn undo_lost(&self) {
        self.lost.undo(&self.store, self.database_timeout);
    }

    /// Whether any are still to be undone.
    pub fn has_lost(&self) -> bool {
        self.lost.has_any()
    }

    /// Lets the answers that wait be given until this moment, once no request is carried out any more.
    pub fn finish_answers(&self, until: Instant) {
        self.waiting.finish(until);
    }

    /// Undoes what no client was told of, once no answer is given any more.
    pub fn finish_lost(&self) {
        self.undo_lost();
        self.lost.give_up();
    }

    /// When a new key ends: as asked for, within the longest life that is allowed, by the database's clock. Where
    /// neither says anything, that is not asked.
    ///
    /// # Errors
    /// 422: it has ended already, or would live for longer.
    fn end(&self, asked: Option<request_body::End>, until: Instant) -> Result<Option<OffsetDateTime>, Error> {
        if asked.is_none() && self.max_lifetime.is_zero() {
            return Ok(None);
        }
        let now = self.store.now(until)?;
        let field = asked.map_or("expires_at", request_body::End::field);
        asked
            .map(|end| end.at(now))
            .transpose()
            .map_err(str::to_owned)
            .and_then(|at| expiry::bounded(at, self.max_lifetime, now))
            .map_err(|line| request_body::wrong(field, line))
    }

    /// The longest life in seconds, for the database.
    fn longest_seconds(&self) -> Option<f64> {
        (!self.max_lifetime.is_zero()).then_some(self.max_lifetime.as_secs_f64())
    }

    /// Brings the metrics' number of keys up to date.
    pub fn count(&self) {
        match self.store.count(Instant::now() + self.database_timeout) {
            Ok((active, revoked)) => self.metrics.set_keys(active, revoked),
            Err(error) => log::debug!("cannot count the keys: {error}"),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        match error {
            StoreError::Unavailable(text) => {
                log::debug!("database unavailable: {text}");
                Error::DatabaseUnavailable
            }
            StoreError::Refused(text) => Error::Internal(text),
            StoreError::Unknown(text) => {
                log::debug!("the outcome of a change is unknown: {text}");
                Error::OutcomeUnknown
            }
        }
    }
}

/// A random UUID (version 4).
///
/// # Errors
/// The system has no random bytes.
pub fn fresh_id() -> Result<Uuid, Error> {
    random::uuid().map_err(|error| Error::Internal(format!("no random bytes: {error}")))
}
