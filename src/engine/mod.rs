//! What runs tasks. Its core, `graph`, is pure: no clock, no database, no thread. An attempt is two processes below the one
//! that starts it: `supervisor`, and `exec_task`, which becomes the command.

#[expect(dead_code, reason = "no command starts attempts yet")]
pub mod attempt;
pub mod exec_task;
pub mod graph;
pub mod log;
mod remove_tree;
pub mod retry;
#[cfg_attr(test, expect(dead_code, reason = "no command asks whether it holds"))]
pub mod sandbox;
pub mod supervisor;
