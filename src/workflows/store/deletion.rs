//! The deletion of a version, which executions that have not ended keep from it.

use std::time::Instant;

use postgres::Transaction;

use crate::auth::Tenant;
use crate::store::{Committed, Store, StoreError};
use crate::workflows::names::{Version, WorkflowName};

/// An execution that is about to be made holds the row as well, but for others that are.
pub const LOCK: &str = "SELECT FROM cloacina_packages
     WHERE tenant = $1 AND name = $2 AND version = $3 AND deleted_at IS NULL FOR UPDATE";
pub const IS_USED: &str = "SELECT FROM cloacina_executions
     WHERE tenant = $1 AND workflow = $2 AND version = $3 AND status IN ('Pending', 'Running') LIMIT 1";
pub const DELETE: &str = "UPDATE cloacina_packages SET deleted_at = now()
     WHERE tenant = $1 AND name = $2 AND version = $3 AND deleted_at IS NULL";

/// What the deletion of a version came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    Deleted,
    NotFound,
    /// An execution of it has not ended.
    Used,
}

/// Deletes a version of which no execution runs or waits.
///
/// # Errors
/// See `StoreError`.
pub fn delete(
    store: &Store,
    tenant: &Tenant,
    name: &WorkflowName,
    version: &Version,
    until: Instant,
) -> Result<Committed<Deletion>, StoreError> {
    let version = version.to_string();
    store.write(until, |session| {
        let mut transaction = session.client.transaction()?;
        let (tenant, name) = (tenant.id(), name.as_str());
        let is_there = |transaction: &mut Transaction<'_>, sql| {
            transaction.query_opt(sql, &[&tenant, &name, &version]).map(|row| row.is_some())
        };
        if !is_there(&mut transaction, LOCK)? {
            return Ok(Deletion::NotFound);
        }
        // A statement of its own sees what was committed while the lock was waited for.
        if is_there(&mut transaction, IS_USED)? {
            return Ok(Deletion::Used);
        }
        transaction.execute(DELETE, &[&tenant, &name, &version])?;
        transaction.commit()?;
        Ok(Deletion::Deleted)
    })
}
