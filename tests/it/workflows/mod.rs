//! Workflows: packages that are uploaded, listed, downloaded, deleted, paused and resumed.

mod forms;
mod large;
mod limits;
mod listing;
mod lost;
pub mod upload;
