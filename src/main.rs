//! cloacinactl: parse, dispatch, exit code.

mod config;
mod failure;
mod http;
mod keys;
mod metrics;

fn main() {}
