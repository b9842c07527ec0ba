//! When keys were last used: noted in memory with each use, written in batches off the request's path.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use uuid::Uuid;

use super::Caller;
use crate::store::Store;

/// A key's use is noted at most once in so many seconds. The statement that writes it has the same time in it, since each
/// server notes for itself.
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
        self.note_at(caller, caller.clock.now());
    }

    fn note_at(&self, caller: &Caller, now: OffsetDateTime) {
        let seconds = now.unix_timestamp();
        let before = caller.noted_use.load(Ordering::Relaxed);
        // Whole seconds, so one more makes sure that it is not too soon to be written. A clock that was set back must not
        // silence it until it has caught up.
        if (before..=before + APART_SECONDS).contains(&seconds) {
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
        self.keep(&batch, left);
    }

    /// Keeps what was not written.
    fn keep(&self, batch: &HashMap<Uuid, OffsetDateTime>, left: Vec<Uuid>) {
        let mut pending = self.pending();
        for id in left {
            if let Some(used) = batch.get(&id) {
                // What was noted meanwhile is younger.
                pending.entry(id).or_insert(*used);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLIER: OffsetDateTime = time::macros::datetime!(2027-01-31 12:00:00 UTC);
    const LATER: OffsetDateTime = time::macros::datetime!(2027-01-31 12:01:01 UTC);

    #[test]
    fn a_use_is_noted_once_a_minute() {
        let (uses, caller) = (Uses::default(), Caller::for_tests("busy"));
        let noted = |now| {
            uses.note_at(&caller, now);
            std::mem::take(&mut *uses.pending()).remove(&caller.id)
        };
        assert_eq!(noted(EARLIER), Some(EARLIER));
        assert_eq!(noted(EARLIER), None);
        assert_eq!(noted(LATER - time::Duration::SECOND), None);
        assert_eq!(noted(LATER), Some(LATER));
        // A clock that was set back.
        assert_eq!(noted(EARLIER), Some(EARLIER));
    }

    #[test]
    fn what_was_not_written_gives_way_to_what_was_noted_meanwhile() {
        let (uses, caller) = (Uses::default(), Caller::for_tests("patient"));
        let other = Uuid::from_u128(1);
        uses.note_at(&caller, EARLIER);
        let mut batch = std::mem::take(&mut *uses.pending());
        batch.insert(other, EARLIER);
        uses.note_at(&caller, LATER);
        uses.keep(&batch, vec![caller.id, other]);
        assert_eq!(*uses.pending(), HashMap::from([(caller.id, LATER), (other, EARLIER)]));
    }
}
