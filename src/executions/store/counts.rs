//! What is counted for the metrics: of large tables only what indexes tell, and no more rows than a bound.

use std::time::Instant;

use crate::metrics::TaskCounts;
use crate::store::{Store, StoreError};

/// Beyond this many rows a figure does not grow.
const MOST_ROWS: i64 = 1_000_000;

const EXECUTIONS: &str = "
    SELECT count(*) FILTER (WHERE status = 'Pending'), count(*) FILTER (WHERE status = 'Running')
    FROM (SELECT status FROM cloacina_executions WHERE status IN ('Pending', 'Running') LIMIT $1) AS counted";
const QUEUE: &str = "
    SELECT count(*), count(*) FILTER (WHERE NOT is_start),
           coalesce(greatest(extract(epoch FROM clock_timestamp() - min(greatest(ready_at, due_at))), 0), 0)::float8
    FROM (SELECT is_start, ready_at, due_at FROM cloacina_queue
          WHERE due_at IS NULL OR due_at <= clock_timestamp() LIMIT $1) AS counted";
const RUNNING: &str = "
    SELECT count(*), pg_total_relation_size('cloacina_log_pieces')
    FROM (SELECT FROM cloacina_attempts WHERE ended_at IS NULL LIMIT $1) AS counted";

/// Counts what has not ended.
///
/// # Errors
/// See `StoreError`.
pub fn count(store: &Store, until: Instant) -> Result<TaskCounts, StoreError> {
    store.read(until, |session| {
        let executions = session.query_one(EXECUTIONS, &[&MOST_ROWS])?;
        let queue = session.query_one(QUEUE, &[&MOST_ROWS])?;
        let running = session.query_one(RUNNING, &[&MOST_ROWS])?;
        Ok(TaskCounts {
            executions_pending: executions.try_get(0)?,
            executions_running: executions.try_get(1)?,
            queue_length: queue.try_get(0)?,
            tasks_ready: queue.try_get(1)?,
            queue_oldest_seconds: queue.try_get(2)?,
            tasks_running: running.try_get(0)?,
            log_bytes: running.try_get(1)?,
        })
    })
}
