//! How a SHA-256 is written: in lower-case hex.

/// The digits of a hash.
pub fn hex(hash: impl AsRef<[u8]>) -> String {
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
