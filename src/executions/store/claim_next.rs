//! How a host takes what follows a task in the transaction that writes the task's end.

use std::time::Duration;

use super::claim::{Claimed, ClaimingHost, claim_task, insert, lock};
use super::locked::LockedExecution;
use super::of_tenant::OfTenant;
use crate::store::Transaction;

/// Who takes what has become ready in the place of what has just ended.
#[derive(Debug, Clone, Copy)]
pub struct ClaimNext<'a> {
    pub host: &'a ClaimingHost,
    /// Of the database, when that was decided.
    pub timeline: i64,
}

/// Takes a task that has become ready in this transaction, where nothing else of the tenant's is. `ended`: what it follows.
pub fn claim_next(
    transaction: &mut Transaction<'_>,
    next: ClaimNext<'_>,
    execution: &mut LockedExecution,
    ended: usize,
) -> Result<Option<Claimed>, postgres::Error> {
    let is_next = |(task, wait): &&(usize, Option<Duration>)| *task != ended && wait.is_none();
    let Some((task, _)) = execution.ready.iter().find(is_next).copied() else { return Ok(None) };
    let ClaimNext { host, timeline } = next;
    let Some(row) = lock(transaction, host, execution.row.id, timeline, false)? else { return Ok(None) };
    let of_tenant = OfTenant::read(transaction, &row)?;
    if of_tenant.free == Some(0) {
        return Ok(None);
    }
    execution.contexts.own = Some(row.try_get(13)?);
    let claimed = claim_task(transaction, host, execution, task, &of_tenant)?;
    insert(transaction, host, execution, claimed.as_slice())?;
    execution.decide(transaction)?;
    Ok(claimed)
}
