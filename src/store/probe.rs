//! The look that is taken at the database again and again, on a session of its own: so that a pool which is merely busy
//! is told from a database that is gone. And another, by which a failover is noticed though the old sessions are still
//! there.

use std::time::{Duration, Instant};

use super::Store;
use super::database_status::Trouble;
use crate::postgres_link::{ConnectError, NewSession, SessionFactory, ends_session, first_value};

/// A session that serves no request.
#[derive(Default)]
pub struct Probe {
    session: Option<NewSession>,
}

/// New sessions that one look makes at most.
const MOST_CREATED: u32 = 2;

impl Probe {
    /// Whether the database answers, and takes writes, within `limit`. A session that ended is replaced, and so is a new
    /// one once more: whatever ended the first may have ended that as well, with the database there all the while.
    fn ask(&mut self, factory: &SessionFactory, limit: Duration) -> Result<(), Trouble> {
        if let Some(session) = self.session.take_if(|session| !factory.is_current(session.epoch)) {
            session.give_up();
        }
        let until = Instant::now() + limit;
        let mut created = 0;
        loop {
            let mut session = match self.session.take() {
                Some(session) => session,
                None => {
                    created += 1;
                    match factory.create(limit) {
                        Ok(session) => session,
                        Err(ConnectError::ReadOnly) => return Err(Trouble::ReadOnly),
                        Err(_) if created < MOST_CREATED && Instant::now() < until => continue,
                        Err(error) => {
                            log::debug!("cannot look at the database: {error}");
                            return Err(Trouble::Unreachable);
                        }
                    }
                }
            };
            let began = Instant::now();
            session.limit.set(Some(began + limit));
            let outcome = session.client.is_valid(limit).and_then(|()| {
                first_value(&mut session.client, "SELECT current_setting('transaction_read_only')")
            });
            session.limit.set(None);
            match outcome {
                Ok(read_only) if read_only.as_deref() == Some("off") => {
                    self.session = Some(session);
                    return Ok(());
                }
                Ok(_) => {
                    factory.forget(session.epoch);
                    return Err(Trouble::ReadOnly);
                }
                Err(error) => {
                    // One that is merely silent says nothing of the others.
                    if ends_session(&error) && began.elapsed() < limit {
                        factory.forget(session.epoch);
                    }
                    session.give_up();
                    if created == MOST_CREATED || created > 0 && Instant::now() >= until {
                        return Err(Trouble::Unreachable);
                    }
                }
            }
        }
    }
}

impl Store {
    /// Looks at the database and at the pool, and notes what was found; each of its steps takes `limit` at most.
    pub fn look(&self, limit: Duration) {
        self.factory.wait_for_start();
        let began = Instant::now();
        let mut probe = self.probe.lock();
        let outcome = probe.ask(&self.factory, limit).and_then(|()| {
            self.status.answered(began);
            self.look_at_pool(limit)
        });
        match outcome {
            Ok(()) => self.status.reached(began),
            Err(trouble) => self.status.failed(trouble),
        }
    }

    /// Makes a new session, by which the factory sees whether it leads to the same server as those before. None, or one
    /// to a standby, says nothing of those that there are.
    pub fn see_whether_it_is_the_same_server(&self, limit: Duration) {
        self.factory.wait_for_start();
        match self.factory.create(limit) {
            // Its end takes no longer either.
            Ok(session) => session.limit.set(Some(Instant::now() + limit)),
            Err(error) => log::debug!("cannot make a session to see where it leads: {error}"),
        }
    }

    /// Brings the pool's metrics up to date.
    pub fn show_pool(&self) {
        let state = self.pool.state();
        self.metrics.pool_size.set(i64::from(state.connections));
        self.metrics.pool_idle.set(i64::from(state.idle_connections));
    }

    /// Whether a session can be had, and the database answers on it: one over which nothing comes any more is found out
    /// here rather than by a request.
    fn look_at_pool(&self, limit: Duration) -> Result<(), Trouble> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut session =
                self.pool.get_timeout(left).map_err(|_| match self.pool.state().connections {
                    0 => Trouble::Unreachable,
                    _ => Trouble::Busy,
                })?;
            let Err(error) = session.client.is_valid(left.max(Duration::from_millis(100))) else {
                return Ok(());
            };
            if !self.is_dead(&mut session, &error) {
                // It would be the first to be handed out again.
                session.give_up();
            }
            if Instant::now() >= until {
                return Err(Trouble::Unreachable);
            }
        }
    }
}
