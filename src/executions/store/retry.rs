//! Runs executions again from where they failed.

use std::time::Instant;

use uuid::Uuid;

use super::cancel::{ChangedExecution, NotChanged};
use super::locked::LockedRow;
use crate::auth::Tenant;
use crate::executions::ExecutionStatus;
use crate::store::{Committed, Store, StoreError};

/// The version may not be deleted before the end of the transaction.
const VERSION: &str = "SELECT FROM cloacina_packages
     WHERE tenant = $1 AND name = $2 AND version = $3 AND deleted_at IS NULL FOR KEY SHARE";

/// Has what failed, was cancelled or skipped, and all that is downstream of it, run again. Its status is Pending then.
///
/// # Errors
/// See `StoreError`.
pub fn retry(
    store: &Store,
    tenant: &Tenant,
    execution: Uuid,
    until: Instant,
) -> Result<Result<Committed<ChangedExecution>, NotChanged>, StoreError> {
    store.transact(until, |transaction| {
        let row = LockedRow::lock(transaction, execution, Some(tenant.id()))?;
        let Some(row) = row else { return Ok(Err(NotChanged::NotFound)) };
        if !matches!(row.status, ExecutionStatus::Failed | ExecutionStatus::Cancelled) {
            return Ok(Err(NotChanged::Status(row.status)));
        }
        let version = transaction.query_opt(VERSION, &[&tenant.id(), &row.workflow, &row.version])?;
        if version.is_none() {
            return Ok(Err(NotChanged::NoVersion));
        }
        let status = row.status;
        let Ok(mut execution) = row.load(transaction)? else { return Ok(Err(NotChanged::NoVersion)) };
        if !execution.retry() {
            return Ok(Err(NotChanged::Status(status)));
        }
        let workflow = execution.row.workflow.clone();
        // Nothing of it ends by that.
        let _ = execution.save(transaction)?;
        Ok(Ok(ChangedExecution { workflow, status: ExecutionStatus::Pending }))
    })
}
