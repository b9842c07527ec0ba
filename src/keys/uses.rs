//! When keys were last used: noted in memory with each use, written in batches off the request's path.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use uuid::Uuid;

use super::Caller;
use crate::store::Store;

/// A key's use is noted, and written, at most once in so many seconds.
const APART_SECONDS: i64 = 60;

/// Uses that are still to be written.
#[derive(Default)]
pub struct Uses {
    pending: Mutex<HashMap<Uuid, OffsetDateTime>>,
}

impl Uses {
    fn pending(&self) -> MutexGuard<'_, HashMap<Uuid, OffsetDateTime>> {
        self.pending.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A key was let in now, by the database's clock: several servers write to one row.
    pub fn note(&self, caller: &Caller) {
        let now = caller.clock.now();
        let seconds = now.unix_timestamp();
        let before = caller.noted_use.load(Ordering::Relaxed);
        // A clock that was set back must not silence it until it has caught up.
        if (before..before + APART_SECONDS).contains(&seconds) {
            return;
        }
        caller.noted_use.store(seconds, Ordering::Relaxed);
        self.pending().insert(caller.id, now);
    }

    /// Writes what was noted; keeps what the database does not take now.
    pub fn write(&self, store: &Store, limit: Duration) {
        let batch = std::mem::take(&mut *self.pending());
        if batch.is_empty() {
            return;
        }
        let (ids, moments): (Vec<_>, Vec<_>) = batch.iter().map(|(id, used)| (*id, *used)).unzip();
        let left = store.write_uses(&ids, &moments, Instant::now() + limit).unwrap_or_else(|error| {
            log::debug!("cannot write when keys were last used: {error}");
            ids
        });
        let mut pending = self.pending();
        for id in left {
            if let Some(used) = batch.get(&id) {
                // What was noted meanwhile is younger.
                pending.entry(id).or_insert(*used);
            }
        }
    }
}
