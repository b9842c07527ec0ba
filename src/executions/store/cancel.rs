//! Cancels executions.

use std::time::Instant;

use uuid::Uuid;

use super::locked::LockedRow;
use super::unread;
use crate::auth::Tenant;
use crate::executions::ExecutionStatus;
use crate::store::{Committed, Store, StoreError};

/// An execution that was changed, as it is since then.
#[derive(Debug)]
pub struct ChangedExecution {
    pub workflow: String,
    pub status: ExecutionStatus,
}

/// Why nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotChanged {
    NotFound,
    /// Its state does not allow it.
    Status(ExecutionStatus),
    /// A retry of one whose version was deleted.
    NoVersion,
}

/// Attempts that run are ended by their hosts.
pub const CANCEL_ATTEMPTS: &str = "UPDATE cloacina_attempts SET is_cancelled = true WHERE execution = $1 AND ended_at IS NULL AND NOT is_cancelled";

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
) -> Result<Result<Committed<ChangedExecution>, NotChanged>, StoreError> {
    let outcome = store.transact(until, |transaction| {
        let row = LockedRow::lock(transaction, execution, Some(tenant.id()))?;
        let Some(row) = row else { return Ok(Err(NotChanged::NotFound)) };
        if row.status.has_ended() {
            return Ok(Err(NotChanged::Status(row.status)));
        }
        let mut execution = match row.load(transaction)? {
            Ok(execution) => execution,
            Err(row) => {
                let (status, ends) = unread::end(transaction, &row, true)?;
                return Ok(Ok((ChangedExecution { workflow: row.workflow, status }, ends)));
            }
        };
        execution.cancel();
        let (id, status) = (execution.row.id, execution.row.status);
        let workflow = execution.row.workflow.clone();
        let ends = execution.save(transaction)?;
        transaction.execute(CANCEL_ATTEMPTS, &[&id])?;
        Ok(Ok((ChangedExecution { workflow, status }, ends)))
    })?;
    Ok(outcome.map(|Committed { value: (changed, ends), is_confirmed }| {
        ends.count(store);
        Committed { value: changed, is_confirmed }
    }))
}
