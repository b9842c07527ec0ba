//! The log of an attempt on disk: its beginning in `log`, what came last in `log.N`, N being the offset of its first byte
//! in what the task printed. Files only grow, so they can be read while a task prints.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{Piece, read};
pub use writer::LogWriter;

/// Of the first file.
const HEAD_NAME: &str = "log";

/// The name of the file that begins at this offset.
fn name_of(start: u64) -> String {
    if start == 0 { HEAD_NAME.to_owned() } else { format!("{HEAD_NAME}.{start}") }
}

/// Where the file of this name begins, if it is one of a log.
fn offset_of(name: &str) -> Option<u64> {
    if name == HEAD_NAME { Some(0) } else { name.strip_prefix(HEAD_NAME)?.strip_prefix('.')?.parse().ok() }
}
