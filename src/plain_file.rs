//! Reading files that people name or put into the home directory: whole, and without ever waiting or filling the memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// What a plain file of at most so many bytes holds.
///
/// # Errors
/// It cannot be read, is a pipe, a device or a directory, or is longer.
pub fn read(path: &Path, most_bytes: u64) -> io::Result<Vec<u8>> {
    // Looked at first: opening a pipe would wait for its writer, and opening a device may do something.
    match fs::metadata(path)? {
        found if found.is_file() => {}
        found if found.is_dir() => return Err(io::Error::from(io::ErrorKind::IsADirectory)),
        _ => return Err(io::Error::other("it is not a plain file")),
    }
    // And not waited for either when a pipe takes the file's place right now.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    read_from(file, most_bytes)
}

/// What is left to read in an open file, whatever kind it is.
///
/// # Errors
/// It cannot be read, or has more bytes than these.
pub fn read_from(file: File, most_bytes: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata().map_or(0, |found| found.len().min(most_bytes));
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
    file.take(most_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most_bytes {
        return Err(io::Error::other(format!("it is longer than {} KiB", most_bytes / 1024)));
    }
    Ok(bytes)
}
