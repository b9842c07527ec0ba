//! Workflow packages: what a person with shell scripts uploads, and what it may hold.

mod answer;
pub mod archive;
pub mod handlers;
pub mod manifest;
mod multipart;
pub mod names;
pub mod package;
pub mod problem;
pub mod store;
pub mod upload;
