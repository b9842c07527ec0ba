//! Drives the real program.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cli;
mod config;
mod logging;
mod scratch;
