//! Workflow packages: what a person with shell scripts uploads, and what it may hold.

pub mod manifest;
pub mod names;
pub mod problem;
