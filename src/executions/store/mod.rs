//! The statements on executions. Whatever changes one does so by `locked`, under the lock of its row.

pub mod attempt_end;
mod attempt_row;
pub mod cancel;
pub mod candidates;
pub mod claim;
pub mod claim_next;
mod context;
pub mod counts;
pub mod create;
mod decide;
pub mod earlier_timeline;
pub mod events;
pub mod listing;
mod locked;
pub mod log;
pub mod log_copy;
mod merge;
mod of_tenant;
mod output;
pub mod queue;
pub mod removal;
pub mod retention;
pub mod retry;
mod save;
pub mod show;
mod task_end;
pub mod tenant_counts;
mod unread;
pub mod waiting;

/// The timeline of the database, which a failover changes.
macro_rules! timeline {
    () => {
        "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint"
    };
}
pub(crate) use timeline;

/// Of a row of `cloacina_hosts`: it may start tasks, or runs some that it started while it had slots.
macro_rules! may_run_tasks {
    () => {
        "cloacina_hosts.forgotten_at IS NULL AND (cloacina_hosts.slots > 0 OR EXISTS (
             SELECT FROM cloacina_attempts WHERE host = cloacina_hosts.id AND ended_at IS NULL))"
    };
}
pub(crate) use may_run_tasks;

/// Of a row of `cloacina_attempts` that is found by its id. An index of those that have not ended is small, which makes the
/// planner take it instead; beside a transaction that stays open it is as long as the history since then.
macro_rules! has_not_ended {
    ($ended_at:literal) => {
        concat!("COALESCE(", $ended_at, ", 'infinity') = 'infinity'")
    };
}
pub(crate) use has_not_ended;
