//! What runs tasks: what one may reach, what it is started with, how it ends, and what it leaves behind.

mod attempt;
mod exec_task;
mod sandbox;
mod sandbox_programs;
mod supervisor;
mod supervisor_closed;
mod supervisor_log;
mod supervisor_processes;
mod supervisor_signals;
mod supervisor_speed;
pub mod task;
