//! The thread that removes what is kept no longer. It takes small steps with pauses between them, so that nothing else is
//! slower for it, and several servers may do it at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::store::retention::{self, Whose};
use crate::app::App;
use crate::store::StoreError;

/// How often it is looked for what is to go.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The sum of a tenant's logs is asked for so seldom that it takes no more than this share of the time.
const SUMS_APART: u32 = 100;
/// How long one step may take.
const STEP_LIMIT: Duration = Duration::from_secs(2);
/// After a step, as many times as long as it took; and no less than this.
const PAUSE: u32 = 4;
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// Executions in one step; fewer once a step took too long.
const MOST_EXECUTIONS: i64 = 50;
const MOST_KEYS: i64 = 1000;

struct Cleaner<'a> {
    app: &'a App,
    stop: &'a AtomicBool,
    executions_at_once: i64,
    next_sums: Instant,
}

/// Runs until `stop` is set and it is unparked.
pub fn watch(app: &App, stop: &AtomicBool) {
    let mut cleaner = Cleaner { app, stop, executions_at_once: MOST_EXECUTIONS, next_sums: Instant::now() };
    while !stop.load(Ordering::Acquire) {
        let next = Instant::now() + LOOK_EVERY;
        // One that fails keeps the others from nothing.
        for (what, done) in [
            ("old idempotency keys", cleaner.remove_keys()),
            ("old executions", cleaner.remove_executions()),
            ("the rest of old executions", cleaner.remove_hidden()),
            ("logs over a tenant's limit", cleaner.remove_logs()),
        ] {
            if let Err(error) = done {
                log::debug!("cannot remove {what}: {error}");
            }
        }
        while !stop.load(Ordering::Acquire) && Instant::now() < next {
            thread::park_timeout(next.saturating_duration_since(Instant::now()));
        }
    }
}

impl Cleaner<'_> {
    fn until(&self) -> Instant {
        Instant::now() + STEP_LIMIT.min(self.app.database_timeout)
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn pause(&self, began: Instant) {
        if !self.stops() {
            thread::park_timeout((began.elapsed() * PAUSE).max(SHORTEST_PAUSE));
        }
    }

    fn remove_keys(&self) -> Result<(), StoreError> {
        while !self.stops() {
            let began = Instant::now();
            if retention::remove_keys(&self.app.store, MOST_KEYS, self.until())? < MOST_KEYS as u64 {
                return Ok(());
            }
            self.pause(began);
        }
        Ok(())
    }

    fn remove_executions(&mut self) -> Result<(), StoreError> {
        for tenant in retention::tenants_with_old(&self.app.store, self.until())? {
            let removed = self.remove_executions_of(tenant)?;
            if removed > 0 {
                log::info!(tenant:%, executions = removed; "executions that are kept no longer are gone");
            }
        }
        Ok(())
    }

    fn remove_executions_of(&mut self, tenant: Uuid) -> Result<usize, StoreError> {
        let (mut removed, mut after) = (0, None);
        while !self.stops() {
            let (began, most) = (Instant::now(), self.executions_at_once);
            match retention::remove_old(&self.app.store, tenant, after, most, self.until()) {
                Ok((some, next)) => {
                    removed += some;
                    self.executions_at_once = (most * 2).min(MOST_EXECUTIONS);
                    let Some(next) = next else { break };
                    after = next;
                }
                Err(error) => {
                    self.executions_at_once = (most / 2).max(1);
                    if most == 1 {
                        return Err(error);
                    }
                }
            }
            self.pause(began);
        }
        Ok(removed)
    }

    fn remove_hidden(&mut self) -> Result<(), StoreError> {
        while !self.stops() {
            let (began, most) = (Instant::now(), self.executions_at_once);
            match retention::remove_hidden(&self.app.store, most, self.until()) {
                Ok(true) => self.executions_at_once = (most * 2).min(MOST_EXECUTIONS),
                Ok(false) => return Ok(()),
                Err(error) if most == 1 => return Err(error),
                Err(_) => self.executions_at_once = (most / 2).max(1),
            }
            self.pause(began);
        }
        Ok(())
    }

    fn remove_logs(&mut self) -> Result<(), StoreError> {
        if Instant::now() < self.next_sums {
            return Ok(());
        }
        for (tenant, limit) in retention::tenants_with_limit(&self.app.store, self.until())? {
            let began = Instant::now();
            let bytes = retention::log_bytes(&self.app.store, tenant, self.until())?;
            self.next_sums = self.next_sums.max(Instant::now() + began.elapsed() * SUMS_APART);
            let mut excess = bytes - limit;
            for whose in [Whose::OfEnded, Whose::OfAll] {
                excess -= self.remove_logs_of(tenant, whose, excess)?;
            }
            if excess < bytes - limit {
                let gone = bytes - limit - excess;
                log::info!(tenant:%, bytes = gone; "the oldest logs of a tenant that had more than it may are gone");
            }
        }
        Ok(())
    }

    /// How many bytes are gone.
    fn remove_logs_of(&self, tenant: Uuid, whose: Whose, excess: i64) -> Result<i64, StoreError> {
        let (mut gone, mut after) = (0, None);
        while gone < excess && !self.stops() {
            let began = Instant::now();
            let (some, next) =
                retention::remove_logs(&self.app.store, tenant, whose, after, excess - gone, self.until())?;
            gone += some;
            let Some(next) = next else { break };
            after = next;
            self.pause(began);
        }
        Ok(gone)
    }
}
