//! What starts tasks on this host, follows them, and writes down what comes of them. One thread, `scheduler`, does it: it
//! waits for the end of an attempt, for news of executions, or for the next look, and then records, claims and starts.

pub mod attempts;
pub mod host;
mod running;
mod store;
mod turn;

pub use running::{TaskSettings, watch};
