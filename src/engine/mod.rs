//! What runs tasks. Its core, `graph`, is pure: no clock, no database, no thread.

#[cfg_attr(test, expect(dead_code, unused_imports, reason = "no supervisor starts one yet"))]
pub mod exec_task;
pub mod graph;
pub mod retry;
#[cfg_attr(test, expect(dead_code, reason = "no command asks whether it holds"))]
pub mod sandbox;
