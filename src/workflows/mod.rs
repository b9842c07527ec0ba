//! Workflow packages: what a person with shell scripts uploads, and what it may hold.

mod answer;
pub mod archive;
mod check;
pub mod command;
pub mod handlers;
mod local_run;
pub mod manifest;
pub mod manifest_cache;
mod multipart;
pub mod names;
mod package;
pub mod problem;
pub mod store;
pub mod upload;
