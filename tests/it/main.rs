//! Black-box tests: the real program, a real PostgreSQL, port 0. Each test has a database and a home of its own, so that
//! all of them can run at once and in any order.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod scratch;
mod support;

mod adoption;
mod bodies;
mod cli;
mod config;
mod connections;
mod errors;
mod expiry;
mod framing;
mod guide;
mod health;
mod keys;
mod listing;
mod logging;
mod quickstart;
mod readme;
mod revocation;
mod secrets;
mod start;
