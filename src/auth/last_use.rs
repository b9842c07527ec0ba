//! When keys were last used: noted in memory with each use, written in batches off the request's path.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Principal, store};
use crate::store::Store;

/// A key's use is noted at most once in so many seconds. The statement that writes it has the same time in it, since each
/// server notes for itself.
const APART_SECONDS: i64 = 60;

/// Uses that are still to be written.
#[derive(Default)]
pub struct LastUsedRecorder {
    pending: Mutex<HashMap<Uuid, OffsetDateTime>>,
}

impl LastUsedRecorder {
    /// A key was let in now, by the database's clock: several servers write to one row.
    pub fn record(&self, principal: &Principal) {
        self.record_at(principal, principal.clock.now());
    }

    fn record_at(&self, principal: &Principal, now: OffsetDateTime) {
        let seconds = now.unix_timestamp();
        let before = principal.recorded_use.load(Ordering::Relaxed);
        // Whole seconds, so one more makes sure that it is not too soon to be written. A clock that was set back must not
        // silence it until it has caught up.
        if (before..=before + APART_SECONDS).contains(&seconds) {
            return;
        }
        principal.recorded_use.store(seconds, Ordering::Relaxed);
        self.pending.lock().insert(principal.id, now);
    }

    /// Writes what was noted; keeps what the database does not take within the limit.
    pub fn write(&self, store: &Store, limit: Duration) {
        let batch = std::mem::take(&mut *self.pending.lock());
        if batch.is_empty() {
            return;
        }
        let (ids, timestamps): (Vec<_>, Vec<_>) = batch.iter().map(|(id, used)| (*id, *used)).unzip();
        let left =
            store::write_uses(store, &ids, &timestamps, Instant::now() + limit).unwrap_or_else(|error| {
                log::debug!("cannot write when keys were last used: {error}");
                ids
            });
        self.keep(&batch, left);
    }

    /// Keeps what was not written.
    fn keep(&self, batch: &HashMap<Uuid, OffsetDateTime>, left: Vec<Uuid>) {
        let mut pending = self.pending.lock();
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
        let (recorder, principal) = (LastUsedRecorder::default(), Principal::for_tests("busy"));
        let noted = |now| {
            recorder.record_at(&principal, now);
            std::mem::take(&mut *recorder.pending.lock()).remove(&principal.id)
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
        let (recorder, principal) = (LastUsedRecorder::default(), Principal::for_tests("patient"));
        let other = Uuid::from_u128(1);
        recorder.record_at(&principal, EARLIER);
        let mut batch = std::mem::take(&mut *recorder.pending.lock());
        batch.insert(other, EARLIER);
        recorder.record_at(&principal, LATER);
        recorder.keep(&batch, vec![principal.id, other]);
        assert_eq!(*recorder.pending.lock(), HashMap::from([(principal.id, LATER), (other, EARLIER)]));
    }
}
