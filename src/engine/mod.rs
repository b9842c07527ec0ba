//! What runs tasks. Its core, `graph`, is pure: no clock, no database, no thread. An attempt is two processes below the one
//! that starts it: `supervisor`, and `exec_task`, which becomes the command.

pub mod attempt;
mod attempt_files;
pub mod cgroup;
pub mod environment;
pub mod exec_task;
pub mod graph;
pub mod held_directory;
pub mod log;
pub mod no_core;
pub mod remove_tree;
pub mod retry;
pub mod sandbox;
pub mod supervisor;
pub mod task_user;
