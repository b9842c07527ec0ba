//! One execution with its tasks, and its context as its tasks have left it.

use std::time::Instant;

use postgres::{GenericClient, IsolationLevel, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::merge::{Merged, order};
use crate::auth::Tenant;
use crate::executions::ExecutionStatus;
use crate::store::{Store, StoreError};

/// Bytes of outputs that are read at once, and for one answer.
const OUTPUT_BYTES_AT_ONCE: usize = 1024 * 1024;
const MOST_OUTPUT_BYTES: usize = 64 * 1024 * 1024;

/// An execution with all that is known of it.
#[derive(Debug)]
pub struct Shown {
    pub workflow: String,
    pub version: String,
    pub status: String,
    pub error: Option<String>,
    pub created_at: OffsetDateTime,
    pub run_at: Option<OffsetDateTime>,
    pub started_at: Option<OffsetDateTime>,
    pub completed_at: Option<OffsetDateTime>,
    /// A JSON object, as text: its own, and over it the outputs so far.
    pub context: String,
    /// It would be too large, and is its own alone.
    pub is_truncated: bool,
    /// In the manifest's order.
    pub tasks: Vec<Task>,
}

impl Shown {
    pub fn has_ended(&self) -> bool {
        ExecutionStatus::from_name(&self.status).is_some_and(ExecutionStatus::has_ended)
    }
}

/// A task of an execution.
#[derive(Debug)]
pub struct Task {
    pub id: String,
    /// Places in the list.
    pub dependencies: Vec<i32>,
    pub status: String,
    pub attempts: i32,
    pub started_at: Option<OffsetDateTime>,
    pub completed_at: Option<OffsetDateTime>,
    pub exit_code: Option<i32>,
    pub error: Option<String>,
    /// Of its output, where it has one.
    pub output_bytes: Option<i32>,
}

const EXECUTION: &str =
    "SELECT workflow, version, status, error, created_at, run_at, started_at, completed_at, context
     FROM cloacina_executions WHERE tenant = $1 AND id = $2";
const TASKS: &str =
    "SELECT id, dependencies, status, attempts, started_at, completed_at, exit_code, error, octet_length(output)
     FROM cloacina_tasks WHERE execution = $1 ORDER BY number";
const OUTPUTS: &str = "SELECT number, output FROM cloacina_tasks WHERE execution = $1 AND number = ANY($2) AND output IS NOT NULL";

fn task(row: &Row) -> Result<Task, postgres::Error> {
    Ok(Task {
        id: row.try_get(0)?,
        dependencies: row.try_get(1)?,
        status: row.try_get(2)?,
        attempts: row.try_get(3)?,
        started_at: row.try_get(4)?,
        completed_at: row.try_get(5)?,
        exit_code: row.try_get(6)?,
        error: row.try_get(7)?,
        output_bytes: row.try_get(8)?,
    })
}

/// `None`: no such execution.
///
/// # Errors
/// See `StoreError`.
pub fn show(
    store: &Store,
    tenant: &Tenant,
    execution: Uuid,
    until: Instant,
) -> Result<Option<Shown>, StoreError> {
    store.read(until, |session| {
        // So that its status, its tasks and their outputs are of the same moment.
        let transaction = session.client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
        let mut transaction = transaction.read_only(true).start()?;
        let Some(row) = transaction.query_opt(EXECUTION, &[&tenant.id(), &execution])? else {
            return Ok(None);
        };
        let rows = transaction.query(TASKS, &[&execution])?;
        let tasks = rows.iter().map(task).collect::<Result<Vec<_>, _>>()?;
        let own: String = row.try_get(8)?;
        let merged = merge_outputs(&mut transaction, execution, &tasks, &own)?;
        transaction.commit()?;
        Ok(Some(Shown {
            workflow: row.try_get(0)?,
            version: row.try_get(1)?,
            status: row.try_get(2)?,
            error: row.try_get(3)?,
            created_at: row.try_get(4)?,
            run_at: row.try_get(5)?,
            started_at: row.try_get(6)?,
            completed_at: row.try_get(7)?,
            is_truncated: merged.is_none(),
            context: merged.unwrap_or(own),
            tasks,
        }))
    })
}

/// The context with the outputs over it; `None`: it is too large. The last ones are read first: what they hold is not taken
/// from those before, so that no more is kept than there will be.
fn merge_outputs(
    client: &mut impl GenericClient,
    execution: Uuid,
    tasks: &[Task],
    own: &str,
) -> Result<Option<String>, postgres::Error> {
    let bytes = |task: usize| tasks[task].output_bytes.unwrap_or(0).unsigned_abs() as usize;
    if tasks.iter().all(|task| task.output_bytes.is_none()) {
        return Ok(Some(own.to_owned()));
    }
    let mut left: Vec<usize> = order(tasks);
    left.retain(|task| tasks[*task].output_bytes.is_some());
    if left.iter().map(|task| bytes(*task)).sum::<usize>() > MOST_OUTPUT_BYTES {
        return Ok(None);
    }
    let mut merged = Merged::default();
    while let Some(last) = left.pop() {
        let (mut some, mut some_bytes) = (vec![last], bytes(last));
        while let Some(next) =
            left.pop_if(|next| some.len() < 1000 && some_bytes + bytes(*next) <= OUTPUT_BYTES_AT_ONCE)
        {
            some.push(next);
            some_bytes += bytes(next);
        }
        let numbers: Vec<i32> = some.iter().map(|task| *task as i32).collect();
        let rows = client.query(OUTPUTS, &[&execution, &numbers])?;
        for number in numbers {
            for row in &rows {
                if row.try_get::<_, i32>(0)? == number && !merged.add_below(row.try_get(1)?) {
                    return Ok(None);
                }
            }
        }
    }
    Ok(merged.add_below(own).then(|| merged.text()))
}
