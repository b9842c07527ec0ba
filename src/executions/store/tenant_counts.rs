//! How many executions a tenant has, and what their logs take.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use crate::auth::Tenant;
use crate::executions::ExecutionStatus;
use crate::store::{Store, StoreError};

#[derive(Debug, Serialize)]
pub struct Counts {
    /// By their status, all of which are there.
    pub executions: BTreeMap<&'static str, i64>,
    /// What is kept of what all tasks printed, but for those that run.
    pub log_bytes: i64,
}

const BY_STATUS: &str = "SELECT status, count(*) FROM cloacina_executions WHERE tenant = $1 GROUP BY status";
const LOG_BYTES: &str = "SELECT COALESCE(sum(log_kept_bytes), 0)::bigint FROM cloacina_attempts WHERE tenant = $1 AND log_kept_bytes > 0";

/// # Errors
/// See `StoreError`.
pub fn count(store: &Store, tenant: &Tenant, until: Instant) -> Result<Counts, StoreError> {
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
