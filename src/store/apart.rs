//! Changes that take seconds: on sessions of their own, so that none of the pool's is held meanwhile.

use std::time::{Duration, Instant};

use postgres::Transaction;

use super::session::Session;
use super::{Cause, Committed, Store, StoreError};
use crate::postgres_link::release;

/// How long a session may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

impl Store {
    /// Runs a change, once, in a transaction on a session that is not one of the pool's. What it refuses itself is rolled
    /// back. All of it is over at `until`, unless the database is silent; each statement has the time of any.
    ///
    /// # Errors
    /// `Unknown` when the session broke during the commit. All other errors say that nothing was changed.
    pub fn write_apart<T, R>(
        &self,
        until: Instant,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<Result<T, R>, postgres::Error>,
    ) -> Result<Result<Committed<T>, R>, StoreError> {
        let limit = CONNECT_LIMIT.min(until.saturating_duration_since(Instant::now()));
        let new_session = self.factory.create(limit).map_err(|error| {
            self.status.look_now();
            StoreError::Unavailable(Cause::NotConnected(error))
        })?;
        let mut session = Session::new(new_session);
        let mut is_committing = false;
        let (result, is_cancelled) = self.run(&mut session, until, |session| {
            let mut transaction = session.client.transaction()?;
            let outcome = work(&mut transaction)?;
            if outcome.is_ok() {
                is_committing = true;
                transaction.commit()?;
            }
            Ok(outcome)
        });
        let outcome = match result {
            Ok(outcome) => Ok(outcome.map(|value| Committed { value, is_confirmed: !is_cancelled })),
            Err(error) => match self.is_dead(&mut session, &error) && is_committing {
                true => Err(StoreError::Unknown(Cause::Driver(error))),
                false => Err(StoreError::from(error)),
            },
        };
        if session.silent {
            release(session);
        }
        outcome
    }
}
