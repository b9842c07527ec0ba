//! New keys that no client has: the database may have made them, and the answer with the key could not be given. They are
//! revoked again, and a key that was rotated for one works as before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

use super::store::{self, Undone};
use crate::store::Store;

/// How long a key is looked for that is not there: a commit may hang for as long as a standby is away.
const LOOKED_FOR: Duration = Duration::from_secs(600);
/// Keys that are remembered; of more, the oldest are only told of in the log.
const REMEMBERED: usize = 256;

/// Ids of keys that have to be revoked, and since when.
#[derive(Default)]
pub struct UndeliveredKeys {
    ids: Mutex<Vec<(Uuid, Instant)>>,
    /// Some were taken from these, and are being revoked.
    is_undoing: AtomicBool,
}

impl UndeliveredKeys {
    pub fn add(&self, id: Uuid) {
        let mut ids = self.ids.lock();
        if ids.len() == REMEMBERED {
            let (oldest, _) = ids.remove(0);
            log::warn!(key_id:% = oldest; "a new key may be valid though no client has it: revoke it");
        }
        ids.push((id, Instant::now()));
    }

    /// Undoes what is there of them by now; keeps the others for the next time. After the first error nothing more is
    /// asked of the database: each may take this long.
    pub fn undo(&self, store: &Store, limit: Duration) {
        let taken = {
            let mut ids = self.ids.lock();
            self.is_undoing.store(!ids.is_empty(), Ordering::Release);
            std::mem::take(&mut *ids)
        };
        let mut ids = taken.into_iter();
        let mut kept = Vec::new();
        for (id, since) in ids.by_ref() {
            match store::undo(store, id, Instant::now() + limit) {
                Ok(Undone::Now { name, restored }) => {
                    log::info!(key_id:% = id, name = name; "key revoked: the answer with it could not be given");
                    if let Some(old) = restored {
                        log::info!(key_id:% = old, name = name; "rotation undone: the key works as before");
                    }
                }
                Ok(Undone::Earlier) => {}
                Ok(Undone::Unknown) if since.elapsed() > LOOKED_FOR => {
                    log::warn!(key_id:% = id; "looked in vain for a new key that no client has: should it appear, revoke it");
                }
                Ok(Undone::Unknown) => kept.push((id, since)),
                Err(error) => {
                    log::debug!("cannot undo what no client was told of: {error}");
                    kept.push((id, since));
                    break;
                }
            }
        }
        // What was not come to is the first to be tried the next time.
        let mut ids_now = self.ids.lock();
        ids_now.splice(0..0, ids.chain(kept));
        self.is_undoing.store(false, Ordering::Release);
    }

    /// Whether any are left, those included that are being revoked.
    pub fn has_any(&self) -> bool {
        let ids = self.ids.lock();
        !ids.is_empty() || self.is_undoing.load(Ordering::Acquire)
    }

    /// Names those that are still to be undone, when nothing will be tried any more.
    pub fn give_up(&self) {
        for (id, _) in self.ids.lock().drain(..) {
            log::warn!(key_id:% = id; "a new key may be valid though no client has it: revoke it");
        }
    }
}
