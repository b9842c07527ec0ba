//! What was made before a failover, and waits until all hosts have said what they run.

use std::time::Instant;

use super::{may_run_tasks, timeline};
use crate::store::{Store, StoreError};

/// The queue is looked at only where there is such a host.
const WAITED_FOR: &str = concat!(
    "WITH line AS (SELECT ",
    timeline!(),
    " AS timeline),
          host AS (SELECT count(*) AS count FROM cloacina_hosts CROSS JOIN line
                   WHERE cloacina_hosts.timeline <> line.timeline AND ",
    may_run_tasks!(),
    ")
     SELECT CASE WHEN host.count = 0 THEN 0
                 WHEN EXISTS (SELECT FROM cloacina_queue CROSS JOIN line
                              WHERE due_at IS NULL AND cloacina_queue.timeline <> line.timeline) THEN host.count
                 ELSE 0 END
     FROM host"
);

/// How many hosts have not said since the last failover what they run, where something waits for that.
///
/// # Errors
/// See `StoreError`.
pub fn hosts_waited_for(store: &Store, until: Instant) -> Result<usize, StoreError> {
    let count: i64 = store.read(until, |session| session.query_one(WAITED_FOR, &[])?.try_get(0))?;
    Ok(usize::try_from(count).unwrap_or_default())
}
