//! The statements on executions.

pub mod cancel;
pub mod counts;
pub mod create;
pub mod events;
pub mod listing;
pub mod log;
pub mod merge;
pub mod removal;
pub mod retry;
pub mod show;
pub mod waiting;
