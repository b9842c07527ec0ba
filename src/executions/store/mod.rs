//! The statements on executions.

pub mod cancel;
pub mod counts;
pub mod create;
pub mod retry;
