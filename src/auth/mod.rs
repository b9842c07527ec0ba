//! Who asks and what they may do: a bearer token becomes a principal, by way of a cache that every other server's
//! changes empty before the client that made them is answered.

pub mod announcement;
pub mod api_key;
mod authenticate;
mod cache;
pub mod invalidation;
mod last_use;
pub mod lease;
mod listener;
mod principal;
pub mod store;
mod tenant;
pub mod undelivered;
pub mod waiting_responses;

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::metrics::Metrics;
use crate::store::Store;
use cache::Cache;
use last_use::LastUsedRecorder;
pub use principal::{NAME_CHARACTERS, Owner, Permission, Principal, Scope};
pub use tenant::{FIND_TENANT, Tenant, find_tenant, is_tenant_name};
use undelivered::UndeliveredKeys;
use waiting_responses::WaitingResponses;

/// What turns a key into a principal.
pub struct Auth {
    store: Arc<Store>,
    pub cache: Cache,
    /// This process among those that share the database.
    pub server: Uuid,
    pub last_used: LastUsedRecorder,
    pub waiting: Arc<WaitingResponses>,
    /// New keys whose clients could not be given them.
    pub undelivered: Arc<UndeliveredKeys>,
    metrics: Arc<Metrics>,
}

impl Auth {
    /// A cache of 0 entries is none.
    pub fn new(store: Arc<Store>, cache_entries: usize, cache_ttl: Duration, metrics: Arc<Metrics>) -> Auth {
        Auth {
            store,
            cache: Cache::new(cache_entries, cache_ttl),
            server: Uuid::new_v4(),
            last_used: LastUsedRecorder::default(),
            waiting: Arc::default(),
            undelivered: Arc::default(),
            metrics,
        }
    }
}
