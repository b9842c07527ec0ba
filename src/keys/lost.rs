//! New keys that nobody has: the database may have made them, and the answer with the key could not be given. They are
//! revoked again.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::store::Store;
use crate::store::keys::Revocation;

/// How long a key is looked for that is not there: a commit may hang for as long as a standby is away.
const LOOKED_FOR: Duration = Duration::from_secs(600);
/// Keys that are remembered; of more, the oldest are only told of in the log.
const REMEMBERED: usize = 256;

/// Ids of keys that have to be revoked, and since when.
#[derive(Default)]
pub struct Lost {
    ids: Mutex<Vec<(Uuid, Instant)>>,
}

impl Lost {
    fn ids(&self) -> MutexGuard<'_, Vec<(Uuid, Instant)>> {
        self.ids.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn add(&self, id: Uuid) {
        let mut ids = self.ids();
        if ids.len() == REMEMBERED {
            let (oldest, _) = ids.remove(0);
            log::warn!(key_id:% = oldest; "a new key may be valid though nobody has it: revoke it");
        }
        ids.push((id, Instant::now()));
    }

    /// Revokes what is there of them by now; keeps the others for the next time.
    pub fn revoke(&self, store: &Store, limit: Duration) {
        let ids = std::mem::take(&mut *self.ids());
        for (id, since) in ids {
            match store.revoke(id, Instant::now() + limit).map(|revocation| revocation.value) {
                Ok(Revocation::Revoked(name)) => {
                    log::info!(key_id:% = id, name = name; "key revoked: the answer with it could not be given");
                }
                Ok(Revocation::Earlier) => {}
                Ok(Revocation::Unknown) if since.elapsed() > LOOKED_FOR => {}
                Ok(Revocation::Unknown) | Err(_) => self.ids().push((id, since)),
            }
        }
    }
}
