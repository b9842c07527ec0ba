//! Random numbers from the system.

use std::io;

use uuid::Uuid;

/// A UUID of version 4.
///
/// # Errors
/// The system has no random bytes.
pub fn uuid() -> io::Result<Uuid> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}
