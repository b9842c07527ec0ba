//! Workflow packages: what a person with shell scripts uploads, and what it may hold.

pub mod archive;
pub mod manifest;
pub mod names;
pub mod package;
pub mod problem;
