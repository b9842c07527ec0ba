//! What runs tasks: what one may reach, and what it is started with.

mod exec_task;
mod sandbox;
mod sandbox_programs;
mod task;
