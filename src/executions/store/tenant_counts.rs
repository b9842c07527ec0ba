//! How many executions a tenant has, and what their logs take.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;

use crate::auth::Tenant;
use crate::executions::ExecutionStatus;
use crate::store::{Store, StoreError};

#[derive(Debug, Clone, Serialize)]
pub struct Counts {
    /// By their status, all of which are there.
    pub executions: BTreeMap<&'static str, i64>,
    /// What is kept of what all tasks printed, but for those that run.
    pub log_bytes: i64,
}

const BY_STATUS: &str = "SELECT status, count(*) FROM cloacina_executions WHERE tenant = $1 GROUP BY status";
const LOG_BYTES: &str = "SELECT COALESCE(sum(log_kept_bytes), 0)::bigint FROM cloacina_attempts WHERE tenant = $1 AND log_kept_bytes > 0";

/// A tenant with fewer executions is counted each time.
const MANY: i64 = 10_000;
/// Of one with more, the counts are given again for so many times as long as it took to count.
const TIMES: u32 = 20;
/// Tenants whose counts are remembered.
const MOST_TENANTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

struct Remembered {
    counts: Counts,
    until: Instant,
}

static REMEMBERED: LazyLock<Mutex<LruCache<Uuid, Remembered>>> =
    LazyLock::new(|| Mutex::new(LruCache::new(MOST_TENANTS)));

/// However often it is asked for, a tenant with very many executions takes no more than a small share of a session's time:
/// its counts may be some seconds old.
///
/// # Errors
/// See `StoreError`.
pub fn count(store: &Store, tenant: &Tenant, until: Instant) -> Result<Counts, StoreError> {
    let began = Instant::now();
    if let Some(remembered) = REMEMBERED.lock().get(&tenant.id()).filter(|known| began < known.until) {
        return Ok(remembered.counts.clone());
    }
    let counts = count_now(store, tenant, until)?;
    if counts.executions.values().sum::<i64>() >= MANY {
        let took: Duration = began.elapsed();
        let remembered = Remembered { counts: counts.clone(), until: Instant::now() + took * TIMES };
        REMEMBERED.lock().put(tenant.id(), remembered);
    }
    Ok(counts)
}

fn count_now(store: &Store, tenant: &Tenant, until: Instant) -> Result<Counts, StoreError> {
    store.read(until, |session| {
        let mut executions: BTreeMap<_, _> =
            ExecutionStatus::ALL.into_iter().map(|status| (status.name(), 0)).collect();
        for row in session.query(BY_STATUS, &[&tenant.id()])? {
            if let Some(status) = ExecutionStatus::from_name(row.try_get(0)?) {
                executions.insert(status.name(), row.try_get(1)?);
            }
        }
        let log_bytes = session.query_one(LOG_BYTES, &[&tenant.id()])?.try_get(0)?;
        Ok(Counts { executions, log_bytes })
    })
}
