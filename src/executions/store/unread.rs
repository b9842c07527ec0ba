//! Ends executions whose manifest is not read any more, as by another version of this program: no graph says what would become
//! of their tasks, so all that have not ended end at once. Attempts that run are ended by their hosts, and are void.

use super::cancel::CANCEL_ATTEMPTS;
use super::locked::LockedRow;
use super::save::Ends;
use crate::executions::{ExecutionStatus, TaskStatus};
use crate::store::Transaction;

/// Why an execution of which anything was to start has failed.
pub const WHY: &str =
    "its version's manifest is not read any more: upload the workflow again, as another version";

const END: &str = "WITH ended AS (
         UPDATE cloacina_tasks SET status = $3, error = $4::text, completed_at = clock_timestamp()
         WHERE execution = $1 AND status IN ('NotStarted', 'Ready', 'Running') RETURNING number, id
     ), new_events AS (
         INSERT INTO cloacina_events (execution, number, event_type, event_data)
         SELECT $1, ($2::int + row_number() OVER (ORDER BY number))::int, $5::text,
                json_strip_nulls(json_build_object('task', id, 'error', $4::text))::text
         FROM ended
         UNION ALL
         SELECT $1, ($2::int + 1 + (SELECT count(*) FROM ended))::int, $6::text,
                CASE WHEN $4::text IS NOT NULL THEN json_build_object('error', $4::text)::text END
     ), left_queue AS (
         DELETE FROM cloacina_queue WHERE execution = $1
     )
     UPDATE cloacina_executions
     SET status = $7, is_cancelled = $8, error = $4::text, last_event = ($2::int + 1 + (SELECT count(*) FROM ended))::int,
         completed_at = clock_timestamp()
     WHERE id = $1 RETURNING (SELECT count(*) FROM ended)";

/// It has failed, or was cancelled: its status then.
pub fn end(
    transaction: &mut Transaction<'_>,
    row: &LockedRow,
    is_cancelled: bool,
) -> Result<(ExecutionStatus, Ends), postgres::Error> {
    let (status, task, why, events) = match is_cancelled {
        true => {
            let events = ["task_cancelled", "pipeline_cancelled"];
            (ExecutionStatus::Cancelled, TaskStatus::Cancelled, None, events)
        }
        false => (ExecutionStatus::Failed, TaskStatus::Failed, Some(WHY), ["task_failed", "pipeline_failed"]),
    };
    let [task_event, event] = events;
    let ended = transaction.query_one(
        END,
        &[&row.id, &row.last_event(), &task.name(), &why, &task_event, &event, &status.name(), &is_cancelled],
    )?;
    transaction.execute(CANCEL_ATTEMPTS, &[&row.id])?;
    let tasks = usize::try_from(ended.try_get::<_, i64>(0)?).unwrap_or(0);
    Ok((status, Ends::of(status, task, tasks)))
}
