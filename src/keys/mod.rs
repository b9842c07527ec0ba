//! API keys: how they are made, listed, rotated and revoked.

pub mod bootstrap;
pub mod command;
pub mod expiry;
pub mod handlers;
mod listing;
pub mod preflight;
mod request_body;
pub mod store;
pub mod verify;

use uuid::Uuid;

/// What a second rotation of a key is told: it has its one successor, so no client with an old key can make new ones.
const ALREADY_ROTATED: &str = "key was already rotated";

/// An id in its hyphenated form, the only one: one key, one spelling of its path (but for case).
fn parse_id(text: &str) -> Option<Uuid> {
    Some(text).filter(|text| text.len() == 36).and_then(|text| Uuid::try_parse(text).ok())
}
