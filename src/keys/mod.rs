//! API keys: how they are made, listed, rotated and revoked.

pub mod bootstrap;
pub mod command;
pub mod expiry;
pub mod handlers;
mod listing;
pub mod preflight;
mod request_body;
pub mod store;

/// What a second rotation of a key is told: it has its one successor, so no client with an old key can make new ones.
const ALREADY_ROTATED: &str = "key was already rotated";
