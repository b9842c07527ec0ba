//! The statements on executions.

pub mod cancel;
pub mod create;
pub mod retry;
