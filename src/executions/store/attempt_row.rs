//! The statements on the row of one attempt that has not ended.

use super::has_not_ended;

macro_rules! of_running {
    () => {
        concat!(
            " FROM cloacina_attempts AS attempt JOIN cloacina_executions AS execution ON execution.id = attempt.execution
              WHERE attempt.id = $1 AND ",
            has_not_ended!("attempt.ended_at")
        )
    };
}
macro_rules! lock {
    () => {
        concat!(
            "SELECT execution.tenant, execution.workflow, execution.version, execution.status, execution.is_cancelled,
                    execution.created_at, execution.last_event, execution.id, attempt.task",
            of_running!(),
            " FOR UPDATE OF execution"
        )
    };
}
pub const LOCK: &str = lock!();
/// Nothing that a host does for all tenants waits for one execution that another session has locked.
pub const LOCK_NOW: &str = concat!(lock!(), " SKIP LOCKED");
pub const IS_THERE: &str = concat!("SELECT", of_running!());
pub const END_ATTEMPT: &str = concat!(
    "UPDATE cloacina_attempts
     SET ended_at = clock_timestamp(), exit_code = $2, error = $3,
         started_at = COALESCE(started_at, clock_timestamp() - make_interval(secs => $4)),
         log_bytes = GREATEST(log_bytes, $5), log_kept_bytes = CASE WHEN GREATEST(log_bytes, $5) > 0 THEN (
             SELECT COALESCE(sum(octet_length(bytes)), 0)::bigint FROM cloacina_log_pieces WHERE attempt = $1) ELSE 0 END
     WHERE id = $1 AND ",
    has_not_ended!("ended_at"),
    " RETURNING (SELECT started_at IS NOT NULL FROM cloacina_attempts WHERE id = $1)"
);
pub const FORGET_ATTEMPT: &str =
    concat!("DELETE FROM cloacina_attempts WHERE id = $1 AND ", has_not_ended!("ended_at"));
pub const START_ATTEMPT: &str = concat!(
    "UPDATE cloacina_attempts SET started_at = clock_timestamp() - make_interval(secs => $2)
     WHERE id = $1 AND started_at IS NULL AND ",
    has_not_ended!("ended_at")
);

pub const END_VOID: &str = concat!(
    "UPDATE cloacina_attempts SET ended_at = clock_timestamp(), error = 'it counted no more' WHERE id = $1 AND ",
    has_not_ended!("ended_at")
);
