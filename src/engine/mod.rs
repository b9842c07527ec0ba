//! What runs tasks. Its core, `graph`, is pure: no clock, no database, no thread.

pub mod graph;
pub mod retry;
