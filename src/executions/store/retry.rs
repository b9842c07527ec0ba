//! Runs executions again from where they failed.

use std::time::Instant;

use uuid::Uuid;

use super::cancel::NotChanged;
use crate::auth::Tenant;
use crate::executions::ExecutionStatus;
use crate::store::{Committed, Store, StoreError};

/// Has what failed, was cancelled or skipped, and all that is downstream of it, run again. Its status is Pending then.
///
/// # Errors
/// See `StoreError`.
pub fn retry(
    store: &Store,
    tenant: &Tenant,
    execution: Uuid,
    until: Instant,
) -> Result<Result<Committed<ExecutionStatus>, NotChanged>, StoreError> {
    let _ = (store, tenant, execution, until);
    todo!()
}
