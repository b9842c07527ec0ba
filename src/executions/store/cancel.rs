//! Cancels executions.

use std::time::Instant;

use uuid::Uuid;

use crate::auth::Tenant;
use crate::executions::ExecutionStatus;
use crate::store::{Committed, Store, StoreError};

/// Why nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotChanged {
    NotFound,
    /// Its state does not allow it.
    Status(ExecutionStatus),
    /// A retry of one whose version was deleted.
    NoVersion,
}

/// Cancels an execution that has not ended. Its status afterwards is Cancelled where no attempt ran, else Running until those
/// that do have ended. Cancelled twice, it is as cancelled once.
///
/// # Errors
/// See `StoreError`.
pub fn cancel(
    store: &Store,
    tenant: &Tenant,
    execution: Uuid,
    until: Instant,
) -> Result<Result<Committed<ExecutionStatus>, NotChanged>, StoreError> {
    let _ = (store, tenant, execution, until);
    todo!()
}
