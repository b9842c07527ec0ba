//! What of executions goes in small transactions: their rows, and all that a removed tenant has left to run.

use postgres::Transaction;
use uuid::Uuid;

/// Executions that one transaction looks at, and rows of a table that it removes.
const EXECUTIONS_AT_ONCE: i64 = 500;
const ROWS_AT_ONCE: i64 = 10_000;
/// Rows of logs, each of which may be large.
const PIECES_AT_ONCE: i64 = 500;

/// What is left of a removed tenant's executions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    Nothing,
    /// Another step may go on at once.
    More,
    /// Attempts that their hosts are to end first.
    Running,
}

/// Whether a tenant has executions that have not ended. While its row is locked, there come no more.
///
/// # Errors
/// Those of the driver; so for all of these.
pub fn has_unfinished(transaction: &mut Transaction<'_>, tenant: Uuid) -> Result<bool, postgres::Error> {
    let unfinished =
        "SELECT FROM cloacina_executions WHERE tenant = $1 AND status IN ('Pending', 'Running') LIMIT 1";
    Ok(transaction.query_opt(unfinished, &[&tenant])?.is_some())
}

/// Takes the next step: nothing more of it starts, what runs is to end, and what has ended goes.
pub fn remove_some(transaction: &mut Transaction<'_>, tenant: Uuid) -> Result<Left, postgres::Error> {
    let queue = "DELETE FROM cloacina_queue WHERE (execution, task) IN (
         SELECT execution, task FROM cloacina_queue WHERE tenant = $1 LIMIT $2 FOR UPDATE SKIP LOCKED)";
    if transaction.execute(queue, &[&tenant, &ROWS_AT_ONCE])? > 0 {
        return Ok(Left::More);
    }
    // Before their attempts are: no task of them becomes ready any more.
    let executions = "UPDATE cloacina_executions SET is_cancelled = true WHERE id IN (
         SELECT id FROM cloacina_executions
         WHERE tenant = $1 AND status IN ('Pending', 'Running') AND NOT is_cancelled LIMIT $2 FOR UPDATE SKIP LOCKED)";
    if transaction.execute(executions, &[&tenant, &EXECUTIONS_AT_ONCE])? > 0 {
        return Ok(Left::More);
    }
    let attempts = "UPDATE cloacina_attempts SET is_cancelled = true WHERE id IN (
         SELECT id FROM cloacina_attempts
         WHERE tenant = $1 AND ended_at IS NULL AND NOT is_cancelled LIMIT $2 FOR UPDATE SKIP LOCKED)";
    transaction.execute(attempts, &[&tenant, &ROWS_AT_ONCE])?;
    let rows = transaction.query(
        "SELECT id FROM cloacina_executions AS execution
         WHERE tenant = $1
           AND NOT EXISTS (SELECT FROM cloacina_attempts WHERE execution = execution.id AND ended_at IS NULL)
         LIMIT $2 FOR UPDATE SKIP LOCKED",
        &[&tenant, &EXECUTIONS_AT_ONCE],
    )?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if !ids.is_empty() {
        remove_rows(transaction, &ids)?;
        return Ok(Left::More);
    }
    let keys = "DELETE FROM cloacina_idempotency_keys WHERE (tenant, workflow, key) IN (
         SELECT tenant, workflow, key FROM cloacina_idempotency_keys WHERE tenant = $1 LIMIT $2)";
    if transaction.execute(keys, &[&tenant, &ROWS_AT_ONCE])? > 0 {
        return Ok(Left::More);
    }
    let any = "SELECT FROM cloacina_executions WHERE tenant = $1 LIMIT 1";
    Ok(if transaction.query_opt(any, &[&tenant])?.is_some() { Left::Running } else { Left::Nothing })
}

/// Removes some of what these executions have, whose rows are locked, of which no attempt runs: whether they are gone.
pub fn remove_rows(transaction: &mut Transaction<'_>, executions: &[Uuid]) -> Result<bool, postgres::Error> {
    for (statement, limit) in [
        (
            "DELETE FROM cloacina_log_pieces WHERE (attempt, at) IN (
                 SELECT attempt, at FROM cloacina_attempts JOIN cloacina_log_pieces ON attempt = id
                 WHERE execution = ANY($1) LIMIT $2)",
            PIECES_AT_ONCE,
        ),
        (
            "DELETE FROM cloacina_attempts WHERE id IN (
                 SELECT id FROM cloacina_attempts WHERE execution = ANY($1) LIMIT $2)",
            ROWS_AT_ONCE,
        ),
        (
            "DELETE FROM cloacina_events WHERE (execution, number) IN (
                 SELECT execution, number FROM cloacina_events WHERE execution = ANY($1) LIMIT $2)",
            ROWS_AT_ONCE,
        ),
        (
            "DELETE FROM cloacina_queue WHERE (execution, task) IN (
                 SELECT execution, task FROM cloacina_queue WHERE execution = ANY($1) LIMIT $2)",
            ROWS_AT_ONCE,
        ),
        (
            "DELETE FROM cloacina_tasks WHERE (execution, number) IN (
                 SELECT execution, number FROM cloacina_tasks WHERE execution = ANY($1) LIMIT $2)",
            ROWS_AT_ONCE,
        ),
    ] {
        if transaction.execute(statement, &[&executions, &limit])? as i64 == limit {
            return Ok(false);
        }
    }
    transaction.execute("DELETE FROM cloacina_executions WHERE id = ANY($1)", &[&executions])?;
    Ok(true)
}
