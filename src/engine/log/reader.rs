//! Reading a log by offset in what the task printed, also while it prints.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::{name_of, offset_of};

/// A fast task may remove a file between two looks, but not every time.
const MOST_LOOKS: usize = 16;

/// A piece of a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// What was printed and is not there any more, before `bytes`.
    pub missing: u64,
    /// None at the end of what there is so far.
    pub bytes: Vec<u8>,
    /// What to ask for next.
    pub next: u64,
}

/// What was printed from the offset `after` on, at most so many bytes.
///
/// # Errors
/// The directory or a file of the log cannot be read.
pub fn read(directory: &Path, after: u64, most_bytes: usize) -> io::Result<Piece> {
    for _ in 0..MOST_LOOKS {
        let starts = starts(directory)?;
        let later = starts.partition_point(|start| *start <= after);
        // Where a later file is listed, an earlier one does not grow any more: what it does not hold is missing.
        let around = [later.checked_sub(1), Some(later)];
        let mut is_listed_anew = false;
        for start in around.into_iter().flatten().filter_map(|at| starts.get(at)) {
            let from = after.max(*start);
            match read_file(&directory.join(name_of(*start)), from - start, most_bytes) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    is_listed_anew = true;
                    break;
                }
                Ok(bytes) if bytes.is_empty() => {}
                bytes => {
                    let bytes = bytes?;
                    return Ok(Piece { missing: from - after, next: from + bytes.len() as u64, bytes });
                }
            }
        }
        if !is_listed_anew {
            break;
        }
    }
    Ok(Piece { next: after, ..Piece::default() })
}

/// Where the files of the log begin, in order.
fn starts(directory: &Path) -> io::Result<Vec<u64>> {
    let mut starts = Vec::new();
    for entry in fs::read_dir(directory)? {
        starts.extend(entry?.file_name().to_str().and_then(offset_of));
    }
    starts.sort_unstable();
    Ok(starts)
}

fn read_file(path: &Path, at: u64, most_bytes: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let left = file.metadata()?.len().saturating_sub(at);
    let mut bytes = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(most_bytes)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) => break,
            read => filled += read?,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
