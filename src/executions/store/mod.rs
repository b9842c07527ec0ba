//! The statements on executions. Whatever changes one does so by `locked`, under the lock of its row.

pub mod attempt_end;
pub mod cancel;
pub mod candidates;
pub mod claim;
mod context;
pub mod counts;
pub mod create;
mod decide;
pub mod events;
pub mod listing;
mod locked;
pub mod log;
mod merge;
mod of_tenant;
pub mod removal;
pub mod retention;
pub mod retry;
mod save;
pub mod show;
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
